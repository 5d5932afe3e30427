"""EnsembleMLP: E multilayer perceptrons evaluated together, one batched matrix product a layer."""

from itertools import pairwise

import torch
from torch import Tensor, nn


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


def _truncated_normal(members: int, fan_in: int, fan_out: int) -> nn.Parameter:
    weight = torch.empty(members, fan_in, fan_out)
    deviation = 1.0 / (2.0 * fan_in**0.5)
    nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    return nn.Parameter(weight)
