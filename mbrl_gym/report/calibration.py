"""Calibration: how good a model's uncertainty is. Does reality fall where it says, and is it unsure where it errs?

One legend of shapes: W windows, N transitions, E members, P particles, K imagined steps, L levels, D scored dimensions:
those of the encoded observation, then the reward (unless ``learn_reward=False`` leaves it to a known function).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.horizon_error import seeded
from mbrl_gym.model import DensityModel, WorldModel
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.report.open_loop import _array
from mbrl_gym.report.predictions import Steps, change_scale, particle_quantiles, predict_steps, segments, uncertainty_of
from mbrl_gym.report.scores import (
    auroc,
    coverage,
    gaussian_crps,
    miscalibration_area,
    mixture_log_likelihood,
    mixture_quantile,
    pit,
    sparsification_error,
    spearman,
)
from mbrl_gym.report.section import Section
from mbrl_gym.spaces import ObservationCodec

Array = np.ndarray[Any, np.dtype[Any]]

LEVELS = (0.5, 0.8, 0.9, 0.95)
CURVE = 100  # points of the reliability curve, from 0 to 1, as in uncertainty-toolbox
LARGE_ERRORS = 0.1  # the share of transitions whose errors count as large


@dataclass(frozen=True)
class Calibration(Section):
    """How good the predicted distributions of one step are, in units of the standard deviation of the change.

    An error of 1 is that of predicting the mean change. The unit of the reward is its own standard deviation. Unless it
    says otherwise, ``overall_x`` is the mean of ``x`` over dimensions, and not of what was pooled over them: too wide
    here and too narrow there do not make a calibrated model.

    Attributes:
        levels: [L] of the central intervals, 0.5, 0.8, 0.9 and 0.95.
        coverage: [L, D] the share of reality within them. Below the level: overconfident.
        overall_coverage: [L].
        expected: [C] levels of the reliability curve, from 0 to 1.
        observed: [C, D] the coverage at them.
        overall_observed: [C].
        calibration_error: [D] the mean of |observed - expected| over the curve (expected calibration error).
        overall_calibration_error: of all dimensions.
        miscalibration_area: [D] the area between the curve and the diagonal.
        overall_miscalibration_area: of all dimensions.
        pit: [10, D] the share of reality in each tenth of the predicted distribution (the histogram of the probability
            integral transform): 0.1 each where it is right, a valley where it is too narrow, a hill where too wide.
        nll: [D] negative log-likelihood of the mixture [nats].
        overall_nll: that of all dimensions together, their joint likelihood under each member [nats].
        rmse: [D] root mean square error of the mixture's mean.
        overall_rmse: the root mean square over dimensions too.
        crps: [D] continuous ranked probability score of the Gaussian with the mixture's mean and variance.
        overall_crps: of all dimensions.
        sharpness: [D] root mean of the mixture's variance: how narrow the intervals are, right or not.
        overall_sharpness: the root mean square over dimensions too.
        spearman: rank correlation of ``Prediction.uncertainty`` with the error, the root mean square over dimensions;
            NaN where all transitions are equally uncertain.
        aleatoric_spearman: the same of the members' predicted noise.
        large_error_auroc: how well the uncertainty tells the tenth with the largest errors: 1 perfectly, 0.5 not.
        sparsification_error: 0 where the uncertainty orders transitions as their errors do; see
            `mbrl_gym.report.scores.sparsification_error`.
        scale: [D] the units, in those of the observation and the reward.
        transitions: N.
        open_loop_coverage: [K, L, D] the share of reality within the intervals of sampled rollouts after 1 ... K
            recorded actions; None where no horizon was given.
        overall_open_loop_coverage: [K, L].
    """

    levels: Array
    coverage: Array
    overall_coverage: Array
    expected: Array
    observed: Array
    overall_observed: Array
    calibration_error: Array
    overall_calibration_error: float
    miscalibration_area: Array
    overall_miscalibration_area: float
    pit: Array
    nll: Array
    overall_nll: float
    rmse: Array
    overall_rmse: float
    crps: Array
    overall_crps: float
    sharpness: Array
    overall_sharpness: float
    spearman: float
    aleatoric_spearman: float
    large_error_auroc: float
    sparsification_error: float
    scale: Array
    transitions: int
    open_loop_coverage: Array | None
    overall_open_loop_coverage: Array | None


def calibration(
    model: DensityModel[Any],
    data: SequenceReplay | SequenceBatch,
    windows: int = 5000,
    horizon: int | None = None,
    rollouts: int = 500,
    particles: int = 100,
    seed: int = 0,
) -> Calibration:
    """Return how good the uncertainty of a model is on recorded reality that it was not trained on.

    One step is judged by the true mixture of what ``moments`` says of all members (an ensemble's elites are no
    exception), its distribution function and its density; only the CRPS by a moment-matched Gaussian. A prediction
    beyond a bound of the space means that bound, as everywhere in this library. Good numbers on the data's own policy
    say nothing about another one's states: judge the newest policy's. The definitions of the scores are those of
    uncertainty-toolbox, ``metrics_calibration.py`` and ``metrics_scoring_rule.py``.

    Args:
        model: an ensemble or any other model of densities of vector observations, wrapped or not.
        data: a replay, or windows [W, T] of T > C rows, which may cross the borders of episodes.
        windows: transitions at most, drawn without replacement.
        horizon: K, to judge sampled rollouts of 1 ... K recorded actions too; None: one step is all. A prediction of
            termination does not stop a rollout.
        rollouts: segments of reality at most, that rollouts are compared with.
        particles: P, sampled rollouts of each of them.
        seed: of all draws.

    Raises:
        TypeError: the model has no ``moments``, or the data is of another kind.
        ValueError: nothing in the data is long enough, a number is below 1, or the observations are images.
    """
    if not callable(getattr(model, "moments", None)):
        raise TypeError(
            f"model must be a DensityModel (moments(state, action) -> mean, variance), got {type(model).__name__}; "
            "open_loop_error judges any world model"
        )
    for name, value in (("windows", windows), ("horizon", horizon), ("rollouts", rollouts), ("particles", particles)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    codec, generator = ObservationCodec(model.observation_space), seeded(model, seed)
    batch = segments(model, data, 1, windows, seed)
    scale = change_scale(model, codec, batch)
    steps = predict_steps(model, codec, batch, scale, generator)
    ahead = None
    if horizon is not None:
        batch, generator = segments(model, data, horizon, rollouts, seed), seeded(model, seed)
        quantile = _array(particle_quantiles(model, codec, batch, particles, generator))  # [W, K, D]
        ahead = np.moveaxis(coverage(quantile, np.array(LEVELS)), 1, 0)
    return _judge(steps, scale, ahead, seeded(model, seed))


def ood_auroc(
    model: WorldModel[Any],
    inside: SequenceReplay | SequenceBatch,
    outside: SequenceReplay | SequenceBatch,
    windows: int = 5000,
    seed: int = 0,
) -> float:
    """Return how well ``Prediction.uncertainty`` tells unfamiliar transitions from familiar ones.

    It is the probability that a transition from ``outside`` is the more uncertain one of a pair: 1 always, 0.5 says
    nothing.

    Args:
        model: any world model with an uncertainty.
        inside: data like that which the model was trained on, better not that itself.
        outside: data from elsewhere: of another policy, with states perturbed, ....
        windows: transitions of each at most, drawn without replacement.
        seed: of all draws.

    Raises:
        TypeError: the data is of another kind.
        ValueError: nothing in the data is long enough, or a number is below 1.
    """
    generator = seeded(model, seed)
    known, unknown = (
        _array(uncertainty_of(model, segments(model, data, 1, windows, seed), generator)) for data in (inside, outside)
    )
    return auroc(np.concatenate([known, unknown]), np.arange(len(known) + len(unknown)) >= len(known))


def _judge(steps: Steps, scale: Tensor, ahead: Array | None, generator: torch.Generator) -> Calibration:
    """Return all scores."""
    mixture = (steps.mean, steps.std, steps.target, steps.at_low, steps.at_high)
    quantile = _array(mixture_quantile(*mixture, generator))
    log, joint = mixture_log_likelihood(*mixture)
    variance = steps.std.square().mean(0) + steps.mean.var(0, unbiased=False)  # [N, D]
    error = steps.target - steps.centre
    crps = gaussian_crps(error, variance.sqrt()).mean(0)
    size, uncertainty = _array(error.square().mean(-1).sqrt()), _array(steps.uncertainty)
    levels, expected = np.array(LEVELS), np.linspace(0, 1, CURVE)
    covered, observed = coverage(quantile, levels), coverage(quantile, expected)
    gap = np.abs(observed - expected[:, None]).mean(0)
    area = miscalibration_area(expected, observed)
    return Calibration(
        levels=levels,
        coverage=covered,
        overall_coverage=covered.mean(-1),
        expected=expected,
        observed=observed,
        overall_observed=observed.mean(-1),
        calibration_error=gap,
        overall_calibration_error=float(gap.mean()),
        miscalibration_area=area,
        overall_miscalibration_area=float(area.mean()),
        pit=pit(quantile),
        nll=_array(-log.mean(0)),
        overall_nll=-float(joint.mean()),
        rmse=_array(error.square().mean(0).sqrt()),
        overall_rmse=math.sqrt(float(error.square().mean())),
        crps=_array(crps),
        overall_crps=float(crps.mean()),
        sharpness=_array(variance.mean(0).sqrt()),
        overall_sharpness=math.sqrt(float(variance.mean())),
        spearman=spearman(uncertainty, size),
        aleatoric_spearman=spearman(_array(steps.std.square().mean((0, -1))), size),
        large_error_auroc=auroc(uncertainty, size > np.quantile(size, 1 - LARGE_ERRORS)),
        sparsification_error=sparsification_error(uncertainty, size),
        scale=_array(scale),
        transitions=len(size),
        open_loop_coverage=ahead,
        overall_open_loop_coverage=None if ahead is None else ahead.mean(-1),
    )
