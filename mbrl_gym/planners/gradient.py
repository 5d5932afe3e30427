"""GradientPlanner: ascent on the actions through a differentiable model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_gym.model import State, WorldModel
from mbrl_gym.planners.base import Plan, Planner, check_count, check_range, check_rollouts, only_finite
from mbrl_gym.planners.sequences import best_candidates, shift
from mbrl_gym.tensors import TensorStruct


@dataclass(frozen=True)
class GradientConfig:
    """Hyperparameters of `GradientPlanner`.

    Attributes:
        candidates: N, restarts that climb at the same time.
        steps: of Adam.
        learning_rate: of Adam, about how far an action moves in one step.
        horizon: H, imagined steps.
        particles: P, rollouts of each candidate.
        init_deviation: standard deviation of the restarts around the plan before. The first restart is that plan.
        discount: of the rewards, a step.

    Raises:
        ValueError: a value is out of its range.
    """

    candidates: int = 16
    steps: int = 20
    learning_rate: float = 0.1
    horizon: int = 25
    particles: int = 5
    init_deviation: float = 0.5
    discount: float = 1.0

    def __post_init__(self) -> None:
        check_count("candidates", self.candidates)
        check_count("steps", self.steps)
        check_rollouts(self.horizon, self.particles, self.discount)
        check_range("learning_rate", self.learning_rate, 0.0, float("inf"), open_low=True)
        check_range("init_deviation", self.init_deviation, 0.0, float("inf"))


@dataclass(frozen=True)
class GradientCarry(TensorStruct):
    """The best sequence of the plan before, one step later, its last action twice.

    Attributes:
        sequence: [B, H, A].
    """

    sequence: Tensor


class GradientPlanner(Planner[GradientCarry]):
    """Improves several sequences by the gradient of their predicted return, and does the first action of the best.

    Adam, with the actions projected to the bounds after each step. A restart whose gradient is not finite does not
    move in that step. The restarts are ranked by a last evaluation after the steps; where none is finite, the plan
    before is kept. Nothing is left on the model's parameters. Continuous actions only, and the model has to be
    differentiable in them.

    Source: Kingma and Ba 2015 (Adam), with its published decay rates 0.9 and 0.999.
    """

    config_class = GradientConfig
    continuous_only = True
    differentiates = True
    config: GradientConfig

    @property
    def imagined_steps(self) -> int:
        """Steps of the model that one plan of one environment takes, without those of the backward passes."""
        config = self.config
        return (config.steps + 1) * config.candidates * config.particles * config.horizon

    def initial(self, batch_size: int, device: torch.device | str | None = None) -> GradientCarry:
        """Return the memory [B] of fresh episodes."""
        return GradientCarry(self.sequences.prior(batch_size, self.config.horizon, device))

    @torch.no_grad()
    def plan(
        self,
        model: WorldModel[State],
        state: State,
        carry: GradientCarry,
        generator: torch.Generator | None = None,
    ) -> Plan[GradientCarry]:
        """Return what to do in the beliefs ``state`` [B].

        Raises:
            ValueError: the model's return has no gradient, or ``carry`` does not belong to this call.
        """
        config, start = self.config, carry.sequence
        self._check_sequences("sequence", start, state)
        shape = (start.shape[0], config.candidates - 1, *start.shape[1:])
        noise = torch.randn(shape, generator=generator, device=start.device)
        others = (start[:, None] + config.init_deviation * noise).clamp(-1, 1)
        actions = torch.cat([start[:, None], others], dim=1)  # [B, N, H, A]
        first, second = torch.zeros_like(actions), torch.zeros_like(actions)  # Adam's moments
        non_finite = torch.zeros_like(start[:, 0, 0], dtype=torch.int64)
        for i in range(1, config.steps + 1):
            gradient, lost = self._gradient(model, state, actions, generator)
            moves = gradient.isfinite().all(-1).all(-1)[:, :, None, None]
            first = torch.where(moves, torch.lerp(gradient, first, 0.9), first)
            second = torch.where(moves, torch.lerp(gradient.square(), second, 0.999), second)
            change = (first / (1 - 0.9**i)) / ((second / (1 - 0.999**i)).sqrt() + 1e-8)
            actions = torch.where(moves, actions + config.learning_rate * change, actions).clamp(-1, 1)
            non_finite = non_finite + lost
        returns, lost = self.evaluate(model, state, actions, generator)
        best, counts = best_candidates(actions, returns, 1)
        best = torch.where(counts[:, :, None, None], best, start[:, None])[:, 0]  # [B, H, A]
        return Plan(best[:, 0], GradientCarry(shift(best, best[:, -1:])), returns.amax(1), non_finite + lost)

    def _gradient(
        self, model: WorldModel[State], state: State, actions: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return the returns' gradient [B, N, H, A] in ``actions``, and how many returns [B] were not finite."""
        with torch.enable_grad():
            actions = actions.detach().requires_grad_()
            returns = self.returns(model, state, actions, generator)
            if not returns.requires_grad:
                raise ValueError(
                    f"model must be differentiable in its actions, got a {type(model).__name__} whose return has no "
                    "gradient; use ICEM, which needs none"
                )
            # Candidates do not mix, so that the gradient of the sum is that of each one.
            (gradient,) = torch.autograd.grad(returns.sum(), actions)
        return gradient, only_finite(returns.detach())[1]
