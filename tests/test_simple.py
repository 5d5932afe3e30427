"""SimPLe on a game of a ball that actions push: the loop, the policy's stack, resuming."""

import contextlib
from dataclasses import replace
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
from mbrl_gym.agents.simple_policy import SmallCnn
from mbrl_gym.agents.simple_presets import PRESETS
from mbrl_gym.envs.view import FrameStack
from mbrl_gym.models.stochastic_video import StochasticVideoModel
from mbrl_gym.models.stochastic_video_config import StochasticVideoConfig
from mbrl_gym.models.video import VideoModel
from mbrl_gym.models.video_config import VideoConfig
from mbrl_gym.store import save_model
from mbrl_gym.wrappers import AtariSettings

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


def test_each_training_is_as_long_as_planned() -> None:
    agent = trained(80, model_updates=(5, 2, 4), dream_steps=(64, 32))
    assert agent.trainer.updates == 5 + 2 + 4
    assert agent.imagined_timesteps == 64 + 32 + 32


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
    assert (again.view, again.planned_updates, again.dream_starts) == (VIEW, (6, 3), 20)
    assert again.model.config == agent.model.config
    for one in (agent, again):
        one.learn(40, reset_num_timesteps=False)
    assert all(torch.equal(a, b) for a, b in zip(weights(agent), weights(again), strict=True))


def test_an_agent_from_before_there_were_presets_is_loaded() -> None:
    agent = trained(40)
    new = {"preset", "model_class", "part"}
    old = {k: v for k, v in agent._arguments().items() if k not in new} | {"policy": "CnnPolicy", "dream_steps": 32}
    again = SimPLe._from_arguments(old, {})
    assert (again.preset, again.model_class, again.part, again.dream_steps) == ("cpu", VideoModel, (0, 0), 32)
    assert again.model_config == QUICK["model_config"]


class StopError(Exception):
    """Ends `learn` between two parts."""


def in_pieces(agent: SimPLe, steps: int, folder: Path | None = None) -> SimPLe:
    """Return the agent after real steps in as many calls of `learn` as there are parts, loaded anew before each."""

    def stop() -> None:
        raise StopError

    while agent.real_steps < steps or agent.training_due:
        if folder is not None:
            agent.save(folder / "agent")
            agent = SimPLe.load(folder / "agent", DummyVecEnv([Push] * 2), device="cpu")
        agent.on_part = stop
        with contextlib.suppress(StopError):
            agent.learn(steps - agent.real_steps, reset_num_timesteps=False)
    return agent


def test_a_training_in_parts_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    parts: list[tuple[int, int]] = []
    agent = SimPLe("CnnPolicy", DummyVecEnv([Push] * 2), **{**QUICK, "dream_steps": (96, 64), "part": (4, 32)})
    agent.on_part = lambda: parts.append((agent.trainer.updates, agent.imagined_timesteps))
    agent.learn(60)
    assert parts == [(4, 0), (6, 0), (6, 32), (6, 64), (9, 96), (9, 128)]
    assert (agent.trainings, agent.imagined_timesteps, agent.training_due) == (2, 160, False)
    found = []
    for folder in (None, tmp_path):
        whole = SimPLe("CnnPolicy", DummyVecEnv([Push] * 2), **{**QUICK, "dream_steps": (96, 64), "part": (4, 32)})
        found.append(in_pieces(whole, 60, folder))
    assert all(torch.equal(a, b) for a, b in zip(weights(found[0]), weights(found[1]), strict=True))
    assert [agent.trainer.updates for agent in found] == [9, 9]
    assert [agent.imagined_timesteps for agent in found] == [160, 160]


def test_without_parts_a_training_is_one_piece() -> None:
    agent = SimPLe("CnnPolicy", DummyVecEnv([Push] * 2), **QUICK)
    agent.on_part = lambda: pytest.fail("there are no parts")
    agent.learn(60)
    assert agent.trainings == 2


# ---- presets --------------------------------------------------------------------------------------------------------


def test_the_papers_schedule_is_the_published_one() -> None:
    paper = PRESETS["paper"]()
    assert paper.screens == AtariSettings(height=105, width=80, grayscale=False, stack=1, no_ops=8, clip_rewards=True)
    assert paper.view == FrameStack(stack=4, height=105, width=80)
    assert paper.model == StochasticVideoConfig()
    assert (paper.learning_starts, paper.train_freq, paper.dream_envs, paper.dream_horizon) == (6400, 6400, 16, 50)
    x, triple = 15_000, 45_000
    assert paper.model_updates == (triple, triple, x, x, triple, x, x, x, x, triple, x, x, x, x, triple)
    assert sum(paper.model_updates) == 375_000
    once, twice, thrice = 800_000, 1_600_000, 2_400_000
    first, second = (once, twice, once, once, once, once, once, twice), (once, once, once, twice, once, once, thrice)
    assert paper.dream_steps == first + second
    assert sum(paper.dream_steps) == 16_000_000
    assert paper.ppo == {
        "n_steps": 50,
        "batch_size": 320,
        "n_epochs": 3,
        "learning_rate": 1e-4,
        "clip_range": 0.1,
        "ent_coef": 0.01,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "vf_coef": 1.0,
        "max_grad_norm": 0.5,
    }
    trainer = paper.trainer
    assert (trainer.optimizer, trainer.learning_rate, trainer.warmup, trainer.grad_clip) == (
        "adafactor",
        2e-3,
        2000,
        1.0,
    )
    assert (trainer.batch_size, trainer.length, trainer.final_learning_rate) == (4, 4 + 6, 1.0)
    part = paper.part
    assert part is not None
    assert all(n % part[0] == 0 for n in paper.model_updates)
    assert all(n % part[1] == 0 for n in paper.dream_steps)
    assert part[1] % (16 * 50) == 0  # no dream is cut


