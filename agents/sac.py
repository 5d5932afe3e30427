"""LeanSAC: Stable-Baselines3's SAC with an update at a multiple of its speed; the same classes, files and numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from mbrl_gym.agents.sac_networks import why_not_lean
from mbrl_gym.agents.sac_update import GraphedUpdate, LeanUpdate


class LeanSAC(SAC):
    """A Stable-Baselines3 ``SAC`` whose ``train`` does the same arithmetic with less work.

    Policy classes, optimisers, parameter names and the save format are stock: what ``save`` writes, ``SAC.load`` reads
    and trains on, and the other way round. With the same seed and data, training agrees with SB3's to float32 rounding
    (SB3 2.9.2, ``sac/sac.py``): the order of operations and of the random draws is its own.

    What is saved: no autograd graph, no gradients that nobody uses (the critics' weights in the actor's loss; of the
    critics, each row of that loss goes back through the lowest alone), Adam and the target update as one pass over
    flat memory, of which the modules' parameters are views, no allocation of large tensors, and no number read on the
    host between the first and the last step of a call.

    What the networks are decides at set-up: an MlpPolicy with ReLU layers, vector or flattened observations, and plain
    Adam is trained like this; anything else (gSDE, images, dictionaries, other activations, normalisation layers,
    other optimisers, subclassed actors or critics) by SB3's own ``train``. `fallback` tells why.

    The arguments are those of ``stable_baselines3.SAC``. A subclass may override `_td_target`.

    Attributes:
        fallback: why SB3's own ``train`` is used; None: it is not.
        expansion: makes the TD targets [batch, 1] of a batch and the entropy coefficient in place of SAC's own; None.
    """

    _update: LeanUpdate | None
    expansion: Callable[[ReplayBufferSamples, Tensor], Tensor] | None = None

    def _setup_model(self) -> None:
        super()._setup_model()
        self.fallback: str | None = why_not_lean(self)
        if self.fallback is not None and self._has_own_target():
            raise ValueError(
                f"{type(self).__name__} has TD targets of its own, for which SB3's train has no place, but "
                f"{self.fallback}; use an MlpPolicy with ReLU layers, and Adam"
            )
        self._update = LeanUpdate(self, self._td_target) if self.fallback is None else None
        if self._update is not None:
            self._step = GraphedUpdate(self._update, self._may_be_graphed())

    def _has_own_target(self) -> bool:
        return type(self)._td_target is not LeanSAC._td_target

    def _may_be_graphed(self) -> bool:
        own = self._has_own_target() or self.expansion is not None
        return self.device.type == "cuda" and not own  # a target may read memory that moves

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Take ``gradient_steps`` steps on the critics, the actor and the entropy coefficient.

        Args:
            gradient_steps: updates, each on a batch of its own.
            batch_size: transitions in a batch.
        """
        if self._update is None:
            if self.expansion is not None:
                raise ValueError(
                    f"expansion needs the lean update, but {self.fallback}; use an MlpPolicy with ReLU layers"
                )
            super().train(gradient_steps, batch_size)
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self._optimizers())
        with torch.no_grad():
            losses = self._lean_steps(self._update, gradient_steps, batch_size)
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/ent_coef", losses[3])
        self.logger.record("train/actor_loss", losses[0])
        self.logger.record("train/critic_loss", losses[1])
        if self.ent_coef_optimizer is not None:
            self.logger.record("train/ent_coef_loss", losses[2])

    def _lean_steps(self, update: LeanUpdate, gradient_steps: int, batch_size: int) -> Any:
        assert self.replay_buffer is not None
        if update.open():
            self._step.reset()
        for step in range(gradient_steps):
            self._step(self.replay_buffer.sample(batch_size, env=self._vec_normalize_env))
            if step % self.target_update_interval == 0:
                update.update_targets(self.tau)
        update.close(gradient_steps)
        return np.asarray((update.losses / gradient_steps).tolist())

    def _td_target(self, batch: ReplayBufferSamples, entropy_coefficient: Tensor) -> Tensor:
        """Return the critics' targets, [batch, 1]: reward + discount * (lowest target Q - coefficient * log-prob).

        Called without gradients, once per update, after the actions for ``batch.observations`` were drawn and before
        any network changed. An override makes its targets of `LeanUpdate.sample` and `LeanUpdate.target_values`, whose
        results live until their next call.

        Args:
            batch: from the replay buffer.
            entropy_coefficient: [1].
        """
        assert self._update is not None
        if self.expansion is not None:
            return self.expansion(batch, entropy_coefficient)
        following = self._update.sample(batch.next_observations)
        values = self._update.target_values(batch.next_observations, following.actions).amin(dim=0)
        values.sub_(entropy_coefficient * following.log_prob)
        discount = self.gamma if batch.discounts is None else batch.discounts
        return batch.rewards + (1 - batch.dones) * discount * values

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        return optimizers if self.ent_coef_optimizer is None else [*optimizers, self.ent_coef_optimizer]

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_update", "_step", "fallback", "expansion"]
