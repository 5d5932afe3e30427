"""PictureLayout: where height, width and channels of the pictures of a space are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor


@dataclass(frozen=True)
class PictureLayout:
    """How one picture lies in memory.

    Attributes:
        height: H.
        width: W.
        channels: C, 1 where there is no such axis.
        axis: that of the channels, counted from the end; None where there is none.
    """

    height: int
    width: int
    channels: int
    axis: int | None

    @classmethod
    def of(cls, space: spaces.Space[Any]) -> "PictureLayout":
        """Return the layout of a uint8 Box [H, W], or with an axis of one or three channels, last or first.

        Raises:
            ValueError: the space is no single picture.
        """
        shape = space.shape or ()
        axis = _channel_axis(shape)
        if not is_picture(space):
            raise ValueError(
                "observation_space must be a uint8 Box of the shape [H, W], or with 1 or 3 channels first or last, got "
                f"{space}; a model of pictures reads one frame at a time, without a stack"
            )
        height, width = (n for i, n in enumerate(shape) if axis is None or i != axis % 3)
        return cls(height, width, 1 if axis is None else shape[axis], axis)

    def channels_last(self, pictures: Tensor) -> Tensor:
        """Return pictures [..., *obs] as [..., H, W, C]."""
        return pictures[..., None] if self.axis is None else pictures.movedim(self.axis, -1)

    def as_observed(self, pictures: Tensor) -> Tensor:
        """Return pictures [..., H, W, C] as [..., *obs]."""
        return pictures[..., 0] if self.axis is None else pictures.movedim(-1, self.axis).contiguous()


def is_picture(space: spaces.Space[Any]) -> bool:
    """Return whether ``space`` is one picture: what `PictureLayout.of` takes."""
    shape = space.shape or ()
    found = isinstance(space, spaces.Box) and space.dtype == np.uint8
    return bool(found and (len(shape) == 2 or _channel_axis(shape) is not None))


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return the axis, counted from the end, that holds one or three channels; None where there is none."""
    if len(shape) != 3:
        return None
    return -1 if shape[-1] in (1, 3) else -3 if shape[0] in (1, 3) else None
