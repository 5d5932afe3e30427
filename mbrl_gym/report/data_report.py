"""What can be measured of a model on one set of recorded experience."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mbrl_gym.model import WorldModel
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.report.calibration import Calibration, calibration, ood_auroc
from mbrl_gym.report.images import Locate, image_error
from mbrl_gym.report.latent import latent_health
from mbrl_gym.report.normaliser import normaliser_fit
from mbrl_gym.report.open_loop import open_loop_error, open_loop_trace
from mbrl_gym.report.pictures import sees
from mbrl_gym.report.record import DataReport, Familiarity, attempt
from mbrl_gym.report.sampled import SampledCalibration, sampled_calibration
from mbrl_gym.report.steps import predicted_steps, reward_scores, termination_scores, uncertainty_scores

ENOUGH = 30  # windows that a horizon should have, where shorter ones are to be had
PICTURES = "the observations are pictures, which are judged by their likeness"


@dataclass(frozen=True)
class ReportConfig:
    """How much is measured.

    Attributes:
        horizon: k of the open loop, where episodes are long enough.
        ahead: k of the calibration of sampled rollouts, likewise.
        windows: transitions that single steps are judged on.
        segments: recorded segments that rollouts are compared with.
        particles: sampled rollouts of each.
        films: segments of pictures.
        episodes: real episodes of each policy.
        episode_steps: their steps at most, and the dream's.
        seed: of everything; real episodes are reset with it and the numbers after it.

    Raises:
        ValueError: a number is below its least: 1 mostly, 2 for episodes and particles, 0 for the seed.
    """

    horizon: int = 30
    ahead: int = 10
    windows: int = 2000
    segments: int = 200
    particles: int = 32
    films: int = 32
    episodes: int = 10
    episode_steps: int = 1000
    seed: int = 10_000

    def __post_init__(self) -> None:
        least = {"episodes": 2, "particles": 2, "seed": 0}
        for name, value in asdict(self).items():
            if value < least.get(name, 1):
                raise ValueError(f"{name} must be at least {least.get(name, 1)}, got {value}")


def measure_data(
    model: WorldModel[Any],
    replay: SequenceReplay,
    name: str,
    config: ReportConfig,
    objects: Mapping[str, Locate] | None = None,
) -> DataReport:
    """Return all that can be measured on ``replay``.

    Args:
        model: any world model.
        replay: recorded experience.
        name: whose.
        config: how much.
        objects: see `mbrl_gym.report.images.image_error`.

    Raises:
        ValueError: no episode has a row beyond the model's context.
    """
    missing: dict[str, str] = {}
    seed, horizon = config.seed, reach(model, replay, config.horizon)
    steps = predicted_steps(model, replay, config.windows, seed)
    vectors = not sees(model)
    loop = open_loop_error(model, replay, horizon, config.segments, seed) if vectors else None
    trace = open_loop_trace(model, replay, horizon, config.segments, seed=seed) if vectors else None
    images = None if vectors else image_error(model, replay, horizon, config.films, objects, seed)
    return DataReport(
        name=name,
        transitions=replay.n_transitions,
        open_loop=loop,
        trace=trace,
        calibration=attempt(missing, "calibration", lambda: _calibration(model, replay, config)),
        sampled=attempt(missing, "sampled", lambda: _sampled(model, replay, config)) or (),
        uncertainty=attempt(missing, "uncertainty", lambda: uncertainty_scores(steps)),
        reward=reward_scores(steps),
        termination=termination_scores(steps),
        images=images,
        latent=attempt(missing, "latent", lambda: latent_health(model, replay, min(horizon, 16), seed=seed)),
        normaliser=normaliser_fit(model, replay, config.windows, seed),
        missing=missing | ({"open_loop": PICTURES} if sees(model) else {}),
    )


def reach(model: WorldModel[Any], replay: SequenceReplay, wanted: int) -> int:
    """Return the longest horizon up to ``wanted`` that has 30 windows, or else the longest that has any.

    Raises:
        ValueError: none has.
    """
    counts = [len(replay.windows(model.context + k)) for k in range(1, wanted + 1)]
    if not counts[0]:
        raise ValueError(
            f"data must hold an episode of at least {model.context + 1} rows to judge this model, got {len(replay)} "
            f"rows with {replay.n_transitions} transitions; collect longer episodes"
        )
    enough = max((k for k, count in enumerate(counts, 1) if count >= ENOUGH), default=0)
    return enough or max(k for k, count in enumerate(counts, 1) if count)


def familiarity(
    model: WorldModel[Any], old: SequenceReplay, new: SequenceReplay, reports: tuple[DataReport, DataReport], seed: int
) -> Familiarity:
    """Return how the newest data differs from the old to the model; ``reports`` are those of both."""
    before, after = (report.open_loop for report in reports)
    if before is not None and after is not None:
        in_old_units = after.error[0] * after.scale / before.scale  # each was measured in units of its own data
        errors = (float(np.sqrt(np.square(x).mean())) for x in (in_old_units, before.error[0]))
    else:
        images = [report.images for report in reports]
        assert images[0] is not None
        assert images[1] is not None
        errors = (10 ** (-image.psnr[0] / 20) for image in (images[1], images[0]))
    new_error, old_error = errors
    known = all(report.uncertainty is not None for report in reports)
    return Familiarity(
        error_ratio=float(new_error / max(old_error, 1e-12)),
        auroc=ood_auroc(model, old, new, 2000, seed) if known else float("nan"),
    )


def _calibration(model: Any, replay: SequenceReplay, config: ReportConfig) -> Calibration:
    if sees(model):
        raise ValueError(PICTURES)
    if not callable(getattr(model, "moments", None)):
        raise ValueError(f"a {type(model).__name__} has no densities (moments); its samples are judged instead")
    return calibration(model, replay, config.windows, seed=config.seed)


def _sampled(model: WorldModel[Any], replay: SequenceReplay, config: ReportConfig) -> tuple[SampledCalibration, ...]:
    if sees(model):
        raise ValueError(PICTURES)
    steps = sorted({1, reach(model, replay, config.ahead)})
    size = (config.segments, config.particles, config.seed)
    return tuple(sampled_calibration(model, replay, k, *size) for k in steps)
