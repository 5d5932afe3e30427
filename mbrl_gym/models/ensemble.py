"""Ensemble: the probabilistic ensemble of PETS, with learned reward and termination."""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad, softplus

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import DensityModel, ModelLoss, Prediction
from mbrl_gym.models.ensemble_config import EnsembleConfig
from mbrl_gym.models.frozen_mlp import BFLOAT16_ROWS, multiplies_in_bfloat16
from mbrl_gym.models.propagation import PROPAGATIONS
from mbrl_gym.nets.ensemble_mlp import EnsembleMLP
from mbrl_gym.spaces import Observation, ObservationCodec
from mbrl_gym.tensors import TensorStruct

__all__ = ["Ensemble", "EnsembleConfig", "EnsembleState"]

LARGEST_UNCERTAINTY = 1e6  # of a row that diverged: finite, and still so after arithmetic


@dataclass(frozen=True)
class EnsembleState(TensorStruct):
    """An ensemble's belief: the observation itself.

    Attributes:
        obs: [B, D] encoded observation, a member of the space.
        member: [B] int64, the elite that a row is bound to under TS-infinity.
        particles: how many consecutive rows are particles of one belief; above 1 they are as `Ensemble.branch` made
            them, the first ones bound to the first elite and so on.
    """

    obs: Tensor
    member: Tensor
    particles: int = 1

    def __getitem__(self, index: Any) -> "EnsembleState":
        """Return the selected rows; unless the index keeps all of them, they are no groups of particles any more."""
        rows = super().__getitem__(index)
        whole = isinstance(index, tuple) and isinstance(index[0], slice) and index[0] == slice(None)
        return rows if whole else replace(rows, particles=1)

    def repeat(self, n: int) -> "EnsembleState":
        """Return every row ``n`` times in a row; they are no groups of particles any more."""
        return replace(super().repeat(n), particles=1)


