"""Returns of a policy: whole episodes, recorded where asked for."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mbrl_gym.replay import SequenceReplay

# SB3's signature: (observation, memory, episode_start, deterministic) -> (action, memory).
Predict = Callable[..., tuple[Any, Any]]


@dataclass(frozen=True)
class Returns:
    """Undiscounted returns and lengths of whole episodes."""

    returns: list[float]
    lengths: list[int]

    @property
    def mean(self) -> float:
        """The mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """The standard deviation of the returns over episodes."""
        return float(np.std(self.returns))

    def to_json(self) -> dict[str, Any]:
        """Return mean, standard deviation, and the return and length of each episode."""
        return {
            "episodes": len(self.returns),
            "mean": self.mean,
            "std": self.std,
            "returns": self.returns,
            "lengths": self.lengths,
        }


def random_policy(space: spaces.Space[Any], seed: int = 0) -> Predict:
    """Return uniformly random actions of ``space`` in the signature of SB3's predict."""
    space = copy.deepcopy(space)  # sampling must not touch the caller's space
    space.seed(seed)
    return lambda *_: (space.sample(), None)


def run_episodes(
    predict: Predict,
    env: gym.Env[Any, Any],
    episodes: int = 10,
    seed: int = 0,
    replay: SequenceReplay | None = None,
    deterministic: bool = True,
    max_steps: int = 10_000,
    on_episode: Callable[[float], None] | None = None,
) -> Returns:
    """Return the returns of ``episodes`` episodes, the i-th of which is reset with ``seed + i``.

    Args:
        predict: an SB3 algorithm's or agent's ``predict``; it gets its own memory back and starts each episode without.
        env: one environment.
        episodes: how many.
        seed: of the first reset.
        replay: where all steps are recorded, if given (made for one environment).
        deterministic: act without exploring.
        max_steps: cut longer episodes, as truncated.
        on_episode: called with the return of each.

    Raises:
        ValueError: ``episodes`` is below 1.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    returns, lengths = [], []
    obs, _ = env.reset(seed=seed)
    if replay is not None:
        replay.begin(_batch(obs))
    for i in range(episodes):
        total, length, ended, memory = 0.0, 0, False, None
        while not ended:
            action, memory = predict(obs, memory, np.array([length == 0]), deterministic)
            obs, reward, terminated, truncated, _ = env.step(action)
            total, length, final = total + float(reward), length + 1, obs
            truncated = bool(truncated) or (length >= max_steps and not terminated)
            ended = bool(terminated) or truncated
            if ended:
                obs, _ = env.reset(seed=seed + i + 1)
            if replay is not None:
                flags = (np.array([terminated]), np.array([truncated]))
                replay.add(np.asarray(action)[None], _batch(obs), np.array([reward]), *flags, [final])
        returns.append(total)
        lengths.append(length)
        if on_episode is not None:
            on_episode(total)
    return Returns(returns, lengths)


def _batch(obs: Any) -> Any:
    return {k: np.asarray(v)[None] for k, v in obs.items()} if isinstance(obs, dict) else np.asarray(obs)[None]
