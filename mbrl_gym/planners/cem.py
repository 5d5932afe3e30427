"""CEM: the cross-entropy method of PETS, and its counterpart for discrete actions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_gym.model import State, WorldModel
from mbrl_gym.planners.base import Plan, Planner, check_count, check_range, check_rollouts
from mbrl_gym.planners.sequences import Sequences, best_candidates, moments, sequences_for, shift
from mbrl_gym.spaces import ActionCodec
from mbrl_gym.tensors import TensorStruct


@dataclass(frozen=True)
class CEMConfig:
    """Hyperparameters of `CEM`. The defaults are PETS' for the cart-pole (``dmbrl/config/cartpole.py``).

    Attributes:
        candidates: N, sequences drawn in each iteration.
        elites: the number of best ones that the next distribution is fitted to.
        iterations: how often the distribution is fitted.
        horizon: H, imagined steps.
        particles: P, rollouts of each candidate.
        alpha: share of the old distribution in the new one.
        epsilon: a plan whose largest variance is not above this is finished.
        discount: of the rewards, a step.
        init_deviation: standard deviation of the first iteration's actions, which lie in [-1, 1] (PETS: a quarter of
            their range, 0.5). For discrete actions: the share of uniform choice in the first iteration.
        bounds: how continuous actions are kept in them: "truncated" normals (PETS), which come to a bound over many
            iterations, or "clipped" ones (PlaNet), which are there at once.

    Raises:
        ValueError: a value is out of its range.
    """

    candidates: int = 400
    elites: int = 40
    iterations: int = 5
    horizon: int = 25
    particles: int = 20
    alpha: float = 0.1
    epsilon: float = 0.001
    discount: float = 1.0
    init_deviation: float = 0.5
    bounds: str = "truncated"

    def __post_init__(self) -> None:
        check_count("candidates", self.candidates)
        check_count("elites", self.elites)
        check_count("iterations", self.iterations)
        check_rollouts(self.horizon, self.particles, self.discount)
        if self.elites > self.candidates:
            raise ValueError(f"elites must be at most candidates = {self.candidates}, got {self.elites}")
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha must be at least 0 and below 1, got {self.alpha!r}")
        check_range("epsilon", self.epsilon, 0.0, float("inf"))
        check_range("init_deviation", self.init_deviation, 0.0, 1.0, open_low=True)
        if self.bounds not in ("truncated", "clipped"):
            raise ValueError(f"bounds must be 'truncated' or 'clipped', got {self.bounds!r}")


@dataclass(frozen=True)
class CEMCarry(TensorStruct):
    """The plan before, one step later.

    Attributes:
        centre: [B, H, A] the mean of the actions, or the probabilities of their ones.
    """

    centre: Tensor


class CEM(Planner[CEMCarry]):
    """Fits a distribution over action sequences to the best of its own draws, again and again. Any action space.

    Continuous actions: independent normals; a plan begins around the one before, moved by one step, with the
    full variance; the action is the MEAN's first, not the best candidate's, which is often one that the model errs
    about. One-hot and binary actions: their frequencies among the elites; the action is the most probable one.
    A row whose largest variance is not above ``epsilon`` is finished: it is still evaluated, but stays as it is. So
    does a row without any finite return; elites that are not finite do not count.

    Source: Chua et al. 2018 (PETS); handful-of-trials ``dmbrl/misc/optimizers/cem.py`` and ``controllers/MPC.py``.
    """

    config_class = CEMConfig
    config: CEMConfig

    def _sequences(self, codec: ActionCodec) -> Sequences:
        return sequences_for(codec, clipped=self.config.bounds == "clipped")

    @property
    def imagined_steps(self) -> int:
        """Steps of the model that one plan of one environment takes."""
        config = self.config
        return config.iterations * config.candidates * config.particles * config.horizon

    def initial(self, batch_size: int, device: torch.device | str | None = None) -> CEMCarry:
        """Return the memory [B] of fresh episodes."""
        return CEMCarry(self.sequences.prior(batch_size, self.config.horizon, device))

    @torch.no_grad()
    def plan(
        self,
        model: WorldModel[State],
        state: State,
        carry: CEMCarry,
        generator: torch.Generator | None = None,
    ) -> Plan[CEMCarry]:
        """Return what to do in the beliefs ``state`` [B]."""
        config = self.config
        self._check_sequences("centre", carry.centre, state)
        centre, variance = self.sequences.widen(carry.centre, config.init_deviation)
        value = torch.full_like(centre[:, 0, 0], -torch.inf)
        non_finite = torch.zeros_like(value, dtype=torch.int64)
        for _ in range(config.iterations):
            candidates = self.sequences.draw(centre, variance, config.candidates, generator)  # [B, N, H, A]
            returns, lost = self.evaluate(model, state, candidates, generator)
            elites, counts = best_candidates(candidates, returns, config.elites)
            elite_mean, elite_variance = moments(elites, counts)
            moves = (variance.amax((1, 2)) > config.epsilon) & counts.any(1)
            share = torch.where(moves, 1 - config.alpha, 0.0)[:, None, None]
            centre = torch.lerp(centre, elite_mean, share)
            variance = torch.lerp(variance, elite_variance, share)
            value, non_finite = returns.amax(1), non_finite + lost
        action = self.sequences.action(centre[:, 0])
        tail = self.sequences.prior(state.batch_size, 1, centre.device)
        return Plan(action, CEMCarry(shift(centre, tail)), value, non_finite)
