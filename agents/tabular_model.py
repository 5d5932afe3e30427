"""TabularModel: what was seen of each state and action, as tabular planning reads it."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class Outcome(NamedTuple):
    """Where an action led: the reward, the next state, and whether the episode ended there (not by a time limit)."""

    reward: float
    next_state: int
    terminated: bool


class TabularModel:
    """The outcomes of every tried action, in the order in which they were first seen.

    Args:
        keep_all: count all outcomes of an action and draw from them; False: believe the last one.
    """

    def __init__(self, keep_all: bool = False) -> None:
        self.keep_all = keep_all
        self.states: list[int] = []
        self.tried: dict[int, list[int]] = {}
        self._counts: dict[tuple[int, int], dict[Outcome, int]] = {}

    def __len__(self) -> int:
        """How many pairs of a state and an action were tried."""
        return len(self._counts)

    def record(self, state: int, action: int, outcome: Outcome, count: int = 1) -> None:
        """Note that ``action`` in ``state`` led to ``outcome``."""
        if state not in self.tried:
            self.states.append(state)
            self.tried[state] = []
        counts = self._counts.get((state, action))
        if counts is None:
            self.tried[state].append(action)
        if counts is None or not self.keep_all:
            counts = self._counts[state, action] = {}
        counts[outcome] = counts.get(outcome, 0) + count

    def draw(self, state: int, action: int, uniform: float) -> Outcome | None:
        """Return an outcome, each with the frequency that it was seen with; None where the action was never tried.

        Args:
            state: the state.
            action: the action.
            uniform: a random number in [0, 1).
        """
        counts = self._counts.get((state, action))
        if counts is None:
            return None
        if len(counts) > 1:
            left = uniform * sum(counts.values())
            for outcome, count in counts.items():
                left -= count
                if left < 0:
                    return outcome
        return next(reversed(counts))

    def probabilities(self, state: int, action: int) -> dict[Outcome, float]:
        """Return how likely each outcome is held to be; empty where the action was never tried."""
        counts = self._counts.get((state, action), {})
        return {outcome: count / sum(counts.values()) for outcome, count in counts.items()}

    def to_arrays(self) -> dict[str, Array]:
        """Return the table as columns, a row an outcome, from which `from_arrays` makes an equal model."""
        rows = [(*pair, *outcome, count) for pair, counts in self._counts.items() for outcome, count in counts.items()]
        names = ("state", "action", "reward", "next_state", "terminated", "count")
        kinds = (np.int64, np.int64, np.float64, np.int64, np.bool_, np.int64)
        return {name: np.array([row[i] for row in rows], kinds[i]) for i, name in enumerate(names)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], keep_all: bool) -> "TabularModel":
        """Return the model that `to_arrays` described."""
        model = cls(keep_all)
        names = ("state", "action", "reward", "next_state", "terminated", "count")
        rows: Iterable[Any] = zip(*(arrays[name].tolist() for name in names), strict=True)
        for state, action, reward, next_state, terminated, count in rows:
            model.record(state, action, Outcome(reward, next_state, terminated), count)
        return model
