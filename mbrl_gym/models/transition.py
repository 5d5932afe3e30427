"""TransitionModel: what all models of single transitions share, whatever predicts: beliefs, units, ends, bounds."""

import math
from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, pad

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import DensityModel, Prediction
from mbrl_gym.models.propagation import PROPAGATIONS
from mbrl_gym.models.transition_config import TransitionConfig
from mbrl_gym.models.transition_state import Transitions, TransitionState
from mbrl_gym.nets.ensemble_mlp import EnsembleMLP
from mbrl_gym.spaces import Observation, ObservationCodec

__all__ = ["TransitionModel", "TransitionState", "Transitions"]

LARGEST_UNCERTAINTY = 1e6  # of a row that diverged: finite, and still so after arithmetic


class TransitionModel(DensityModel[TransitionState]):
    """Predicts the change of the observation, the reward and the end of the episode from (observation, action).

    A prediction is made by K hypotheses about the dynamics: the members of an ensemble, or draws from a posterior. A
    subclass says what each of them predicts (`_raw`, `_moments`) and how it is trained; how hypotheses become one
    trajectory is the configuration's ``propagation``.

    ``uncertainty`` is the hypotheses' disagreement: the root mean square over predicted dimensions of the standard
    deviation of their means, in the units that the model learns in (the targets' standard deviation, unless
    ``normalize_targets`` is off). ``info`` has ``aleatoric`` (the same of the predicted deviations),
    ``termination_probability`` and ``diverged``.

    The reward is one more output beside the change, as in MBPO. Termination is a network of its own over (observation,
    action, next observation): as an output of a likelihood's network it starves, because the likelihood's gradients
    outweigh its own by far, and an end is a sharp function of where a step arrives, not of where it began.

    Args:
        observation_space: the real environment's.
        action_space: the real environment's.
        config: the hyperparameters.
        hypotheses: how many there are, before any of them is selected.
        members: how many of them are trained and selected separately.

    Raises:
        ValueError: a space is not supported, or a setting names an observation dimension that does not exist.
    """

    hypothesis_name: ClassVar[str] = "hypotheses"
    config: TransitionConfig
    input_mean: Tensor  # [in], in = D + A
    input_std: Tensor
    target_mean: Tensor  # [D + 1], the observation's change (or the observation, where absolute) and the reward
    target_std: Tensor
    low: Tensor  # [D + 1], of the clamp, in units of (next observation, reward)
    high: Tensor
    has_terminations: Tensor  # [] 0 or 1, whether the data has an end
    _delta: Tensor  # [D] 1 where a change is predicted, 0 where absolute
    _read: Tensor  # indices of the encoded dimensions that the networks read as they are
    _angles: Tensor  # and of those that they read as sine and cosine

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: TransitionConfig,
        hypotheses: int,
        members: int = 1,
    ) -> None:
        super().__init__(observation_space, action_space, config)
        self.members = members
        self._hypotheses = hypotheses
        self.codec = ObservationCodec(observation_space)
        self.propagation = PROPAGATIONS[config.propagation]()
        obs = self.codec.size
        for name in ("absolute", "angles", "unseen"):
            if not all(0 <= i < obs for i in getattr(config, name)):
                found = getattr(config, name)
                raise ValueError(f"{name} must name encoded observation dimensions 0 to {obs - 1}, got {found}")
        read = [i for i in range(obs) if i not in (*config.angles, *config.unseen)]
        self._seen = len(read) + 2 * len(config.angles)  # what the networks read of an observation
        self.inputs = self._seen + self.action_codec.size
        self.targets = obs + 1  # the observation's change, and the reward
        delta = torch.ones(obs)
        delta[list(config.absolute)] = 0.0
        self.register_buffer("_delta", delta, persistent=False)
        self.register_buffer("_read", torch.tensor(read, dtype=torch.int64), persistent=False)
        self.register_buffer("_angles", torch.tensor(config.angles, dtype=torch.int64), persistent=False)
        self.register_buffer("input_mean", torch.zeros(self.inputs))
        self.register_buffer("input_std", torch.ones(self.inputs))
        self.register_buffer("target_mean", torch.zeros(self.targets))
        self.register_buffer("target_std", torch.ones(self.targets))
        self.register_buffer("low", torch.full((self.targets,), -torch.inf))
        self.register_buffer("high", torch.full((self.targets,), torch.inf))
        self.register_buffer("has_terminations", torch.zeros(()))
        self._can_terminate = False  # has_terminations, where no device has to be waited for
        self._clamps = False  # whether low and high are bounds, likewise
        self.register_load_state_dict_post_hook(_follow_buffers)  # type: ignore[no-untyped-call]

    def _make_termination_net(self) -> None:
        """Add the networks that predict ends; a subclass calls it once its other networks are there."""
        sizes = (self.inputs + self._seen, *self.config.termination_hidden, 1)
        self.termination_net = EnsembleMLP(self.members, sizes)

    # ---- what a subclass supplies -----------------------------------------------------------------------------------

    @abstractmethod
    def _raw(self, x: Tensor, bound: bool) -> Tensor:
        """Return outputs [E, B, 2(D + 1)] of all hypotheses from raw inputs [B, in].

        Args:
            x: raw inputs [B, in]; where ``bound``, [K, B, in]: rows of their own for each selected hypothesis.
            bound: only the K selected ones are asked.
        """

    @abstractmethod
    def _moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance [..., D + 1] of (change, reward) in their own units from outputs [..., 2(D + 1)]."""

    @property
    def hypotheses(self) -> int:
        """K, how many hypotheses predictions are made of."""
        return self._hypotheses

    def _selected(self, x: Tensor) -> Tensor:
        """Return the selected hypotheses' part [K, ...] of what all of them say [E, ...]."""
        return x

    def _selected_members(self, x: Tensor) -> Tensor:
        """Return the selected members' part of what the termination networks say [members, ...]."""
        return x

    # ---- the contract -----------------------------------------------------------------------------------------------

    def initial(self, batch_size: int) -> TransitionState:
        """Return a blank belief [B]: zeros, the first hypothesis."""
        return TransitionState(
            torch.zeros(batch_size, self.codec.size, device=self.device),
            torch.zeros(batch_size, dtype=torch.int64, device=self.device),
        )

    def observe(
        self,
        state: TransitionState,
        action: Tensor,
        obs: Observation,
        is_first: Tensor,
        generator: torch.Generator | None = None,
    ) -> TransitionState:
        """Return the belief that is the observation; a new episode draws the hypothesis that it follows."""
        drawn = torch.randint(self.hypotheses, state.member.shape, generator=generator, device=self.device)
        member = torch.where(is_first, drawn, state.member)
        return TransitionState(self.codec.project(self.codec.encode(obs)), member)  # reality ends the hypotheses

    def predict(
        self,
        state: TransitionState,
        action: Tensor,
        generator: torch.Generator | None = None,
        sample: bool = True,
        uncertainty: bool = True,
    ) -> tuple[TransitionState, Prediction]:
        """Return one imagined step (see `WorldModel.predict`)."""
        x = self._inputs(state.obs, action)
        particles = state.particles
        member = self.propagation.assign(state.member, particles, self.hypotheses, generator, sample)
        disagreement, info = None, {}
        if member is not None and particles > 1 and not uncertainty:
            order = self.propagation.order(member, particles)
            mean, variance = self._moments(self._own(x, particles, order))
        else:
            # All of them, also where only some are selected: to the bit the same with and without uncertainty.
            means, variances = self._moments(self._raw(x, bound=False))  # [E, B, D + 1]
            if uncertainty:
                disagreement = _capped(_root_mean_square((means - means.mean(0)) / self.target_std))
                info["aleatoric"] = _capped((variances / self.target_std.square()).mean((0, -1)).sqrt())
            mean, variance = self.propagation.mix(self._selected(means), self._selected(variances), member)
        value = self.propagation.draw(self._onto(state.obs, mean), variance, particles, generator, sample)
        return self._finish(state, x, value, disagreement, info)

    def complete(
        self,
        state: TransitionState,
        action: Tensor,
        value: Tensor,
        disagreement: Tensor | None = None,
        info: dict[str, Tensor] | None = None,
    ) -> tuple[TransitionState, Prediction]:
        """Return the belief and the prediction of a step whose next values were drawn elsewhere.

        Args:
            state: the belief before [B].
            action: [B, A] encoded.
            value: [B, D + 1] encoded next observation and reward, the units of `moments`.
            disagreement: [B] the prediction's uncertainty; None: zeros.
            info: more to note, tensors [B] by name.
        """
        return self._finish(state, self._inputs(state.obs, action), value, disagreement, info or {})

    def features(self, state: TransitionState) -> Tensor:
        """Return [B, F]: what the networks read of the observation, standardised by the data."""
        seen = self._seen
        return (self._transform(state.obs) - self.input_mean[:seen]) / self.input_std[:seen]

    def decode(self, state: TransitionState) -> Observation:
        """Return the raw observation [B, *obs]."""
        return self.codec.decode(state.obs)

    def branch(self, state: TransitionState, n: int) -> TransitionState:
        """Return [B * n] particles; under TS1 and TS-infinity each hypothesis gets n / K of each belief.

        Raises:
            ValueError: ``n`` is no multiple of the number of hypotheses.
        """
        count = self.hypotheses
        if self.propagation.single_member and n % count:
            raise ValueError(
                f"particles must be a multiple of the {count} {self.hypothesis_name} under propagation="
                f"{self.config.propagation!r}, so that each of them gets as many, got {n}"
            )
        member = torch.arange(n, device=self.device).mul(count).div(n, rounding_mode="floor").repeat(state.batch_size)
        return TransitionState(state.obs.repeat_interleave(n, dim=0), member, n)

    def moments(self, state: TransitionState, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return each hypothesis' mean and variance [E, B, D + 1] of (encoded next observation, reward)."""
        mean, variance = self._moments(self._raw(self._inputs(state.obs, action), bound=False))
        return self._onto(state.obs, mean), variance

    @torch.no_grad()
    def before_fit(self, data: SequenceBatch) -> None:
        """Fit the normalisers and the clamping range to all training windows; constant dimensions keep the scale 1."""
        rows = self._transitions(replace(data, weight=None))
        valid = rows.weight[0] > 0
        x, target, terminated = rows.x[valid], rows.target[valid], rows.terminated[valid]
        self.input_mean.copy_(x.double().mean(0))
        self.input_std.copy_(_scale(x))
        if self.config.normalize_targets:
            self.target_mean.copy_(target.double().mean(0))
            self.target_std.copy_(_scale(target))
        self.has_terminations.copy_(terminated.any() & self.config.learn_termination)
        if self.config.clamp_margin is not None:
            obs = torch.cat([rows.obs, rows.next_obs])[torch.cat([valid, valid])]
            low = torch.cat([obs.amin(0), target[:, -1:].amin(0)])
            high = torch.cat([obs.amax(0), target[:, -1:].amax(0)])
            margin = self.config.clamp_margin * (high - low)
            self.low.copy_(low - margin)
            self.high.copy_(high + margin)
        _follow_buffers(self)

    # ---- the pieces -------------------------------------------------------------------------------------------------

    def _inputs(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return [..., in], what the networks read, not yet standardised."""
        return torch.cat([self._transform(obs), action], dim=-1)

    def _transform(self, obs: Tensor) -> Tensor:
        """Return [..., F] from encoded observations [..., D]: without what is unseen, angles as sine and cosine."""
        if not (self.config.angles or self.config.unseen):
            return obs
        angles = obs.index_select(-1, self._angles)
        return torch.cat([obs.index_select(-1, self._read), torch.sin(angles), torch.cos(angles)], dim=-1)

    def _normalise(self, x: Tensor) -> Tensor:
        return (x - self.input_mean) / self.input_std

    def _own(self, x: Tensor, particles: int, order: Tensor | None) -> Tensor:
        """Return outputs [B, 2(D + 1)] of each row's own hypothesis; of P particles, every hypothesis has P / K.

        Args:
            x: raw inputs [B, in].
            particles: P.
            order: [B / P, P], the particles of each belief in the order of their hypotheses; None: they are in order.
        """
        rows = x.view(-1, particles, x.shape[-1])  # [B / P, P, in]
        groups, count = rows.shape[0], self.hypotheses
        if order is not None:
            rows = rows.gather(1, order[..., None].expand_as(rows))
        rows = rows.view(groups, count, -1, x.shape[-1]).transpose(0, 1)  # [K, B / P, P / K, in]
        raw = self._raw(rows.reshape(count, -1, x.shape[-1]), bound=True)
        raw = raw.view(count, groups, -1, raw.shape[-1]).transpose(0, 1).reshape(groups, particles, -1)
        if order is not None:
            raw = torch.empty_like(raw).scatter_(1, order[..., None].expand_as(raw), raw)
        return raw.reshape(x.shape[0], -1)

    def _termination_logits(self, inputs: Tensor, next_obs: Tensor) -> Tensor:
        """Return [members, B] from standardised inputs [B, in] and encoded next observations [B, D]."""
        seen = self._seen
        after = (self._transform(next_obs) - self.input_mean[:seen]) / self.input_std[:seen]
        logits: Tensor = self.termination_net(torch.cat([inputs, after], dim=-1))
        return logits[..., 0]

    def _termination_probability(self, x: Tensor, next_obs: Tensor) -> Tensor:
        """Return [B], the selected members' mean, from raw inputs [B, in] and encoded next observations [B, D]."""
        logits = self._selected_members(self._termination_logits(self._normalise(x), next_obs))
        return torch.sigmoid(logits).mean(0)

    def _termination_error(self, inputs: Tensor, data: Transitions) -> Tensor:
        """Return [members, N]: the cross-entropy of each transition's end."""
        logits = self._termination_logits(inputs, data.next_obs)
        return binary_cross_entropy_with_logits(logits, data.terminated.expand_as(logits), reduction="none")

    def _free(self, value: Tensor, error: Tensor, data: Transitions) -> Tensor:
        """Return ``value`` [E, N, D + 1] with zeros where the mean is beyond a bound of the space that reality sits on.

        Such a prediction is right: it is projected onto that bound. Having to reproduce the kink that an environment's
        clipping makes (Pendulum's speed) costs a smooth network its accuracy everywhere.
        """
        if not self.codec.bounded:
            return value
        size = self.codec.size
        beyond = ((data.next_obs >= self.codec.high.to(error.device)) & (error[..., :size] > 0)) | (
            (data.next_obs <= self.codec.low.to(error.device)) & (error[..., :size] < 0)
        )
        return value.masked_fill(pad(beyond, (0, 1)), 0.0)

    def _onto(self, obs: Tensor, change: Tensor) -> Tensor:
        """Return predicted changes [..., D + 1] as values; a reward and an absolute dimension are values already.

        ``change`` is written to where nothing is differentiated.
        """
        if change.requires_grad or obs.requires_grad:
            return change + pad(obs * self._delta, (0, 1))
        change[..., :-1].addcmul_(obs, self._delta)
        return change

    def _finish(
        self,
        state: TransitionState,
        inputs: Tensor,
        value: Tensor,
        disagreement: Tensor | None,
        info: dict[str, Tensor],
    ) -> tuple[TransitionState, Prediction]:
        """Turn drawn values [B, D + 1] into the next belief; a row that is not finite stays where it is and is cut."""
        total = value.sum(-1)
        nothing = torch.zeros_like(total)
        diverged = (total - total) != 0  # true of NaN and of infinity, which any of them makes the sum
        if self._clamps:
            value = torch.clamp(value, self.low, self.high)
        stay = torch.nan_to_num(state.obs)
        obs = self.codec.project(torch.where(diverged[:, None], stay, value[:, :-1]))
        if self._can_terminate:
            termination = self._termination_probability(inputs, obs)
            diverged = diverged | ~torch.isfinite(termination)
            termination = torch.where(diverged, 0.0, termination)
            obs = torch.where(diverged[:, None], stay, obs)
            terminated, continuation = termination > self.config.termination_threshold, 1.0 - termination
        else:
            termination, terminated, continuation = nothing, torch.zeros_like(diverged), torch.ones_like(total)
        prediction = Prediction(
            reward=value[:, -1].masked_fill(diverged, 0.0),
            terminated=terminated,
            truncated=diverged,
            continuation=continuation,
            uncertainty=nothing if disagreement is None else disagreement,
            info={**info, "termination_probability": termination, "diverged": diverged},
        )
        return TransitionState(obs, state.member, state.particles), prediction

    def _transitions(self, batch: SequenceBatch) -> Transitions:
        """Return the transitions of all windows one below the other."""
        obs = self.codec.project(self.codec.encode(batch.obs))  # [B, T, D]
        before, after = obs[:, :-1], obs[:, 1:]
        x = self._inputs(before, batch.action[:, :-1]).flatten(0, 1)
        reward = batch.reward[:, 1:, None] * self.config.learn_reward
        target = torch.cat([after - before * self._delta, reward], dim=-1).flatten(0, 1)
        weight = (~batch.is_first[:, 1:]).flatten().float()  # a window may cross into the next episode
        if batch.weight is None:
            weight = weight.expand(self.members, -1)
        else:
            weight = (batch.weight[:, 1:].flatten(0, 1) * weight[:, None]).T
        ends = batch.terminated[:, 1:].flatten().float()
        return Transitions(x, before.flatten(0, 1), target, after.flatten(0, 1), ends, weight)


def _follow_buffers(model: TransitionModel, keys: Any = None) -> None:
    """Note on the host what the buffers say."""
    model._can_terminate = bool(model.has_terminations)
    model._clamps = bool(torch.isfinite(model.low).any() | torch.isfinite(model.high).any())


def _root_mean_square(deviation: Tensor) -> Tensor:
    """Return [B] from [E, B, D + 1]; a norm, because unlike that of a root its gradient at zero is finite."""
    norm: Tensor = torch.linalg.vector_norm(deviation, dim=(0, 2))
    return norm / math.sqrt(deviation.shape[0] * deviation.shape[2])


def _capped(x: Tensor) -> Tensor:
    """Return ``x``, with ``LARGEST_UNCERTAINTY`` for what is larger or not a number."""
    return torch.nan_to_num(x, nan=LARGEST_UNCERTAINTY).clamp(max=LARGEST_UNCERTAINTY)


def _scale(x: Tensor) -> Tensor:
    """Return the standard deviation of each column [N, D] -> [D]; a constant column gets 1."""
    x = x.double()
    deviation = x.std(0, unbiased=False)
    return torch.where(deviation > 1e-6 * (1.0 + x.mean(0).abs()), deviation, torch.ones_like(deviation))
