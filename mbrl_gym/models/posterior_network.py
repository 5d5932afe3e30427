"""PosteriorNetwork: what Bayesian networks of dynamics share: predictions by K draws from a posterior over weights."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

from gymnasium import spaces
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import ModelLoss
from mbrl_gym.models.frozen_mlp import BFLOAT16_ROWS
from mbrl_gym.models.gaussian import GaussianNetwork
from mbrl_gym.models.gaussian_config import GaussianConfig
from mbrl_gym.models.transition import TransitionState
from mbrl_gym.nets.posterior_mlp import run_draws


@dataclass(frozen=True, kw_only=True)
class PosteriorConfig(GaussianConfig):
    """Hyperparameters of `PosteriorNetwork`, beside those of `GaussianConfig`.

    Attributes:
        draws: K, how many networks are drawn from the posterior. They are fixed: a trajectory under TS-infinity
            follows one of them, and particles are a multiple of their number (PETS' 20 is one of the default).

    Raises:
        ValueError: a value is out of its range.
    """

    draws: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}")


class PosteriorNetwork(GaussianNetwork):
    """One network with a distribution over its weights, of which K fixed draws are the hypotheses.

    A subclass says what the draws are (`_drawn`) and what training sees (`_fresh`). Both follow the parameters, so that
    a model predicts what it has learned at any time. The networks that predict ends are ordinary ones. Training draws
    its noise from torch's global generator, which `mbrl_gym.ModelTrainer` seeds.

    Args:
        observation_space: the real environment's.
        action_space: the real environment's.
        config: the hyperparameters.
    """

    hypothesis_name = "draws"
    config: PosteriorConfig

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], config: PosteriorConfig
    ) -> None:
        super().__init__(observation_space, action_space, config, hypotheses=config.draws)
        self.sizes = (self.inputs, *config.hidden, 2 * self.targets)

    @abstractmethod
    def _drawn(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return weights [K, fan_in, fan_out] and biases [K, 1, fan_out] of the drawn networks' layers."""

    @abstractmethod
    def _fresh(self, inputs: Tensor) -> Tensor:
        """Return outputs [1, N, 2(D + 1)] for training from standardised inputs [N, in], with noise of their own."""

    def _net(self, inputs: Tensor, selected: bool) -> Tensor:
        """Return the drawn networks' outputs."""
        return run_draws(inputs, *self._drawn())

    def frozen(self, bfloat16_rows: int | None = BFLOAT16_ROWS) -> "PosteriorNetwork":
        """Return a copy of the model as it is now that predicts the same, faster, and cannot be trained.

        Args:
            bfloat16_rows: rows a draw from which layers run in bfloat16, where the device multiplies in it; None:
                always float32.
        """
        from mbrl_gym.models.frozen_posterior import FrozenPosterior  # which is a kind of this

        return FrozenPosterior(self, bfloat16_rows)

    def loss(self, batch: SequenceBatch, start: TransitionState | None = None) -> ModelLoss[TransitionState]:
        """Return the negative log-likelihood of all transitions in the windows, as `GaussianNetwork` has it."""
        data = self._transitions(batch)
        inputs = self._normalise(data.x)
        return ModelLoss(*self._likelihood(self._train_net(inputs), inputs, data))

    def holdout_error(self, batch: SequenceBatch) -> Tensor:
        """Return [1]: twice the negative log-likelihood of the draws' mixture, plus the ends' cross-entropy.

        The mixture counts by its moments: the mean over dimensions of error^2 / variance + log variance, in
        standardised targets; it can be below zero. Unlike a squared error it goes on falling while the variance is
        still learned, and so what is selected knows how far it may be trusted.
        """
        data = self._transitions(replace(batch, weight=None))
        inputs = self._normalise(data.x)
        means, log_variances = self._outputs(self._judged(inputs))  # [E, N, D + 1]
        variance = log_variances.exp().mean(0, keepdim=True) + means.var(0, unbiased=False, keepdim=True)
        error = means.mean(0, keepdim=True) - (data.target - self.target_mean) / self.target_std
        error = self._free(error.square() / variance + variance.log(), error, data).mean(-1)  # [1, N]
        if self._can_terminate:
            error = error + self._termination_error(inputs, data)
        return (error * data.weight).sum(1) / data.weight.sum(1).clamp(min=1.0)

    def _judged(self, inputs: Tensor) -> Tensor:
        """Return the outputs [E, N, 2(D + 1)] that are judged on held-out data."""
        return self._net(inputs, False)

    def weight_decay(self) -> dict[str, float]:
        """Return each layer's decay; nothing but the dynamics' weights decays."""
        return {f"net.weights.{i}": decay for i, decay in enumerate(self.config.layer_decay) if decay}
