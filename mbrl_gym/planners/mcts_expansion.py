"""Expansion: the model's side of a tree search, which makes nodes and says what they are worth.

Shapes: B environments, P particles (innermost), H horizon, A actions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Tensor

from mbrl_gym.model import State, WorldModel
from mbrl_gym.planners.mcts_tree import Leaf
from mbrl_gym.planners.sequences import Sequences


@dataclass(frozen=True)
class Expansion(Generic[State]):
    """Takes steps in a model for a search.

    Attributes:
        model: where to imagine.
        sequences: of the action space, one group of one-hots.
        actions: A.
        particles: P, hypotheses of a node.
        horizon: H, steps from the root at which rollouts end.
        discount: of the rewards, a step.
        sample: whether steps are drawn from the model's distribution.
        terminal_value: beliefs [B * P] -> [B * P], what a node is worth; None: what a rollout brings.
        prior: beliefs [B * P] -> logits [B * P, A] of the policy; None: all actions are alike.
        generator: source of all randomness.
    """

    model: WorldModel[State]
    sequences: Sequences
    actions: int
    particles: int
    horizon: int
    discount: float
    sample: bool
    terminal_value: Callable[[Any], Tensor] | None
    prior: Callable[[Any], Tensor] | None
    generator: torch.Generator | None

    def root(self, state: State) -> Leaf[State]:
        """Return the root of the beliefs ``state`` [B]; its estimate may be no number, where rollouts diverge."""
        state = self.model.branch(state, self.particles) if self.particles > 1 else state
        alive = torch.ones(state.batch_size, dtype=torch.bool, device=state.tensors()[0].device)
        nothing = torch.zeros_like(alive, dtype=torch.float32)
        return self._leaf(state, alive, nothing, torch.zeros_like(alive, dtype=torch.int64), self.horizon)

    def child(self, state: State, alive: Tensor, action: Tensor, depth: Tensor) -> Leaf[State]:
        """Return what ``action`` [B] leads to, at ``depth`` [B] steps from the root, one more than where it is taken.

        Args:
            state: beliefs [B * P] where it is taken.
            alive: [B * P] bool, the particles whose episode had not ended there.
            action: [B] int64.
            depth: [B] int64.
        """
        encoded = (action[:, None] == torch.arange(self.actions, device=action.device)).float()
        state, reward, alive = self._step(state, encoded.repeat_interleave(self.particles, dim=0), alive)
        return self._leaf(state, alive, reward, depth.repeat_interleave(self.particles), self.horizon - 1)

    def _step(self, state: State, action: Tensor, alive: Tensor) -> tuple[State, Tensor, Tensor]:
        """Return the next beliefs, what the living rows earned (NaN if they diverged), and which live on, [B * P]."""
        state, step = self.model.predict(state, action, self.generator, self.sample, uncertainty=False)
        reward = torch.where(alive, step.reward.float(), 0.0)
        if "diverged" in step.info:
            reward = torch.where(alive & step.info["diverged"], torch.nan, reward)
        return state, reward, alive & ~(step.terminated | step.truncated)

    def _leaf(self, state: State, alive: Tensor, reward: Tensor, depth: Tensor, steps: int) -> Leaf[State]:
        """Return a node from what is known of its particles [B * P]; ``steps`` are those of the longest rollout."""
        probability = self._policy(state)
        if self.terminal_value is None:
            value = self._rollout(state, alive, probability, depth, steps)
        else:
            value = self.terminal_value(state)
            _check_shape("terminal_value", value, alive.shape)
            value = torch.where(alive, value.float(), 0.0)
        mean = probability.view(-1, self.particles, self.actions).mean(1)
        prior = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()
        return Leaf(state, alive, self._mean(reward), self._mean(value), prior)

    def _rollout(self, state: State, alive: Tensor, probability: Tensor, depth: Tensor, steps: int) -> Tensor:
        """Return [B * P]: the discounted rewards of the policy from ``depth`` to the horizon."""
        total = torch.zeros_like(alive, dtype=torch.float32)
        # Without a prior all steps' actions are drawn at once.
        actions = self._draw(probability, steps) if self.prior is None else None
        for t in range(steps):
            alive = alive & (depth + t < self.horizon)
            action = self._draw(self._policy(state), 1)[:, 0] if actions is None else actions[:, t]
            state, reward, alive = self._step(state, action, alive)
            total = total + reward * self.discount**t
        return total

    def _draw(self, probability: Tensor, steps: int) -> Tensor:
        """Return one-hot actions [B * P, steps, A] from probabilities [B * P, A]."""
        probability = probability[:, None].expand(-1, steps, -1)
        return self.sequences.draw(probability, probability, 1, self.generator)[:, 0]

    def _policy(self, state: State) -> Tensor:
        """Return [B * P, A]: the prior's probabilities, all alike where there is none or it is not a number."""
        uniform = torch.full((state.batch_size, self.actions), 1 / self.actions, device=state.tensors()[0].device)
        if self.prior is None:
            return uniform
        logits = self.prior(state)
        _check_shape("prior", logits, uniform.shape)
        probability = logits.float().softmax(-1)
        return torch.where(probability.isfinite().all(-1, keepdim=True), probability, uniform)

    def _mean(self, x: Tensor) -> Tensor:
        """Return the mean over particles [B] of ``x`` [B * P]."""
        return x.view(-1, self.particles).mean(1)


def _check_shape(name: str, value: Tensor, wanted: torch.Size) -> None:
    if value.shape != wanted:
        raise ValueError(f"{name} must return {tuple(wanted)} for as many beliefs, got {tuple(value.shape)}")
