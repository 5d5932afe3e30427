"""VideoState, a belief of `VideoModel`, and Cells: pictures cut into cells.

Shapes: B batch, T time, F frames, h x w cells of P pixels, H x W pixels in all.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from mbrl_gym.nets.video import MEMORY
from mbrl_gym.tensors import TensorStruct


@dataclass(frozen=True)
class Cells:
    """How pictures are cut.

    Attributes:
        picture: (H, W).
        patch: height and width of a cell in pixels.
    """

    picture: tuple[int, int]
    patch: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w); the last cells of a row or column may stick out of the picture."""
        (height, width), (rows, columns) = self.picture, self.patch
        return -(-height // rows), -(-width // columns)

    def cut(self, numbers: Tensor) -> Tensor:
        """Return [..., h, w, P] of numbers [..., H, W]; what sticks out is 0."""
        (height, width), (rows, columns) = self.shape, self.patch
        lead = numbers.shape[:-2]
        missing = height * rows - numbers.shape[-2], width * columns - numbers.shape[-1]
        if any(missing):
            numbers = pad(numbers, (0, missing[1], 0, missing[0]))
        return numbers.reshape(*lead, height, rows, width, columns).transpose(-3, -2).reshape(*lead, height, width, -1)

    def joined(self, cells: Tensor) -> Tensor:
        """Return [..., H, W] of cells [..., h, w, P]."""
        (height, width), (rows, columns) = self.shape, self.patch
        lead = cells.shape[:-3]
        parts = cells.reshape(*lead, height, width, rows, columns).transpose(-3, -2)
        whole = parts.reshape(*lead, height * rows, width * columns)
        return whole[..., : self.picture[0], : self.picture[1]]


@dataclass(frozen=True)
class VideoState(TensorStruct):
    """A belief: what was seen.

    Attributes:
        frames: [B, h, w, F * P] uint8, numbers of colours, in each cell the newest picture last.
        still: [B, h, w] uint8, steps since each cell last changed, at most `MEMORY` - 1.
    """

    frames: Tensor
    still: Tensor

    def pictures(self, pixels: int) -> Tensor:
        """Return the last F pictures [B, F, h, w, P] of cells of so many pixels, the newest last."""
        return self.frames.reshape(*self.frames.shape[:3], -1, pixels).movedim(-2, 1)

    def newest(self, pixels: int) -> Tensor:
        """Return the newest picture [B, h, w, P]."""
        return self.frames[..., -pixels:]

    def last_two(self, pixels: int) -> tuple[Tensor, Tensor]:
        """Return the last but one and the newest picture [B, h * w, P]; the newest twice where one is all there is."""
        rows = self.frames.flatten(1, 2)
        before = rows[..., -2 * pixels : -pixels] if rows.shape[-1] > pixels else rows
        return before, rows[..., -pixels:]

    def then(self, picture: Tensor) -> "VideoState":
        """Return the belief after a picture [B, h, w, P] of the same episode."""
        pixels = picture.shape[-1]
        moved = (picture != self.newest(pixels)).any(-1)
        still = (self.still + 1).clamp(max=MEMORY - 1).masked_fill(moved, 0)
        return VideoState(torch.cat([self.frames[..., pixels:], picture], -1), still)

    def after(self, picture: Tensor, is_first: Tensor) -> "VideoState":
        """Return the belief after a picture [B, h, w, P], which begins an episode where ``is_first`` [B]."""
        frames = self.frames.shape[-1] // picture.shape[-1]
        begun = VideoState(picture.repeat(1, 1, 1, frames), torch.zeros_like(self.still))
        return begun.where(is_first, self.then(picture))

    def after_all(self, pictures: Tensor, is_first: Tensor) -> "VideoState":
        """Return the belief after pictures [B, T, h, w, P]: that of `after` one by one, without those between.

        Args:
            pictures: in order.
            is_first: [B, T] bool, pictures that begin an episode.
        """
        count, device = pictures.shape[1], pictures.device
        before = self.pictures(pictures.shape[-1])
        frames, every = before.shape[1], torch.cat([before, pictures], 1)
        begins = torch.arange(frames, frames + count, device=device) * is_first
        oldest = begins.amax(1) if count else begins.new_zeros(len(begins))
        shown = torch.arange(count, count + frames, device=device).maximum(oldest[:, None])  # [B, F]
        rows = torch.arange(len(shown), device=device)
        kept = torch.stack([every[rows, shown[:, f]] for f in range(frames)], -2).flatten(-2)
        stays = (every[:, frames:] == every[:, frames - 1 : -1]).all(-1) & ~is_first[..., None, None]
        still = self.still
        for stay in stays.unbind(1):
            still = (still + 1).clamp(max=MEMORY - 1) * stay
        return VideoState(kept, still)
