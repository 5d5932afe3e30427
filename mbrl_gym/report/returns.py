"""Returns of a policy: whole episodes, recorded where asked for."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from mbrl_gym.data import Predict, play
from mbrl_gym.replay import SequenceReplay


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
    steps = play(predict, env, itertools.count(seed), replay, deterministic, max_steps)
    for _ in range(episodes):
        rewards = []
        for step in steps:
            rewards.append(step.reward)
            if step.ended:
                break
        returns.append(sum(rewards))
        lengths.append(len(rewards))
        if on_episode is not None:
            on_episode(returns[-1])
    return Returns(returns, lengths)
