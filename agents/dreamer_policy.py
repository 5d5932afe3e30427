"""DreamerPolicy: a trained actor over a model's beliefs, as an SB3 policy whose memory travels in SB3's ``state``."""

from typing import Any

import torch
from torch import Tensor

from mbrl_gym.agents.actor_critic import ActorCritic
from mbrl_gym.agents.belief_policy import BeliefPolicy
from mbrl_gym.model import WorldModel


class DreamerPolicy(BeliefPolicy):
    """Acts by an actor in the beliefs that a model filters from what is seen.

    Args:
        model: the model.
        behavior: the actor (and its critic).
        seed: of beliefs and actions.
    """

    def __init__(self, model: WorldModel[Any], behavior: ActorCritic, seed: int) -> None:
        super().__init__(model.observation_space, model.action_space, seed, behavior.config.exploration_noise)
        self._parts = (model, behavior)  # in a tuple: the weights are the agent's, not the policy's

    @property
    def model(self) -> WorldModel[Any]:
        """The model that makes the beliefs."""
        return self._parts[0]

    def _choose(self, belief: Any, carry: Any, deterministic: bool, generator: torch.Generator) -> tuple[Tensor, None]:
        model, behavior = self._parts
        dist = behavior.policy(model.features(belief))
        action = dist.mode if deterministic else dist.sample(generator)
        return action.clamp(-1.0, 1.0), None  # as the environment clips it, and as the replay will have it
