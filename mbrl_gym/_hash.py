"""Random numbers that belong to a row of a replay for ever: pure functions of a seed and the row's absolute index."""

from typing import Any

import numpy as np

from mbrl_gym._ring import Array

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
# The cumulative distribution of Poisson(1): P(K <= k) for k = 0, 1, ..., beyond which float64 has no digits left.
_POISSON_CDF = np.cumsum(np.exp(-1.0) / np.cumprod([1.0, *range(1, 20)]))


def row_hash(seed: int, index: Any) -> Array:
    """Return a number in [0, 1) for each absolute ``index`` [...]: [...] float64, fixed by ``seed`` and the index.

    Choose a stable holdout set by it: ``row_hash(seed, index) < 0.1`` never moves a row from one side to the other.
    It is the ``index``-th number of SplitMix64 (Steele, Lea and Flood, 2014), from a start that hashes ``seed``.
    """
    return _uniform(_splitmix(_splitmix(_seed_bits(seed)), np.asarray(index)))


def bootstrap_weight(seed: int, index: Array, members: int) -> Array:
    """Return the Poisson(1) weights [..., E] float32 of rows ``index`` [...] by inverting its distribution."""
    keys = _splitmix(_splitmix(_seed_bits(seed)), np.arange(1, members + 1))  # [E]: a stream for each member
    uniform = _uniform(_splitmix(keys, index[..., None]))  # [..., E]
    return np.searchsorted(_POISSON_CDF, uniform, side="right").astype(np.float32)


def _seed_bits(seed: int) -> Array:
    return np.array(seed % 2**64, np.uint64)


def _splitmix(state: Array, step: Any = 1) -> Array:
    """Return the ``step``-th output of SplitMix64 from ``state``, both broadcast: uint64."""
    with np.errstate(over="ignore"):  # numpy warns of the wanted wrap-around where an array has no axes
        z = state + np.asarray(step).astype(np.uint64) * _GAMMA
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def _uniform(bits: Array) -> Array:
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53)  # the 53 bits that a float64 can hold
