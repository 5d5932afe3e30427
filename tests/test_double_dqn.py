"""Double Q-learning: its targets, its files, and its place in Dyna."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN

from mbrl_gym import EnsembleConfig, TrainerConfig
from mbrl_gym.agents import BranchedRollouts, DoubleDQN, Dyna

FILLED: dict[str, Any] = {"learning_starts": 10, "buffer_size": 64, "device": "cpu", "seed": 0}


def filled(kind: type[DQN]) -> Any:
    """Return a learner with 64 transitions and two networks that disagree."""
    dqn: Any = kind("MlpPolicy", "CartPole-v1", **FILLED, train_freq=1000).learn(64)
    last = list(dqn.q_net_target.parameters())[-2]
    last.data.copy_(last.data.flip(0))  # the actions' values change places
    return dqn


def loss_of(dqn: Any) -> float:
    """Return the loss of one update, on the same batch for every learner."""
    np.random.seed(0)
    dqn.train(1, 32)
    return float(dqn.logger.name_to_value["train/loss"])


def test_the_choice_is_the_online_networks_and_the_value_the_targets() -> None:
    dqn = filled(DoubleDQN)
    np.random.seed(0)
    batch = dqn.replay_buffer.sample(32)
    with torch.no_grad():
        online, other = dqn.q_net(batch.next_observations), dqn.q_net_target(batch.next_observations)
        value = other[torch.arange(32), online.argmax(1)][:, None]
        target = batch.rewards + (1 - batch.dones) * 0.99 * value
        error = dqn.q_net(batch.observations).gather(1, batch.actions) - target
        expected = torch.where(error.abs() < 1, error**2 / 2, error.abs() - 0.5).mean()
    assert bool((online.argmax(1) != other.argmax(1)).any())
    assert loss_of(dqn) == pytest.approx(float(expected), rel=1e-5)
    assert loss_of(filled(DQN)) != pytest.approx(float(expected), rel=1e-2)


def test_where_the_networks_agree_it_is_dqn() -> None:
    both = []
    for kind in (DQN, DoubleDQN):
        dqn: Any = kind("MlpPolicy", "CartPole-v1", **FILLED, train_freq=1000).learn(64)
        np.random.seed(0)
        dqn.train(1, 32)
        both.append([p.detach().clone() for p in dqn.q_net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))


def test_its_files_load_as_stock_dqn(tmp_path: Path) -> None:
    dqn = DoubleDQN("MlpPolicy", "CartPole-v1", **FILLED).learn(80)
    dqn.save(tmp_path / "dqn")
    obs = np.stack([gym.make("CartPole-v1").reset(seed=s)[0] for s in range(8)])
    stock = DQN.load(tmp_path / "dqn", device="cpu")
    assert np.array_equal(stock.predict(obs, deterministic=True)[0], dqn.predict(obs, deterministic=True)[0])


def test_in_dyna_it_resumes_exactly(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "algorithm": DoubleDQN,
        "model_config": EnsembleConfig(members=2, hidden=(16,)),
        "trainer_config": TrainerConfig(max_updates=20),
        "rollouts": BranchedRollouts(rollouts_per_step=4, updates_per_step=1),
        "learning_starts": 40,
        "train_freq": 20,
        "device": "cpu",
        "seed": 0,
    }
    agent = Dyna("MlpPolicy", "CartPole-v1", **arguments).learn(60)
    agent.save(tmp_path / "run")
    loaded = Dyna.load(tmp_path / "run", env="CartPole-v1", device="cpu")
    assert type(loaded.algorithm) is DoubleDQN
    both = (a.learn(30, reset_num_timesteps=False).policy.parameters() for a in (agent, loaded))
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))
