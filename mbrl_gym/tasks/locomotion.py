"""Gymnasium's walking robots in MuJoCo: HalfCheetah, Hopper, Walker2d and Ant; and the falls of Humanoid.

They are paid for the displacement of a position that their default observations leave out. So each has two rewards:
"HalfCheetah-v5" is exact and needs the position in the observation; "HalfCheetah-v5:velocity" takes the default one and
approximates the mean velocity of the step by the velocities at its two ends.

Measured on MuJoCo 3.17 as tests/test_tasks.py does again: 3000 steps of random actions, and 1000 fast ones (from up to
5 m/s either way, full torques held for five steps). The mean absolute error of the reward, in percent of the mean
|velocity| of the same steps, and the largest error, all in m/s:

    HalfCheetah-v5:velocity   random 0.061  (12 %, 0.69)    fast 0.079  (10 %, 0.66)
    Hopper-v5:velocity        random 0.0015 (0.4 %, 0.04)   fast 0.0044 (0.2 %, 0.10)
    Walker2d-v5:velocity      random 0.0077 (0.9 %, 0.13)   fast 0.021  (0.7 %, 0.43)
    Ant-v5:velocity           random 0.059  (10 %, 0.71)    fast 0.062  (7 %, 0.77)
    Ant-v5                    random 0.005  (0.8 %, 0.11)   because the environment pays for a copy of the torso's
                              position that lags within the last substep; exact in the other terms

HalfCheetah takes 0.7 of the newer velocity, the best of 0.4, 0.5 ... 1 (0.144 with 0.5, 0.231 with 1); the others 0.5.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mbrl_gym.tasks.common import check_width


def _always_healthy(posture: Tensor) -> Tensor:
    return torch.ones_like(posture[..., 0], dtype=torch.bool)


def _hopper_healthy(posture: Tensor) -> Tensor:
    # The environment also demands |velocity| < 100, of which the observation shows only the clip to 10.
    height, angle, rest = posture[..., 0], posture[..., 1], posture[..., 1:]
    return (height > 0.7) & (angle.abs() < 0.2) & (rest.abs() < 100.0).all(-1)


def _walker_healthy(posture: Tensor) -> Tensor:
    height, angle = posture[..., 0], posture[..., 1]
    return (height > 0.8) & (height < 2.0) & (angle.abs() < 1.0)


def _ant_healthy(posture: Tensor) -> Tensor:
    height = posture[..., 0]
    return torch.isfinite(posture).all(-1) & (height >= 0.2) & (height <= 1.0)


def _humanoid_healthy(posture: Tensor) -> Tensor:
    height = posture[..., 0]
    return (height > 1.0) & (height < 2.0)


@dataclass(frozen=True)
class Locomotion:
    """Rewards and terminations of one robot, each (obs [B, D], action [B, A], next_obs [B, D]) -> [B].

    Lengths are in m, angles in rad, times in s. Gradients pass through the velocity and the costs.
    Source: gymnasium/envs/mujoco/half_cheetah_v5.py, hopper_v5.py, walker2d_v5.py, ant_v5.py, humanoid_v5.py.

    Attributes:
        name: for messages.
        width: of an observation with the position in it.
        hidden: how many leading numbers (x, or x and y) the default observation leaves out.
        healthy: the posture [B, D - hidden], which begins with the height -> [B] bool; what ends an episode.
        velocity: index of the velocity along x in an observation with the position.
        seconds: of one step.
        healthy_reward: paid while healthy.
        control_weight: of the squared action.
        contacts: how many numbers at the end of the observation are contact forces, already clipped to [-1, 1].
        contact_weight: of the squared contact forces.
        new_velocity_weight: of the velocity after the step in the approximation; the rest is of the one before.
    """

    name: str
    width: int
    hidden: int
    healthy: Callable[[Tensor], Tensor]
    velocity: int = 0
    seconds: float = 1.0
    healthy_reward: float = 0.0
    control_weight: float = 0.0
    contacts: int = 0
    contact_weight: float = 0.0
    new_velocity_weight: float = 0.5

    def reward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """Return [B] float32: the environment's reward, from observations with the position.

        Positions in float32 have steps that grow with |x|: the reward is exact to |x| * 1.2e-7 / ``seconds``.

        Raises:
            ValueError: the observation lacks the position.
        """
        remedy = (
            "make the environment with exclude_current_positions_from_observation=False, "
            f'or take the approximation "{self.name}:velocity"'
        )
        check_width(f'the exact reward "{self.name}"', remedy, (self.width,), obs, next_obs)
        return self._paid((next_obs[..., 0] - obs[..., 0]) / self.seconds, action, next_obs)

    def velocity_reward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """Return [B] float32: the reward with the mean velocity of the step approximated, from default observations.

        The module's docstring has the measured errors.

        Raises:
            ValueError: the observation is not the default one.
        """
        remedy = f'pass the default observations, or take the exact "{self.name}" where they hold the position'
        check_width(
            f'the approximate reward "{self.name}:velocity"', remedy, (self.width - self.hidden,), obs, next_obs
        )
        index = self.velocity - self.hidden
        return self._paid(torch.lerp(obs[..., index], next_obs[..., index], self.new_velocity_weight), action, next_obs)

    def termination(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """Return [B] bool: the robot is not healthy AFTER the step. Takes observations with and without the position.

        Raises:
            ValueError: the observation has another width.
        """
        return ~self.healthy(self._posture(next_obs))

    def _posture(self, obs: Tensor) -> Tensor:
        remedy = "pass observations of Gymnasium's default settings, or a function of your own"
        check_width(f'"{self.name}"', remedy, (self.width - self.hidden, self.width), obs)
        return obs[..., obs.shape[-1] - self.width + self.hidden :]

    def _paid(self, velocity: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        reward = velocity - self.control_weight * action.square().sum(-1)
        if self.healthy_reward:
            reward = reward + self.healthy_reward * self.healthy(self._posture(next_obs))
        if self.contacts:
            reward = reward - self.contact_weight * next_obs[..., -self.contacts :].square().sum(-1)
        return reward.float()


HALF_CHEETAH = Locomotion(
    "HalfCheetah-v5", 18, 1, _always_healthy, 9, seconds=0.05, control_weight=0.1, new_velocity_weight=0.7
)
HALF_CHEETAH_V4 = replace(HALF_CHEETAH, name="HalfCheetah-v4")
HOPPER = Locomotion("Hopper-v5", 12, 1, _hopper_healthy, 6, seconds=0.008, healthy_reward=1.0, control_weight=1e-3)
WALKER2D = Locomotion("Walker2d-v5", 18, 1, _walker_healthy, 9, seconds=0.008, healthy_reward=1.0, control_weight=1e-3)
ANT = Locomotion(
    "Ant-v5",
    107,
    2,
    _ant_healthy,
    15,
    seconds=0.05,
    healthy_reward=1.0,
    control_weight=0.5,
    contacts=78,
    contact_weight=5e-4,
)
HUMANOID = Locomotion("Humanoid-v5", 350, 2, _humanoid_healthy)
