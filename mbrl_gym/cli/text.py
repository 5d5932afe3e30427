"""Text for a terminal or a file."""

from mbrl_gym.report.text import table

__all__ = ["spread", "table"]


def spread(mean: float, std: float) -> str:
    """Return mean and standard deviation."""
    return f"{mean:.0f} ± {std:.0f}" if abs(mean) >= 100 else f"{mean:.1f} ± {std:.1f}"
