"""Ensemble: the probabilistic ensemble of PETS, with learned reward and termination."""

from dataclasses import replace
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import ModelLoss
from mbrl_gym.models.ensemble_config import EnsembleConfig
from mbrl_gym.models.frozen_mlp import BFLOAT16_ROWS
from mbrl_gym.models.multi_step import MultiStepNetwork, weighted_mean
from mbrl_gym.models.transition import TransitionState
from mbrl_gym.nets.ensemble_mlp import EnsembleMLP

__all__ = ["Ensemble", "EnsembleConfig"]


class Ensemble(MultiStepNetwork):
    """E probabilistic networks that predict the change of the observation, the reward and the end of the episode.

    Each is a hypothesis; the elites, those with the smallest held-out errors, make the predictions. Source: Chua et
    al. 2018 (PETS), section 4; handful-of-trials ``dmbrl/modeling/models/BNN.py``.

    Raises:
        ValueError: a space is not supported, or ``config.absolute`` names a dimension that does not exist.
    """

    config_class = EnsembleConfig
    hypothesis_name = "elite members"
    config: EnsembleConfig
    elites: Tensor  # [K] int64

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: EnsembleConfig | None = None,
    ) -> None:
        config = config or EnsembleConfig()
        super().__init__(observation_space, action_space, config, config.members, config.members)
        self.net = EnsembleMLP(config.members, (self.inputs, *config.hidden, 2 * self.targets))
        self._make_termination_net()
        self.register_buffer("elites", torch.arange(config.elites or config.members))

    @property
    def hypotheses(self) -> int:
        """K, the number of elites."""
        return self.elites.shape[0]  # len() of a tensor is ten times as slow

    def _selected(self, x: Tensor) -> Tensor:
        """Return the elites' part [K, ...] of what all members say [E, ...]."""
        return x if self.hypotheses == self.members else x[self.elites]

    def _selected_members(self, x: Tensor) -> Tensor:
        """Return the elites' part of what the termination networks say."""
        return self._selected(x)

    def _net(self, inputs: Tensor, selected: bool) -> Tensor:
        """Return the members' outputs, the elites' only if ``selected``."""
        every = not selected or self.hypotheses == self.members
        raw: Tensor = self.net(inputs, None if every else self.elites)
        return raw

    def frozen(self, bfloat16_rows: int | None = BFLOAT16_ROWS) -> "Ensemble":
        """Return a copy of the model as it is now that predicts the same, faster, and cannot be trained.

        Args:
            bfloat16_rows: rows a member from which layers run in bfloat16, where the device multiplies in it; None:
                always float32. bfloat16 keeps 8 bits of each activation; the state and the noise stay float32.
        """
        from mbrl_gym.models.frozen_ensemble import FrozenEnsemble  # which is a kind of this

        return FrozenEnsemble(self, bfloat16_rows)

    def loss(self, batch: SequenceBatch, start: TransitionState | None = None) -> ModelLoss[TransitionState]:
        """Return the negative log-likelihood of all transitions in the windows, summed over members.

        Weights [B, T, E] in place of resampled rows are the same bootstrap in expectation (Oza & Russell 2001). Weight
        decay, a term of PETS' loss, is in `weight_decay`. With a ``loss_horizon`` above 1 the likelihood is that of
        several steps (`MultiStepNetwork`).

        Raises:
            ValueError: the windows have no more rows than ``config.loss_horizon``.
        """
        data = self._perturbed(self._transitions(batch))
        if self.config.loss_horizon > 1:
            return ModelLoss(*self._multi_step_likelihood(data, batch))
        inputs = self._normalise(data.x)
        return ModelLoss(*self._likelihood(self._train_net(inputs), inputs, data))

    def holdout_error(self, batch: SequenceBatch) -> Tensor:
        """Return [E]: each member's mean squared error in standardised targets, plus its termination cross-entropy.

        With a ``loss_horizon`` above 1 the error is that of as many steps, each with its share in the loss.

        Raises:
            ValueError: the windows have no more rows than ``config.loss_horizon``.
        """
        data = self._transitions(replace(batch, weight=None))
        inputs = self._normalise(data.x)
        if self.config.loss_horizon > 1:
            error = self._multi_step_error(data, batch)
            if self._can_terminate:
                error = error + weighted_mean(self._termination_error(inputs, data), data.weight)
            return error
        mean, _ = self._outputs(self._net(inputs, False))
        error = self._squared_error(mean, data)
        if self._can_terminate:
            error = error + self._termination_error(inputs, data)
        return weighted_mean(error, data.weight)

    def weight_decay(self) -> dict[str, float]:
        """Return each layer's decay; nothing but these weights decays (PETS' ``construct_vars``)."""
        return {f"net.weights.{i}": decay for i, decay in enumerate(self.config.layer_decay) if decay}

    def member_parameters(self) -> frozenset[str]:
        """Return the names of the networks' parameters; the variance bounds are shared."""
        return frozenset(name for name, _ in self.named_parameters() if name.startswith(("net.", "termination_net.")))

    @torch.no_grad()
    def after_fit(self, error: Tensor) -> None:
        """Keep the members with the smallest held-out errors [E] as elites."""
        self.elites.copy_(error.argsort()[: len(self.elites)].sort().values)
