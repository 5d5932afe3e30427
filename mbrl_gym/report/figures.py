"""The pictures of a model's k-step prediction against reality, and of its calibration."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from mbrl_gym.report.calibration import Calibration
from mbrl_gym.report.open_loop import OpenLoopError, OpenLoopTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 6
# What the dimensions are called, with their units; any other environment's are numbered.
NAMES: dict[str, tuple[str, ...]] = {
    "Acrobot": ("cos θ₁", "sin θ₁", "cos θ₂", "sin θ₂", "θ₁ velocity [rad/s]", "θ₂ velocity [rad/s]"),
    "CartPole": ("cart position [m]", "cart velocity [m/s]", "pole angle [rad]", "pole velocity [rad/s]"),
    "MountainCar": ("position", "velocity"),
    "MountainCarContinuous": ("position", "velocity"),
    "Pendulum": ("cos θ", "sin θ", "velocity [rad/s]"),
}
# Told apart by lightness and dash, not by hue, so that they survive a black-and-white printer.
REAL, MODEL, PREDICTED, STILL, SHADE = "black", "#c2410c", "#fb923c", "#6b7280", "#fed7aa"


def dimension_names(real_id: str | None, space: spaces.Space[Any]) -> list[str]:
    """Return a label for each encoded dimension of the observations of an environment."""
    known = NAMES.get((real_id or "").rpartition("-v")[0])
    size = spaces.flatdim(space)
    return list(known) if known and len(known) == size else [f"observation {i}" for i in range(size)]


def open_loop_figure(error: OpenLoopError, trace: OpenLoopTrace, names: Sequence[str], title: str = "") -> "Figure":
    """Return the picture: on the left one segment, reality against prediction; on the right the error over k.

    Args:
        error: from `open_loop_error`.
        trace: from `open_loop_trace`, of the same model and horizon.
        names: a label for each dimension [D].
        title: what was measured, one line.

    Raises:
        ValueError: there is not one name for each dimension.
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # an optional extra; no pyplot, so that no global state changes

    if len(names) != len(error.scale):
        raise ValueError(f"names must label {len(error.scale)} dimensions, got {len(names)}")
    shown = _most_telling(error)
    figure = Figure(figsize=(11, max(4.2, 1.55 * len(shown) + 1.2)), dpi=110, layout="constrained")
    grid = figure.add_gridspec(len(shown), 2, width_ratios=(1.15, 1))
    first: Axes | None = None
    for row, dimension in enumerate(shown):
        axes = figure.add_subplot(grid[row, 0], sharex=first)
        first = first or axes
        _draw_trace(axes, trace, dimension, names[dimension])
        if row < len(shown) - 1:
            axes.tick_params(labelbottom=False)
        else:
            axes.set_xlabel("imagined steps since the last real observation")
    assert first is not None
    first.set_title(
        f"A recorded segment of typical error ({trace.error:.2g} standard deviations at its end)", fontsize=10
    )
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3, fontsize=9, frameon=False)
    _draw_error(figure.add_subplot(grid[:, 1]), error)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def reliability_figure(calibration: Calibration, title: str = "") -> "Figure":
    """Return the reliability diagram: how much of reality is within the intervals of each level, against the level.

    Args:
        calibration: from `mbrl_gym.report.calibration`.
        title: what was measured, one line.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 5), dpi=110, layout="constrained")
    axes = figure.add_subplot(aspect="equal", xlim=(0, 1), ylim=(0, 1))
    axes.plot((0, 1), (0, 1), color=STILL, linewidth=1.6, linestyle=":", label="calibrated; overconfident is below")
    lines = axes.plot(calibration.expected, calibration.observed, color=PREDICTED, linewidth=0.8, alpha=0.7)
    lines[0].set_label("each dimension")
    area = calibration.overall_miscalibration_area
    label = f"model (miscalibration area {area:.2f})"
    axes.plot(calibration.expected, calibration.overall_observed, color=MODEL, linewidth=2.4, label=label)
    axes.set_xlabel("level of the predicted interval")
    axes.set_ylabel("share of reality within it")
    axes.set_title(title or f"{calibration.transitions} transitions, one step", fontsize=10)
    axes.grid(color="0.9", linewidth=0.6)
    axes.legend(fontsize=9, loc="best", framealpha=0.9)
    _clean(axes)
    return figure


def save_figure(figure: "Figure", path: str | Path) -> Path:
    """Write the figure as the suffix says (.png, .svg, .pdf), without touching matplotlib's global state."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _most_telling(error: OpenLoopError) -> list[int]:
    """Return the dimensions to draw: all, or the worst predicted ones, in their own order."""
    worst = np.argsort(-error.error[-1], kind="stable")[:MOST_PANELS]
    return sorted(worst.tolist())


def _draw_trace(axes: "Axes", trace: OpenLoopTrace, dimension: int, name: str) -> None:
    steps = np.arange(len(trace.real))
    low, high = trace.low[:, dimension], trace.high[:, dimension]
    axes.fill_between(steps, low, high, color=SHADE, alpha=0.6, linewidth=0, label="80 % of sampled dreams")
    axes.plot(steps, trace.real[:, dimension], color=REAL, linewidth=3.2, label="reality")
    axes.plot(
        steps, trace.predicted[:, dimension], color=PREDICTED, linewidth=1.6, linestyle=(0, (4, 2)), label="prediction"
    )
    axes.set_ylabel(name, fontsize=9)
    axes.margins(x=0.01)
    axes.grid(color="0.9", linewidth=0.6)
    _clean(axes)


def _draw_error(axes: "Axes", error: OpenLoopError) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    k = np.arange(1, error.horizon + 1)
    axes.fill_between(
        k, error.overall_low, error.overall_high, color=SHADE, alpha=0.6, linewidth=0, label="80 % of segments"
    )
    axes.plot(
        k, error.overall_persistence, color=STILL, linewidth=1.6, linestyle=":", label="nothing changes (baseline)"
    )
    axes.plot(
        k,
        error.overall_mean,
        color=STILL,
        linewidth=1.2,
        linestyle=(0, (6, 2, 1, 2)),
        label="the data's mean (baseline)",
    )
    axes.plot(k, error.overall, color=MODEL, linewidth=2.0, label="model (root mean square)")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(1 if error.horizon > 1 else 0, error.horizon + 0.5)
    axes.set_xlabel("k, imagined steps since the last real observation")
    axes.set_ylabel("error [standard deviations of the data]")
    axes.set_title(f"Error after k steps ({error.windows} segments)", fontsize=10)
    axes.grid(which="major", color="0.88", linewidth=0.6)
    axes.legend(fontsize=9, loc="lower right", framealpha=0.9)
    _clean(axes)


def _clean(axes: "Axes") -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8)
