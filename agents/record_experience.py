"""RecordExperience: an SB3 callback that keeps what an algorithm's training environment goes through."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from mbrl_gym.agents.collect import add_step
from mbrl_gym.data import save_experience
from mbrl_gym.replay import SequenceReplay


class RecordExperience(BaseCallback):
    """Records every step of the training environment of any SB3 algorithm.

    Kept are raw values: below a VecNormalize, with actions as the environment got them (clipped, say), and with the
    last observation of each episode. A step that SB3 reports as ended by a time limit is truncated, any other end is
    terminated. SB3 says no more than that: where both flags came at once, it reports the end alone.

    A ``learn`` that goes on (``reset_num_timesteps=False``) goes on in the open episode. As SB3 itself, it takes it
    that nobody else has moved the environment meanwhile.

    Args:
        target: a replay (made for the environment's spaces and number), or a directory, into which
            `mbrl_gym.data.save_experience` writes when ``learn`` ends.
        capacity: rows that are kept for a directory, an episode of L steps taking L + 1; the newest stay.
        verbose: as in SB3.

    Attributes:
        replay: the experience; None for a directory before the first ``learn``.

    Raises:
        ValueError: when learning begins: the replay is for other spaces or another number of environments.
    """

    def __init__(
        self, target: SequenceReplay | str | os.PathLike[str], capacity: int = 1_000_000, verbose: int = 0
    ) -> None:
        super().__init__(verbose)
        self.replay = target if isinstance(target, SequenceReplay) else None
        self.path = None if isinstance(target, SequenceReplay) else Path(target)
        self.capacity = capacity
        self._tap: _Tap | None = None
        self._seen: VecEnv | None = None  # what the newest rows are of

    def _on_training_start(self) -> None:
        self._stop()  # of a learn() that failed
        normalize = unwrap_vec_normalize(self.training_env)
        venv = self.training_env if normalize is None else normalize.venv
        obs = self.model._last_obs if normalize is None else normalize.get_original_obs()
        if self.replay is None:
            self.replay = SequenceReplay(venv.observation_space, venv.action_space, self.capacity, venv.num_envs)
        _check(self.replay, venv)
        goes_on = not self.locals.get("reset_num_timesteps", True) and self._seen is venv
        if not (goes_on and _is_newest(self.replay, obs)):
            self.replay.begin(obs)
        self._tap, self._seen = _Tap.of(venv), venv
        self._tap.open(self.replay)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._stop()
        if self.path is not None and self.replay is not None:
            save_experience(self.path, self.replay, self._facts())

    def _stop(self) -> None:
        if self._tap is not None and self.replay is not None:
            self._tap.close(self.replay)
        self._tap = None

    def _facts(self) -> dict[str, Any]:
        env = self.training_env
        spec = next(iter(env.get_attr("spec", [0])), None) if env.has_attr("spec") else None
        found = {} if spec is None else {"real_id": spec.id, "time_limit": spec.max_episode_steps}
        return {**found, "recorded_from": type(self.model).__name__}


class _Tap:
    """Lets the resets and steps of one VecEnv go into replays, as long as there are any.

    The object itself is changed, for the length of a ``learn``: a wrapper would come too late for an algorithm that has
    its environment, and SB3's EvalCallback wants training and evaluation environment wrapped alike.
    """

    def __init__(self, venv: VecEnv) -> None:
        self._venv = venv
        self._replays: list[SequenceReplay] = []
        self._methods = venv.reset, venv.step_async, venv.step_wait
        self._action: Any = None

    @classmethod
    def of(cls, venv: VecEnv) -> "_Tap":
        """Return the one tap of ``venv``."""
        found: _Tap = vars(venv).get("_tap") or cls(venv)
        return found

    def open(self, replay: SequenceReplay) -> None:
        """Begin to record into ``replay``."""
        self._replays.append(replay)
        own = {"reset": self._reset, "step_async": self._step_async, "step_wait": self._step_wait}
        vars(self._venv).update(_tap=self, **own)

    def close(self, replay: SequenceReplay) -> None:
        """End it; the last one makes the environment what it was."""
        self._replays = [other for other in self._replays if other is not replay]
        if not self._replays:
            for name in ("_tap", "reset", "step_async", "step_wait"):
                vars(self._venv).pop(name, None)

    def _reset(self) -> Any:
        obs = self._methods[0]()
        for replay in self._replays:
            replay.begin(obs)
        return obs

    def _step_async(self, actions: Any) -> None:
        self._action = actions
        self._methods[1](actions)

    def _step_wait(self) -> Any:
        result = self._methods[2]()
        for replay in self._replays:
            add_step(replay, self._action, result)
        return result


def _check(replay: SequenceReplay, venv: VecEnv) -> None:
    if (replay.observation_space, replay.action_space) != (venv.observation_space, venv.action_space):
        raise ValueError(
            f"target must be a replay of the environment's spaces {venv.observation_space} and {venv.action_space}, "
            f"got {replay.observation_space} and {replay.action_space}"
        )
    if replay.n_envs != venv.num_envs:
        raise ValueError(f"target must be a replay of {venv.num_envs} environments as env is, got {replay.n_envs}")


def _is_newest(replay: SequenceReplay, obs: Any) -> bool:
    """Return whether ``obs`` [n_envs, *obs] is what the newest rows hold."""
    rows = replay.gather(replay.newest_rows(), 1).obs
    if isinstance(rows, dict):
        return all(_equal(rows[key][:, 0].numpy(), obs[key]) for key in rows)
    return _equal(rows[:, 0].numpy(), obs)


def _equal(kept: Any, seen: Any) -> bool:
    return bool(np.array_equal(kept, np.asarray(seen).astype(kept.dtype)))
