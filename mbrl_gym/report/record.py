"""The report of a model: everything that was measured, and why something was not."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mbrl_gym.report.calibration import Calibration
from mbrl_gym.report.exploitation import ExploitationGap
from mbrl_gym.report.images import ImageError
from mbrl_gym.report.latent import LatentHealth
from mbrl_gym.report.normaliser import NormaliserFit
from mbrl_gym.report.open_loop import OpenLoopError, OpenLoopTrace
from mbrl_gym.report.ranking import PolicyRanking
from mbrl_gym.report.sampled import SampledCalibration
from mbrl_gym.report.section import PICTURES_ONLY, Section
from mbrl_gym.report.steps import RewardScores, TerminationScores, UncertaintyScores
from mbrl_gym.report.trend import GapTrend

Found = TypeVar("Found")


@dataclass(frozen=True)
class Familiarity(Section):
    """How the newest policy's data differs from the old data, to the model.

    Attributes:
        error_ratio: the error of one step there, over that on the old data, in the same units.
        auroc: how well the model's uncertainty tells the two apart: 0.5 is not at all; NaN where it has none.
    """

    error_ratio: float
    auroc: float


@dataclass(frozen=True)
class DataReport(Section):
    """What was measured on one set of recorded experience; None where it was not, and then ``missing`` says why.

    Attributes:
        name: whose experience it is.
        transitions: how many it has.
        open_loop: the error after k steps.
        trace: a typical segment.
        calibration: of one step, of models of densities.
        sampled: of sampled rollouts, after one step and after more.
        uncertainty: uncertainty against error.
        reward: of one step.
        termination: of one step.
        images: pictures after k steps.
        latent: of recurrent models.
        normaliser: whether it fits this data.
        missing: by the name of what is missing, the reason.
    """

    name: str
    transitions: int
    open_loop: OpenLoopError | None = None
    trace: OpenLoopTrace | None = field(default=None, metadata=PICTURES_ONLY)
    calibration: Calibration | None = None
    sampled: tuple[SampledCalibration, ...] = ()
    uncertainty: UncertaintyScores | None = None
    reward: RewardScores | None = None
    termination: TerminationScores | None = None
    images: ImageError | None = None
    latent: LatentHealth | None = None
    normaliser: NormaliserFit | None = None
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report(Section):
    """The fidelity of a world model: see `mbrl_gym.report.evaluate`, which makes it.

    Attributes:
        title: what was judged.
        facts: of the model and of how it was judged, by name.
        names: a label for each dimension of the observation; empty for pictures.
        data: what was measured on recorded experience, the old data first.
        familiarity: of the newest policy's data, where both are there.
        exploitation: what the dream promises beyond reality.
        ranking: whether the dream tells the better one of two policies.
        trend: how the gap went over the checkpoints of a run.
        missing: by the name of what is missing, the reason.
    """

    title: str
    facts: dict[str, Any]
    names: tuple[str, ...]
    data: tuple[DataReport, ...]
    familiarity: Familiarity | None = None
    exploitation: ExploitationGap | None = None
    ranking: PolicyRanking | None = None
    trend: GapTrend | None = None
    missing: dict[str, str] = field(default_factory=dict)

    def save(self, folder: str | Path) -> Path:
        """Write report.html (one page that needs nothing else), its figures as .png, and report.json.

        Args:
            folder: where to; it is made where it is not there, and files of these names are replaced.

        Raises:
            ImportError: matplotlib is not installed.
            OSError: the folder cannot be written.
        """
        from mbrl_gym.report.page import save_report  # which draws: an optional extra

        return save_report(self, folder)

    def __str__(self) -> str:
        """Return the report as lines for a terminal."""
        from mbrl_gym.report.summary import summary

        return summary(self)


def attempt(missing: dict[str, str], name: str, measure: Callable[[], Found | None]) -> Found | None:
    """Return what ``measure`` returns; where it refuses, None, and the reason is noted in ``missing``."""
    try:
        return measure()
    except (TypeError, ValueError) as error:
        missing[name] = str(error)
        return None
