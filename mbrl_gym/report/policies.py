"""Policies to judge a model with: one that acts at random to a degree, the same in reality and in the dream."""

import copy
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from mbrl_gym.data import Predict

SHARES = (0.0, 0.25, 0.5, 1.0)  # of random actions
Stream = tuple[np.random.Generator, spaces.Space[Any]]


class Noisy:
    """A policy that takes a random action now and then, in the signature of SB3's ``predict`` for one environment.

    The i-th episode has a random stream of its own, so that it is the same in reality and in the dream.

    Args:
        predict: the policy; None where all actions are random.
        space: of the actions.
        share: of the actions that are random, from 0 to 1.
        seed: of the streams.

    Raises:
        ValueError: ``share`` is out of range, or below 1 without a policy.
    """

    def __init__(self, predict: Predict | None, space: spaces.Space[Any], share: float = 1.0, seed: int = 0) -> None:
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"share must be between 0 and 1, got {share}")
        if predict is None and share < 1.0:
            raise ValueError(f"share must be 1 without a policy, got {share}; give predict")
        self._predict, self._space, self._share, self._seed = predict, space, share, seed
        self._episodes: Iterator[int] = itertools.count()

    def restarted(self, episodes: Iterable[int] | None = None) -> "Noisy":
        """Return the same policy before its first episode, or before the ones of these numbers."""
        again = Noisy(self._predict, self._space, self._share, self._seed)
        again._episodes = itertools.count() if episodes is None else iter(episodes)
        return again

    def __call__(self, obs: Any, memory: Any, episode_start: Any, deterministic: bool) -> tuple[Any, Any]:
        """Return the action and the memory."""
        inner, stream = (None, self._stream()) if memory is None else memory
        chosen = None
        if self._predict is not None:
            chosen, inner = self._predict(obs, inner, episode_start, deterministic)
        return self._mix(chosen, stream), (inner, stream)

    def many(self, obs: Any, memory: Any, episode_start: Any, deterministic: bool) -> tuple[Any, Any]:
        """Return the actions [N, *act] of N episodes side by side, which are the next N, and the memory."""
        count = len(episode_start)
        inner, streams = (None, [self._stream() for _ in range(count)]) if memory is None else memory
        chosen: Any = [None] * count
        if self._predict is not None:
            chosen, inner = self._predict(obs, inner, episode_start, deterministic)
        return np.stack([self._mix(*pair) for pair in zip(chosen, streams, strict=True)]), (inner, streams)

    def _mix(self, chosen: Any, stream: Stream) -> Any:
        random = stream[0].random() < self._share
        action = stream[1].sample()
        return action if random else chosen

    def _stream(self) -> Stream:
        """Return what the next episode draws from."""
        seeds = np.random.SeedSequence([self._seed, next(self._episodes)]).generate_state(2)
        space = copy.deepcopy(self._space)  # sampling must not touch the caller's space
        space.seed(int(seeds[0]))
        return np.random.default_rng(seeds[1]), space


def noisy_policies(
    predict: Predict, space: spaces.Space[Any], shares: tuple[float, ...] = SHARES, seed: int = 0
) -> dict[str, Predict]:
    """Return the policy with several shares of random actions, by what they are called: something to rank.

    Args:
        predict: an SB3 algorithm's or agent's ``predict``.
        space: of the actions.
        shares: of random actions.
        seed: of the random streams.
    """
    return {_name(share): Noisy(None if share == 1.0 else predict, space, share, seed) for share in shares}


def _name(share: float) -> str:
    names = {0.0: "policy", 1.0: "random actions"}
    return names.get(share, f"policy, {100 * share:.0f} % random actions")


def restarted(predict: Predict, episodes: Iterable[int] | None = None) -> Predict:
    """Return the policy before its first episode, or before the ones of these numbers, where it counts them."""
    return predict.restarted(episodes) if isinstance(predict, Noisy) else predict


def act_together(predict: Predict, obs: Any, memory: Any, episode_start: Any) -> tuple[Any, Any]:
    """Return the actions [N, *act] of N episodes side by side, and the memory; deterministic.

    Args:
        predict: the policy.
        obs: [N, *obs].
        memory: what it returned last; None: all episodes begin.
        episode_start: [N] bool.

    Raises:
        ValueError: the policy cannot act in N episodes at once.
    """
    together = predict.many if isinstance(predict, Noisy) else predict
    actions, memory = together(obs, memory, episode_start, True)
    if np.ndim(actions) < 1 or len(actions) != len(episode_start):
        raise ValueError(
            f"policy must return actions for a batch of {len(episode_start)} observations, as SB3's predict does, got "
            f"the shape {np.shape(actions)}"
        )
    return actions, memory
