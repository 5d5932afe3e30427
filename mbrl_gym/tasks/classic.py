"""Gymnasium's classic control: Pendulum and CartPole."""

import math

import torch
from torch import Tensor

from mbrl_gym.tasks.common import check_width

_DEFAULT = "pass the environment's own observations, or a function of your own"


def pendulum_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Return [B]: -(angle^2 + 0.1 velocity^2 + 0.001 torque^2) of the state and torque BEFORE the step.

    The observation is (cos angle, sin angle, velocity in rad/s); the angle is 0 upright and in [-pi, pi]. The torque is
    clipped to [-2, 2] N m as the environment clips it. Where cosine and sine are both within 1e-6 of 0, which no
    real observation is but a prediction may be, the angle counts as their sine, so as 0.
    Source: gymnasium/envs/classic_control/pendulum.py.

    Raises:
        ValueError: the observation is not three numbers wide.
    """
    check_width("the reward of Pendulum", _DEFAULT, (3,), obs)
    cosine, sine, velocity = obs.unbind(-1)
    nowhere = cosine.square() + sine.square() < 1e-12  # atan2's gradient overflows there
    angle = torch.atan2(sine, torch.where(nowhere, 1.0, cosine))  # [B], within 1e-6 of 0 there
    torque = action[..., 0].clamp(-2.0, 2.0)
    return -(angle.square() + 0.1 * velocity.square() + 0.001 * torque.square()).float()


def cartpole_termination(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Return [B] bool: the cart is beyond 2.4 m or the pole beyond 12 degrees AFTER the step.

    The environment decides in float64 and shows float32, so that a state within one rounding (1e-7) of a border may be
    judged otherwise.
    Source: gymnasium/envs/classic_control/cartpole.py.

    Raises:
        ValueError: the observation is not four numbers wide.
    """
    check_width("the termination of CartPole", _DEFAULT, (4,), next_obs)
    return (next_obs[..., 0].abs() > 2.4) | (next_obs[..., 2].abs() > 12 * 2 * math.pi / 360)
