"""MultiStepNetwork: a Gaussian network that can be trained on several of its own steps, with gradients through time."""

from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.models.gaussian import GaussianNetwork
from mbrl_gym.models.transition import Transitions

__all__ = ["MultiStepNetwork", "weighted_mean"]


class MultiStepNetwork(GaussianNetwork):
    """Networks whose loss can follow their own mean predictions for ``config.loss_horizon`` = H steps.

    From every row of a window that has H rows after it, each network is rolled along the recorded actions: it reads its
    own mean, within the clamp and the space as in `predict`, and each step is judged by the likelihood of the recorded
    observation and reward. Step h counts rho^(h - 1), normalised; what comes after the border of an episode, nothing.
    The ends of episodes are learned from the recorded transitions, as ever.

    The weights by step are those of TD-MPC2's consistency loss (nicklashansen/tdmpc2 ``tdmpc2.py``: rho^t times a mean
    squared error, the sum over H), here for the likelihood in place of the squared error, so that H = 1 is PETS.
    """

    corrections: ClassVar[frozenset[str]] = frozenset({"loss_horizon", "input_noise"})

    def _multi_step_likelihood(self, data: Transitions, batch: SequenceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss summed over networks, and its terms, from the windows [B, T] and their transitions."""
        parts = [share * self._surprise(raw, step) for share, raw, step in self._unroll(data, batch, self._train_net)]
        return self._whole_loss(torch.stack(parts).sum(), self._normalise(data.x), data)

    def _multi_step_error(self, data: Transitions, batch: SequenceBatch) -> Tensor:
        """Return [E]: each network's mean squared error in standardised targets, over the steps as in the loss."""
        total = torch.zeros(self.members, device=self.device)
        for share, raw, step in self._unroll(data, batch, lambda inputs: self._net(inputs, False)):
            mean, _ = self._outputs(raw)
            total = total + share * weighted_mean(self._squared_error(mean, step), step.weight)
        return total

    def _squared_error(self, mean: Tensor, data: Transitions) -> Tensor:
        """Return [E, N], the mean over dimensions, from standardised means [E, N, D + 1]."""
        error = mean - (data.target - self.target_mean) / self.target_std
        return self._free(error.square(), error, data).mean(-1)

    def _unroll(
        self, data: Transitions, batch: SequenceBatch, run: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[float, Tensor, Transitions]]:
        """Yield each step's share, the outputs [E, N, 2(D + 1)] and the transitions that they are judged by.

        N = B (T - H) starts. After the first step ``x``, ``obs`` and ``target`` are [E, N, ...]: each network's own.

        Args:
            data: the windows' transitions [B (T - 1)].
            batch: the windows [B, T].
            run: standardised inputs [N, in] or [E, N, in] to outputs.
        """
        horizon, rho = self.config.loss_horizon, self.config.loss_discount
        if batch.length <= horizon:
            raise ValueError(
                f"batch must have windows of more than loss_horizon = {horizon} rows, got {batch.length}; set "
                f"TrainerConfig(length={horizon + 1}) or more, or a smaller loss_horizon"
            )
        shares = [rho**h / sum(rho**i for i in range(horizon)) for h in range(horizon)]
        starts = batch.length - horizon
        same_episode = (~batch.is_first[:, 1:]).float()
        alive = torch.ones_like(same_episode[:, :starts])  # [B, T - H]
        obs = None
        for h, share in enumerate(shares):
            alive = alive * same_episode[:, h : h + starts]
            step = _cut(data, batch, h, starts)
            step = step._replace(weight=step.weight * alive.flatten())
            if obs is not None:
                step = self._from(obs, step)
            raw = run(self._normalise(step.x))
            yield share, raw, step
            if h + 1 < horizon:
                obs = self._next(step.obs, raw)

    def _from(self, obs: Tensor, step: Transitions) -> Transitions:
        """Return the transitions as they are from the networks' own observations [E, N, D]."""
        action = step.x[:, self._seen :].expand(*obs.shape[:-1], -1)
        reward = step.target[:, -1:].expand(*obs.shape[:-1], -1)
        target = torch.cat([step.next_obs - obs * self._delta, reward], dim=-1)
        return step._replace(x=self._inputs(obs, action), obs=obs, target=target)

    def _next(self, obs: Tensor, raw: Tensor) -> Tensor:
        """Return each network's mean next observation [E, N, D], as `predict` has it."""
        mean, _ = raw.chunk(2, dim=-1)
        value = self._onto(obs, torch.addcmul(self.target_mean, mean, self.target_std))
        if self._clamps:
            value = torch.clamp(value, self.low, self.high)
        return self.codec.project(value[..., :-1])


def _cut(data: Transitions, batch: SequenceBatch, begin: int, length: int) -> Transitions:
    """Return of each window's T - 1 transitions those from ``begin`` on, one below the other: [B length, ...]."""

    def cut(x: Tensor, axis: int = 0) -> Tensor:
        windows = x.reshape(*x.shape[:axis], batch.batch_size, batch.length - 1, *x.shape[axis + 1 :])
        return windows.narrow(axis + 1, begin, length).flatten(axis, axis + 1)

    return Transitions(
        cut(data.x), cut(data.obs), cut(data.target), cut(data.next_obs), cut(data.terminated), cut(data.weight, 1)
    )


def weighted_mean(error: Tensor, weight: Tensor) -> Tensor:
    """Return [E], the weighted mean of errors [E, N]."""
    return (error * weight).sum(1) / weight.sum(1).clamp(min=1.0)
