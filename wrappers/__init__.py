"""Wrappers: learned environments for Stable-Baselines3, Atari, and what changes a model or an environment."""

if __name__ != "mbrl_gym.wrappers":
    raise ImportError("import mbrl_gym.wrappers, not wrappers: this folder is a part of the package mbrl_gym")

from mbrl_gym.wrappers.atari import AtariSettings, make_atari, make_atari_vec
from mbrl_gym.wrappers.clamp import ClampRange
from mbrl_gym.wrappers.halt import Halt, TruncateUncertain
from mbrl_gym.wrappers.infoprop import Infoprop
from mbrl_gym.wrappers.known import KnownReward, KnownTermination
from mbrl_gym.wrappers.model_wrapper import ModelWrapper
from mbrl_gym.wrappers.penalty import UncertaintyPenalty
from mbrl_gym.wrappers.recalibrate import RecalibrateVariance
from mbrl_gym.wrappers.sb3 import SB3VecEnv

__all__ = [
    "AtariSettings",
    "ClampRange",
    "Halt",
    "Infoprop",
    "KnownReward",
    "KnownTermination",
    "ModelWrapper",
    "RecalibrateVariance",
    "SB3VecEnv",
    "TruncateUncertain",
    "UncertaintyPenalty",
    "make_atari",
    "make_atari_vec",
]
