"""A short animation of dream beside reality: the same start, the same actions, drawn by the same renderer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mbrl_gym.data import Predict
from mbrl_gym.envs.recent import Recent
from mbrl_gym.envs.rendering import Renderer, make_renderer
from mbrl_gym.envs.single import LearnedEnv

CAPTION = 44  # pixels above each picture
GAP = 8


def dream_frames(
    predict: Predict,
    real: gym.Env[Any, Any],
    dream: LearnedEnv,
    steps: int = 150,
    resync: int = 50,
    real_id: str | None = None,
    seed: int = 0,
    size: int = 260,
) -> Iterator[Image.Image]:
    """Yield ``steps`` pictures of reality (left) and dream (right) as both follow the same actions.

    The policy sees reality. The dream sees only the actions, until it is set to reality again after ``resync`` steps,
    or because an episode ended on either side.

    Args:
        predict: an SB3 algorithm's or agent's ``predict``.
        real: the real environment; it need not be able to render.
        dream: the learned one, of the same spaces.
        steps: pictures.
        resync: imagined steps in a row at most.
        real_id: the id of the real environment, which chooses the renderer; default: that of ``real.spec``.
        seed: of reality and dream.
        size: width of each of the two pictures in pixels.

    Raises:
        ValueError: a number is below 1.
    """
    for name, value in (("steps", steps), ("resync", resync)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    real_id = real_id or (real.spec.id if real.spec else None)
    renderers = [make_renderer(real_id, dream.observation_space) for _ in range(2)]
    try:
        yield from _Pair(predict, real, dream, renderers, seed, size).frames(steps, resync)
    finally:
        for renderer in renderers:
            renderer.close()


class _Pair:
    """Reality and dream, step by step."""

    def __init__(
        self,
        predict: Predict,
        real: gym.Env[Any, Any],
        dream: LearnedEnv,
        renderers: list[Renderer],
        seed: int,
        size: int,
    ) -> None:
        self._predict, self._real, self._dream = predict, real, dream
        self._real_renderer, self._dream_renderer = renderers
        self._seed, self._size = seed, size
        self._recent = Recent(dream.model.context)
        self._memory: Any = None
        self._begins = True

    def frames(self, steps: int, resync: int) -> Iterator[Image.Image]:
        self._restart()
        behind = resync  # imagined steps since the dream saw reality: it has to see it first
        ended = False
        for step in range(1, steps + 1):
            if ended:
                self._restart()
            if ended or behind >= resync:
                self._synchronise()
                behind = 0
            obs, reward, ended_really, action = self._step()
            dreamt, dreamt_reward, terminated, truncated, _ = self._dream.step(action)
            behind += 1
            ended = ended_really or terminated or truncated
            self._real_renderer.follow(obs, action, reward)
            self._dream_renderer.follow(dreamt, action, dreamt_reward)
            yield self._picture(step, behind, reward, dreamt_reward)

    def _restart(self) -> None:
        """Begin a real episode, far enough into it that a belief can be formed."""
        for _ in range(100):
            self._obs, _ = self._real.reset(seed=self._seed)
            self._seed += 1
            self._memory, self._begins = None, True
            self._recent.begin(self._obs)
            self._real_renderer.begin(self._obs)
            while not self._recent.enough:
                obs, reward, ended, action = self._step()
                self._real_renderer.follow(obs, action, reward)
                if ended:
                    break
            else:
                return
        context = self._dream.model.context
        raise ValueError(f"real must have episodes of at least {context} steps for this model to form a belief")

    def _step(self) -> tuple[Any, float, bool, Any]:
        action, self._memory = self._predict(self._obs, self._memory, np.array([self._begins]), True)
        self._obs, reward, terminated, truncated, _ = self._real.step(action)
        self._begins = False
        self._recent.add(action, self._obs)
        return self._obs, float(reward), terminated or truncated, action

    def _synchronise(self) -> None:
        obs, _ = self._dream.reset(seed=self._seed, options=self._recent.options())
        self._dream_renderer.begin(obs)

    def _picture(self, step: int, behind: int, reward: float, dreamt_reward: float) -> Image.Image:
        left, right = self._pane(self._real_renderer), self._pane(self._dream_renderer)
        canvas = Image.new("RGB", (2 * self._size + GAP, CAPTION + left.height), "white")
        canvas.paste(left, (0, CAPTION))
        canvas.paste(right, (self._size + GAP, CAPTION))
        pen = ImageDraw.Draw(canvas)
        since = f"{behind} step{'s' * (behind != 1)} since the last real frame"
        _caption(pen, 6, "REAL", f"step {step}, reward {reward:+.2f}", "", "black")
        _caption(pen, self._size + GAP + 6, "DREAM", f"step {step}, reward {dreamt_reward:+.2f}", since, "#9a3412")
        return canvas

    def _pane(self, renderer: Renderer) -> Image.Image:
        picture = Image.fromarray(renderer.draw())
        height = max(1, round(picture.height * self._size / picture.width))
        return picture.resize((self._size, height), Image.Resampling.LANCZOS)


def _caption(pen: ImageDraw.ImageDraw, left: int, head: str, text: str, below: str, colour: str) -> None:
    bold, plain = ImageFont.load_default(size=15), ImageFont.load_default(size=13)
    pen.text((left, 4), head, fill=colour, font=bold)
    pen.text((left + 62, 5), text, fill="black", font=plain)
    pen.text((left, 24), below, fill=colour, font=plain)


def save_animation(frames: Iterator[Image.Image] | list[Image.Image], path: str | Path, fps: int = 20) -> Path:
    """Write pictures as an animation that loops: .webp, or .gif.

    Raises:
        ValueError: there are no pictures, or the suffix is another.
    """
    path, pictures = Path(path), list(frames)
    if path.suffix not in (".webp", ".gif"):
        raise ValueError(f"path must end in .webp or .gif, got {path.name!r}")
    if not pictures:
        raise ValueError("frames must hold at least one picture, got none")
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"quality": 75, "method": 4} if path.suffix == ".webp" else {"optimize": True}
    rest = pictures[1:]
    pictures[0].save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, **options)
    return path


def animate_dream(
    path: str | Path, predict: Predict, real: gym.Env[Any, Any], dream: LearnedEnv, fps: int = 20, **options: Any
) -> Path:
    """Write the animation of `dream_frames` (which takes the ``options``) and return its path."""
    return save_animation(dream_frames(predict, real, dream, **options), path, fps)
