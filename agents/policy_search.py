"""Tree search led by a policy: its proposals inside the tree, its critic where imagination stops."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.dqn.policies import DQNPolicy
from torch import Tensor

from mbrl_gym.agents.dream_data import normalized
from mbrl_gym.agents.dyna import Dyna
from mbrl_gym.agents.planner_policy import PlannerPolicy
from mbrl_gym.model import WorldModel
from mbrl_gym.planners import MCTS, MCTSConfig
from mbrl_gym.spaces import Observation

OfBeliefs = Callable[[Any], Tensor]


def search_policy(agent: Dyna, config: MCTSConfig | None = None, seed: int = 0) -> PlannerPolicy:
    """Return an SB3 policy that searches in the agent's model as it is now, led by the agent's own policy.

    What `MCTS` alone cannot see, the drift to a border beyond its horizon, the critic has learned in longer dreams.

    Args:
        agent: `Dyna` with PPO, A2C, TRPO or DQN on discrete actions, trained.
        config: of the search; its discount is replaced by the agent's. None: `MCTSConfig` as it is.
        seed: of all searches.

    Raises:
        ValueError: the agent's algorithm has no critic of states that this module knows, or its actions are not
            discrete.
    """
    model = agent.model.frozen()
    value, prior = policy_value(agent, model), policy_prior(agent, model)
    search = replace(config or MCTSConfig(), discount=float(_inner(agent).gamma))
    return PlannerPolicy(model, MCTS(model.action_codec, search, terminal_value=value, prior=prior), seed)


def policy_value(agent: Dyna, model: WorldModel[Any] | None = None) -> OfBeliefs:
    """Return a function of beliefs [B]: what the agent's policy is worth there [B], in units of the model's rewards.

    It is a ``terminal_value`` for every planner in the agent's model.

    Args:
        agent: whose policy, as it is when the function is called.
        model: whose beliefs; None: the agent's model.

    Raises:
        ValueError: the algorithm is recurrent, or has neither a value function of states nor one of discrete actions.
    """
    policy, decode = _inner(agent).policy, (model or agent.model).decode
    if isinstance(policy, ActorCriticPolicy) and not hasattr(policy, "lstm_actor"):
        return lambda state: policy.predict_values(_seen(agent, decode(state)))[:, 0] / _reward_scale(agent)
    if isinstance(policy, DQNPolicy):
        return lambda state: policy.q_net(_seen(agent, decode(state))).amax(1) / _reward_scale(agent)
    raise ValueError(f"agent must learn with PPO, A2C, TRPO or DQN to lead a search, got {_name(agent)}")


def policy_prior(agent: Dyna, model: WorldModel[Any] | None = None) -> OfBeliefs | None:
    """Return a function of beliefs [B]: logits [B, A] of the agent's policy; None for DQN, which has values alone.

    Args:
        agent: whose policy, as it is when the function is called.
        model: whose beliefs; None: the agent's model.

    Raises:
        ValueError: the actions are not discrete, or the algorithm is recurrent.
    """
    policy, decode = _inner(agent).policy, (model or agent.model).decode
    if len(agent.model.action_codec.groups) != 1:
        raise ValueError(f"agent must have discrete actions for a search, got {agent.action_space}; use CEM")
    if isinstance(policy, DQNPolicy):
        return None
    if not isinstance(policy, ActorCriticPolicy) or hasattr(policy, "lstm_actor"):
        raise ValueError(f"agent must learn with PPO, A2C, TRPO or DQN to lead a search, got {_name(agent)}")

    def logits(state: Any) -> Tensor:
        distribution: Any = policy.get_distribution(_seen(agent, decode(state))).distribution
        found: Tensor = (distribution[0] if isinstance(distribution, list) else distribution).logits
        return found

    return logits


def _inner(agent: Dyna) -> Any:
    return agent.algorithm


def _name(agent: Dyna) -> str:
    return agent.algorithm_class.__name__


def _seen(agent: Dyna, obs: Observation) -> Any:
    """Return raw observations [B, *obs] as the agent's policy reads them."""
    return normalized(obs, agent._vec_normalize_env)


def _reward_scale(agent: Dyna) -> float:
    """Return what the algorithm's rewards are multiples of: in a dream, under a VecNormalize, or neither."""
    real = agent._vec_normalize_env
    if real is not None and real.norm_reward:
        return 1.0 / float((real.ret_rms.var + real.epsilon) ** 0.5)
    return float(agent._sb3_env.reward_scale)
