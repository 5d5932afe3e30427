"""PETSCartpole-v0: the cart-pole swing-up on which PETS was published, with the physics of its own simulation.

    import pets_cartpole                     # with benchmarks/ on the path; registers the id and the task's functions
    env = gym.make("PETSCartpole-v0")

Source: Chua et al. 2018, "Deep Reinforcement Learning in a Handful of Trials", and the environment released with it.
"""

from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.mujoco import MujocoEnv
from numpy.typing import NDArray
from torch import Tensor

from mbrl_gym.tasks import register_reward, register_termination
from mbrl_gym.tasks.common import check_width, never

ID = "PETSCartpole-v0"
ASSET = Path(__file__).resolve().parent / "assets" / "pets_cartpole.xml"
POLE = 0.6
"""Length of the pole in m, height of the goal above the rail, and the length scale of the reward."""


class PETSCartpole(MujocoEnv):
    """A pole that hangs from a cart, to be swung up and held over the middle of the rail.

    Observation [4] float64: x in m, theta in rad (0 hangs down, grows without bound), their velocities per second.
    Action [1]: -3 .. 3, of 100 N each, held for two physics steps of 0.02 s. Never terminates; 200 steps by TimeLimit.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
        "render_fps": 25,
    }

    def __init__(self, **kwargs: Any) -> None:
        camera = {"lookat": np.zeros(3), "distance": 5.0, "elevation": -10.0, "azimuth": 90.0}
        kwargs = {"default_camera_config": camera, **kwargs}
        observations = spaces.Box(-np.inf, np.inf, (4,), np.float64)
        super().__init__(str(ASSET), frame_skip=2, observation_space=observations, **kwargs)

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Return the next observation, the reward of it and of the action, and never an end."""
        self.do_simulation(action, self.frame_skip)
        obs = self.state_vector()
        x, theta = obs[:2]
        miss = (x - POLE * np.sin(theta)) ** 2 + (-POLE * np.cos(theta) - POLE) ** 2
        reward = np.exp(-miss / POLE**2) - 0.01 * np.square(action, dtype=np.float64).sum()
        if self.render_mode == "human":
            self.render()
        return obs, float(reward), False, False, {}

    def reset_model(self) -> NDArray[np.float64]:
        """Return the first observation, hanging still but for noise of N(0, 0.1) on all four numbers."""
        noise = self.np_random.normal(0.0, 0.1, 4)
        self.set_state(self.init_qpos + noise[:2], self.init_qvel + noise[2:])
        return self.state_vector()


def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Return [B]: exp(-|tip - goal|^2 / 0.6^2) - 0.01 action^2 of the state AFTER the step; goal (0, 0.6) m.

    Args:
        obs: unused.
        action: [B, 1] in the environment's own units, -3 .. 3.
        next_obs: [B, 4].

    Raises:
        ValueError: the observation is not four numbers wide.
    """
    check_width(f"the reward of {ID}", "pass the environment's own observations", (4,), next_obs)
    x, theta = next_obs[..., 0], next_obs[..., 1]
    miss = (x - POLE * torch.sin(theta)).square() + (POLE * torch.cos(theta) + POLE).square()
    return (torch.exp(-miss / POLE**2) - 0.01 * action.square().sum(-1)).float()


def register() -> None:
    """Register the environment, its reward and its termination; a second call changes nothing."""
    if ID not in gym.registry:
        gym.register(ID, entry_point=f"{__name__}:PETSCartpole", max_episode_steps=200)
    register_reward(ID, reward, overwrite=True)
    register_termination(ID, never, overwrite=True)


register()
