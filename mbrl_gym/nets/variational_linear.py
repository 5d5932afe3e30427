"""VariationalLinear: a linear layer whose weights have a normal posterior, and the noise around what it says."""

import math

import torch
from torch import Tensor, nn

NOISE_AT_START = 0.3  # deviation, in units of the targets
# Logarithms of deviations are parameters times this. They have to fall by 4 or so while weights move by 0.1: without it
# a fit of 1,200 steps of Adam ends with noise deviations of 0.15 where 0.0075 is right (CartPole-v1, 400 random steps).
LOGARITHM_SPEED = 10.0


class VariationalLinear(nn.Module):
    """Each output is w' phi + noise, with q(w) = N(mean, L L') and noise N(0, deviation^2): the head of VBLL.

    The prior of the weights is N(0, prior_scale / F), that of the noise' covariance an inverse Wishart. Source:
    Harrison, Willes & Snoek 2024 (VBLL); VectorInstitute/vbll 0.4.9 ``vbll/layers/regression.py`` (parametrisation
    "dense"), which weighs an output's `spread` by the sum of all outputs' precisions; here each counts by its own, the
    bound that follows from independent outputs. With one output the two are the same.

    Shapes: F features, T outputs, N rows.

    Args:
        features: F.
        outputs: T.
        prior_scale: of the prior's variance.
        wishart_scale: of the inverse Wishart's scale matrix.
        wishart_freedom: the inverse Wishart's degrees of freedom.
    """

    def __init__(
        self, features: int, outputs: int, prior_scale: float, wishart_scale: float, wishart_freedom: float
    ) -> None:
        super().__init__()
        self.prior_variance = prior_scale / features
        self.wishart_scale = wishart_scale
        self.wishart_freedom = (wishart_freedom + outputs + 1.0) / 2.0
        self.mean = nn.Parameter(torch.randn(outputs, features) / (2.0 * features**0.5))
        diagonal, noise = 0.5 * math.log(self.prior_variance), math.log(NOISE_AT_START)
        self.diagonal = nn.Parameter(torch.full((outputs, features), diagonal / LOGARITHM_SPEED))  # of L
        self.lower = nn.Parameter(torch.zeros(outputs, features, features))  # L strictly below its diagonal
        self.noise = nn.Parameter(torch.full((outputs,), noise / LOGARITHM_SPEED))

    @property
    def log_diagonal(self) -> Tensor:
        """[T, F], the logarithm of L's diagonal."""
        return LOGARITHM_SPEED * self.diagonal

    @property
    def log_noise(self) -> Tensor:
        """[T], the logarithm of the noise' deviation."""
        return LOGARITHM_SPEED * self.noise

    def factor(self) -> Tensor:
        """Return L [T, F, F], the Cholesky factor of each output's posterior covariance."""
        return torch.tril(self.lower, -1) + torch.diag_embed(self.log_diagonal.exp())

    def noise_variance(self) -> Tensor:
        """Return [T]."""
        return torch.exp(2.0 * self.log_noise)

    def forward(self, features: Tensor) -> Tensor:
        """Return the posterior's mean prediction [N, T] from features [N, F]."""
        mean: Tensor = features @ self.mean.T
        return mean

    def spread(self, features: Tensor) -> Tensor:
        """Return [N, T, F], whose squares sum to the variance of w' phi: phi' L."""
        return torch.einsum("nf,tfg->ntg", features, self.factor())

    def log_likelihood(self, features: Tensor, target: Tensor) -> Tensor:
        """Return [N, T]: the log density of the targets [N, T], expected over the posterior of the weights."""
        error = (self(features) - target).square() + self.spread(features).square().sum(-1)
        doubled: Tensor = math.log(2.0 * math.pi) + 2.0 * self.log_noise + error / self.noise_variance()
        return -0.5 * doubled

    def divergence(self) -> Tensor:
        """Return the Kullback-Leibler divergence of the weights' posterior from their prior, a scalar."""
        outputs, size = self.mean.shape
        squares = self.mean.square().sum() + self.factor().square().sum()
        log_ratio = outputs * size * math.log(self.prior_variance) - 2.0 * self.log_diagonal.sum()
        return 0.5 * (squares / self.prior_variance + log_ratio - outputs * size)

    def log_noise_prior(self) -> Tensor:
        """Return the log density of the noise' covariance, a scalar, up to a constant."""
        log_precision = -2.0 * self.log_noise.sum()
        return (
            self.wishart_freedom * log_precision - 0.5 * self.wishart_scale * self.noise_variance().reciprocal().sum()
        )

    def drawn(self, noise: Tensor) -> Tensor:
        """Return weights [K, T, F] from standard normal noise [K, T, F]."""
        return self.mean + torch.einsum("tfg,ktg->ktf", self.factor(), noise)


def centred_noise(*shape: int, generator: torch.Generator | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Return standard normal noise [K, ...] whose mean over the K >= 2 draws is exactly zero.

    Each draw on its own is standard normal. The mean of what depends on them linearly is exact, and the mean of its
    squares (dividing by K) has no bias.
    """
    noise = torch.randn(*shape, generator=generator, dtype=dtype)
    scale: float = (shape[0] / (shape[0] - 1.0)) ** 0.5
    return (noise - noise.mean(0)) * scale
