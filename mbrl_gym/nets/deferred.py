"""Weight gradients of the layers in a scan, taken once for all steps.

Autograd takes the gradient to a layer's weights anew in each step: a product of few rows into a whole matrix, which is
then added to the sum so far. Here the inputs and the outputs' gradients of all steps are laid side by side, and one
product does what many did: in bfloat16 where `mixed_precision` has it so for that many rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mbrl_gym.nets.precision import mixed_precision


class Scan:
    """What one layer does in the steps of a scan.

    Args:
        steps: how often it is used at most.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._inputs: list[Tensor] = []
        self._offsets: tuple[Tensor, ...] = ()

    def offset(self, x: Tensor, weight: Tensor, bias: Tensor | None, out_first: bool) -> Tensor:
        """Return what a step adds to its product [..., B, out]: the bias, and a way back for the weight's gradient.

        Args:
            x: [..., B, in], inputs of the step.
            weight: [..., in, out], or [out, in], of the product, which is to be taken without a gradient to it.
            bias: [..., 1, out]; None: zeros.
            out_first: whether the weight is [out, in].
        """
        if not self._inputs:
            arguments = (self._inputs, self._steps, x.shape[-2], out_first)
            self._offsets = _Offsets.apply(weight, bias, *arguments)  # type: ignore[no-untyped-call]
        self._inputs.append(x.detach())
        return self._offsets[len(self._inputs) - 1]


class _Offsets(torch.autograd.Function):
    """The offsets of all steps; on the way back the gradient of the weight is taken from all that came in."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor | None, inputs: list[Tensor], steps: int, rows: int, out_first: bool
    ) -> tuple[Tensor, ...]:
        ctx.inputs, ctx.out_first, ctx.biased = inputs, out_first, bias is not None
        ctx.dtype = weight.dtype
        out = weight.shape[0 if out_first else -1]
        if bias is None:
            return tuple(weight.new_zeros(steps, rows, out).unbind())
        return tuple(bias.expand(steps, *bias.shape[:-2], rows, out).contiguous().unbind())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        steps = [(x, g) for x, g in zip(ctx.inputs, gradients, strict=False) if g is not None]
        x, gradient = (torch.cat(parts, -2) for parts in zip(*steps, strict=True))  # [..., steps * B, n]
        with mixed_precision(x.device, x.shape[-2]):
            weight = gradient.mT @ x if ctx.out_first else x.mT @ gradient
        bias = gradient.sum(-2, keepdim=True) if ctx.biased else None
        return weight.to(ctx.dtype), bias, None, None, None, None


class Scanned(nn.Module):
    """A layer that knows whether it is in a scan.

    Attributes:
        scan: the scan that it is in, if any.
    """

    scan: Scan | None = None


@contextmanager
def scanning(steps: int, *modules: nn.Module) -> Iterator[None]:
    """Have the layers in ``modules`` take the gradients of their weights once for all ``steps`` within this context."""
    layers = [m for module in modules for m in module.modules() if isinstance(m, Scanned)]
    for layer in layers:
        layer.scan = Scan(steps)
    try:
        yield
    finally:
        for layer in layers:
            layer.scan = None
