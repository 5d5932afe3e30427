"""Frame stacks: kept in a replay as single frames, made where they are needed."""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Frames = TypeVar("Frames", Tensor, np.ndarray)


def stack_frames(frames: Tensor, is_first: Tensor, count: int) -> Tensor:
    """Return at each row the last ``count`` frames of its episode, oldest first: [B, T, count * C, H, W].

    What lies before an episode's first row is zero, as in ale-py's vector environment and in Gymnasium's
    ``FrameStackObservation(padding_type="zero")`` (whose default, "reset", repeats the first frame instead).

    What lies before the window is not known and zero too. So draw windows of T + count - 1 rows and use the last T
    of them, ``stack_frames(...)[:, count - 1:]``; with ``cross_episodes=True``, or an episode's first count - 1 rows
    are never among them.

    Args:
        frames: [B, T, C, H, W], of any dtype: C is 1 for grey frames, 3 for coloured ones.
        is_first: [B, T] bool, true on the first row of an episode.
        count: frames of a stack.

    Raises:
        ValueError: the shapes or ``count`` are not as described.
    """
    if frames.dim() != 5 or is_first.shape != frames.shape[:2]:
        raise ValueError(
            "frames must be [B, T, C, H, W] and is_first [B, T], got "
            f"{tuple(frames.shape)} and {tuple(is_first.shape)}; give grey frames a C of 1"
        )
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    batch, length = is_first.shape
    row = torch.arange(length, device=frames.device)
    begin = torch.where(is_first, row, 0).cummax(dim=1).values  # [B, T]: where the episode, or the window, begins
    source = row[:, None] - torch.arange(count - 1, -1, -1, device=frames.device)  # [T, count]
    window = torch.arange(batch, device=frames.device)[:, None, None] * length
    index = torch.where(source < begin[..., None], 0, 1 + window + source)  # [B, T, count], 0 for the blank frame
    # One index_select: advanced indexing, or blanking afterwards, takes five times as long.
    rows = torch.cat([frames.new_zeros(1, *frames.shape[2:]), frames.flatten(0, 1)])
    return rows.index_select(0, index.flatten()).reshape(batch, length, -1, *frames.shape[3:])


def newest_frame(stacks: Frames, count: int) -> Frames:
    """Return the newest frame [..., C, H, W] of stacks [..., count * C, H, W] of ``count`` frames, as a view.

    This is what a replay keeps where the policy sees stacks; `stack_frames` is the way back.

    Raises:
        ValueError: the channels are not a multiple of ``count``.
    """
    if stacks.ndim < 3 or count < 1 or stacks.shape[-3] % count:
        raise ValueError(f"stacks must be [..., count * C, H, W] with count = {count}, got {tuple(stacks.shape)}")
    return stacks[..., -(stacks.shape[-3] // count) :, :, :]
