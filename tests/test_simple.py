"""SimPLe on a game of a ball that actions push: the loop, the policy's stack, resuming."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from mbrl_gym import ModelTrainer, TrainerConfig
from mbrl_gym.agents import SimPLe
from mbrl_gym.envs.view import FrameStack
from mbrl_gym.models.video import VideoModel
from mbrl_gym.models.video_config import VideoConfig
from mbrl_gym.store import save_model

VIEW = FrameStack(stack=2, height=36, width=36)
QUICK: dict[str, Any] = {
    "view": VIEW,
    "model_config": VideoConfig(
        colours=3, patch=(3, 3), channels=(8, 12), blocks=1, embedding=12, codes=4, frames=3, context=4
    ),
    "trainer_config": TrainerConfig(learning_rate=3e-3, batch_size=4, length=6, holdout=0.0),
    "model_updates": (6, 3),
    "algorithm_kwargs": {"n_steps": 8, "batch_size": 16, "n_epochs": 1},
    "learning_starts": 40,
    "train_freq": 20,
    "dream_steps": 32,
    "dream_envs": 4,
    "dream_horizon": 8,
    "dream_starts": 20,
    "policy_kwargs": {"features_extractor_kwargs": {"features_dim": 16}},
    "seed": 0,
    "device": "cpu",
}


class Push(gym.Env[Any, Any]):
    """A ball of 2 x 2 pixels that actions 0, 1, 2 push left, nowhere, right; it pays 1 at the right border."""

    def __init__(self, layout: str = "plain") -> None:
        shape = {"plain": (12, 12), "last": (12, 12, 1), "first": (1, 12, 12)}[layout]
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Discrete(3)
        self.column, self.steps = 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.column, self.steps = int(self.np_random.integers(11)), 0
        return self._screen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.column = int(np.clip(self.column + int(action) - 1, 0, 10))
        self.steps += 1
        return self._screen(), float(self.column == 10), False, self.steps == 15, {}

    def _screen(self) -> Any:
        screen = np.full((12, 12), 50, np.uint8)
        screen[5:7, self.column : self.column + 2] = 236
        return screen.reshape(self.observation_space.shape)


def trained(steps: int = 70, envs: int = 2, **change: Any) -> SimPLe:
    """Return an agent after some real steps."""
    env = DummyVecEnv([Push] * envs)
    return SimPLe("CnnPolicy", env, **{**QUICK, **change}).learn(steps)


def weights(agent: SimPLe) -> list[torch.Tensor]:
    """Return all weights of model and policy."""
    return [*agent.model.state_dict().values(), *agent.algorithm.policy.state_dict().values()]


def test_it_alternates_by_schedule() -> None:
    agent = trained(80)
    assert agent.num_timesteps == 80
    assert agent.trainings == 3  # at 40, 60 and 80
    assert agent.trainer.updates == 6 + 3 + 3
    assert agent.imagined_timesteps == 3 * 32
    assert agent.model.palette.used == 2
    assert agent.last_fit is not None
    assert agent.last_fit.terms.keys() >= {"pixels", "latent", "reward", "wrong_pixels"}


def test_dreams_show_stacks_and_end_as_truncated_at_the_horizon() -> None:
    agent = trained()
    env: Any = agent.algorithm.env
    assert env.observation_space == spaces.Box(0, 255, (2, 36, 36), np.uint8)
    agent.dream.reset()
    for step in range(1, 9):
        obs, _, terminated, truncated, _ = agent.dream.step(np.zeros(4, int))
        assert obs.shape == (4, 2, 36, 36)
        assert not terminated.any()
        assert truncated.all() == truncated.any() == (step == 8)


def test_the_replay_keeps_each_picture_once_and_the_policy_sees_stacks() -> None:
    agent = trained()
    assert agent.replay.observation_space == spaces.Box(0, 255, (12, 12), np.uint8)
    first, second = (np.random.default_rng(i).integers(0, 256, (2, 12, 12)).astype(np.uint8) for i in (0, 1))
    _, state = agent.predict(first)
    assert state is not None
    resized = VIEW.resized(first[..., None])[:, 0]
    assert np.array_equal(state[0], np.stack([resized, resized], 1))  # as if it had been there before
    _, state = agent.predict(second, state, np.array([False, True]))
    again = VIEW.resized(second[..., None])[:, 0]
    assert np.array_equal(state[0][0], np.stack([resized[0], again[0]]))  # type: ignore[index]
    assert np.array_equal(state[0][1], np.stack([again[1], again[1]]))  # type: ignore[index]
    action, _ = agent.predict(first[0], deterministic=True)
    assert agent.action_space.contains(int(action))
    evaluate_policy(agent, agent.get_env(), 2)


def test_what_is_exported_plays_stacks(tmp_path: Path) -> None:
    agent = trained()
    agent.export_sb3(tmp_path / "ppo.zip")
    stacks = np.random.default_rng(0).integers(0, 256, (5, 2, 36, 36)).astype(np.uint8)
    actions = PPO.load(tmp_path / "ppo.zip", device="cpu").predict(stacks, deterministic=True)[0]
    assert np.array_equal(actions, agent.algorithm.predict(stacks, deterministic=True)[0])


def test_the_same_seed_twice_is_bit_equal() -> None:
    assert all(torch.equal(a, b) for a, b in zip(weights(trained()), weights(trained()), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(weights(trained()), weights(trained(seed=1)), strict=True))


def test_stopping_saving_loading_and_going_on_equals_going_on(tmp_path: Path) -> None:
    agent = trained(60)
    agent.save(tmp_path / "agent")
    again = SimPLe.load(tmp_path / "agent", DummyVecEnv([Push] * 2), device="cpu")
    assert (again.view, again.model_updates, again.dream_starts) == (VIEW, (6, 3), 20)
    assert again.model.config == agent.model.config
    for one in (agent, again):
        one.learn(40, reset_num_timesteps=False)
    assert all(torch.equal(a, b) for a, b in zip(weights(agent), weights(again), strict=True))


def test_its_model_is_a_learned_environment_that_shows_stacks(tmp_path: Path) -> None:
    stored = trained().stored_model()
    assert stored.view == {"stack": 2, "height": 36, "width": 36}
    save_model(tmp_path / "m", stored)
    env = gym.make("Learned-Pong", checkpoint=str(tmp_path / "m"), device="cpu")
    assert env.observation_space == spaces.Box(0, 255, (2, 36, 36), np.uint8)
    assert env.reset(seed=0)[0] in env.observation_space


@pytest.mark.parametrize("layout", ["plain", "last", "first"])
def test_pictures_of_any_layout_are_learned(layout: str) -> None:
    agent = SimPLe("CnnPolicy", Push(layout), **QUICK).learn(60)
    assert agent.trainings == 2


def test_an_id_of_ale_is_its_screen_with_clipped_rewards() -> None:
    agent = SimPLe("CnnPolicy", "ALE/Pong-v5", seed=0, device="cpu", learning_starts=10_000, buffer_size=200)
    assert (agent.model.palette.height, agent.model.palette.width) == (210, 160)
    assert agent.real_id == "ALE/Pong-v5"
    assert agent.dream.single_observation_space == spaces.Box(0, 255, (4, 84, 84), np.uint8)
    agent.learn(30)
    assert agent.replay.n_transitions == 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_updates": (0, 3)}, r"model_updates must be two numbers of at least 1, got \(0, 3\)"),
        ({"dream_starts": 0}, "dream_starts must be at least 1 context, got 0"),
        ({"dream_steps": 0}, "dream_steps must be at least 1, got 0"),
        ({"env": "CartPole-v1"}, "observation_space must be a uint8 Box"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimPLe("CnnPolicy", **{"env": Push(), **QUICK, **change})


def test_a_model_is_trained_on_drawn_windows_as_the_seed_says() -> None:
    replay = trained(40).replay
    with pytest.raises(ValueError, match="updates must be at least 1, got 0"):
        trained(40).trainer.fit_to_draws(replay, 0)
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        model = VideoModel(replay.observation_space, replay.action_space, QUICK["model_config"])
        seen: list[tuple[int, float]] = []
        trainer = ModelTrainer(model, QUICK["trainer_config"], seed=3)
        report = trainer.fit_to_draws(replay, 5, lambda epoch, loss, error, seen=seen: seen.append((epoch, loss)))
        assert [epoch for epoch, _ in seen] == [1, 2, 3, 4, 5]
        assert (report.updates, report.windows, trainer.updates) == (5, 20, 5)
        losses.append([loss for _, loss in seen])
    assert losses[0] == losses[1]


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    agent = trained(40)
    with torch.no_grad():
        agent.model.encoder.cells.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="the model's loss became nan"):
        agent.trainer.fit_to_draws(agent.replay, 2)
