"""Gymnasium's pendulums on carts in MuJoCo: InvertedPendulum and InvertedDoublePendulum."""

import torch
from torch import Tensor

from mbrl_gym.tasks.common import check_width

_DEFAULT = "pass the environment's own observations, or a function of your own"


def pendulum_termination(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Return [B] bool: AFTER the step the pole leans by more than 0.2 rad, or a number is not finite.

    The observation is (cart in m, pole in rad, their velocities).
    Source: gymnasium/envs/mujoco/inverted_pendulum_v5.py (v4 is the same).

    Raises:
        ValueError: the observation is not four numbers wide.
    """
    check_width("the termination of InvertedPendulum", _DEFAULT, (4,), next_obs)
    return ~torch.isfinite(next_obs).all(-1) | (next_obs[..., 1].abs() > 0.2)


def pendulum_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Return [B]: 1 for a step after which the pole stands, 0 for the one that ends the episode (v4 pays 1 there).

    Source: gymnasium/envs/mujoco/inverted_pendulum_v5.py.
    """
    return (~pendulum_termination(obs, action, next_obs)).float()


def double_pendulum_termination(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Return [B] bool: the tip of the second pole is at most 1 m high AFTER the step.

    The observation is (cart in m, sin of both hinges, cos of both, three velocities, a constraint force). The
    environment takes the height from a record that lags within the last substep: heights differ by 7e-6 m on average
    and by 2e-3 m at most (1,700 random transitions; none was judged otherwise).
    Source: gymnasium/envs/mujoco/inverted_double_pendulum_v5.py.

    Raises:
        ValueError: the observation is not nine numbers wide.
    """
    return _double_pendulum_tip(next_obs)[1] <= 1.0


def double_pendulum_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Return [B]: 10 while alive - 0.01 x^2 - (height - 2)^2 - 0.001 w1^2 - 0.005 w2^2, of the state AFTER the step.

    x and height are the tip's in m, w1 and w2 the hinges' velocities in rad/s, which the observation clips to 10. For
    that and for the lag of `double_pendulum_termination` the reward is off by 2e-4 on average and by 0.15 at most
    (1,700 random transitions, rewards between -4 and 10).
    Source: gymnasium/envs/mujoco/inverted_double_pendulum_v5.py.

    Raises:
        ValueError: the observation is not nine numbers wide.
    """
    x, height = _double_pendulum_tip(next_obs)
    alive = 10.0 * (height > 1.0)
    distance = 0.01 * x.square() + (height - 2.0).square()
    speed = 1e-3 * next_obs[..., 6].square() + 5e-3 * next_obs[..., 7].square()
    return (alive - distance - speed).float()


def _double_pendulum_tip(obs: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and height [B] in m of the tip: two poles of 0.6 m, the second hinge relative to the first."""
    check_width("InvertedDoublePendulum", _DEFAULT, (9,), obs)
    x, sin1, sin2, cos1, cos2 = obs[..., :5].unbind(-1)
    sin12, cos12 = sin1 * cos2 + cos1 * sin2, cos1 * cos2 - sin1 * sin2
    return x + 0.6 * (sin1 + sin12), 0.6 * (cos1 + cos12)
