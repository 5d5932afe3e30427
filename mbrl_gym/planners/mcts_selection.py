"""How a tree search chooses: UCT, PUCT and Gumbel, each a strategy over the statistics of all nodes at once.

Shapes: B environments, M nodes (the first is the root), A actions.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST_RANGE = 1e-8  # by which values are divided where they are all the same


class Edges(NamedTuple):
    """What a search knows of the actions of its nodes.

    Attributes:
        visits: [B, M, A] float32, simulations that went this way and had a finite return.
        value: [B, M, A] their mean return from the node on, 0 where there was none.
        prior: [B, M, A] logarithms of the policy's probabilities, finite.
        usable: [B, M, A] bool, false where the model broke down.
        estimate: [B, M] what the node seemed to be worth when it was reached first.
    """

    visits: Tensor
    value: Tensor
    prior: Tensor
    usable: Tensor
    estimate: Tensor

    @property
    def tried(self) -> Tensor:
        """[B, M, A] bool, where ``value`` is known and counts."""
        return (self.visits > 0) & self.usable

    def root(self) -> "Edges":
        """Return the root's alone: M = 1."""
        return Edges(*(x[:, :1] for x in self))


class Selection(ABC):
    """Chooses the action that a simulation takes in each node, and in the end the one that is done."""

    def noise(self, prior: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return [B, A]: what is drawn once a search for the root, whose ``prior`` [B, A] is given; here zeros."""
        return torch.zeros_like(prior)

    @abstractmethod
    def scores(self, edges: Edges, noise: Tensor) -> Tensor:
        """Return [B, M, A]; in every node the action of the highest score is taken, of those that are usable."""

    def decision(self, edges: Edges, noise: Tensor) -> Tensor:
        """Return the root's scores [B, A] in the end: the visits, ties by value."""
        root = edges.root()
        return (root.visits + 0.5 * normalised(root))[:, 0]

    def policy(self, edges: Edges) -> Tensor:
        """Return [B, A]: the probabilities that a policy should learn from this search, here the share of visits."""
        root = edges.root()
        visits = torch.where(root.usable, root.visits, 0.0)[:, 0]
        total = visits.sum(-1, keepdim=True)
        return torch.where(total > 0, visits / total.clamp(min=1), root.prior[:, 0].exp())


@dataclass(frozen=True)
class UCT(Selection):
    """Q + c sqrt(ln(N) / n), with N the sum of n over the node's actions; what was not tried yet comes first.

    Among what was not tried the more probable comes first, else the prior is not used. Q is `normalised`, so that c
    means the same whatever the rewards are. Source: Kocsis and Szepesvari 2006, section 2.2 (recalled), where Q lies in
    [0, 1] and c = sqrt(2).

    Attributes:
        exploration: c.
    """

    exploration: float

    def scores(self, edges: Edges, noise: Tensor) -> Tensor:
        """Return [B, M, A]."""
        total = edges.visits.sum(-1, keepdim=True).clamp(min=1)
        bonus = self.exploration * (total.log() / edges.visits.clamp(min=1)).sqrt()
        untried = (edges.visits == 0) & edges.usable
        first = torch.where(untried, edges.prior, -torch.inf)
        return torch.where(untried.any(-1, keepdim=True), first, normalised(edges) + bonus)


@dataclass(frozen=True)
class PUCT(Selection):
    """Q + p sqrt(N) / (1 + n) (c1 + ln((N + c2 + 1) / c2)), with Q `normalised` and 0 for what was not tried.

    N are the visits of the node, the one that made it included. The root's p has a share of Dirichlet noise, for
    exploration while a policy is learned. Source: Schrittwieser et al. 2020 (MuZero), appendix B, equations 2 and 5
    (recalled); mctx ``_src/action_selection.py`` and ``_src/policies.py`` (which normalise by node and siblings alone).

    Attributes:
        init: c1.
        base: c2.
        alpha: concentration of the Dirichlet noise.
        fraction: its share.
    """

    init: float
    base: float
    alpha: float
    fraction: float

    def noise(self, prior: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return what is added to the root's probabilities [B, A]."""
        if self.fraction == 0:
            return torch.zeros_like(prior)
        # The distributions of torch take no generator; this is what they draw with.
        gamma = torch._standard_gamma(torch.full_like(prior, self.alpha), generator)
        gamma = gamma.clamp(min=torch.finfo(gamma.dtype).tiny)
        return self.fraction * (gamma / gamma.sum(-1, keepdim=True) - prior.exp())

    def scores(self, edges: Edges, noise: Tensor) -> Tensor:
        """Return [B, M, A]."""
        probability = edges.prior.exp()
        probability = torch.cat([probability[:, :1] + noise[:, None], probability[:, 1:]], dim=1)
        total = 1 + edges.visits.sum(-1, keepdim=True)
        rate = self.init + ((total + self.base + 1) / self.base).log()
        return normalised(edges) + probability * total.sqrt() / (1 + edges.visits) * rate


@dataclass(frozen=True)
class Gumbel(Selection):
    """Sequential halving with Gumbel noise at the root; below it, visits in proportion to the improved policy.

    The improved policy is softmax(ln p + sigma(Q)), sigma(Q) = (c_visit + max n) c_scale Q, with Q between 0 and 1 over
    the node's actions. Where an action was not tried, the node's mixed value stands for it. Source: Danihelka et al.
    2022, sections 3 to 5 and appendix D (recalled); mctx ``_src/qtransforms.py``, ``_src/seq_halving.py``,
    ``_src/action_selection.py``.

    Attributes:
        simulations: of a search.
        considered: actions that the root considers, drawn without replacement.
        scale: of the Gumbel noise.
        visit_offset: c_visit.
        value_scale: c_scale.
    """

    simulations: int
    considered: int
    scale: float
    visit_offset: float
    value_scale: float

    def noise(self, prior: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return Gumbel noise [B, A]."""
        uniform = torch.rand(prior.shape, generator=generator, device=prior.device, dtype=prior.dtype)
        tiny = torch.finfo(prior.dtype).tiny
        return -self.scale * (-uniform.clamp(min=tiny).log()).clamp(min=tiny).log()

    def scores(self, edges: Edges, noise: Tensor) -> Tensor:
        """Return [B, M, A]."""
        logits = self._logits(edges)
        share = edges.visits / (1 + edges.visits.sum(-1, keepdim=True))
        below = _softmax(logits, edges.usable) - share
        visits = edges.visits[:, 0]
        plan = considered_visits(min(self.considered, visits.shape[-1]), self.simulations, visits.device)
        turn = visits.sum(-1, keepdim=True).long().clamp(max=self.simulations - 1)
        root = _among(plan[turn] == visits, edges.usable[:, 0], logits[:, 0] + noise)
        return torch.cat([root[:, None], below[:, 1:]], dim=1)

    def decision(self, edges: Edges, noise: Tensor) -> Tensor:
        """Return the root's scores [B, A]: of the most visited, noise and improved policy."""
        visits, usable = edges.visits[:, 0], edges.usable[:, 0]
        most = torch.where(usable, visits, -1.0).amax(-1, keepdim=True)
        return _among(visits == most, usable, self._logits(edges.root())[:, 0] + noise)

    def policy(self, edges: Edges) -> Tensor:
        """Return the improved policy [B, A] of the root."""
        root = edges.root()
        usable = root.usable | ~root.usable.any(-1, keepdim=True)
        return _softmax(self._logits(root), usable)[:, 0]

    def _logits(self, edges: Edges) -> Tensor:
        """Return ln p + sigma(completed Q) [B, M, A]."""
        tried, probability = edges.tried, edges.prior.exp()
        weight = torch.where(tried, probability, 0.0)
        mean = (weight * edges.value).sum(-1) / weight.sum(-1).clamp(min=torch.finfo(weight.dtype).tiny)
        visits = torch.where(tried, edges.visits, 0.0)
        count = visits.sum(-1)
        mixed = (edges.estimate + count * mean) / (count + 1)  # [B, M]
        mixed = torch.where(edges.estimate.isfinite(), mixed, mean)  # the root's may be none, where a rollout diverged
        completed = torch.where(tried, edges.value, mixed[..., None])
        low, high = completed.amin(-1, keepdim=True), completed.amax(-1, keepdim=True)
        completed = (completed - low) / (high - low).clamp(min=SMALLEST_RANGE)
        sigma = self.value_scale * (self.visit_offset + visits.amax(-1, keepdim=True))
        return edges.prior + sigma * completed


def normalised(edges: Edges) -> Tensor:
    """Return Q [B, M, A] as a share of its range over all that was tried in the tree; 0 where nothing was.

    Source: MuZero, equation 5. Unlike the running extremes of its pseudocode these are the current values'.
    """
    tried = edges.tried
    low = torch.where(tried, edges.value, torch.inf).amin((1, 2), keepdim=True)
    high = torch.where(tried, edges.value, -torch.inf).amax((1, 2), keepdim=True)
    return torch.where(tried, (edges.value - low) / (high - low).clamp(min=SMALLEST_RANGE), 0.0)


@lru_cache(maxsize=64)
def considered_visits(considered: int, simulations: int, device: torch.device) -> Tensor:
    """Return [simulations] float32: sequential halving tries next an action that was visited this often.

    It is kept, because a CUDA graph cannot fetch it from the host.

    Args:
        considered: actions in the first round; in each further one half of them.
        simulations: the budget, about the same for every round.
        device: where to.
    """
    rounds = max(1, math.ceil(math.log2(considered)))
    visits, left, order = [0] * considered, considered, list[int]()
    while len(order) < simulations:
        for _ in range(max(1, simulations // (rounds * left))):
            order += visits[:left]
            visits[:left] = [number + 1 for number in visits[:left]]
        left = max(min(2, considered), left // 2)
    return torch.tensor(order[:simulations], dtype=torch.float32, device=device)


def _among(chosen: Tensor, usable: Tensor, scores: Tensor) -> Tensor:
    """Return ``scores`` [B, A], -inf for all but the ``chosen`` that are usable, or where there is none, the usable."""
    chosen = chosen & usable
    return torch.where(torch.where(chosen.any(-1, keepdim=True), chosen, usable), scores, -torch.inf)


def _softmax(logits: Tensor, usable: Tensor) -> Tensor:
    """Return probabilities [..., A] of what is usable; NaN where nothing is."""
    return torch.where(usable, logits, -torch.inf).softmax(-1)
