"""Runs of a vector environment as `check_vector_env` sees them: what every call returned, compared and described."""

import hashlib
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

STEP = ("obs", "reward", "terminated", "truncated", "info")
Digests = dict[str, bytes]


@dataclass(frozen=True)
class Record:
    """What one call returned. `restarted`, `ended` [n]: rows whose episode ended on the step before, and on this."""

    call: str
    values: dict[str, Any]
    restarted: NDArray[np.bool_]
    ended: NDArray[np.bool_]


@dataclass(frozen=True)
class Run:
    """A seeded run: reset, then the actions. `restart_actions` replace those of rows whose episode has just ended."""

    env: VectorEnv[Any, Any, Any]
    seed: int
    actions: list[Any]
    restart_actions: list[Any] | None = None

    @property
    def mode(self) -> AutoresetMode:
        mode: AutoresetMode = self.env.metadata["autoreset_mode"]
        return mode

    def records(self) -> Iterator[Record]:
        """The records of all calls; a call is made only when its record is asked for."""
        nothing = np.zeros(self.env.num_envs, dtype=np.bool_)
        yield Record("reset", self.reset(seed=self.seed), nothing, nothing)
        ended = nothing
        for index in range(len(self.actions)):
            call, restarted = f"step {index + 1}", ended
            values = dict(zip(STEP, unpacked(self.env.step(self._action(index, ended)), STEP, call), strict=True))
            check_flags(values, self.env.num_envs, call)
            ended = np.logical_or(values["terminated"], values["truncated"])
            yield Record(call, values, restarted, ended)
            if self.mode is AutoresetMode.DISABLED and ended.any():
                values = self.reset(options={"reset_mask": ended.copy()})
                yield Record(f"reset of {rows_of(ended)} after {call}", values, nothing, nothing)

    def reset(self, **arguments: Any) -> dict[str, Any]:
        """The values of a reset by name."""
        obs, info = unpacked(self.env.reset(**arguments), ("obs", "info"), "reset")
        return {"obs": obs, "info": info}

    def _action(self, index: int, ended: NDArray[np.bool_]) -> Any:
        action = deepcopy(self.actions[index])
        if self.restart_actions is not None and isinstance(action, np.ndarray):
            action[ended] = self.restart_actions[index][ended]
        return action


def check_flags(values: dict[str, Any], count: int, call: str) -> None:
    for name in ("terminated", "truncated"):
        value = values[name]
        require(
            isinstance(value, np.ndarray) and value.dtype == np.bool_ and value.shape == (count,),
            f"{call}: {name} must be a bool array of shape ({count},)",
            brief(value),
            "use np.zeros(num_envs, dtype=np.bool_)",
        )


def random_actions(env: VectorEnv[Any, Any, Any], steps: int, seed: int) -> list[Any]:
    space = deepcopy(env.action_space)
    space.seed(seed)
    return [space.sample() for _ in range(steps)]


# Arrays


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays in nested dicts, tuples and object arrays, each with its path; None is left out."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}[{key!r}]" if path else str(key))
    elif isinstance(value, tuple | list) or (isinstance(value, np.ndarray) and value.dtype == object and value.ndim):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    elif value is not None:
        yield path, np.asarray(value)


def digests(record: Record) -> Digests:
    """Digests of observations, reward, flags and final observations; other infos may hold clock times."""
    kept = {name: value for name, value in record.values.items() if name != "info"}
    info = record.values["info"]
    if isinstance(info, dict) and "final_obs" in info:  # rows that go on may hold anything, uninitialised memory too
        kept["final_obs"] = [row_of(info["final_obs"], row) for row in np.flatnonzero(record.ended).tolist()]
    return {path: digest_of(array) for path, array in leaves(kept)}


def digest_of(array: NDArray[Any]) -> bytes:
    contents = repr(array).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes()
    return hashlib.blake2b(f"{array.dtype}{array.shape}".encode() + contents, digest_size=16).digest()


def row_of(batch: Any, row: int) -> Any:
    if isinstance(batch, dict):
        return {key: row_of(value, row) for key, value in batch.items()}
    if isinstance(batch, tuple):
        return tuple(row_of(value, row) for value in batch)
    return batch[row]


# Messages


def require(holds: Any, rule: str, got: str, remedy: str) -> None:
    if not holds:
        raise AssertionError(f"{rule}; got {got}. Remedy: {remedy}")


def unpacked(returned: Any, names: tuple[str, ...], call: str) -> tuple[Any, ...]:
    require(
        isinstance(returned, tuple) and len(returned) == len(names),
        f"{call} must return a tuple ({', '.join(names)})",
        f"{type(returned).__name__} of length {len(returned) if isinstance(returned, tuple) else 'unknown'}",
        "return exactly these",
    )
    return tuple(returned)


def rows_of(mask: NDArray[np.bool_]) -> str:
    return f"rows {np.flatnonzero(mask).tolist()}"


def brief(value: Any) -> str:
    """Dtype and shape of an array, or of each in a dict of (dtype, shape)."""
    if isinstance(value, dict):
        return ", ".join(f"{path} {dtype} {shape}" for path, (dtype, shape) in value.items()) or "nothing"
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"{type(value).__name__} {value!r:.60}"


def extent(value: Any) -> str:
    """Dtype, shape and range of every array of an observation."""
    parts = [
        f"{path or 'values'} {array.dtype} {array.shape} from {array.min()} to {array.max()}"
        for path, array in leaves(value)
        if array.size and array.dtype != object
    ]
    return "; ".join(parts) or repr(value)


def warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=4)
