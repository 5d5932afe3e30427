"""SearchTree: the trees of B searches that grow in step, one node a simulation.

Shapes: B environments, P particles (innermost), N = simulations + 1 nodes, M of them so far, A actions, D depth.
"""

from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from mbrl_gym.model import State
from mbrl_gym.planners.mcts_selection import Edges


@dataclass(frozen=True)
class Leaf(Generic[State]):
    """What an expansion brought.

    Attributes:
        state: beliefs [B * P].
        alive: [B * P] bool, the particles whose episode goes on.
        reward: [B] that arrived, the mean over particles, with 0 for those that had ended before.
        value: [B] what is expected from there on, likewise; NaN or infinite where the model broke down.
        prior: [B, A] logarithms of the policy's probabilities.
    """

    state: State
    alive: Tensor
    reward: Tensor
    value: Tensor
    prior: Tensor


class SearchTree(Generic[State]):
    """The only thing that changes in a search: its methods write to its own tensors.

    Nothing is read on the host, and no loop runs over rows or nodes: every node keeps the edges of its path from the
    root, so that a simulation is backed up at once. Memory: N states of B * P rows, and B * N * D numbers.

    Args:
        root: the beliefs to search from, and what they are worth.
        simulations: nodes to come.
        depth: D, nodes at this depth are not expanded.
        discount: of the rewards, a step.
    """

    def __init__(self, root: Leaf[State], simulations: int, depth: int, discount: float) -> None:
        nodes, (batch, actions) = simulations + 1, root.prior.shape
        depth = min(depth, simulations)
        self._rows = torch.arange(root.alive.shape[0], device=root.alive.device)
        self._particles = root.alive.shape[0] // batch
        self._states = root.state.map(lambda x: x.new_zeros((nodes, *x.shape)))  # [N, B * P, ...]
        self._alive = root.alive.new_zeros((nodes, *root.alive.shape))
        self._visits, self._total = (root.prior.new_zeros(batch, nodes, actions) for _ in range(2))
        self._prior = torch.zeros_like(self._visits)
        self._usable = torch.ones_like(self._visits, dtype=torch.bool)
        self._child = torch.zeros_like(self._visits, dtype=torch.int64)  # 0: none, the root is nobody's child
        self._estimate = torch.zeros_like(self._visits[..., 0])
        self._ended = torch.zeros_like(self._estimate, dtype=torch.bool)
        self._depth = torch.zeros_like(self._estimate, dtype=torch.int64)
        self._path = self._depth.new_zeros(batch, nodes, depth)  # edges from the root, node * A + action
        self._rewards = self._estimate.new_zeros(batch, nodes, depth)  # and what arrived with them
        steps = torch.arange(depth + 1, device=self._rows.device)
        ahead = steps[:, None] - steps[:-1]
        # [D + 1, D]: what a reward counts for the return of an edge that comes before it
        self._discounts = torch.where(ahead >= 0, discount ** ahead.clamp(min=0).to(root.prior.dtype), 0.0)
        self.size = 1
        self._write(0, root)

    def edges(self) -> Edges:
        """Return the statistics of the M nodes.

        An action that leads where no action is usable is marked as not usable itself, one level a call.
        """
        visits, total, child = self._visits[:, : self.size], self._total[:, : self.size], self._child[:, : self.size]
        usable = self._usable[:, : self.size]
        dead = ~usable.any(-1)  # [B, M]
        dead = dead.gather(1, child.flatten(1)).view_as(child) & (child > 0)
        usable &= ~dead
        prior, estimate = self._prior[:, : self.size], self._estimate[:, : self.size]
        return Edges(visits, total / visits.clamp(min=1), prior, usable, estimate)

    def descend(self, action: Tensor) -> Tensor:
        """Return [B]: the nodes at which simulations stop that take ``action`` [B, M] in each node.

        They have no child for it, or are not to be expanded.
        """
        here = torch.arange(self.size, device=action.device)
        child = self._child[:, : self.size].gather(2, action[..., None])[..., 0]
        following = torch.where((child > 0) & ~self._ended[:, : self.size], child, here)
        # Following every pointer at once doubles the steps that all of them stand for.
        for _ in range((min(self.size - 1, self._path.shape[-1])).bit_length()):
            following = following.gather(1, following)
        return following[:, 0]

    def belief(self, node: Tensor) -> tuple[State, Tensor]:
        """Return the beliefs [B * P] of the nodes [B], and which particles [B * P] bool are alive there."""
        index = node.repeat_interleave(self._particles)
        return self._states.map(lambda x: x[index, self._rows]), self._alive[index, self._rows]

    def depth(self, node: Tensor) -> Tensor:
        """Return the depths [B] of the nodes [B]."""
        return self._depth.gather(1, node[:, None])[:, 0]

    def grow(self, node: Tensor, action: Tensor, leaf: Leaf[State]) -> Tensor:
        """Add what ``action`` [B] at ``node`` [B] led to, back it up, and return [B] bool: where this had no meaning.

        Where the node is not to be expanded, its own estimate is backed up again. Where the return is not finite the
        action is not usable from now on, and nothing else changes.
        """
        new, row, edge = self.size, node[:, None], node[:, None] * self._visits.shape[-1] + action[:, None]
        depth = self._depth.gather(1, row)
        over = self._ended.gather(1, row)
        known = self._usable.flatten(1).gather(1, edge)
        self._write(new, leaf)
        for paths, value in ((self._path, edge), (self._rewards, leaf.reward[:, None])):
            path = paths.gather(1, row[..., None].expand(-1, 1, paths.shape[-1]))[:, 0]
            paths[:, new] = path.scatter(1, depth.clamp(max=paths.shape[-1] - 1), value)
        self._depth[:, new] = depth[:, 0] + 1
        self._ended[:, new] |= self._depth[:, new] >= self._path.shape[-1]

        last = torch.where(over, row, new)
        returns, path, on_path = self._returns(last)
        finite = (returns.isfinite() | ~on_path).all(-1, keepdim=True) & known
        counts = on_path & finite
        self._visits.flatten(1).scatter_add_(1, path, counts.to(returns.dtype))
        self._total.flatten(1).scatter_add_(1, path, torch.where(counts, returns, 0.0))
        children = self._child.flatten(1)
        children.scatter_(1, edge, torch.where(finite, new, children.gather(1, edge)))
        self._usable.flatten(1).scatter_(1, edge, finite)
        self.size += 1
        return ~finite[:, 0]

    def _write(self, new: int, leaf: Leaf[State]) -> None:
        for kept, given in zip(self._states.tensors(), leaf.state.tensors(), strict=True):
            kept[new] = given
        self._alive[new] = leaf.alive
        self._prior[:, new], self._estimate[:, new] = leaf.prior, leaf.value
        self._ended[:, new] = ~leaf.alive.view(-1, self._particles).any(-1)

    def _returns(self, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the path to the nodes ``last`` [B, 1]: each edge's return, the edges, which of them exist, [B, D]."""
        index = last[..., None].expand(-1, 1, self._path.shape[-1])
        path, rewards = self._path.gather(1, index)[:, 0], self._rewards.gather(1, index)[:, 0]
        depth = self._depth.gather(1, last)
        income = torch.nn.functional.pad(rewards, (0, 1)).scatter(1, depth, self._estimate.gather(1, last))
        steps = torch.arange(path.shape[-1], device=path.device)
        return (income[..., None] * self._discounts).sum(1), path, steps < depth
