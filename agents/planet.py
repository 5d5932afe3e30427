"""PlaNet: planning in the latent space of a recurrent state-space model."""

from typing import Any

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from mbrl_gym.agents.belief_agent import PlanningAgent
from mbrl_gym.agents.model_learner import ModelLearner, OptimizerConfig
from mbrl_gym.agents.planet_presets import PRESETS
from mbrl_gym.agents.planner_policy import PlannerPolicy
from mbrl_gym.agents.randomness import isolated_randomness
from mbrl_gym.agents.sequence_agent import SequenceAgent
from mbrl_gym.models.rssm import RSSM
from mbrl_gym.models.rssm_config import RSSMConfig
from mbrl_gym.planners import make_planner, planner_from_json, planner_name, planner_to_json
from mbrl_gym.replay import SequenceReplay


class PlaNet(PlanningAgent, SequenceAgent):
    """Learns a recurrent model of the environment as real steps come in, and plans in its beliefs at every step.

    No policy is trained. ``predict`` carries belief and plan in SB3's ``state``, so pass it on, as SB3's own
    ``evaluate_policy`` does.

    Source: Hafner et al. 2019, algorithms 1 and 2; google-research/planet.

    Args:
        policy: "MlpPolicy", "CnnPolicy" for images or "MultiInputPolicy" for Dict observations: there is nothing to
            choose.
        env: the real environment (id, Gymnasium Env or VecEnv).
        preset: "cpu" or "paper" (`mbrl_gym.agents.planet_presets`), for every argument that is None.
        planner: a planner's configuration (`mbrl_gym.planners`): CEMConfig, ICEMConfig, MPPIConfig, ...
        model_config: the model's hyperparameters; its ``overshooting`` is the paper's option.
        optimizer_config: the optimiser's.
        exploration_noise: of real actions: deviation of the noise added in a Box, share of random ones elsewhere.
        train_ratio: rows learned from for each real step.
        batch_size: windows of a batch.
        batch_length: rows of a window that are learned from.
        learning_starts: real steps of random actions.
        log_freq: real steps between two entries of the log.
        buffer_size: rows that the replay keeps.
        replay: experience to start from.
        policy_kwargs: none are known; for SB3's sake.
        stats_window_size: episodes over which returns are averaged in the log.
        tensorboard_log: folder of TensorBoard logs.
        verbose: 1 prints the log table.
        seed: of everything.
        device: a torch device, or "auto".

    Raises:
        ValueError: an argument is out of its range, or a space is not supported.
    """

    kind = "planet"

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        preset: str = "cpu",
        planner: Any = None,
        model_config: RSSMConfig | None = None,
        optimizer_config: OptimizerConfig | None = None,
        exploration_noise: float | None = None,
        train_ratio: float | None = None,
        batch_size: int | None = None,
        batch_length: int | None = None,
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
        defaults = PRESETS[preset]()
        self.preset = preset
        self.planner_config = defaults.planner if planner is None else planner
        noise = defaults.exploration_noise if exploration_noise is None else exploration_noise
        if not noise >= 0:
            raise ValueError(f"exploration_noise must be at least 0, got {noise}")
        self.exploration_noise = float(noise)
        planner_name(self.planner_config)  # raises where it is of no planner
        super().__init__(
            policy,
            env,
            model_config=model_config or defaults.model,
            optimizer_config=optimizer_config or defaults.optimizer,
            train_ratio=defaults.train_ratio if train_ratio is None else train_ratio,
            batch_size=defaults.batch_size if batch_size is None else batch_size,
            batch_length=defaults.batch_length if batch_length is None else batch_length,
            stored_beliefs=False,
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
            self.trainer = ModelLearner(self.model, self.optimizer_config)
            self._setup_replay()
            search = make_planner(self.model.action_codec, self.planner_config)
            self.policy = PlannerPolicy(self.model, search, self._draw_seed(), self.exploration_noise)

    # ---- learning ---------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        self._log_plans()
        super()._train()

    # ---- storing ----------------------------------------------------------------------------------------------------

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["model", "trainer.optimizer"], []

    def _arguments(self) -> dict[str, Any]:
        found = self._sequence_arguments()
        del found["stored_beliefs"]  # PlaNet has none
        return {
            "preset": self.preset,
            "planner": planner_to_json(self.planner_config),
            "exploration_noise": self.exploration_noise,
            **found,
        }

    @classmethod
    def _from_arguments(cls, arguments: dict[str, Any], given: dict[str, Any]) -> "PlaNet":
        found = cls._merged(arguments, given, {"model_config": RSSMConfig, "optimizer_config": OptimizerConfig})
        if "planner" not in given:
            found["planner"] = planner_from_json(found["planner"])
        return cls(env=None, _init_setup_model=False, **found)
