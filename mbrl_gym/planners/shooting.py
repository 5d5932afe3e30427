"""RandomShooting: the best of many random action sequences."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_gym.model import State, WorldModel
from mbrl_gym.planners.base import Plan, Planner, check_count, check_rollouts
from mbrl_gym.planners.sequences import best_candidates
from mbrl_gym.tensors import TensorStruct


@dataclass(frozen=True)
class RandomShootingConfig:
    """Hyperparameters of `RandomShooting`.

    Attributes:
        candidates: N, random sequences.
        horizon: H, imagined steps.
        particles: P, rollouts of each candidate.
        discount: of the rewards, a step.

    Raises:
        ValueError: a value is out of its range.
    """

    candidates: int = 1000
    horizon: int = 20
    particles: int = 1
    discount: float = 1.0

    def __post_init__(self) -> None:
        check_count("candidates", self.candidates)
        check_rollouts(self.horizon, self.particles, self.discount)


@dataclass(frozen=True)
class NoCarry(TensorStruct):
    """No memory, for a known number of environments.

    Attributes:
        nothing: [B, 0].
    """

    nothing: Tensor


class RandomShooting(Planner[NoCarry]):
    """Draws sequences uniformly and does the first action of the best. Any action space; no memory.

    Source: PETS' baseline (handful-of-trials ``dmbrl/misc/optimizers/random.py``).
    """

    config_class = RandomShootingConfig
    config: RandomShootingConfig

    @property
    def imagined_steps(self) -> int:
        """Steps of the model that one plan of one environment takes."""
        return self.config.candidates * self.config.particles * self.config.horizon

    def initial(self, batch_size: int, device: torch.device | str | None = None) -> NoCarry:
        """Return the memory [B] of fresh episodes."""
        return NoCarry(torch.zeros(batch_size, 0, device=device))

    @torch.no_grad()
    def plan(
        self,
        model: WorldModel[State],
        state: State,
        carry: NoCarry,
        generator: torch.Generator | None = None,
    ) -> Plan[NoCarry]:
        """Return what to do in the beliefs ``state`` [B]; where no return is finite, the first candidate's action."""
        if carry.batch_size != state.batch_size:
            raise ValueError(
                f"carry must have the B = {state.batch_size} of state, got {carry.batch_size}; "
                "begin with the carry of initial(batch_size)"
            )
        prior = self.sequences.prior(state.batch_size, self.config.horizon, state.tensors()[0].device)
        candidates = self.sequences.uniform(prior, self.config.candidates, generator)
        returns, non_finite = self.evaluate(model, state, candidates, generator)
        best, _ = best_candidates(candidates, returns, 1)
        return Plan(best[:, 0, 0], carry, returns.amax(1), non_finite)
