"""ModelOwner: an SB3 algorithm's model side: what is learned of which environment, fitted, and handed on."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from mbrl_gym._ring import NoRoomError
from mbrl_gym._rows import ExtraColumns
from mbrl_gym.agents.collect import RealEnv, normalizes_observations
from mbrl_gym.agents.imports import decode, encode
from mbrl_gym.agents.progress import Progress
from mbrl_gym.checkpoint import CheckpointError
from mbrl_gym.envs.registry import publish
from mbrl_gym.fit import FitReport, ModelTrainer, TrainerConfig
from mbrl_gym.model import WorldModel
from mbrl_gym.models.ensemble import Ensemble
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.start_states import StartStates
from mbrl_gym.store import MODELS, WRAPPERS, StoredModel, find_class, pick_device, wrapper_name
from mbrl_gym.tasks import TaskFunction
from mbrl_gym.tensors import concatenate
from mbrl_gym.wrappers.known import KnownReward, KnownTermination
from mbrl_gym.wrappers.model_wrapper import ModelWrapper

Wrappers = Sequence[tuple[type[ModelWrapper[Any]], Mapping[str, Any]]]


class ModelOwner(BaseAlgorithm):
    """What all agents have of a model: its recipe, its trainer and data, its environment, and how it is published.

    Args:
        policy: SB3's policy name or class.
        env: the real environment: an id, a Gymnasium Env or a VecEnv (also inside a VecNormalize).
        model_class: the class of the model.
        model_config: its hyperparameters; None: the class's defaults.
        trainer_config: how it is fitted; None: the defaults.
        reward: "learned", "known" (`mbrl_gym.tasks.known_reward` of the environment's id), another name of it, or a
            function of (observations, actions, next observations), torch tensors [B, ...].
        termination: the same for the end of episodes.
        wrappers: model wrappers against model error with their arguments, from the inside out, as in
            ``[(UncertaintyPenalty, {"coefficient": 1.0})]``. What is known goes around those that change how the model
            is sampled and inside of the others.
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
        MemoryError: so many rows would not fit into the memory.
    """

    model: WorldModel[Any]
    trainer: ModelTrainer
    replay: SequenceReplay

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        *,
        model_class: type[WorldModel[Any]],
        model_config: Any,
        trainer_config: TrainerConfig | None,
        reward: str | TaskFunction,
        termination: str | TaskFunction,
        wrappers: Wrappers,
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
        self._training_seconds = 0.0  # CPU time since the last entry of the log that learning between trainings took
        self.model_class = model_class
        self.model_config = model_config
        self.trainer_config = trainer_config or TrainerConfig()
        self.reward = self._known("reward", reward)
        self.termination = self._known("termination", termination)
        self.wrappers = [(wrapper, dict(arguments)) for wrapper, arguments in wrappers]

    # ---- set-up -----------------------------------------------------------------------------------------------------

    def _known(self, name: str, what: str | TaskFunction) -> str | TaskFunction:
        """Return ``what``, with the environment's id for "known"."""
        if not isinstance(what, str) or what != "known":
            return what
        if self.real_id is None:
            raise ValueError(
                f"{name} must be the name of a task or a function where env has no id, got 'known'; "
                f"name the task, as in {name}='Pendulum-v1'"
            )
        return self.real_id

    def _setup_trainer(self) -> None:
        """Make the model, its trainer and its replay; inside isolated randomness."""
        self.model = self._make_model().to(self.device)
        self.trainer = ModelTrainer(self.model, self.trainer_config, seed=self._draw_seed())
        self._setup_replay()

    def _make_model(self) -> WorldModel[Any]:
        """Return the untrained model, with what is known and the wrappers around it."""
        model = self.model_class(self.observation_space, self.action_space, self._model_config())
        for wrapper, arguments in self.wrappers:
            if wrapper.innermost:
                model = wrapper(model, **arguments)
        if self.termination != "learned":
            model = KnownTermination(model, self.termination)
        if self.reward != "learned":
            model = KnownReward(model, self.reward)
        for wrapper, arguments in self.wrappers:
            if not wrapper.innermost:
                model = wrapper(model, **arguments)
        return model

    def _model_config(self) -> Any:
        """Return the model's hyperparameters; where it can, it does not learn what is known."""
        config = self.model_class.config_class() if self.model_config is None else self.model_config
        names = {field.name for field in fields(config)}
        known = {"learn_reward": self.reward != "learned", "learn_termination": self.termination != "learned"}
        return replace(config, **{name: False for name, is_known in known.items() if is_known and name in names})

    def _setup_replay(self) -> None:
        if self._given_replay is None:
            self.replay = self._empty_replay()
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

    def _empty_replay(self) -> SequenceReplay:
        extras = self._replay_extras()
        try:
            return SequenceReplay(
                self.observation_space,
                self.action_space,
                self.buffer_size,
                self.n_envs,
                extras=extras,
                extras_device=self._extras_device(),
            )
        except NoRoomError as error:
            own = "" if extras else ", or give replay=SequenceReplay(..., directory=...) to use the disk"
            raise MemoryError(
                f"buffer_size must be so many rows as fit into the memory, got {self.buffer_size}: {error.facts}; "
                f"choose a smaller one{own}"
            ) from error

    def _replay_extras(self) -> ExtraColumns | None:
        """Return the columns that the replay holds beside experience."""
        return None

    def _extras_device(self) -> torch.device | None:
        """Return the device that these columns live on; None: where experience does."""
        return None

    def _read_spec(self) -> tuple[str | None, int | None]:
        """Return the real environment's id and time limit, where it has them."""
        assert self.env is not None
        spec = next(iter(self.env.get_attr("spec", [0])), None) if self.env.has_attr("spec") else None
        return (None, None) if spec is None else (spec.id, spec.max_episode_steps)

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
        self._seed_training()

    def _seed_training(self) -> None:
        """Start the randomness of training anew, from `_draw_seed`."""
        self.trainer.rng = np.random.default_rng(self._draw_seed())
        if not self.trainer.updates:  # afterwards what is held out has to stay held out
            self.trainer.seed = self._draw_seed()

    def _draw_seed(self) -> int:
        return int(self._rng.integers(2**31 - 1))

    # ---- fitting ----------------------------------------------------------------------------------------------------

    def _fit_model(self) -> None:
        """Fit the model to the replay, and log how it went."""
        started = time.process_time()
        report = self.last_fit = self._fit()
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

    def _fit(self) -> FitReport:
        return self.trainer.fit(self.replay, self._on_epoch)

    def _on_epoch(self, epoch: int, loss: float, error: Any) -> None:
        self.progress.show(model_loss=loss, epoch=epoch)

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

    # ---- the constructor's arguments in a checkpoint ----------------------------------------------------------------

    def _arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON, without policy, env and what is local to a machine."""
        paths = {path: name for name, path in MODELS.items()}
        path = f"{self.model_class.__module__}:{self.model_class.__qualname__}"
        names = [(wrapper_name(wrapper), encode(arguments)) for wrapper, arguments in self.wrappers]
        return {
            "model_class": paths.get(path),
            "model_config": None if self.model_config is None else asdict(self.model_config),
            "trainer_config": asdict(self.trainer_config),
            "reward": self.reward if isinstance(self.reward, str) else None,
            "termination": self.termination if isinstance(self.termination, str) else None,
            "wrappers": None if any(name is None for name, _ in names) else [list(pair) for pair in names],
            "learning_starts": self.learning_starts,
            "train_freq": self.train_freq,
            "buffer_size": self.buffer_size,
            "stats_window_size": self._stats_window_size,
            "seed": self.seed,
        }

    @classmethod
    def _decoded(cls, arguments: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Return the constructor's arguments from what `_arguments` returned and what the caller gave.

        Raises:
            CheckpointError: an argument is one that a file cannot hold, and was not given.
        """
        found = {**arguments, **given}
        for name in ("reward", "termination", "wrappers", "model_class"):
            if name in found and found[name] is None:
                what = "a function" if name in ("reward", "termination") else "a class that is not the library's"
                raise CheckpointError(f"{name} was {what}, which a file cannot hold; pass {name}= to load()")
        if "model_class" in found and "model_class" not in given:
            found["model_class"] = find_class(MODELS[found["model_class"]])
        if "model_config" not in given and found["model_config"] is not None:
            found["model_config"] = found.get("model_class", Ensemble).config_class(**found["model_config"])
        if "trainer_config" not in given:
            found["trainer_config"] = TrainerConfig(**found["trainer_config"])
        if "wrappers" not in given:
            pairs = [(find_class(WRAPPERS[name]), decode(data, "wrappers")) for name, data in found["wrappers"]]
            found["wrappers"] = pairs
        return found


def id_of(env: Any) -> str | None:
    """Return the id of what the caller gave as env, where it has one."""
    if isinstance(env, str):
        return env.rpartition(":")[2]  # without the module that registers it
    spec = getattr(env, "spec", None)
    if spec is None and hasattr(env, "get_attr"):
        spec = next(iter(env.get_attr("spec", [0])), None) if env.has_attr("spec") else None
    return None if spec is None else str(spec.id)
