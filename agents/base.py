"""ModelBasedAlgorithm: Stable-Baselines3's interface for agents that learn a model. One loop: collect, then train."""

import math
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import safe_mean

from mbrl_gym.agents.collect import RealEnv, normalizes_observations
from mbrl_gym.agents.progress import Progress
from mbrl_gym.agents.randomness import isolated_randomness
from mbrl_gym.agents.storage import load_agent, load_running_moments, running_moments, save_agent
from mbrl_gym.envs.registry import publish
from mbrl_gym.fit import FitReport, ModelTrainer
from mbrl_gym.model import WorldModel
from mbrl_gym.replay import SequenceReplay, StartStates
from mbrl_gym.store import StoredModel, pick_device
from mbrl_gym.tensors import concatenate

Self = TypeVar("Self", bound="ModelBasedAlgorithm")


class ModelBasedAlgorithm(BaseAlgorithm):
    """What all agents share: real collection into a replay, the schedule, logs, progress, saving and resuming.

    ``num_timesteps`` counts REAL steps only; ``imagined_timesteps`` counts dreamt ones and is logged beside it. Every
    ``learn`` resets the real environments with a seed drawn from the run's own, so that saving, loading and learning on
    is bit-equal on CPU to learning on without a stop.

    A subclass supplies ``_setup_model``, ``_act`` and ``_train``, and names what it needs to resume.

    Args:
        policy: SB3's policy name or class.
        env: the real environment: an id, a Gymnasium Env or a VecEnv (also inside a VecNormalize).
        learning_starts: real steps of random actions before the first training.
        train_freq: real steps between two trainings.
        buffer_size: rows that the replay keeps.
        replay: experience to start from; its steps are not counted, and with at least ``learning_starts`` transitions
            in it the first training comes before the first real step.
        policy_kwargs: as in SB3.
        stats_window_size: episodes over which returns are averaged in the log.
        tensorboard_log: folder of TensorBoard logs.
        verbose: 1 prints the log table.
        seed: of everything; None draws one.
        device: a torch device, or "auto".

    Raises:
        ValueError: a number is out of its range, or a space is not supported.
    """

    kind: ClassVar[str]
    model: WorldModel[Any]
    trainer: ModelTrainer
    replay: SequenceReplay

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        *,
        learning_starts: int,
        train_freq: int,
        buffer_size: int,
        replay: SequenceReplay | None,
        policy_kwargs: dict[str, Any] | None,
        stats_window_size: int,
        tensorboard_log: str | None,
        verbose: int,
        seed: int | None,
        device: Any,
    ) -> None:
        for name, value in (
            ("learning_starts", learning_starts),
            ("train_freq", train_freq),
            ("buffer_size", buffer_size),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1 step, got {value}")
        if seed is not None and seed < 0:
            raise ValueError(f"seed must be at least 0, or None to draw one, got {seed}")
        self._policy_argument = policy
        self._real: RealEnv | None = None
        super().__init__(
            policy=BasePolicy,  # names are resolved by the subclass
            env=env,
            learning_rate=0.0,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=pick_device(device),
            support_multi_env=True,
            seed=None if seed is None else int(seed),
        )
        self.learning_starts = int(learning_starts)
        self.train_freq = int(train_freq)
        self.buffer_size = int(buffer_size)
        self._given_replay = replay
        self._rng = np.random.default_rng(self.seed)
        self.real_steps = 0  # over all calls of learn; num_timesteps restarts with reset_num_timesteps
        self.trainings = 0
        self._next_training = self.learning_starts
        self.real_id, self.time_limit = (None, None) if self.env is None else self._read_spec()
        self.progress = Progress()
        self._normalized = normalizes_observations(self.env)
        self._moments: dict[str, Any] | None = None  # of a VecNormalize, until the loaded agent gets one
        self.last_fit: FitReport | None = None

    # ---- what a subclass supplies -----------------------------------------------------------------------------------

    @abstractmethod
    def _act(self, obs: Any) -> Any:
        """Return exploring environment actions [n_envs, *act] for the observations of the real environments."""

    @abstractmethod
    def _train(self) -> None:
        """Learn from the replay: the model, then behaviour in it. Called when `train_freq` real steps have passed."""

    @abstractmethod
    def _arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON, without policy, env and what is local to a machine."""

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

    # ---- set-up -----------------------------------------------------------------------------------------------------

    def _setup_replay(self) -> None:
        if self._given_replay is None:
            self.replay = SequenceReplay(self.observation_space, self.action_space, self.buffer_size, self.n_envs)
            return
        given = self._given_replay
        if (given.observation_space, given.action_space) != (self.observation_space, self.action_space):
            raise ValueError(
                f"replay must have the environment's spaces {self.observation_space} and {self.action_space}, got "
                f"{given.observation_space} and {given.action_space}"
            )
        if given.n_envs != self.n_envs:
            raise ValueError(f"replay must hold {self.n_envs} environments as env does, got {given.n_envs}")
        self.replay = given
        self.buffer_size = given.capacity
        if given.n_transitions >= self.learning_starts:
            self._next_training = 0

    def _read_spec(self) -> tuple[str | None, int | None]:
        """Return the real environment's id and time limit, where it has them."""
        assert self.env is not None
        spec = next(iter(self.env.get_attr("spec", [0])), None) if self.env.has_attr("spec") else None
        return (None, None) if spec is None else (spec.id, spec.max_episode_steps)

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

    def _real_env(self) -> RealEnv:
        if self.env is None:
            raise ValueError("env is not set; give one to load(), or call set_env(env) before learn()")
        if self._real is None or self._real.env is not self.env:
            self._real = RealEnv(self.env)
        return self._real

    def set_random_seed(self, seed: int | None = None) -> None:
        """Start the run's own randomness anew from ``seed``; the global generators are left alone."""
        if seed is None:
            return
        self.seed = int(seed)
        self._rng = np.random.default_rng(self.seed)
        self.trainer.rng = np.random.default_rng(self._draw_seed())
        if not self.trainer.updates:  # afterwards what is held out has to stay held out
            self.trainer.seed = self._draw_seed()

    def _draw_seed(self) -> int:
        return int(self._rng.integers(2**31 - 1))

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

    def _train_if_due(self, log_interval: int) -> None:
        if self.real_steps < self._next_training:
            return
        started = time.process_time()
        self._train()
        self.trainings += 1
        while self._next_training <= self.real_steps:
            self._next_training += self.train_freq
        self.logger.record("time/training_cpu_seconds", time.process_time() - started)
        if log_interval and self.trainings % log_interval == 0:
            self.dump_logs()

    def _fit_model(self) -> None:
        """Fit the model to the replay, and log how it went."""
        started = time.process_time()
        report = self.last_fit = self.trainer.fit(self.replay, self._on_epoch)
        self.logger.record("model/cpu_seconds", time.process_time() - started)
        self.logger.record("model/epochs", report.epochs)
        self.logger.record("model/updates", self.trainer.updates)
        self.logger.record("model/loss", report.loss)
        for name, value in report.terms.items():
            self.logger.record(f"model/{name}", value)
        if report.holdout_error:
            error = float(np.mean(report.holdout_error))
            self.logger.record("model/holdout_error", error)
            self.progress.show(model_error=error)

    def _on_epoch(self, epoch: int, loss: float, error: Any) -> None:
        self.progress.show(model_loss=loss, epoch=epoch)

    def _random_actions(self) -> Any:
        return np.stack([self.action_space.sample() for _ in range(self.n_envs)])

    def _on_reset(self, seed: int) -> None:
        """Forget what belongs to the episodes before (a recurrent policy's memory); seed what explores with `seed`."""

    def _on_rollout(self) -> None:
        """Draw what stays the same from one training to the next (the noise of gSDE)."""

    def _on_new_env(self) -> None:
        """Follow a change of the real environment."""

    def dump_logs(self) -> None:
        """Write one row of the log: real and imagined steps, returns, rates."""
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
        self.logger.record("time/trainings", self.trainings)
        self.logger.dump(step=self.num_timesteps)

    # ---- handing the model on ---------------------------------------------------------------------------------------

    def stored_model(self, reset_states: int = 256, card: Mapping[str, Any] | None = None) -> StoredModel:
        """Return the model with start states, ready for `mbrl_gym.save_model` or a learned environment.

        Episodes of the learned environment begin where real episodes begin: in the replay's reset states, and in more
        from resets (no steps) of the real environment until there are ``reset_states``, where one observation is a
        belief.

        Args:
            reset_states: start states wanted.
            card: facts to store with the model, beside those that the agent knows.

        Raises:
            ValueError: nothing was collected yet.
        """
        if len(self.replay) == 0:
            raise ValueError("the agent has no experience yet, so its model has no start states; call learn() first")
        starts = self.replay.starts(self.model.context, kind="resets")
        missing = reset_states - len(starts)
        if missing > 0 and self.env is not None and self.model.context == 1:
            starts = concatenate([starts, self._fresh_resets(missing)])
        facts = {"agent": type(self).__name__, "real_steps": self.real_steps, "seed": self.seed, **(card or {})}
        return StoredModel(self.model, starts, self.real_id, self.time_limit or 1000, facts)

    def publish(self, env_id: str, reset_states: int = 256, card: Mapping[str, Any] | None = None) -> Path:
        """Make ``gym.make(env_id)`` work in this and every later process of this machine; return the model's folder.

        Args:
            env_id: "Learned-" and a name of your choice.
            reset_states: see `stored_model`.
            card: see `stored_model`.
        """
        return publish(self.stored_model(reset_states, card), env_id)

    def _fresh_resets(self, count: int) -> StartStates:
        raw = self._real_env().raw
        raw.seed(0 if self.seed is None else self.seed)
        scratch = SequenceReplay(self.observation_space, self.action_space, count + 2 * self.n_envs, self.n_envs)
        for _ in range(math.ceil(count / self.n_envs)):
            scratch.begin(raw.reset())
        self._last_obs = None  # what was under way is cut; the next learn resets anyway
        return scratch.starts(1, kind="resets")[:count]

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
