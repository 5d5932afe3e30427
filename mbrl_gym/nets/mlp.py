"""MLP: linear layers, each followed by a norm (or none) and an activation."""

import torch
from torch import Tensor, nn

from mbrl_gym.nets.blocks import ACTIVATIONS, Linear, RMSNorm


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
        if not self.exact:
            found: Tensor = self.layers(x)
            return found
        hidden: Tensor = self.layers[:-1](x)
        with torch.autocast(x.device.type, enabled=False):
            outputs: Tensor = self.layers[-1](hidden.float())
        return outputs
