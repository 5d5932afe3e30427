"""Planner: chooses an action by imagining what comes of many; `Plan`, its answer; and the checks of their configs.

Shapes: B environments, N candidates, P particles, H horizon, A encoded action.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from mbrl_gym.model import State, WorldModel, trajectory_return
from mbrl_gym.planners.sequences import Sequences, sequences_for
from mbrl_gym.spaces import ActionCodec
from mbrl_gym.tensors import TensorStruct

Carry = TypeVar("Carry", bound=TensorStruct)


@dataclass(frozen=True)
class Plan(TensorStruct, Generic[Carry]):
    """What a planner decided.

    Attributes:
        action: [B, A] encoded, what to do now.
        carry: the planner's memory [B] for the next call.
        value: [B] predicted return of the best candidate of the last iteration; -inf where none was finite.
        non_finite: [B] int64, candidates over all iterations whose return was not finite.
    """

    action: Tensor
    carry: Carry
    value: Tensor
    non_finite: Tensor


class Planner(ABC, Generic[Carry]):
    """Plans in a world model, from beliefs [B] at once. Nothing of a planner changes after its construction.

    All memory between calls is the carry, a struct of tensors with the leading axis [B]. At an episode's start a row
    has to be that of `initial`: ``carry = carry.where(~is_first, planner.initial(batch_size))``. Rows do not influence
    each other, but for the stream of random numbers that they share. A return that is not finite always loses.

    Attributes:
        action_codec: the model's.
        sequences: the family of distributions that suits the action space.
        differentiates: whether planning takes gradients of the model.
        config: the hyperparameters, a frozen dataclass of JSON values.
        terminal_value: beliefs [B] -> [B], what a rollout that is still alive at the horizon is worth there.

    Raises:
        ValueError: ``config`` is of another planner, or the action space is one that this planner cannot search.
    """

    config_class: ClassVar[type]
    continuous_only: ClassVar[bool] = False
    differentiates: ClassVar[bool] = False
    config: Any

    def __init__(
        self,
        action_codec: ActionCodec,
        config: Any = None,
        terminal_value: Callable[[Any], Tensor] | None = None,
    ) -> None:
        config = self.config_class() if config is None else config
        if not isinstance(config, self.config_class):
            raise ValueError(f"config must be a {self.config_class.__name__} for {type(self).__name__}, got {config!r}")
        if self.continuous_only and not action_codec.continuous:
            raise ValueError(
                f"action_space must be a Box for {type(self).__name__}, got {action_codec.space}; "
                "use CEM, which plans in discrete spaces too"
            )
        self.action_codec = action_codec
        self.config = config
        self.sequences = self._sequences(action_codec)
        self.terminal_value = terminal_value

    def _sequences(self, codec: ActionCodec) -> Sequences:
        """Return what candidates are drawn from."""
        return sequences_for(codec)

    @property
    @abstractmethod
    def imagined_steps(self) -> int:
        """Steps of the model that one plan of one environment takes."""

    @abstractmethod
    def initial(self, batch_size: int, device: torch.device | str | None = None) -> Carry:
        """Return the memory [B] of fresh episodes."""

    @abstractmethod
    def plan(
        self,
        model: WorldModel[State],
        state: State,
        carry: Carry,
        generator: torch.Generator | None = None,
    ) -> Plan[Carry]:
        """Return what to do in the beliefs ``state`` [B].

        Args:
            model: where to imagine.
            state: beliefs [B]; their device is where everything is computed.
            carry: memory [B], from `initial` or from the plan before.
            generator: source of all randomness, on the device of ``state``; None: torch's global one.

        Raises:
            ValueError: ``carry`` has not the batch, the horizon or the actions that belong to this call.
        """

    def returns(
        self, model: WorldModel[State], state: State, candidates: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Return [B, N]: the predicted returns of ``candidates`` [B, N, H, A], whatever they are."""
        batch, number = candidates.shape[:2]
        start = state.repeat(number) if number > 1 else state
        returns = trajectory_return(
            model,
            start,
            candidates.flatten(0, 1),  # [B * N, H, A]
            self.config.particles,
            generator,
            self.config.discount,
            terminal_value=self.terminal_value,
        )
        return returns.reshape(batch, number)

    def evaluate(
        self, model: WorldModel[State], state: State, candidates: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return the returns [B, N], -inf where they are not finite, and how many [B] int64 are not."""
        return only_finite(self.returns(model, state, candidates, generator))

    def _check_sequences(self, name: str, sequences: Tensor, state: TensorStruct) -> None:
        """Raise unless the carry's ``sequences`` are [B, H, A]."""
        wanted = (state.batch_size, self.config.horizon, self.action_codec.size)
        if tuple(sequences.shape) != wanted:
            raise ValueError(
                f"carry.{name} must be [B, H, A] = {wanted}, got {tuple(sequences.shape)}; "
                "begin with the carry of initial(batch_size)"
            )


def only_finite(returns: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``returns`` [B, N] with -inf in place of NaN and infinities, and how many [B] int64 that were.

    ``torch.topk`` and ``argmax`` rank NaN highest, and any finite replacement can win among negative returns.
    """
    finite = returns.isfinite()
    return torch.where(finite, returns, -torch.inf), (~finite).sum(dim=1)


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise ValueError unless the hyperparameter ``name`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_range(name: str, value: float, low: float, high: float, open_low: bool = False) -> None:
    """Raise ValueError unless the hyperparameter ``name`` lies in [low, high], or in (low, high]."""
    inside = low < value <= high if open_low else low <= value <= high
    if not inside or value in (float("inf"), float("-inf")):
        above = f"above {low:g}" if open_low else f"at least {low:g}"
        below = "finite" if high == float("inf") else f"at most {high:g}"
        raise ValueError(f"{name} must be {above} and {below}, got {value!r}")


def check_rollouts(horizon: int, particles: int, discount: float) -> None:
    """Raise ValueError unless the hyperparameters that all planners share are in their ranges."""
    check_count("horizon", horizon)
    check_count("particles", particles)
    check_range("discount", discount, 0.0, 1.0, open_low=True)
