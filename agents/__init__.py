"""Agents with the interface of Stable-Baselines3 that alternate between reality and the dream."""

if __name__ != "mbrl_gym.agents":
    raise ImportError("import mbrl_gym.agents, not agents: this folder is a part of the package mbrl_gym")

from mbrl_gym.agents.base import ModelBasedAlgorithm
from mbrl_gym.agents.dyna import Dyna
from mbrl_gym.agents.pets import PETS

__all__ = ["PETS", "Dyna", "ModelBasedAlgorithm"]
