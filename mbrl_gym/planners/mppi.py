"""MPPI: model-predictive path-integral control, an average of candidates weighted by their returns."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_gym.model import State, WorldModel
from mbrl_gym.planners.base import Plan, Planner, check_count, check_range, check_rollouts
from mbrl_gym.planners.noise import correlated_noise
from mbrl_gym.planners.sequences import shift
from mbrl_gym.tensors import TensorStruct


@dataclass(frozen=True)
class MPPIConfig:
    """Hyperparameters of `MPPI`.

    Attributes:
        candidates: N, sequences drawn in each iteration.
        iterations: how often the mean is moved.
        horizon: H, imagined steps.
        particles: P, rollouts of each candidate.
        temperature: in units of the return: a candidate that is worse by this much weighs 1 / e as much. (mbrl-lib's
            ``gamma`` and PDDM's ``kappa`` are its inverse.)
        deviation: sigma, standard deviation of the actions around the mean, before they are clipped to [-1, 1].
        noise_correlation: beta, correlation of the noise with that of the step before; 0: white.
        discount: of the rewards, a step.

    Raises:
        ValueError: a value is out of its range.
    """

    candidates: int = 400
    iterations: int = 5
    horizon: int = 25
    particles: int = 20
    temperature: float = 1.0
    deviation: float = 0.5
    noise_correlation: float = 0.5
    discount: float = 1.0

    def __post_init__(self) -> None:
        check_count("candidates", self.candidates)
        check_count("iterations", self.iterations)
        check_rollouts(self.horizon, self.particles, self.discount)
        check_range("temperature", self.temperature, 0.0, float("inf"), open_low=True)
        check_range("deviation", self.deviation, 0.0, float("inf"), open_low=True)
        if not 0 <= self.noise_correlation < 1:
            raise ValueError(f"noise_correlation must be at least 0 and below 1, got {self.noise_correlation!r}")


@dataclass(frozen=True)
class MPPICarry(TensorStruct):
    """The plan before, one step later, its last action twice.

    Attributes:
        mean: [B, H, A].
    """

    mean: Tensor


class MPPI(Planner[MPPICarry]):
    """Moves a mean sequence to the average of noisy ones, weighted by exp(return / temperature), and does its first.

    The noise keeps its deviation at any correlation: n_t = c n_{t-1} + sqrt(1 - c^2) e_t. (PDDM's filter smooths mean
    and noise together, which shrinks both.) A return that is not finite weighs nothing; a row without any finite one
    keeps its mean. Continuous actions only.

    Source: Williams et al. 2017; weights and memory as in ``pddm/policies/mppi.py`` (Nagabandi et al. 2019, PDDM).
    """

    config_class = MPPIConfig
    continuous_only = True
    config: MPPIConfig

    @property
    def imagined_steps(self) -> int:
        """Steps of the model that one plan of one environment takes."""
        config = self.config
        return config.iterations * config.candidates * config.particles * config.horizon

    def initial(self, batch_size: int, device: torch.device | str | None = None) -> MPPICarry:
        """Return the memory [B] of fresh episodes."""
        return MPPICarry(self.sequences.prior(batch_size, self.config.horizon, device))

    @torch.no_grad()
    def plan(
        self,
        model: WorldModel[State],
        state: State,
        carry: MPPICarry,
        generator: torch.Generator | None = None,
    ) -> Plan[MPPICarry]:
        """Return what to do in the beliefs ``state`` [B]."""
        config, mean = self.config, carry.mean
        self._check_sequences("mean", mean, state)
        batch, horizon, size = mean.shape
        value = torch.full_like(mean[:, 0, 0], -torch.inf)
        non_finite = torch.zeros_like(value, dtype=torch.int64)
        for _ in range(config.iterations):
            shape = (batch, config.candidates, size, horizon)
            noise = correlated_noise(shape, config.noise_correlation, generator, mean.device).transpose(2, 3)
            candidates = (mean[:, None] + config.deviation * noise).clamp(-1, 1)  # [B, N, H, A]
            returns, lost = self.evaluate(model, state, candidates, generator)
            value, non_finite = returns.amax(1), non_finite + lost
            moves = value.isfinite()[:, None]
            # A row of -inf alone would give NaN weights; its zeros give harmless ones, which are not used.
            weight = torch.softmax(torch.where(moves, returns, 0.0) / config.temperature, dim=1)  # [B, N]
            average = (weight[:, :, None, None] * candidates).sum(1).clamp(-1, 1)  # the clamp is for rounding alone
            mean = torch.where(moves[:, :, None], average, mean)
        return Plan(mean[:, 0], MPPICarry(shift(mean, mean[:, -1:])), value, non_finite)
