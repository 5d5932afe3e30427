"""SWAG: one network, with a normal distribution over its weights from where the optimiser goes on to wander."""

from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_gym.models.posterior_network import PosteriorConfig, PosteriorNetwork
from mbrl_gym.nets.ensemble_mlp import EnsembleMLP
from mbrl_gym.nets.weight_statistics import WeightStatistics

__all__ = ["SWAG", "SWAGConfig"]


@dataclass(frozen=True, kw_only=True)
class SWAGConfig(PosteriorConfig):
    """Hyperparameters of `SWAG`, beside those of `PosteriorConfig`.

    Attributes:
        collections: how often weights are collected after a fit has found the best ones.
        interval: gradient steps between two collections.
        rate: the learning rate meanwhile, a fraction of the trainer's; constant.
        rank: K, how many of the last weights make the low-rank part of the covariance.
        scale: factor of the covariance that is drawn from; 1/2 is the paper's.

    Raises:
        ValueError: a value is out of its range.
    """

    collections: int = 40
    interval: int = 20
    rate: float = 0.5
    rank: int = 20
    scale: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.interval < 1:
            raise ValueError(f"interval must be at least 1, got {self.interval}")
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, got {self.rate}")
        if not 2 <= self.rank <= self.collections:
            raise ValueError(f"rank must be between 2 and collections = {self.collections}, got {self.rank}")
        if not self.scale >= 0:
            raise ValueError(f"scale must be at least 0, got {self.scale}")


class SWAG(PosteriorNetwork):
    """After a fit has selected its weights, the optimiser goes on at a constant rate; K networks are drawn from there.

    The parameters become the mean of what was collected, and the draws are deviations from it, so that predictions
    follow the parameters when they are trained on; all deviations are zero before the first fit.

    Source: Maddox et al. 2019 (SWAG); wjmaddox/swa_gaussian. Different here: the optimiser is the trainer's Adam, not
    SGD, and weights are collected every ``interval`` steps, not every epoch, so that the cost of a fit does not depend
    on the amount of data. How far the weights wander follows the learning rate and the batch size, hardly the amount of
    data: compare uncertainties within one fit, or set ``scale``.

    Raises:
        ValueError: a space is not supported, or ``config`` names a dimension that does not exist.
    """

    config_class = SWAGConfig
    config: SWAGConfig

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: SWAGConfig | None = None,
    ) -> None:
        config = config or SWAGConfig()
        super().__init__(observation_space, action_space, config)
        self.net = EnsembleMLP(1, self.sizes)
        self._make_termination_net()
        for i, (weight, bias) in enumerate(zip(self.net.weights, self.net.biases, strict=True)):
            self.register_buffer(f"weight_deviation{i}", torch.zeros(config.draws, *weight.shape[1:]))
            self.register_buffer(f"bias_deviation{i}", torch.zeros(config.draws, *bias.shape[1:]))

    def _drawn(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the parameters plus the draws' deviations."""
        weights = [w + self.get_buffer(f"weight_deviation{i}") for i, w in enumerate(self.net.weights)]
        biases = [b + self.get_buffer(f"bias_deviation{i}") for i, b in enumerate(self.net.biases)]
        return weights, biases

    def _fresh(self, inputs: Tensor) -> Tensor:
        """Return the outputs of the network itself."""
        raw: Tensor = self.net(inputs)
        return raw

    def _judged(self, inputs: Tensor) -> Tensor:
        """Return the outputs of the network itself: in a fit, the draws are those of the fit before."""
        return self._fresh(inputs)

    def collector(self) -> "SWAGCollector":
        """Return what `mbrl_gym.ModelTrainer` hands the weights to after a fit's selection."""
        return SWAGCollector(self)


class SWAGCollector:
    """Collects the weights of one fit of a `SWAG`.

    Attributes:
        collections: how often `collect` wants to be called.
        interval: after how many gradient steps each.
        rate: the constant learning rate, a fraction of the trainer's.
    """

    def __init__(self, model: SWAG) -> None:
        config = model.config
        self.collections, self.interval, self.rate = config.collections, config.interval, config.rate
        self._model = model
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._statistics = WeightStatistics(self._parameters, config.rank)

    def collect(self) -> None:
        """Take the present weights into account."""
        self._statistics.add()

    @torch.no_grad()
    def finish(self) -> None:
        """Give the model the mean of the weights, and draws around it."""
        for p, mean in zip(self._parameters, self._statistics.mean, strict=True):
            p.copy_(mean)
        drawn = self._statistics.draw(self._model.config.draws, self._model.config.scale)
        found = {id(p): deviation for p, deviation in zip(self._parameters, drawn, strict=True)}
        for kind, layers in (("weight", self._model.net.weights), ("bias", self._model.net.biases)):
            for i, p in enumerate(layers):
                self._model.get_buffer(f"{kind}_deviation{i}").copy_(found[id(p)][:, 0])
