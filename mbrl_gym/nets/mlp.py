"""MLP: linear layers, each followed by a norm (or none) and an activation."""

from typing import Any

import torch
from torch import Tensor, nn

from mbrl_gym.nets.blocks import ACTIVATIONS, Linear, RMSNorm, activated
from mbrl_gym.nets.precision import rounded


class _Known(torch.autograd.Function):
    """The products [..., out] of a linear layer and ``x`` [..., in], which were taken without a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, products: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.dtypes = weight.dtype, bias.dtype
        return products.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor, None]:
        (x,) = ctx.saved_tensors
        gradient = gradients[0].flatten(0, -2)
        weight, bias = gradient.to(x.dtype).t() @ x.flatten(0, -2), gradient.sum(0, dtype=ctx.dtypes[1])
        return None, weight.to(ctx.dtypes[0]), bias, None


class MLP(nn.Module):
    """``layers`` hidden layers, and a linear output where ``outputs`` is given: [..., inputs] -> [..., outputs].

    Source: danijar/dreamerv3 ``embodied/jax/nets.py`` (MLP: the norm lies between the map and the activation).

    Args:
        inputs: features in.
        units: of each hidden layer.
        layers: how many hidden layers, at least 1.
        outputs: features out; None: the last hidden layer's.
        activation: "silu", "elu" or "relu".
        norm: whether hidden layers are normed by the root of their mean square.
        scale: of the output's initial weights; 0: the same output everywhere.
        exact: whether outputs are float32 even where products are taken in bfloat16: of 128 numbers in a row that can
            tell only one.
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        layers: int,
        outputs: int | None = None,
        activation: str = "silu",
        norm: bool = True,
        scale: float = 1.0,
        exact: bool = False,
    ) -> None:
        super().__init__()
        self.exact = exact
        self._no_norm = nn.Identity()
        parts: list[nn.Module] = []
        for i in range(layers):
            parts.append(Linear(inputs if i == 0 else units, units))
            if norm:
                parts.append(RMSNorm(units))
            parts.append(ACTIVATIONS[activation]())
        if outputs is not None:
            parts.append(Linear(units, outputs, scale))
        self.layers = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., outputs]."""
        return self.onward(self.products(x))

    def products(self, x: Tensor) -> Tensor:
        """Return [..., units], what the first linear layer makes of ``x`` [..., inputs]."""
        found: Tensor = self.layers[0](x)
        return found

    def known(self, x: Tensor, products: Tensor) -> Tensor:
        """Return ``products``, which `products` made of ``x`` before, with the gradient to the weights that it lacked.

        Args:
            x: [..., inputs], to which no gradient goes.
            products: [..., units].
        """
        first = self.layers[0]
        found: Tensor = _Known.apply(rounded(x.detach()), first.weight, first.bias, products)  # type: ignore[no-untyped-call]
        return found

    def onward(self, products: Tensor) -> Tensor:
        """Return [..., outputs] of what `products` returned."""
        x, last = products, self.layers[-1]
        norm: nn.Module = self._no_norm
        for part in list(self.layers)[1:]:
            if isinstance(part, RMSNorm):
                norm = part
            elif self.exact and part is last:
                with torch.autocast(x.device.type, enabled=False):
                    x = part(x.to(torch.promote_types(x.dtype, torch.float32)))
            else:
                x = part(x) if isinstance(part, nn.Linear) else activated(x, norm, part)
        return x
