"""What learned environments show of a model of pictures: stacks as of the real game."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from mbrl_gym import LearnedEnv, LearnedVectorEnv, check_vector_env
from mbrl_gym.envs.view import FrameStack
from mbrl_gym.models.ensemble import Ensemble
from mbrl_gym.models.video import VideoModel
from mbrl_gym.models.video_config import VideoConfig
from mbrl_gym.start_states import StartStates
from mbrl_gym.store import StoredModel, save_model
from mbrl_gym.wrappers import AtariSettings, SB3VecEnv, make_atari

SPACE, ACTIONS = spaces.Box(0, 255, (48, 40), np.uint8), spaces.Discrete(3)
CONFIG = VideoConfig(colours=4, patch=(4, 4), channels=(8, 12), blocks=1, embedding=12, codes=4, context=5)
SMALL = FrameStack(stack=3, height=21, width=20)


def screens(*shape: int) -> torch.Tensor:
    """Return noise of four greys [*shape, 48, 40]."""
    return torch.randint(0, 4, (*shape, 48, 40), generator=torch.Generator().manual_seed(0)).to(torch.uint8) * 60


@pytest.fixture(scope="module")
def model() -> VideoModel:
    """A model that has its colours, and knows nothing else."""
    torch.manual_seed(0)
    model = VideoModel(SPACE, ACTIONS, CONFIG)
    model.palette.learn(screens(4))
    torch.nn.init.normal_(model.networks.decoder.place)
    return model


@pytest.fixture(scope="module")
def starts() -> StartStates:
    """Contexts of noise."""
    return StartStates(screens(6, 5), torch.nn.functional.one_hot(torch.zeros(6, 5, dtype=torch.long), 3).float())


def resized(pictures: Any) -> np.ndarray[Any, Any]:
    """Return [n, 21, 20] of pictures [n, 48, 40]."""
    return np.stack([cv2.resize(np.asarray(x), (20, 21), interpolation=cv2.INTER_AREA) for x in pictures])


def test_an_episode_begins_with_the_last_real_frames_and_goes_on_with_dreamt_ones(
    model: VideoModel, starts: StartStates
) -> None:
    env = LearnedEnv(model, starts, view=SMALL)
    assert env.observation_space == spaces.Box(0, 255, (3, 21, 20), np.uint8)
    context = screens(5)
    first, _ = env.reset(seed=0, options={"start": context.numpy(), "action": np.zeros(5, int)})
    assert np.array_equal(first, resized(context[-3:]))
    second, *_ = env.step(1)
    assert np.array_equal(second[:2], first[1:])
    assert np.array_equal(second[2:], resized(model.decode(env.dream.state)))
    assert not np.array_equal(second[2], first[2])


def test_the_last_observation_of_an_episode_is_a_stack_too(model: VideoModel, starts: StartStates) -> None:
    env = LearnedVectorEnv(model, starts, 4, horizon=3, view=SMALL)
    env.reset(seed=0)
    before = None
    for _ in range(3):
        obs, _, _, truncated, info = env.step(np.array([0, 1, 2, 0]))
        before = obs if not truncated.any() else before
    assert truncated.all()
    assert before is not None
    assert np.array_equal(info["final_obs"][:, :2], before[:, 1:])
    begun = {x.tobytes() for x in resized(starts.obs[:, -1])}  # type: ignore[index]
    assert all(row[2].tobytes() in begun for row in obs)


def test_coloured_pictures_are_stacked_channels_first() -> None:
    space = spaces.Box(0, 255, (48, 40, 3), np.uint8)
    model = VideoModel(space, ACTIONS, replace(CONFIG, colours=8))
    pictures = screens(1, 5)[..., None].repeat(1, 1, 1, 1, 3)
    pictures[..., 1] = 0
    model.palette.learn(pictures[0])
    view = FrameStack(2, 48, 40)
    assert view.space(model).shape == (6, 48, 40)
    state = model.believe(pictures, torch.zeros(1, 5, 3))
    shown = view(model, state)
    assert isinstance(shown, torch.Tensor)
    assert torch.equal(shown[0].unflatten(0, (2, 3)), model.pictures(state)[0, -2:].movedim(-1, 1))
    assert not shown[0, 1].any()


def test_the_view_of_a_screen_is_the_preprocessed_game_to_the_pixel() -> None:
    real = make_atari("ALE/Pong-v5", AtariSettings(no_ops=0))
    raw = make_atari("ALE/Pong-v5", AtariSettings(no_ops=0, height=210, width=160, stack=1))
    model = VideoModel(spaces.Box(0, 255, (210, 160), np.uint8), ACTIONS, VideoConfig(colours=32))
    shown, screen = real.reset(seed=3)[0], raw.reset(seed=3)[0]
    frames = [screen[0]]
    for _ in range(60):
        shown, screen = real.step(3)[0], raw.step(3)[0]
        frames.append(screen[0])
    context = torch.from_numpy(np.stack(frames))
    model.palette.learn(context)
    state = model.believe(context[None, -24:], torch.zeros(1, 24, 3))
    assert np.array_equal(FrameStack()(model, state)[0], shown)  # type: ignore[index]


def test_the_contracts_hold(model: VideoModel, starts: StartStates) -> None:
    check_env(LearnedEnv(model, starts, view=SMALL), skip_render_check=True)
    sb3_check_env(LearnedEnv(model, starts, view=FrameStack(4, 36, 36)))
    check_vector_env(LearnedVectorEnv(model, starts, 3, horizon=4, view=SMALL))
    assert SB3VecEnv(LearnedVectorEnv(model, starts, 3, view=SMALL)).observation_space.shape == (3, 21, 20)


def test_what_is_drawn_is_the_screen(model: VideoModel, starts: StartStates) -> None:
    env = LearnedEnv(model, starts, render_mode="rgb_array", view=SMALL)
    env.reset(seed=0)
    env.step(0)
    picture = env.render()
    assert picture.shape == (48, 40, 3)
    assert all(np.array_equal(picture[..., c], model.decode(env.dream.state)[0]) for c in range(3))


@pytest.mark.parametrize("name", ["stack", "height", "width"])
def test_sizes_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        FrameStack(**{name: 0})


def test_only_pictures_that_are_remembered_can_be_stacked(model: VideoModel, starts: StartStates) -> None:
    with pytest.raises(
        ValueError, match=r"stack must be at most the pictures that a VideoModel remembers \(4\), got 5"
    ):
        LearnedEnv(model, starts, view=FrameStack(stack=5))
    vector = Ensemble(gym.make("CartPole-v1").observation_space, spaces.Discrete(2))
    with pytest.raises(ValueError, match=r"stack must be at most the pictures that a Ensemble remembers \(0\), got 4"):
        FrameStack().space(vector)


def test_a_stored_view_comes_back_with_gym_make(model: VideoModel, starts: StartStates, tmp_path: Path) -> None:
    stored = StoredModel(model, starts, "ALE/Pong-v5", 50, view={"stack": 3, "height": 21, "width": 20})
    save_model(tmp_path / "m", stored)
    made: Any = {"checkpoint": str(tmp_path / "m"), "device": "cpu"}
    assert gym.make("Learned-Pong", **made).observation_space.shape == (3, 21, 20)
    assert gym.make("Learned-Pong", stack=1, **made).observation_space.shape == (1, 21, 20)
    vector: Any = gym.make_vec("Learned-Pong", 2, stack=2, **made)
    assert vector.reset(seed=0)[0].shape == (2, 2, 21, 20)
    with pytest.raises(ValueError, match="stack must be at least 1, got 0"):
        gym.make("Learned-Pong", stack=0, **made)


def test_a_stack_of_a_model_without_a_view_is_refused(model: VideoModel, starts: StartStates, tmp_path: Path) -> None:
    save_model(tmp_path / "m", StoredModel(model, starts, None, 50))
    with pytest.raises(ValueError, match="stack must be left out for a VideoModel that shows what it predicts, got 2"):
        gym.make("Learned-Pong", checkpoint=str(tmp_path / "m"), device="cpu", stack=2)
