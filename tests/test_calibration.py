"""Calibration: scores against uncertainty-toolbox's numbers, and models whose uncertainty is right or wrong.

The golden numbers are from uncertainty-toolbox 0.1.1, scipy 1.17.1 and scikit-learn 1.9.1 on the data of `golden()`.
"""

import math
from dataclasses import dataclass, fields

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_gym import Ensemble, EnsembleConfig, ModelTrainer, SequenceBatch, SequenceReplay, TensorStruct, TrainerConfig
from mbrl_gym.model import DensityModel, ModelLoss, Prediction
from mbrl_gym.report import Calibration, calibration, ood_auroc, reliability_figure, save_figure
from mbrl_gym.report import scores as s
from mbrl_gym.wrappers import KnownReward
from worlds import PUSH, Walk, WalkConfig

FREE = spaces.Box(-np.inf, np.inf, (1,), np.float32)
NLL, CRPS, SHARPNESS, RMSE = 0.38076522753, 0.18368050250, 0.42426406871, 0.29298806162
ERROR, AREA = 0.03708080808, 0.03714958954
COVERAGE = [31 / 60, 48 / 60, 55 / 60, 56 / 60]
LEVELS = np.array([0.5, 0.8, 0.9, 0.95])


def golden():
    """Predictions, their standard deviations and what came, each [60]."""
    i = np.arange(60)
    return np.sin(i), 0.2 + 0.1 * (i % 5), np.sin(i) + 0.45 * np.cos(2.3 * i * i)


def tensor(*values):
    return tuple(torch.as_tensor(np.asarray(v, dtype=np.float64)) for v in values)


def nowhere(target):
    return torch.zeros_like(target, dtype=torch.bool)


