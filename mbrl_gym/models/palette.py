"""Palette: the colours of a game's screen, and pictures as numbers of colours.

A video game draws few colours. As classes instead of intensities they leave a prediction no grey between two of them.

Shapes: B pictures, H height, W width, C channels, K colours.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from mbrl_gym.pictures import PictureLayout

SWEEPS = 30  # of Lloyd's algorithm


class Palette(nn.Module):
    """K colours, learned from pictures: exactly where they have no more, else by k-means on the square root of counts.

    Args:
        space: uint8 Box [H, W] (grey), or with an axis of one or three channels, last or first.
        size: K, at most 256.

    Attributes:
        layout: of the pictures.
        height: H.
        width: W.
        channels: C.

    Raises:
        ValueError: the space is no picture, or ``size`` is not between 2 and 256.
    """

    colours: Tensor  # [K, C] uint8; those that are not in use repeat the last
    used: Tensor  # [] how many are in use
    table: Tensor  # colour key -> number of the nearest colour, uint8

    def __init__(self, space: spaces.Space[Any], size: int) -> None:
        super().__init__()
        self.layout = PictureLayout.of(space)
        if not 2 <= size <= 256:
            raise ValueError(f"size must be between 2 and 256 colours, got {size}")
        self.size, self.height, self.width = size, self.layout.height, self.layout.width
        self.channels = self.layout.channels
        self.register_buffer("colours", torch.zeros(size, self.channels, dtype=torch.uint8))
        self.register_buffer("used", torch.zeros((), dtype=torch.int64))
        self.register_buffer("table", torch.zeros(len(_keys(self.channels)), dtype=torch.uint8))

    @torch.no_grad()
    def learn(self, pictures: Tensor) -> None:
        """Take the colours of ``pictures`` [B, *obs], the commonest first."""
        pixels = self.layout.channels_last(pictures).reshape(-1, self.channels).cpu().numpy()
        key = pixels.astype(np.int64) @ 256 ** np.arange(self.channels)
        found, counts = np.unique(key, return_counts=True)
        values = found[:, None] // 256 ** np.arange(self.channels) % 256
        values, counts = values[np.argsort(-counts, kind="stable")], np.sort(counts)[::-1]
        if len(values) > self.size:
            values = _k_means(values, np.sqrt(counts), self.size)
        self.used.fill_(len(values))
        chosen = np.concatenate([values, np.repeat(values[-1:], self.size - len(values), 0)])
        self.colours.copy_(torch.as_tensor(chosen.astype(np.uint8)))
        self.table.copy_(torch.as_tensor(_nearest(_keys(self.channels), values).astype(np.uint8)))

    def encode(self, pictures: Tensor) -> Tensor:
        """Return the numbers of the colours [..., H, W] uint8 of ``pictures`` [..., *obs] uint8."""
        pixels = self.layout.channels_last(pictures)
        if self.channels == 1:
            key = pixels[..., 0].int()
        else:
            r, g, b = (pixels >> 3).int().unbind(-1)
            key = (r << 10) | (g << 5) | b
        return self.table.index_select(0, key.flatten()).view(key.shape)

    def colour(self, numbers: Tensor) -> Tensor:
        """Return the pictures [..., H, W, C] uint8 of the numbers of colours [..., H, W]."""
        return self.colours.index_select(0, numbers.flatten().int()).view(*numbers.shape, self.channels)

    def decode(self, numbers: Tensor) -> Tensor:
        """Return the pictures [..., *obs] uint8 of the numbers of colours [..., H, W]."""
        return self.layout.as_observed(self.colour(numbers))


def _keys(channels: int) -> np.ndarray[Any, Any]:
    """Return the colours [n, C] that the places of the table stand for: every grey, or each 5-bit colour's middle."""
    if channels == 1:
        return np.arange(256)[:, None]
    key = np.arange(2**15)
    return np.stack([key >> 10, key >> 5 & 31, key & 31], -1) * 8 + 4


def _nearest(values: np.ndarray[Any, Any], colours: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the number [n] of the colour nearest to each of the values [n, C]."""
    distance = (values[:, None].astype(np.float64) - colours[None]) ** 2
    return np.asarray(distance.sum(-1).argmin(1))


def _k_means(values: np.ndarray[Any, Any], weights: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """Return ``size`` colours [K, C] near the values [n, C], which come in descending weight."""
    centres = [values[0].astype(np.float64)]
    for _ in range(size - 1):  # the farthest by weight: no randomness
        distance = np.min([((values - c) ** 2).sum(-1) for c in centres], axis=0)
        centres.append(values[np.argmax(distance * weights)].astype(np.float64))
    found = np.stack(centres)
    for _ in range(SWEEPS):
        owner = _nearest(values, found)
        for k in range(size):
            mine = owner == k
            if mine.any():
                found[k] = np.average(values[mine], axis=0, weights=weights[mine])
    return np.round(found)
