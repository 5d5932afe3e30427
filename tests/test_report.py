"""The report: numbers against known answers, and files that show something."""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image
from torch import Tensor

from mbrl_gym.envs.single import LearnedEnv
from mbrl_gym.model import ModelLoss, Prediction, WorldModel
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.report import (
    animate_dream,
    dream_frames,
    open_loop_error,
    open_loop_figure,
    open_loop_trace,
    random_policy,
    run_episodes,
    save_animation,
    save_figure,
)
from mbrl_gym.report.figures import dimension_names
from mbrl_gym.tensors import TensorStruct

OBSERVATIONS = spaces.Box(-1000.0, 1000.0, (2,), np.float32)
ACTIONS = spaces.Box(-1.0, 1.0, (1,), np.float32)


@dataclass(frozen=True)
class NoConfig:
    """Nothing."""


@dataclass(frozen=True)
class Belief(TensorStruct):
    obs: Tensor


class Toy(WorldModel[Belief]):
    """x' = x + (a, 2) + bias: exact for `counter_replay` where the bias is 0; moves=0 is persistence."""

    config_class = NoConfig

    def __init__(self, moves: float = 1.0, bias: float = 0.0, noise: float = 0.0, context: int = 1) -> None:
        super().__init__(OBSERVATIONS, ACTIONS, NoConfig())
        self.moves, self.bias, self.noise, self.context = moves, bias, noise, context
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def initial(self, batch_size: int) -> Belief:
        return Belief(torch.zeros(batch_size, 2))

    def observe(self, state, action, obs, is_first, generator=None):
        return Belief(obs)

    def predict(self, state, action, generator=None, sample=True, uncertainty=True):
        step = torch.cat([action, torch.full_like(action, 2.0)], dim=-1)
        obs = state.obs + self.moves * (step + self.bias)
        if sample:
            obs = obs + self.noise * torch.randn(obs.shape, generator=generator)
        no = torch.zeros(len(obs), dtype=torch.bool)
        reward = self.moves * action[:, 0]
        return Belief(obs), Prediction(reward, no, no, torch.ones(len(obs)), torch.zeros(len(obs)))

    def features(self, state):
        return state.obs

    def decode(self, state):
        return state.obs

    def loss(self, batch, start=None):
        return ModelLoss(self.nothing.sum(), {})


class Counter(gym.Env):
    """The world that `Toy` knows: episodes of ``length`` steps; the reward is the action."""

    observation_space, action_space = OBSERVATIONS, ACTIONS

    def __init__(self, length: int = 12) -> None:
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.obs, self.steps = self.np_random.normal(size=2).astype(np.float32), 0
        return self.obs.copy(), {}

    def step(self, action):
        self.steps += 1
        self.obs = self.obs + np.array([action[0], 2.0], np.float32)
        return self.obs.copy(), float(action[0]), False, self.steps >= self.length, {}


def counter_replay(episodes: int = 5, length: int = 12) -> SequenceReplay:
    replay = SequenceReplay(OBSERVATIONS, ACTIONS, 1000)
    run_episodes(random_policy(ACTIONS, 3), Counter(length), episodes, replay=replay)
    return replay


@pytest.mark.parametrize("context", [1, 3])
def test_a_perfect_model_has_error_0(context):
    error = open_loop_error(Toy(context=context), counter_replay(), horizon=6, windows=1000)
    assert error.horizon == 6
    assert error.windows == 5 * (13 - (6 + context) + 1)
    for value in (error.error, error.low, error.high, error.overall, error.overall_high, error.reward):
        assert np.abs(value).max() < 1e-5
    assert (error.persistence > 0.05).all()


def test_a_model_in_which_nothing_moves_equals_the_persistence_baseline():
    error = open_loop_error(Toy(moves=0.0), counter_replay(), horizon=5)
    np.testing.assert_array_equal(error.error, error.persistence)
    np.testing.assert_array_equal(error.overall, error.overall_persistence)


def test_the_unit_is_the_standard_deviation_of_the_data():
    replay = counter_replay()
    rows = replay.gather(replay.windows(1), 1).obs[:, 0].numpy()
    error = open_loop_error(Toy(bias=0.5), replay, horizon=4)
    np.testing.assert_allclose(error.scale, rows.std(0), rtol=1e-5)
    expected = 0.5 * np.arange(1, 5)[:, None] / rows.std(0)  # a bias adds up step by step
    np.testing.assert_allclose(error.error, expected, rtol=1e-4)
    np.testing.assert_allclose(error.low, expected, rtol=1e-4)
    np.testing.assert_allclose(error.overall, np.sqrt((expected**2).mean(1)), rtol=1e-4)
    persistence = 2.0 * np.arange(1, 5) / rows.std(0)[1]  # the second dimension grows by 2 a step
    np.testing.assert_allclose(error.persistence[:, 1], persistence, rtol=1e-4)


