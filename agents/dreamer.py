"""Dreamer: an actor and a critic that learn in the imagination of a recurrent state-space model; V1, V2 and V3."""

import time
from dataclasses import asdict
from typing import Any

import numpy as np
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from mbrl_gym.agents.actor_critic import ActorCritic, BehaviorConfig
from mbrl_gym.agents.base import ModelBasedAlgorithm
from mbrl_gym.agents.collect import normalizes_observations
from mbrl_gym.agents.dreamer_learner import DreamerLearner, OptimizerConfig
from mbrl_gym.agents.dreamer_policy import DreamerPolicy
from mbrl_gym.agents.dreamer_presets import PRESETS
from mbrl_gym.agents.online_sampler import OnlineSampler
from mbrl_gym.agents.randomness import isolated_randomness
from mbrl_gym.models.rssm import RSSM, RSSMState
from mbrl_gym.models.rssm_config import RSSMConfig
from mbrl_gym.replay import SequenceReplay

POLICIES = ("MlpPolicy", "MultiInputPolicy")
CONFIGS: dict[str, Any] = {
    "model_config": RSSMConfig,
    "behavior_config": BehaviorConfig,
    "optimizer_config": OptimizerConfig,
}


class Dreamer(ModelBasedAlgorithm):
    """Learns a recurrent model of the environment, and behaviour in its imagination, as real steps come in.

    ``predict`` carries the belief in SB3's ``state``, so pass it on, as SB3's own ``evaluate_policy`` does.

    Source: Hafner et al. 2020, 2021, 2023 (DreamerV1, V2, V3); danijar/dreamer, danijar/dreamerv2 and danijar/dreamerv3
    (e3f0224). Not as there in V1 and V2: see `mbrl_gym.agents.actor_critic.ActorCritic`.

    Args:
        policy: "MlpPolicy", or "MultiInputPolicy" for Dict observations; networks follow from the observations.
        env: the real environment (id, Gymnasium Env or VecEnv).
        version: 1, 2 or 3.
        size: of V3's networks, "1m" to "400m"; None: "1m".
        preset: "cpu" or "reference" (`mbrl_gym.agents.dreamer_presets`), for every argument that is None.
        model_config: the model's hyperparameters.
        behavior_config: actor's and critic's.
        optimizer_config: the optimiser's.
        train_ratio: rows learned from for each real step.
        batch_size: windows of a batch.
        batch_length: rows of a window that are learned from.
        stored_beliefs: whether windows begin with the belief that the replay holds, and new experience comes first.
        learning_starts: real steps of random actions.
        log_freq: real steps between two entries of the log.
        buffer_size: rows that the replay keeps.
        replay: experience to start from, without beliefs in it.
        policy_kwargs: none are known; for SB3's sake.
        stats_window_size: episodes over which returns are averaged in the log.
        tensorboard_log: folder of TensorBoard logs.
        verbose: 1 prints the log table.
        seed: of everything.
        device: a torch device, or "auto".

    Raises:
        ValueError: an argument is out of its range, or a space is not supported.
    """

    kind = "dreamer"
    model: RSSM
    trainer: DreamerLearner  # type: ignore[assignment]
    policy: DreamerPolicy

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        version: int = 3,
        size: str | None = None,
        preset: str = "cpu",
        model_config: RSSMConfig | None = None,
        behavior_config: BehaviorConfig | None = None,
        optimizer_config: OptimizerConfig | None = None,
        train_ratio: float | None = None,
        batch_size: int | None = None,
        batch_length: int | None = None,
        stored_beliefs: bool | None = None,
        learning_starts: int | None = None,
        log_freq: int = 1000,
        buffer_size: int = 500_000,
        replay: SequenceReplay | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: Any = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"policy must be one of {POLICIES}, got {policy!r}")
        if policy_kwargs:
            raise ValueError(
                f"policy_kwargs must be empty, got {policy_kwargs}; behavior_config has the networks' sizes"
            )
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {preset!r}")
        defaults = PRESETS[preset](version, size)
        self.version, self.size, self.preset = version, size, preset
        self.train_ratio = defaults.train_ratio if train_ratio is None else float(train_ratio)
        self.batch_size = defaults.batch_size if batch_size is None else int(batch_size)
        self.batch_length = defaults.batch_length if batch_length is None else int(batch_length)
        self.stored_beliefs = defaults.stored_beliefs if stored_beliefs is None else bool(stored_beliefs)
        for name, least in (("train_ratio", 0), ("batch_size", 1), ("batch_length", 2)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        self.behavior_config = behavior_config or defaults.behavior
        self.optimizer_config = optimizer_config or defaults.optimizer
        super().__init__(
            policy,
            env,
            model_class=RSSM,
            model_config=model_config or defaults.model,
            trainer_config=None,
            reward="learned",
            termination="learned",
            wrappers=(),
            learning_starts=defaults.learning_starts if learning_starts is None else learning_starts,
            train_freq=log_freq,
            buffer_size=buffer_size,
            replay=replay,
            policy_kwargs=None,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
        )
        self._memory: Any = None  # of the real episodes under way
        self._credit = 0.0  # updates that real steps have paid for
        self._terms: dict[str, Tensor] = {}  # sums since the last entry of the log
        self._counted = 0
        self._seconds = 0.0
        self._told = False
        if _init_setup_model:
            self._setup_model()

    # ---- set-up -----------------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        self._check_normalization(self.env)
        with isolated_randomness(self._draw_seed()):
            self.model = RSSM(self.observation_space, self.action_space, self.model_config).to(self.device)
            features = self.model.features(self.model.initial(1)).shape[-1]
            self.behavior = ActorCritic(features, self.model.action_codec, self.behavior_config).to(self.device)
            self.trainer = DreamerLearner(self.model, self.behavior, self.optimizer_config)
            self._setup_replay()
            self.policy = DreamerPolicy(self.model, self.behavior, self._draw_seed())
            self._setup_sampler(self._draw_seed())

    def _setup_replay(self) -> None:
        if self._given_replay is not None and self.stored_beliefs:
            raise ValueError(
                "stored_beliefs must be False with a replay of your own, which has no columns for them, got True"
            )
        super()._setup_replay()

    def _replay_extras(self) -> Any:
        return self.model.extras() if self.stored_beliefs else None

    def _setup_sampler(self, seed: int) -> None:
        length = self.batch_length + 1  # the first row's belief is what the others start from
        self.sampler = OnlineSampler(self.replay, self.batch_size, length, seed, online=self.stored_beliefs)

    def _check_normalization(self, env: GymEnv | None) -> None:
        if normalizes_observations(env):
            raise ValueError(
                "env must show observations as they are, got a VecNormalize with norm_obs=True; take it off, the model "
                "squashes them by itself"
            )

    # ---- behaviour --------------------------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray[Any, Any], ...] | None = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, Any], tuple[np.ndarray[Any, Any], ...] | None]:
        """Return actions, and the belief for the next call (see `BeliefPolicy.predict`)."""
        return self.policy.predict(observation, state, episode_start, deterministic)

    def _act(self, obs: Any) -> Any:
        self.policy.exploring = True
        try:
            action, self._memory = self.policy.predict(obs, self._memory, self._last_episode_starts)
        finally:
            self.policy.exploring = False
        if self.stored_beliefs:
            belief = self.policy.last_belief
            assert isinstance(belief, RSSMState)
            self._write_back(self.replay.newest_rows(), belief)
        return action

    def _on_reset(self, seed: int) -> None:
        self._memory = None
        self.policy.seed = seed

    @property
    def imagined_timesteps(self) -> int:
        """Steps that behaviour was trained on in imagination."""
        return self.trainer.updates * self._rows_per_update * self.behavior_config.horizon

    @property
    def _rows_per_update(self) -> int:
        return self.batch_size * self.batch_length

    # ---- training ---------------------------------------------------------------------------------------------------

    def _after_step(self) -> None:
        """Take the updates that the last real steps have paid for."""
        if len(self.replay) < self.learning_starts or not self.sampler.ready:
            return
        self._credit += self.n_envs * self.train_ratio / self._rows_per_update
        count, started = int(self._credit), time.perf_counter()
        for _ in range(count):
            self._update()
        self._credit -= count
        self._seconds += time.perf_counter() - started
        if count and not self._told:
            self._tell()

    def _update(self) -> None:
        batch = self.sampler.sample(self.device)
        if self.stored_beliefs:
            start = self.model.from_extras({name: column[:, 0] for name, column in batch.extras.items()})
        else:
            start = self.model.initial(batch.batch_size)
        states, terms = self.trainer.update(batch, start)
        if self.stored_beliefs:
            self._write_back(batch.index[:, 1:], states)
        for name, value in terms.items():
            self._terms[name] = self._terms[name] + value if name in self._terms else value
        self._counted += 1

    def _write_back(self, index: Any, states: RSSMState) -> None:
        for name, values in self.model.to_extras(states).items():
            self.replay.write_back(name, index, values)

    def _tell(self) -> None:
        """Say once, after ten updates, how large this is, how often it learns and how fast."""
        if self._counted < 10:
            return
        self._told = True
        if not (self.verbose or self.progress.shown):
            return
        parameters = sum(p.numel() for part in (self.model, self.behavior) for p in part.parameters())
        each = self._rows_per_update / max(self.train_ratio, 1e-9)
        self.progress.say(
            f"DreamerV{self.version}: {parameters / 1e6:.2f} M parameters, train ratio {self.train_ratio:g} "
            f"(an update every {each:.3g} real steps), {self._counted / max(self._seconds, 1e-9):.2f} updates a second"
        )

    def _train(self) -> None:
        """Log the updates since the last entry."""
        if not self._counted:
            return
        means = {name: float(value) / self._counted for name, value in self._terms.items()}
        for name, value in means.items():
            self.logger.record(name, value)
        self.logger.record("time/updates", self.trainer.updates)
        self.logger.record("time/updates_per_second", self._counted / max(self._seconds, 1e-9))
        self.progress.show(
            model_loss=means["model/loss"], value=means["behavior/value"], imagined=self.imagined_timesteps
        )
        self._terms, self._counted, self._seconds = {}, 0, 0.0

    # ---- storing ----------------------------------------------------------------------------------------------------

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["model", "behavior", "trainer.optimizer"], []

    def _arguments(self) -> dict[str, Any]:
        names = ("version", "size", "preset", "train_ratio", "batch_size", "batch_length", "stored_beliefs")
        inherited = ("model_config", "learning_starts", "buffer_size", "stats_window_size", "seed")
        found = super()._arguments()
        return {
            **{name: getattr(self, name) for name in names},
            **{name: found[name] for name in inherited},
            "behavior_config": asdict(self.behavior_config),
            "optimizer_config": asdict(self.optimizer_config),
            "log_freq": self.train_freq,
        }

    @classmethod
    def _from_arguments(cls, arguments: dict[str, Any], given: dict[str, Any]) -> "Dreamer":
        found = {**arguments, **given}
        for name, kind in CONFIGS.items():
            if name not in given:
                found[name] = kind(**found[name])
        return cls(env=None, _init_setup_model=False, **found)

    def _learned_state(self) -> dict[str, Any]:
        return {
            "behavior": dict(self.behavior.state_dict()),
            "policy_seed": self.policy.seed,
            "credit": self._credit,
            "sampler": self.sampler.state_dict(),
        }

    def _load_learned_state(self, state: dict[str, Any]) -> None:
        self.behavior.load_state_dict(state["behavior"])
        self.policy.seed = state["policy_seed"]
        self._credit = state["credit"]
        self._setup_sampler(0)  # over the replay that was loaded meanwhile
        self.sampler.load_state_dict(state["sampler"], rows=len(self.replay) > 0)
