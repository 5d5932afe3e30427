"""Gymnasium's arms in MuJoCo: Reacher and Pusher. Lengths are in m; costs are of the action as given, not clipped.

Version 5 pays for the state after the step; Reacher-v4 pays for the one before it, by its observation of width 11.
Both read the positions from the same record as the observation does, so that the rewards are exact.
"""

import torch
from torch import Tensor

from mbrl_gym.tasks.common import check_width

_DEFAULT = "pass the environment's own observations, or a function of your own"


def reacher_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Return [B]: -|fingertip - target| - |action|^2 of the state AFTER the step.

    The observation is (cos, sin of both joints, target x y, both joint velocities, fingertip - target x y).
    Source: gymnasium/envs/mujoco/reacher_v5.py.

    Raises:
        ValueError: the observation is not 10 numbers wide.
    """
    check_width("the reward of Reacher-v5", _DEFAULT, (10,), next_obs)
    return (-_length(next_obs[..., 8:10]) - _effort(action)).float()


def reacher_v4_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Return [B]: -|fingertip - target| - |action|^2 of the state BEFORE the step, in three dimensions.

    Source: gymnasium/envs/mujoco/reacher_v4.py.

    Raises:
        ValueError: the observation is not 11 numbers wide.
    """
    check_width("the reward of Reacher-v4", _DEFAULT, (11,), obs)
    return (-_length(obs[..., 8:11]) - _effort(action)).float()


def pusher_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Return [B]: -|object - goal| - 0.5 |object - fingertip| - 0.1 |action|^2 of the state AFTER the step.

    The observation is (7 joint angles, 7 joint velocities, fingertip, object and goal x y z).
    Source: gymnasium/envs/mujoco/pusher_v5.py.

    Raises:
        ValueError: the observation is not 23 numbers wide.
    """
    check_width("the reward of Pusher-v5", _DEFAULT, (23,), next_obs)
    fingertip, thing, goal = next_obs[..., 14:17], next_obs[..., 17:20], next_obs[..., 20:23]
    return (-_length(thing - goal) - 0.5 * _length(thing - fingertip) - 0.1 * _effort(action)).float()


def _length(x: Tensor) -> Tensor:
    """Return [B] from [B, 2 or 3]; torch's norm has the gradient 0, not NaN, where the length is 0."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return length


def _effort(action: Tensor) -> Tensor:
    return action.square().sum(-1)
