"""Code that knows nothing of mbrl_gym, on learned environments: each world is made by its id alone."""

import os
import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import wrappers
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from mbrl_gym import publish, zoo

IDS = ["Learned-Pendulum-v1", "Learned-CartPole-v1"]


@pytest.fixture
def models(pendulum, cartpole, home):
    """The ids of IDS, made here where they are not shipped."""
    for env_id, stored in zip(IDS, (pendulum, cartpole), strict=True):
        if env_id not in zoo.shipped_models():
            publish(stored, env_id)


@pytest.mark.parametrize("env_id", IDS)
def test_sb3_learns_from_an_id(env_id, models):
    model = PPO("MlpPolicy", env_id, n_steps=64, batch_size=32, n_epochs=1, seed=0).learn(128)
    mean, _ = evaluate_policy(model, gym.make(env_id), n_eval_episodes=1, warn=False)
    assert np.isfinite(mean)


@pytest.mark.parametrize("env_id", IDS)
def test_sb3s_dummy_vec_env(env_id, models):
    venv = VecNormalize(make_vec_env(env_id, n_envs=3, seed=0, vec_env_cls=DummyVecEnv))
    model = PPO("MlpPolicy", venv, n_steps=64, batch_size=64, n_epochs=1, seed=0).learn(256)
    assert model.num_timesteps >= 256


def test_sb3s_subproc_vec_env_in_spawned_processes(models):
    venv = make_vec_env(
        "mbrl_gym:Learned-Pendulum-v1", 2, seed=0, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "spawn"}
    )
    same = make_vec_env("mbrl_gym:Learned-Pendulum-v1", 2, seed=0)
    try:
        assert np.array_equal(venv.reset(), same.reset())
        for _ in range(5):
            action = np.zeros((2, 1), np.float32)
            assert np.array_equal(venv.step(action)[0], same.step(action)[0])
    finally:
        venv.close()


def test_rl_zoo3_trains_by_the_packages_name(models, python, tmp_path):
    config = tmp_path / "ppo.yml"
    config.write_text("Learned-Pendulum-v1: {n_envs: 2, n_timesteps: 300, policy: MlpPolicy, n_steps: 64, n_epochs: 1}")
    arguments = ["--algo", "ppo", "--env", "Learned-Pendulum-v1", "--gym-packages", "mbrl_gym", "-n", "300"]
    arguments += ["--eval-freq", "-1", "--device", "cpu", "-f", str(tmp_path / "logs"), "--conf-file", str(config)]
    printed = python("-m", "rl_zoo3.train", *arguments)
    assert re.search(r"total_timesteps +\| 384 ", printed)
    assert (tmp_path / "logs" / "ppo" / "Learned-Pendulum-v1_1" / "Learned-Pendulum-v1.zip").is_file()


def test_a_cleanrl_style_loop(models):
    """The environments of CleanRL's ppo_continuous_action.py, and its update with one linear policy."""

    def make_env(gamma=0.99):
        def thunk():
            env = gym.make("mbrl_gym:Learned-Pendulum-v1")
            env = wrappers.FlattenObservation(env)
            env = wrappers.RecordEpisodeStatistics(env)
            env = wrappers.ClipAction(env)
            env = wrappers.NormalizeObservation(env)
            env = wrappers.TransformObservation(env, lambda obs: np.clip(obs, -10, 10), env.observation_space)
            env = wrappers.NormalizeReward(env, gamma=gamma)
            return wrappers.TransformReward(env, lambda reward: np.clip(reward, -10, 10))

        return thunk

    torch.manual_seed(0)
    envs = gym.vector.SyncVectorEnv([make_env() for _ in range(2)])
    assert isinstance(envs.single_action_space, gym.spaces.Box)
    actor = torch.nn.Linear(envs.single_observation_space.shape[0], 1)
    optimizer = torch.optim.Adam(actor.parameters())
    obs, _ = envs.reset(seed=1)
    logprobs, rewards, lengths = [], [], []
    for _ in range(205):
        policy = torch.distributions.Normal(actor(torch.as_tensor(obs, dtype=torch.float32)), 1.0)
        action = policy.sample()
        obs, reward, terminated, _, infos = envs.step(action.numpy())
        assert obs.dtype == np.float32
        assert np.isfinite(obs).all()
        assert not terminated.any()
        logprobs.append(policy.log_prob(action).sum(1))
        rewards.append(torch.as_tensor(reward))
        if "episode" in infos:
            lengths += infos["episode"]["l"][infos["_episode"]].tolist()
    loss = -(torch.stack(logprobs) * torch.stack(rewards)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    assert lengths == [200, 200]
    envs.close()


def test_gymnasiums_async_vector_env(models):
    envs = gym.make_vec("mbrl_gym:Learned-Pendulum-v1", num_envs=2, vectorization_mode="async")
    envs.reset(seed=0)
    assert envs.step(envs.action_space.sample())[0].shape == (2, 3)
    envs.close()


def test_record_video_and_time_limit(models, tmp_path):
    pytest.importorskip("moviepy", reason="Gymnasium writes videos with moviepy")
    env = gym.make("Learned-CartPole-v1", render_mode="rgb_array")
    env = wrappers.RecordVideo(wrappers.TimeLimit(env, 6), str(tmp_path / "videos"), disable_logger=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        env.reset(seed=0)
        for _ in range(6):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        env.close()
    assert truncated
    assert not terminated
    (video,) = (tmp_path / "videos").glob("*.mp4")
    assert os.path.getsize(video) > 1000


def test_frames_are_collected(models):
    env = wrappers.RenderCollection(gym.make("Learned-Pendulum-v1", render_mode="rgb_array"))
    env.reset(seed=0)
    env.step(env.action_space.sample())
    frames = env.render()
    assert len(frames) == 2
    assert frames[0].shape == (500, 500, 3)


def test_record_episode_statistics_and_normalize_observation(models):
    env = wrappers.RecordEpisodeStatistics(wrappers.NormalizeObservation(gym.make("Learned-Pendulum-v1", horizon=7)))
    env.reset(seed=0)
    for _ in range(7):
        *_, truncated, info = env.step(env.action_space.sample())
    assert truncated
    assert info["episode"]["l"] == 7
