"""What candidates are drawn from: distributions over sequences of actions, one strategy for each kind of action.

All of them are described by a ``centre`` [B, H, A] (the mean of the actions, or the probabilities of their ones) and
the ``variance`` [B, H, A] of the actions.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_gym.planners.noise import truncated_normal
from mbrl_gym.spaces import ActionCodec


class Sequences(ABC):
    """A family of distributions over action sequences."""

    @abstractmethod
    def prior(self, batch_size: int, horizon: int, device: torch.device | str | None) -> Tensor:
        """Return the centre [B, H, A] where nothing is known."""

    @abstractmethod
    def widen(self, centre: Tensor, deviation: float) -> tuple[Tensor, Tensor]:
        """Return centre and variance, each [B, H, A], of the first iteration around an earlier plan's ``centre``."""

    @abstractmethod
    def draw(self, centre: Tensor, variance: Tensor, number: int, generator: torch.Generator | None) -> Tensor:
        """Return N candidates [B, N, H, A]."""

    @abstractmethod
    def uniform(self, prior: Tensor, number: int, generator: torch.Generator | None) -> Tensor:
        """Return N candidates [B, N, H, A] without preference; ``prior`` [B, H, A] is that of `prior`."""

    @abstractmethod
    def action(self, centre: Tensor) -> Tensor:
        """Return the actions [B, A] that the centres [B, A] of one step stand for."""


@dataclass(frozen=True)
class _Continuous(Sequences):
    """Independent normals within [-1, 1].

    Truncated at two deviations, of which the second ends at the nearer bound: PETS (``dmbrl/misc/optimizers/cem.py``).
    Clipped: PlaNet (google-research/planet at b33f0d5, ``planet/control/planning.py``).
    """

    size: int
    clipped: bool = False

    def prior(self, batch_size: int, horizon: int, device: torch.device | str | None) -> Tensor:
        return torch.zeros(batch_size, horizon, self.size, device=device)

    def widen(self, centre: Tensor, deviation: float) -> tuple[Tensor, Tensor]:
        return centre, torch.full_like(centre, deviation**2)

    def draw(self, centre: Tensor, variance: Tensor, number: int, generator: torch.Generator | None) -> Tensor:
        shape = (centre.shape[0], number, *centre.shape[1:])
        if self.clipped:
            noise = torch.randn(shape, generator=generator, device=centre.device)
            return (centre[:, None] + variance.sqrt()[:, None] * noise).clamp(-1, 1)
        room = (1 - centre.abs()).clamp(min=0) / 2  # two deviations end at the nearer bound
        deviation = torch.minimum(room, variance.sqrt())
        noise = truncated_normal(shape, generator, centre.device)
        return (centre[:, None] + deviation[:, None] * noise).clamp(-1, 1)  # the clamp is for rounding alone

    def uniform(self, prior: Tensor, number: int, generator: torch.Generator | None) -> Tensor:
        shape = (prior.shape[0], number, *prior.shape[1:])
        return torch.rand(shape, generator=generator, device=prior.device) * 2 - 1

    def action(self, centre: Tensor) -> Tensor:
        return centre


class _Discrete(Sequences):
    """Zeros and ones, whose probabilities are the centre."""

    def widen(self, centre: Tensor, deviation: float) -> tuple[Tensor, Tensor]:
        # A plan that is certain would never be questioned again. PETS gives the normal its variance back before each
        # plan; here a share of the prior does the same.
        batch, horizon, _ = centre.shape
        centre = torch.lerp(centre, self.prior(batch, horizon, centre.device), deviation)
        return centre, centre * (1 - centre)

    def uniform(self, prior: Tensor, number: int, generator: torch.Generator | None) -> Tensor:
        return self.draw(prior, prior, number, generator)


@dataclass(frozen=True)
class _OneHots(_Discrete):
    """One independent categorical distribution for each step and each of the ``groups``."""

    groups: tuple[int, ...]

    def prior(self, batch_size: int, horizon: int, device: torch.device | str | None) -> Tensor:
        parts = [torch.full((batch_size, horizon, n), 1 / n, device=device) for n in self.groups]
        return torch.cat(parts, dim=-1)

    def draw(self, centre: Tensor, variance: Tensor, number: int, generator: torch.Generator | None) -> Tensor:
        batch, horizon, _ = centre.shape
        parts = []
        for probabilities in torch.split(centre, list(self.groups), dim=-1):
            edges = probabilities.cumsum(-1)[:, None, :, :-1]  # [B, 1, H, n - 1]
            uniform = torch.rand(batch, number, horizon, 1, generator=generator, device=centre.device)
            parts.append(_one_hot((uniform >= edges).sum(-1), probabilities.shape[-1]))
        return torch.cat(parts, dim=-1)

    def action(self, centre: Tensor) -> Tensor:
        parts = torch.split(centre, list(self.groups), dim=-1)
        return torch.cat([_one_hot(part.argmax(-1), part.shape[-1]) for part in parts], dim=-1)


@dataclass(frozen=True)
class _Bits(_Discrete):
    """One independent Bernoulli distribution for each step and bit."""

    size: int

    def prior(self, batch_size: int, horizon: int, device: torch.device | str | None) -> Tensor:
        return torch.full((batch_size, horizon, self.size), 0.5, device=device)

    def draw(self, centre: Tensor, variance: Tensor, number: int, generator: torch.Generator | None) -> Tensor:
        shape = (centre.shape[0], number, *centre.shape[1:])
        return (torch.rand(shape, generator=generator, device=centre.device) < centre[:, None]).float()

    def action(self, centre: Tensor) -> Tensor:
        return (centre > 0.5).float()


def sequences_for(codec: ActionCodec, clipped: bool = False) -> Sequences:
    """Return the family that suits an action space; continuous actions are truncated at their bounds, or clipped."""
    if codec.continuous:
        return _Continuous(codec.size, clipped)
    return _OneHots(codec.groups) if codec.groups else _Bits(codec.size)


def shift(sequence: Tensor, tail: Tensor) -> Tensor:
    """Return ``sequence`` [..., H, A] one step later, with ``tail`` [..., 1, A] as what comes last."""
    return torch.cat([sequence[..., 1:, :], tail], dim=-2)


def best_candidates(candidates: Tensor, returns: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the best [B, K, H, A] of ``candidates`` [B, N, H, A], best first, and which [B, K] bool were finite.

    Args:
        candidates: [B, N, H, A].
        returns: [B, N], -inf where not finite.
        number: K, at most N.
    """
    values, index = returns.topk(number, dim=1)
    index = index[:, :, None, None].expand(-1, -1, *candidates.shape[2:])
    return candidates.gather(1, index), values.isfinite()


def moments(elites: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, each [B, H, A], of the ``elites`` [B, K, H, A] that count ([B, K] bool).

    Where none counts both are zero.
    """
    weight = counts.float()[:, :, None, None]
    total = weight.sum(1).clamp(min=1)
    mean = (elites * weight).sum(1) / total
    variance = ((elites - mean[:, None]).square() * weight).sum(1) / total
    return mean, variance


def _one_hot(index: Tensor, number: int) -> Tensor:
    """Return [..., number] float32; ``torch.nn.functional.one_hot`` may read its input on the host."""
    return (index[..., None] == torch.arange(number, device=index.device)).float()
