"""ModelBasedAlgorithm: Stable-Baselines3's interface for agents that learn a model. One loop: collect, then train."""

import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import safe_mean

from mbrl_gym.agents.collect import RealEnv, normalizes_observations
from mbrl_gym.agents.owner import ModelOwner
from mbrl_gym.agents.randomness import isolated_randomness
from mbrl_gym.agents.storage import load_agent, load_running_moments, running_moments, save_agent

Self = TypeVar("Self", bound="ModelBasedAlgorithm")


class ModelBasedAlgorithm(ModelOwner):
    """What all agents share: real collection into a replay, the schedule, logs, progress, saving and resuming.

    ``num_timesteps`` counts REAL steps only; ``imagined_timesteps`` counts dreamt ones and is logged beside it. Every
    ``learn`` resets the real environments with a seed drawn from the run's own, so that saving, loading and learning on
    is bit-equal on CPU to learning on without a stop.

    A subclass supplies ``_setup_model``, ``_act`` and ``_train``, and names what it needs to resume.

    Its arguments are those of `ModelOwner`.
    """

    kind: ClassVar[str]
    # Called between the parts of a long training, where there are any. The agent can be saved then, and resuming goes
    # on with the next part; what it raises ends `learn`.
    on_part: Callable[[], None] | None = None

    # ---- what a subclass supplies -----------------------------------------------------------------------------------

    @abstractmethod
    def _act(self, obs: Any) -> Any:
        """Return exploring environment actions [n_envs, *act] for the observations of the real environments."""

    @abstractmethod
    def _train(self) -> None:
        """Learn from the replay: the model, then behaviour in it. Called when `train_freq` real steps have passed."""

    @classmethod
    @abstractmethod
    def _from_arguments(cls: type[Self], arguments: dict[str, Any], given: dict[str, Any]) -> Self:
        """Return an agent without environment, before `_setup_model`, from `_arguments` and what the caller gave."""

    @abstractmethod
    def _learned_state(self) -> dict[str, Any]:
        """Return what training changed beside model and trainer, nested plain data and tensors."""

    @abstractmethod
    def _load_learned_state(self, state: dict[str, Any]) -> None:
        """Take up what `_learned_state` returned."""

    @property
    @abstractmethod
    def imagined_timesteps(self) -> int:
        """Steps taken in the dream so far."""

    # ---- the real environment ---------------------------------------------------------------------------------------

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Replace the real environment; spaces and number of environments must be the same.

        Raises:
            ValueError: the spaces differ, or only one of the environments has its observations normalised.
        """
        self._check_normalization(env)
        super().set_env(env, force_reset)
        self._real = None
        self.real_id, self.time_limit = self._read_spec()
        self._normalized = normalizes_observations(self.env)
        if self._moments is not None and self._vec_normalize_env is not None:
            load_running_moments(self._vec_normalize_env, self._moments)
            self._moments = None
        self._on_new_env()

    def _check_normalization(self, env: GymEnv | None) -> None:
        """Raise where a trained policy would see other observations than it learned on."""
        if env is None or not self.trainings or normalizes_observations(env) == self._normalized:
            return
        rule = "a VecNormalize with norm_obs=True" if self._normalized else "without normalised observations"
        remedy = "wrap it in VecNormalize(env)" if self._normalized else "take the VecNormalize off, or norm_obs=False"
        raise ValueError(f"env must be {rule}, like the one the agent learned on, got {type(env).__name__}; {remedy}")

    def _wait_for_experience(self) -> None:
        """Put the next training off until the replay, left out of a checkpoint, holds enough to fit a model to."""
        missing = self.learning_starts - self.replay.n_transitions
        self._next_training = max(self._next_training, self.real_steps + missing)

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Take ``total_timesteps`` REAL steps, training as the schedule says; return the agent.

        Args:
            total_timesteps: real steps, over all environments.
            callback: SB3 callback(s), called at every real step.
            log_interval: trainings between two dumps of the log.
            tb_log_name: name of the run in the log folder.
            reset_num_timesteps: False counts on from the last call.
            progress_bar: show real steps, imagined steps, return and losses as it goes.
        """
        real = self._real_env()
        with isolated_randomness(self._draw_seed()):
            seed = self._seed_real(real)
            self._last_obs = None  # SB3's set-up then resets the environments
            name = tb_log_name or type(self).__name__
            # under SB3's names, which its callbacks look up in locals()
            total_timesteps, callbacks = self._setup_learn(total_timesteps, callback, reset_num_timesteps, name)
            real.begin(self._last_obs, self.replay)
            self._on_reset(seed)
            if progress_bar:
                self.progress.open(total_timesteps, self.num_timesteps)
            try:
                callbacks.on_training_start(locals(), globals())
                self._train_if_due(log_interval)
                while self.num_timesteps < total_timesteps and self._collect(real, callbacks, total_timesteps):
                    self._train_if_due(log_interval)
                callbacks.on_training_end()
            finally:
                self.progress.close()
        return self

    def _collect(self, real: RealEnv, callback: BaseCallback, total: int) -> bool:
        """Take real steps until the next training or the end; return whether to go on."""
        callback.on_rollout_start()
        self._on_rollout()
        while self.num_timesteps < total and self.real_steps < self._next_training:
            if self._last_obs is None:  # a callback took the environments: publish() resets them
                self._restart(real)
            obs = self._last_obs
            blind = self.real_steps < self.learning_starts and not self.trainings
            action = self._random_actions() if blind else self._act(obs)
            new_obs, rewards, dones, infos = real.step(action, self.replay)
            self._last_obs, self._last_episode_starts = new_obs, dones
            self.num_timesteps += self.n_envs
            self.real_steps += self.n_envs
            self._update_info_buffer(infos, dones)
            self._episode_num += int(dones.sum())
            self.progress.advance(self.n_envs)
            if self.ep_info_buffer and dones.any():
                self.progress.show(real_return=float(self.ep_info_buffer[-1]["r"]))
            started = time.process_time()
            self._after_step()
            self._training_seconds += time.process_time() - started
            callback.update_locals(locals())
            if not callback.on_step():
                return False
        callback.on_rollout_end()
        return True

    def _seed_real(self, real: RealEnv) -> int:
        """Seed the next reset and the random actions, those of a loaded agent's own copy of the space too."""
        seed = self._draw_seed()
        real.seed(seed)
        self.action_space.seed(seed)
        return seed

    def _restart(self, real: RealEnv) -> None:
        """Begin new episodes in all environments, in the middle of `learn`."""
        seed = self._seed_real(real)
        self._last_obs = real.env.reset()  # type: ignore[assignment]
        self._last_episode_starts = np.ones(self.n_envs, dtype=bool)
        real.begin(self._last_obs, self.replay)
        self._on_reset(seed)

    @property
    def training_due(self) -> bool:
        """Whether `learn` begins with a training, or with the rest of one that was stopped."""
        return self.real_steps >= self._next_training

    def _train_if_due(self, log_interval: int) -> None:
        if not self.training_due:
            return
        started = time.process_time()
        self._train()
        self.trainings += 1
        while self._next_training <= self.real_steps:
            self._next_training += self.train_freq
        seconds = self._training_seconds + time.process_time() - started
        self.logger.record("time/training_cpu_seconds", seconds)
        self._training_seconds = 0.0
        if log_interval and self.trainings % log_interval == 0:
            self.dump_logs()

    def _random_actions(self) -> Any:
        return np.stack([self.action_space.sample() for _ in range(self.n_envs)])

    def _on_reset(self, seed: int) -> None:
        """Forget what belongs to the episodes before (a recurrent policy's memory); seed what explores with `seed`."""

    def _on_rollout(self) -> None:
        """Draw what stays the same from one training to the next (the noise of gSDE)."""

    def _after_step(self) -> None:
        """Learn after a step of the real environments, where that is not left to `_train`."""

    def _on_new_env(self) -> None:
        """Follow a change of the real environment."""

    def dump_logs(self) -> None:
        """Write one row of the log: real and imagined steps, returns, rates, under SB3's names (docs/runs.md)."""
        elapsed = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        if self.ep_info_buffer:
            self.logger.record("rollout/ep_rew_mean", safe_mean([ep["r"] for ep in self.ep_info_buffer]))
            self.logger.record("rollout/ep_len_mean", safe_mean([ep["l"] for ep in self.ep_info_buffer]))
        if self.ep_success_buffer:
            self.logger.record("rollout/success_rate", safe_mean(self.ep_success_buffer))
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.record("time/imagined_timesteps", self.imagined_timesteps)
        self.logger.record("time/iterations", self.trainings, exclude="tensorboard")
        self.logger.record("time/episodes", self._episode_num, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    # ---- storing ----------------------------------------------------------------------------------------------------

    def save(  # type: ignore[override]
        self, path: str | Path, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None
    ) -> None:
        """Write a checkpoint directory that resuming needs nothing beside; an older one there is replaced safely.

        Args:
            path: the directory (an ending ".zip", which SB3's callbacks add, is dropped).
            exclude: ``["replay"]`` leaves the experience out; nothing else can be excluded.
            include: accepted for SB3's sake; everything that can be stored is.

        Raises:
            ValueError: ``exclude`` names something else.
            CheckpointError: the path is taken by something that is no checkpoint.
        """
        unknown = set(exclude or ()) - {"replay"}
        if unknown:
            raise ValueError(f"exclude may name 'replay', got {sorted(unknown)}")
        save_agent(self, path, with_replay=not exclude)

    @classmethod
    def load(  # type: ignore[override]
        cls: type[Self],
        path: str | Path,
        env: GymEnv | None = None,
        device: Any = "auto",
        **given: Any,
    ) -> Self:
        """Return the agent that `save` wrote; nothing is unpickled.

        Args:
            path: the checkpoint directory.
            env: the real environment, to learn on; without one the agent predicts.
            device: a torch device, or "auto".
            given: constructor arguments that a file cannot bring (an algorithm class of your own, functions), or that
                shall differ (``verbose``, ``tensorboard_log``).

        Raises:
            CheckpointError: there is no checkpoint, or it is corrupt, newer, or another agent's.
            ValueError: env does not fit.
        """
        return load_agent(cls, path, env, device, given)

    def _state(self) -> dict[str, Any]:
        """Return everything that changes while learning, nested plain data and tensors."""
        return {
            "counters": {
                name: getattr(self, name)
                for name in ("num_timesteps", "real_steps", "trainings", "_next_training", "_episode_num")
            },
            "rng": self._rng.bit_generator.state,
            "model": dict(self.model.state_dict()),
            "trainer": self.trainer.state_dict(),
            "episodes": [[float(ep["r"]), int(ep["l"])] for ep in self.ep_info_buffer or ()],
            "normalize": self._moments if self._vec_normalize_env is None else running_moments(self._vec_normalize_env),
            "normalized": self._normalized,
            "learned": self._learned_state(),
        }

    def _load_state(self, state: dict[str, Any]) -> None:
        for name, value in state["counters"].items():
            setattr(self, name, value)
        self._rng.bit_generator.state = state["rng"]
        self.model.load_state_dict(state["model"])
        self.trainer.load_state_dict(state["trainer"])
        self._start_info_buffer(state["episodes"])
        self._normalized = state["normalized"]
        self._moments = state["normalize"]
        if self._moments is not None and self._vec_normalize_env is not None:
            load_running_moments(self._vec_normalize_env, self._moments)
            self._moments = None
        self._load_learned_state(state["learned"])

    def _start_info_buffer(self, episodes: list[list[float]]) -> None:
        self.ep_info_buffer = deque(({"r": r, "l": n, "t": 0.0} for r, n in episodes), maxlen=self._stats_window_size)
        self.ep_success_buffer = deque(maxlen=self._stats_window_size)
