"""Cells that carry an RSSM's deterministic state: the GRUs of PlaNet and DreamerV1, of DreamerV2, of DreamerV3.

Each splits its work: `embed` does what depends on the action alone, for all steps of a sequence at once and outside of
the loop over time; `forward` does the rest of one step.

Shapes: B batch, A encoded action, D deterministic state, S flat stochastic state, H hidden, G blocks.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from mbrl_gym.nets.blocks import (
    ACTIVATIONS,
    BlockLinear,
    Linear,
    RMSNorm,
    activated,
    by_block,
    cachefuls,
    pays_at_once,
    truncated_,
)
from mbrl_gym.nets.precision import rounded


class Cell(nn.Module, ABC):
    """One step of a recurrent network that reads a stochastic state and an action.

    Attributes:
        size: D.
    """

    size: int

    @abstractmethod
    def embed(self, action: Tensor) -> Tensor:
        """Return [..., E], what `forward` needs of the actions [..., A]."""

    @abstractmethod
    def forward(self, deter: Tensor, stoch: Tensor, embedded: Tensor) -> Tensor:
        """Return the next state [B, D] of the state [B, D], the stochastic state [B, S] and `embed`'s [B, E]."""


class _HiddenInputCell(Cell):
    """A cell that reads a hidden layer over [s, a]: what PlaNet, DreamerV1 and V2 share."""

    def __init__(self, stoch: int, action: int, size: int, hidden: int, activation: str = "elu") -> None:
        super().__init__()
        self.size = size
        self.activation = ACTIVATIONS[activation]()
        self.stoch_in = nn.Linear(stoch, hidden)
        self.action_in = nn.Linear(action, hidden, bias=False)

    def embed(self, action: Tensor) -> Tensor:
        """Return the action's part [..., H] of the hidden layer, before its activation."""
        embedded: Tensor = self.action_in(action)
        return embedded

    def hidden(self, stoch: Tensor, embedded: Tensor) -> Tensor:
        """Return the hidden layer [B, H]."""
        found: Tensor = self.activation(self.stoch_in(stoch) + embedded)
        return found


class GRUCell(_HiddenInputCell):
    """elu(W [s, a]) into a plain GRU: DreamerV1's, and with relu PlaNet's.

    Source: danijar/dreamer ``models.py`` (RSSM.img_step), whose Keras GRU resets behind the product as torch's does;
    google-research/planet ``models/rssm.py``.

    Args:
        stoch: S.
        action: A.
        size: D.
        hidden: H.
        activation: of the hidden layer.
    """

    def __init__(self, stoch: int, action: int, size: int, hidden: int, activation: str = "elu") -> None:
        super().__init__(stoch, action, size, hidden, activation)
        self.gru = nn.GRUCell(hidden, size)

    def forward(self, deter: Tensor, stoch: Tensor, embedded: Tensor) -> Tensor:
        """Return the next state [B, D]."""
        after: Tensor = self.gru(self.hidden(stoch, embedded), deter)
        return after


class LayerNormGRUCell(_HiddenInputCell):
    """elu(W [s, a]) into a GRU with a LayerNorm over its three gates, which begins by keeping its state: DreamerV2's.

    Source: danijar/dreamerv2 ``dreamerv2/common/nets.py`` (GRUCell: norm, update_bias -1, the reset gate outside of the
    candidate's product).

    Args:
        stoch: S.
        action: A.
        size: D.
        hidden: H.
    """

    def __init__(self, stoch: int, action: int, size: int, hidden: int) -> None:
        super().__init__(stoch, action, size, hidden)
        self.gates = nn.Linear(hidden + size, 3 * size)
        self.norm = nn.LayerNorm(3 * size, eps=1e-3)

    def forward(self, deter: Tensor, stoch: Tensor, embedded: Tensor) -> Tensor:
        """Return the next state [B, D]."""
        gates = self.gates(torch.cat([self.hidden(stoch, embedded), deter], -1))
        reset, candidate, update = self.norm(gates).float().chunk(3, -1)
        return _gru(deter, reset, candidate, update)


