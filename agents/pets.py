"""PETS: plan in a probabilistic ensemble at every real step, refit it after every trial."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from mbrl_gym.agents.base import ModelBasedAlgorithm
from mbrl_gym.agents.collect import normalizes_observations
from mbrl_gym.agents.owner import Wrappers, id_of
from mbrl_gym.agents.pets_presets import PRESETS
from mbrl_gym.agents.planner_policy import PlannerPolicy
from mbrl_gym.agents.randomness import isolated_randomness
from mbrl_gym.fit import TrainerConfig
from mbrl_gym.models.ensemble import Ensemble, EnsembleConfig
from mbrl_gym.planners import PLANNERS, Planner
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.tasks import TaskFunction

POLICIES = ("MlpPolicy", "MultiInputPolicy")


class PETS(ModelBasedAlgorithm):
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
    policy: PlannerPolicy

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
        if planner is not None and type(planner) not in _planner_names():
            raise ValueError(
                f"planner must be a configuration of mbrl_gym.planners, as in CEMConfig(), got {planner!r}"
            )
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
        self._memory: Any = None  # of the real episodes under way
        self._imagined = 0
        self._plans: list[tuple[float, float, int]] = []  # since the last training: seconds, value, lost candidates
        if _init_setup_model:
            self._setup_model()

    # ---- set-up -----------------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        self._check_normalization(self.env)
        with isolated_randomness(self._draw_seed()):
            self._setup_trainer()
            planner_class: type[Planner[Any]] = PLANNERS[_planner_names()[type(self.planner_config)]]
            planner = planner_class(self.model.action_codec, self.planner_config)
            if self.planner_config.particles > 1:  # an error of their number now, not at the first plan
                self.model.branch(self.model.initial(1), self.planner_config.particles)
            state, action = self.model.initial(1), torch.zeros(1, self.model.action_codec.size, device=self.device)
            self.model.predict(state, action)  # and of what is known, where it does not fit the observations
            self.policy = PlannerPolicy(self.model, planner, self._draw_seed())

    def _check_normalization(self, env: GymEnv | None) -> None:
        if normalizes_observations(env):
            raise ValueError(
                "env must show observations as they are, got a VecNormalize with norm_obs=True; take it off, the model "
                "has a normaliser of its own"
            )

    # ---- behaviour --------------------------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray[Any, Any], ...] | None = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, Any], tuple[np.ndarray[Any, Any], ...] | None]:
        """Return planned actions, and the planner's memory for the next call (see `PlannerPolicy.predict`)."""
        return self.policy.predict(observation, state, episode_start, deterministic)

    def _act(self, obs: Any) -> Any:
        action, self._memory = self.policy.predict(obs, self._memory, self._last_episode_starts)
        self._imagined += self.n_envs * self.policy.planner.imagined_steps
        plan = self.policy.last_plan
        assert plan is not None
        self._plans.append((self.policy.last_seconds, float(plan.value.mean()), int(plan.non_finite.sum())))
        self.progress.show(plan_ms=1e3 * self.policy.last_seconds, imagined=self._imagined)
        return action

    def _on_reset(self, seed: int) -> None:
        self._memory = None
        self.policy.seed = seed

    @property
    def imagined_timesteps(self) -> int:
        """Steps of the model that plans for the real environments took so far."""
        return self._imagined

    # ---- training ---------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        self._log_plans()
        self._fit_model()
        self.policy.follow(self.model)

    def _log_plans(self) -> None:
        """Log the real environments' plans since the last training: mean seconds and values, all lost candidates."""
        if not self._plans:
            return
        seconds, value, lost = zip(*self._plans, strict=True)
        self.logger.record("plan/seconds", float(np.mean(seconds)))
        self.logger.record("plan/value", float(np.mean(value)))
        self.logger.record("plan/non_finite", sum(lost))
        self._plans.clear()

    # ---- storing ----------------------------------------------------------------------------------------------------

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: Any = "auto") -> None:
        """Take up parameters as SB3 does, and plan in the model that they make."""
        super().set_parameters(load_path_or_dict, exact_match, device)
        self.policy.follow(self.model)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["model", "trainer.optimizer"], []

    def _arguments(self) -> dict[str, Any]:
        planner = {"name": _planner_names()[type(self.planner_config)], "config": asdict(self.planner_config)}
        return {
            "preset": self.preset,
            "planner": planner,
            **{k: v for k, v in super()._arguments().items() if k != "model_class"},
        }

    @classmethod
    def _from_arguments(cls, arguments: dict[str, Any], given: dict[str, Any]) -> "PETS":
        found = cls._decoded(arguments, given)
        if "planner" not in given:
            planner = found["planner"]
            found["planner"] = PLANNERS[planner["name"]].config_class(**planner["config"])
        return cls(env=None, _init_setup_model=False, **found)

    def _learned_state(self) -> dict[str, Any]:
        return {"imagined": self._imagined, "policy_seed": self.policy.seed}

    def _load_learned_state(self, state: dict[str, Any]) -> None:
        self._imagined = state["imagined"]
        self.policy.seed = state["policy_seed"]
        self.policy.follow(self.model)


def _planner_names() -> dict[type, str]:
    return {planner.config_class: name for name, planner in PLANNERS.items()}
