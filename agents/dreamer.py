"""Dreamer: an actor and a critic that learn in the imagination of a recurrent state-space model; V1, V2 and V3."""

from dataclasses import asdict
from typing import Any

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from mbrl_gym.agents.actor_critic import ActorCritic, BehaviorConfig
from mbrl_gym.agents.dreamer_learner import DreamerLearner
from mbrl_gym.agents.dreamer_policy import DreamerPolicy
from mbrl_gym.agents.dreamer_presets import PRESETS
from mbrl_gym.agents.model_learner import OptimizerConfig
from mbrl_gym.agents.randomness import isolated_randomness
from mbrl_gym.agents.sequence_agent import SequenceAgent
from mbrl_gym.models.rssm import RSSM
from mbrl_gym.models.rssm_config import RSSMConfig
from mbrl_gym.replay import SequenceReplay

CONFIGS: dict[str, Any] = {
    "model_config": RSSMConfig,
    "behavior_config": BehaviorConfig,
    "optimizer_config": OptimizerConfig,
}


class Dreamer(SequenceAgent):
    """Learns a recurrent model of the environment, and behaviour in its imagination, as real steps come in.

    ``predict`` carries the belief in SB3's ``state``, so pass it on, as SB3's own ``evaluate_policy`` does.

    Source: Hafner et al. 2020, 2021, 2023 (DreamerV1, V2, V3); danijar/dreamer, danijar/dreamerv2 and danijar/dreamerv3
    (e3f0224). Not as there in V1 and V2: see `mbrl_gym.agents.actor_critic.ActorCritic`.

    Args:
        policy: "MlpPolicy", "CnnPolicy" for images or "MultiInputPolicy" for Dict observations; networks follow from
            the observations.
        env: the real environment (id, Gymnasium Env or VecEnv).
        version: 1, 2 or 3.
        size: of V3's networks, "1m" to "400m"; None: "1m".
        preset: "cpu" or "paper" (`mbrl_gym.agents.dreamer_presets`), for every argument that is None.
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
    trainer: DreamerLearner
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
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {preset!r}")
        defaults = PRESETS[preset](version, size)
        self.version, self.size, self.preset = version, size, preset
        self.behavior_config = behavior_config or defaults.behavior
        super().__init__(
            policy,
            env,
            model_config=model_config or defaults.model,
            optimizer_config=optimizer_config or defaults.optimizer,
            train_ratio=defaults.train_ratio if train_ratio is None else train_ratio,
            batch_size=defaults.batch_size if batch_size is None else batch_size,
            batch_length=defaults.batch_length if batch_length is None else batch_length,
            stored_beliefs=defaults.stored_beliefs if stored_beliefs is None else stored_beliefs,
            learning_starts=defaults.learning_starts if learning_starts is None else learning_starts,
            log_freq=log_freq,
            buffer_size=buffer_size,
            replay=replay,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
        )
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

    # ---- learning ---------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        super()._train()
        if self.trainer.updates:  # under the names that SB3's algorithms give them
            self.logger.record("train/n_updates", self.trainer.updates, exclude="tensorboard")
            self.logger.record("train/learning_rate", self.trainer.rate("actor"))

    @property
    def imagined_timesteps(self) -> int:
        """Steps that behaviour was trained on in imagination."""
        return self.trainer.updates * self._rows_per_update * self.behavior_config.horizon

    # ---- storing ----------------------------------------------------------------------------------------------------

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["model", "behavior", "trainer.optimizer"], []

    def _arguments(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("version", "size", "preset")},
            **self._sequence_arguments(),
            "behavior_config": asdict(self.behavior_config),
        }

    @classmethod
    def _from_arguments(cls, arguments: dict[str, Any], given: dict[str, Any]) -> "Dreamer":
        return cls(env=None, _init_setup_model=False, **cls._merged(arguments, given, CONFIGS))

    def _learned_state(self) -> dict[str, Any]:
        return {**super()._learned_state(), "behavior": dict(self.behavior.state_dict())}

    def _load_learned_state(self, state: dict[str, Any]) -> None:
        super()._load_learned_state(state)
        self.behavior.load_state_dict(state["behavior"])
