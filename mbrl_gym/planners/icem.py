"""ICEM: the cross-entropy method with coloured noise and elites that are kept."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_gym.model import State, WorldModel
from mbrl_gym.planners.base import Plan, Planner, check_count, check_range, check_rollouts
from mbrl_gym.planners.noise import coloured_noise
from mbrl_gym.planners.sequences import best_candidates, moments, shift
from mbrl_gym.tensors import TensorStruct


@dataclass(frozen=True)
class ICEMConfig:
    """Hyperparameters of `ICEM`.

    Attributes:
        candidates: N, sequences drawn in the first iteration.
        elites: K, the number of best ones that the next distribution is fitted to; at most half of the candidates.
        iterations: how often the distribution is fitted.
        horizon: H, imagined steps.
        particles: P, rollouts of each candidate.
        alpha: share of the old distribution in the new one.
        noise_exponent: power of the noise falls as 1 / frequency^this along the horizon; 0: white. A horizon
            below 4 has one frequency, and so no colour.
        decay: the number of draws falls by this factor in each iteration, not below 2 K.
        kept_fraction: share of the elites that are candidates again in the next iteration and in the next plan.
        init_deviation: standard deviation of the first iteration's actions, which lie in [-1, 1].
        discount: of the rewards, a step.

    Raises:
        ValueError: a value is out of its range.
    """

    candidates: int = 200
    elites: int = 20
    iterations: int = 5
    horizon: int = 25
    particles: int = 20
    alpha: float = 0.1
    noise_exponent: float = 2.0
    decay: float = 1.25
    kept_fraction: float = 0.3
    init_deviation: float = 0.5
    discount: float = 1.0

    def __post_init__(self) -> None:
        check_count("candidates", self.candidates)
        check_count("elites", self.elites)
        check_count("iterations", self.iterations)
        check_rollouts(self.horizon, self.particles, self.discount)
        if 2 * self.elites > self.candidates:
            raise ValueError(f"elites must be at most half of candidates = {self.candidates}, got {self.elites}")
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha must be at least 0 and below 1, got {self.alpha!r}")
        check_range("noise_exponent", self.noise_exponent, 0.0, float("inf"))
        check_range("decay", self.decay, 1.0, float("inf"))
        check_range("kept_fraction", self.kept_fraction, 0.0, 1.0)
        check_range("init_deviation", self.init_deviation, 0.0, float("inf"), open_low=True)

    @property
    def kept(self) -> int:
        """How many elites are kept."""
        return round(self.elites * self.kept_fraction)

    @property
    def draws(self) -> tuple[int, ...]:
        """New sequences in each iteration, beside the kept ones."""
        return tuple(max(int(self.candidates / self.decay**i), 2 * self.elites) for i in range(self.iterations))


@dataclass(frozen=True)
class ICEMCarry(TensorStruct):
    """The plan before.

    Attributes:
        mean: [B, H, A] one step later, its last action twice.
        elites: [B, kept, H, A] the best sequences of the last iteration, as they were, best first.
        counts: [B, kept] bool, which of them exist.
    """

    mean: Tensor
    elites: Tensor
    counts: Tensor


class ICEM(Planner[ICEMCarry]):
    """CEM that needs fewer candidates: they are smooth in time, the best are kept, and their number falls.

    Coloured noise, clipped to the bounds; kept elites (moved by one step between plans, with a new random last action);
    the mean takes one draw's place in the last iteration. As in the paper, the action is the first one of the BEST
    candidate of the last iteration (not the mean's, as in CEM). Kept elites are evaluated again, since returns are
    random (the reference code reuses their old rollouts within a plan), and where none exist there are new draws.
    A row without any finite return keeps its mean, and does its first action. Continuous actions only.

    Source: Pinneri et al. 2020 (iCEM); martius-lab/iCEM ``icem/controllers/icem.py``.
    """

    config_class = ICEMConfig
    continuous_only = True
    config: ICEMConfig

    @property
    def imagined_steps(self) -> int:
        """Steps of the model that one plan of one environment takes."""
        config = self.config
        candidates = sum(number + config.kept for number in config.draws)
        return candidates * config.particles * config.horizon

    def initial(self, batch_size: int, device: torch.device | str | None = None) -> ICEMCarry:
        """Return the memory [B] of fresh episodes."""
        kept, horizon, size = self.config.kept, self.config.horizon, self.action_codec.size
        return ICEMCarry(
            torch.zeros(batch_size, horizon, size, device=device),
            torch.zeros(batch_size, kept, horizon, size, device=device),
            torch.zeros(batch_size, kept, dtype=torch.bool, device=device),
        )

    @torch.no_grad()
    def plan(
        self,
        model: WorldModel[State],
        state: State,
        carry: ICEMCarry,
        generator: torch.Generator | None = None,
    ) -> Plan[ICEMCarry]:
        """Return what to do in the beliefs ``state`` [B]."""
        config = self.config
        self._check_carry(state, carry)
        mean, kept, kept_counts = carry.mean, carry.elites, carry.counts
        variance = torch.full_like(mean, config.init_deviation**2)
        action = mean[:, 0]
        value = torch.full_like(mean[:, 0, 0], -torch.inf)
        non_finite = torch.zeros_like(value, dtype=torch.int64)
        for i, number in enumerate(config.draws):
            drawn = self._draw(mean, variance, number + config.kept, generator)
            drawn, spare = drawn[:, :number], drawn[:, number:]
            if i == 0:
                kept = shift(kept, spare[:, :, -1:])
            if i == config.iterations - 1:
                drawn = torch.cat([mean[:, None], drawn[:, 1:]], dim=1)
            kept = torch.where(kept_counts[:, :, None, None], kept, spare)
            candidates = torch.cat([drawn, kept], dim=1)  # [B, N, H, A]
            returns, lost = self.evaluate(model, state, candidates, generator)
            elites, counts = best_candidates(candidates, returns, config.elites)
            elite_mean, elite_variance = moments(elites, counts)
            moves = counts.any(1)
            share = torch.where(moves, 1 - config.alpha, 0.0)[:, None, None]
            mean = torch.lerp(mean, elite_mean, share)
            variance = torch.lerp(variance, elite_variance, share)
            kept, kept_counts = elites[:, : config.kept], counts[:, : config.kept]
            action = torch.where(moves[:, None], elites[:, 0, 0], mean[:, 0])
            value, non_finite = returns.amax(1), non_finite + lost
        return Plan(action, ICEMCarry(shift(mean, mean[:, -1:]), kept, kept_counts), value, non_finite)

    def _draw(self, mean: Tensor, variance: Tensor, number: int, generator: torch.Generator | None) -> Tensor:
        """Return smooth sequences [B, number, H, A] inside the bounds."""
        batch, horizon, size = mean.shape
        noise = coloured_noise((batch, number, size, horizon), self.config.noise_exponent, generator, mean.device)
        return (mean[:, None] + variance.sqrt()[:, None] * noise.transpose(2, 3)).clamp(-1, 1)

    def _check_carry(self, state: TensorStruct, carry: ICEMCarry) -> None:
        self._check_sequences("mean", carry.mean, state)
        wanted = (state.batch_size, self.config.kept, self.config.horizon, self.action_codec.size)
        if tuple(carry.elites.shape) != wanted:
            raise ValueError(
                f"carry.elites must be [B, kept, H, A] = {wanted}, got {tuple(carry.elites.shape)}; "
                "begin with the carry of initial(batch_size)"
            )
