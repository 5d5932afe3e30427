"""BestWeights: the weights of each member at its smallest held-out error so far."""

from typing import Any

import torch
from torch import Tensor

from mbrl_gym.model import WorldModel


class BestWeights:
    """The best weights of each member so far; the model's member parameters [E, ...] are kept row by row."""

    def __init__(self, model: WorldModel[Any]) -> None:
        self._model = model
        self._weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        self._per_member = model.member_parameters()
        self.error = torch.full((model.members,), torch.nan, device=model.device)

    @torch.no_grad()
    def update(self, error: Tensor, improvement: float) -> bool:
        """Take over the members whose error [E] fell by ``improvement``; return whether any did."""
        enough = error < self.error - improvement * self.error.abs()  # a likelihood may be below zero
        better = torch.isfinite(error) & (torch.isnan(self.error) | enough)
        self.error = torch.where(better, error, self.error)
        for name, p in self._model.named_parameters():
            mask = better.reshape(-1, *[1] * (p.dim() - 1)) if name in self._per_member else better.any()
            self._weights[name] = torch.where(mask, p.detach(), self._weights[name])
        return bool(better.any())

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best weights into the model."""
        for name, p in self._model.named_parameters():
            p.copy_(self._weights[name])
