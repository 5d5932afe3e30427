"""ALE's Pong on the screen: where ball and paddle are, players of it, and recorded play.

Screens are grey, as the game draws them: [..., 210, 160] uint8. N screens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from mbrl_gym.data import record
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.wrappers.atari import AtariSettings, make_atari

Screens = np.ndarray[Any, np.dtype[np.uint8]]
Places = np.ndarray[Any, np.dtype[np.float64]]
Policy = Callable[[Screens], np.ndarray[Any, Any]]  # screens [n, 210, 160] -> actions [n]

ID = "ALE/Pong-v5"
SETTINGS = AtariSettings(height=210, width=160, stack=1, clip_rewards=True)
COURT = slice(34, 194)  # rows between the walls
PADDLES = (*range(16, 20), *range(140, 144))  # columns in which they move
BALL, PADDLE = 236, 147  # greys of the ball (in the court) and of the player's paddle, on the right
STAY, UP, DOWN = 0, 2, 3
KEYS = {"w": UP, "s": DOWN, "up": UP, "down": DOWN}


def ball(screens: Screens) -> Places:
    """Return [N, 2] the ball's middle, row and column; NaN where there is none."""
    found: Places = _middle(screens[:, COURT] == BALL) + np.array([COURT.start, 0.0])
    return found


def paddle(screens: Screens) -> Places:
    """Return [N] the middle row of the player's paddle; NaN where there is none."""
    return _middle(screens[:, COURT, 130:] == PADDLE)[:, 0] + COURT.start


def _middle(mask: np.ndarray[Any, Any]) -> Places:
    count = mask.sum((1, 2))
    rows = (mask.sum(2) * np.arange(mask.shape[1])).sum(1)
    columns = (mask.sum(1) * np.arange(mask.shape[2])).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([rows / count, columns / count], 1)


def follow(screens: Screens, aim: float = 0.0) -> np.ndarray[Any, Any]:
    """Return [N] the actions of a player whose paddle follows the ball, or a place ``aim`` rows below it."""
    with np.errstate(invalid="ignore"):
        gap = ball(screens)[:, 0] + aim - paddle(screens)
        return np.where(gap > 4, DOWN, np.where(gap < -4, UP, STAY))


def still(screens: Screens) -> np.ndarray[Any, Any]:
    """Return [N] no-ops."""
    return np.full(len(screens), STAY)


@dataclass
class Random:
    """Uniformly random actions.

    Attributes:
        rng: draws them.
    """

    rng: np.random.Generator

    def __call__(self, screens: Screens) -> np.ndarray[Any, Any]:
        """Return [N] actions."""
        return self.rng.integers(6, size=len(screens))


class Sweep:
    """Moves up for 30 steps, then down for 30, and so on: over the whole court and against its walls."""

    def __init__(self) -> None:
        self._steps = 0

    def __call__(self, screens: Screens) -> np.ndarray[Any, Any]:
        """Return [N] actions."""
        self._steps += 1
        return np.full(len(screens), UP if (self._steps - 1) // 30 % 2 == 0 else DOWN)


class Mixed:
    """Follows the ball to a degree that is drawn, else holds random actions for a while; a new one for each episode.

    What it follows is a place beside the ball that changes now and then, so that balls come off all of the paddle.

    Args:
        rng: draws everything.
        least_skill: the least probability, between 0 and 1, with which it follows rather than begins to hold.
    """

    def __init__(self, rng: np.random.Generator, least_skill: float = 0.0) -> None:
        self._rng = rng
        self._skill, self._left, self._action, self._aim = rng.uniform(least_skill, 1.0), 0, STAY, 0.0

    def __call__(self, screens: Screens) -> np.ndarray[Any, Any]:
        """Return [1] action."""
        if self._rng.uniform() < 0.02:
            self._aim = self._rng.uniform(-7, 7)
        if self._left == 0 and self._rng.uniform() < self._skill:
            return follow(screens, self._aim)
        if self._left == 0:
            self._left, self._action = int(self._rng.geometric(0.3)), int(self._rng.integers(6))
        self._left -= 1
        return np.array([self._action])


def make_real() -> gym.Env[Any, Any]:
    """Return the real game's screen, one picture at a time: [1, 210, 160]."""
    return make_atari(ID, SETTINGS)


def collect(steps: int, seed: int, least_skill: float = 0.0) -> SequenceReplay:
    """Return ``steps`` real steps of `Mixed`."""
    env, rng = make_real(), np.random.default_rng(seed)

    def predict(screens: Screens, player: Mixed | None, *_: Any) -> tuple[Any, Mixed]:
        player = player or Mixed(rng, least_skill)
        return player(screens)[0], player

    replay = record(env, predict, steps, seed)
    env.close()
    return replay