def test_it_is_reproducible_and_draws_at_most_the_windows_asked_for():
    first, second = (open_loop_error(Toy(bias=1.0), counter_replay(), 4, windows=7, seed=5) for _ in range(2))
    assert first.windows == 7
    np.testing.assert_array_equal(first.overall, second.overall)


def test_the_trace_is_a_recorded_segment_with_a_band_of_samples():
    trace = open_loop_trace(Toy(noise=0.3), counter_replay(), horizon=6, particles=500)
    assert trace.real.shape == trace.predicted.shape == trace.low.shape == (7, 2)
    np.testing.assert_allclose(trace.predicted, trace.real, atol=1e-4)
    np.testing.assert_allclose(np.diff(trace.real[:, 1]), 2.0, rtol=1e-4)
    width = (trace.high - trace.low).mean(1)
    assert width[0] == 0
    assert np.isclose(width[6] / width[1], np.sqrt(6), rtol=0.2)  # a random walk
    assert np.isclose(width[1], 0.3 * 2 * 1.2816, rtol=0.2)  # the 10 % and 90 % quantiles of a Gaussian


def test_too_long_a_horizon_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"at least 31 rows to predict 30 steps.*lower horizon"):
        open_loop_error(Toy(), counter_replay(), horizon=30)
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        open_loop_error(Toy(), counter_replay(), horizon=0)


def test_episodes_are_recorded_whole():
    replay = SequenceReplay(OBSERVATIONS, ACTIONS, 1000)
    result = run_episodes(random_policy(ACTIONS, 3), Counter(4), 3, seed=7, replay=replay)
    assert result.lengths == [4, 4, 4]
    assert replay.n_transitions == 12
    assert len(replay.windows(5)) == 3
    rewards = replay.gather(replay.windows(5), 5).reward
    np.testing.assert_allclose(rewards.sum(1).numpy(), result.returns, rtol=1e-5)
    assert result.to_json()["mean"] == pytest.approx(np.mean(result.returns))


def test_an_environment_that_does_not_end_is_cut():
    assert run_episodes(random_policy(ACTIONS), Counter(10**9), 2, max_steps=9).lengths == [9, 9]


def test_the_picture_is_drawn_and_touches_nothing_global(tmp_path):
    import matplotlib

    backend = matplotlib.rcParams._get("backend")
    replay, model = counter_replay(), Toy(bias=0.2, noise=0.1)
    error, trace = open_loop_error(model, replay, 8), open_loop_trace(model, replay, 8)
    figure = open_loop_figure(error, trace, ["x", "y [m]"], title="A title")
    path = save_figure(figure, tmp_path / "deep" / "model.png")
    image = np.asarray(Image.open(path).convert("L"))
    assert image.shape[0] > 300
    assert image.shape[1] > 900
    assert image.std() > 10
    assert len(np.unique(image)) > 50
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["x", "y [m]", "error [standard deviations of the data]"]
    assert matplotlib.rcParams._get("backend") == backend
    with pytest.raises(ValueError, match="names must label 2 dimensions, got 1"):
        open_loop_figure(error, trace, ["x"])


def test_many_dimensions_are_cut_to_those_predicted_worst():
    names = dimension_names("Hopper-v5", spaces.Box(-1, 1, (11,)))
    assert names[10] == "observation 10"
    assert dimension_names("Pendulum-v1", spaces.Box(-1, 1, (3,)))[2] == "velocity [rad/s]"


def policy(obs, memory, episode_start, deterministic):
    return np.array([0.5], np.float32), None


@pytest.mark.parametrize("context", [1, 3])
@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_the_animation_has_its_frames(tmp_path, suffix, context):
    replay = counter_replay()
    dream = LearnedEnv(Toy(context=context), replay.starts(context), horizon=100)
    path = animate_dream(tmp_path / f"dream{suffix}", policy, Counter(), dream, steps=15, resync=5, size=120)
    with Image.open(path) as image:
        assert image.n_frames == 15
        assert image.width == 2 * 120 + 8
        assert image.height > 44
    assert 2_000 < path.stat().st_size < 1_000_000


def test_a_perfect_dream_looks_like_reality_and_a_wrong_one_does_not():
    replay = counter_replay()

    def panes(model):
        dream = LearnedEnv(model, replay.starts(), horizon=100)
        frames = list(dream_frames(policy, Counter(), dream, steps=4, size=100))
        image = np.asarray(frames[-1]).astype(int)[44:]
        return image[:, :100], image[:, 108:]

    real, dreamt = panes(Toy())
    np.testing.assert_array_equal(real, dreamt)
    real, dreamt = panes(Toy(bias=3.0))
    assert np.abs(real - dreamt).max() > 20


def test_animations_refuse_what_they_cannot_write(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in .webp or .gif, got 'dream.mp4'"):
        save_animation([], tmp_path / "dream.mp4")
    with pytest.raises(ValueError, match="at least one picture"):
        save_animation([], tmp_path / "dream.webp")
