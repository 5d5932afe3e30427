"""Catch: a ball falls, a paddle moves under it; the smallest game that has to be seen.

Registered as Catch-v0 (64 x 64) and CatchScreen-v0 (210 x 160, as ALE draws).
"""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

CELLS, PIXELS = 8, 8  # a board of 8 x 8 cells of 8 x 8 pixels: images of 64 x 64


class Catch(gym.Env[np.ndarray[Any, Any], np.int64]):
    """Left, stay or right, seven times; then 1 for a ball that was caught, -1 for one that was not.

    The ball begins in a random column and falls straight, the paddle begins in another. Observations are
    [64, 64, 1] uint8, ball and paddle white on black.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 15}
    observation_space = spaces.Box(0, 255, (CELLS * PIXELS, CELLS * PIXELS, 1), np.uint8)
    action_space = spaces.Discrete(3)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self._ball, self._paddle, self._row = 0, 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Drop a new ball."""
        super().reset(seed=seed)
        self._ball, self._paddle = (int(x) for x in self.np_random.integers(CELLS, size=2))
        self._row = 0
        return self._picture(), {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the paddle; the ball falls by a row."""
        self._paddle = int(np.clip(self._paddle + int(action) - 1, 0, CELLS - 1))
        self._row += 1
        landed = self._row == CELLS - 1
        reward = 0.0 if not landed else 1.0 if self._paddle == self._ball else -1.0
        return self._picture(), reward, landed, False, {}

    def render(self) -> Any:
        """Return the board in three colours."""
        return self._picture().repeat(3, -1)

    def _picture(self) -> np.ndarray[Any, Any]:
        board = np.zeros((CELLS, CELLS, 1), np.uint8)
        board[self._row, self._ball] = 255
        board[-1, self._paddle] = 255
        return board.repeat(PIXELS, 0).repeat(PIXELS, 1)


gym.register("Catch-v0", Catch)


class CatchScreen(gym.Env[np.ndarray[Any, Any], np.int64]):
    """The game on a screen like those of ALE: ten balls, with drift and rebounds; 1 for each caught, -1 for each not.

    Observations are grey screens of 210 x 160, [1, 210, 160] uint8. The ball (8 x 8 pixels) begins anywhere in the top
    and falls by 16 a step while it drifts by 8 sideways or not; the paddle (24 x 8) moves by 16, left, not or right.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 15}
    observation_space = spaces.Box(0, 255, (1, 210, 160), np.uint8)
    action_space = spaces.Discrete(3)
    TOP, FLOOR, WIDTH, BALLS, BALL, PADDLE = 24, 184, 160, 10, 8, 24

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.ball, self.drift, self.paddle, self._left = (0, 0), 0, 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Put the paddle into the middle and drop the first ball."""
        super().reset(seed=seed)
        self.paddle, self._left = 64, self.BALLS
        self._drop()
        return self._picture(), {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the paddle and the ball."""
        self.paddle = int(np.clip(self.paddle + 16 * (int(action) - 1), 0, self.WIDTH - self.PADDLE))
        row, column = self.ball[0] + 16, self.ball[1] + self.drift
        if not 0 <= column <= self.WIDTH - self.BALL:
            self.drift = -self.drift
            column = int(np.clip(column, 0, self.WIDTH - self.BALL))
        self.ball = row, column
        reward = 0.0
        if row >= self.FLOOR - self.BALL:
            reward = 1.0 if -self.BALL < column - self.paddle < self.PADDLE else -1.0
            self._left -= 1
            self._drop()
        return self._picture(), reward, self._left == 0, False, {}

    def render(self) -> Any:
        """Return the screen in three colours."""
        return self._picture()[0, :, :, None].repeat(3, -1)

    def _drop(self) -> None:
        self.ball = self.TOP, self.BALL * int(self.np_random.integers(self.WIDTH // self.BALL))
        self.drift = int(self.np_random.choice([-8, 0, 8]))

    def _picture(self) -> np.ndarray[Any, Any]:
        screen = np.zeros((1, 210, 160), np.uint8)
        screen[0, 8:24] = screen[0, 192:200] = 142
        (row, column), paddle = self.ball, self.paddle
        screen[0, row : row + self.BALL, column : column + self.BALL] = 236
        screen[0, self.FLOOR : self.FLOOR + 8, paddle : paddle + self.PADDLE] = 200
        return screen


def catcher(env: CatchScreen) -> np.int64:
    """Return the action of a player that keeps the paddle where the ball will be."""
    gap = env.ball[1] + env.drift + env.BALL // 2 - (env.paddle + env.PADDLE // 2)
    return np.int64(1 + np.sign(gap) * (abs(gap) > 8))


gym.register("CatchScreen-v0", CatchScreen)
