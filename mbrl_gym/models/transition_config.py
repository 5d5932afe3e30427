"""TransitionConfig: the hyperparameters that all transition models share."""

from dataclasses import dataclass

from mbrl_gym.models.propagation import PROPAGATIONS


@dataclass(frozen=True, kw_only=True)
class TransitionConfig:
    """Hyperparameters of `mbrl_gym.models.transition.TransitionModel`.

    Attributes:
        propagation: "ts1", "ts_inf", "expectation", "distribution_sampling" or "moment_matching".
        absolute: encoded observation dimensions that are predicted as such, not as a change.
        angles: encoded observation dimensions that the model reads as sine and cosine.
        unseen: encoded observation dimensions that the model does not read (a position that does not matter).
        learn_reward: False: the reward is zero, whatever the data says (a known function decides).
        learn_termination: False: no step is terminal, whatever the data says (a known function decides).
        termination_hidden: widths of the hidden layers of the termination networks.
        termination_threshold: the probability from which a predicted step is terminal.
        normalize_targets: learn changes and rewards in units of their standard deviation (PETS does not).
        clamp_margin: predictions stay within the data's range widened by this fraction of it; None: no clamp.

    Raises:
        ValueError: a value is out of its range.
    """

    propagation: str = "ts_inf"
    absolute: tuple[int, ...] = ()
    angles: tuple[int, ...] = ()
    unseen: tuple[int, ...] = ()
    learn_reward: bool = True
    learn_termination: bool = True
    termination_hidden: tuple[int, ...] = (64, 64)
    termination_threshold: float = 0.5
    normalize_targets: bool = True
    clamp_margin: float | None = 0.25

    def __post_init__(self) -> None:
        for name in ("termination_hidden", "absolute", "angles", "unseen"):  # JSON brings lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.propagation not in PROPAGATIONS:
            raise ValueError(f"propagation must be one of {sorted(PROPAGATIONS)}, got {self.propagation!r}")
        if any(width < 1 for width in self.termination_hidden):
            raise ValueError(f"termination_hidden widths must be at least 1, got {self.termination_hidden}")
        if set(self.angles) & set(self.unseen):
            raise ValueError(f"angles and unseen must have no dimension in common, got {self.angles} and {self.unseen}")
        if not 0 < self.termination_threshold < 1:
            raise ValueError(f"termination_threshold must be between 0 and 1, got {self.termination_threshold}")
        if self.clamp_margin is not None and not self.clamp_margin >= 0:
            raise ValueError(f"clamp_margin must be at least 0 or None, got {self.clamp_margin}")
