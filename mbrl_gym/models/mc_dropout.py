"""MCDropout: one network, whose dropout masks are draws from an approximate posterior."""

from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn.functional import dropout, silu

from mbrl_gym.models.posterior_network import PosteriorConfig, PosteriorNetwork
from mbrl_gym.nets.ensemble_mlp import EnsembleMLP

__all__ = ["MCDropout", "MCDropoutConfig"]


@dataclass(frozen=True, kw_only=True)
class MCDropoutConfig(PosteriorConfig):
    """Hyperparameters of `MCDropout`, beside those of `PosteriorConfig`.

    Attributes:
        dropout: p, the probability that a hidden unit is dropped.

    Raises:
        ValueError: a value is out of its range.
    """

    dropout: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.dropout < 1:
            raise ValueError(f"dropout must be above 0 and below 1, got {self.dropout}")


class MCDropout(PosteriorNetwork):
    """Dropout after every hidden layer, in training and in prediction: each of K fixed masks is one hypothesis.

    A mask stays the same along a trajectory under TS-infinity, as in DeepPILCO (Gal et al. 2016;
    BrunoKM/deep-pilco-torch ``torchpilco/dynamics_models.py``). In training every row has masks of its own. What is
    kept is divided by 1 - p.

    Weight decay stands for the prior. Gal & Ghahramani (2016) have tau = (1 - p) l^2 / (2 N lambda) for a mean squared
    error plus lambda times the squares of the weights, l^2 the prior's precision and tau the noise's, N transitions
    (yaringal/DropoutUncertaintyExps ``net/net.py``, which also drops inputs: here they are few, and each one matters).
    The noise is predicted here, so that no tau is left to choose, and the loss is the mean over D + 1 targets of twice
    the negative log-likelihood: their decay becomes ``weight_decay`` = 2 (1 - p) l^2 / (N (D + 1)).

    The spread of the masks follows p, and falls little with more data.

    Raises:
        ValueError: a space is not supported, or ``config`` names a dimension that does not exist.
    """

    config_class = MCDropoutConfig
    config: MCDropoutConfig

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: MCDropoutConfig | None = None,
    ) -> None:
        config = config or MCDropoutConfig()
        super().__init__(observation_space, action_space, config)
        self.net = EnsembleMLP(1, self.sizes)
        self._make_termination_net()
        for i, width in enumerate(config.hidden):
            kept = torch.rand(config.draws, width) >= config.dropout
            self.register_buffer(f"mask{i}", kept / (1.0 - config.dropout))  # [K, width]

    def _drawn(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the networks that the masks leave: a dropped unit's weights into the next layer are zero."""
        weights = [weight.expand(self.config.draws, -1, -1) for weight in self.net.weights]
        biases = [bias.expand(self.config.draws, -1, -1) for bias in self.net.biases]
        for i in range(len(self.config.hidden)):
            weights[i + 1] = weights[i + 1] * self.get_buffer(f"mask{i}")[:, :, None]
        return weights, biases

    def _fresh(self, inputs: Tensor) -> Tensor:
        """Return outputs with new masks for each row."""
        x, last = inputs[None], len(self.net.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.net.weights, self.net.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            x = dropout(silu(x), self.config.dropout) if i < last else x
        return x
