"""Dyna: any Stable-Baselines3 algorithm inside a model that is learned along the way."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from mbrl_gym.agents.base import ModelBasedAlgorithm
from mbrl_gym.agents.branched import Branched, BranchedRollouts
from mbrl_gym.agents.dart import DARTExplorer, DARTNoise
from mbrl_gym.agents.dream_strategy import DreamStrategy
from mbrl_gym.agents.imports import decode, decode_choice, encode, encode_choice
from mbrl_gym.agents.inner import (
    add_noise,
    algorithm_state,
    dream_defaults,
    load_algorithm_state,
    plain_attributes,
    real_noise,
)
from mbrl_gym.agents.owner import Wrappers
from mbrl_gym.agents.randomness import isolated_randomness
from mbrl_gym.agents.start_choice import STARTS, StartChoice, UniformStarts
from mbrl_gym.agents.whole_episodes import WholeEpisodes
from mbrl_gym.envs.vector import LearnedVectorEnv
from mbrl_gym.envs.view import View
from mbrl_gym.fit import TrainerConfig
from mbrl_gym.model import WorldModel
from mbrl_gym.models.ensemble import Ensemble
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.start_states import StartStates
from mbrl_gym.tasks import TaskFunction
from mbrl_gym.wrappers.sb3 import SB3VecEnv


class Dyna(ModelBasedAlgorithm):
    """Collect real steps, fit the model to all of them, train ``algorithm`` in the model, and again.

    Dreams start from real states of the replay. On-policy algorithms (PPO, A2C, TRPO, RecurrentPPO, ...) train in whole
    episodes of ``dream_horizon`` steps, which end as truncated; off-policy ones (SAC, TD3, DDPG, DQN, TQC, ...) learn
    after every real step from a mixture of short rollouts and reality (`mbrl_gym.agents.branched`). Source of the idea:
    Sutton 1991 (Dyna); of whole imagined episodes in an ensemble: Kurutach et al. 2018 (ME-TRPO); of branched rollouts:
    Janner et al. 2019 (MBPO).

    Args:
        policy: the inner algorithm's policy: "MlpPolicy", "MultiInputPolicy", ... or a class.
        env: the real environment (id, Gymnasium Env or VecEnv).
        algorithm: an SB3 or sb3-contrib algorithm class, or your own.
        algorithm_kwargs: its arguments beside policy and env; they win over `mbrl_gym.agents.inner.dream_defaults`.
        model_class: the class of the model.
        model_config: its hyperparameters; None: the class's defaults.
        trainer_config: how the model is fitted.
        reward: "learned", "known", or whose it is (`mbrl_gym.agents.owner.ModelOwner`).
        termination: the same for the end of episodes.
        wrappers: against model error (`mbrl_gym.agents.owner.ModelOwner`).
        learning_starts: real steps of random actions before the first training.
        train_freq: real steps between trainings of the model; None: 1000, and 250 for off-policy algorithms.
        dream_steps: on-policy: imagined steps of each training; None: 120,000.
        dream_envs: on-policy: dream environments that step together; None: 64.
        dream_horizon: on-policy: imagined steps an episode; None: 50.
        normalize_reward: divide dreamt rewards by the deviation of the real discounted returns, as SB3's VecNormalize
            does, before the inner algorithm sees them; returns are logged as they are. On-policy only.
        rollouts: off-policy: how it dreams; None: `BranchedRollouts` as it is.
        starts: which real states dreams start from (`mbrl_gym.agents.start_choice`); None: all alike.
        exploration: noise on the real actions beside the algorithm's own (`mbrl_gym.agents.dart`); None: none.
        buffer_size: rows that the replay keeps.
        replay: experience to start from.
        policy_kwargs: the policy's arguments.
        stats_window_size: episodes over which returns are averaged in the log.
        tensorboard_log: folder of TensorBoard logs.
        verbose: 1 prints the log table.
        seed: of everything.
        device: a torch device, or "auto".

    Raises:
        ValueError: an argument is out of its range, or the model or the algorithm does not support a space.
    """

    kind = "dyna"

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        algorithm: type[BaseAlgorithm] = PPO,
        algorithm_kwargs: dict[str, Any] | None = None,
        model_class: type[WorldModel[Any]] = Ensemble,
        model_config: Any = None,
        trainer_config: TrainerConfig | None = None,
        reward: str | TaskFunction = "learned",
        termination: str | TaskFunction = "learned",
        wrappers: Wrappers = (),
        learning_starts: int = 1000,
        train_freq: int | None = None,
        dream_steps: int | None = None,
        dream_envs: int | None = None,
        dream_horizon: int | None = None,
        normalize_reward: bool = True,
        rollouts: BranchedRollouts | None = None,
        starts: StartChoice | None = None,
        exploration: DARTNoise | None = None,
        buffer_size: int = 100_000,
        replay: SequenceReplay | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: Any = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        dreams = {"dream_steps": dream_steps, "dream_envs": dream_envs, "dream_horizon": dream_horizon}
        _check_algorithm(algorithm, algorithm_kwargs or {})
        _check_dreams(algorithm, dreams, rollouts)
        off_policy = issubclass(algorithm, OffPolicyAlgorithm)
        super().__init__(
            policy,
            env,
            model_class=model_class,
            model_config=model_config,
            trainer_config=trainer_config,
            reward=reward,
            termination=termination,
            wrappers=wrappers,
            learning_starts=learning_starts,
            train_freq=(250 if off_policy else 1000) if train_freq is None else train_freq,
            buffer_size=buffer_size,
            replay=replay,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
        )
        self.algorithm_class = algorithm
        self.algorithm_kwargs = dict(algorithm_kwargs or {})
        self.rollouts = (rollouts or BranchedRollouts()) if off_policy else None
        self.starts = starts or UniformStarts()
        self.exploration = exploration
        self.dream_steps = int(dream_steps or 120_000)
        self.dream_envs = 1 if off_policy else int(dream_envs or 64)
        self.dream_horizon = int(dream_horizon or 50)
        self.dream_starts: int | None = None  # how many real states are drawn for each training; None: all
        self.normalize_reward = bool(normalize_reward)
        self._memory: Any = None  # a recurrent policy's, of the real episodes under way
        self._noise: VectorizedActionNoise | None = None  # where the algorithm explores by noise: in reality too
        if _init_setup_model:
            self._setup_model()

    # ---- set-up -----------------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        with isolated_randomness(self._draw_seed()):
            self._setup_trainer()
            self.dream = LearnedVectorEnv(
                self.model, self._blank_starts(), self.dream_envs, self.dream_horizon, view=self._view()
            )
            self.algorithm = self._make_algorithm()
            self.strategy: DreamStrategy = (
                WholeEpisodes(self) if self.rollouts is None else Branched(self, self.rollouts)
            )
            self.strategy.bind()
            self._explorer = None if self.exploration is None else DARTExplorer(self, self.exploration)
        self.policy = self.algorithm.policy

    def _view(self) -> View | None:
        """Return what the dream shows of beliefs; None: what the model predicts."""
        return None

    def _blank_starts(self) -> StartStates:
        """Return a stand-in until there is experience: the algorithm needs an environment to be built with."""
        space = copy.deepcopy(self.observation_space)  # sampling must not touch the caller's space
        space.seed(0)
        replay = SequenceReplay(space, self.action_space, 2 * self.model.context + 2)
        sample = cast(Any, space.sample())
        batch = {k: v[None] for k, v in sample.items()} if isinstance(sample, dict) else np.asarray(sample)[None]
        replay.begin(batch)
        for _ in range(self.model.context - 1):
            no = np.zeros(1)
            replay.add(np.asarray(self.action_space.sample())[None], batch, no, no.astype(bool), no.astype(bool))
        return replay.starts(self.model.context)

    def _dream_env(self) -> VecEnv:
        """Return the dream as the algorithm sees it: normalised as reality is."""
        real = self._vec_normalize_env
        if real is None:
            return self._sb3_env
        return VecNormalize(
            self._sb3_env,
            training=False,
            norm_obs=real.norm_obs,
            norm_reward=real.norm_reward,
            clip_obs=real.clip_obs,
            clip_reward=real.clip_reward,
            gamma=real.gamma,
            epsilon=real.epsilon,
            norm_obs_keys=real.norm_obs_keys,
        )

    def _make_algorithm(self) -> BaseAlgorithm:
        self._sb3_env = SB3VecEnv(self.dream)
        kwargs: dict[str, Any] = {**dream_defaults(self.algorithm_class), **self.algorithm_kwargs}
        if self.policy_kwargs:
            kwargs["policy_kwargs"] = self.policy_kwargs
        if kwargs.get("policy_kwargs"):
            kwargs["policy_kwargs"] = dict(kwargs["policy_kwargs"])  # SB3 writes into it
        make = cast(Callable[..., BaseAlgorithm], self.algorithm_class)
        algorithm = make(self._policy_argument, self._dream_env(), device=self.device, **kwargs)
        self._as_made = plain_attributes(algorithm)
        algorithm.set_logger(Logger(folder=None, output_formats=[]))  # its numbers are read, not printed
        return algorithm

    def _on_new_env(self) -> None:
        if hasattr(self, "algorithm"):  # not while an agent is being loaded
            self.algorithm.set_env(self._dream_env())
            self.strategy.bind()

    # ---- behaviour --------------------------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray[Any, Any], ...] | None = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, Any], tuple[np.ndarray[Any, Any], ...] | None]:
        """Return the inner policy's actions and memory for real (or dreamt) observations, as SB3's predict does."""
        return self.algorithm.predict(observation, state, episode_start, deterministic)

    def _act(self, obs: Any) -> Any:
        action, self._memory = self.predict(obs, self._memory, self._last_episode_starts)
        if self._explorer is not None:
            action = self._explorer.disturb(action)
        if self._noise is None:
            return action
        assert self._last_episode_starts is not None
        self._noise.reset(np.flatnonzero(self._last_episode_starts).tolist())
        return add_noise(self.algorithm, action, self._noise)

    def _on_reset(self, seed: int) -> None:
        self._memory = None
        self._noise = real_noise(self.algorithm, self.n_envs)
        if self._explorer is not None:
            self._explorer.seed(seed)
        self.algorithm.action_space.seed(seed)  # DQN explores by samples of it

    def _on_rollout(self) -> None:
        if self.algorithm.use_sde:
            self.policy.reset_noise(self.n_envs)  # type: ignore[operator]

    @property
    def imagined_timesteps(self) -> int:
        """Imagined steps so far."""
        return self.strategy.imagined_steps

    # ---- training ---------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        self.strategy.before_fit()
        self._fit_model()
        self.strategy.after_fit()
        if self._explorer is not None:
            self._explorer.follow()

    def _after_step(self) -> None:
        if self.trainings:
            self.strategy.after_step()

    def _log_algorithm(self) -> None:
        """Log what the inner algorithm logged of its training, which SB3 keeps from the same outputs."""
        inner = self.algorithm.logger
        for name, value in inner.name_to_value.items():
            if name.startswith("train/"):
                self.logger.record(name, value, exclude=inner.name_to_excluded[name])

    # ---- storing ----------------------------------------------------------------------------------------------------

    def export_sb3(self, path: str | Path) -> None:
        """Write the inner algorithm as a stock SB3 zip, which its own ``load(path)`` reads (SB3 pickles; we do not)."""
        self.algorithm.save(path)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, variables = self.algorithm._get_torch_save_params()
        return (
            ["model", "trainer.optimizer", *(f"algorithm.{name}" for name in names)],
            [f"algorithm.{name}" for name in variables],
        )

    def _arguments(self) -> dict[str, Any]:
        dreams = ("dream_steps", "dream_envs", "dream_horizon")
        return {
            **super()._arguments(),
            **{name: getattr(self, name) if self.rollouts is None else None for name in dreams},
            "normalize_reward": self.normalize_reward,
            "rollouts": None if self.rollouts is None else self.rollouts.to_json(),
            "starts": encode_choice(STARTS, self.starts),
            "exploration": None if self.exploration is None else asdict(self.exploration),
            **{name: encode(value) for name, value in self._inner_arguments().items()},
        }

    def _inner_arguments(self) -> dict[str, Any]:
        """Return the inner algorithm's part of the arguments, which may name classes."""
        return {
            "algorithm": self.algorithm_class,
            "algorithm_kwargs": self.algorithm_kwargs,
            "policy_kwargs": self.policy_kwargs,
        }

    @classmethod
    def _from_arguments(cls, arguments: dict[str, Any], given: dict[str, Any]) -> "Dyna":
        found = cls._decoded(arguments, given)
        for name in ("policy", "algorithm", "algorithm_kwargs", "policy_kwargs"):
            if name in arguments and name not in given:
                found[name] = decode(arguments[name], name)
        if "rollouts" not in given and found["rollouts"] is not None:
            found["rollouts"] = BranchedRollouts.from_json(found["rollouts"])
        if "starts" not in given:
            found["starts"] = decode_choice(STARTS, found["starts"], "starts")
        if "exploration" not in given and found["exploration"] is not None:
            found["exploration"] = DARTNoise(**found["exploration"])
        return cls(env=None, _init_setup_model=False, **found)

    def _learned_state(self) -> dict[str, Any]:
        return {
            "algorithm": algorithm_state(self.algorithm, self._as_made),
            "strategy": self.strategy.state(),
            "explorer": None if self._explorer is None else self._explorer.state(),
        }

    def _load_learned_state(self, state: dict[str, Any]) -> None:
        load_algorithm_state(self.algorithm, state["algorithm"])
        self.strategy.load_state(state["strategy"])
        if self._explorer is not None and state["explorer"] is not None:
            self._explorer.load_state(state["explorer"])


