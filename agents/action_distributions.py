"""The distributions that an actor of the Dreamer family gives over encoded actions [..., A]."""

import math
from typing import Protocol

import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from mbrl_gym.distributions import BoundedNormal, DiagonalNormal, UnimixCategorical
from mbrl_gym.spaces import ActionCodec

KINDS = ("bounded_normal", "truncated_normal", "tanh_normal")


class ActionDistribution(Protocol):
    """What `action_distribution` returns; everything is summed over the parts of an action."""

    @property
    def mode(self) -> Tensor:
        """[..., A] the action to take where none shall be random."""

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Return [..., A] with a gradient to the distribution."""

    def log_prob(self, action: Tensor) -> Tensor:
        """Return [...] for ``action`` [..., A]."""

    def entropy(self) -> Tensor:
        """Return [...] in nats."""


def outputs_of(codec: ActionCodec) -> int:
    """Return how many numbers of a network make a distribution over the actions of ``codec``."""
    return 2 * codec.size if codec.continuous else codec.size


def action_distribution(codec: ActionCodec, outputs: Tensor, kind: str, unimix: float = 0.01) -> ActionDistribution:
    """Return the distribution over encoded actions that a network's ``outputs`` [..., `outputs_of`] make.

    Args:
        codec: of the action space; what is discrete is a choice in each of its groups, or for each of its bits.
        outputs: of the network.
        kind: for a Box: "bounded_normal" (V3), "truncated_normal" (V2) or "tanh_normal" (V1).
        unimix: share of the uniform distribution in each choice.
    """
    if isinstance(codec.space, spaces.MultiBinary):
        return Bits(outputs)
    if not codec.continuous:
        return Choices(outputs, codec.groups, unimix)
    mean, deviation = outputs.float().chunk(2, -1)
    if kind == "bounded_normal":
        return BoundedNormal(mean, deviation)
    return TruncatedNormal(mean, deviation) if kind == "truncated_normal" else TanhNormal(mean, deviation)


class Choices:
    """One choice in each group, as one-hots side by side.

    Args:
        logits: [..., A].
        groups: their sizes.
        unimix: share of the uniform distribution in each.
    """

    def __init__(self, logits: Tensor, groups: tuple[int, ...], unimix: float) -> None:
        self.groups = list(groups)
        self.parts = [UnimixCategorical(part, unimix) for part in torch.split(logits, self.groups, dim=-1)]

    @property
    def mode(self) -> Tensor:
        """[..., A] the likeliest of each group."""
        return torch.cat([part.mode for part in self.parts], -1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Return [..., A], straight-through."""
        return torch.cat([part.sample(generator) for part in self.parts], -1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return [...]."""
        chosen = torch.split(action, self.groups, dim=-1)
        return torch.stack([part.log_prob(one) for part, one in zip(self.parts, chosen, strict=True)]).sum(0)

    def entropy(self) -> Tensor:
        """Return [...] in nats."""
        return torch.stack([part.entropy() for part in self.parts]).sum(0)


class Bits:
    """Independent zeros and ones.

    Args:
        logits: [..., A] of the ones.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.float()
        self.probability = self.logits.sigmoid()

    @property
    def mode(self) -> Tensor:
        """[..., A] the likelier value of each, straight-through."""
        return self._straight_through((self.probability > 0.5).float())

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Return [..., A], straight-through."""
        drawn = torch.empty_like(self.probability).uniform_(generator=generator)
        return self._straight_through((drawn < self.probability).float())

    def log_prob(self, action: Tensor) -> Tensor:
        """Return [...]."""
        return (action * logsigmoid(self.logits) + (1 - action) * logsigmoid(-self.logits)).sum(-1)

    def entropy(self) -> Tensor:
        """Return [...] in nats."""
        return -self.log_prob(self.probability)

    def _straight_through(self, bits: Tensor) -> Tensor:
        return bits + (self.probability - self.probability.detach())


class TruncatedNormal:
    """Gaussians cut to [-1, 1]: mean tanh(m), deviation 2 sigmoid(s / 2) + 0.1; DreamerV2's.

    Source: danijar/dreamerv2 ``common/nets.py`` (DistLayer, "trunc_normal", min_std 0.1). Samples are reparameterised
    through the distribution's inverse.

    Args:
        mean: [..., A] before tanh.
        deviation: [..., A] before the sigmoid.
    """

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        self.mean = mean.tanh()
        self.deviation = 2 * torch.sigmoid(deviation / 2) + 0.1
        self.low, self.high = ((bound - self.mean) / self.deviation for bound in (-1.0, 1.0))
        self.below, self.above = (_normal_cdf(bound) for bound in (self.low, self.high))
        self.mass = self.above - self.below  # at least 0.32, for the mean lies between the bounds

    @property
    def mode(self) -> Tensor:
        """[..., A] the mean of the uncut one, which lies inside."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Return [..., A], reparameterised."""
        share = torch.empty_like(self.mean).uniform_(generator=generator)
        quantile = (self.below + share * self.mass).clamp(1e-6, 1 - 1e-6)
        standard: Tensor = torch.special.ndtri(quantile)
        return (self.mean + self.deviation * standard).clamp(-1.0, 1.0)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return [...]."""
        distance = (action - self.mean) / self.deviation
        density = -0.5 * distance.square() - 0.5 * math.log(2 * math.pi)
        return (density - self.deviation.log() - self.mass.log()).sum(-1)

    def entropy(self) -> Tensor:
        """Return [...] in nats."""
        edges = (self.low * _normal_density(self.low) - self.high * _normal_density(self.high)) / (2 * self.mass)
        return (0.5 * math.log(2 * math.pi * math.e) + self.deviation.log() + self.mass.log() + edges).sum(-1)


class TanhNormal:
    """tanh of a Gaussian of mean 5 tanh(m / 5) and a deviation that begins at 5; DreamerV1's.

    Source: danijar/dreamer ``models.py`` (ActionDecoder), whose mode is the likeliest of 100 samples; here it is tanh
    of the mean.

    Args:
        mean: [..., A] before the outer tanh.
        deviation: [..., A] before softplus.
    """

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        start = math.log(math.exp(5.0) - 1.0)  # softplus of it is 5
        self.base = DiagonalNormal(5 * torch.tanh(mean / 5), softplus(deviation + start) + 1e-4)

    @property
    def mode(self) -> Tensor:
        """[..., A] tanh of the mean."""
        return self.base.mean.tanh()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Return [..., A], reparameterised."""
        return self.base.sample(generator).tanh()

    def log_prob(self, action: Tensor) -> Tensor:
        """Return [...]; actions on the border count as a little inside of it."""
        raw = action.clamp(-1 + 1e-6, 1 - 1e-6).atanh()
        return self.base.log_prob(raw) - _log_slope(raw).sum(-1)

    def entropy(self) -> Tensor:
        """Return [...] in nats, estimated from one sample: there is no closed form."""
        raw = self.base.sample()
        return self.base.entropy() + _log_slope(raw).sum(-1)


def _log_slope(raw: Tensor) -> Tensor:
    """Return log(1 - tanh(raw)^2), without cancellation."""
    return 2 * (math.log(2.0) - raw - softplus(-2 * raw))


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def _normal_density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)
