"""MCTS: Monte-Carlo tree search over the explicit states of a world model, for discrete actions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mbrl_gym.model import State, WorldModel
from mbrl_gym.planners.base import Plan, Planner, check_count, check_range, check_rollouts
from mbrl_gym.planners.mcts_expansion import Expansion
from mbrl_gym.planners.mcts_selection import PUCT, UCT, Edges, Gumbel, Selection
from mbrl_gym.planners.mcts_tree import SearchTree
from mbrl_gym.planners.shooting import NoCarry
from mbrl_gym.spaces import ActionCodec
from mbrl_gym.tensors import TensorStruct

INFINITY = float("inf")


@dataclass(frozen=True)
class MCTSConfig:
    """Hyperparameters of `MCTS`.

    Attributes:
        simulations: of a plan, each of which adds one node to the tree.
        horizon: H, steps that a simulation looks ahead: in the tree, and from its leaf on by a rollout, where no
            terminal value says what the leaf is worth.
        particles: P, hypotheses that every node holds, and rollouts from every leaf.
        discount: of the rewards, a step; that of the critic, where a terminal value comes from one.
        selection: "uct", "puct" or "gumbel".
        sample: draw imagined steps from the model's distribution; False: take its mean.
        exploration: c of UCT.
        puct_init: c1 of PUCT.
        puct_base: c2 of PUCT.
        dirichlet_alpha: concentration of the noise on PUCT's root.
        dirichlet_fraction: its share of the root's probabilities; 0 for acting, 0.25 to explore (MuZero).
        considered: m of Gumbel, actions that the root considers.
        gumbel_scale: of Gumbel's noise; 0 has the best action win, where all of them are considered.
        visit_offset: c_visit of Gumbel.
        value_scale: c_scale of Gumbel.

    Raises:
        ValueError: a value is out of its range.
    """

    simulations: int = 50
    horizon: int = 20
    particles: int = 1
    discount: float = 1.0
    selection: str = "puct"
    sample: bool = False
    exploration: float = 1.4142135623730951
    puct_init: float = 1.25
    puct_base: float = 19652.0
    dirichlet_alpha: float = 0.3
    dirichlet_fraction: float = 0.0
    considered: int = 16
    gumbel_scale: float = 1.0
    visit_offset: float = 50.0
    value_scale: float = 0.1

    def __post_init__(self) -> None:
        check_count("simulations", self.simulations)
        check_rollouts(self.horizon, self.particles, self.discount)
        if self.selection not in SELECTIONS:
            raise ValueError(f"selection must be one of {', '.join(SELECTIONS)}, got {self.selection!r}")
        check_range("exploration", self.exploration, 0.0, INFINITY)
        check_range("puct_init", self.puct_init, 0.0, INFINITY)
        check_range("puct_base", self.puct_base, 0.0, INFINITY, open_low=True)
        check_range("dirichlet_alpha", self.dirichlet_alpha, 0.0, INFINITY, open_low=True)
        check_range("dirichlet_fraction", self.dirichlet_fraction, 0.0, 1.0)
        check_count("considered", self.considered)
        check_range("gumbel_scale", self.gumbel_scale, 0.0, INFINITY)
        check_range("visit_offset", self.visit_offset, 0.0, INFINITY)
        check_range("value_scale", self.value_scale, 0.0, INFINITY)


SELECTIONS: dict[str, Callable[[MCTSConfig], Selection]] = {
    "uct": lambda c: UCT(c.exploration),
    "puct": lambda c: PUCT(c.puct_init, c.puct_base, c.dirichlet_alpha, c.dirichlet_fraction),
    "gumbel": lambda c: Gumbel(c.simulations, c.considered, c.gumbel_scale, c.visit_offset, c.value_scale),
}


@dataclass(frozen=True)
class SearchResult(TensorStruct):
    """What a search found at its root.

    Attributes:
        action: [B, A] one-hot, what to do.
        visits: [B, A] int64, simulations that took each action and had a finite return.
        q: [B, A] their mean return; 0 where there was none, -inf where the model broke down.
        value: [B] the mean return of all simulations and of the root's own estimate: what a critic should learn.
        policy: [B, A] probabilities that a policy should learn: the share of visits, or Gumbel's improved policy.
        non_finite: [B] int64, simulations whose return was not finite.
    """

    action: Tensor
    visits: Tensor
    q: Tensor
    value: Tensor
    policy: Tensor
    non_finite: Tensor


class MCTS(Planner[NoCarry]):
    """Grows a tree over the model's states and does what its root prefers. Discrete actions; no memory.

    A simulation descends from the root by `Selection`, takes one new step in the model, and backs up what the new
    node is worth: a critic's ``terminal_value``, or the rewards of a rollout up to the horizon, by the ``prior``
    policy. So without a critic the returns of all simulations are those of exactly ``horizon`` steps, as the other
    planners' are; with one, ``horizon`` bounds the depth of the tree. All environments search in step, one call of the
    model a simulation. Where an episode ended nothing is expanded and the value is 0.

    With several particles a node holds as many hypotheses, made by `WorldModel.branch` at the root, and rewards and
    values are their mean, with 0 for those whose episode had ended: so the return of a sequence of actions is what
    `trajectory_return` says of it. An action after which a living particle diverges, or whose return is not finite, is
    never taken again; if all actions of a node are such, so is the one that led there.

    Source: Kocsis and Szepesvari 2006 (UCT), Schrittwieser et al. 2020 (MuZero), Danihelka et al. 2022 (Gumbel), all
    recalled; checked against mctx, ``_src/search.py``, ``_src/qtransforms.py`` and ``_src/policies.py``.

    Args:
        action_codec: the model's.
        config: the hyperparameters.
        terminal_value: beliefs [B] -> [B], what a leaf is worth.
        prior: beliefs [B] -> logits [B, A] of a policy that proposes actions; None: all are alike.

    Raises:
        ValueError: ``config`` is of another planner, or the action space is not Discrete.
    """

    config_class = MCTSConfig
    config: MCTSConfig

    def __init__(
        self,
        action_codec: ActionCodec,
        config: MCTSConfig | None = None,
        terminal_value: Callable[[Any], Tensor] | None = None,
        prior: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(action_codec, config, terminal_value)
        if len(action_codec.groups) != 1:
            raise ValueError(
                f"action_space must be Discrete for MCTS, got {action_codec.space}; use CEM, which plans in any space"
            )
        self.prior = prior
        self.selection = SELECTIONS[self.config.selection](self.config)

    @property
    def imagined_steps(self) -> int:
        """Steps of the model that one plan of one environment takes; without a critic the root has rollouts too."""
        config = self.config
        if self.terminal_value is not None:
            return config.particles * config.simulations
        return config.particles * config.horizon * (config.simulations + 1)

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
        """Return what to do in the beliefs ``state`` [B]; ``value`` is that of the action, -inf if it has no return."""
        if carry.batch_size != state.batch_size:
            raise ValueError(
                f"carry must have the B = {state.batch_size} of state, got {carry.batch_size}; "
                "begin with the carry of initial(batch_size)"
            )
        found = self.search(model, state, generator)
        taken = (found.action > 0) & (found.visits > 0)
        value = torch.where(taken, found.q, -torch.inf).amax(1)
        return Plan(found.action, carry, value, found.non_finite)

    @torch.no_grad()
    def search(self, model: WorldModel[State], state: State, generator: torch.Generator | None = None) -> SearchResult:
        """Return what a search from the beliefs ``state`` [B] finds.

        Args:
            model: where to imagine.
            state: beliefs [B]; their device is where everything is computed.
            generator: source of all randomness, on the device of ``state``; None: torch's global one.

        Raises:
            ValueError: ``terminal_value`` or ``prior`` return something of another shape.
        """
        config = self.config
        imagined = self._expansion(model, generator)
        tree = SearchTree(imagined.root(state), config.simulations, config.horizon, config.discount)
        edges = tree.edges()
        noise = self.selection.noise(edges.prior[:, 0], generator)
        shape = (len(noise), config.simulations + 1, self.action_codec.size)
        draw = torch.rand(shape, generator=generator, device=noise.device)  # who wins a tie
        non_finite = torch.zeros_like(edges.estimate[:, 0], dtype=torch.int64)
        for _ in range(config.simulations):
            action = _best(self.selection.scores(edges, noise), edges.usable, draw[:, : tree.size])  # [B, M]
            node = tree.descend(action)
            taken = action.gather(1, node[:, None])[:, 0]
            leaf = imagined.child(*tree.belief(node), taken, tree.depth(node) + 1)
            non_finite = non_finite + tree.grow(node, taken, leaf)
            edges = tree.edges()
        return self._result(edges.root(), noise, draw[:, 0], non_finite)

    def _expansion(self, model: WorldModel[State], generator: torch.Generator | None) -> Expansion[State]:
        config = self.config
        return Expansion(
            model,
            self.sequences,
            self.action_codec.size,
            config.particles,
            config.horizon,
            config.discount,
            config.sample,
            self.terminal_value,
            self.prior,
            generator,
        )

    def _result(self, root: Edges, noise: Tensor, draw: Tensor, non_finite: Tensor) -> SearchResult:
        usable, visits, value = root.usable[:, 0], root.visits[:, 0], root.value[:, 0]
        best = _best(self.selection.decision(root, noise), usable, draw)
        known = root.estimate.isfinite().float()
        total = (visits * value).sum(-1, keepdim=True) + root.estimate.nan_to_num(0.0, 0.0, 0.0)
        return SearchResult(
            action=(best[:, None] == torch.arange(usable.shape[-1], device=usable.device)).float(),
            visits=visits.long(),
            q=torch.where(usable, value, -torch.inf),
            value=(total / (visits.sum(-1, keepdim=True) + known).clamp(min=1))[:, 0],
            policy=self.selection.policy(root),
            non_finite=non_finite,
        )


def _best(scores: Tensor, usable: Tensor, draw: Tensor) -> Tensor:
    """Return the index of the highest score of what is usable, of several the one with the highest ``draw``.

    With a preference for the first of equals a cart on which all pushes are still safe is always pushed to the left.
    """
    scores = torch.where(usable, scores, -torch.inf)
    return torch.where(scores == scores.amax(-1, keepdim=True), draw, -1.0).argmax(-1)
