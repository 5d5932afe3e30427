"""PlannerPolicy: acting by planning in a model, as an SB3 policy whose memory travels in SB3's ``state``."""

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl_gym.agents.belief_policy import Arrays, BeliefPolicy
from mbrl_gym.model import WorldModel
from mbrl_gym.planners import GraphedPlan, Plan, Planner
from mbrl_gym.tensors import TensorStruct


class PlannerPolicy(BeliefPolicy):
    """Plans anew at every real step, from the last plan of the same episode. Plans are deterministic, asked or not.

    Args:
        model: the model to plan in; `follow` replaces it.
        planner: the planner.
        seed: of all plans.
        exploration_noise: see `mbrl_gym.agents.belief_policy.explored`.
    """

    def __init__(
        self, model: WorldModel[Any], planner: Planner[Any], seed: int, exploration_noise: float = 0.0
    ) -> None:
        super().__init__(model.observation_space, model.action_space, seed, exploration_noise)
        self.planner = planner
        self.last_plan: Plan[Any] | None = None
        self.last_seconds = 0.0
        self.follow(model)

    def follow(self, model: WorldModel[Any]) -> None:
        """Plan in ``model`` as it is now."""
        # In an object that is no module: the weights are the agent's, not the policy's.
        self._plan = GraphedPlan(self.planner, model.frozen())

    @property
    def model(self) -> WorldModel[Any]:
        """The model that is planned in."""
        return self._plan.model

    def _begin(self, count: int) -> TensorStruct:
        carry: TensorStruct = self.planner.initial(count, self.device)
        return carry

    def _choose(
        self, belief: Any, carry: Any, deterministic: bool, generator: torch.Generator
    ) -> tuple[Tensor, TensorStruct]:
        plan = self.last_plan = self._plan(belief, carry, generator)
        return plan.action, plan.carry

    def _act(
        self, batch: Any, state: Arrays | None, episode_start: Any, deterministic: bool
    ) -> tuple[np.ndarray[Any, Any], Arrays]:
        started = time.perf_counter()
        result = super()._act(batch, state, episode_start, deterministic)
        self.last_seconds = time.perf_counter() - started
        return result
