"""The distributions of the Dreamer family: numbers over bins, classes with a floor, bounded Gaussians."""

import math

import torch
from torch import Tensor

from mbrl_gym.math import symexp


def symexp_bins(count: int = 255, device: torch.device | str | None = None) -> Tensor:
    """Return [count] bins from -4.85e8 to 4.85e8, dense around zero and exactly symmetric.

    Source: danijar/dreamerv3 ``embodied/jax/heads.py`` (symexp_twohot).

    Raises:
        ValueError: ``count`` is below 3.
    """
    if count < 3:
        raise ValueError(f"count must be at least 3 bins, got {count}")
    half = symexp(torch.linspace(-20.0, 0.0, (count + 1) // 2, device=device))
    return torch.cat([half, -(half[:-1] if count % 2 else half).flip(0)])


class TwoHot:
    """A number as a distribution over bins; its mean is exactly 0 where all of them are alike.

    The target is shared between the two bins around it, in their own units; beyond them the outermost bin has it all.
    Source: danijar/dreamerv3 ``embodied/jax/outs.py`` (TwoHot). The loss gathers two log-probabilities where the
    reference makes one-hot vectors.

    Args:
        logits: [..., bins].
        bins: [bins] ascending, symmetric about 0 (`symexp_bins`).

    Raises:
        ValueError: the logits are of another number of bins.
    """

    def __init__(self, logits: Tensor, bins: Tensor) -> None:
        if logits.shape[-1:] != bins.shape:
            raise ValueError(f"logits must end with the {len(bins)} bins, got {tuple(logits.shape)}")
        self.logits = logits.float()
        self.bins = bins
        self._log_probabilities: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """[...] sums what is symmetric about the middle first, so that rounding leaves no bias.

        (p_high - p_low) b rather than p_high b - p_low b, of which a fused multiply-add would not round both alike.
        """
        probability, half = self.logits.softmax(-1), self.bins.shape[0] // 2
        return ((probability[..., -half:] - probability[..., :half].flip(-1)) * self.bins[-half:]).sum(-1)

    def loss(self, target: Tensor) -> Tensor:
        """Return [...], the cross-entropy of ``target`` [...], through which no gradient goes."""
        target = target.detach().float()
        if target.shape != self.logits.shape[:-1]:
            raise ValueError(f"target must have the shape {tuple(self.logits.shape[:-1])}, got {tuple(target.shape)}")
        last = self.bins.shape[0] - 1
        above = torch.searchsorted(self.bins, target.contiguous(), right=True).clamp(1, last)
        below = above - 1
        low, high = self.bins[below], self.bins[above]
        share = ((target - low) / (high - low)).clamp(0.0, 1.0)  # of the bin above
        if self._log_probabilities is None:  # once for all targets
            self._log_probabilities = self.logits.log_softmax(-1)  # half the time of logsumexp
        log_probability = self._log_probabilities.gather(-1, torch.stack([below, above], -1))
        return -((1 - share) * log_probability[..., 0] + share * log_probability[..., 1])


def _softmax(logits: Tensor) -> Tensor:
    """Return ``logits.softmax(-1)``; for few classes on a CPU in a fifth of torch's time."""
    if logits.shape[-1] > 8 or logits.is_cuda:
        return logits.softmax(-1)
    exponential = (logits - logits.detach().amax(-1, keepdim=True)).exp()
    return exponential / exponential.sum(-1, keepdim=True)


class UnimixCategorical:
    """Independent classes of which each keeps a floor of probability, sampled with a straight-through gradient.

    The floor is part of the distribution everywhere: samples, log-probabilities, entropy and divergence. Source:
    danijar/dreamerv3 ``embodied/jax/outs.py`` (Categorical, OneHot).

    Args:
        logits: [..., classes].
        unimix: the share of the uniform distribution.

    Raises:
        ValueError: ``unimix`` is not between 0 and 1.
    """

    def __init__(self, logits: Tensor, unimix: float = 0.01) -> None:
        if not 0 <= unimix < 1:
            raise ValueError(f"unimix must be at least 0 and below 1, got {unimix}")
        self._logits, self._unimix = logits.float(), unimix
        probability = _softmax(self._logits)
        self.probabilities = torch.add((1 - unimix) * probability, unimix / logits.shape[-1]) if unimix else probability

    @property
    def log_probabilities(self) -> Tensor:
        """[..., classes] the logarithms of the probabilities; samples need none."""
        return self.probabilities.log() if self._unimix else self._logits.log_softmax(-1)

    @property
    def mode(self) -> Tensor:
        """[..., classes] the one-hot of the likeliest class, with the straight-through gradient."""
        return self._straight_through(self.probabilities.argmax(-1))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Return one-hots [..., classes] whose gradient is that of the probabilities.

        An exponential race: of exponentials divided by the probabilities, the first wins with that probability.
        """
        return self.sample_from(torch.empty_like(self.probabilities).exponential_(generator=generator))

    def sample_from(self, noise: Tensor) -> Tensor:
        """Return the sample that exponential ``noise`` [..., classes] makes, drawn outside of a loop over time."""
        return self._straight_through((self.probabilities.detach() / noise).argmax(-1))

    def log_prob(self, one_hot: Tensor) -> Tensor:
        """Return [...], the logarithm of the probability of ``one_hot`` [..., classes]."""
        return (one_hot * self.log_probabilities).sum(-1)

    def entropy(self) -> Tensor:
        """Return [...] in nats."""
        return -(self.probabilities * self.log_probabilities).sum(-1)

    def kl(self, other: "UnimixCategorical") -> Tensor:
        """Return [...], the divergence KL(self || other) in nats."""
        return (self.probabilities * (self.log_probabilities - other.log_probabilities)).sum(-1)

    def detach(self) -> "UnimixCategorical":
        """Return the same distribution without a gradient."""
        return UnimixCategorical(self._logits.detach(), self._unimix)

    def _straight_through(self, index: Tensor) -> Tensor:
        one_hot = torch.zeros_like(self.probabilities).scatter_(-1, index[..., None], 1.0)
        if not self.probabilities.requires_grad:
            return one_hot
        return one_hot + (self.probabilities - self.probabilities.detach())


class DiagonalNormal:
    """Independent Gaussians over the last axis, as one distribution.

    Args:
        mean: [..., D].
        deviation: [..., D] positive.
    """

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        self.mean, self.deviation = mean.float(), deviation.float()

    @property
    def mode(self) -> Tensor:
        """[..., D] the mean."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Return [..., D], reparameterised."""
        return self.sample_from(torch.empty_like(self.mean).normal_(generator=generator))

    def sample_from(self, noise: Tensor) -> Tensor:
        """Return the sample that standard normal ``noise`` [..., D] makes."""
        return torch.addcmul(self.mean, self.deviation, noise)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return [...], summed over the last axis of ``x`` [..., D]."""
        distance = (x - self.mean) / self.deviation
        return (-0.5 * distance.square() - self.deviation.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """Return [...] in nats."""
        return (self.deviation.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl(self, other: "DiagonalNormal") -> Tensor:
        """Return [...], the divergence KL(self || other) in nats."""
        return self.kl_by_dimension(other).sum(-1)

    def kl_by_dimension(self, other: "DiagonalNormal") -> Tensor:
        """Return [..., D], the divergence KL(self || other) of each number in nats."""
        ratio = (self.deviation / other.deviation).square()
        distance = ((self.mean - other.mean) / other.deviation).square()
        return 0.5 * (ratio + distance - 1.0 - ratio.log())


class BoundedNormal(DiagonalNormal):
    """A Gaussian over actions: mean in (-1, 1), deviation within bounds; samples are not clipped.

    Source: danijar/dreamerv3 ``embodied/jax/heads.py`` (bounded_normal).

    Args:
        mean: [..., A] before tanh.
        deviation: [..., A] before the sigmoid.
        least: smallest deviation.
        most: largest deviation.
    """

    def __init__(self, mean: Tensor, deviation: Tensor, least: float = 0.1, most: float = 1.0) -> None:
        if not 0 < least < most:
            raise ValueError(f"least must be positive and below most = {most}, got {least}")
        super().__init__(mean.float().tanh(), (most - least) * torch.sigmoid(deviation.float() + 2.0) + least)
