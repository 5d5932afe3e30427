"""What off-policy algorithms learn from: imagined transitions and real ones, mixed inside each batch."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from mbrl_gym.model import Prediction
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.spaces import Observation
from mbrl_gym.tensors import TensorStruct, concatenate


@dataclass(frozen=True)
class Rows(TensorStruct):
    """N transitions as SB3's off-policy algorithms read them, before any normalisation.

    Attributes:
        obs: [N, *obs] raw observations, or a dictionary of such.
        action: [N, A] in [-1, 1], or [N, 1] int64 of a Discrete space.
        next_obs: [N, *obs] raw observations, or a dictionary of such.
        reward: [N].
        done: [N] float32, how surely the step was terminal: 0 or 1 of a real one; a truncation is not terminal.
    """

    obs: Observation
    action: Tensor
    next_obs: Observation
    reward: Tensor
    done: Tensor


def real_rows(replay: SequenceReplay, device: torch.device) -> Rows:
    """Return every real transition of ``replay``, on ``device``."""
    pairs = replay.gather(replay.windows(2), 2, device=device)
    before = pairs.obs if not isinstance(pairs.obs, dict) else None
    obs: Observation = before[:, 0] if before is not None else {k: v[:, 0] for k, v in pairs.obs.items()}  # type: ignore[union-attr]
    after: Observation = before[:, 1] if before is not None else {k: v[:, 1] for k, v in pairs.obs.items()}  # type: ignore[union-attr]
    action = stored_action(pairs.action[:, 0], replay.action_space)
    return Rows(obs, action, after, pairs.reward[:, 1], pairs.terminated[:, 1].float())


def stored_action(encoded: Tensor, space: spaces.Space[Any]) -> Tensor:
    """Return encoded actions [N, A] as SB3's replay buffers hold them."""
    return encoded.argmax(-1, keepdim=True) if isinstance(space, spaces.Discrete) else encoded


def ending(step: Prediction) -> Tensor:
    """Return [N]: 1 where the model ends the episode, elsewhere the probability that it gives to that.

    Ends are rare, so that a learned head often gives a state just beyond the border of a task less than one half. Where
    rollouts are short, no such state is ever learned from: its value would be a free guess that every state before it
    inherits. In CartPole-v1 the shipped model misses most ends of a pole that leans over slowly, and DQN learned to.
    """
    return torch.where(step.terminated, 1.0, 1.0 - step.continuation.float())


class MixedReplayBuffer(ReplayBuffer):
    """A replay buffer whose batches hold imagined transitions and a fixed share of real ones (MBPO).

    Source: Janner et al. 2019; jannerm/mbpo ``mbpo/algorithms/mbpo.py`` (``_training_batch``).

    Args:
        observation_space: the algorithm's.
        action_space: the algorithm's.
        device: where batches are.
        real_ratio: share of each batch that is real, rounded down; while nothing was imagined, all of it.
        retain: how many dreams are kept, the newest ones.

    Attributes:
        drawn: the rows of the last batch: observations raw, rewards normalised.
        change: applied to each batch of such rows; returns rows and their discounts [N] (or None: the algorithm's own).
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device,
        real_ratio: float,
        retain: int,
    ) -> None:
        # SB3 sizes its arrays here; none of them is used
        super().__init__(1, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), device=device)
        self.observation_space, self.action_space = observation_space, action_space
        self.real_ratio = real_ratio
        self.real: Rows | None = None
        self.dreams: deque[Rows] = deque(maxlen=retain)
        self.drawn: Rows | None = None
        self.change: Callable[[Rows], tuple[Rows, Tensor | None]] = lambda rows: (rows, None)
        self._dreamt: Rows | None = None

    def size(self) -> int:
        """Return the number of transitions, real and imagined."""
        return _count(self.real) + _count(self._dreamt)

    def add_dream(self, rows: Rows) -> None:
        """Take up the transitions of one dream; the oldest dream makes room."""
        self.dreams.append(rows)
        self._dreamt = concatenate(list(self.dreams)) if len(self.dreams) > 1 else rows

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        """Return a batch, drawn with replacement, normalised as ``env`` does.

        Raises:
            ValueError: there is nothing to draw from.
        """
        if not self.size():
            raise ValueError("the buffer must hold transitions to sample from, got none; call learn() first")
        real = batch_size if not _count(self._dreamt) else int(batch_size * self.real_ratio)
        parts = [(self.real, real), (self._dreamt, batch_size - real)]
        drawn = [_draw(rows, n) for rows, n in parts if rows is not None and n > 0]
        mixed = drawn[0] if len(drawn) == 1 else concatenate(drawn)
        self.drawn = replace(mixed, reward=normalized_reward(mixed.reward, env))
        rows, discounts = self.change(self.drawn)
        obs, after = normalized(rows.obs, env), normalized(rows.next_obs, env)
        make: Any = DictReplayBufferSamples if isinstance(obs, dict) else ReplayBufferSamples
        return make(  # type: ignore[no-any-return]
            observations=obs,
            actions=rows.action,
            next_observations=after,
            dones=rows.done[:, None],
            rewards=rows.reward.to(self.device, torch.float32)[:, None],
            discounts=None if discounts is None else discounts[:, None],
        )


def normalized(obs: Observation, env: VecNormalize | None) -> Observation:
    """Return observations as a policy under ``env`` sees them."""
    if env is None or not env.norm_obs:
        return obs
    if isinstance(obs, dict):
        found: Any = env.normalize_obs({k: v.cpu().numpy() for k, v in obs.items()})
        return {k: torch.as_tensor(np.asarray(v)).to(obs[k].device) for k, v in found.items()}
    return torch.as_tensor(np.asarray(env.normalize_obs(obs.cpu().numpy()))).to(obs.device)


def normalized_reward(reward: Tensor, env: VecNormalize | None) -> Tensor:
    """Return rewards [N] as an algorithm under ``env`` sees them."""
    if env is None or not env.norm_reward:
        return reward
    return torch.as_tensor(env.normalize_reward(reward.cpu().numpy())).to(reward)


def _count(rows: Rows | None) -> int:
    return 0 if rows is None else rows.batch_size


def _draw(rows: Rows, n: int) -> Rows:
    index = torch.randint(rows.batch_size, (n,), device=rows.reward.device)
    return rows.map(lambda x: x.index_select(0, index))
