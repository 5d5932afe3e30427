"""Which real states imagined rollouts start from: all alike, rather the newest, or rather those before a failure."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbrl_gym.replay import SequenceReplay

Array = np.ndarray[Any, np.dtype[Any]]


class StartChoice(ABC):
    """Weighs the real states that rollouts may start from."""

    @abstractmethod
    def weights(self, replay: SequenceReplay, rows: Array) -> Array | None:
        """Return [N] weights, not negative and not all zero, of the start rows [N] (absolute indices); None: equal."""


@dataclass(frozen=True)
class UniformStarts(StartChoice):
    """All states alike (MBPO)."""

    def weights(self, replay: SequenceReplay, rows: Array) -> Array | None:
        """Return None."""
        return None


@dataclass(frozen=True)
class RecentStarts(StartChoice):
    """Newer states more often: a state counts half as much as one that is ``half_life`` real steps younger.

    Attributes:
        half_life: real steps of an environment.
    """

    half_life: float = 1000.0

    def __post_init__(self) -> None:
        if not self.half_life > 0:
            raise ValueError(f"half_life must be positive, got {self.half_life}")

    def weights(self, replay: SequenceReplay, rows: Array) -> Array | None:
        """Return powers of one half."""
        return np.asarray(0.5 ** (age(replay, rows) / self.half_life))


@dataclass(frozen=True)
class FailureStarts(StartChoice):
    """States shortly before an episode's terminal end more often.

    Attributes:
        steps: how many real steps before the end count as shortly.
        weight: how much more often than others.
    """

    steps: int = 20
    weight: float = 5.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not self.weight > 0:
            raise ValueError(f"weight must be positive, got {self.weight}")

    def weights(self, replay: SequenceReplay, rows: Array) -> Array | None:
        """Return ``weight`` for the states before terminal ends, 1 for the others."""
        left = steps_to_termination(replay, rows)
        return np.where(left <= self.steps, self.weight, 1.0)


STARTS: dict[str, type[Any]] = {"uniform": UniformStarts, "recent": RecentStarts, "failures": FailureStarts}


def age(replay: SequenceReplay, rows: Array) -> Array:
    """Return [N]: how many rows each of the ``rows`` is older than the newest of them in its environment."""
    step, env = rows // replay.n_envs, rows % replay.n_envs
    newest = np.zeros(replay.n_envs, dtype=step.dtype)
    np.maximum.at(newest, env, step)  # ends of episodes take rows too, so that environments differ
    return np.asarray(newest[env] - step)


def steps_to_termination(replay: SequenceReplay, rows: Array) -> Array:
    """Return [N] float: real steps from each row to its episode's terminal end; infinity where there is none."""
    index = replay.windows(1)  # env by env, oldest first
    all_rows = replay.gather(index, 1)
    first, terminal = all_rows.is_first[:, 0].numpy(), all_rows.terminated[:, 0].numpy()
    env = index % replay.n_envs
    episode = np.cumsum(first | np.concatenate([[True], env[1:] != env[:-1]]))
    ends = np.flatnonzero(terminal)
    at = _position(index, rows)
    following = np.searchsorted(ends, at)
    end = ends[np.minimum(following, len(ends) - 1)] if len(ends) else np.zeros_like(at)
    found = (following < len(ends)) & (episode[end] == episode[at]) if len(ends) else np.zeros(len(at), dtype=bool)
    return np.where(found, end - at, np.inf)


def _position(index: Array, rows: Array) -> Array:
    """Return where in ``index`` the ``rows`` are."""
    order = np.argsort(index)
    return np.asarray(order[np.searchsorted(index[order], rows)])
