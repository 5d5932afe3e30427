"""Expander: value expansion at work inside an off-policy algorithm of Dyna."""

from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from mbrl_gym.agents.dream_data import MixedReplayBuffer, Rows, normalized, normalized_reward
from mbrl_gym.agents.randomness import isolated_randomness
from mbrl_gym.agents.sac import LeanSAC
from mbrl_gym.agents.value_expansion import MVE, STEVE, expand, steve_target
from mbrl_gym.model import WorldModel
from mbrl_gym.spaces import Observation

if TYPE_CHECKING:
    from mbrl_gym.agents.dyna import Dyna


class Expander:
    """Changes the batches of a buffer (MVE) or the targets of a `LeanSAC` (STEVE).

    Args:
        agent: whose model, algorithm and real environment these are.
        buffer: what the algorithm learns from.
        expansion: which, and how far.

    Raises:
        ValueError: STEVE without `LeanSAC`, or a model whose belief is more than one observation.
    """

    def __init__(self, agent: "Dyna", buffer: MixedReplayBuffer, expansion: MVE | STEVE) -> None:
        self._agent, self._buffer, self._horizon = agent, buffer, expansion.horizon
        self._generator = torch.Generator(agent.device)
        self._model: WorldModel[Any] = agent.model
        algorithm = agent.algorithm
        assert isinstance(algorithm, OffPolicyAlgorithm)
        self._algorithm = algorithm
        if agent.model.context != 1:
            raise ValueError(
                f"expansion needs a model that forms a belief from one observation, got one that needs "
                f"{agent.model.context}; leave expansion out"
            )
        if isinstance(expansion, STEVE):
            if not isinstance(algorithm, LeanSAC):
                raise ValueError(
                    f"expansion=STEVE needs algorithm=LeanSAC (as in MBPO), got {type(algorithm).__name__}; take MVE"
                )
            algorithm.expansion = self._steve
        elif self._horizon:
            buffer.change = self._mve

    def follow(self) -> None:
        """Imagine in the agent's model as it is now."""
        with isolated_randomness(0):  # the copy is initialised before it is overwritten
            self._model = self._agent.model.frozen()

    def seed(self, seed: int) -> None:
        """Seed the randomness of the model until the next call."""
        self._generator.manual_seed(seed)

    @torch.no_grad()
    def _mve(self, rows: Rows) -> tuple[Rows, Tensor]:
        discount = self._algorithm.gamma
        return expand(self._model, self._policy, rows, self._horizon, discount, self._generator, self._reward)

    @torch.no_grad()
    def _steve(self, batch: ReplayBufferSamples, coefficient: Tensor) -> Tensor:
        rows = self._buffer.drawn
        assert rows is not None
        target = steve_target(
            self._model,
            self._policy,
            self._critics,
            rows,
            self._horizon,
            self._algorithm.gamma,
            self._generator,
            self._reward,
        )
        return target[:, None]

    def _reward(self, reward: Tensor) -> Tensor:
        """Return imagined rewards [N] in the units of the batch's, and of the entropy and the critics."""
        return normalized_reward(reward, self._agent._vec_normalize_env)

    def _policy(self, obs: Observation) -> tuple[Tensor, Tensor]:
        """Return encoded actions [N, A], and what the entropy of the policy is worth at each of them [N]."""
        policy: Any = self._algorithm.policy
        seen = normalized(obs, self._agent._vec_normalize_env)
        if hasattr(policy, "actor") and hasattr(policy.actor, "action_log_prob"):
            drawn: tuple[Tensor, Tensor] = policy.actor.action_log_prob(seen)
            action, log_prob = drawn
            return action.flatten(1), -self._entropy_coefficient() * log_prob.reshape(-1)
        action = policy._predict(seen, deterministic=True)
        if not self._agent.model.action_codec.continuous:
            action = torch.nn.functional.one_hot(action.long(), self._agent.model.action_codec.size).float()
        action = action.flatten(1)
        return action, torch.zeros(len(action), device=action.device)

    def _entropy_coefficient(self) -> Tensor:
        algorithm: Any = self._algorithm
        if getattr(algorithm, "log_ent_coef", None) is not None:
            learned: Tensor = algorithm.log_ent_coef.detach().exp().reshape(())
            return learned
        return torch.as_tensor(algorithm.ent_coef_tensor, device=self._agent.device).reshape(())

    def _critics(self, obs: Observation) -> Tensor:
        """Return each target critic's value [L, N] of states under the policy, its entropy included."""
        algorithm: Any = self._algorithm
        seen = normalized(obs, self._agent._vec_normalize_env)
        action, log_prob = algorithm.actor.action_log_prob(seen)
        values: Tensor = torch.cat(algorithm.critic_target(seen, action), dim=1).T  # [L, N]
        entropy: Tensor = self._entropy_coefficient() * log_prob.reshape(1, -1)
        return values - entropy
