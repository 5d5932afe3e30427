"""KnownReward and KnownTermination: what is known about a task need not be learned."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mbrl_gym.model import Prediction, State, WorldModel
from mbrl_gym.tasks import TaskFunction, known_reward, known_termination
from mbrl_gym.wrappers.calibrated import check_kept
from mbrl_gym.wrappers.model_wrapper import ModelWrapper


class KnownReward(ModelWrapper[State]):
    """A model whose reward is a known function of (observation, action, next observation).

    ``info["learned_reward"]`` is what the inner model says. Source: Chua et al. 2018 (PETS) plan with known rewards.

    Args:
        inner: the model to wrap.
        reward: a name of `mbrl_gym.tasks.known_reward` ("Pendulum-v1", ...), or a function of raw observations
            [B, *obs], environment actions [B, *act] and next observations, all torch tensors, that returns [B].

    Raises:
        ValueError: there is no known reward of this name, or a wrapper inside changes rewards, which would be undone.
    """

    def __init__(self, inner: WorldModel[State], reward: str | TaskFunction) -> None:
        check_kept(KnownReward, inner, "reward")
        super().__init__(inner)
        self.reward = reward
        self._function = known_reward(reward) if isinstance(reward, str) else reward

    def around(self, inner: WorldModel[State]) -> "KnownReward[State]":
        """Return a model with the same reward."""
        return KnownReward(inner, self.reward)

    def arguments(self) -> dict[str, Any]:
        """Return the reward's name."""
        return {"reward": _name("reward", self.reward)}

    def change(self, state: State, action: Tensor, after: State, prediction: Prediction) -> Prediction:
        """Return the prediction with the known reward; zero, and no end, where the row diverged."""
        value = self._function(*_transition(self, state, action, after)).to(prediction.reward.dtype)
        _check_shape("reward", value, prediction.reward)
        broken = ~torch.isfinite(value)
        reward = torch.where(_diverged(prediction) | broken, 0.0, value)
        info = {**prediction.info, "learned_reward": prediction.reward}
        info["diverged"] = prediction.info.get("diverged", torch.zeros_like(broken)) | broken
        return replace(
            prediction,
            reward=reward,
            terminated=prediction.terminated & ~broken,
            truncated=prediction.truncated | broken,
            continuation=torch.where(broken, 1.0, prediction.continuation),
            info=info,
        )


class KnownTermination(ModelWrapper[State]):
    """A model whose episodes end where a known function of (observation, action, next observation) says so.

    Args:
        inner: the model to wrap. An `Ensemble` should have ``learn_termination=False`` in its configuration, so that it
            spends nothing on what is known.
        termination: a name of `mbrl_gym.tasks.known_termination`, or a function as for `KnownReward`, that returns
            [B] bool.

    Raises:
        ValueError: there is no known termination of this name, or a wrapper inside ends episodes.
    """

    def __init__(self, inner: WorldModel[State], termination: str | TaskFunction) -> None:
        check_kept(KnownTermination, inner, "termination")
        super().__init__(inner)
        self.termination = termination
        self._function = known_termination(termination) if isinstance(termination, str) else termination

    def around(self, inner: WorldModel[State]) -> "KnownTermination[State]":
        """Return a model with the same termination."""
        return KnownTermination(inner, self.termination)

    def arguments(self) -> dict[str, Any]:
        """Return the termination's name."""
        return {"termination": _name("termination", self.termination)}

    def change(self, state: State, action: Tensor, after: State, prediction: Prediction) -> Prediction:
        """Return the prediction with the known end; never terminal where the row diverged."""
        ended = self._function(*_transition(self, state, action, after))
        _check_shape("termination", ended, prediction.terminated)
        ended = ended.bool() & ~_diverged(prediction)
        return replace(prediction, terminated=ended, continuation=1.0 - ended.float())


def _diverged(prediction: Prediction) -> Tensor:
    """Return [B]: the rows whose next observation is none, unlike those that a wrapper cuts."""
    return prediction.info.get("diverged", prediction.truncated)


def _name(kind: str, value: str | TaskFunction) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(
        f"{kind} must be a name to be stored, got the function {value!r}; "
        f"give it one with mbrl_gym.tasks.register_{kind}(name, function)"
    )


def _transition(model: ModelWrapper[Any], state: Any, action: Tensor, after: Any) -> tuple[Any, Tensor, Any]:
    """Return (raw observations, environment actions, next raw observations), each [B, ...] or dictionaries of such."""
    inner = model.inner
    return inner.decode(state), inner.action_codec.decode(action), inner.decode(after)


def _check_shape(name: str, value: Tensor, like: Tensor) -> None:
    if value.shape != like.shape:
        raise ValueError(f"{name} must return one value a row, {tuple(like.shape)}, got {tuple(value.shape)}")
