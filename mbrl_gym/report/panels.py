"""The figures of a report, a function each; what they share is in `mbrl_gym.report.figures`."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mbrl_gym.report.exploitation import ExploitationGap
from mbrl_gym.report.figures import MODEL, PREDICTED, REAL, STILL, _clean, open_loop_figure
from mbrl_gym.report.images import ImageError
from mbrl_gym.report.latent import LatentHealth
from mbrl_gym.report.ranking import PolicyRanking
from mbrl_gym.report.record import DataReport, Report
from mbrl_gym.report.scores import BINS
from mbrl_gym.report.steps import RewardScores, UncertaintyScores
from mbrl_gym.report.trend import GapTrend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One look for each curve of a figure: lightness and dash, so that grey print keeps them apart.
LOOKS: tuple[dict[str, Any], ...] = (
    {"color": MODEL, "linestyle": "-", "linewidth": 2.2},
    {"color": PREDICTED, "linestyle": (0, (5, 2)), "linewidth": 2.0},
    {"color": REAL, "linestyle": (0, (1, 1.5)), "linewidth": 2.0},
    {"color": STILL, "linestyle": (0, (6, 2, 1, 2)), "linewidth": 1.8},
)
SIGNS = ("negative", "zero", "positive")


def figures(report: Report) -> Iterator[tuple[str, str, "Figure"]]:
    """Yield a name for the file, a caption and the figure of everything that was measured.

    Raises:
        ImportError: matplotlib is not installed.
    """
    for number, data in enumerate(report.data):
        yield from _of_data(report, data, f"{number}_")
    if any(curves(data) for data in report.data):
        caption = (
            "Left: below the diagonal the model is too sure, above it too unsure. Right: the shape to see is flat; "
        )
        caption += "a hill is too unsure, a valley too sure, a slope biased."
        yield "calibration", caption, calibration_figure(report.data)
    if report.exploitation is not None:
        caption = "Each point is one start. Points above the diagonal promise more than reality pays."
        yield "exploitation", caption, exploitation_figure(report.exploitation)
    if report.ranking is not None:
        caption = (
            "The dream is good for choosing between policies where it puts them in the same order, on a rising line."
        )
        yield "ranking", caption, ranking_figure(report.ranking)
    if report.trend is not None:
        caption = "A gap that grows while reality pays less is training into the errors of the model: stop before."
        yield "trend", caption, trend_figure(report.trend)


def _of_data(report: Report, data: DataReport, prefix: str) -> Iterator[tuple[str, str, "Figure"]]:
    if data.open_loop is not None and data.trace is not None:
        title = f"Recorded actions replayed without seeing reality: {data.name}"
        caption = "The model is useful for as many steps as its curve is below both baselines."
        yield f"{prefix}open_loop", caption, open_loop_figure(data.open_loop, data.trace, report.names, title)
    if data.images is not None:
        caption = "A game's objects are few pixels: likeness alone says little."
        yield f"{prefix}pictures", caption, picture_figure(data.images, data.name)
    if data.uncertainty is not None:
        caption = "Left: an uncertainty worth penalising rises with the error. Right: near the best order is good."
        yield f"{prefix}uncertainty", caption, uncertainty_figure(data.uncertainty, data.name)
    if data.reward is not None and data.reward.deviation > 0:
        caption = "One step. The diagonal is right; off-diagonal cells of the table are rewards of the wrong sign."
        yield f"{prefix}reward", caption, reward_figure(data.reward, data.name)
    if data.latent is not None:
        caption = "What observations say to each unit of the latent that its prior did not know."
        yield f"{prefix}latent", caption, latent_figure(data.latent, data.name)


# ---- predictions ----------------------------------------------------------------------------------------------------


def calibration_figure(data: Sequence[DataReport]) -> "Figure":
    """Return reliability on the left and the histogram of the probability integral transform on the right."""
    figure = _figure(9.6, 4.8)
    left, right = figure.subplots(1, 2)
    left.plot((0, 1), (0, 1), color="0.75", linewidth=1.2)
    right.axhline(1 / BINS, color="0.75", linewidth=1.2)
    edges = np.linspace(0, 1, BINS + 1)
    for (name, expected, observed, pit), look in zip([curve for d in data for curve in curves(d)], LOOKS, strict=False):
        left.plot(expected, observed, label=name, **look)
        right.stairs(pit, edges, **look)
    left.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    _label(left, "level of the predicted interval", "share of reality within it", "Reliability")
    right.set(xlim=(0, 1), ylim=(0, None))
    _label(right, "quantile of reality in the prediction (PIT)", "share of transitions", "PIT histogram")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def curves(data: DataReport) -> list[tuple[str, Any, Any, Any]]:
    """Return name, expected and observed coverage, and PIT of what is known of one step and of the most steps."""
    found = []
    if data.calibration is not None:
        c = data.calibration
        found.append((f"{data.name}, 1 step", c.expected, c.overall_observed, c.pit.mean(-1)))
    for s in data.sampled[-1:]:
        found.append((f"{data.name}, {s.k} steps", s.expected, s.overall_observed, s.pit.mean(-1)))
    return found


def uncertainty_figure(scores: UncertaintyScores, name: str) -> "Figure":
    """Return uncertainty against error, and what dropping the most uncertain transitions does to the error."""
    figure = _figure(9.6, 4.2)
    left, right = figure.subplots(1, 2)
    positive = (scores.uncertainty > 0) & (scores.error > 0)
    if positive.sum() > 1:
        points = scores.uncertainty[positive], scores.error[positive]
        cells = left.hexbin(*points, gridsize=28, xscale="log", yscale="log", bins="log", cmap="Greys", mincnt=1)
        figure.colorbar(cells, ax=left, label="transitions", pad=0.02)
    title = f"Spearman {scores.spearman:.2f}, AUROC {scores.large_error_auroc:.2f}"
    _label(left, "predicted uncertainty", "error of one step [standard deviations]", title)
    right.plot(scores.kept, scores.kept_error, label="least uncertain kept", **LOOKS[0])
    right.plot(scores.kept, scores.best_error, label="smallest errors kept (best order)", **LOOKS[2])
    right.axhline(1, color="0.6", linewidth=1.2, label="order by chance")
    right.set(xlim=(0, 1), ylim=(0, None))
    _label(right, "share of transitions kept", "their mean error / mean of all", f"Sparsification, {_ause(scores)}")
    right.legend(fontsize=8, frameon=False)
    figure.suptitle(f"Uncertainty against error: {name}", fontsize=11)
    return figure


def _ause(scores: UncertaintyScores) -> str:
    return f"AUSE {scores.sparsification_error:.2f}"


def reward_figure(scores: RewardScores, name: str) -> "Figure":
    """Return predicted against recorded rewards, and the table of their signs."""
    figure = _figure(9.6, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    low = float(min(scores.real.min(), scores.predicted.min()))
    high = float(max(scores.real.max(), scores.predicted.max()))
    left.plot((low, high), (low, high), color="0.6", linewidth=1.2)
    left.scatter(scores.real, scores.predicted, s=7, color=MODEL, alpha=0.35, linewidths=0)
    title = f"R² {scores.r2:.3f}, mean absolute error {scores.mae:.3g}"
    _label(left, "recorded reward", "predicted reward", title)
    rows = scores.signs / np.maximum(scores.signs.sum(1, keepdims=True), 1)
    right.imshow(rows, cmap="Greys", vmin=0, vmax=1.4)
    for row, column in np.ndindex(3, 3):
        ink = "white" if rows[row, column] > 0.6 else "black"
        right.text(column, row, f"{scores.signs[row, column]:,}", ha="center", va="center", fontsize=10, color=ink)
    right.set_xticks(range(3), SIGNS)
    right.set_yticks(range(3), SIGNS, rotation=90, va="center")
    _label(right, "predicted sign", "recorded sign", "Transitions by sign", grid=False)
    figure.suptitle(f"Reward of one step: {name}", fontsize=11)
    return figure


def picture_figure(images: ImageError, name: str) -> "Figure":
    """Return the likeness over k, the recall of objects, and a film of recorded and predicted pictures."""
    figure = _figure(11, 6.8)
    grid = figure.add_gridspec(2, 3 if images.recall else 2, height_ratios=(1, 1.1))
    k = np.arange(1, len(images.psnr) + 1)
    pairs = ((images.psnr, images.still_psnr, "PSNR [dB]"), (images.ssim, images.still_ssim, "SSIM"))
    for column, (values, still, label) in enumerate(pairs):
        axes = figure.add_subplot(grid[0, column])
        axes.plot(k, values, label="model", **LOOKS[0])
        axes.plot(k, still, label="last real picture again", **LOOKS[2])
        _label(axes, "k, imagined steps", label, f"{images.windows} segments" if column == 0 else "")
        axes.legend(fontsize=8, frameon=False)
    if images.recall:
        axes = figure.add_subplot(grid[0, 2])
        for (item, values), look in zip(images.recall.items(), LOOKS, strict=False):
            axes.plot(k, values, label=item, **look)
        axes.set_ylim(-0.03, 1.03)
        _label(axes, "k, imagined steps", "share of objects found", "within 2 pixels")
        axes.legend(fontsize=8, frameon=False)
    _film(figure.add_subplot(grid[1, :]), images)
    figure.suptitle(f"Predicted pictures: {name}", fontsize=11)
    return figure


def _film(axes: "Axes", images: ImageError) -> None:
    """Draw one segment: what was recorded above what was predicted."""
    steps = np.unique(np.linspace(0, len(images.film) - 1, 8).round().astype(int))
    pictures = images.film[steps, :, 0]  # [S, 2, H, W, C]
    strip = np.concatenate([np.concatenate(list(row), 0) for row in pictures], 1)
    axes.imshow(
        strip[..., 0] if strip.shape[-1] == 1 else strip, cmap="gray", vmin=0, vmax=255, interpolation="nearest"
    )
    height, width = pictures.shape[2:4]
    axes.set_xticks((np.arange(len(steps)) + 0.5) * width, [f"k = {step}" for step in steps])
    axes.set_yticks([height / 2, 1.5 * height], ["recorded", "predicted"])
    axes.tick_params(length=0, labelsize=8)


def latent_figure(latent: LatentHealth, name: str) -> "Figure":
    """Return the divergence of each unit, largest first."""
    figure = _figure(6.4, 3.6)
    axes = figure.subplots()
    axes.bar(np.arange(1, latent.units + 1), np.sort(latent.kl_by_unit)[::-1], color=MODEL, width=0.8)
    title = f"{name}: {latent.kl:.2f} nats a step, {latent.active_units} of {latent.units} units active"
    _label(axes, "units of the latent, largest first", "KL(posterior, prior) [nats]", title)
    return figure


# ---- behaviour ------------------------------------------------------------------------------------------------------


def exploitation_figure(gap: ExploitationGap) -> "Figure":
    """Return the returns of matched pairs of episodes."""
    figure = _figure(5.6, 5.2)
    axes = figure.subplots()
    both = np.concatenate([gap.matched.real, gap.matched.dream, [gap.random]])
    margin = 0.06 * max(float(np.ptp(both)), 1e-6)
    low, high = float(both.min()) - margin, float(both.max()) + margin
    axes.plot((low, high), (low, high), color="0.6", linewidth=1.2, label="as promised")
    axes.axvline(gap.random, label="random actions, mean", **LOOKS[3])
    look: dict[str, Any] = {"s": 34, "color": MODEL, "alpha": 0.75, "linewidths": 0}
    axes.scatter(gap.matched.real, gap.matched.dream, label="episode", **look)
    axes.plot(gap.real, gap.dream, marker="X", markersize=11, color=REAL, linestyle="", label="mean")
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    state = "ALARM" if gap.alarm else "no alarm"
    _label(axes, "return in reality", "return in the dream", f"Gap {gap.gap:.3g} ± {gap.standard_error:.2g}: {state}")
    axes.legend(fontsize=8, frameon=True, framealpha=0.9, edgecolor="none")
    return figure


def ranking_figure(ranking: PolicyRanking) -> "Figure":
    """Return the mean returns of several policies."""
    figure = _figure(6.4, 4.6)
    axes = figure.subplots()
    for i, (name, marker) in enumerate(zip(ranking.names, "osD^vPX*<>hp" * len(ranking.names), strict=False)):
        shade = 0.75 * i / max(len(ranking.names) - 1, 1)
        errors = {"xerr": ranking.real_errors[i], "yerr": ranking.dream_errors[i]}
        look: dict[str, Any] = {"markersize": 8, "capsize": 3, "linewidth": 1.2, "color": str(shade)}
        axes.errorbar(ranking.real[i], ranking.dream[i], **errors, fmt=marker, label=name, **look)
    title = f"Kendall's tau {ranking.kendall:.2f}, regret {100 * ranking.regret:.0f} %"
    _label(axes, "mean return in reality (± standard error)", "mean return in the dream", title)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def trend_figure(trend: GapTrend) -> "Figure":
    """Return the returns of the checkpoints on the left, and their gap on the right."""
    figure = _figure(9.6, 4.4)
    left, right = figure.subplots(1, 2)
    at = np.arange(len(trend.names))
    left.plot(at, trend.dream, label="in the dream", marker="o", **LOOKS[0])
    left.plot(at, trend.real, label="in reality", marker="s", **LOOKS[2])
    left.legend(fontsize=8, frameon=False)
    right.axhline(0, color="0.6", linewidth=1.2)
    right.errorbar(at, trend.gap, trend.standard_errors, marker="o", capsize=3, **LOOKS[0])
    _label(left, "checkpoint", "mean return", "Returns")
    state = "ALARM" if trend.alarm else "no alarm"
    _label(right, "checkpoint", "dream less reality (± standard error)", f"Gap, grown by {trend.growth:.3g}: {state}")
    for axes in (left, right):
        axes.set_xticks(at, trend.names, rotation=30, ha="right", fontsize=8)
    return figure


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # an optional extra; no pyplot, so that no global state changes

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _label(axes: "Axes", x: str, y: str, title: str, grid: bool = True) -> None:
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.set_title(title, fontsize=10)
    if grid:
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
    _clean(axes)