def dice(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- formulas -----------------------------------------------------------------------------------------------------


def test_the_scores_of_a_gaussian_are_those_of_uncertainty_toolbox():
    mean, std, target = tensor(*(x[:, None] for x in golden()))
    off = nowhere(target)
    quantile = s.mixture_quantile(mean[None], std[None], target, off, off, dice()).numpy()
    log, joint = s.mixture_log_likelihood(mean[None], std[None], target, off, off)
    expected = np.linspace(0, 1, 100)
    observed = s.coverage(quantile, expected)
    assert observed.shape == (100, 1)
    assert -log.mean() == pytest.approx(NLL, abs=1e-9)
    assert -joint.mean() == pytest.approx(NLL, abs=1e-9)
    assert s.gaussian_crps(target - mean, std).mean() == pytest.approx(CRPS, abs=1e-9)
    assert np.abs(observed[:, 0] - expected).mean() == pytest.approx(ERROR, abs=1e-9)
    assert s.miscalibration_area(expected, observed) == pytest.approx(AREA, abs=1e-9)
    np.testing.assert_allclose(s.coverage(quantile, LEVELS)[:, 0], COVERAGE)


def test_the_rank_statistics_are_those_of_scipy_and_scikit_learn():
    mean, std, target = golden()
    error = np.abs(target - mean)
    assert s.spearman(std, error) == pytest.approx(-0.14086522618)
    assert s.auroc(std, error > np.quantile(error, 0.9)) == pytest.approx(0.31481481481)
    tied = np.round(error, 1)
    assert s.spearman(std, tied) == pytest.approx(-0.08412573012)
    assert s.auroc(std, tied > 0.3) == pytest.approx(0.425)
    np.testing.assert_array_equal(s.ranks(np.array([3.0, 1.0, 3.0, 2.0])), [3.5, 1.0, 3.5, 2.0])
    assert math.isnan(s.spearman(np.ones(3), np.arange(3.0)))
    assert math.isnan(s.auroc(np.arange(3.0), np.zeros(3, bool)))
    assert math.isnan(s.auroc(np.arange(3.0), np.ones(3, bool)))


def test_a_mixture_is_no_gaussian():
    mean, std = tensor([[[-3.0]], [[3.0]]], [[[0.1]], [[0.1]]])
    (target,) = tensor([[3.0]])
    off = nowhere(target)
    assert s.mixture_quantile(mean, std, target, off, off, dice()).item() == pytest.approx(0.75)
    log, _ = s.mixture_log_likelihood(mean, std, target, off, off)
    assert log.item() == pytest.approx(math.log(0.5 / (0.1 * math.sqrt(2 * math.pi))))


def test_members_are_hypotheses_about_all_dimensions_at_once():
    mean, std = tensor([[[-3.0, -3.0]], [[3.0, 3.0]]], np.full((2, 1, 2), 0.1))
    (target,) = tensor([[3.0, -3.0]])  # which no member believes in, though some member does in each number
    log, joint = s.mixture_log_likelihood(mean, std, target, nowhere(target), nowhere(target))
    peak = -math.log(0.1 * math.sqrt(2 * math.pi))
    np.testing.assert_allclose(log.numpy(), [[peak + math.log(0.5)] * 2])
    assert joint.item() == pytest.approx(2 * peak - 0.5 * 60**2)


@pytest.mark.parametrize(("side", "mass"), [(1.0, 0.3), (-1.0, 0.3)])
def test_what_is_predicted_beyond_a_bound_is_predicted_to_be_there(side, mass):
    target = torch.full((4000, 1), side, dtype=torch.float64)
    beyond = side * (1.0 + 0.5244005127)  # the 30 % quantile of a standard Gaussian is -0.524
    mean, std = torch.full_like(target, 2 * side - beyond)[None], torch.ones(1, 4000, 1, dtype=torch.float64)
    at_low, at_high = nowhere(target) | (side < 0), nowhere(target) | (side > 0)
    quantile = s.mixture_quantile(mean, std, target, at_low, at_high, dice())
    low, high = (1 - mass, 1.0) if side > 0 else (0.0, mass)
    assert low <= quantile.min() < low + 0.01
    assert high - 0.01 < quantile.max() <= high
    assert quantile.mean() == pytest.approx((low + high) / 2, abs=0.01)
    log, _ = s.mixture_log_likelihood(mean, std, target, at_low, at_high)
    np.testing.assert_allclose(log.numpy(), math.log(mass), rtol=1e-6)


@pytest.mark.parametrize("particles", [1, 3, 100])
def test_ranks_among_any_number_of_samples_are_uniform(particles):
    draw = torch.randn(particles + 1, 20_000, generator=dice(1))
    quantile = s.sample_quantile(draw[1:], draw[0], dice(2)).numpy()
    np.testing.assert_allclose(s.coverage(quantile, LEVELS), LEVELS, atol=0.012)
    assert quantile.mean() == pytest.approx(0.5, abs=0.01)
    tied = s.sample_quantile(torch.zeros(particles, 20_000), torch.zeros(20_000), dice(3)).numpy()
    np.testing.assert_allclose(s.coverage(tied, LEVELS), LEVELS, atol=0.012)
    assert (s.sample_quantile(torch.zeros(9, 5), torch.ones(5), dice()) >= 0.9).all()


def test_the_area_counts_both_sides_of_the_diagonal():
    expected = np.array([0.0, 1.0])
    assert s.miscalibration_area(expected, np.array([0.5, 0.5])) == pytest.approx(0.25)  # two triangles
    assert s.miscalibration_area(expected, np.array([0.3, 1.0])) == pytest.approx(0.15)
    assert s.miscalibration_area(expected, np.array([[0.0, 1.0], [1.0, 1.0]])) == pytest.approx([0.0, 0.5])


def test_sparsification_compares_an_order_with_the_best_one():
    error = np.array([1.0, 2.0, 3.0])
    assert s.sparsification_error(error, error) == 0
    worst = ((3 - 1) + (2.5 - 1.5) + (2 - 2)) / 3  # what is kept is the worst
    assert s.sparsification_error(-error, error) == pytest.approx(worst / 2)
    assert s.sparsification_error(error, np.zeros(3)) == 0


# ---- models with a known uncertainty --------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableConfig:
    learn_reward: bool = True


@dataclass(frozen=True)
class Row(TensorStruct):
    obs: Tensor


class Table(DensityModel[Row]):
    """Predicts (next observation, reward) by a table: the observation is the number of its row. [E, N, 2] each."""

    config_class = TableConfig

    def __init__(self, mean, std, learn_reward=True, space=FREE):
        super().__init__(space, PUSH, TableConfig(learn_reward))
        self.mean, self.std = (torch.as_tensor(x, dtype=torch.float32) for x in (mean, std))

    def initial(self, batch_size):
        return Row(torch.zeros(batch_size, 1))

    def observe(self, state, action, obs, is_first, generator=None):
        return Row(obs)

    def moments(self, state, action):
        row = state.obs[:, 0].long()
        return self.mean[:, row], self.std[:, row] ** 2

    def predict(self, state, action, generator=None, sample=True, uncertainty=True):
        mean, _ = self.moments(state, action)
        no, unsure = torch.zeros(len(state.obs), dtype=torch.bool), mean.std(0, unbiased=False).mean(-1)
        return Row(mean[0, :, :1]), Prediction(mean[0, :, 1], no, no, 1.0 - no.float(), unsure)

    def features(self, state):
        return state.obs

    def decode(self, state):
        return state.obs

    def loss(self, batch, start=None):
        return ModelLoss(torch.zeros(()), {})


def transitions(after, reward):
    """Windows [N, 2] from observation i to ``after[i]`` with ``reward[i]``."""
    n = len(after)
    obs = torch.stack([torch.arange(n), torch.as_tensor(after)], 1).float()[..., None]
    no = torch.zeros(n, 2, dtype=torch.bool)
    arrived = torch.stack([torch.zeros(n), torch.as_tensor(reward).float()], 1)
    first = no.clone()
    first[:, 0] = True
    return SequenceBatch(obs, torch.zeros(n, 2, 1), arrived, no, no, first, torch.arange(2 * n).reshape(n, 2))


def two(x, y):
    """[1, N, 2] from two [N]."""
    return np.stack([x, y], -1)[None]


def test_a_model_is_scored_as_uncertainty_toolbox_scores_it():
    mean, std, target = golden()
    model = Table(two(mean, mean), two(std, 2 * std))
    result = calibration(model, transitions(target, target))
    scale = np.array([(target - np.arange(60)).std(), target.std()])  # the change's, and the reward's
    np.testing.assert_allclose(result.scale, scale, rtol=1e-5)
    assert result.transitions == 60
    np.testing.assert_allclose(result.coverage[:, 0], COVERAGE)
    np.testing.assert_array_equal(result.levels, LEVELS)
    assert result.nll[0] == pytest.approx(NLL - math.log(scale[0]), abs=1e-5)
    np.testing.assert_allclose(result.rmse, RMSE / scale, rtol=1e-5)
    np.testing.assert_allclose(result.sharpness, [SHARPNESS, 2 * SHARPNESS] / scale, rtol=1e-5)
    assert result.crps[0] == pytest.approx(CRPS / scale[0], rel=1e-5)
    assert result.calibration_error[0] == pytest.approx(ERROR, abs=1e-9)
    assert result.miscalibration_area[0] == pytest.approx(AREA, abs=1e-9)
    # the reward's intervals are twice too wide
    assert (result.coverage[:3, 1] > LEVELS[:3] + 0.05).all()
    assert result.miscalibration_area[1] > 4 * AREA
    # overall
    assert result.overall_nll == pytest.approx(result.nll.sum(), rel=1e-6)  # of one member
    assert result.overall_rmse == pytest.approx(np.sqrt((result.rmse**2).mean()))
    assert result.overall_sharpness == pytest.approx(np.sqrt((result.sharpness**2).mean()))
    assert result.overall_crps == pytest.approx(result.crps.mean())
    assert result.overall_calibration_error == pytest.approx(result.calibration_error.mean())
    assert result.overall_miscalibration_area == pytest.approx(result.miscalibration_area.mean())
    np.testing.assert_allclose(result.overall_coverage, result.coverage.mean(1))
    np.testing.assert_allclose(result.overall_observed, result.observed.mean(1))
    assert result.expected.shape == (100,)
    assert result.open_loop_coverage is None


def test_members_are_mixed_and_the_signals_are_told_apart():
    """One half of the data has disagreeing members and large errors, the other is noisy by its own account only."""
    n = 400
    rng = np.random.default_rng(0)
    unknown = np.arange(n) % 2 == 0
    spread = np.where(unknown, rng.uniform(1, 2, n), 0.0)
    error = np.where(unknown, spread, 0.01 * rng.normal(size=n))
    std = np.where(unknown, 0.1, 0.5)
    mean = np.stack([two(spread, spread)[0], two(-spread, -spread)[0]])
    result = calibration(Table(mean, np.stack([two(std, std)[0]] * 2)), transitions(error, error))
    assert result.spearman > 0.7
    assert result.aleatoric_spearman < -0.7
    assert result.large_error_auroc > 0.95
    assert result.sparsification_error < 0.02
    variance = (std**2 + spread**2).mean()
    np.testing.assert_allclose(result.sharpness, np.sqrt(variance) / result.scale, rtol=1e-5)
    np.testing.assert_allclose(result.rmse, np.sqrt((error**2).mean()) / result.scale, rtol=1e-5)  # of the mean, 0
    assert result.overall_nll < result.nll.sum() - 0.1  # the members' joint likelihood
    lone = calibration(Table(mean[:1], std[None, :, None].repeat(2, 2)), transitions(error, error))
    assert math.isnan(lone.spearman)  # one member is never unsure


def test_a_bound_of_the_space_bounds_the_prediction():
    space = spaces.Box(-500.0, 8.0, (1,), np.float32)
    n = 50
    far, std = np.full(n, 30.0), np.full(n, 0.1)
    result = calibration(Table(two(far, far), two(std, std), space=space), transitions(np.full(n, 8.0), far))
    assert result.rmse[0] == 0
    assert result.nll[0] == pytest.approx(0, abs=1e-6)
    assert result.crps[0] < 0.1 / result.scale[0]
    assert np.abs(result.coverage[:, 0] - LEVELS).max() < 0.2  # where all is certain, levels are met by chance
    inside = calibration(Table(two(far, far), two(std, std), space=space), transitions(np.full(n, 5.0), far))
    np.testing.assert_allclose(inside.rmse[0] * inside.scale[0], 3.0, rtol=1e-5)


def test_a_reward_that_is_not_learned_is_not_judged():
    mean, std, target = golden()
    model = Table(two(mean, mean), two(std, std), learn_reward=False)
    result = calibration(model, transitions(target, np.full(60, 1e6)), horizon=1)
    assert result.scale.shape == result.nll.shape == (1,)
    assert result.overall_nll == pytest.approx(result.nll[0])
    assert result.open_loop_coverage.shape == (1, 4, 1)


# ---- data -----------------------------------------------------------------------------------------------------------


class Line(gym.Env):
    """s' = A s + B a + noise, rewards likewise: what a linear Gaussian model can know exactly."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    noise = np.array([0.1, 0.3, 0.2])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.normal(size=2)
        return self.state.astype(np.float32), {}

    def step(self, action):
        mean = np.array([[0.9, 0.2], [-0.2, 0.8]]) @ self.state + np.array([0.3, 0.5]) * action[0]
        reward = self.state[0] - 0.5 * action[0]
        draw = self.noise * self.np_random.normal(size=3)
        self.state = mean + draw[:2]
        return self.state.astype(np.float32), float(reward + draw[2]), self.np_random.random() < 0.02, False, {}


def recorded(env, steps, seed):
    replay = SequenceReplay(env.observation_space, env.action_space, 2 * steps)
    rng = np.random.default_rng(seed)
    replay.begin(env.reset(seed=seed)[0][None])
    for _ in range(steps):
        action = rng.uniform(-1, 1, 1).astype(np.float32)
        last, reward, terminated, truncated, _ = env.step(action)
        ended = terminated or truncated
        obs = env.reset()[0] if ended else last
        replay.add(
            action[None], obs[None], [reward], [terminated], [truncated], final_obs=last[None] if ended else None
        )
    return replay


@pytest.fixture(scope="module")
def line():
    """A fitted ensemble, and held-out data."""
    replay = recorded(Line(), 2500, 0)
    torch.manual_seed(0)
    config = EnsembleConfig(members=3, hidden=(32, 32), learn_termination=False)
    model = Ensemble(replay.observation_space, replay.action_space, config)
    ModelTrainer(model, TrainerConfig(max_updates=1000, max_epochs=60, learning_rate=5e-3), seed=0).fit(replay)
    return model, recorded(Line(), 2000, 1)


def test_an_ensemble_of_a_linear_gaussian_world_is_calibrated(line):
    model, held_out = line
    result = calibration(model, held_out, horizon=5)
    assert result.transitions == 2000
    assert ((result.coverage[2] > 0.86) & (result.coverage[2] < 0.94)).all(), result.coverage
    assert (np.abs(result.coverage - LEVELS[:, None]) < 0.09).all()
    assert (result.miscalibration_area < 0.05).all()
    np.testing.assert_allclose(result.rmse * result.scale, Line.noise, rtol=0.1)
    np.testing.assert_allclose(result.sharpness * result.scale, Line.noise, rtol=0.2)
    entropy = np.log(Line.noise * np.sqrt(2 * np.pi * np.e))  # the best likelihood there is
    excess = result.nll + np.log(result.scale) - entropy
    assert ((excess > -0.05) & (excess < 0.08)).all(), excess
    assert result.overall_nll == pytest.approx(result.nll.sum(), abs=0.05)
    assert result.open_loop_coverage.shape == (5, 4, 3)
    assert (np.abs(result.open_loop_coverage[:, 2] - 0.9) < 0.07).all(), result.open_loop_coverage[:, 2]
    np.testing.assert_allclose(result.overall_open_loop_coverage, result.open_loop_coverage.mean(-1))


def test_too_sure_a_model_is_seen_through_at_one_step_and_at_many(line):
    model, held_out = line
    honest = calibration(model, held_out, horizon=3)
    old = model._moments
    try:
        model._moments = lambda raw: (old(raw)[0], old(raw)[1] / 9)
        sure = calibration(model, held_out, horizon=3)
    finally:
        del model._moments
    assert (sure.coverage[2] < 0.55).all()
    assert (sure.open_loop_coverage[:, 2] < 0.65).all()
    assert sure.overall_miscalibration_area > 5 * honest.overall_miscalibration_area
    assert sure.overall_nll > honest.overall_nll + 3
    assert (sure.crps > honest.crps).all()
    np.testing.assert_allclose(sure.rmse, honest.rmse)


def test_uncertainty_tells_the_unfamiliar(line):
    model, held_out = line
    batch = held_out.gather(held_out.windows(2)[:500], 2)
    moved = SequenceBatch(**{f.name: getattr(batch, f.name) for f in fields(batch)} | {"obs": batch.obs + 10.0})
    assert ood_auroc(model, held_out, moved) > 0.95
    assert ood_auroc(model, moved, held_out) < 0.05
    assert ood_auroc(model, held_out, batch) == pytest.approx(0.5, abs=0.05)
    assert ood_auroc(model, held_out, moved, windows=3) == 1.0


def test_windows_that_cross_episodes_are_as_good_as_a_replay(line):
    model, held_out = line
    starts = held_out.windows(len(held_out), cross_episodes=True)
    batch = held_out.gather(starts, len(held_out))  # one window of everything
    assert batch.is_first.sum() > 10
    whole, crossing = calibration(model, held_out, horizon=2), calibration(model, batch, horizon=2)
    assert crossing.transitions == whole.transitions == held_out.n_transitions
    for field in fields(Calibration):
        np.testing.assert_allclose(getattr(crossing, field.name), getattr(whole, field.name), rtol=1e-5, atol=1e-12)


def test_it_is_reproducible_and_draws_at_most_what_it_is_asked_for(line):
    model, held_out = line
    first, second = (calibration(model, held_out, windows=100, horizon=2, rollouts=7, seed=3) for _ in range(2))
    assert first.transitions == 100
    for field in fields(Calibration):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))
    assert set(np.unique(first.open_loop_coverage * 7 % 1).round(6)) <= {0.0, 1.0}  # sevenths
    other = calibration(model, held_out, windows=100, horizon=2, rollouts=7, seed=4)
    assert other.overall_rmse != first.overall_rmse
    few = calibration(model, held_out, windows=100, horizon=2, rollouts=7, particles=2, seed=3)
    assert few.overall_nll == first.overall_nll
    assert (few.open_loop_coverage != first.open_loop_coverage).any()


def test_a_wrapped_model_is_judged_like_the_one_inside(line):
    model, held_out = line
    wrapped = KnownReward(model, lambda obs, action, after: obs[:, 0])
    assert (
        calibration(wrapped, held_out, windows=50).overall_nll == calibration(model, held_out, windows=50).overall_nll
    )


# ---- rollouts -------------------------------------------------------------------------------------------------------


class Drift(gym.Env):
    """What `Walk` knows but for the noise: the encoded push (half of it, pushes being up to 2) and a Gaussian."""

    observation_space, action_space = spaces.Box(-100.0, 100.0, (2,), np.float32), PUSH

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.obs, self.steps = np.zeros(2), 0
        return self.obs.astype(np.float32), {}

    def step(self, action):
        self.obs = self.obs + action[0] / 2 + 0.2 * self.np_random.normal(size=2)
        self.steps += 1
        return self.obs.astype(np.float32), float(self.obs[0]), False, self.steps >= 12, {}


class Dense(Walk):
    def moments(self, state, action):
        obs = state.obs + action
        mean = torch.cat([obs, obs[:, :1]], -1)[None]
        return mean, torch.full_like(mean, self.config.noise**2)


@pytest.mark.parametrize("context", [1, 3])
@pytest.mark.parametrize(("noise", "low", "high"), [(0.2, 0.85, 0.95), (0.05, 0.0, 0.5), (0.8, 0.99, 1.0)])
def test_the_coverage_of_rollouts_tells_right_from_wrong_noise(context, noise, low, high):
    replay = recorded(Drift(), 1800, 0)
    model = Dense(config=WalkConfig(noise=noise, context=context))
    result = calibration(model, replay, horizon=8, particles=50)
    assert result.transitions == 150 * (12 - context + 1)
    observed = result.open_loop_coverage[:, 2, :2]  # the reward has a past that reality has not
    assert observed.shape == (8, 2)
    assert ((observed >= low) & (observed <= high)).all(), observed
    assert ((result.coverage[2, :2] >= low) & (result.coverage[2, :2] <= high)).all()


# ---- refusals, and the picture --------------------------------------------------------------------------------------


def test_what_cannot_be_judged_is_refused(line):
    model, held_out = line
    batch = held_out.gather(held_out.windows(3)[:5], 3)
    with pytest.raises(TypeError, match=r"model must be a DensityModel.*got Walk; open_loop_error judges"):
        calibration(Walk(), held_out)
    with pytest.raises(TypeError, match="data must be a SequenceReplay or a SequenceBatch, got list"):
        calibration(model, [batch])
    for name in ("windows", "horizon", "rollouts", "particles"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            calibration(model, batch, **{name: 0})
    with pytest.raises(ValueError, match="windows must be at least 1, got 0"):
        ood_auroc(model, batch, batch, windows=0)
    with pytest.raises(ValueError, match=r"4 rows of one episode to judge 3 steps, got windows of 3 rows; lower"):
        calibration(model, batch, horizon=3)
    broken = batch[:1].map(lambda x: torch.ones_like(x) if x.dtype == torch.bool else x)  # is_first everywhere
    with pytest.raises(ValueError, match="2 rows of one episode to judge 1 steps"):
        calibration(model, broken)
    with pytest.raises(ValueError, match="to predict 500 steps"):
        calibration(model, held_out, horizon=500)


def test_the_reliability_diagram_is_drawn(line, tmp_path):
    model, held_out = line
    result = calibration(model, held_out)
    figure = reliability_figure(result)
    axes = figure.axes[0]
    assert len(axes.lines) == 1 + 3 + 1
    np.testing.assert_array_equal(axes.lines[-1].get_ydata(), result.overall_observed)
    np.testing.assert_array_equal(axes.lines[2].get_ydata(), result.observed[:, 1])
    assert axes.get_title() == "2000 transitions, one step"
    assert reliability_figure(result, "A title").axes[0].get_title() == "A title"
    assert save_figure(figure, tmp_path / "reliability.png").stat().st_size > 5000
