"""DARTNoise: the covariance by hand, the noise that it makes in reality, exact resume."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from mbrl_gym import EnsembleConfig, TrainerConfig
from mbrl_gym.agents import BranchedRollouts, DARTNoise, Dyna, LeanSAC
from mbrl_gym.packing import same_numbers

SMALL: dict[str, Any] = {
    "model_config": EnsembleConfig(members=2, hidden=(16,)),
    "trainer_config": TrainerConfig(max_updates=20),
    "learning_starts": 40,
    "train_freq": 20,
    "device": "cpu",
    "seed": 0,
}


class Plane(gym.Env[Any, Any]):
    """Three numbers, two actions between -2 and 2."""

    observation_space = spaces.Box(-9, 9, (3,), np.float32)
    action_space = spaces.Box(-2, 2, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        return self.np_random.normal(size=3).astype(np.float32), float(-np.square(action).sum()), False, False, {}


def agent(exploration: DARTNoise | None, env: Any = None, algorithm: Any = LeanSAC, **change: Any) -> Dyna:
    rollouts = BranchedRollouts(rollouts_per_step=4, updates_per_step=1)
    chosen = {"rollouts": rollouts} if algorithm is not PPO else {"dream_steps": 64, "dream_envs": 4}
    return Dyna(
        "MlpPolicy", env or Plane(), algorithm=algorithm, exploration=exploration, **{**SMALL, **chosen, **change}
    )


def explorer(of: Dyna) -> Any:
    assert of._explorer is not None
    return of._explorer


def test_the_covariance_is_that_of_the_policys_change() -> None:
    dyna = agent(DARTNoise(scale=2.0, least=0.1)).learn(60)
    assert np.allclose(explorer(dyna)._chosen, explorer(dyna)._choices(explorer(dyna)._seen))
    newest = dyna.replay.starts().obs[-256:, 0]  # type: ignore[index]
    assert torch.equal(explorer(dyna)._seen, newest)
    before = explorer(dyna)._choices(newest)
    with torch.no_grad():
        for parameter in dyna.policy.parameters():
            parameter.add_(0.05)
    change = explorer(dyna)._choices(newest) - before
    explorer(dyna).follow()
    expected = 4 * sum(np.outer(row, row) for row in change) / len(change) + 0.01 * np.eye(2)
    np.testing.assert_allclose(explorer(dyna).covariance, expected, rtol=1e-6)


def test_the_newest_states_are_those_of_every_environment() -> None:
    class Tired(Plane):
        """Its episodes end after three steps, so that it has more rows than others."""

        steps = 0

        def step(self, action: Any) -> Any:
            self.steps += 1
            return *super().step(action)[:2], self.steps % 3 == 0, False, {}

    env = DummyVecEnv([Plane, Tired, Plane])
    env.envs[2].step = lambda action: (np.full(3, 7.0, np.float32), 0.0, False, False, {})  # type: ignore[method-assign, attr-defined]
    dyna = agent(DARTNoise(states=6), env=env).learn(60)
    rows, index = dyna.replay.starts().obs[:, 0], dyna.replay.start_rows() % 3  # type: ignore[index]
    newest = [row.tolist() for each in range(3) for row in rows[torch.from_numpy(index == each)][-2:]]
    assert sorted(explorer(dyna)._seen.tolist()) == sorted(newest)


def test_before_the_first_change_only_the_least_noise_is_there() -> None:
    np.testing.assert_allclose(explorer(agent(DARTNoise(least=0.3))).covariance, 0.09 * np.eye(2))
    calm = explorer(agent(DARTNoise()))
    action = np.array([[0.5, -1.0], [0.0, 2.0]], np.float32)
    np.testing.assert_allclose(calm.disturb(action), action, atol=1e-6)


def test_noise_has_the_covariance_on_the_scale_of_one_and_stays_within_the_space() -> None:
    noisy = explorer(agent(DARTNoise()))
    noisy.covariance = np.array([[0.04, 0.02], [0.02, 0.09]])
    noisy.seed(0)
    drawn = noisy.disturb(np.zeros((50_000, 2), np.float32)) / 2  # actions go to 2
    np.testing.assert_allclose(np.cov(drawn.T), noisy.covariance, atol=3e-3)
    noisy.covariance = 100.0 * np.eye(2)
    assert np.abs(noisy.disturb(np.zeros((50, 2), np.float32))).max() == 2.0


def test_it_explores_in_reality_and_every_setting_matters() -> None:
    def actions(exploration: DARTNoise | None, algorithm: Any = LeanSAC) -> torch.Tensor:
        dyna = agent(exploration, algorithm=algorithm).learn(85)
        return dyna.replay.gather(dyna.replay.windows(1), 1).action

    base = actions(DARTNoise(scale=5.0, least=0.1))
    assert torch.equal(base, actions(DARTNoise(scale=5.0, least=0.1)))
    for other in (None, DARTNoise(scale=1.0, least=0.1), DARTNoise(5.0, 0.2), DARTNoise(5.0, 0.1, states=3)):
        assert not torch.equal(base, actions(other)), other
    assert not torch.equal(actions(DARTNoise(least=0.5), PPO), actions(None, PPO))


def test_resume_equals_going_on(tmp_path: Any) -> None:
    dyna = agent(DARTNoise(scale=3.0, least=0.1), env="Pendulum-v1").learn(70)
    dyna.save(tmp_path / "agent")
    loaded = Dyna.load(tmp_path / "agent", env="Pendulum-v1", device="cpu")
    assert loaded.exploration == dyna.exploration
    np.testing.assert_array_equal(explorer(loaded).covariance, explorer(dyna).covariance)
    for other in (dyna, loaded):
        other.learn(40, reset_num_timesteps=False)
    mine, theirs = dyna.get_parameters(), loaded.get_parameters()
    assert all(same_numbers(mine[name], theirs[name]) for name in mine)
    np.testing.assert_array_equal(explorer(loaded).covariance, explorer(dyna).covariance)


def test_bad_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="exploration=DARTNoise needs a Box of actions, got Discrete"):
        agent(DARTNoise(), "CartPole-v1", DQN)
    with pytest.raises(ValueError, match="scale must be at least 0 and finite, got -1"):
        DARTNoise(scale=-1)
    with pytest.raises(ValueError, match="least must be at least 0 and finite, got nan"):
        DARTNoise(least=float("nan"))
    with pytest.raises(ValueError, match="states must be at least 1, got 0"):
        DARTNoise(states=0)
