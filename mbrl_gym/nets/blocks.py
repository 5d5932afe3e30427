"""Layers of the Dreamer family: linear maps with its initialisation, maps by block, and a norm."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from mbrl_gym.nets.deferred import Scanned

ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "elu": nn.ELU, "relu": nn.ReLU}
CACHED = 131_072  # numbers that are worked on at a time where an operation goes over them more than once
LARGE = 65_536  # numbers from which one operation in Python is faster than several of torch
TRUNCATION = 1.1368  # what a normal truncated at two deviations lacks, as the reference has it


def truncated_(weight: Tensor, fan_in: int, scale: float = 1.0) -> Tensor:
    """Fill ``weight`` in place with a normal truncated at two deviations of 1.1368 / sqrt(fan_in), times ``scale``.

    Source: danijar/dreamerv3 ``embodied/jax/nets.py`` (Initializer, "trunc_normal").
    """
    with torch.no_grad():
        nn.init.trunc_normal_(weight, 0.0, 1.0, -2.0, 2.0)
        return weight.mul_(TRUNCATION * math.sqrt(1 / fan_in) * scale)


class Linear(nn.Linear, Scanned):
    """``nn.Linear`` that starts as the Dreamer's: truncated normal by the fan-in times ``scale``, biases zero.

    Args:
        inputs: features in.
        outputs: features out.
        scale: of the weights; 0 for heads that have to begin with the same output everywhere.
        bias: whether there is one.
        fan_in: what the initialisation counts; None: ``inputs``.
    """

    def __init__(
        self, inputs: int, outputs: int, scale: float = 1.0, bias: bool = True, fan_in: int | None = None
    ) -> None:
        self._scale, self._fan_in = scale, fan_in or inputs
        super().__init__(inputs, outputs, bias)

    def reset_parameters(self) -> None:
        """Start anew."""
        truncated_(self.weight, self._fan_in, self._scale)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., outputs]; [B, outputs] of [B, inputs] in a scan."""
        if self.scan is None:
            return super().forward(x)
        bias = None if self.bias is None else self.bias[None]
        return torch.addmm(self.scan.offset(x, self.weight, bias, True), x, self.weight.detach().t())


class RMSNorm(nn.Module):
    """Divides by the root of the mean square of the last axis, in float32, and scales each feature.

    Source: danijar/dreamerv3 ``embodied/jax/nets.py`` (Norm, "rms"): eps 1e-4 inside the root, no offset.

    Args:
        features: size of the last axis.
    """

    def __init__(self, features: int, eps: float = 1e-4) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(features))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., features] in the dtype of ``x``."""
        return nn.functional.rms_norm(x.float(), self.scale.shape, self.scale.float(), self.eps).to(x.dtype)


class _NormedSiLU(torch.autograd.Function):
    """silu(scale x / rms(x)) of rows [N, F], a cacheful of rows at a time; the backward pass computes it anew.

    In plain operations the numbers between would be kept for it, and every one of them would go through main memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float) -> Tensor:
        out, inverse = torch.empty_like(x), x.new_empty(len(x), 1, dtype=_exact(x))
        for rows in cachefuls(x):
            part = x[rows].to(inverse.dtype)
            normed = part.square()
            inverse[rows] = normed.mean(-1, keepdim=True).add_(eps).rsqrt_()
            torch.mul(part, inverse[rows], out=normed)
            out[rows] = silu(normed.mul_(scale), inplace=True)
        ctx.save_for_backward(x, scale, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, scale, inverse = ctx.saved_tensors
        found, of_scale = torch.empty_like(x), torch.zeros_like(scale)
        for rows in cachefuls(x):
            normed = x[rows] * inverse[rows]
            work = normed * scale
            gradient = torch.ops.aten.silu_backward(gradients[0][rows].to(inverse.dtype), work)
            torch.mul(gradient, normed, out=work)
            of_scale += work.sum(0)
            along = torch.mv(work, scale).div_(x.shape[1])  # of what would change the length alone
            gradient.mul_(scale).addcmul_(normed, along[:, None], value=-1)
            found[rows] = gradient.mul_(inverse[rows])
        return found, of_scale, None


def _exact(x: Tensor) -> torch.dtype:
    """Return the type to compute in where rounding adds up: float32, or float64 of float64."""
    return torch.promote_types(x.dtype, torch.float32)


def cachefuls(x: Tensor) -> list[slice]:
    """Return slices of the rows of ``x`` [N, F] which a core's own cache holds a few times."""
    rows = max(1, CACHED // x.shape[1])
    return [slice(low, low + rows) for low in range(0, len(x), rows)]


def pays_at_once(x: Tensor) -> bool:
    """Return whether several operations on ``x`` are faster as one: on a CPU, where it is large."""
    return x.device.type == "cpu" and x.numel() >= LARGE


def activated(x: Tensor, norm: nn.Module, activation: nn.Module) -> Tensor:
    """Return activation(norm(x)) [..., F] in the dtype of ``x``; RMSNorm and silu are one operation where it pays."""
    if not pays_at_once(x) or not (isinstance(norm, RMSNorm) and isinstance(activation, nn.SiLU)):
        found: Tensor = activation(norm(x))
        return found
    rows = x.flatten(0, -2).contiguous()
    found = _NormedSiLU.apply(rows, norm.scale, norm.eps)  # type: ignore[no-untyped-call]
    return found.view(x.shape)


class BlockLinear(Scanned):
    """Maps each of G equal parts of the features by a matrix of its own; one batched product.

    Weights are stored as the product wants them, [G, in / G, out / G]. They start by the fan-in of the whole map, as in
    the reference (danijar/dreamerv3 ``embodied/jax/nets.py``, BlockLinear: the fan-in of its kernel counts all blocks).

    Args:
        inputs: features in, a multiple of ``blocks``.
        outputs: features out, a multiple of ``blocks``.
        blocks: G.
        fan_in: what the initialisation counts; None: ``inputs``.

    Raises:
        ValueError: the features are no multiple of the blocks.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int, fan_in: int | None = None) -> None:
        super().__init__()
        for name, size in (("inputs", inputs), ("outputs", outputs)):
            if size % blocks:
                raise ValueError(f"{name} must be a multiple of the {blocks} blocks, got {size}")
        weight = torch.empty(blocks, inputs // blocks, outputs // blocks)
        self.weight = nn.Parameter(truncated_(weight, fan_in or inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, out] for ``x`` [B, in]; the features of a block lie side by side."""
        return self.by_block(x).transpose(0, 1).flatten(1)

    def by_block(self, x: Tensor) -> Tensor:
        """Return the same as [G, B, out / G], as the product leaves it."""
        bias, x = self.bias.view(len(self.weight), 1, -1), by_block(x, len(self.weight))
        if self.scan is None:
            return torch.baddbmm(bias, x, self.weight)
        return torch.baddbmm(self.scan.offset(x, self.weight, bias, False), x, self.weight.detach())


def by_block(x: Tensor, blocks: int) -> Tensor:
    """Return a view [G, B, n / G] of ``x`` [B, n]."""
    return x.view(len(x), blocks, -1).transpose(0, 1)
