"""Pictures of a learned environment: its own, the real environment's renderer's where that can be set, or charts."""

import importlib.util
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import registry
from PIL import Image, ImageDraw, ImageFont

from mbrl_gym.spaces import is_image

Picture = np.ndarray[Any, np.dtype[np.uint8]]
LEAST_SIDE = 12  # pixels; below that it is a table of numbers


class Renderer(ABC):
    """Draws an episode from what the learned environment returns.

    Attributes:
        fps: pictures a second at which it plays as in reality.
    """

    fps: int = 30

    @abstractmethod
    def begin(self, obs: Any) -> None:
        """Take note of an episode's first observation."""

    @abstractmethod
    def follow(self, obs: Any, action: Any, reward: float) -> None:
        """Take note of a step."""

    @abstractmethod
    def draw(self) -> Picture:
        """Return the picture [height, width, 3] uint8 of the latest step.

        Raises:
            RuntimeError: no episode has begun.
        """

    def close(self) -> None:  # noqa: B027  (most have nothing to release)
        """Release what drawing needed."""


def make_renderer(real_id: str | None, space: spaces.Space[Any]) -> Renderer:
    """Return the renderer for a real environment's id: its own for classic control, pictures as they are, else a chart.

    Without pygame, which classic control draws with, that too is a strip chart.

    Raises:
        ValueError: the observations are no vectors.
    """
    name = (real_id or "").rsplit("-v", 1)[0]
    if name in CLASSIC_CONTROL and real_id in registry and importlib.util.find_spec("pygame") is not None:
        return ClassicControlRenderer(str(real_id), CLASSIC_CONTROL[name])
    return PictureRenderer() if _is_picture(space) else StripChart(space)


def _is_picture(space: spaces.Space[Any]) -> bool:
    """Return whether observations are uint8 pictures that one can look at: [H, W], or with 1 or 3 channels."""
    shape = _channels_last(space.shape or ())
    looks = len(shape) == 3 and shape[2] in (1, 3)
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and looks and min(shape[:2]) >= LEAST_SIDE


def _channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a picture as [H, W, C]."""
    if len(shape) == 2:
        return (*shape, 1)
    return (*shape[1:], shape[0]) if len(shape) == 3 and shape[2] not in (1, 3) else shape


class PictureRenderer(Renderer):
    """Shows observations that are pictures, uint8 [H, W], or with 1 or 3 channels, last or first."""

    fps = 15  # of ALE's 60 frames a second one in four is a step

    def __init__(self) -> None:
        self._latest: Any = None

    def begin(self, obs: Any) -> None:
        """Take note of an episode's first observation."""
        self._latest = obs

    def follow(self, obs: Any, action: Any, reward: float) -> None:
        """Take note of a step."""
        self._latest = obs

    def draw(self) -> Picture:
        """Return the picture, grey ones with three equal channels."""
        if self._latest is None:
            raise RuntimeError("render() needs a reset() first")
        picture = np.asarray(self._latest)
        if picture.ndim == 3 and picture.shape[2] not in (1, 3):
            picture = picture.transpose(1, 2, 0)
        picture = picture.reshape(*picture.shape[:2], -1)
        return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))


# ---- classic control ------------------------------------------------------------------------------------------------


def _pendulum(env: Any, obs: Any, action: Any) -> None:
    env.state = np.array([np.arctan2(obs[1], obs[0]), obs[2]])
    env.last_u = None if action is None else float(np.clip(action, -env.max_torque, env.max_torque).item())


def _acrobot(env: Any, obs: Any, action: Any) -> None:
    env.state = np.array([np.arctan2(obs[1], obs[0]), np.arctan2(obs[3], obs[2]), obs[4], obs[5]])


def _direct(env: Any, obs: Any, action: Any) -> None:
    env.state = np.asarray(obs, dtype=np.float64)


CLASSIC_CONTROL: dict[str, Callable[[Any, Any, Any], None]] = {
    "Acrobot": _acrobot,
    "CartPole": _direct,
    "MountainCar": _direct,
    "MountainCarContinuous": _direct,
    "Pendulum": _pendulum,
}


class ClassicControlRenderer(Renderer):
    """Sets the state of a real classic control environment to the predicted one and lets it draw itself."""

    def __init__(self, real_id: str, set_state: Callable[[Any, Any, Any], None]) -> None:
        self._env: Any = gym.make(real_id, render_mode="rgb_array").unwrapped
        self._env.reset(seed=0)
        self._set_state = set_state
        self._latest: tuple[Any, Any] | None = None
        self.fps = int(self._env.metadata["render_fps"])

    def begin(self, obs: Any) -> None:
        """Take note of an episode's first observation."""
        self._latest = (obs, None)

    def follow(self, obs: Any, action: Any, reward: float) -> None:
        """Take note of a step."""
        self._latest = (obs, action)

    def draw(self) -> Picture:
        """Return the real environment's picture of the predicted state."""
        if self._latest is None:
            raise RuntimeError("render() needs a reset() first")
        self._set_state(self._env, *self._latest)
        return np.asarray(self._env.render(), dtype=np.uint8)

    def close(self) -> None:
        """Close the real environment's window."""
        self._env.close()


