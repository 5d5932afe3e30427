"""Recording: a policy acts in a real environment, episode after episode, and every step goes into a replay."""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mbrl_gym.replay import SequenceReplay

# SB3's signature: (observation, memory, episode_start, deterministic) -> (action, memory).
Predict = Callable[..., tuple[Any, Any]]


@dataclass(frozen=True)
class Step:
    """What a step brought; one with either flag ended the episode."""

    reward: float
    terminated: bool
    truncated: bool

    @property
    def ended(self) -> bool:
        """Whether the next step is the first of another episode."""
        return self.terminated or self.truncated


def random_policy(space: spaces.Space[Any], seed: int = 0) -> Predict:
    """Return uniformly random actions of ``space`` in the signature of SB3's predict."""
    space = copy.deepcopy(space)  # sampling must not touch the caller's space
    space.seed(seed)
    return lambda *_: (space.sample(), None)


def play(
    predict: Predict,
    env: gym.Env[Any, Any],
    seeds: Iterable[int | None],
    replay: SequenceReplay | None = None,
    deterministic: bool = True,
    max_steps: int | None = None,
) -> Iterator[Step]:
    """Yield one step after the other, without an end; an episode that ends is followed by the next.

    Args:
        predict: an SB3 algorithm's or agent's ``predict``; it gets its own memory back and starts each episode without.
        env: one environment.
        seeds: of the resets, in order, without an end; None leaves an environment's randomness to go on.
        replay: where all steps are recorded, if given (made for one environment).
        deterministic: act without exploring.
        max_steps: cut longer episodes, as truncated.
    """
    resets = iter(seeds)
    obs, _ = env.reset(seed=next(resets))
    if replay is not None:
        replay.begin(_batch(obs))
    length, memory = 0, None
    while True:
        action, memory = predict(obs, memory, np.array([length == 0]), deterministic)
        obs, reward, terminated, truncated, _ = env.step(action)
        length, final = length + 1, obs
        too_long = max_steps is not None and length >= max_steps and not terminated
        step = Step(float(reward), bool(terminated), bool(truncated) or too_long)
        if step.ended:
            obs, _ = env.reset(seed=next(resets))
            length, memory = 0, None
        if replay is not None:
            flags = (np.array([step.terminated]), np.array([step.truncated]))
            replay.add(np.asarray(action)[None], _batch(obs), np.array([reward]), *flags, [final])
        yield step


def record(
    env: gym.Env[Any, Any],
    policy: Predict | None = None,
    steps: int = 1000,
    seed: int = 0,
    replay: SequenceReplay | None = None,
    deterministic: bool = False,
) -> SequenceReplay:
    """Return ``steps`` real steps of ``policy`` in ``env``.

    The last episode stays open where the steps run out: neither terminated nor truncated.

    Args:
        env: one environment.
        policy: ``predict`` of an SB3 algorithm or agent, or a function of that signature; None: random actions.
        steps: how many, over all episodes.
        seed: of the first reset and of random actions.
        replay: where they are added, if given (made for one environment); by default a new one that holds them all.
        deterministic: act without exploring.

    Raises:
        ValueError: ``steps`` is below 1, or the environment returned NaN or infinity.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1 real step, got {steps}")
    if replay is None:  # rows for a first observation, and two for each step if every one ended an episode
        replay = SequenceReplay(env.observation_space, env.action_space, 2 * steps + 1)
    policy = policy or random_policy(env.action_space, seed)
    seeds = itertools.chain([seed], itertools.repeat(None))
    for _ in itertools.islice(play(policy, env, seeds, replay, deterministic), steps):
        pass
    return replay


def _batch(obs: Any) -> Any:
    return {k: np.asarray(v)[None] for k, v in obs.items()} if isinstance(obs, dict) else np.asarray(obs)[None]
