"""CalibratedWrapper: a model wrapper that knows the real data; and the real steps that it is calibrated on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic

import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import Prediction, State, WorldModel
from mbrl_gym.spaces import Observation
from mbrl_gym.wrappers.model_wrapper import ModelWrapper

WINDOWS = 1024  # how many windows are predicted from at a time


class CalibratedWrapper(ModelWrapper[State]):
    """A wrapper with buffers (thresholds, scales) that `calibrate` adapts to the data at the end of each fit.

    Until then they are as the constructor made them: without effect. Checkpoints, copies, device moves and `frozen`
    keep them; a `twin` begins without.

    Attributes:
        changes_reward: whether a wrapper around this one that replaces the reward would undo it.
        changes_termination: the same of one that replaces the end of episodes.
    """

    changes_reward: ClassVar[bool] = False
    changes_termination: ClassVar[bool] = False

    def change(self, state: State, action: Tensor, after: State, prediction: Prediction) -> Prediction:
        """Return the prediction as it is."""
        return prediction

    def frozen(self) -> "ModelWrapper[State]":
        """Return the wrapper around the frozen inner model, with the same thresholds and scales."""
        frozen = self.around(self.inner.frozen())
        for name, buffer in self.named_buffers(recurse=False):
            getattr(frozen, name).copy_(buffer)
        return frozen

    def add_buffer(self, name: str, size: tuple[int, ...], value: float) -> None:
        """Register a buffer full of ``value`` on the inner model's device."""
        # register_buffer() would refuse a name that an equal wrapper further in has too.
        self._buffers[name] = torch.full(size, value, device=self.inner.device)


def layers(model: WorldModel[Any]) -> Iterator[WorldModel[Any]]:
    """Yield a model and all those in it, the outermost first."""
    yield model
    while isinstance(model, ModelWrapper):
        model = model.inner
        yield model


def check_kept(wrapper: type, inner: WorldModel[Any], what: str) -> None:
    """Raise ValueError where a wrapper that replaces ``what`` ("reward" or "termination") would undo one inside."""
    name = wrapper.__name__
    for layer in layers(inner):
        if getattr(type(layer), f"changes_{what}", False):
            kind = type(layer).__name__
            raise ValueError(
                f"inner must not have a {kind} in it, whose {what} {name} would replace: wrap the other way round, "
                f"{kind}({name}(model, ...), ...)"
            )


@dataclass(frozen=True)
class RealSteps(Generic[State]):
    """N real transitions.

    Attributes:
        state: the belief before [N].
        action: [N, A] encoded.
        next_obs: [N, *obs] raw, or a dictionary of such.
        reward: [N], what arrived with ``next_obs``.
    """

    state: State
    action: Tensor
    next_obs: Observation
    reward: Tensor


def real_steps(model: WorldModel[State], data: SequenceBatch) -> Iterator[RealSteps[State]]:
    """Yield the transitions of the windows ``data`` [W, T] with ``model``'s beliefs, some at a time.

    A belief is filtered from its window's beginning, and counts once the window is as long as the model's context.
    """
    generator = torch.Generator(device=data.reward.device).manual_seed(0)  # of hypotheses, which no caller reads
    for begin in range(0, data.batch_size, WINDOWS):
        part = data[begin : begin + WINDOWS]
        state = model.initial(part.batch_size)
        for t in range(part.length - 1):
            is_first = part.is_first[:, t] | (t == 0)
            state = model.observe(state, part.action[:, max(t - 1, 0)], _at(part.obs, t), is_first, generator)
            rows = (~part.is_first[:, t + 1]).nonzero()[:, 0]  # a window may cross into the next episode
            if t >= min(model.context - 1, part.length - 2) and len(rows):
                after = _at(part.obs, t + 1)
                next_obs = {k: v[rows] for k, v in after.items()} if isinstance(after, dict) else after[rows]
                yield RealSteps(state[rows], part.action[rows, t], next_obs, part.reward[rows, t + 1])


def quantile(x: Tensor, q: float) -> Tensor:
    """Return [...], the ``q``-quantile along the first axis of ``x`` [N, ...], linear between neighbours.

    ``torch.quantile`` refuses more than 16 million numbers.

    Raises:
        ValueError: there is no row.
    """
    if len(x) == 0:
        raise ValueError("data must hold at least one transition to calibrate on, got none; collect more steps first")
    ordered = x.sort(0).values
    at = q * (len(x) - 1)
    below = int(at)
    return torch.lerp(ordered[below], ordered[min(below + 1, len(x) - 1)], at - below)


def check_at_least(name: str, value: Any, least: float, most: float = float("inf"), above: bool = False) -> None:
    """Raise ValueError unless ``value`` is a finite number in [least, most], or in (least, most] if ``above``."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (least < value if above else least <= value) or not value <= most or value == float("inf"):
        bound = "finite" if most == float("inf") else f"at most {most:g}"
        raise ValueError(f"{name} must be {'above' if above else 'at least'} {least:g} and {bound}, got {value!r}")


def _at(obs: Observation, t: int) -> Observation:
    return {key: value[:, t] for key, value in obs.items()} if isinstance(obs, dict) else obs[:, t]
