"""The trend of the exploitation gap over checkpoints of a run: whether a policy is trained into the model's errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbrl_gym.report.matched import Matched
from mbrl_gym.report.scores import kendall
from mbrl_gym.report.section import Section

Array = np.ndarray[Any, np.dtype[Any]]

FEWEST = 2  # checkpoints that have a trend
ERRORS = 2.0  # standard errors that the gap has to have grown by


@dataclass(frozen=True)
class GapTrend(Section):
    """Mean returns and gaps of a run's checkpoints, oldest first, by the matched protocol.

    The rule of the alarm: from the first checkpoint to the last the dream's return rose, reality's fell, and the gap
    grew by more than two standard errors of its growth.

    Attributes:
        names: [N].
        real: [N] mean returns.
        dream: [N].
        gap: [N] dream less reality.
        standard_errors: [N] of the gaps; NaN of one episode.
        growth: of the gap, from the first checkpoint to the last.
        tau: Kendall's tau-b of the gap against the order of training: 1 where it grows at every checkpoint; NaN where
            it never changes.
        alarm: whether the policy was trained into the model's errors.
    """

    names: tuple[str, ...]
    real: Array
    dream: Array
    gap: Array
    standard_errors: Array
    growth: float
    tau: float
    alarm: bool


def gap_trend(matched: Mapping[str, Matched]) -> GapTrend:
    """Return how the gap went.

    Args:
        matched: the pairs of each checkpoint, by its name, oldest first.

    Raises:
        ValueError: there are fewer than 2 checkpoints.
    """
    if len(matched) < FEWEST:
        raise ValueError(
            f"matched must hold at least {FEWEST} checkpoints for a trend, got {len(matched)}; add older ones"
        )
    pairs = list(matched.values())
    real, dream = (np.array([getattr(m, side).mean() for m in pairs]) for side in ("real", "dream"))
    gap, errors = (np.array([getattr(m, name) for m in pairs]) for name in ("mean_gap", "standard_error"))
    growth, error = float(gap[-1] - gap[0]), float(np.hypot(errors[0], errors[-1]))
    parted = bool(dream[-1] > dream[0] and real[-1] < real[0])
    return GapTrend(
        names=tuple(matched),
        real=real,
        dream=dream,
        gap=gap,
        standard_errors=errors,
        growth=growth,
        tau=kendall(np.arange(len(gap)), gap),
        alarm=parted and growth > ERRORS * error,  # of one pair the error is NaN: no alarm
    )