# ---- strip chart ----------------------------------------------------------------------------------------------------

MARGIN, LABELS, CAPTION = 8, 150, 20  # pixels: at the edges, for the labels on the left, for the caption below
MOST_LANES = 16


class StripChart(Renderer):
    """The last ``window`` steps of the observation's numbers (`MOST_LANES` at most) and of the reward.

    Each has a lane of its own, scaled to what it shows, with a label and the latest value.
    """

    def __init__(self, space: spaces.Space[Any], window: int = 100, width: int = 480, lane: int = 34) -> None:
        if is_image(space):
            raise ValueError(
                f"a strip chart needs a vector observation, got the image {space}; pictures of at least {LEAST_SIDE} "
                "rows and columns with 1 or 3 channels are shown themselves"
            )
        labels = list(_labels(space))
        if not labels:
            raise ValueError(f"a strip chart needs a vector observation, got {space}")
        self._space = space
        self._labels, self._total = labels[:MOST_LANES], len(labels)
        self._width, self._lane, self._window = width, lane, window
        self._history: deque[np.ndarray[Any, Any]] = deque(maxlen=window)
        self._steps = 0

    def begin(self, obs: Any) -> None:
        """Clear the chart."""
        self._history.clear()
        self._append(obs, np.nan)  # no reward arrives with the first observation
        self._steps = 0

    def follow(self, obs: Any, action: Any, reward: float) -> None:
        """Append a step."""
        self._append(obs, reward)
        self._steps += 1

    def draw(self) -> Picture:
        """Return the chart; each lane is scaled to what it shows."""
        if not self._history:
            raise RuntimeError("render() needs a reset() first")
        labels = [*self._labels, "reward"]
        image = Image.new("RGB", (self._width, self._lane * len(labels) + CAPTION), "white")
        pen = ImageDraw.Draw(image)
        values = np.stack(self._history, axis=1)  # [lanes, steps]
        for i, (label, lane) in enumerate(zip(labels, values, strict=True)):
            self._draw_lane(pen, i * self._lane, label, lane)
        pen.text((6, self._lane * len(labels) + 4), self._caption(), fill="black", font=_font())
        return np.asarray(image, dtype=np.uint8)

    def _append(self, obs: Any, reward: float) -> None:
        numbers = list(_numbers(self._space, obs))[: len(self._labels)]
        self._history.append(np.array([*numbers, reward]))

    def _caption(self) -> str:
        part = f"; the first {MOST_LANES} of {self._total} numbers" if self._total > MOST_LANES else ""
        return f"step {self._steps}{part}"

    def _draw_lane(self, pen: ImageDraw.ImageDraw, top: int, label: str, lane: np.ndarray[Any, Any]) -> None:
        left, right, bottom = LABELS, self._width - MARGIN, top + self._lane - 6
        pen.line((left, bottom + 3, right, bottom + 3), fill="lightgray")
        pen.text((6, top + 3), _fitted(pen, label, LABELS - 12), fill="black", font=_font())
        known = np.isfinite(lane)
        if not known.any():
            return
        pen.text((6, top + 17), f"{lane[known][-1]:+.4g}", fill="dimgray", font=_font())
        low, high = float(lane[known].min()), float(lane[known].max())
        height = self._lane - 12
        x = left + np.flatnonzero(known) * (right - left) / (self._window - 1)
        y = bottom - ((lane[known] - low) / (high - low) * height if high > low else np.full(len(x), height / 2))
        if len(x) > 1:
            pen.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill="steelblue", width=2)
        pen.ellipse((x[-1] - 2, y[-1] - 2, x[-1] + 2, y[-1] + 2), fill="firebrick")


def _labels(space: spaces.Space[Any], prefix: str = "obs") -> Iterator[str]:
    """Yield a name for each number of an observation, in the order of `_numbers`."""
    if isinstance(space, spaces.Dict):
        for key, leaf in space.spaces.items():
            yield from _labels(leaf, key)
    elif space.shape == ():
        yield prefix
    else:
        for index in np.ndindex(*(space.shape or ())):
            yield f"{prefix}[{', '.join(map(str, index))}]"


def _numbers(space: spaces.Space[Any], obs: Any) -> Iterator[float]:
    if isinstance(space, spaces.Dict):
        for key, leaf in space.spaces.items():
            yield from _numbers(leaf, obs[key])
    else:
        yield from np.asarray(obs, dtype=np.float64).ravel().tolist()


def _fitted(pen: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """Return ``text``, its middle left out if it is wider than ``width`` pixels: the end holds the index."""
    if pen.textlength(text, font=_font()) <= width:
        return text
    kept = next(n for n in range(len(text) // 2, -1, -1) if pen.textlength(_cut(text, n), font=_font()) <= width)
    return _cut(text, kept)


def _cut(text: str, kept: int) -> str:
    return text[:kept] + "..." + text[len(text) - kept :]


def _font() -> Any:
    return ImageFont.load_default(size=12)
