"""TrueDynamics: the real MuJoCo simulator as a world model, so that a planner can plan on the truth.

OMP_NUM_THREADS=1 python benchmarks/true_dynamics.py       # prints microseconds a row a step
"""

import argparse
import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pets_cartpole
import torch
from gymnasium import spaces
from gymnasium.envs.mujoco import MujocoEnv
from mujoco import rollout
from torch import Tensor

from mbrl_gym import ModelLoss, Prediction, SequenceBatch, TensorStruct, WorldModel
from mbrl_gym.tasks import known_reward, known_termination


@dataclass(frozen=True)
class TrueDynamicsConfig:
    """Which environment: a Gymnasium id whose observation is (qpos, qvel) and whose task is known to mbrl_gym.tasks."""

    env_id: str = pets_cartpole.ID


@dataclass(frozen=True)
class SimulatorState(TensorStruct):
    """The simulator's own state.

    Attributes:
        obs: [B, D] float64, (qpos, qvel): float32 would lose 1e-7 a step to rounding.
    """

    obs: Tensor


class TrueDynamics(WorldModel[SimulatorState]):
    """The environment's own physics, reward and end, without its time limit. Nothing is learned or differentiable.

    All rows step in one call of `mujoco.rollout` on the calling thread, always on the CPU.
    The solver starts cold at each step while the environment's own starts from its last solution: while a joint is at
    its limit the two differ by the solver's tolerance, else not at all.

    Raises:
        ValueError: the environment is no MuJoCo environment whose observation is (qpos, qvel), its spaces are others,
            or its task is not known.
    """

    config_class = TrueDynamicsConfig

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: TrueDynamicsConfig | None = None,
    ) -> None:
        config = TrueDynamicsConfig() if config is None else config
        super().__init__(observation_space, action_space, config)
        env = gym.make(config.env_id)
        simulated = env.unwrapped
        if not isinstance(simulated, MujocoEnv) or not _shows_its_state(simulated):
            raise ValueError(
                f"env_id must name a MuJoCo environment whose observation is (qpos, qvel), got {config.env_id!r}; "
                "PETSCartpole-v0 and InvertedPendulum-v5 are"
            )
        if env.observation_space != observation_space or env.action_space != action_space:
            got = f"{observation_space} and {action_space}"
            raise ValueError(f"the spaces must be those of {config.env_id}, got {got}; use TrueDynamics.of(env_id)")
        self.reward, self.termination = known_reward(config.env_id), known_termination(config.env_id)
        self.simulator, self.frame_skip = simulated.model, simulated.frame_skip
        self.scratch = mujoco.MjData(self.simulator)
        env.close()

    @classmethod
    def of(cls, env_id: str) -> "TrueDynamics":
        """Return the true dynamics of the environment ``env_id``."""
        env = gym.make(env_id)
        env.close()
        return cls(env.observation_space, env.action_space, TrueDynamicsConfig(env_id))

    def initial(self, batch_size: int) -> SimulatorState:
        """Return the simulator's rest position [B]."""
        rest = np.concatenate([self.simulator.qpos0, np.zeros(self.simulator.nv)])
        return SimulatorState(torch.as_tensor(rest).repeat(batch_size, 1))

    def observe(
        self,
        state: SimulatorState,
        action: Tensor,
        obs: Any,
        is_first: Tensor,
        generator: torch.Generator | None = None,
    ) -> SimulatorState:
        """Return what was observed, which is everything."""
        return SimulatorState(obs.double())

    def predict(
        self,
        state: SimulatorState,
        action: Tensor,
        generator: torch.Generator | None = None,
        sample: bool = True,
        uncertainty: bool = True,
    ) -> tuple[SimulatorState, Prediction]:
        """Return the state after one step of the environment; a row that holds NaN or infinity is diverged."""
        control = self.action_codec.decode(action.detach())  # [B, A] in the environment's units
        broken = ~(torch.isfinite(state.obs).all(-1) & torch.isfinite(control).all(-1))
        before, control = state.obs.masked_fill(broken[:, None], 0.0), control.masked_fill(broken[:, None], 0.0)
        after = torch.as_tensor(self._simulate(before.cpu().numpy(), control.cpu().numpy())).to(state.obs.device)
        broken = broken | ~torch.isfinite(after).all(-1)
        after = torch.where(broken[:, None], before, after)
        terminated = self.termination(before, control, after) & ~broken
        reward = self.reward(before, control, after).masked_fill(broken, 0.0)
        nothing = torch.zeros_like(reward)
        prediction = Prediction(reward, terminated, broken, 1.0 - terminated.float(), nothing, {"diverged": broken})
        return SimulatorState(after), prediction

    def features(self, state: SimulatorState) -> Tensor:
        """Return [B, D] float32, the observation."""
        return state.obs.float()

    def decode(self, state: SimulatorState) -> Tensor:
        """Return [B, D] float64, the observation."""
        return state.obs

    def loss(self, batch: SequenceBatch, start: SimulatorState | None = None) -> ModelLoss[SimulatorState]:
        """Raise: the truth has nothing to learn."""
        raise NotImplementedError("TrueDynamics has nothing to learn; plan on it")

    def _simulate(self, obs: np.ndarray[Any, Any], control: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return [B, D] after ``frame_skip`` physics steps from ``obs`` [B, D] under ``control`` [B, A]."""
        rows = len(obs)
        full = np.concatenate([np.zeros((rows, 1)), obs], axis=1)  # MuJoCo's state begins with the time
        held = np.broadcast_to(control[:, None].astype(np.float64), (rows, self.frame_skip, control.shape[1]))
        states, _ = rollout.rollout(self.simulator, self.scratch, full, held)
        return np.ascontiguousarray(states[:, -1, 1:])


def _shows_its_state(env: MujocoEnv) -> bool:
    obs, _ = env.reset(seed=0)
    full = mujoco.mj_stateSize(env.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    return np.array_equal(obs, env.state_vector()) and full == 1 + len(obs)


def main() -> None:
    """Print how long a step takes, by the number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", default=pets_cartpole.ID)
    model = TrueDynamics.of(parser.parse_args().env_id)
    torch.set_num_threads(1)
    for rows in (1, 100, 1_000, 10_000):
        state, action = model.initial(rows), model.action_codec.sample(rows)
        state = SimulatorState(state.obs + 0.1 * torch.randn(state.obs.shape, dtype=torch.float64))
        took = []
        for _ in range(15):
            began = time.perf_counter()
            state, _ = model.predict(state, action)
            took.append(time.perf_counter() - began)
        print(f"{rows:6d} rows: {np.median(took) / rows * 1e6:8.2f} microseconds a row a step")


if __name__ == "__main__":
    main()
