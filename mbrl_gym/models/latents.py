"""The stochastic part of an RSSM's state: diagonal Gaussians (PlaNet, DreamerV1) or classes (DreamerV2, V3).

A latent turns what a network says into a distribution over flat vectors [..., S]. Its noise can be drawn for all steps
of a sequence at once, outside of the loop over time.
"""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mbrl_gym.distributions import DiagonalNormal, UnimixCategorical

Dist = TypeVar("Dist")


class Latent(ABC, Generic[Dist]):
    """A kind of stochastic state.

    Attributes:
        size: S, numbers of a flat sample.
        outputs: how many numbers of a network make a distribution.
        stored_as: the numpy dtype that holds samples without loss.
    """

    size: int
    outputs: int
    stored_as: str

    @abstractmethod
    def dist(self, outputs: Tensor) -> Dist:
        """Return the distribution that a network's outputs [..., outputs] make."""

    @abstractmethod
    def noise(self, shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        """Return what samples of a batch of ``shape`` are made of, [*shape, S]."""

    @abstractmethod
    def sample(self, dist: Dist, noise: Tensor) -> Tensor:
        """Return flat samples [..., S], with a gradient to the distribution, made of ``noise`` [..., S]."""

    @abstractmethod
    def mode(self, dist: Dist) -> Tensor:
        """Return the likeliest flat sample [..., S]."""

    @abstractmethod
    def kl_by_unit(self, dist: Dist, other: Dist) -> Tensor:
        """Return [..., U], the divergence KL(dist || other) in nats of each number or group."""

    def kl(self, dist: Dist, other: Dist) -> Tensor:
        """Return [...], the divergence KL(dist || other) in nats, over the whole vector."""
        return self.kl_by_unit(dist, other).sum(-1)

    @abstractmethod
    def entropy(self, dist: Dist) -> Tensor:
        """Return [...] in nats, over the whole vector."""


class GaussianLatent(Latent[DiagonalNormal]):
    """Means, and deviations that are softplus(x) + ``least``.

    Source: danijar/dreamer ``models.py`` (RSSM), google-research/planet ``models/rssm.py``: 30 numbers, 0.1.

    Args:
        size: S.
        least: smallest deviation.

    Raises:
        ValueError: a number is not positive.
    """

    def __init__(self, size: int = 30, least: float = 0.1) -> None:
        _check_positive("size", size)
        _check_positive("least", least)
        self.stored_as = "float32"
        self.size, self.outputs, self.least = size, 2 * size, least

    def dist(self, outputs: Tensor) -> DiagonalNormal:
        """Return the Gaussian of means and deviations side by side."""
        mean, deviation = outputs.float().chunk(2, -1)
        return DiagonalNormal(mean, softplus(deviation) + self.least)

    def noise(self, shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        """Return standard normal numbers [*shape, S]."""
        return torch.randn(*shape, self.size, device=device, generator=generator)

    def sample(self, dist: DiagonalNormal, noise: Tensor) -> Tensor:
        """Return reparameterised samples [..., S]."""
        return dist.sample_from(noise)

    def mode(self, dist: DiagonalNormal) -> Tensor:
        """Return the mean [..., S]."""
        return dist.mode

    def kl_by_unit(self, dist: DiagonalNormal, other: DiagonalNormal) -> Tensor:
        """Return [..., S], the divergence of each number in nats."""
        return dist.kl_by_dimension(other)

    def entropy(self, dist: DiagonalNormal) -> Tensor:
        """Return [...] in nats."""
        return dist.entropy()


class CategoricalLatent(Latent[UnimixCategorical]):
    """``groups`` independent choices among ``classes``, as one-hots with straight-through gradients.

    Source: danijar/dreamerv3 ``dreamerv3/rssm.py`` (_dist: unimix in samples, divergence and entropy alike); DreamerV2
    is that without unimix.

    Args:
        groups: how many choices.
        classes: among how many.
        unimix: share of the uniform distribution in each.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, groups: int = 32, classes: int = 32, unimix: float = 0.01) -> None:
        _check_positive("groups", groups)
        _check_positive("classes", classes)
        if not 0 <= unimix < 1:
            raise ValueError(f"unimix must be at least 0 and below 1, got {unimix}")
        self.groups, self.classes, self.unimix = groups, classes, unimix
        self.size = self.outputs = groups * classes
        self.stored_as = "uint8"

    def dist(self, outputs: Tensor) -> UnimixCategorical:
        """Return the classes [..., groups, classes] of logits side by side."""
        return UnimixCategorical(self._by_group(outputs), self.unimix)

    def noise(self, shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        """Return exponential numbers [*shape, S]."""
        uniform = torch.rand(*shape, self.size, device=device, generator=generator)
        return uniform.log_().neg_()  # six times as fast as exponential_() on a CPU

    def sample(self, dist: UnimixCategorical, noise: Tensor) -> Tensor:
        """Return flat one-hots [..., S]."""
        return dist.sample_from(self._by_group(noise)).flatten(-2)

    def _by_group(self, x: Tensor) -> Tensor:
        """Return [..., S] as [..., groups, classes]."""
        return x.reshape(*x.shape[:-1], self.groups, self.classes)

    def mode(self, dist: UnimixCategorical) -> Tensor:
        """Return the flat one-hots of the likeliest classes [..., S]."""
        return dist.mode.flatten(-2)

    def kl_by_unit(self, dist: UnimixCategorical, other: UnimixCategorical) -> Tensor:
        """Return [..., groups], the divergence of each group in nats."""
        return dist.kl(other)

    def entropy(self, dist: UnimixCategorical) -> Tensor:
        """Return [...] in nats, summed over the groups."""
        return dist.entropy().sum(-1)


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")
