"""How long imagined rollouts are: fixed, by schedule, or as far as the model can be trusted."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbrl_gym.horizon_error import errors_by_horizon
from mbrl_gym.model import WorldModel
from mbrl_gym.replay import SequenceReplay

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Experience:
    """What a rollout's length may depend on, before the model is fitted anew.

    Attributes:
        real_steps: taken so far.
        model: as it was fitted last; None before the first fit.
        replay: everything real.
        unseen: [n_envs] the step of each environment from which on the model has seen nothing.
    """

    real_steps: int
    model: WorldModel[Any] | None
    replay: SequenceReplay
    unseen: Array


class RolloutLength(ABC):
    """Decides how many steps imagined rollouts take until the next training."""

    @abstractmethod
    def steps(self, experience: Experience) -> int:
        """Return the number of imagined steps, at least 1."""


@dataclass(frozen=True)
class FixedLength(RolloutLength):
    """Always the same.

    Attributes:
        length: imagined steps.
    """

    length: int = 1

    def __post_init__(self) -> None:
        _check_at_least_one("length", self.length)

    def steps(self, experience: Experience) -> int:
        """Return ``length``."""
        return self.length


@dataclass(frozen=True)
class ScheduledLength(RolloutLength):
    """Grows linearly between two numbers of real steps.

    Source: Janner et al. 2019 (MBPO), appendix; jannerm/mbpo ``_set_rollout_length`` (its epochs are 1,000 steps).

    Attributes:
        begin: real steps up to which rollouts have ``first`` steps.
        end: real steps from which on they have ``last`` steps.
        first: imagined steps at the beginning.
        last: imagined steps at the end.
    """

    begin: int
    end: int
    first: int = 1
    last: int = 15

    def __post_init__(self) -> None:
        _check_at_least_one("first", self.first)
        _check_at_least_one("last", self.last)
        if not 0 <= self.begin < self.end:
            raise ValueError(f"begin must be at least 0 and below end = {self.end}, got {self.begin}")

    def steps(self, experience: Experience) -> int:
        """Return the length at this number of real steps, rounded down."""
        progress = (experience.real_steps - self.begin) / (self.end - self.begin)
        return int(self.first + min(max(progress, 0.0), 1.0) * (self.last - self.first))


@dataclass(frozen=True)
class AdaptiveLength(RolloutLength):
    """As long as the model predicted the newest real steps well, which it had not been fitted to yet.

    The error after k steps is that of `mbrl_gym.report.open_loop_error`, in standard deviations of the data.

    Attributes:
        bound: the largest error that is trusted.
        longest: imagined steps at most.
        windows: real segments to predict, at most; with less than a tenth of them a length is not trusted.
    """

    bound: float = 0.1
    longest: int = 20
    windows: int = 200

    def __post_init__(self) -> None:
        _check_at_least_one("longest", self.longest)
        _check_at_least_one("windows", self.windows)
        if not self.bound > 0:
            raise ValueError(f"bound must be positive, got {self.bound}")

    def steps(self, experience: Experience) -> int:
        """Return the largest k whose error, and that of every smaller k, is below the bound; 1 at least."""
        if experience.model is None:
            return 1
        least = max(1, self.windows // 10)
        errors = errors_by_horizon(
            experience.model, experience.replay, self.longest, self.windows, experience.unseen, least
        )
        trusted = next((k for k, error in enumerate(errors) if not error < self.bound), len(errors))
        return max(1, trusted)


LENGTHS: dict[str, type[Any]] = {"fixed": FixedLength, "scheduled": ScheduledLength, "adaptive": AdaptiveLength}


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
