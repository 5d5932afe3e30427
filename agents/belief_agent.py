"""BeliefAgent: what agents share that act from a model's beliefs; PlanningAgent: what those share that plan."""

from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, VecTransposeImage

from mbrl_gym.agents.base import ModelBasedAlgorithm
from mbrl_gym.agents.belief_policy import Arrays, BeliefPolicy
from mbrl_gym.agents.collect import normalizes_observations
from mbrl_gym.agents.planner_policy import PlannerPolicy


class BeliefAgent(ModelBasedAlgorithm):
    """An agent whose policy filters observations by the model; it sees them raw. Its arguments are `ModelOwner`'s."""

    policy: BeliefPolicy

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._memory: Arrays | None = None  # of the real episodes under way

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """Return the environment as SB3 wraps it, but images as they are: models read them so."""
        wrapped = BaseAlgorithm._wrap_env(env, verbose, monitor_wrapper)
        return wrapped.venv if isinstance(wrapped, VecTransposeImage) and wrapped is not env else wrapped

    def _check_normalization(self, env: GymEnv | None) -> None:
        if normalizes_observations(env):
            raise ValueError(
                "env must show observations as they are, got a VecNormalize with norm_obs=True; take it off, the model "
                "has a normaliser of its own"
            )

    def predict(
        self,
        observation: Any,
        state: Arrays | None = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, Any], Arrays | None]:
        """Return actions, and the policy's memory for the next call (see `BeliefPolicy.predict`)."""
        return self.policy.predict(observation, state, episode_start, deterministic)

    def _act(self, obs: Any) -> Any:
        self.policy.exploring = True
        try:
            action, self._memory = self.policy.predict(obs, self._memory, self._last_episode_starts)
        finally:
            self.policy.exploring = False
        return action

    def _on_reset(self, seed: int) -> None:
        self._memory = None
        self.policy.seed = seed

    def _learned_state(self) -> dict[str, Any]:
        return {"policy_seed": self.policy.seed}

    def _load_learned_state(self, state: dict[str, Any]) -> None:
        self.policy.seed = state["policy_seed"]


class PlanningAgent(BeliefAgent):
    """An agent that plans at every real step and logs how."""

    policy: PlannerPolicy

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._imagined = 0
        self._plans: list[tuple[float, float, int]] = []  # since the last training: seconds, value, lost candidates

    def _act(self, obs: Any) -> Any:
        action = super()._act(obs)
        self._imagined += self.n_envs * self.policy.planner.imagined_steps
        plan = self.policy.last_plan
        assert plan is not None
        self._plans.append((self.policy.last_seconds, float(plan.value.mean()), int(plan.non_finite.sum())))
        self.progress.show(plan_ms=1e3 * self.policy.last_seconds, imagined=self._imagined)
        return action

    @property
    def imagined_timesteps(self) -> int:
        """Steps of the model that plans for the real environments took so far."""
        return self._imagined

    def _log_plans(self) -> None:
        """Log the real environments' plans since the last training: mean seconds and values, all lost candidates."""
        if not self._plans:
            return
        seconds, value, lost = zip(*self._plans, strict=True)
        self.logger.record("plan/seconds", float(np.mean(seconds)))
        self.logger.record("plan/value", float(np.mean(value)))
        self.logger.record("plan/non_finite", sum(lost))
        self._plans.clear()

    def _learned_state(self) -> dict[str, Any]:
        return {**super()._learned_state(), "imagined": self._imagined}

    def _load_learned_state(self, state: dict[str, Any]) -> None:
        super()._load_learned_state(state)
        self._imagined = state["imagined"]
