"""Policies that see stacks of observations, where a model and its reality show one at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from mbrl_gym.data import Predict
from mbrl_gym.envs.view import FrameStack
from mbrl_gym.pictures import PictureLayout, is_picture

Array = np.ndarray[Any, np.dtype[Any]]
Push = Callable[[Array | None, Array, Array], Array]


def matched_policy(predict: Predict, seen: spaces.Space[Any], space: spaces.Space[Any]) -> Predict:
    """Return the policy for single observations: itself, or one that remembers the stack which it expects.

    Three kinds of stacks are known. Pictures along the channels, first or last, scaled down as Atari's preprocessing
    does: learned environments and `mbrl_gym.wrappers.make_atari` show these. An episode begins with its first picture
    repeated, since no policy of a learned environment has seen the black ones of a real game's first steps. Vectors one
    after the other begin with zeros: SB3's ``VecFrameStack``. Observations along a new first axis begin with the first
    repeated: Gymnasium's ``FrameStackObservation``.

    Args:
        predict: an SB3 algorithm's ``predict``.
        seen: the space of observations that the policy was trained on.
        space: that of the model.

    Raises:
        ValueError: the policy sees neither these observations nor a stack of them.
    """
    if seen == space:
        return predict
    push = _pictures(seen, space) or _vectors(seen, space) or _first_axis(seen, space)
    if push is None:
        raise ValueError(
            f"the policy must see the model's observations {space} or a stack of them, got {seen}; give one "
            "that was trained in this model or in its real environment"
        )
    return _Stacked(predict, space, push)


class _Stacked:
    """A policy that keeps the stacks of its episodes in its memory, in the signature of SB3's ``predict``."""

    def __init__(self, predict: Predict, space: spaces.Space[Any], push: Push) -> None:
        self._predict, self._shape, self._push = predict, space.shape, push

    def __call__(self, obs: Any, memory: Any, episode_start: Any, deterministic: bool) -> tuple[Any, Any]:
        """Return the action for one observation or the actions of several, and the memory."""
        single = np.shape(obs) == self._shape
        rows = np.asarray(obs)[None] if single else np.asarray(obs)
        stacks, inner = (None, None) if memory is None else memory
        begins = np.zeros(len(rows), bool) if episode_start is None else np.asarray(episode_start, bool)
        stacks = self._push(stacks, rows, begins)
        actions, inner = self._predict(stacks, inner, episode_start, deterministic)
        return (actions[0] if single else actions), (stacks, inner)


def _pictures(seen: spaces.Space[Any], space: spaces.Space[Any]) -> Push | None:
    """Return what adds pictures [n, *obs] to stacks of pictures, where ``seen`` is that."""
    shape = seen.shape or ()
    if not is_picture(space) or seen.dtype != np.uint8 or len(shape) != 3:
        return None
    layout, last = PictureLayout.of(space), shape[-1] < min(shape[:2])
    depth, height, width = (shape[-1], *shape[:2]) if last else shape
    if depth % layout.channels or height > layout.height or width > layout.width:
        return None
    view = FrameStack(depth // layout.channels, height, width)

    def push(stacks: Array | None, pictures: Array, begins: Array) -> Array:
        drawn = layout.channels_last(torch.from_numpy(np.array(pictures))).numpy()
        older = None if stacks is None else np.moveaxis(stacks, -1, 1) if last else stacks
        found = view.pushed(older, drawn, begins)
        return np.moveaxis(found, 1, -1) if last else found

    return push


def _vectors(seen: spaces.Space[Any], space: spaces.Space[Any]) -> Push | None:
    """Return what adds vectors [n, D] to vectors [n, k * D], where ``seen`` is that."""
    sizes = [s.shape for s in (seen, space) if isinstance(s, spaces.Box)]
    if [len(size) for size in sizes] != [1, 1] or sizes[0][0] % sizes[1][0]:
        return None
    repeats, size = sizes[0][0] // sizes[1][0], sizes[1][0]

    def push(stacks: Array | None, rows: Array, begins: Array) -> Array:
        older = np.zeros((len(rows), (repeats - 1) * size), rows.dtype) if stacks is None else stacks[:, size:]
        return np.concatenate([np.where(begins[:, None], 0, older), rows], 1).astype(rows.dtype)

    return push


def _first_axis(seen: spaces.Space[Any], space: spaces.Space[Any]) -> Push | None:
    """Return what adds observations [n, *obs] to [n, k, *obs], where ``seen`` is that."""
    shapes = [s.shape for s in (seen, space) if isinstance(s, spaces.Box)]
    if len(shapes) != 2 or shapes[0][1:] != shapes[1] or seen.dtype != space.dtype:
        return None
    repeats = shapes[0][0]

    def push(stacks: Array | None, rows: Array, begins: Array) -> Array:
        begun = np.stack([rows] * repeats, 1)
        if stacks is None:
            return begun
        older = np.concatenate([stacks[:, 1:], rows[:, None]], 1)
        return np.where(begins.reshape(-1, *[1] * (begun.ndim - 1)), begun, older)

    return push
