"""Scores of predicted distributions, and rank statistics of an uncertainty: formulas alone, nothing about models.

One legend of shapes: E members, N predictions, D dimensions, L levels. float64 throughout.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]]

BINS = 10  # of the histogram of quantiles


def mixture_quantile(
    mean: Tensor, std: Tensor, target: Tensor, at_low: Tensor, at_high: Tensor, generator: torch.Generator
) -> Tensor:
    """Return [N, D]: which quantile of the predicted mixture the target is; uniform on [0, 1] where it is right.

    By the mixture's own distribution function, no moment-matched Gaussian's. Where the target sits on a bound of the
    space, all that is predicted beyond it is predicted to be there: the quantile is then drawn from those that the
    bound spans (the randomised probability integral transform of Smith 1985, recalled).

    Args:
        mean: [E, N, D] of each member, all of equal weight.
        std: [E, N, D].
        target: [N, D].
        at_low: [N, D] bool, the target is the lower bound of its space.
        at_high: [N, D] bool, it is the upper bound.
        generator: of the draws.
    """
    quantile: Tensor = torch.special.ndtr((target - mean) / std).mean(0)
    first = quantile.masked_fill(at_low, 0.0)
    last = quantile.masked_fill(at_high, 1.0)
    draw = torch.rand(target.shape, generator=generator, dtype=target.dtype, device=target.device)
    return first + draw * (last - first)


def mixture_log_likelihood(
    mean: Tensor, std: Tensor, target: Tensor, at_low: Tensor, at_high: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the log-likelihood of each dimension by itself [N, D], and of all dimensions together [N].

    A member is a hypothesis about all dimensions at once, so that the second is not the sum of the first. On a bound
    of the space it is the logarithm of the probability beyond it, elsewhere of the density.

    Args:
        mean: as in `mixture_quantile`.
        std: likewise.
        target: likewise.
        at_low: likewise.
        at_high: likewise.
    """
    z = (target - mean) / std
    log = -0.5 * z.square() - torch.log(std) - 0.5 * math.log(2 * math.pi)
    log = torch.where(at_low, torch.special.log_ndtr(z), log)
    log = torch.where(at_high, torch.special.log_ndtr(-z), log)
    share = math.log(len(mean))
    return torch.logsumexp(log, 0) - share, torch.logsumexp(log.sum(-1), 0) - share


def gaussian_crps(error: Tensor, std: Tensor) -> Tensor:
    """Return the continuous ranked probability score of Gaussians from (target - mean) and std, any equal shapes.

    Source: uncertainty-toolbox ``metrics_scoring_rule.py``, ``crps_gaussian``.
    """
    z = error / std
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    score: Tensor = std * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))
    return score


