"""WorldModel: functions over an explicit state; and what is built on them, `imagine` and `trajectory_return`.

One legend of shapes: B batch, T time, H horizon, E members, N candidates, P particles, A encoded action, F features.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import torch
from gymnasium import spaces
from torch import Tensor, nn

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.spaces import ActionCodec, Observation
from mbrl_gym.tensors import TensorStruct, stack

State = TypeVar("State", bound=TensorStruct)


@dataclass(frozen=True)
class Prediction(TensorStruct):
    """What one imagined step brings, beside the next state.

    Attributes:
        reward: [B] float32.
        terminated: [B] bool, the model says that the episode ended.
        truncated: [B] bool, the dream cannot go on: the row diverged, or a wrapper halted it. Never a time limit.
        continuation: [B] float32 in [0, 1], one minus the probability of termination, differentiable.
        uncertainty: [B] float32 >= 0, epistemic; zeros where it was declined.
        info: named [B] tensors (probabilities, flags, raw rewards, ...).
    """

    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    continuation: Tensor
    uncertainty: Tensor
    info: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelLoss(Generic[State]):
    """The training loss of one batch.

    Attributes:
        total: scalar to differentiate.
        terms: detached scalars by name, for the log.
        states: the beliefs [B, T] that the model filtered on the way, or None where it keeps none.
    """

    total: Tensor
    terms: dict[str, Tensor]
    states: State | None = None


class WorldModel(nn.Module, ABC, Generic[State]):
    """A learned model of an environment: functions over an explicit, immutable state.

    The state is a `TensorStruct` with the leading axis [B]. No method changes a state in place or keeps one in the
    module, so that a belief can be branched, stored, compared and differentiated through. All randomness comes from the
    generator that is passed in (or torch's global one). Every value that `predict` returns is finite; a row that would
    not be ends as ``truncated`` with ``info["diverged"]``. `mbrl_gym.check_world_model` tests all of this.

    Attributes:
        observation_space: the real environment's.
        action_space: the real environment's.
        action_codec: translates actions to [B, A].
        config: the hyperparameters, a frozen dataclass of JSON values.
        context: real steps needed to form a belief (1 unless observations hide something).
        members: E, the number of ensemble members that are trained and selected separately (1 for a single network).
    """

    config_class: ClassVar[type]
    context: int = 1
    members: int = 1

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], config: Any) -> None:
        super().__init__()
        self.observation_space = observation_space
        self.action_space = action_space
        self.action_codec = ActionCodec(action_space)
        self.config = config

    @property
    def device(self) -> torch.device:
        """The device of the parameters, of the buffers where there are none."""
        found = next(itertools.chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if found is None else found.device

    @property
    def hypotheses(self) -> int:
        """K, how many hypotheses about the dynamics predictions are made of; particles are shared out among them."""
        return 1

    @abstractmethod
    def initial(self, batch_size: int) -> State:
        """Return a blank belief [B]."""

    @abstractmethod
    def observe(
        self,
        state: State,
        action: Tensor,
        obs: Observation,
        is_first: Tensor,
        generator: torch.Generator | None = None,
    ) -> State:
        """Return the belief after ONE REAL step.

        Args:
            state: the belief before [B].
            action: [B, A] the encoded action that led here; ignored where ``is_first``.
            obs: [B, *obs] raw observation (or a dictionary of such).
            is_first: [B] bool, true where the observation begins an episode.
            generator: source of randomness.
        """

    @abstractmethod
    def predict(
        self,
        state: State,
        action: Tensor,
        generator: torch.Generator | None = None,
        sample: bool = True,
        uncertainty: bool = True,
    ) -> tuple[State, Prediction]:
        """Return the belief after ONE IMAGINED step, and what came with it.

        Args:
            state: the belief before [B].
            action: [B, A] encoded.
            generator: source of randomness.
            sample: draw from the predicted distribution; False: its mean, for which no randomness is used.
            uncertainty: False lets the model skip what only ``Prediction.uncertainty`` needs.
        """

    @abstractmethod
    def features(self, state: State) -> Tensor:
        """Return [B, F], what actors and critics read."""

    @abstractmethod
    def decode(self, state: State) -> Observation:
        """Return the observation [B, *obs] in the space's dtype and inside the space (or a dictionary of such)."""

    @abstractmethod
    def loss(self, batch: SequenceBatch, start: State | None = None) -> ModelLoss[State]:
        """Return the loss of a batch of windows [B, T], filtered from ``start`` [B] (a blank belief by default)."""

    def branch(self, state: State, n: int) -> State:
        """Return [B * n]: n hypotheses of each belief, innermost. Models with members spread them here."""
        return state.repeat(n)

    def holdout_error(self, batch: SequenceBatch) -> Tensor:
        """Return [E]: each member's error on held-out windows, by which weights and elites are selected."""
        return self.loss(batch).total.detach().reshape(1)

    def frozen(self) -> "WorldModel[State]":
        """Return the model as it is now, in the form that predicts fastest; itself, where there is no other."""
        return self

    def twin(self) -> "WorldModel[State]":
        """Return an untrained model of the same spaces and configuration, on the CPU."""
        return type(self)(self.observation_space, self.action_space, self.config)

    def member_parameters(self) -> frozenset[str]:
        """Return the names of the parameters whose leading axis is [E], of which each member keeps its own best."""
        return frozenset()

    def weight_decay(self) -> dict[str, float]:
        """Return by name the parameters that decay: what the loss has to have added of each one's sum of squares / 2.

        It is left to the optimiser, for which it is almost free.
        """
        return {}

    def before_fit(self, data: SequenceBatch) -> None:
        """Adapt what is not learned by gradient (normalisers, ranges) to all training windows [W, T]."""

    def after_update(self) -> None:
        """Take note of a gradient step (what is scheduled by their number); no wait for the device."""

    def after_fit(self, error: Tensor) -> None:
        """Take note of the members' held-out errors [E] once a fit has ended (elites)."""

    def calibrate(self, data: SequenceBatch, holdout: SequenceBatch | None) -> None:
        """Adapt what depends on how well the trained model predicts (thresholds, scales); every fit ends with it.

        Args:
            data: all training windows [W, T].
            holdout: the held-out windows, where there are any.
        """

    def believe(self, obs: Observation, action: Tensor, generator: torch.Generator | None = None) -> State:
        """Return the belief [B] after a context: obs [B, C, *obs] raw, action [B, C, A] (the last one is unused)."""
        batch, length = action.shape[:2]
        state = self.initial(batch)
        for t in range(length):
            now = {k: v[:, t] for k, v in obs.items()} if isinstance(obs, dict) else obs[:, t]
            is_first = torch.full((batch,), t == 0, dtype=torch.bool, device=action.device)
            state = self.observe(state, action[:, max(t - 1, 0)], now, is_first, generator)
        return state


class DensityModel(WorldModel[State]):
    """A model that knows mean and variance of its next observation and reward (ensembles, GPs, dropout, ...)."""

    @abstractmethod
    def moments(self, state: State, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance, each [E, B, D + 1], in units of (encoded next observation, reward)."""


@dataclass(frozen=True)
class Trajectory(TensorStruct, Generic[State]):
    """Imagined rollouts. ``states[:, t]`` is where ``action[:, t]`` was chosen.

    Attributes:
        states: beliefs [B, H + 1].
        action: [B, H, A].
        prediction: what arrived with ``states[:, 1:]``, tensors [B, H].
        alive: [B, H] bool, whether the rollout had not ended before step t, so whether ``prediction[:, t]`` counts.
    """

    states: State
    action: Tensor
    prediction: Prediction
    alive: Tensor


def imagine(
    model: WorldModel[State],
    start: State,
    policy: Callable[[State], Tensor],
    horizon: int,
    generator: torch.Generator | None = None,
    sample: bool = True,
    uncertainty: bool = True,
) -> Trajectory[State]:
    """Return ``horizon`` imagined steps of ``policy`` (belief [B] -> encoded action [B, A]) from the beliefs ``start``.

    Differentiable through the model and the policy; no step waits for the device.

    Raises:
        ValueError: ``horizon`` is below 1.
    """
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1 imagined step, got {horizon}")
    states, actions, predictions = [start], [], []
    for _ in range(horizon):
        actions.append(policy(states[-1]))
        state, prediction = model.predict(states[-1], actions[-1], generator, sample, uncertainty)
        states.append(state)
        predictions.append(prediction)
    prediction = stack(predictions, dim=1)
    ended = (prediction.terminated | prediction.truncated).long().cumsum(1)  # [B, H]
    alive = torch.cat([torch.ones_like(ended[:, :1]), 1 - ended[:, :-1].clamp(max=1)], dim=1).bool()
    return Trajectory(stack(states, dim=1), torch.stack(actions, dim=1), prediction, alive)


def trajectory_return(
    model: WorldModel[State],
    start: State,
    actions: Tensor,
    particles: int = 1,
    generator: torch.Generator | None = None,
    discount: float = 1.0,
    sample: bool = True,
    terminal_value: Callable[[State], Tensor] | None = None,
) -> Tensor:
    """Return [B]: the predicted return of the open-loop action sequences ``actions`` [B, H, A] from ``start`` [B].

    Each row is the mean over ``particles`` hypotheses. Rewards after the end of a rollout do not count. A row with a
    particle that diverged is NaN, so that planners can rank it last: a dream that broke must never win.
    ``terminal_value`` (beliefs [B * P] -> [B * P]) is what a rollout that is still alive at the horizon is worth there.
    Source: Chua et al. 2018 (PETS), algorithm 1.

    Raises:
        ValueError: ``actions`` has no horizon or not the batch of ``start``, or ``particles`` is below 1.
    """
    if actions.dim() != 3 or actions.shape[1] < 1 or actions.shape[0] != start.batch_size:
        rule = f"[B, H, A] with H at least 1 and the B = {start.batch_size} of start"
        raise ValueError(f"actions must be {rule}, got {tuple(actions.shape)}")
    if particles < 1:
        raise ValueError(f"particles must be at least 1, got {particles}")
    state = model.branch(start, particles) if particles > 1 else start
    total = torch.zeros(actions.shape[0] * particles, device=actions.device)
    alive = torch.ones_like(total, dtype=torch.bool)
    for t in range(actions.shape[1]):
        action = actions[:, t].repeat_interleave(particles, dim=0)
        state, step = model.predict(state, action, generator, sample, uncertainty=False)
        total = torch.where(alive, total + step.reward * discount**t, total)
        if "diverged" in step.info:
            total = torch.where(step.info["diverged"] & alive, torch.nan, total)
        alive = alive & ~(step.terminated | step.truncated)
    if terminal_value is not None:
        total = torch.where(alive, total + terminal_value(state) * discount ** actions.shape[1], total)
    return total.reshape(-1, particles).mean(dim=1)  # [B]
