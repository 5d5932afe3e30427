"""EnsembleConfig: the hyperparameters of `mbrl_gym.models.ensemble.Ensemble`."""

from dataclasses import dataclass

from mbrl_gym.models.gaussian_config import GaussianConfig


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig(GaussianConfig):
    """Hyperparameters of `Ensemble`, beside those of `GaussianConfig`. Defaults are made for a CPU.

    Attributes:
        members: E, the number of networks.
        elites: how many of them, the best on held-out data, make predictions; None: all.

    Raises:
        ValueError: a value is out of its range.
    """

    members: int = 5
    elites: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.members < 1:
            raise ValueError(f"members must be at least 1, got {self.members}")
        if self.elites is not None and not 1 <= self.elites <= self.members:
            raise ValueError(f"elites must be between 1 and members = {self.members}, got {self.elites}")

    @classmethod
    def paper(cls) -> "EnsembleConfig":
        """Return PETS' networks, in the half-cheetah's size (handful-of-trials ``dmbrl/config/halfcheetah.py``)."""
        decay = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
        plain = {"normalize_targets": False, "variance_weighting": 0.0, "clamp_margin": None}
        return cls(hidden=(200,) * 4, weight_decay=decay, **plain)  # type: ignore[arg-type]
