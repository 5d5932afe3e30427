"""Catch: a ball falls, a paddle moves under it; the smallest game that has to be seen. Registered as Catch-v0."""

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

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}
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
