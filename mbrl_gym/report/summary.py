"""A report as tables of text, for the terminal and the page alike."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbrl_gym.report.check import Verdict, check_model
from mbrl_gym.report.record import DataReport, Report
from mbrl_gym.report.text import number, percent, table
from mbrl_gym.report.trend import GapTrend

STEPS = (1, 5, 10, 20, 30, 50)  # k that a table of errors shows
Row = tuple[str, ...]
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: what it shows.
        head: the columns.
        rows: of as many cells.
        note: a line below it.
    """

    title: str
    head: Row
    rows: Sequence[Row]
    note: str = ""

    def __str__(self) -> str:
        """Return it aligned, numbers flush right."""
        text = table(self.head, self.rows, set(range(1, len(self.head))))
        return "\n".join([self.title, text, *([self.note] if self.note else [])])


def summary(report: Report) -> str:
    """Return the report for a terminal: the tables, what is missing, the verdicts."""
    facts = ", ".join(f"{name} {_fact(value)}" for name, value in report.facts.items())
    missing = [f"{name}: not available: {reason}" for name, reason in gaps(report)]
    parts = [f"{report.title}\n{facts}", *map(str, tables(report)), "\n".join(missing)]
    return "\n\n".join(part for part in [*parts, verdict_table(check_model(report))] if part)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Return verdicts as aligned text, the remedies below."""
    rows = [(v.level.upper(), v.rule, number(v.value), v.threshold) for v in verdicts]
    remedies = [f"{v.level}: {v.rule}: {v.remedy}" for v in verdicts if v.remedy]
    return "\n".join([table(("", "rule", "value", "threshold"), rows, right={2}), *remedies])


def gaps(report: Report) -> Iterator[tuple[str, str]]:
    """Yield what was not measured, and why."""
    for data in report.data:
        for name, reason in data.missing.items():
            yield f"{name} ({data.name})", reason
    yield from report.missing.items()


def tables(report: Report) -> Iterator[Table]:
    """Yield the tables of a report."""
    columns = [data for data in report.data if data.open_loop is not None]
    if columns:
        yield _open_loop(columns)
    if any(data.images for data in report.data):
        yield from _images(report.data)
    rows: list[Row] = [row for data in report.data for row in _calibration(data)]
    if rows:
        levels = ("calibration", "k", "50 %", "80 %", "90 %", "95 %", "ECE", "CRPS", "sharpness")
        yield Table("Share of reality within the predicted intervals of each level", levels, rows)
    rows = [_uncertainty(data) for data in report.data if data.uncertainty is not None]
    if rows:
        yield Table("Uncertainty against error", ("of", "Spearman", "AUROC", "AUSE"), rows)
    head = ("one step", "reward MAE", "R2", "wrong signs", "ends", "recall", "precision", "Brier")
    yield Table("Reward and termination", head, [_outcomes(data) for data in report.data])
    latent = [data for data in report.data if data.latent is not None]
    if latent:
        rows = [_latent(data) for data in latent]
        yield Table("Latent state", ("of", "KL [nats]", "active units"), rows)
    yield from _behaviour(report)


def _open_loop(data: Sequence[DataReport]) -> Table:
    loops = [d.open_loop for d in data if d.open_loop is not None]
    longest = max(loop.horizon for loop in loops)
    steps = [k for k in STEPS if k <= longest]
    rows: list[Row] = []
    for d, loop in zip(data, loops, strict=True):
        for name, values in ((d.name, loop.overall), ("  nothing changes", loop.overall_persistence)):
            rows.append((name, *(number(values[k - 1]) if k <= loop.horizon else "-" for k in steps)))
        rows.append(("  the data's mean", *(number(v) for v in _padded(loop.overall_mean, steps))))
    note = f"better than both baselines for {' / '.join(f'{loop.useful} of {loop.horizon}' for loop in loops)} steps"
    title = "Error after k imagined steps, in standard deviations of the data"
    return Table(title, ("k", *map(str, steps)), rows, note)


def _padded(values: Array, steps: Sequence[int]) -> list[float]:
    return [float(values[k - 1]) if k <= len(values) else float("nan") for k in steps]


def _images(reports: Sequence[DataReport]) -> Iterator[Table]:
    for data in reports:
        images = data.images
        if images is None:
            continue
        steps = [k for k in STEPS if k <= len(images.psnr)]
        curves = {"PSNR [dB]": images.psnr, "  last picture again": images.still_psnr, "SSIM": images.ssim}
        curves["  last picture again "] = images.still_ssim
        curves |= {f"{name} found": values for name, values in images.recall.items()}
        rows = [(name, *map(number, _padded(values, steps))) for name, values in curves.items()]
        yield Table(f"Pictures after k imagined steps ({data.name})", ("k", *map(str, steps)), rows)


def _calibration(data: DataReport) -> Iterator[Row]:
    exact = data.calibration
    if exact is not None:
        scores = (exact.overall_calibration_error, exact.overall_crps, exact.overall_sharpness)
        yield (data.name, "1", *map(percent, exact.overall_coverage), *map(number, scores))
    for s in data.sampled:
        scores = (s.overall_calibration_error, s.overall_crps, s.overall_sharpness)
        yield (f"  {data.name}, samples", str(s.k), *map(percent, s.overall_coverage), *map(number, scores))


def _uncertainty(data: DataReport) -> Row:
    assert data.uncertainty is not None
    u = data.uncertainty
    return (data.name, number(u.spearman), number(u.large_error_auroc), number(u.sparsification_error))


def _outcomes(data: DataReport) -> Row:
    assert data.reward is not None
    assert data.termination is not None
    reward, ends = data.reward, data.termination
    came = (f"{ends.ends}", percent(ends.recall), percent(ends.precision), number(ends.brier))
    return (data.name, number(reward.mae), number(reward.r2), percent(reward.wrong_signs), *came)


def _latent(data: DataReport) -> Row:
    assert data.latent is not None
    return (data.name, number(data.latent.kl), f"{data.latent.active_units} of {data.latent.units}")


def _behaviour(report: Report) -> Iterator[Table]:
    gap, ranking, near = report.exploitation, report.ranking, report.familiarity
    if near is not None:
        new: Row = (report.data[1].name, f"{number(near.error_ratio)} x", number(near.auroc))
        yield Table("The newest experience against the old", ("of", "error", "told apart (AUROC)"), [new])
    if gap is not None:
        pairs = len(gap.matched.real)
        row = (report.data[-1].name, *map(number, (gap.real, gap.dream, gap.gap, gap.standard_error)))
        note = f"random actions earn {number(gap.random)}; missing of the promise {percent(gap.missing)}; "
        note += "ALARM: the dream pays what reality does not" if gap.alarm else "no alarm"
        head = ("return of", "reality", "dream", "gap", "standard error")
        yield Table(f"Matched episodes ({pairs} pairs from the same starts)", head, [row], note)
    if ranking is not None:
        columns = zip(ranking.names, map(number, ranking.real), map(number, ranking.dream), strict=True)
        note = f"Kendall's tau {number(ranking.kendall)}, Spearman {number(ranking.spearman)}, "
        note += f"regret of the dream's favourite {percent(ranking.regret)}"
        yield Table("Policies, as reality and the dream rank them", ("return of", "reality", "dream"), [*columns], note)
    if report.trend is not None:
        yield _trend(report.trend)


def _trend(trend: GapTrend) -> Table:
    columns = (trend.real, trend.dream, trend.gap, trend.standard_errors)
    rows = [*zip(trend.names, *(map(number, column) for column in columns), strict=True)]
    note = f"the gap grew by {number(trend.growth)}, Kendall's tau with the order {number(trend.tau)}; "
    note += "ALARM: the dream pays more and reality less" if trend.alarm else "no alarm"
    return Table("The gap over the checkpoints", ("return of", "reality", "dream", "gap", "standard error"), rows, note)


def _fact(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