def sample_quantile(samples: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
    """Return [...]: which quantile of samples [P, ...] the target [...] is; uniform on [0, 1] where they are right.

    The target's rank among its P equals, ties in random order, at a random place within its 1 / (P + 1): exact for
    any number of samples, whereas the empirical quantiles of few samples lie too close together.
    """
    below = (samples < target).sum(0)
    equal = (samples == target).sum(0)
    draw = torch.rand(target.shape, generator=generator, dtype=torch.float64, device=target.device)
    return (below + draw * (equal + 1)) / (len(samples) + 1)


def sample_crps(samples: Tensor, target: Tensor) -> Tensor:
    """Return [...]: the continuous ranked probability score of samples [P, ...] for the target [...], P at least 2.

    E|x - y| - E|x - x'| / 2 over different samples x, x', which is free of bias for any number of them: the fair score
    of Ferro 2014 (recalled).
    """
    count = len(samples)
    ordered = samples.sort(0).values
    # The sum of |x_i - x_j| over pairs is that of the i-th smallest times (2 i - P - 1).
    rank = 2.0 * torch.arange(1, count + 1, dtype=samples.dtype, device=samples.device) - count - 1
    pairs = torch.tensordot(rank, ordered, dims=1)
    score: Tensor = (samples - target).abs().mean(0) - pairs / (count * (count - 1))
    return score


def pit(quantile: Array) -> Array:
    """Return [10, ...]: the share of quantiles [N, ...] in each tenth of [0, 1]."""
    which = np.minimum((quantile * BINS).astype(np.int64), BINS - 1)
    return np.stack([(which == i).mean(0) for i in range(BINS)])


def coverage(quantile: Array, levels: Array) -> Array:
    """Return [L, ...]: the share of quantiles [N, ...] that are within the central interval of each level [L]."""
    distance = np.abs(2 * quantile - 1)
    return np.stack([(distance <= level).mean(0) for level in levels])


def miscalibration_area(expected: Array, observed: Array) -> Array:
    """Return [...]: the area between the diagonal and the curve of observed [L, ...] over expected coverage [L].

    Straight lines join the points; where they cross the diagonal both sides count. Source: uncertainty-toolbox
    ``utils.py``, ``trapezoid_area``.
    """
    gap = observed - expected.reshape(-1, *[1] * (observed.ndim - 1))
    left, right = np.abs(gap[:-1]), np.abs(gap[1:])
    height = 0.5 * (left + right)
    crosses = gap[:-1] * gap[1:] < 0
    height = np.where(crosses, 0.5 * (left**2 + right**2) / np.where(crosses, left + right, 1.0), height)
    result: Array = np.tensordot(np.diff(expected), height, axes=1)
    return result


def ranks(x: Array) -> Array:
    """Return [N] ranks from 1, equal values sharing the mean of theirs."""
    _, place, count = np.unique(x, return_inverse=True, return_counts=True)
    shared: Array = np.cumsum(count) - 0.5 * (count - 1)
    return shared[place]


def spearman(x: Array, y: Array) -> float:
    """Return the rank correlation of two [N]; NaN where one of them is constant."""
    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else math.nan


def kendall(x: Array, y: Array) -> float:
    """Return Kendall's tau-b of two [N]: concordant less discordant pairs, ties corrected; NaN where one is constant.

    Source: scipy ``kendalltau``, variant "b".
    """
    i, j = np.triu_indices(len(x), 1)
    a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
    norm = math.sqrt(float((a != 0).sum()) * float((b != 0).sum()))
    return float(a @ b) / norm if norm > 0 else math.nan


def auroc(score: Array, positive: Array) -> float:
    """Return the probability that the score [N] of a positive (bool [N]) is above a negative's, ties counting half.

    The Mann-Whitney statistic; NaN where there are no positives, or nothing else.
    """
    positives = int(positive.sum())
    pairs = positives * (len(score) - positives)
    return (float(ranks(score)[positive].sum()) - 0.5 * positives * (positives + 1)) / pairs if pairs else math.nan


def sparsification_error(uncertainty: Array, error: Array) -> float:
    """Return the area between two curves of the mean error of the part that is kept, in units of the mean error.

    The one drops predictions by their uncertainty [N], largest first, the other by the error [N] itself: 0 is the best
    possible order, and an uncertainty that says nothing leaves the mean error as it is. Source: the AUSE of Ilg et al.
    2018 (recalled).
    """
    by_uncertainty, best = sparsification_curves(uncertainty, error)
    return float((by_uncertainty - best).mean())


def sparsification_curves(uncertainty: Array, error: Array) -> tuple[Array, Array]:
    """Return the two curves, [N] each: the mean error of the 1 ... N kept ones, in units of the mean error of all."""
    kept = np.arange(1, len(error) + 1)
    mean = float(error.mean()) or 1.0  # without errors both curves are 0
    by_uncertainty = np.cumsum(error[np.argsort(uncertainty, kind="stable")]) / kept
    best = np.cumsum(np.sort(error)) / kept
    return by_uncertainty / mean, best / mean
