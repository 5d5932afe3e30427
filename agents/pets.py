"""PETS: plan in a probabilistic ensemble at every real step, refit it after every trial."""

from typing import Any

import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from mbrl_gym.agents.belief_agent import PlanningAgent
from mbrl_gym.agents.owner import Wrappers, id_of
from mbrl_gym.agents.pets_presets import PRESETS
from mbrl_gym.agents.planner_policy import PlannerPolicy
from mbrl_gym.agents.randomness import isolated_randomness
from mbrl_gym.fit import TrainerConfig
from mbrl_gym.models.ensemble import Ensemble, EnsembleConfig
from mbrl_gym.planners import make_planner, planner_from_json, planner_name, planner_to_json
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.tasks import TaskFunction

POLICIES = ("MlpPolicy", "MultiInputPolicy")


class PETS(PlanningAgent):
    """Probabilistic ensembles with trajectory sampling: model predictive control in an ensemble of networks.

    No policy is trained. Every real step plans the next ``horizon`` actions in the model, from the last plan shifted by
    one, and executes the first of them. ``predict`` carries the plan in SB3's ``state``, so pass it on, as SB3's own
    ``evaluate_policy`` does.

    Source: Chua et al. 2018, algorithm 1; handful-of-trials ``dmbrl/misc/MBExp.py`` and ``controllers/MPC.py``.

    Args:
        policy: "MlpPolicy", or "MultiInputPolicy" for Dict observations: there is nothing to choose.
        env: the real environment (id, Gymnasium Env or VecEnv).
        preset: "cpu" or "paper" (`mbrl_gym.agents.pets_presets`), for every argument that is None.
        planner: a planner's configuration (`mbrl_gym.planners`): CEMConfig, ICEMConfig, MPPIConfig, ...
        reward: "learned", "known" (`mbrl_gym.tasks.known_reward` of the environment's id), another name of it, or a
            function of (observations, actions, next observations), torch tensors [B, ...].
        termination: the same for the end of episodes.
        model_config: the ensemble's hyperparameters.
        trainer_config: how it is fitted.
        wrappers: against model error (`mbrl_gym.agents.owner.ModelOwner`).
        learning_starts: real steps of random actions before the first training.
        train_freq: real steps between trainings.
        buffer_size: rows that the replay keeps.
        replay: experience to start from.
        policy_kwargs: none are known; for SB3's sake.
        stats_window_size: episodes over which returns are averaged in the log.
        tensorboard_log: folder of TensorBoard logs.
        verbose: 1 prints the log table.
        seed: of everything.
        device: a torch device, or "auto".

    Raises:
        ValueError: an argument is out of its range, a space is not supported, or no reward of this name is known.
    """

    kind = "pets"

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        preset: str = "cpu",
        planner: Any = None,
        reward: str | TaskFunction = "learned",
        termination: str | TaskFunction = "learned",
        model_config: EnsembleConfig | None = None,
        trainer_config: TrainerConfig | None = None,
        wrappers: Wrappers = (),
        learning_starts: int | None = None,
        train_freq: int | None = None,
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
        if policy not in POLICIES:
            raise ValueError(f"policy must be one of {POLICIES}: PETS plans and trains no network, got {policy!r}")
        if policy_kwargs:
            raise ValueError(f"policy_kwargs must be empty, as PETS trains no policy, got {policy_kwargs}")
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {preset!r}")
        if planner is not None:
            planner_name(planner)  # raises where it is of no planner
        defaults = PRESETS[preset](id_of(env))
        super().__init__(
            policy,
            env,
            model_class=Ensemble,
            model_config=model_config or defaults.model,
            trainer_config=trainer_config or defaults.trainer,
            reward=reward,
            termination=termination,
            wrappers=wrappers,
            learning_starts=defaults.learning_starts if learning_starts is None else learning_starts,
            train_freq=defaults.train_freq if train_freq is None else train_freq,
            buffer_size=buffer_size,
            replay=replay,
            policy_kwargs=None,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
        )
        self.preset = preset
        self.planner_config = planner or defaults.planner
        if _init_setup_model:
            self._setup_model()

    # ---- set-up -----------------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        self._check_normalization(self.env)
        with isolated_randomness(self._draw_seed()):
            self._setup_trainer()
            planner = make_planner(self.model.action_codec, self.planner_config)
            if self.planner_config.particles > 1:  # an error of their number now, not at the first plan
                self.model.branch(self.model.initial(1), self.planner_config.particles)
            state, action = self.model.initial(1), torch.zeros(1, self.model.action_codec.size, device=self.device)
            self.model.predict(state, action)  # and of what is known, where it does not fit the observations
            self.policy = PlannerPolicy(self.model, planner, self._draw_seed())

    # ---- training ---------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        self._log_plans()
        self._fit_model()
        self.policy.follow(self.model)

    # ---- storing ----------------------------------------------------------------------------------------------------

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: Any = "auto") -> None:
        """Take up parameters as SB3 does, and plan in the model that they make."""
        super().set_parameters(load_path_or_dict, exact_match, device)
        self.policy.follow(self.model)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["model", "trainer.optimizer"], []

    def _arguments(self) -> dict[str, Any]:
        return {
            "preset": self.preset,
            "planner": planner_to_json(self.planner_config),
            **{k: v for k, v in super()._arguments().items() if k != "model_class"},
        }

    @classmethod
    def _from_arguments(cls, arguments: dict[str, Any], given: dict[str, Any]) -> "PETS":
        found = cls._decoded(arguments, given)
        if "planner" not in given:
            found["planner"] = planner_from_json(found["planner"])
        return cls(env=None, _init_setup_model=False, **found)

    def _load_learned_state(self, state: dict[str, Any]) -> None:
        super()._load_learned_state(state)
        self.policy.follow(self.model)
