"""FrozenMLP: an `EnsembleMLP` as it is now, laid out once for prediction alone."""

import torch
from torch import Tensor

from mbrl_gym.nets.ensemble_mlp import EnsembleMLP

# Rows a member from which bfloat16 wins on a CPU that multiplies in it; measured with benchmarks/pets_speed.py.
BFLOAT16_ROWS = 32


class FrozenMLP:
    """The function of an `EnsembleMLP` between a normaliser of its inputs and a scale of its outputs.

    In float32 both are folded into the first and the last layer. From ``bfloat16_rows`` rows a member upwards the
    layers run in bfloat16: inputs are centred before they are rounded and outputs scaled after, so that what is large
    beside its own spread loses nothing.

    Args:
        net: the network.
        mean: [in] of the normaliser.
        std: [in] of the normaliser.
        scale: [out], what outputs are multiplied by.
        offset: [out], what is added to them then.
        members: [K] int64, the members to keep; None: all.
        bfloat16_rows: rows a member from which layers run in bfloat16; None: never.
    """

    def __init__(
        self,
        net: EnsembleMLP,
        mean: Tensor,
        std: Tensor,
        scale: Tensor,
        offset: Tensor,
        members: Tensor | None,
        bfloat16_rows: int | None,
    ) -> None:
        weights = [w.detach() if members is None else w.detach()[members] for w in net.weights]
        biases = [b.detach() if members is None else b.detach()[members] for b in net.biases]
        self.members = weights[0].shape[0]
        self._mean, self._scale, self._offset = mean.clone(), scale, offset
        self._rows = bfloat16_rows
        weights[0] = weights[0] / std[:, None]
        if bfloat16_rows is not None:
            self._rounded = [(w.bfloat16(), b.bfloat16()) for w, b in zip(weights, biases, strict=True)]
        biases[0] = biases[0] - (mean @ weights[0]).unsqueeze(1)  # [K, 1, layer]
        weights[-1], biases[-1] = weights[-1] * scale, biases[-1] * scale + offset
        self._layers = [(w.contiguous(), b.contiguous()) for w, b in zip(weights, biases, strict=True)]

    def __call__(self, x: Tensor) -> Tensor:
        """Return [K, B, out] float32 from raw inputs [B, in], which go to every member, or [K, B, in]."""
        if self._rows is None or x.shape[-2] < self._rows or x.requires_grad:
            return _run(self._each(x), self._layers)
        centred = torch.empty(x.shape, dtype=torch.bfloat16, device=x.device)
        torch.sub(x, self._mean, out=centred)
        return torch.addcmul(self._offset, _run(self._each(centred), self._rounded), self._scale)

    def _each(self, x: Tensor) -> Tensor:
        return x.expand(self.members, *x.shape) if x.dim() == 2 else x


def _run(x: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return [K, B, out]; where nothing is differentiated, activations are overwritten in place.

    Memory touched is what large batches cost.
    """
    last = len(layers) - 1
    for i, (weight, bias) in enumerate(layers):
        x = torch.baddbmm(bias, x, weight)
        if i < last:
            x = torch.nn.functional.silu(x, inplace=not x.requires_grad)
    return x
