"""An environment that keeps account of what it said, to hold against what was recorded of it."""

import itertools

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mbrl_gym.data import Episode

BOX = spaces.Box(-5.0, 5.0, (3,), np.float32)
PUSH = spaces.Box(-2.0, 2.0, (2,), np.float32)


class Told(gym.Env):
    """Random observations and rewards; episodes last 3, 1, 4 steps and so on; every second one is truncated."""

    def __init__(self, observation_space=BOX, action_space=PUSH, lengths=(3, 1, 4)):
        self.observation_space, self.action_space = observation_space, action_space
        self.lengths = itertools.cycle(lengths)
        self.told = []  # what was returned, an Episode's fields each
        self.seeds = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.seeds.append(seed)
        self.length = next(self.lengths)
        self.told.append(
            {"obs": [self.observation_space.sample()], "action": [], "reward": [], "flags": (False, False)}
        )
        return self.told[-1]["obs"][0], {}

    def step(self, action):
        now = self.told[-1]
        now["obs"].append(self.observation_space.sample())
        now["action"].append(action)
        now["reward"].append(float(self.np_random.normal()))
        if len(now["action"]) == self.length:
            now["flags"] = (True, False) if len(self.told) % 2 else (False, True)
        return now["obs"][-1], now["reward"][-1], *now["flags"], {}

    def episodes(self):
        """What a recording has to hold: every episode with a step."""
        return [
            Episode(_stacked(e["obs"]), np.stack(e["action"]), np.array(e["reward"], np.float32), *e["flags"])
            for e in self.told
            if e["action"]
        ]


def _stacked(values):
    return {k: _stacked([v[k] for v in values]) for k in values[0]} if isinstance(values[0], dict) else np.stack(values)


def as_lists(found):
    """Episodes as plain data, for an exact comparison; float64 as the float32 that is stored."""

    def plain(x):
        if isinstance(x, dict):
            return {k: plain(x[k]) for k in sorted(x)}
        x = np.asarray(x)
        x = x.astype(np.float32) if x.dtype == np.float64 else x
        return x.tolist() if x.dtype != np.uint8 else (x.shape, x.tobytes())

    return [(plain(e.obs), plain(e.action), plain(e.reward), e.terminated, e.truncated) for e in found]
