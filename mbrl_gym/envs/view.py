"""What a learned environment shows of a belief: the model's own observation, or a stack of frames made from it."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces

from mbrl_gym.model import WorldModel
from mbrl_gym.pictures import PictureLayout
from mbrl_gym.spaces import Observation
from mbrl_gym.tensors import TensorStruct


class View(Protocol):
    """Makes observations of beliefs."""

    def space(self, model: WorldModel[Any]) -> spaces.Space[Any]:
        """Return the space of what is shown of ``model``."""

    def __call__(self, model: WorldModel[Any], state: TensorStruct) -> Observation:
        """Return the observations [B, *obs] of beliefs [B]."""


class Decoded:
    """The observation that the model predicts."""

    def space(self, model: WorldModel[Any]) -> spaces.Space[Any]:
        """Return the model's own."""
        return model.observation_space

    def __call__(self, model: WorldModel[Any], state: TensorStruct) -> Observation:
        """Return ``model.decode(state)``."""
        return model.decode(state)


@dataclass(frozen=True)
class FrameStack:
    """The newest pictures of a model of pictures, resized as Atari's preprocessing does, stacked with channels first.

    A model predicts a game at the resolution at which it is drawn; policies read what `mbrl_gym.wrappers.make_atari`
    shows of the real game, to the pixel: OpenCV's average over areas (gymnasium ``AtariPreprocessing``).

    Attributes:
        stack: pictures, the newest last.
        height: rows.
        width: columns.

    Raises:
        ValueError: a number is below 1.
    """

    stack: int = 4
    height: int = 84
    width: int = 84

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def space(self, model: WorldModel[Any]) -> spaces.Space[Any]:
        """Return the uint8 Box [stack * C, height, width].

        Raises:
            ValueError: the model has no pictures, or remembers fewer.
        """
        known = getattr(getattr(model, "config", None), "frames", 0) if hasattr(model, "pictures") else 0
        if known < self.stack:
            raise ValueError(
                f"stack must be at most the pictures that a {type(model).__name__} remembers ({known}), got "
                f"{self.stack}; frames are stacked of a VideoModel"
            )
        channels = PictureLayout.of(model.observation_space).channels
        return spaces.Box(0, 255, (self.stack * channels, self.height, self.width), np.uint8)

    def __call__(self, model: WorldModel[Any], state: TensorStruct) -> Observation:
        """Return [B, stack * C, height, width] uint8."""
        pictures: np.ndarray[Any, Any] = model.pictures(state)[:, -self.stack :].cpu().numpy()  # type: ignore[operator]
        resized = self.resized(pictures.reshape(-1, *pictures.shape[2:]))
        found = torch.from_numpy(resized.reshape(len(pictures), -1, self.height, self.width))
        return found.to(model.device)

    def pushed(
        self, stacks: np.ndarray[Any, Any] | None, pictures: np.ndarray[Any, Any], begins: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """Return the stacks [n, stack * C, height, width] with pictures added, for who sees them one by one.

        Args:
            stacks: those before; None: all episodes begin.
            pictures: [n, H, W, C] uint8, the newest.
            begins: [n] bool, episodes that begin, as if their first picture had been there before.
        """
        newest = self.resized(pictures)
        begun = np.tile(newest, (1, self.stack, 1, 1))
        if stacks is None:
            return begun
        older = np.concatenate([stacks[:, newest.shape[1] :], newest], 1)
        return np.where(begins[:, None, None, None], begun, older)

    def resized(self, pictures: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return [n, C, height, width] of pictures [n, H, W, C] uint8."""
        import cv2

        size = (self.width, self.height)
        found = np.stack([cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in pictures])
        return np.ascontiguousarray(found.reshape(*found.shape[:3], -1).transpose(0, 3, 1, 2))
