"""Agents with the interface of Stable-Baselines3 that alternate between reality and the dream."""

if __name__ != "mbrl_gym.agents":
    raise ImportError("import mbrl_gym.agents, not agents: this folder is a part of the package mbrl_gym")

from mbrl_gym.agents.actor_critic import BehaviorConfig
from mbrl_gym.agents.base import ModelBasedAlgorithm
from mbrl_gym.agents.branched import BranchedRollouts
from mbrl_gym.agents.dart import DARTNoise
from mbrl_gym.agents.double_dqn import DoubleDQN
from mbrl_gym.agents.dreamer import Dreamer
from mbrl_gym.agents.dyna import Dyna
from mbrl_gym.agents.dyna_q import DynaQ
from mbrl_gym.agents.mbpo import MBPO
from mbrl_gym.agents.model_learner import OptimizerConfig
from mbrl_gym.agents.pets import PETS
from mbrl_gym.agents.planet import PlaNet
from mbrl_gym.agents.policy_search import policy_prior, policy_value, search_policy
from mbrl_gym.agents.record_experience import RecordExperience
from mbrl_gym.agents.rollout_length import AdaptiveLength, FixedLength, ScheduledLength
from mbrl_gym.agents.sac import LeanSAC
from mbrl_gym.agents.simple import SimPLe
from mbrl_gym.agents.start_choice import FailureStarts, RecentStarts, UniformStarts
from mbrl_gym.agents.value_expansion import MVE, STEVE

__all__ = [
    "MBPO",
    "MVE",
    "PETS",
    "STEVE",
    "AdaptiveLength",
    "BehaviorConfig",
    "BranchedRollouts",
    "DARTNoise",
    "DoubleDQN",
    "Dreamer",
    "Dyna",
    "DynaQ",
    "FailureStarts",
    "FixedLength",
    "LeanSAC",
    "ModelBasedAlgorithm",
    "OptimizerConfig",
    "PlaNet",
    "RecentStarts",
    "RecordExperience",
    "ScheduledLength",
    "SimPLe",
    "UniformStarts",
    "policy_prior",
    "policy_value",
    "search_policy",
]