class BlockGRUCell(Cell):
    """A GRU whose blocks see their own part of the state, and all of them a summary of all inputs: DreamerV3's.

    State, stochastic state and action are summed up in H numbers each. The reference repeats these for every block;
    here they are dense products into all blocks, of which the action's is part of `embed`. Source:
    danijar/dreamerv3 ``dreamerv3/rssm.py`` (_core).

    Args:
        stoch: S.
        action: A.
        size: D, a multiple of ``blocks``.
        hidden: H.
        blocks: G.
    """

    def __init__(self, stoch: int, action: int, size: int, hidden: int, blocks: int = 8) -> None:
        super().__init__()
        self.size = size
        self.deter_in, self.deter_norm = Linear(size, hidden), RMSNorm(hidden)
        self.stoch_in, self.stoch_norm = Linear(stoch, hidden), RMSNorm(hidden)
        self.action_in, self.action_norm = Linear(action, hidden), RMSNorm(hidden)
        fan_in = size + 3 * hidden * blocks  # of the reference's one block layer over state and inputs
        self.own = BlockLinear(size, size, blocks, fan_in)
        self.shared = Linear(2 * hidden, size, bias=False, fan_in=fan_in)
        self.action_shared = nn.Parameter(truncated_(torch.empty(size, hidden), fan_in))
        self.norm = RMSNorm(size)
        self.gates = BlockLinear(size, 3 * size, blocks)
        self.activation = nn.SiLU()

    def embed(self, action: Tensor) -> Tensor:
        """Return the action's part [..., D] of the layer into the blocks; actions beyond 1 count as 1."""
        action = action / action.detach().abs().clamp(min=1.0)
        hidden = activated(self.action_in(action), self.action_norm, self.activation)
        return nn.functional.linear(hidden, self.action_shared)

    def forward(self, deter: Tensor, stoch: Tensor, embedded: Tensor) -> Tensor:
        """Return the next state [B, D]."""
        seen, act = rounded(deter), self.activation
        of_deter = activated(self.deter_in(seen), self.deter_norm, act)
        of_stoch = activated(self.stoch_in(stoch), self.stoch_norm, act)
        shared = self.shared(torch.cat([of_deter, of_stoch], -1))
        hidden = activated(self.own(seen) + shared + embedded, self.norm, act)
        gates = self.gates.by_block(hidden)
        if pays_at_once(deter):
            found: Tensor = _BlockGates.apply(deter, gates)  # type: ignore[no-untyped-call]
            return found
        reset, candidate, update = gates.float().chunk(3, -1)  # [G, B, D / G] each
        return _gru(by_block(deter, len(gates)), reset, candidate, update).transpose(0, 1).flatten(1)


class _BlockGates(torch.autograd.Function):
    """`_gru` of a state [B, D] and the gates [G, B, 3 D / G] as one operation, a cacheful of rows at a time."""

    @staticmethod
    def forward(ctx: Any, deter: Tensor, gates: Tensor) -> Tensor:
        out = torch.empty_like(deter)
        before, after = by_block(deter, len(gates)), by_block(out, len(gates))
        for rows in cachefuls(deter):
            _, _, candidate, update = _BlockGates._parts(gates[:, rows])
            torch.lerp(before[:, rows], candidate.to(deter.dtype), update.to(deter.dtype), out=after[:, rows])
        ctx.save_for_backward(deter, gates)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        deter, gates = ctx.saved_tensors
        of_deter, of_gates = torch.empty_like(deter), torch.empty_like(gates)
        before, after, given = (by_block(x, len(gates)) for x in (deter, of_deter, gradients[0].contiguous()))
        through = torch.ops.aten.sigmoid_backward
        for rows in cachefuls(deter):
            reset, raw, candidate, update = _BlockGates._parts(gates[:, rows])
            to_reset, to_candidate, to_update = of_gates[:, rows].chunk(3, -1)
            gradient = given[:, rows]
            moved = gradient * update
            torch.sub(gradient, moved, out=after[:, rows])
            to_update.copy_(through(gradient * (candidate - before[:, rows]), update))
            inner = moved.mul_(1 - candidate.square_())
            to_candidate.copy_(inner * reset)
            to_reset.copy_(through(inner.mul_(raw), reset))
        return of_deter, of_gates

    @staticmethod
    def _parts(gates: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the reset gate, the candidate before it, the candidate and the update gate, [G, B, D / G] each."""
        kind = torch.promote_types(gates.dtype, torch.float32)
        reset, raw, update = (x.to(kind) for x in gates.chunk(3, -1))
        reset = reset.sigmoid()
        candidate = (reset * raw).mul_(2).sigmoid_().mul_(2).sub_(1)
        return reset, raw, candidate, (update - 1.0).sigmoid_()


def _gru(deter: Tensor, reset: Tensor, candidate: Tensor, update: Tensor) -> Tensor:
    """Return the next state [B, D]: at the start, where the gates are about zero, three parts in four are kept."""
    # tanh(x) = 2 sigmoid(2x) - 1: on a CPU torch's sigmoid takes a ninth of its tanh's time.
    candidate = 2 * torch.sigmoid(2 * torch.sigmoid(reset) * candidate) - 1
    return torch.lerp(deter, candidate, torch.sigmoid(update - 1.0))
