import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image

from mbrl_gym import LearnedEnv, StartStates, publish
from mbrl_gym.envs.rendering import ClassicControlRenderer, StripChart, make_renderer
from worlds import BOX, DICT, Walk, walk_starts

CLASSIC = ["Pendulum-v1", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1"]


# Classic control


@pytest.mark.parametrize("env_id", CLASSIC)
def test_the_picture_is_the_real_environments_of_the_same_state(env_id):
    real = gym.make(env_id, render_mode="rgb_array")
    renderer = make_renderer(env_id, real.observation_space)
    assert isinstance(renderer, ClassicControlRenderer)
    assert renderer.fps == real.metadata["render_fps"]
    real.action_space.seed(0)
    obs, _ = real.reset(seed=0)
    renderer.begin(obs)
    pictures = []
    for _ in range(12):
        picture = renderer.draw()
        assert picture.dtype == np.uint8
        # Observations are float32, states float64: a pixel at an edge may fall to the other side.
        different = (picture != real.render()).any(-1).mean()
        assert different < 0.002
        pictures.append(picture)
        action = real.action_space.sample()
        obs, reward, *_ = real.step(action)
        renderer.follow(obs, action, reward)
    assert any(not np.array_equal(pictures[0], other) for other in pictures)
    renderer.close()
    real.close()


@pytest.mark.parametrize("env_id", CLASSIC)
def test_the_picture_is_pixel_equal_where_the_state_is(env_id):
    real = gym.make(env_id, render_mode="rgb_array").unwrapped
    real.reset(seed=1)
    state = np.asarray(real.state, np.float32).astype(np.float64)
    if env_id == "Pendulum-v1":
        obs = np.array([np.cos(state[0]), np.sin(state[0]), state[1]])
        real.last_u = 1.5
    elif env_id == "Acrobot-v1":
        obs = np.array([np.cos(state[0]), np.sin(state[0]), np.cos(state[1]), np.sin(state[1]), state[2], state[3]])
    else:
        obs = state
    real.state = state
    renderer = make_renderer(env_id, real.observation_space)
    renderer.follow(obs, np.array([1.5]), 0.0)
    assert np.array_equal(renderer.draw(), real.render())


def test_a_learned_pendulum_draws_what_it_predicts(pendulum):
    env = LearnedEnv(pendulum.model, pendulum.starts, 50, "rgb_array", "Pendulum-v1")
    real = gym.make("Pendulum-v1", render_mode="rgb_array").unwrapped
    real.reset()
    env.reset(seed=0)
    obs = env.step(np.array([0.5]))[0]
    real.state, real.last_u = np.array([np.arctan2(obs[1], obs[0]), obs[2]]), 0.5
    assert np.array_equal(env.render(), real.render())
    assert env.metadata["render_fps"] == 30
    env.close()


def test_frames_a_second_are_those_of_the_real_environment(cartpole, home):
    publish(cartpole, "Learned-CartPole-v1")
    env = gym.make("Learned-CartPole-v1", render_mode="rgb_array")
    assert env.metadata["render_fps"] == 50
    assert LearnedEnv.metadata["render_fps"] == 30
    assert env.render_mode == "rgb_array"
    env.reset()
    assert env.render().shape == (400, 600, 3)
    assert gym.make("Learned-CartPole-v1").unwrapped.render() is None


def test_without_pygame_classic_control_is_a_strip_chart(cartpole, monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)  # as if it were not installed
    env = LearnedEnv(cartpole.model, cartpole.starts, 50, "rgb_array", "CartPole-v1")
    env.reset(seed=0)
    env.step(1)
    assert env.render().shape == (34 * 5 + 20, 480, 3)


@pytest.mark.parametrize("real_id", [None, "Hopper-v5", "CartPole-v99", "Mine/CartPole-v1"])
def test_what_has_no_renderer_of_its_own_is_a_strip_chart(real_id):
    assert isinstance(make_renderer(real_id, BOX), StripChart)


# Strip chart


def test_a_strip_chart_has_a_lane_for_each_number_and_the_reward():
    for space, numbers in ((BOX, 2), (DICT, 3), (spaces.Discrete(500), 1), (spaces.MultiBinary([2, 3]), 6)):
        chart = StripChart(space)
        space.seed(0)
        chart.begin(space.sample())
        first = chart.draw()
        assert first.shape == (34 * (numbers + 1) + 20, 480, 3)
        chart.follow(space.sample(), None, 1.0)
        assert chart.draw().shape == first.shape
        assert not np.array_equal(chart.draw(), first)


def test_a_long_observation_shows_its_first_numbers():
    chart = StripChart(spaces.Box(-np.inf, np.inf, (348,)))
    chart.begin(np.zeros(348))
    assert chart.draw().shape == (34 * 17 + 20, 480, 3)
    assert chart._caption() == "step 0; the first 16 of 348 numbers"


def test_labels_name_the_number_and_stay_in_their_column():
    long = spaces.Dict({"a_very_long_name_of_an_observation_that_cannot_fit": spaces.Box(-1, 1, (12,))})
    assert StripChart(long)._labels[11] == "a_very_long_name_of_an_observation_that_cannot_fit[11]"
    assert StripChart(DICT)._labels == ["place[0, 0]", "place[0, 1]", "kind"]
    chart = StripChart(long)
    chart.begin(long.sample())
    picture = chart.draw()[: 34 * 12]  # without the reward and the caption
    inked = (picture != 255).any(-1)
    text = inked[np.arange(len(inked)) % 34 < 27]  # without the lines below the lanes
    assert text[:, 6:140].any()
    assert not text[:, 140:147].any()  # a gap between the labels and the curves, which begin at 148


def test_a_lane_shows_the_latest_value_at_the_right_height():
    chart = StripChart(spaces.Box(-np.inf, np.inf, (1,)), window=3)
    chart.begin(np.array([0.0]))
    for value in (5.0, 10.0, 2.5):
        chart.follow(np.array([value]), None, 0.0)
    red = (chart.draw()[:34] == (178, 34, 34)).all(-1)  # the dot at the latest step
    rows, columns = np.nonzero(red)
    assert columns.max() == 480 - 8 + 2
    assert rows.mean() == pytest.approx(28, abs=1)  # the lowest of what the window still shows, 5, 10, 2.5


def test_pictures_are_of_the_new_episode_after_a_reset():
    env = LearnedEnv(Walk(), walk_starts(Walk(), 1.0), 50, "rgb_array")
    env.reset(seed=0)
    first = env.render()
    env.step(np.ones(1))
    assert not np.array_equal(env.render(), first)
    env.reset(seed=0)
    assert np.array_equal(env.render(), first)


@pytest.mark.parametrize("shape", [(20, 14), (20, 14, 1), (20, 14, 3)])
def test_a_picture_is_shown_as_it_is(shape):
    renderer = make_renderer(None, spaces.Box(0, 255, shape, np.uint8))
    with pytest.raises(RuntimeError, match=r"render\(\) needs a reset\(\) first"):
        renderer.draw()
    first, second = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype(np.uint8)
    renderer.begin(first)
    assert np.array_equal(renderer.draw(), np.broadcast_to(first.reshape(20, 14, -1), (20, 14, 3)))
    renderer.follow(second, 0, 0.0)
    assert np.array_equal(renderer.draw()[..., 2], second.reshape(20, 14, -1)[..., -1])


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="needs a vector observation, got the image"):
        make_renderer(None, spaces.Box(0, 255, (4, 84, 84), np.uint8))
    with pytest.raises(ValueError, match="needs a vector observation, got Box"):
        make_renderer(None, spaces.Box(0, 1, (0,)))
    for renderer in (StripChart(BOX), make_renderer("CartPole-v1", BOX)):
        with pytest.raises(RuntimeError, match=r"render\(\) needs a reset\(\) first"):
            renderer.draw()


def test_an_environment_with_another_renderer_is_still_a_learned_one():
    starts = StartStates(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, 1))
    env = LearnedEnv(Walk(spaces.Discrete(4)), starts, 5, "rgb_array")
    env.reset()
    env.step(np.zeros(1))
    Image.fromarray(env.render())
