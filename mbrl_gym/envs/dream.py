"""Dream: imagined episodes in tensors, the core that the Gymnasium shells stand on."""

from dataclasses import replace
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_gym.envs.view import Decoded, View
from mbrl_gym.model import Prediction, WorldModel
from mbrl_gym.spaces import Observation
from mbrl_gym.start_states import StartStates
from mbrl_gym.tensors import TensorStruct

# Beyond this the square of a number nears float32's end, in whatever network or normaliser reads it.
LIMIT = 1e15


class Dream:
    """``num_envs`` imagined episodes that advance together; rows are restarted one by one from ``starts``.

    Args:
        model: the world model; it is not trained here.
        starts: contexts [N, C, ...] that episodes begin from.
        num_envs: B.
        horizon: imagined steps until an episode is truncated.
        view: what is shown of beliefs; None: what the model decodes.

    Attributes:
        sample: whether steps are drawn from what the model predicts, which is the default, or are its mean.

    Raises:
        ValueError: ``starts`` is empty or its contexts are too short for the model, a number is below 1, or the view
            does not fit the model.
    """

    def __init__(
        self, model: WorldModel[Any], starts: StartStates, num_envs: int, horizon: int, view: View | None = None
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.model = model
        self._view: View = view or Decoded()
        self.observation_space = self._view.space(model)
        self.set_starts(starts)
        self.num_envs = num_envs
        self.horizon = horizon
        self.generator = torch.Generator(device=model.device)
        self.state: Any = None
        self.sample = True
        self.steps = torch.zeros(num_envs, dtype=torch.int64, device=model.device)

    @property
    def horizon(self) -> int:
        """Imagined steps until an episode is truncated; assign to change it from the next step on."""
        return self._horizon

    @horizon.setter
    def horizon(self, value: int) -> None:
        if value < 1:
            raise ValueError(f"horizon must be at least 1 imagined step, got {value}")
        self._horizon = int(value)

    def set_starts(self, starts: StartStates) -> None:
        """Let the episodes from now on begin from ``starts``.

        Raises:
            ValueError: it is empty, not of the model's spaces, or its contexts are too short for the model.
        """
        if len(starts) == 0:
            raise ValueError("starts must hold at least one start state, got none; collect an episode first")
        if starts.context < self.model.context:
            raise ValueError(
                f"starts must hold contexts of {self.model.context} real steps for this model, got {starts.context}; "
                f"make them with replay.starts(context={self.model.context})"
            )
        _check_shapes(self.model, starts)
        self.starts = starts.to(self.model.device)

    @torch.inference_mode()
    def reset(self, starts: StartStates | None = None) -> Observation:
        """Restart all rows, from ``starts`` [B, C, ...] or from drawn ones; return their observations [B, *obs]."""
        self.state = self._begin(self.num_envs, starts)
        self.steps = torch.zeros_like(self.steps)
        return self.show()

    @torch.inference_mode()
    def reset_rows(self, index: Tensor, starts: StartStates | None = None) -> Observation:
        """Restart the rows ``index`` [K], from ``starts`` [K, C, ...] or drawn ones; return all rows [B, *obs]."""
        self.state = self.state.set(index, self._begin(len(index), starts))
        self.steps = self.steps.index_fill(0, index, 0)
        return self.show()

    @torch.inference_mode()
    def step(self, action: Tensor) -> tuple[Observation, Prediction]:
        """Advance all rows by encoded actions [B, A]; return observations [B, *obs] and what came with them.

        ``Prediction.truncated`` includes the horizon. A row with a number that is not finite or is beyond `LIMIT`,
        whatever the model, keeps its old belief and ends as truncated with ``info["diverged"]``.
        """
        before = self.state
        state, prediction = self.model.predict(before, action, self.generator, self.sample)
        obs = self._view(self.model, state)
        if not _sound(state, obs, prediction):
            bad = _broken_rows(state, obs, prediction)
            state = before.where(bad, state)
            obs = self._view(self.model, state)
            prediction = _without(prediction, bad)
        self.state = state
        self.steps = self.steps + 1
        truncated = prediction.truncated | (self.steps >= self.horizon)
        return obs, replace(prediction, truncated=truncated)

    def show(self) -> Observation:
        """Return the observations [B, *obs] of the beliefs as they are."""
        return self._view(self.model, self.state)

    def _begin(self, n: int, starts: StartStates | None) -> TensorStruct:
        chosen = self.starts.sample(n, self.generator) if starts is None else starts.to(self.model.device)
        extra = chosen.context - self.model.context  # only the last steps of a longer context are needed
        if extra:
            chosen = chosen.map(lambda x: x[:, extra:])
        belief: TensorStruct = self.model.believe(chosen.obs, chosen.action, self.generator)
        return belief


def _check_shapes(model: WorldModel[Any], starts: StartStates) -> None:
    space = model.observation_space
    wanted = {key: leaf.shape for key, leaf in space.spaces.items()} if isinstance(space, spaces.Dict) else space.shape
    got = _row_shapes(starts.obs)
    if got != wanted:
        raise ValueError(f"starts must hold observations of the shape {wanted} of {space}, got {got}")
    if starts.action.shape[2] != model.action_codec.size:
        raise ValueError(f"starts must hold {model.action_codec.size} numbers an action, got {starts.action.shape[2]}")


def _row_shapes(obs: Observation) -> Any:
    return {key: tuple(x.shape[2:]) for key, x in obs.items()} if isinstance(obs, dict) else tuple(obs.shape[2:])


def _sound(state: TensorStruct, obs: Observation, prediction: Prediction) -> bool:
    """Return whether no number at all is near `_broken_rows`' limits: one question for the device, as it is a yes."""
    out = [*(obs.values() if isinstance(obs, dict) else [obs]), prediction.reward, prediction.uncertainty]
    numbers = torch.cat([x.flatten() for x in [*state.tensors(), *out] if x.is_floating_point()])
    return bool(numbers.abs().amax() <= LIMIT)  # NaN is passed on, and compares false


def _broken_rows(state: TensorStruct, obs: Observation, prediction: Prediction) -> Tensor:
    """Return [B] bool: a number of the belief is not finite, or one that the caller gets is not within `LIMIT`."""
    out = [*(obs.values() if isinstance(obs, dict) else [obs]), prediction.reward, prediction.uncertainty]
    # NaN compares false, so that it counts as broken.
    sound = [x.abs() <= LIMIT for x in out if x.is_floating_point()]
    sound += [torch.isfinite(x) for x in state.tensors() if x.is_floating_point()]
    return ~torch.stack([x.flatten(1).all(1) if x.dim() > 1 else x for x in sound]).all(0)


def _without(prediction: Prediction, bad: Tensor) -> Prediction:
    """Return the prediction with the rows ``bad`` [B] made harmless and flagged."""
    harmless = prediction.map(lambda x: torch.where(_like(bad, x), torch.zeros_like(x), x))
    flagged = prediction.info.get("diverged", torch.zeros_like(bad)) | bad
    return replace(
        harmless,
        truncated=prediction.truncated | bad,
        continuation=torch.where(bad, 1.0, prediction.continuation),
        info={**harmless.info, "diverged": flagged},
    )


def _like(mask: Tensor, x: Tensor) -> Tensor:
    return mask.reshape(mask.shape + (1,) * (x.dim() - mask.dim()))
