"""check_model: a report as a list of verdicts, like Gymnasium's check_env for what a model has learned."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from mbrl_gym.model import WorldModel
from mbrl_gym.report.evaluation import evaluate
from mbrl_gym.report.record import DataReport, Report
from mbrl_gym.report.section import Section

Level = Literal["pass", "warn", "fail"]

LEVEL_90 = 2  # the place of the 90 % interval in a calibration's levels
FEWEST_ENDS = 5  # ends that came, to judge predictions of ends by
LARGEST_ERROR = 0.95  # of one step, in units of the better baseline's: hardly better than no model


@dataclass(frozen=True)
class Verdict(Section):
    """What one rule says.

    Attributes:
        rule: what is judged, and on whose experience.
        level: "pass", "warn" or "fail".
        value: what was measured.
        threshold: what it is compared with, in words.
        remedy: what to do about it.
    """

    rule: str
    level: Level
    value: float
    threshold: str
    remedy: str


def check_model(report: Report | WorldModel[Any], *data: Any, **options: Any) -> list[Verdict]:
    """Return the verdicts on a model, one for each rule that can be judged.

    ========================== ========================================================================================
    rule                       fails where
    ========================== ========================================================================================
    one-step prediction        the error is 95 % of that of predicting that nothing changes, or the data's mean
    reward                     less than half of the reward's variance is explained
    reward sign                more than 5 % of the rewards that are not zero have the wrong sign
    termination                less than half of the ends are predicted, or of what is predicted came
    coverage                   the 90 % intervals hold less than 70 % of reality
    normaliser                 what the networks read is 4 times as wide or as narrow as it should be
    newest policy's data       an error 5 times that on the old data
    exploitation               the alarm of `mbrl_gym.report.exploitation` is raised
    policy ranking             the dream's order has less than nothing in common with reality's
    latent                     no unit of the latent is active
    ========================== ========================================================================================

    A warning has milder thresholds, which the verdicts name. Coverage, normaliser and prediction are judged on the old
    data: whether the newest policy's is foreign to the model is a rule of its own.

    Args:
        report: from `evaluate`; or a model, and then what `evaluate` takes beside it follows.
        data: see `evaluate`.
        options: see `evaluate`.
    """
    if not isinstance(report, Report):
        report = evaluate(report, *data, **options)
    old = report.data[0]
    return [*_on_old_data(old), *_on_latent(old), *_on_behaviour(report)]


def _on_old_data(data: DataReport) -> Iterator[Verdict]:
    on = f" ({data.name})"
    if data.open_loop is not None:
        value = float(data.open_loop.overall[0] / max(data.open_loop.baseline[0], 1e-12))
        remedy = "fit longer, on more data, or with another model; nothing can be learned in this one"
        yield _above("one-step prediction" + on, value, 0.5, LARGEST_ERROR, "of the better baseline's error", remedy)
    if data.normaliser is not None:
        value = data.normaliser.misfit
        remedy = "fit the model again with its own normaliser: it standardises by other data than this"
        yield _above("normaliser" + on, value, 2.5, 4.0, "times too wide or too narrow", remedy)
    if data.reward is not None:
        reward = data.reward
        if not math.isnan(reward.r2):
            remedy = "check that rewards arrive with the observation they belong to; or give a known reward"
            yield _below("reward" + on, reward.r2, 0.9, 0.5, "of the variance explained", remedy)
        if not math.isnan(reward.wrong_signs):
            remedy = "check the reward's sign and its scaling on the way into the replay"
            yield _above("reward sign" + on, reward.wrong_signs, 0.01, 0.05, "of the rewards", remedy)
    ends = data.termination
    if ends is not None and ends.ends >= FEWEST_ENDS:
        value = min(ends.recall, 0.0 if math.isnan(ends.precision) else ends.precision)
        remedy = "collect more episodes that end, or give a known termination"
        yield _below("termination" + on, value, 0.9, 0.5, "of the ends, predicted and right", remedy)
    yield from _on_uncertainty(data, on)


def _on_uncertainty(data: DataReport, on: str) -> Iterator[Verdict]:
    widths = data.calibration or next(iter(data.sampled), None)
    if widths is not None:
        value = float(widths.overall_coverage[LEVEL_90])
        remedy = "widen the intervals (RecalibrateVariance), or add members or data"
        yield _below("coverage" + on, value, 0.8, 0.7, "of reality in the 90 % intervals", remedy)
    if data.uncertainty is not None:
        value = data.uncertainty.large_error_auroc
        remedy = "do not penalise or truncate by this uncertainty: it does not know where the errors are"
        yield _below("uncertainty" + on, value, 0.55, 0.0, "AUROC for the largest tenth of errors", remedy)


def _on_latent(data: DataReport) -> Iterator[Verdict]:
    if data.latent is not None:
        remedy = "lower the weight of the KL divergence (free nats, scales): observations say nothing to the latent"
        yield _below("latent", data.latent.active_units, 2, 1, "active units", remedy)
    if data.images is not None:
        value = float(data.images.ssim[0] - data.images.still_ssim[0])
        remedy = "fit longer: showing the last picture again is as good"
        yield _below("pictures", value, 0.0, -0.1, "SSIM beyond showing the last picture again", remedy)


def _on_behaviour(report: Report) -> Iterator[Verdict]:
    near, gap, ranking = report.familiarity, report.exploitation, report.ranking
    if near is not None:
        remedy = (
            f"collect with the newest policy and fit again: {report.data[1].name} leads to where the model is wrong"
        )
        yield _above("newest policy's data", near.error_ratio, 2.5, 5.0, "times the error on the old data", remedy)
    if gap is not None:
        remedy = "collect with this policy and fit again; shorten dreams; penalise uncertainty (UncertaintyPenalty)"
        level: Level = "fail" if gap.alarm else "pass"
        threshold = "fail above 0.2 of the promise and 2 standard errors"
        yield Verdict("exploitation", level, gap.missing, threshold, "" if level == "pass" else remedy)
        if gap.matched.broken:
            remedy = "clamp the model's range (ClampRange, clamp_margin), or shorten dreams"
            share = gap.matched.broken / len(gap.matched.dream)
            yield Verdict("diverged dreams", "warn", share, "warn above 0 of the dreams", remedy)
    if ranking is not None and not math.isnan(ranking.kendall):
        remedy = "choose policies in reality: the dream does not tell which is better"
        yield _below("policy ranking", ranking.kendall, 0.5, 0.0, "Kendall's tau", remedy)
    if report.trend is not None:
        trend, remedy = report.trend, "stop at an earlier checkpoint, or collect with the newest policy and fit again"
        verdict: Level = "fail" if trend.alarm else "pass"
        threshold = "fail where the dream rises, reality falls and the gap grows by 2 standard errors"
        yield Verdict("trend of the gap", verdict, trend.growth, threshold, _remedy(verdict, remedy))


def _above(rule: str, value: float, warn: float, fail: float, unit: str, remedy: str) -> Verdict:
    """Return the verdict on a value that is bad where it is large; NaN fails."""
    level: Level = "pass" if value <= warn else "warn" if value <= fail else "fail"
    return Verdict(rule, level, value, f"warn above {warn:g}, fail above {fail:g} {unit}", _remedy(level, remedy))


def _below(rule: str, value: float, warn: float, fail: float, unit: str, remedy: str) -> Verdict:
    """Return the verdict on a value that is bad where it is small; NaN fails."""
    level: Level = "pass" if value >= warn else "warn" if value >= fail else "fail"
    return Verdict(rule, level, value, f"warn below {warn:g}, fail below {fail:g} {unit}", _remedy(level, remedy))


def _remedy(level: Level, remedy: str) -> str:
    return "" if level == "pass" else remedy
