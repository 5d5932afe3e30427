"""Calibration of sampled rollouts after k steps: what any model can be judged by that draws its predictions.

One legend of shapes: W windows, P particles, L levels, D scored dimensions (encoded observation, reward).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.horizon_error import deviation, seeded
from mbrl_gym.model import WorldModel
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.report.calibration import CURVE, LEVELS
from mbrl_gym.report.open_loop import _array
from mbrl_gym.report.predictions import ROWS, particle_samples, scored, segments
from mbrl_gym.report.scores import coverage, pit, sample_crps, sample_quantile
from mbrl_gym.report.section import Section
from mbrl_gym.spaces import ObservationCodec

Array = np.ndarray[Any, np.dtype[Any]]

SMALLEST_SPREAD = 1e-6  # of the samples, in units of the data's change: below it a model draws nothing


@dataclass(frozen=True)
class SampledCalibration(Section):
    """How good the distribution of sampled rollouts is after k recorded actions.

    In units of the standard deviation of what k steps change; of the reward, of its own. ``overall_x`` is the mean of
    ``x`` over dimensions, the root mean square for ``sharpness``.

    Attributes:
        k: imagined steps.
        levels: [L] of the central intervals.
        coverage: [L, D] the share of reality within them. Below the level: overconfident.
        overall_coverage: [L].
        expected: [C] levels of the reliability curve, from 0 to 1.
        overall_observed: [C] the coverage at them.
        calibration_error: [D] the mean of |observed - expected| over the curve.
        overall_calibration_error: of all dimensions.
        pit: [10, D] the share of reality in each tenth of the distribution.
        crps: [D] the fair continuous ranked probability score of the samples.
        overall_crps: of all dimensions.
        sharpness: [D] the root mean variance of the samples: how wide they are, right or not.
        overall_sharpness: of all dimensions.
        scale: [D] the units, in those of the observation and the reward.
        windows: W.
        particles: P.
    """

    k: int
    levels: Array
    coverage: Array
    overall_coverage: Array
    expected: Array
    overall_observed: Array
    calibration_error: Array
    overall_calibration_error: float
    pit: Array
    crps: Array
    overall_crps: float
    sharpness: Array
    overall_sharpness: float
    scale: Array
    windows: int
    particles: int


def sampled_calibration(
    model: WorldModel[Any],
    data: SequenceReplay | SequenceBatch,
    k: int = 10,
    windows: int = 300,
    particles: int = 64,
    seed: int = 0,
) -> SampledCalibration:
    """Return how good the distribution of sampled rollouts is after ``k`` recorded actions.

    A prediction of termination does not stop a rollout.

    Args:
        model: any world model of vector observations whose predictions are drawn.
        data: reality that it was better not trained on: a replay, or windows [W, T].
        k: imagined steps.
        windows: segments at most, drawn without replacement.
        particles: P, sampled rollouts of each; every one forms a belief of its own.
        seed: of all draws.

    Raises:
        TypeError: the data is of another kind.
        ValueError: nothing in the data is long enough, a number is out of range, the observations are images, or the
            model draws nothing.
    """
    if particles < 2:
        raise ValueError(f"particles must be at least 2 to have a spread, got {particles}")
    codec, generator = ObservationCodec(model.observation_space), seeded(model, seed)
    batch = segments(model, data, k, windows, seed)
    rows = max(1, ROWS // particles)
    parts = [
        _last(model, codec, batch[begin : begin + rows], particles, generator)
        for begin in range(0, batch.batch_size, rows)
    ]
    samples = torch.cat([part[0] for part in parts], 1)  # [P, W, D]
    target = torch.cat([part[1] for part in parts])  # [W, D]
    scale = _units(model, codec, batch, k)
    samples, target = samples.double() / scale, target.double() / scale
    variance = samples.var(0)  # [W, D]
    if float(variance.amax()) < SMALLEST_SPREAD**2:
        raise ValueError(
            f"model must draw its predictions to have a distribution, but all {particles} rollouts of a "
            f"{type(model).__name__} are equal; open_loop_error judges its mean"
        )
    return _judge(k, samples, target, variance, scale, seeded(model, seed))


def _last(
    model: WorldModel[Any], codec: ObservationCodec, batch: SequenceBatch, particles: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    samples, target = particle_samples(model, codec, batch, particles, generator)
    return samples[:, :, -1], target[:, -1]


def _units(model: WorldModel[Any], codec: ObservationCodec, batch: SequenceBatch, k: int) -> Tensor:
    """Return [D]: the standard deviation of what k steps change and, where it is learned, of the reward."""
    obs = codec.encode(batch.obs)
    change = torch.cat([obs[:, -1] - obs[:, -1 - k], batch.reward[:, -1:]], dim=-1)
    return deviation(change)[: scored(model, codec)].double()


def _judge(
    k: int, samples: Tensor, target: Tensor, variance: Tensor, scale: Tensor, generator: torch.Generator
) -> SampledCalibration:
    quantile = _array(sample_quantile(samples, target, generator))  # [W, D]
    levels, expected = np.array(LEVELS), np.linspace(0, 1, CURVE)
    covered, observed = coverage(quantile, levels), coverage(quantile, expected)
    gap = np.abs(observed - expected[:, None]).mean(0)
    crps, wide = _array(sample_crps(samples, target).mean(0)), _array(variance.mean(0))
    return SampledCalibration(
        k=k,
        levels=levels,
        coverage=covered,
        overall_coverage=covered.mean(-1),
        expected=expected,
        overall_observed=observed.mean(-1),
        calibration_error=gap,
        overall_calibration_error=float(gap.mean()),
        pit=pit(quantile),
        crps=crps,
        overall_crps=float(crps.mean()),
        sharpness=np.sqrt(wide),
        overall_sharpness=float(np.sqrt(wide.mean())),
        scale=_array(scale),
        windows=len(target),
        particles=len(samples),
    )
