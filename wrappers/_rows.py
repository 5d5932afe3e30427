"""Rows of a vector environment's observations and infos, whatever their nesting."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray


def info_row(info: Any, row: int) -> dict[str, Any]:
    """The entries of one row of a vector environment's info, by its `_key` masks, as the sub-environment wrote them."""
    if isinstance(info, np.ndarray):  # an object array of dicts: how native environments may bring final_info
        return dict(info[row] or {})
    result: dict[str, Any] = {}
    for key, value in info.items():
        mask = info.get(f"_{key}")
        if is_mask(key, info) or (mask is not None and not mask[row]):
            continue
        if isinstance(value, dict):
            result[key] = info_row(value, row)
        else:
            result[key] = value[row] if isinstance(value, np.ndarray) else value
    return result


def is_mask(key: str, info: dict[str, Any]) -> bool:
    return key.startswith("_") and key[1:] in info


def copied(obs: Any, space: gym.Space[Any]) -> Any:
    """A fresh batch in the dtype of the space: SB3 keeps references, and not every vector environment makes copies."""
    if isinstance(space, gym.spaces.Dict):
        return {key: copied(obs[key], subspace) for key, subspace in space.spaces.items()}
    if not isinstance(obs, np.ndarray):
        raise TypeError(
            f"vector_env must return numpy arrays, its observations are of type {type(obs).__name__}: make it with a "
            "numpy backend, or wrap it in gymnasium.wrappers.vector.ArrayConversion(env, env_xp=torch, target_xp=np)"
        )
    return np.array(obs, dtype=space.dtype)


def take(obs: Any, rows: NDArray[np.intp]) -> Any:
    """Rows [k] as a fresh batch, from a batch, a dict of batches, or an object array of n observations."""
    if isinstance(obs, dict):
        return {key: take(value, rows) for key, value in obs.items()}
    if obs.dtype != object:
        return obs[rows]
    items = [obs[row] for row in rows]
    if isinstance(items[0], dict):
        return {key: np.stack([item[key] for item in items]) for key in items[0]}
    return np.stack(items)


def at(obs: Any, index: int) -> Any:
    return {key: value[index] for key, value in obs.items()} if isinstance(obs, dict) else obs[index]


def replaced(obs: Any, rows: NDArray[np.intp], other: Any) -> Any:
    """`obs`, its rows [k] overwritten by those of `other`."""
    if isinstance(obs, dict):
        return {key: replaced(value, rows, other[key]) for key, value in obs.items()}
    obs[rows] = other[rows]
    return obs
