"""EnsembleMLP: E multilayer perceptrons evaluated together, one batched matrix product a layer."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class EnsembleMLP(nn.Module):
    """E perceptrons with SiLU between the layers and a linear output: [B, in] or [E, B, in] -> [E, B, out].

    Weights start as a truncated normal (two deviations) with deviation 1 / (2 sqrt(fan_in)), biases at zero.
    Source: handful-of-trials ``dmbrl/modeling/layers/FC.py`` (construct_vars).
    """

    def __init__(self, members: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        pairs = list(pairwise(sizes))
        self.weights = nn.ParameterList([_truncated_normal(members, a, b) for a, b in pairs])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(members, 1, b)) for _, b in pairs])

    def forward(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        """Return [E, B, out]; an input [B, in] goes to every member, and ``members`` [K] picks some of them."""
        if x.dim() == 2:
            x = x.expand(self.weights[0].shape[0] if members is None else len(members), *x.shape)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if members is not None:
                weight, bias = weight[members], bias[members]
            x = torch.baddbmm(bias, x, weight)  # [E, B, layer]
            if i < last:
                # In place where nothing is differentiated: half the memory touched, which is what large batches cost.
                x = nn.functional.silu(x, inplace=not x.requires_grad)
        return x

    def weight_penalty(self, decay: tuple[float, ...]) -> Tensor:
        """Return the sum over layers of decay * ||W||^2 / 2 (biases excluded), summed over members."""
        penalty: Tensor = _HalfSquares.apply(decay, *self.weights)  # type: ignore[no-untyped-call]
        return penalty


class _HalfSquares(torch.autograd.Function):
    """Sum of factor * ||W||^2 / 2, with the gradient factor * W in one operation a layer; autograd would take three."""

    @staticmethod
    def forward(ctx: Any, factors: tuple[float, ...], *weights: Tensor) -> Tensor:
        ctx.factors = factors
        ctx.save_for_backward(*weights)
        flat = [w.reshape(-1) for w in weights]
        return torch.stack([0.5 * f * torch.dot(w, w) for f, w in zip(factors, flat, strict=True)]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(w * (gradient * f) for f, w in zip(ctx.factors, ctx.saved_tensors, strict=True))


def _truncated_normal(members: int, fan_in: int, fan_out: int) -> nn.Parameter:
    weight = torch.empty(members, fan_in, fan_out)
    deviation = 1.0 / (2.0 * fan_in**0.5)
    nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    return nn.Parameter(weight)
