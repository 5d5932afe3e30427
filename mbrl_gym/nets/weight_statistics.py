"""WeightStatistics: mean, variance and a low-rank covariance of weights that were met on the way (SWAG)."""

from collections.abc import Sequence

import torch
from torch import Tensor


class WeightStatistics:
    """Running statistics of parameters, and draws from the normal distribution that they describe.

    Source: Maddox et al. 2019 (SWAG), algorithm 1; wjmaddox/swa_gaussian ``swag/posteriors/swag.py``, which also
    measures each deviation from the mean so far.

    Args:
        parameters: the P parameters to follow.
        rank: K, how many of the last deviations the low-rank covariance is made of.
    """

    def __init__(self, parameters: Sequence[Tensor], rank: int) -> None:
        self._parameters = list(parameters)
        self._rank = rank
        self._deviations: list[list[Tensor]] = []
        self.count = 0
        self.mean = [torch.zeros_like(p) for p in self._parameters]
        self._squares = [torch.zeros_like(p) for p in self._parameters]  # of the deviations, summed

    @torch.no_grad()
    def add(self) -> None:
        """Take the parameters' present values into account."""
        self.count += 1
        for mean, squares, p in zip(self.mean, self._squares, self._parameters, strict=True):
            before = p - mean
            mean.add_(before / self.count)
            squares.addcmul_(before, p - mean)  # Welford: the difference of two means of squares would lose digits
        new = [p - mean for mean, p in zip(self.mean, self._parameters, strict=True)]
        self._deviations = [*self._deviations, new][-self._rank :]

    @property
    def variance(self) -> list[Tensor]:
        """Each parameter's variance over what was met."""
        return [squares / max(self.count, 1) for squares in self._squares]

    @torch.no_grad()
    def draw(self, draws: int, scale: float) -> list[Tensor]:
        """Return for each parameter ``draws`` deviations from the mean [draws, *shape], from torch's global generator.

        Args:
            draws: how many.
            scale: factor of the covariance, which is the sum of the diagonal and of the low-rank one; SWAG's is 1/2.
        """
        columns = len(self._deviations)
        device = self.mean[0].device
        common = torch.randn(draws, columns, device=device) / max(columns - 1, 1) ** 0.5
        found = []
        for i, variance in enumerate(self.variance):
            own = torch.randn(draws, *variance.shape, device=device) * variance.sqrt()
            low_rank = torch.stack([column[i] for column in self._deviations]).flatten(1)  # [K, numbers]
            found.append(scale**0.5 * (own + (common @ low_rank).view_as(own)))
        return found
