"""BayesByBackprop: one network whose weights are normal distributions, learned by variational inference."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import ModelLoss
from mbrl_gym.models.posterior_network import PosteriorConfig, PosteriorNetwork
from mbrl_gym.models.transition import TransitionState
from mbrl_gym.nets.posterior_mlp import VariationalMLP

__all__ = ["BayesByBackprop", "BayesByBackpropConfig"]


@dataclass(frozen=True, kw_only=True)
class BayesByBackpropConfig(PosteriorConfig):
    """Hyperparameters of `BayesByBackprop`, beside those of `PosteriorConfig`.

    Attributes:
        prior_share: pi, the weight of the first component of the prior; 1: the only one, a plain normal distribution.
        prior_deviations: of the prior's two components, in units of 1 / sqrt(fan_in) of a layer (biases: of 1).
        initial_deviation: of each weight's distribution at the start, in the same units.
        divergence_weight: beta, what the divergence from the prior counts beside the likelihood. 1 is the variational
            bound; with a thousand transitions the cost of ten times as many weights then hides much of what they say.

    Raises:
        ValueError: a value is out of its range.
    """

    weight_decay: tuple[float, ...] | float = 0.0
    variance_weighting: float = 0.0
    prior_share: float = 1.0
    prior_deviations: tuple[float, float] = (1.0, math.exp(-6.0))
    initial_deviation: float = 0.02
    divergence_weight: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "prior_deviations", tuple(self.prior_deviations))  # JSON brings lists
        if not 0 < self.prior_share <= 1:
            raise ValueError(f"prior_share must be above 0 and at most 1, got {self.prior_share}")
        if len(self.prior_deviations) != 2 or not min(self.prior_deviations) > 0:
            raise ValueError(f"prior_deviations must be two positive numbers, got {self.prior_deviations}")
        if not self.initial_deviation > 0:
            raise ValueError(f"initial_deviation must be positive, got {self.initial_deviation}")
        if not self.divergence_weight >= 0:
            raise ValueError(f"divergence_weight must be at least 0, got {self.divergence_weight}")


class BayesByBackprop(PosteriorNetwork):
    """Each weight has a mean and a deviation; K fixed draws of standard normal noise make K networks of them.

    The draws follow means and deviations, so that a hypothesis stays the same one while it is learned.

    Raises:
        ValueError: a space is not supported, or ``config`` names a dimension that does not exist.
    """

    config_class = BayesByBackpropConfig
    config: BayesByBackpropConfig
    rows: Tensor  # [] transitions that the posterior is conditioned on

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: BayesByBackpropConfig | None = None,
    ) -> None:
        config = config or BayesByBackpropConfig()
        super().__init__(observation_space, action_space, config)
        self.net = VariationalMLP(self.sizes, config.prior_share, config.prior_deviations, config.initial_deviation)
        self._make_termination_net()
        for i, (weight, bias) in enumerate(zip(self.net.mean.weights, self.net.mean.biases, strict=True)):
            self.register_buffer(f"weight_noise{i}", torch.randn(config.draws, *weight.shape[1:]))
            self.register_buffer(f"bias_noise{i}", torch.randn(config.draws, *bias.shape[1:]))
        self.register_buffer("rows", torch.tensor(math.inf))

    def _drawn(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return mean + deviation * noise."""
        weights, biases = [], []
        for i, (weight, deviation, bias, bias_deviation) in enumerate(self.net.layers()):
            weights.append(weight + deviation * self.get_buffer(f"weight_noise{i}"))
            biases.append(bias + bias_deviation * self.get_buffer(f"bias_noise{i}"))
        return weights, biases

    def _fresh(self, inputs: Tensor) -> Tensor:
        """Return outputs with weights drawn anew for each row."""
        raw: Tensor = self.net(inputs)
        return raw

    def loss(self, batch: SequenceBatch, start: TransitionState | None = None) -> ModelLoss[TransitionState]:
        """Return the negative variational bound (Blundell et al. 2015) in the scale of `GaussianNetwork`'s likelihood.

        That is the mean over rows and over D + 1 targets of twice the negative log-likelihood: the divergence of all
        weights counts 2 / (N (D + 1)), N the number of transitions that the fit was given (before any fit: nothing).
        """
        result = super().loss(batch, start)
        cost = self.net.divergence() * (2.0 * self.config.divergence_weight / self.targets) / self.rows
        return ModelLoss(result.total + cost, {**result.terms, "divergence": cost.detach()})

    @torch.no_grad()
    def before_fit(self, data: SequenceBatch) -> None:
        """Fit normalisers and clamps, and count the transitions; those in several windows count once."""
        super().before_fit(data)
        weight = self._transitions(replace(data, weight=None)).weight
        self.rows.copy_(weight.sum() / (data.length - 1))

    def weight_decay(self) -> dict[str, float]:
        """Return each layer's decay, beside the prior."""
        return {name.replace("net.", "net.mean."): decay for name, decay in super().weight_decay().items()}