def _check_algorithm(algorithm: Any, kwargs: dict[str, Any]) -> None:
    """Raise ValueError unless ``algorithm`` is a model-free SB3 algorithm, and ``kwargs`` are its own."""
    if not (isinstance(algorithm, type) and issubclass(algorithm, BaseAlgorithm)):
        raise ValueError(
            f"algorithm must be a Stable-Baselines3 algorithm class, as in algorithm=PPO, got {algorithm!r}"
        )
    if issubclass(algorithm, ModelBasedAlgorithm):
        raise ValueError(f"algorithm must be model-free to live in the dream, got {algorithm.__name__}")
    if "use_masking" in inspect.signature(algorithm.learn).parameters:
        raise ValueError(
            f"algorithm must do without action masks, which a model does not predict, got {algorithm.__name__}; "
            "take PPO, and let the environment treat an impossible action as it sees fit"
        )
    own = {"policy", "env", "device", "replay_buffer_class", "replay_buffer_kwargs", "optimize_memory_usage"}
    if taken := sorted(own & set(kwargs)):
        raise ValueError(
            f"algorithm_kwargs may not hold {taken}, which the agent passes on; give them to the agent, where it has "
            "such arguments"
        )
    idle = {"learning_starts", "train_freq", "gradient_steps", "buffer_size", "n_steps"}
    if issubclass(algorithm, OffPolicyAlgorithm) and (found := sorted(idle & set(kwargs))):
        raise ValueError(
            f"algorithm_kwargs may not hold {found} with {algorithm.__name__}, on which they would have no effect; "
            "learning_starts, train_freq and buffer_size are the agent's own, updates and expansions are in "
            "rollouts=BranchedRollouts(...)"
        )


def _check_dreams(
    algorithm: type[BaseAlgorithm], dreams: dict[str, int | None], rollouts: BranchedRollouts | None
) -> None:
    """Raise ValueError unless dreams are described in the way of the algorithm's kind."""
    off_policy = issubclass(algorithm, OffPolicyAlgorithm)
    for name, value in dreams.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
        if value is not None and off_policy:
            raise ValueError(
                f"{name} must be left out with {algorithm.__name__}, which learns from short rollouts, got {value}; "
                "give rollouts=BranchedRollouts(...)"
            )
    if rollouts is not None and not off_policy:
        raise ValueError(
            f"rollouts must be left out with {algorithm.__name__}, which learns in whole dream episodes; "
            "give dream_steps, dream_envs and dream_horizon"
        )
