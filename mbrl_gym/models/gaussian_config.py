"""GaussianConfig: the hyperparameters of networks that predict a mean and a variance."""

import math
from dataclasses import dataclass

from mbrl_gym.models.transition_config import TransitionConfig


@dataclass(frozen=True, kw_only=True)
class GaussianConfig(TransitionConfig):
    """Hyperparameters of `mbrl_gym.models.gaussian.GaussianNetwork`, beside those of `TransitionConfig`.

    Attributes:
        hidden: widths of the hidden layers.
        weight_decay: one number a layer (the output layer included), or one for all.
        max_log_variance: upper bound at the start of training, in units of the targets.
        min_log_variance: lower bound at the start of training.
        learn_variance_bounds: train the two bounds.
        variance_bound_penalty: weight of (sum of upper - sum of lower bounds) in the loss.
        variance_weighting: beta of the beta-NLL: a prediction's likelihood counts by its variance to this power. 0 is
            the plain likelihood (PETS), which neglects what is hard to fit; 1 follows the squared error.
        bfloat16_rows: rows of a training batch from which the networks' products run in bfloat16, on a device that
            multiplies in it; None: never.
        loss_horizon: H, how many steps the loss follows the model's own predictions; windows need more rows than that
            (``TrainerConfig.length``). Not every kind of network has it (`mbrl_gym.models.multi_step`).
        loss_discount: rho, of the loss' steps: step h counts rho^(h - 1), and all of them together 1. TD-MPC2 has
            H = 3 and rho = 0.5 (nicklashansen/tdmpc2 ``config.yaml``), for planning 3 steps far; the default is for
            longer ones.
        input_noise: deviation of the noise on the observations that training reads, in units of the model's own error
            after as many steps as a window has (measured at the end of each fit; before the first: no noise). What is
            learned is the way back to the recorded next observation. Where observations are noisy themselves, it makes
            the bias of that towards the mean worse. Not every kind of network has it.

    Raises:
        ValueError: a value is out of its range.
    """

    hidden: tuple[int, ...] = (128, 128, 128)
    weight_decay: tuple[float, ...] | float = 1e-5
    max_log_variance: float = 0.5
    min_log_variance: float = -10.0
    learn_variance_bounds: bool = True
    variance_bound_penalty: float = 0.01
    variance_weighting: float = 0.5
    bfloat16_rows: int | None = 128
    loss_horizon: int = 1
    loss_discount: float = 0.9
    input_noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden", tuple(self.hidden))  # JSON brings lists
        if not isinstance(self.weight_decay, int | float):
            object.__setattr__(self, "weight_decay", tuple(self.weight_decay))
        layers = len(self.hidden) + 1
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden widths must be at least 1, got {self.hidden}")
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
        if self.bfloat16_rows is not None and self.bfloat16_rows < 1:
            raise ValueError(f"bfloat16_rows must be at least 1 or None, got {self.bfloat16_rows}")
        if self.loss_horizon < 1:
            raise ValueError(f"loss_horizon must be at least 1 step, got {self.loss_horizon}")
        if not 0 < self.loss_discount <= 1:
            raise ValueError(f"loss_discount must be above 0 and at most 1, got {self.loss_discount}")
        if not 0 <= self.input_noise < math.inf:
            raise ValueError(f"input_noise must be at least 0 and finite, got {self.input_noise}")

    @property
    def layer_decay(self) -> tuple[float, ...]:
        """Weight decay, one number a layer."""
        decay = self.weight_decay
        return decay if isinstance(decay, tuple) else (decay,) * (len(self.hidden) + 1)
