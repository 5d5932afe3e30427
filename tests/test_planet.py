"""PlaNet as an agent: it plans in beliefs, learns as steps come in, and resumes exactly."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl_gym.agents import OptimizerConfig, PlaNet
from mbrl_gym.agents.belief_policy import explored
from mbrl_gym.agents.planet_presets import PRESETS
from mbrl_gym.models.rssm_config import RSSMConfig
from mbrl_gym.planners import CEMConfig
from mbrl_gym.spaces import ActionCodec

SMALL = {
    "planner": CEMConfig(candidates=8, elites=2, iterations=2, horizon=3, particles=1),
    "model_config": replace(RSSMConfig.planet(), deter=16, hidden=8, stoch=4, units=16, free_nats=0.0),
    "optimizer_config": OptimizerConfig("adam", 1e-3, clip=100.0, warmup=0),
    "batch_size": 4,
    "batch_length": 8,
    "train_ratio": 8.0,
    "learning_starts": 40,
    "log_freq": 50,
    "seed": 0,
    "device": "cpu",
}


def small(env="Pendulum-v1", **change):
    return PlaNet("MlpPolicy", env, **{**SMALL, **change})


def weights(agent):
    return {name: x.clone() for name, x in agent.model.state_dict().items()}


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_it_trains_its_model_and_plans_in_it(env):
    agent = small(env)
    before = weights(agent)
    agent.learn(90)
    assert agent.trainer.updates == pytest.approx(8 * 50 / 32, abs=1)
    assert [n for n, x in weights(agent).items() if torch.equal(x, before[n])] == []
    assert agent.imagined_timesteps > 30 * agent.policy.planner.imagined_steps
    assert agent.policy.model is agent.model  # what is planned in learns on


def test_the_same_seed_is_bit_equal_and_resume_equals_no_stop(tmp_path):
    whole, other = small().learn(60), small().learn(60)
    other.save(tmp_path / "agent")
    loaded = PlaNet.load(tmp_path / "agent", env="Pendulum-v1", device="cpu")
    for agent in (whole, loaded):
        agent.learn(60, reset_num_timesteps=False)
    assert all(torch.equal(x, weights(loaded)[n]) for n, x in weights(whole).items())
    obs = np.array([1.0, 0.0, 0.5], np.float32)
    assert np.array_equal(whole.predict(obs)[0], loaded.predict(obs)[0])
    assert loaded.planner_config == whole.planner_config


def test_its_own_collection_explores_and_predict_does_not():
    agent = small(exploration_noise=0.5).learn(50)
    obs = np.tile(np.array([1.0, 0.0, 0.5], np.float32), (300, 1))
    plain = agent.predict(obs)[0]
    agent._memory, agent._last_episode_starts = None, np.ones(300, bool)
    loud = agent._act(obs)
    assert 0.5 < (loud - plain).std() < 1.2  # of torques in [-2, 2]
    assert np.abs(loud).max() <= 2.0


def test_noise_is_added_in_a_box_and_random_choices_elsewhere():
    rng = torch.Generator().manual_seed(0)
    box = ActionCodec(gym.spaces.Box(-1.0, 1.0, (2,)))
    noisy = explored(box, torch.zeros(100_000, 2), 0.3, rng)
    torch.testing.assert_close(noisy.std(), torch.tensor(0.3), atol=0.01, rtol=0)
    assert explored(box, torch.ones(1000, 2), 0.3, rng).max() == 1.0
    taken = explored(ActionCodec(gym.spaces.Discrete(3)), torch.eye(3)[:1].repeat(100_000, 1), 0.3, rng)
    torch.testing.assert_close((taken[:, 0] == 0).float().mean(), torch.tensor(0.2), atol=0.01, rtol=0)


def test_the_presets_are_whole():
    for preset in PRESETS.values():
        assert preset().planner.horizon in (12, 15)
    published = PRESETS["paper"]()
    assert (published.planner.candidates, published.planner.elites, published.planner.iterations) == (1000, 100, 10)
    assert (published.model.reward_scale, published.model.free_nats, published.model.activation) == (10.0, 3.0, "relu")
    assert published.planner.bounds == "clipped"
    small = PRESETS["cpu"]()
    assert (small.model.reward_scale, small.model.free_nats, small.model.dynamics_scale) == (1.0, 0.0, 0.01)
    assert (small.planner.bounds, small.planner.candidates) == ("clipped", 100)
    PlaNet("MlpPolicy", "Pendulum-v1", preset="paper", device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "gpu"}, "preset must be one of"),
        ({"planner": RSSMConfig()}, "planner must be a configuration of mbrl_gym.planners"),
        ({"exploration_noise": -1.0}, "exploration_noise must be at least 0"),
        ({"policy_kwargs": {"net_arch": [3]}}, "policy_kwargs must be empty"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        small(**change)


def test_no_policy_is_trained():
    with pytest.raises(ValueError, match="policy must be one of"):
        PlaNet("SACPolicy", "Pendulum-v1")