class Ensemble(DensityModel[EnsembleState]):
    """E probabilistic networks that predict the change of the observation, the reward and the end of the episode.

    ``uncertainty`` is the members' disagreement: the root mean square over predicted dimensions of the standard
    deviation of their means, in the units that the networks learn in (the targets' standard deviation, unless
    ``normalize_targets`` is off). ``info`` has ``aleatoric`` (the same of the predicted deviations),
    ``termination_probability`` and ``diverged``.

    Source: Chua et al. 2018 (PETS), section 4; handful-of-trials ``dmbrl/modeling/models/BNN.py``. The reward is one
    more output of the same networks, as in MBPO. Termination is a network of its own over (observation, action, next
    observation): as an output of the same networks it starves, because the likelihood's gradients outweigh its own by
    far, and an end is a sharp function of where a step arrives, not of where it began.

    Raises:
        ValueError: a space is not supported, or ``config.absolute`` names a dimension that does not exist.
    """

    config_class = EnsembleConfig
    config: EnsembleConfig
    input_mean: Tensor  # [in], in = D + A
    input_std: Tensor
    target_mean: Tensor  # [D + 1], the observation's change (or the observation, where absolute) and the reward
    target_std: Tensor
    low: Tensor  # [D + 1], of the clamp, in units of (next observation, reward)
    high: Tensor
    has_terminations: Tensor  # [] 0 or 1, whether the data has an end
    elites: Tensor  # [K] int64
    _delta: Tensor  # [D] 1 where a change is predicted, 0 where absolute
    _read: Tensor  # indices of the encoded dimensions that the networks read as they are
    _angles: Tensor  # and of those that they read as sine and cosine

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: EnsembleConfig | None = None,
    ) -> None:
        config = config or EnsembleConfig()
        super().__init__(observation_space, action_space, config)
        self.members = config.members
        self.codec = ObservationCodec(observation_space)
        self.propagation = PROPAGATIONS[config.propagation]()
        obs = self.codec.size
        for name in ("absolute", "angles", "unseen"):
            if not all(0 <= i < obs for i in getattr(config, name)):
                found = getattr(config, name)
                raise ValueError(f"{name} must name encoded observation dimensions 0 to {obs - 1}, got {found}")
        read = [i for i in range(obs) if i not in (*config.angles, *config.unseen)]
        self._seen = len(read) + 2 * len(config.angles)  # what the networks read of an observation
        inputs = self._seen + self.action_codec.size
        targets = obs + 1  # the observation's change, and the reward
        self.net = EnsembleMLP(config.members, (inputs, *config.hidden, 2 * targets))
        self.termination_net = EnsembleMLP(config.members, (inputs + self._seen, *config.termination_hidden, 1))
        bounds = torch.full((targets,), config.max_log_variance), torch.full((targets,), config.min_log_variance)
        self.max_log_variance = nn.Parameter(bounds[0], requires_grad=config.learn_variance_bounds)
        self.min_log_variance = nn.Parameter(bounds[1], requires_grad=config.learn_variance_bounds)
        delta = torch.ones(obs)
        delta[list(config.absolute)] = 0.0
        self.register_buffer("_delta", delta, persistent=False)
        self.register_buffer("_read", torch.tensor(read, dtype=torch.int64), persistent=False)
        self.register_buffer("_angles", torch.tensor(config.angles, dtype=torch.int64), persistent=False)
        self.register_buffer("input_mean", torch.zeros(inputs))
        self.register_buffer("input_std", torch.ones(inputs))
        self.register_buffer("target_mean", torch.zeros(targets))
        self.register_buffer("target_std", torch.ones(targets))
        self.register_buffer("low", torch.full((targets,), -torch.inf))
        self.register_buffer("high", torch.full((targets,), torch.inf))
        self.register_buffer("has_terminations", torch.zeros(()))
        self.register_buffer("elites", torch.arange(config.elites or config.members))
        self._can_terminate = False  # has_terminations, where no device has to be waited for
        self._clamps = False  # whether low and high are bounds, likewise
        self.register_load_state_dict_post_hook(_follow_buffers)  # type: ignore[no-untyped-call]

    # ---- the contract -----------------------------------------------------------------------------------------------

    def initial(self, batch_size: int) -> EnsembleState:
        """Return a blank belief [B]: zeros, the first elite."""
        return EnsembleState(
            torch.zeros(batch_size, self.codec.size, device=self.device),
            torch.zeros(batch_size, dtype=torch.int64, device=self.device),
        )

    def observe(
        self,
        state: EnsembleState,
        action: Tensor,
        obs: Observation,
        is_first: Tensor,
        generator: torch.Generator | None = None,
    ) -> EnsembleState:
        """Return the belief that is the observation; a new episode draws the member that it is bound to."""
        drawn = torch.randint(len(self.elites), state.member.shape, generator=generator, device=self.device)
        member = torch.where(is_first, drawn, state.member)
        return EnsembleState(self.codec.project(self.codec.encode(obs)), member)  # reality ends the hypotheses

    def predict(
        self,
        state: EnsembleState,
        action: Tensor,
        generator: torch.Generator | None = None,
        sample: bool = True,
        uncertainty: bool = True,
    ) -> tuple[EnsembleState, Prediction]:
        """Return one imagined step (see `WorldModel.predict`)."""
        x = self._inputs(state.obs, action)
        elites, particles = self.elites.shape[0], state.particles  # len() of a tensor is ten times as slow
        member = self.propagation.assign(state.member, particles, elites, generator, sample)
        disagreement, info = None, {}
        if member is not None and particles > 1 and not uncertainty:
            order = self.propagation.order(member, particles)
            mean, variance = self._moments(self._own_member(x, particles, order))
        else:
            # All members, also where only elites are asked: to the bit the same with and without uncertainty.
            means, variances = self._moments(self._raw(x, elites_only=False))  # [E, B, D + 1]
            if uncertainty:
                disagreement = _capped(_root_mean_square((means - means.mean(0)) / self.target_std))
                info["aleatoric"] = _capped((variances / self.target_std.square()).mean((0, -1)).sqrt())
            mean, variance = self.propagation.mix(self._of_elites(means), self._of_elites(variances), member)
        value = self.propagation.draw(self._onto(state.obs, mean), variance, particles, generator, sample)
        return self._finish(state, x, value, disagreement, info)

    def features(self, state: EnsembleState) -> Tensor:
        """Return [B, F]: what the networks read of the observation, standardised by the data."""
        seen = self._seen
        return (self._transform(state.obs) - self.input_mean[:seen]) / self.input_std[:seen]

    def decode(self, state: EnsembleState) -> Observation:
        """Return the raw observation [B, *obs]."""
        return self.codec.decode(state.obs)

    def branch(self, state: EnsembleState, n: int) -> EnsembleState:
        """Return [B * n] particles; under TS1 and TS-infinity each elite gets n / K of each belief.

        Raises:
            ValueError: ``n`` is no multiple of the number of elites.
        """
        elites = len(self.elites)
        if self.propagation.single_member and n % elites:
            raise ValueError(
                f"particles must be a multiple of the {elites} elite members under propagation="
                f"{self.config.propagation!r}, so that each member gets as many, got {n}"
            )
        member = torch.arange(n, device=self.device).mul(elites).div(n, rounding_mode="floor").repeat(state.batch_size)
        return EnsembleState(state.obs.repeat_interleave(n, dim=0), member, n)

    def moments(self, state: EnsembleState, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return each member's mean and variance [E, B, D + 1] of (encoded next observation, reward)."""
        mean, variance = self._moments(self._raw(self._inputs(state.obs, action), elites_only=False))
        return self._onto(state.obs, mean), variance

    def frozen(self, bfloat16_rows: int | None = BFLOAT16_ROWS) -> "Ensemble":
        """Return a copy of the model as it is now that predicts the same, faster, and cannot be trained.

        Args:
            bfloat16_rows: rows a member from which layers run in bfloat16, where the device multiplies in it; None:
                always float32. bfloat16 keeps 8 bits of each activation; the state and the noise stay float32.
        """
        from mbrl_gym.models.frozen_ensemble import FrozenEnsemble  # which is a kind of this

        return FrozenEnsemble(self, bfloat16_rows)

    def loss(self, batch: SequenceBatch, start: EnsembleState | None = None) -> ModelLoss[EnsembleState]:
        """Return the negative log-likelihood of all transitions in the windows, summed over members.

        Source: PETS' ``BNN._compile_losses``: mean over batch and dimensions of (mu - y)^2 exp(-lv) + lv, the bounds'
        penalty; weight decay, a term of its loss, is in `weight_decay`. Added here: cross-entropy of the termination
        network, bootstrap weights [B, T, E] in place of resampled rows (the same bootstrap in expectation; Oza &
        Russell 2001), weights by the predicted variance (beta-NLL; Seitzer et al. 2022, equation 4), and `_free`.
        """
        data = self._transitions(batch)
        inputs = self._normalise(data.x)
        mean, log_variance = self._outputs(self._train_net(inputs))
        error = mean - (data.target - self.target_mean) / self.target_std  # [E, N, D + 1]
        nll = error.square() * torch.exp(-log_variance) + log_variance
        if self.config.variance_weighting > 0:
            nll = nll * torch.exp(self.config.variance_weighting * log_variance.detach())
        nll_total = (self._free(nll, error, data).mean(-1) * data.weight).mean(1).sum()
        bounds = self.config.variance_bound_penalty * (self.max_log_variance.sum() - self.min_log_variance.sum())
        total = nll_total + bounds
        terms = {"nll": nll_total.detach() / self.members}
        if self._can_terminate:
            ends = (self._termination_error(inputs, data) * data.weight).mean(1).sum()
            total = total + ends
            terms["termination"] = ends.detach() / self.members
        return ModelLoss(total, terms)

    def holdout_error(self, batch: SequenceBatch) -> Tensor:
        """Return [E]: each member's mean squared error in standardised targets, plus its termination cross-entropy."""
        data = self._transitions(replace(batch, weight=None))
        inputs = self._normalise(data.x)
        mean, _ = self._outputs(self.net(inputs))
        error = mean - (data.target - self.target_mean) / self.target_std
        error = self._free(error.square(), error, data).mean(-1)  # [E, N]
        if self._can_terminate:
            error = error + self._termination_error(inputs, data)
        return (error * data.weight).sum(1) / data.weight.sum(1).clamp(min=1.0)

    def weight_decay(self) -> dict[str, float]:
        """Return each layer's decay; nothing but these weights decays (PETS' ``construct_vars``)."""
        return {f"net.weights.{i}": decay for i, decay in enumerate(self.config.layer_decay) if decay}

    def member_parameters(self) -> frozenset[str]:
        """Return the names of the networks' parameters; the variance bounds are shared."""
        return frozenset(name for name, _ in self.named_parameters() if name.startswith(("net.", "termination_net.")))

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

    @torch.no_grad()
    def after_fit(self, error: Tensor) -> None:
        """Keep the members with the smallest held-out errors [E] as elites."""
        self.elites.copy_(error.argsort()[: len(self.elites)].sort().values)

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

    def _train_net(self, inputs: Tensor) -> Tensor:
        """Return outputs [E, N, 2(D + 1)]; products of large batches in bfloat16, weights and gradients in float32."""
        rows = self.config.bfloat16_rows
        rounds = rows is not None and len(inputs) >= rows and multiplies_in_bfloat16(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=rounds):
            raw: Tensor = self.net(inputs)
        return raw.float()

    def _outputs(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Split network outputs [..., 2(D + 1)] into mean and bounded log variance."""
        mean, log_variance = raw.chunk(2, dim=-1)
        log_variance = self.max_log_variance - softplus(self.max_log_variance - log_variance)
        return mean, self.min_log_variance + softplus(log_variance - self.min_log_variance)

    def _raw(self, x: Tensor, elites_only: bool) -> Tensor:
        """Return outputs [E, B, 2(D + 1)] (K elites only, if so) from raw inputs [B, in] or [K, B, in]."""
        every = not elites_only or len(self.elites) == self.members
        raw: Tensor = self.net(self._normalise(x), None if every else self.elites)
        return raw

    def _moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance [..., D + 1] of (change, reward) in their own units from outputs [..., 2(D + 1)].

        The bounds of the log variance, two softplus, come out as 1 / (1 / max + 1 / variance) + min in the variance.
        """
        mean, log_variance = raw.chunk(2, dim=-1)
        variance = torch.exp(torch.clamp(-log_variance, max=80.0)) + torch.exp(-self.max_log_variance)
        variance = (variance.reciprocal() + torch.exp(self.min_log_variance)) * self.target_std.square()
        return torch.addcmul(self.target_mean, mean, self.target_std), variance

    def _termination_logits(self, inputs: Tensor, next_obs: Tensor) -> Tensor:
        """Return [E, B] from standardised inputs [B, in] and encoded next observations [B, D]."""
        seen = self._seen
        after = (self._transform(next_obs) - self.input_mean[:seen]) / self.input_std[:seen]
        logits: Tensor = self.termination_net(torch.cat([inputs, after], dim=-1))
        return logits[..., 0]

    def _termination_probability(self, x: Tensor, next_obs: Tensor) -> Tensor:
        """Return [B], the mean over the elites, from raw inputs [B, in] and encoded next observations [B, D]."""
        logits = self._of_elites(self._termination_logits(self._normalise(x), next_obs))
        return torch.sigmoid(logits).mean(0)

    def _termination_error(self, inputs: Tensor, data: "_Transitions") -> Tensor:
        """Return [E, N]: the cross-entropy of each transition's end."""
        logits = self._termination_logits(inputs, data.next_obs)
        return binary_cross_entropy_with_logits(logits, data.terminated.expand_as(logits), reduction="none")

    def _free(self, value: Tensor, error: Tensor, data: "_Transitions") -> Tensor:
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

    def _of_elites(self, x: Tensor) -> Tensor:
        """Return the elites' part [K, ...] of what all members say [E, ...]."""
        return x if len(self.elites) == self.members else x[self.elites]

    def _own_member(self, x: Tensor, particles: int, order: Tensor | None) -> Tensor:
        """Return outputs [B, 2(D + 1)] of each row's own elite; of P particles, every elite has P / K.

        Args:
            x: raw inputs [B, in].
            particles: P.
            order: [B / P, P], the particles of each belief in the order of their elites; None: they are in order.
        """
        rows = x.view(-1, particles, x.shape[-1])  # [B / P, P, in]
        groups, elites = rows.shape[0], self.elites.shape[0]
        if order is not None:
            rows = rows.gather(1, order[..., None].expand_as(rows))
        rows = rows.view(groups, elites, -1, x.shape[-1]).transpose(0, 1)  # [K, B / P, P / K, in]
        raw = self._raw(rows.reshape(elites, -1, x.shape[-1]), elites_only=True)
        raw = raw.view(elites, groups, -1, raw.shape[-1]).transpose(0, 1).reshape(groups, particles, -1)
        if order is not None:
            raw = torch.empty_like(raw).scatter_(1, order[..., None].expand_as(raw), raw)
        return raw.reshape(x.shape[0], -1)

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
        state: EnsembleState,
        inputs: Tensor,
        value: Tensor,
        disagreement: Tensor | None,
        info: dict[str, Tensor],
    ) -> tuple[EnsembleState, Prediction]:
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
        return EnsembleState(obs, state.member, state.particles), prediction

    def _transitions(self, batch: SequenceBatch) -> "_Transitions":
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
        return _Transitions(x, before.flatten(0, 1), target, after.flatten(0, 1), ends, weight)


class _Transitions(NamedTuple):
    """N transitions: x [N, in], obs [N, D], target [N, D + 1], next_obs [N, D], terminated [N], weight [E, N]."""

    x: Tensor
    obs: Tensor
    target: Tensor
    next_obs: Tensor
    terminated: Tensor
    weight: Tensor


def _follow_buffers(model: Ensemble, keys: Any = None) -> None:
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
