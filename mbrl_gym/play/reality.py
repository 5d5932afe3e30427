"""The real environment beside the dream: made as the model knew it, with what a belief is formed from."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mbrl_gym.envs.recent import Recent
from mbrl_gym.envs.rendering import make_renderer
from mbrl_gym.store import StoredModel
from mbrl_gym.wrappers.atari import AtariSettings, make_atari

ATTEMPTS = 100  # episodes that may end before a belief can be formed


class NoRealityError(ValueError):
    """There is no real environment to play beside the dream; the message says why."""


def make_real(stored: StoredModel) -> gym.Env[Any, Any]:
    """Return the real environment of a stored model, with the spaces that the model knows.

    Raises:
        NoRealityError: the model names none, it cannot be made here, or its spaces are others.
    """
    if stored.real_id is None:
        raise NoRealityError("the model does not say which environment it is of")
    try:
        real = _made(stored.real_id, stored.model.observation_space)
    # What an id makes is anybody's code: whatever it raises, the dream can be played without it.
    except Exception as error:
        raise NoRealityError(f"{stored.real_id} cannot be made here: {' '.join(str(error).split())}") from error
    wanted = stored.model.observation_space, stored.model.action_space
    if (real.observation_space, real.action_space) != wanted:
        real.close()
        raise NoRealityError(f"{stored.real_id} has other spaces than the model; was it trained behind a wrapper?")
    return real


def _made(real_id: str, space: spaces.Space[Any]) -> gym.Env[Any, Any]:
    if not real_id.startswith("ALE/"):
        return gym.make(real_id)
    # Models read single pictures of the size, the colours and the axes that their space tells.
    shape = space.shape or ()
    if len(shape) != 3:
        raise ValueError(f"the model reads no screens, but {shape}")
    channels_last = shape[2] in (1, 3)
    height, width, channels = shape if channels_last else (*shape[1:], shape[0])
    return make_atari(
        real_id,
        AtariSettings(height=height, width=width, grayscale=channels == 1, stack=1, channels_last=channels_last),
    )


class Reality:
    """Real episodes, drawn by the renderer that draws the dream.

    Args:
        env: the real environment; it is closed with this.
        real_id: its id, which chooses the renderer.
        context: real steps that the model needs to form a belief.
        seed: of the first episode.

    Attributes:
        ended: how the episode ended; "" while it goes on.
        total: the rewards of the episode.
    """

    def __init__(self, env: gym.Env[Any, Any], real_id: str | None, context: int, seed: int | None = None) -> None:
        self._env, self._context, self._seed = env, context, seed
        self._recent = Recent(context)
        self._renderer = make_renderer(real_id, env.observation_space)
        self.ended, self.total = "", 0.0

    def begin(self, idle: Callable[[int], Any]) -> None:
        """Begin an episode, and let ``idle`` actions pass until a belief can be formed.

        Raises:
            NoRealityError: every episode ends before.
        """
        for _ in range(ATTEMPTS):
            obs, _ = self._env.reset(seed=self._seed)
            self._seed = None  # later episodes go on from the first one's random numbers
            self.ended, self.total = "", 0.0
            self._recent.begin(obs)
            self._renderer.begin(obs)
            waited = 0
            while not self._recent.enough and not self.ended:
                self.step(idle(waited))
                waited += 1
            if not self.ended:
                return
        raise NoRealityError(f"no real episode lasted the {self._context} steps that the model needs to form a belief")

    def step(self, action: Any) -> float:
        """Take a real step and return its reward."""
        obs, reward, terminated, truncated, _ = self._env.step(action)
        self.total += float(reward)
        self.ended = "terminated" if terminated else "time limit" if truncated else ""
        self._recent.add(action, obs)
        self._renderer.follow(obs, action, float(reward))
        return float(reward)

    def recent(self) -> dict[str, Any]:
        """Return the options with which a learned environment's reset forms the belief that reality is in."""
        return self._recent.options()

    def draw(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the picture [height, width, 3] of the latest step."""
        return self._renderer.draw()

    def close(self) -> None:
        """Close environment and renderer."""
        self._renderer.close()
        self._env.close()
