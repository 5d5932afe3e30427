"""Real experience from an SB3 VecEnv into a `SequenceReplay`: raw values, every episode's last observation included."""

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, unwrap_vec_normalize

from mbrl_gym.replay import SequenceReplay


class RawRecorder(VecEnvWrapper):
    """Sits under a VecNormalize during a step and keeps what the environment really returned."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.last: tuple[Any, Any, Any, list[dict[str, Any]]] | None = None

    def reset(self) -> Any:
        """Reset the environments."""
        return self.venv.reset()

    def step_wait(self) -> Any:
        """Step the environments; infos are copied, for VecNormalize replaces their terminal observations."""
        obs, reward, done, infos = self.venv.step_wait()
        self.last = (obs, reward, done, [dict(info) for info in infos] if done.any() else infos)
        return obs, reward, done, infos


def normalizes_observations(env: Any) -> bool:
    """Return whether a policy sees other observations than ``env`` makes: there is a VecNormalize of them."""
    normalize = unwrap_vec_normalize(env) if isinstance(env, VecEnv) else None
    return normalize is not None and normalize.norm_obs


def add_step(replay: SequenceReplay, action: Any, result: tuple[Any, Any, Any, list[dict[str, Any]]]) -> None:
    """Add to ``replay`` the ``result`` of a VecEnv's step for ``action`` [n_envs, *action].

    Raises:
        ValueError: a value is NaN or infinite; nothing was stored.
    """
    obs, reward, dones, infos = result
    done = np.asarray(dones, dtype=bool)
    truncated = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos]) & done
    final = [infos[i]["terminal_observation"] if done[i] else None for i in range(len(done))] if done.any() else None
    replay.add(action, obs, reward, done & ~truncated, truncated, final)


class RealEnv:
    """The real environment for the collector: policies read its (perhaps normalised) observations, the replay raw ones.

    Args:
        env: the algorithm's VecEnv; a VecNormalize has to be outermost.

    Raises:
        ValueError: a VecNormalize is buried under another wrapper.
    """

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        self.normalize: VecNormalize | None = unwrap_vec_normalize(env)
        self._recorder: RawRecorder | None = None
        if self.normalize is not None:
            if self.normalize is not env:
                raise ValueError(
                    f"VecNormalize must be the outermost wrapper of env, got {type(env).__name__} around it; "
                    "put the other wrappers inside it"
                )
            self._recorder = RawRecorder(self.normalize.venv)

    @property
    def raw(self) -> VecEnv:
        """The environment below any normalisation."""
        return self.env if self.normalize is None else self.normalize.venv

    def seed(self, seed: int) -> None:
        """Seed the next reset of the environments and the actions that their space samples."""
        self.env.seed(seed)
        self.env.action_space.seed(seed)

    def begin(self, obs: Any, replay: SequenceReplay) -> None:
        """Store that episodes began with ``obs``, what reset() returned."""
        replay.begin(obs if self.normalize is None else self.normalize.get_original_obs())

    def step(self, action: Any, replay: SequenceReplay) -> tuple[Any, Any, Any, list[dict[str, Any]]]:
        """Take one real step in every environment, store it, and return SB3's (obs, reward, done, infos).

        Raises:
            ValueError: the environment returned NaN or infinity; nothing was stored.
        """
        result = self._step(action)
        add_step(replay, action, result if self._recorder is None else self._recorder.last or result)
        return result

    def _step(self, action: Any) -> tuple[Any, Any, Any, list[dict[str, Any]]]:
        if self.normalize is None or self._recorder is None:
            return self.env.step(action)
        # In place for the step only: SB3's EvalCallback wants training and evaluation environment wrapped alike.
        self._recorder.venv, self.normalize.venv = self.normalize.venv, self._recorder
        try:
            return self.env.step(action)
        finally:
            self.normalize.venv = self._recorder.venv
