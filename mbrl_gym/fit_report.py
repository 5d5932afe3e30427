"""FitReport: what one fit of a model did."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class FitReport:
    """What one fit did.

    Attributes:
        epochs: passes made.
        updates: gradient steps made.
        windows: training windows.
        loss: mean training loss of the last epoch.
        terms: mean of each loss term over the last epoch; with Data as Demonstrator, of the fit that was kept, also its
            held-out ``multi_step_error`` and the number of ``corrections`` before it.
        holdout_error: each member's best held-out error [E]; empty without a holdout.
    """

    epochs: int
    updates: int
    windows: int
    loss: float
    terms: dict[str, float]
    holdout_error: list[float] = field(default_factory=list)
