"""Pictures that follow each other as what changes from one to the next: contexts of a game take a fortieth."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
PARTS = ("shape", "count", "index", "value")


def pack_changes(x: Array) -> dict[str, Array]:
    """Return what changes from each picture of ``x`` to the next.

    Args:
        x: [N, C, *obs] uint8.

    Returns:
        ``shape`` of ``x``; ``count`` [N * C] of the numbers that differ from those of the picture before (of the first:
        from zero), their ``index`` in their picture, and their differences ``value`` modulo 256, one after another.
    """
    flat = x.reshape(x.shape[0] * x.shape[1], math.prod(x.shape[2:]))
    changed = np.diff(flat, axis=0, prepend=np.zeros_like(flat[:1]))  # uint8 wraps around
    row, index = np.nonzero(changed)
    return {
        "shape": np.array(x.shape, np.int64),
        "count": np.bincount(row, minlength=len(flat)).astype(np.uint32),
        "index": index.astype(np.uint32),
        "value": changed[row, index],
    }


def unpack_changes(parts: Mapping[str, Array]) -> Array:
    """Return the pictures that `pack_changes` took apart.

    Raises:
        ValueError: the parts do not fit together.
    """
    shape, count, index, value = (parts[name] for name in PARTS)
    pictures, size = int(np.prod(shape[:2])), int(np.prod(shape[2:]))
    fits = len(count) == pictures and len(index) == len(value) == int(count.sum())
    if shape.min(initial=0) < 0 or not fits or index.max(initial=0) >= max(size, 1):
        raise ValueError(
            f"packed pictures must have a count for each of {pictures} pictures, and an index below {size} and a value "
            f"for each change, got {len(count)} counts of {int(count.sum())} changes, {len(index)} and {len(value)}"
        )
    changed = np.zeros((pictures, size), np.uint8)
    changed[np.repeat(np.arange(pictures), count), index] = value
    found: Array = np.add.accumulate(changed, axis=0, dtype=np.uint8).reshape(shape)
    return found