def test_the_light_preset_is_what_was_measured() -> None:
    cpu = PRESETS["cpu"]()
    assert cpu.screens == AtariSettings(height=210, width=160, stack=1, no_ops=8, clip_rewards=True)
    assert (cpu.view, cpu.model, cpu.part) == (FrameStack(), VideoConfig(), None)
    assert (cpu.model_updates, cpu.dream_steps, cpu.dream_starts) == ((3000, 1000), (40_000,), 512)
    assert (cpu.trainer.learning_rate, cpu.trainer.batch_size, cpu.trainer.length) == (1e-3, 4, 27)
    assert cpu.ppo == {
        "n_steps": 50,
        "batch_size": 200,
        "n_epochs": 3,
        "learning_rate": 2.5e-4,
        "clip_range": 0.2,
        "ent_coef": 0.01,
        "gamma": 0.95,
        "gae_lambda": 0.95,
    }


def test_the_video_models_sizes() -> None:
    assert VideoConfig.tiny() == VideoConfig()
    sizes = []
    for config in (VideoConfig.tiny(), VideoConfig.base()):
        with torch.device("meta"):
            model = VideoModel(spaces.Box(0, 255, (210, 160), np.uint8), spaces.Discrete(6), config)
        sizes.append(sum(p.numel() for p in model.parameters()) / 1e6)
    assert 1 < sizes[0] < 4
    assert 7 < sizes[1] < 20
    assert VideoConfig.base().codes == 64


def test_the_papers_policy_is_small() -> None:
    network = SmallCnn(spaces.Box(0, 255, (12, 105, 80), np.uint8))
    assert network(torch.zeros(2, 12, 105, 80)).shape == (2, 128)
    assert network.layers[5].in_features == 27 * 20 * 32


SMALL_PAPER: dict[str, Any] = {
    **{k: v for k, v in QUICK.items() if k not in ("view", "trainer_config", "policy_kwargs")},
    "view": FrameStack(stack=4, height=12, width=12),
    "preset": "paper",
    "model_config": StochasticVideoConfig(
        channels=8, levels=2, doublings=1, bits=8, bits_at_once=4, predictor=16, inference_channels=8
    ),
    "trainer_config": replace(PRESETS["paper"]().trainer, length=6, batch_size=2),
    "part": (4, 32),
}


def test_the_papers_model_and_policy_learn_and_resume(tmp_path: Path) -> None:
    agent = SimPLe("CnnPolicy", DummyVecEnv([Push] * 2), **SMALL_PAPER).learn(60)
    assert isinstance(agent.model, StochasticVideoModel)
    assert isinstance(agent.algorithm.policy.features_extractor, SmallCnn)
    assert agent.algorithm.policy.optimizer.defaults["betas"] == (0.85, 0.997)
    assert agent.model.updates == agent.trainer.updates == 9
    agent.save(tmp_path / "agent")
    again = SimPLe.load(tmp_path / "agent", DummyVecEnv([Push] * 2), device="cpu")
    assert (again.preset, again.part, again.model.config) == ("paper", (4, 32), agent.model.config)
    for one in (agent, again):
        one.learn(20, reset_num_timesteps=False)
    assert all(torch.equal(a, b) for a, b in zip(weights(agent), weights(again), strict=True))


def test_another_model_has_its_own_defaults() -> None:
    small = {k: v for k, v in QUICK.items() if k != "model_config"}
    agent = SimPLe("CnnPolicy", DummyVecEnv([Push]), model_class=StochasticVideoModel, **small, _init_setup_model=False)
    assert (agent.preset, agent.model_class, agent.model_config) == ("cpu", StochasticVideoModel, None)


def test_a_game_is_seen_as_the_preset_has_it_after_loading_too(tmp_path: Path) -> None:
    small = {k: SMALL_PAPER[k] for k in ("preset", "model_config", "seed", "device")}
    agent = SimPLe("CnnPolicy", "ALE/Pong-v5", **small, buffer_size=100)
    assert agent.observation_space.shape == (3, 105, 80)
    assert agent.dream.single_observation_space.shape == (12, 105, 80)
    agent.learn(5)
    agent.save(tmp_path / "agent")
    again = SimPLe.load(tmp_path / "agent", "ALE/Pong-v5", device="cpu")
    assert again.real_id == "ALE/Pong-v5"
    again.learn(5, reset_num_timesteps=False)
    assert again.real_steps == 10


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
        ({"model_updates": (0, 3)}, r"model_updates must be numbers of at least 1, one a training, got \(0, 3\)"),
        ({"dream_starts": 0}, "dream_starts must be at least 1 context, got 0"),
        ({"dream_steps": 0}, r"dream_steps must be numbers of at least 1, one a training, got \(0,\)"),
        (
            {"part": (-1, 3)},
            r"part must be two numbers of at least 0, gradient steps and imagined steps, got \(-1, 3\)",
        ),
        ({"preset": "gpu"}, r"preset must be one of \['cpu', 'paper'\], got 'gpu'"),
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
        agent.model.networks.encoder.cells.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="the model's loss became nan"):
        agent.trainer.fit_to_draws(agent.replay, 2)
