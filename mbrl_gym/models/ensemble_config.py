"""EnsembleConfig: the hyperparameters of `mbrl_gym.models.ensemble.Ensemble`."""

from dataclasses import dataclass

from mbrl_gym.models.propagation import PROPAGATIONS


@dataclass(frozen=True)
class EnsembleConfig:
    """Hyperparameters of `Ensemble`. Defaults are made for a CPU; `paper` is PETS' own.

    Attributes:
        members: E, the number of networks.
        elites: how many of them, the best on held-out data, make predictions; None: all.
        hidden: widths of the hidden layers.
        termination_hidden: widths of the hidden layers of the termination networks.
        weight_decay: one number a layer (the output layer included), or one for all.
        propagation: "ts1", "ts_inf", "expectation", "distribution_sampling" or "moment_matching".
        absolute: encoded observation dimensions that are predicted as such, not as a change.
        angles: encoded observation dimensions that the networks read as sine and cosine.
        unseen: encoded observation dimensions that the networks do not read (a position that does not matter).
        learn_reward: False: the reward is zero, whatever the data says (a known function decides).
        learn_termination: False: no step is terminal, whatever the data says (a known function decides).
        normalize_targets: learn changes and rewards in units of their standard deviation (PETS does not).
        max_log_variance: upper bound at the start of training, in units of the targets.
        min_log_variance: lower bound at the start of training.
        learn_variance_bounds: train the two bounds.
        variance_bound_penalty: weight of (sum of upper - sum of lower bounds) in the loss.
        variance_weighting: beta of the beta-NLL: a prediction's likelihood counts by its variance to this power. 0 is
            the plain likelihood (PETS), which neglects what is hard to fit; 1 follows the squared error.
        bfloat16_rows: rows of a training batch from which the networks' products run in bfloat16, on a device that
            multiplies in it; None: never.
        termination_threshold: the probability from which a predicted step is terminal.
        clamp_margin: predictions stay within the data's range widened by this fraction of it; None: no clamp.

    Raises:
        ValueError: a value is out of its range.
    """

    members: int = 5
    elites: int | None = None
    hidden: tuple[int, ...] = (128, 128, 128)
    termination_hidden: tuple[int, ...] = (64, 64)
    weight_decay: tuple[float, ...] | float = 1e-5
    propagation: str = "ts_inf"
    absolute: tuple[int, ...] = ()
    angles: tuple[int, ...] = ()
    unseen: tuple[int, ...] = ()
    learn_reward: bool = True
    learn_termination: bool = True
    normalize_targets: bool = True
    max_log_variance: float = 0.5
    min_log_variance: float = -10.0
    learn_variance_bounds: bool = True
    variance_bound_penalty: float = 0.01
    variance_weighting: float = 0.5
    bfloat16_rows: int | None = 128
    termination_threshold: float = 0.5
    clamp_margin: float | None = 0.25

    def __post_init__(self) -> None:
        for name in ("hidden", "termination_hidden", "absolute", "angles", "unseen"):  # JSON brings lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not isinstance(self.weight_decay, int | float):
            object.__setattr__(self, "weight_decay", tuple(self.weight_decay))
        layers = len(self.hidden) + 1
        if self.members < 1:
            raise ValueError(f"members must be at least 1, got {self.members}")
        if self.elites is not None and not 1 <= self.elites <= self.members:
            raise ValueError(f"elites must be between 1 and members = {self.members}, got {self.elites}")
        if self.propagation not in PROPAGATIONS:
            raise ValueError(f"propagation must be one of {sorted(PROPAGATIONS)}, got {self.propagation!r}")
        if any(width < 1 for width in (*self.hidden, *self.termination_hidden)):
            raise ValueError(f"hidden widths must be at least 1, got {self.hidden} and {self.termination_hidden}")
        if len(self.layer_decay) != layers:
            raise ValueError(f"weight_decay must have one number for each of {layers} layers, got {self.weight_decay}")
        if min(self.layer_decay) < 0:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")
        if not self.min_log_variance < self.max_log_variance:
            bounds = f"{self.min_log_variance} and {self.max_log_variance}"
            raise ValueError(f"min_log_variance must be below max_log_variance, got {bounds}")
        if not self.variance_bound_penalty >= 0:
            raise ValueError(f"variance_bound_penalty must be at least 0, got {self.variance_bound_penalty}")
        if not 0 <= self.variance_weighting <= 1:
            raise ValueError(f"variance_weighting must be between 0 and 1, got {self.variance_weighting}")
        if set(self.angles) & set(self.unseen):
            raise ValueError(f"angles and unseen must have no dimension in common, got {self.angles} and {self.unseen}")
        if self.bfloat16_rows is not None and self.bfloat16_rows < 1:
            raise ValueError(f"bfloat16_rows must be at least 1 or None, got {self.bfloat16_rows}")
        if not 0 < self.termination_threshold < 1:
            raise ValueError(f"termination_threshold must be between 0 and 1, got {self.termination_threshold}")
        if self.clamp_margin is not None and not self.clamp_margin >= 0:
            raise ValueError(f"clamp_margin must be at least 0 or None, got {self.clamp_margin}")

    @classmethod
    def paper(cls) -> "EnsembleConfig":
        """Return PETS' networks, in the half-cheetah's size (handful-of-trials ``dmbrl/config/halfcheetah.py``)."""
        decay = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
        plain = {"normalize_targets": False, "variance_weighting": 0.0, "clamp_margin": None}
        return cls(hidden=(200,) * 4, weight_decay=decay, **plain)  # type: ignore[arg-type]

    @property
    def layer_decay(self) -> tuple[float, ...]:
        """Weight decay, one number a layer."""
        decay = self.weight_decay
        return decay if isinstance(decay, tuple) else (decay,) * (len(self.hidden) + 1)
