"""Wrappers: learned environments for Stable-Baselines3, and what changes a model or an environment."""

if __name__ != "mbrl_gym.wrappers":
    raise ImportError("import mbrl_gym.wrappers, not wrappers: this folder is a part of the package mbrl_gym")

from mbrl_gym.wrappers.known import KnownReward, KnownTermination
from mbrl_gym.wrappers.model_wrapper import ModelWrapper
from mbrl_gym.wrappers.sb3 import SB3VecEnv

__all__ = ["KnownReward", "KnownTermination", "ModelWrapper", "SB3VecEnv"]
