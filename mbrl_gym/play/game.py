"""Game: what is played, shared by all who play it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from mbrl_gym.envs.single import LearnedEnv
from mbrl_gym.envs.view import FrameStack
from mbrl_gym.play.keys import KeyMap, make_key_map
from mbrl_gym.play.reality import NoRealityError, Reality, make_real
from mbrl_gym.store import StoredModel

# SB3's signature: (observation, memory, episode_start, deterministic) -> (action, memory).
Predict = Callable[..., tuple[Any, Any]]


@dataclass
class Game:
    """What is played: all that sessions share.

    Attributes:
        stored: the model.
        name: what it is called.
        real: makes the real environment, of the model's spaces; None: the dream alone.
        no_real: why there is none.
        policy: an SB3 algorithm's or agent's ``predict``, which can play too; it sees the dream.
        policy_name: what it is called.
        record: the folder that recordings go into; None: nothing is recorded.
        fps: steps a second at the beginning.
    """

    stored: StoredModel
    name: str = "the dream"
    real: Callable[[], gym.Env[Any, Any]] | None = None
    no_real: str = "it was not asked for"
    policy: Predict | None = None
    policy_name: str = ""
    record: Path | None = None
    fps: int = 15
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def of(cls, stored: StoredModel, name: str, with_real: bool = True, **options: Any) -> "Game":
        """Return the game of a stored model, beside the real environment where it can be made."""
        if not with_real:
            return cls(stored, name, **options)
        try:
            make_real(stored).close()
        except NoRealityError as error:
            return cls(stored, name, no_real=str(error), **options)
        return cls(stored, name, real=lambda: make_real(stored), **options)

    @cached_property
    def keys(self) -> KeyMap:
        """Which keys mean which action."""
        real = None if self.real is None else self.real()
        found = make_key_map(self.stored.model.action_space, self.stored.real_id, real, self.stored.card.get("keys"))
        if real is not None:
            real.close()
        return found

    def dream(self) -> LearnedEnv:
        """Return a new dream that draws itself."""
        stored = self.stored
        view = None if stored.view is None else FrameStack(**stored.view)
        return LearnedEnv(stored.model, stored.starts, stored.horizon, "rgb_array", stored.real_id, view)

    def reality(self, seed: int | None = None) -> Reality | None:
        """Return a new reality, None where there is none."""
        if self.real is None:
            return None
        return Reality(self.real(), self.stored.real_id, self.stored.model.context, seed)

    def act(self, obs: Any, memory: Any, begins: bool) -> tuple[Any, Any]:
        """Return the policy's action and memory; sessions take turns, since a planner keeps state while it thinks."""
        assert self.policy is not None
        with self._turn:
            return self.policy(obs, memory, np.array([begins]), True)
