"""How an ensemble carries uncertainty from step to step: TS1, TS-infinity, expectation, DS, moment matching.

Source: Chua et al. 2018 (PETS), section 5; handful-of-trials ``dmbrl/controllers/MPC.py``. Shapes: K elite members,
B rows, of which every ``particles`` consecutive ones are the particles of one belief, D predicted dimensions.
"""

from typing import ClassVar

import torch
from torch import Tensor


class Propagation:
    """One way to turn K predicted Gaussians a row into the row's next value."""

    single_member: ClassVar[bool] = False  # whether the particles of a belief are shared out among the members

    def assign(
        self, member: Tensor, particles: int, elites: int, generator: torch.Generator | None, sample: bool
    ) -> Tensor | None:
        """Return [B]: the one member that each row follows in this step; None: it follows all of them.

        Args:
            member: [B], the member that each row is bound to.
            particles: P, how many consecutive rows are particles of one belief.
            elites: K.
            generator: source of randomness.
            sample: False: as the mean has it, without randomness.
        """
        return None

    def order(self, member: Tensor, particles: int) -> Tensor | None:
        """Return [B / P, P]: each belief's particles by the members `assign` gave them; None: they are in order."""
        return None

    def mix(self, mean: Tensor, variance: Tensor, member: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return mean and variance [B, D] of each row from those of the members [K, B, D]: the equal mixture's."""
        if member is None:
            return mean.mean(0), variance.mean(0) + mean.var(0, unbiased=False)
        rows = torch.arange(mean.shape[1], device=mean.device)
        return mean[member, rows], variance[member, rows]

    def draw(
        self, mean: Tensor, variance: Tensor, particles: int, generator: torch.Generator | None, sample: bool
    ) -> Tensor:
        """Return [B, D]: a draw from each row's Gaussian, or its mean."""
        return _gaussian(mean, variance, generator) if sample else mean


class TrajectorySamplingInfinity(Propagation):
    """TS-infinity: a row follows one member for the whole horizon, P / K particles a member (PETS' default)."""

    single_member = True

    def assign(
        self, member: Tensor, particles: int, elites: int, generator: torch.Generator | None, sample: bool
    ) -> Tensor | None:
        """Return the member that each row is bound to."""
        return member


class TrajectorySamplingOne(Propagation):
    """TS1: a row draws a new member at each step; of a belief's particles every member keeps its equal share.

    Its mean is that of the members' mixture.
    """

    single_member = True

    def assign(
        self, member: Tensor, particles: int, elites: int, generator: torch.Generator | None, sample: bool
    ) -> Tensor | None:
        """Return random members [B]; a random permutation within each group of particles."""
        if not sample:
            return None
        if particles == 1:
            return torch.randint(elites, member.shape, generator=generator, device=member.device)
        noise = torch.rand(member.shape[0] // particles, particles, generator=generator, device=member.device)
        return (noise.argsort(1) * elites // particles).reshape(-1)

    def order(self, member: Tensor, particles: int) -> Tensor:
        """Return the particles of each belief sorted by their members."""
        return member.view(-1, particles).argsort(stable=True, dim=1)


class Expectation(Propagation):
    """E: the mean of the members' means; variance is ignored."""

    def draw(
        self, mean: Tensor, variance: Tensor, particles: int, generator: torch.Generator | None, sample: bool
    ) -> Tensor:
        """Return the mean."""
        return mean


class DistributionSampling(Propagation):
    """DS: each row draws from the Gaussian with the mixture's moments, anew at each step."""


class MomentMatching(Propagation):
    """MM: as DS, then a Gaussian is fitted to the particles of each belief and they are drawn anew from it.

    It is fitted to the next values. handful-of-trials fits it to the predicted changes, whereupon the spread that the
    particles had before stays beside the fitted one.
    """

    def draw(
        self, mean: Tensor, variance: Tensor, particles: int, generator: torch.Generator | None, sample: bool
    ) -> Tensor:
        """Return draws [B, D] from the Gaussian fitted to each group of particles."""
        drawn = super().draw(mean, variance, particles, generator, sample)
        if particles == 1:
            return drawn
        group = drawn.reshape(-1, particles, drawn.shape[-1])  # [B / P, P, D]
        centre = group.mean(1, keepdim=True).expand_as(group).reshape_as(drawn)
        spread = group.var(1, unbiased=False, keepdim=True).expand_as(group).reshape_as(drawn)
        return _gaussian(centre, spread, generator) if sample else centre


PROPAGATIONS: dict[str, type[Propagation]] = {
    "ts1": TrajectorySamplingOne,
    "ts_inf": TrajectorySamplingInfinity,
    "expectation": Expectation,
    "distribution_sampling": DistributionSampling,
    "moment_matching": MomentMatching,
}


def _gaussian(mean: Tensor, variance: Tensor, generator: torch.Generator | None) -> Tensor:
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return torch.addcmul(mean, variance.sqrt(), noise)
