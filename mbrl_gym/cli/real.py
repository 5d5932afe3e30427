"""The real environment and the algorithm that the command line names."""

import importlib
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from mbrl_gym.cli.errors import UserError
from mbrl_gym.store import pick_device

ALGORITHMS = {
    "a2c": "stable_baselines3:A2C",
    "ddpg": "stable_baselines3:DDPG",
    "dqn": "stable_baselines3:DQN",
    "ppo": "stable_baselines3:PPO",
    "sac": "mbrl_gym.agents.sac:LeanSAC",  # SB3's, faster
    "td3": "stable_baselines3:TD3",
    "crossq": "sb3_contrib:CrossQ",
    "qrdqn": "sb3_contrib:QRDQN",
    "recurrentppo": "sb3_contrib:RecurrentPPO",
    "tqc": "sb3_contrib:TQC",
    "trpo": "sb3_contrib:TRPO",
}


def make_real(env_id: str) -> gym.Env[Any, Any]:
    """Return the environment.

    Raises:
        UserError: Gymnasium does not know the id, or cannot make it here.
    """
    try:
        return gym.make(env_id)
    except (gym.error.Error, ImportError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"cannot make the environment {env_id!r}: {error}") from error


def find_algorithm(name: str) -> type[BaseAlgorithm]:
    """Return the algorithm of a short name, or at ``module:Class``.

    Raises:
        UserError: it is unknown, cannot be imported or is no algorithm of SB3's.
    """
    path = ALGORITHMS.get(name.lower(), name)
    module, _, attribute = path.partition(":")
    if not attribute:
        raise UserError(
            f"unknown algorithm {name!r}; it is one of {', '.join(ALGORITHMS)}, or module:Class as in sb3_contrib:TRPO"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        remedy = "; install it with: pip install sb3-contrib" if module == "sb3_contrib" else ""
        raise UserError(f"algorithm {name!r} cannot be imported: {error}{remedy}") from error
    except AttributeError as error:
        raise UserError(f"algorithm {name!r}: the module {module} has no {attribute}") from error
    if not (isinstance(found, type) and issubclass(found, BaseAlgorithm)):
        raise UserError(f"algorithm {name!r} must be a class of Stable-Baselines3's kind, got {found!r}")
    return found


def check_device(name: str) -> None:
    """Raise unless torch has the device.

    Raises:
        UserError: it does not.
    """
    try:
        torch.empty(0, device=pick_device(name))
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} cannot be used: {error}") from error


def find_policy(algorithm: type[BaseAlgorithm], space: spaces.Space[Any]) -> str:
    """Return the name of the algorithm's own policy for vector observations."""
    kind = "MultiInput" if isinstance(space, spaces.Dict) else "Mlp"
    names = (f"{kind}Policy", f"{kind}LstmPolicy")
    return next((name for name in names if name in algorithm.policy_aliases), names[0])
