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
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from mbrl_gym.agents.base import ModelBasedAlgorithm
from mbrl_gym.agents.imports import decode, encode
from mbrl_gym.agents.inner import (
    add_noise,
    algorithm_state,
    dream_defaults,
    is_on_policy,
    load_algorithm_state,
    plain_attributes,
    real_noise,
)
from mbrl_gym.agents.randomness import isolated_randomness
from mbrl_gym.envs.vector import LearnedVectorEnv
from mbrl_gym.fit import ModelTrainer, TrainerConfig
from mbrl_gym.model import WorldModel
from mbrl_gym.models.ensemble import Ensemble
from mbrl_gym.replay import SequenceReplay, StartStates
from mbrl_gym.wrappers.sb3 import SB3VecEnv


class Dyna(ModelBasedAlgorithm):
    """Collect real steps, fit the model to all of them, train ``algorithm`` in the model, and again.

    The dream starts from real states of the replay and runs whole episodes of ``dream_horizon`` steps, which end as
    truncated. Source of the idea: Sutton 1991 (Dyna); of whole imagined episodes in an ensemble: Kurutach et al. 2018
    (ME-TRPO).

    Args:
        policy: the inner algorithm's policy: "MlpPolicy", "MultiInputPolicy", ... or a class.
        env: the real environment (id, Gymnasium Env or VecEnv).
        algorithm: an SB3 or sb3-contrib algorithm class, or your own.
        algorithm_kwargs: its arguments beside policy and env; they win over `mbrl_gym.agents.inner.dream_defaults`.
        model_class: the class of the model.
        model_config: its hyperparameters; None: the class's defaults.
        trainer_config: how the model is fitted.
        learning_starts: real steps of random actions before the first training.
        train_freq: real steps between trainings.
        dream_steps: imagined steps of each training.
        dream_envs: dream environments that step together.
        dream_horizon: imagined steps an episode.
        normalize_reward: divide dreamt rewards by the deviation of the real discounted returns, as SB3's VecNormalize
            does, before the inner algorithm sees them; returns are logged as they are.
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
        learning_starts: int = 1000,
        train_freq: int = 1000,
        dream_steps: int = 120_000,
        dream_envs: int = 64,
        dream_horizon: int = 50,
        normalize_reward: bool = True,
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
        for name, value in (("dream_steps", dream_steps), ("dream_envs", dream_envs), ("dream_horizon", dream_horizon)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        taken = sorted({"policy", "env", "device"} & set(algorithm_kwargs or ()))
        if taken:
            raise ValueError(
                f"algorithm_kwargs may not hold {taken}, which the agent passes on; give them to the agent"
            )
        super().__init__(
            policy,
            env,
            learning_starts=learning_starts,
            train_freq=train_freq,
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
        self.model_class = model_class
        self.model_config = model_config
        self.trainer_config = trainer_config or TrainerConfig()
        self.dream_steps = int(dream_steps)
        self.dream_envs = int(dream_envs)
        self.dream_horizon = int(dream_horizon)
        self.normalize_reward = bool(normalize_reward)
        self._memory: Any = None  # a recurrent policy's, of the real episodes under way
        self._noise: VectorizedActionNoise | None = None  # where the algorithm explores by noise: in reality too
        if _init_setup_model:
            self._setup_model()

    # ---- set-up -----------------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        with isolated_randomness(self._draw_seed()):
            self.model = self.model_class(self.observation_space, self.action_space, self.model_config)
            self.model.to(self.device)
            self.trainer = ModelTrainer(self.model, self.trainer_config, seed=self._draw_seed())
            self._setup_replay()
            self.dream = LearnedVectorEnv(self.model, self._blank_starts(), self.dream_envs, self.dream_horizon)
            self.algorithm = self._make_algorithm()
        self.policy = self.algorithm.policy

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
        self._bootstrap(algorithm)
        return algorithm

    def _bootstrap(self, algorithm: BaseAlgorithm) -> None:
        """Let the dream bootstrap truncated rows for an on-policy algorithm, where that is possible."""
        real = self._vec_normalize_env
        recurrent = hasattr(algorithm, "_last_lstm_states")
        possible = is_on_policy(algorithm) and not recurrent and not (real is not None and real.norm_reward)
        self._sb3_env.bootstrap_with(algorithm if possible else None)

    def _on_new_env(self) -> None:
        if hasattr(self, "algorithm"):  # not while an agent is being loaded
            self.algorithm.set_env(self._dream_env())
            self._bootstrap(self.algorithm)

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
        if self._noise is None:
            return action
        assert self._last_episode_starts is not None
        self._noise.reset(np.flatnonzero(self._last_episode_starts).tolist())
        return add_noise(self.algorithm, action, self._noise)

    def _on_reset(self, seed: int) -> None:
        self._memory = None
        self._noise = real_noise(self.algorithm, self.n_envs)
        self.algorithm.action_space.seed(seed)  # DQN explores by samples of it

    def _on_rollout(self) -> None:
        if self.algorithm.use_sde:
            self.policy.reset_noise(self.n_envs)  # type: ignore[operator]

    @property
    def imagined_timesteps(self) -> int:
        """Steps that the inner algorithm took in the dream so far."""
        return self.algorithm.num_timesteps

    # ---- training ---------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        self._fit_model()
        self._dream(self.dream_steps)

    def _dream(self, steps: int) -> None:
        """Train the inner algorithm for ``steps`` imagined steps in the model as it is now."""
        algorithm, seed = self.algorithm, self._draw_seed()
        self._follow_normalization()
        self.dream.set_starts(self.replay.starts(self.model.context))
        real = self._vec_normalize_env
        if self.normalize_reward and not (real is not None and real.norm_reward):
            self._sb3_env.reward_scale = 1.0 / return_deviation(self.replay, float(getattr(algorithm, "gamma", 1.0)))
        assert algorithm.env is not None
        algorithm.env.seed(seed)
        algorithm.action_space.seed(seed)
        algorithm._last_obs = None  # reset the dream: it is another model now
        algorithm.ep_info_buffer = None
        if isinstance(algorithm, OffPolicyAlgorithm) and algorithm.replay_buffer is not None:
            algorithm.replay_buffer.reset()  # what an older model dreamt is stale
        algorithm.learn(steps, callback=_DreamProgress(self), log_interval=10**9, reset_num_timesteps=False)
        if algorithm.ep_info_buffer:
            self.logger.record("dream/ep_rew_mean", safe_mean([ep["r"] for ep in algorithm.ep_info_buffer]))
            self.logger.record("dream/ep_len_mean", safe_mean([ep["l"] for ep in algorithm.ep_info_buffer]))
        if "uncertainty" in self._sb3_env.step_info:
            self.logger.record("dream/uncertainty", float(np.mean(self._sb3_env.step_info["uncertainty"])))
        for name, value in algorithm.logger.name_to_value.items():
            if name.startswith("train/"):
                self.logger.record(name, value)

    def _follow_normalization(self) -> None:
        inner, real = self.algorithm.get_vec_normalize_env(), self._vec_normalize_env
        if inner is not None and real is not None:
            inner.ret_rms = real.ret_rms
            if real.norm_obs:
                inner.obs_rms = real.obs_rms

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
        plain = ("learning_starts", "train_freq", "dream_steps", "dream_envs", "dream_horizon", "normalize_reward")
        return {
            **{name: getattr(self, name) for name in plain},
            "buffer_size": self.buffer_size,
            "stats_window_size": self._stats_window_size,
            "seed": self.seed,
            "algorithm": encode(self.algorithm_class),
            "algorithm_kwargs": encode(self.algorithm_kwargs),
            "policy_kwargs": encode(self.policy_kwargs),
            "model_class": None if self.model_class is Ensemble else encode(self.model_class),
            "model_config": asdict(self.model.config),
            "trainer_config": asdict(self.trainer_config),
        }

    @classmethod
    def _from_arguments(cls, arguments: dict[str, Any], given: dict[str, Any]) -> "Dyna":
        arguments = {**arguments, **given}
        for name in ("policy", "algorithm", "algorithm_kwargs", "policy_kwargs", "model_class"):
            if name not in given:
                arguments[name] = decode(arguments[name], name)
        arguments["model_class"] = arguments["model_class"] or Ensemble
        if "model_config" not in given:
            arguments["model_config"] = arguments["model_class"].config_class(**arguments["model_config"])
        if "trainer_config" not in given:
            arguments["trainer_config"] = TrainerConfig(**arguments["trainer_config"])
        return cls(env=None, _init_setup_model=False, **arguments)

    def _learned_state(self) -> dict[str, Any]:
        return {"algorithm": algorithm_state(self.algorithm, self._as_made)}

    def _load_learned_state(self, state: dict[str, Any]) -> None:
        load_algorithm_state(self.algorithm, state["algorithm"])


def return_deviation(replay: SequenceReplay, discount: float) -> float:
    """Return the standard deviation of the running discounted sums of rewards in ``replay``; 1 where it is zero.

    Source: SB3's VecNormalize, ``_update_reward`` (the sums run forwards and start anew with each episode).
    """
    rows = replay.gather(replay.windows(1), 1)
    total, sums = 0.0, []
    for reward, is_first in zip(rows.reward[:, 0].tolist(), rows.is_first[:, 0].tolist(), strict=True):
        total = 0.0 if is_first else total * discount + reward
        if not is_first:
            sums.append(total)
    deviation = float(np.std(sums))
    return deviation if deviation > 1e-8 else 1.0


class _DreamProgress(BaseCallback):
    """Shows how far the dream is."""

    def __init__(self, agent: Dyna) -> None:
        super().__init__()
        self._agent = agent

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        episodes = self.model.ep_info_buffer
        dreamt = {"dream_return": safe_mean([ep["r"] for ep in episodes])} if episodes else {}
        self._agent.progress.show(imagined=self.model.num_timesteps, **dreamt)
