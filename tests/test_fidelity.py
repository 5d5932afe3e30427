"""The parts of the fidelity report, against numbers known by hand, in closed form or from other libraries."""

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_calibration import Line, recorded
from test_report import ACTIONS, OBSERVATIONS, Counter, NoConfig, Toy, counter_replay
from torch import Tensor

from mbrl_gym import RSSM, RSSMConfig, SequenceReplay, TensorStruct
from mbrl_gym.horizon_error import seeded
from mbrl_gym.model import DensityModel, ModelLoss, Prediction
from mbrl_gym.report import (
    Noisy,
    calibration,
    exploitation_gap,
    noisy_policies,
    open_loop_error,
    run_episodes,
    sampled_calibration,
)
from mbrl_gym.report import scores as s
from mbrl_gym.report.data_report import ReportConfig, reach
from mbrl_gym.report.images import image_error
from mbrl_gym.report.latent import latent_health
from mbrl_gym.report.matched import Matched, matched_episodes, whole_episodes
from mbrl_gym.report.normaliser import normaliser_fit
from mbrl_gym.report.pictures import pictures, psnr, sees, ssim
from mbrl_gym.report.ranking import policy_ranking
from mbrl_gym.report.section import plain
from mbrl_gym.report.steps import (
    Predicted,
    predicted_steps,
    reward_scores,
    termination_scores,
    uncertainty_scores,
)
from mbrl_gym.wrappers import UncertaintyPenalty
from worlds import PUSH, Walk, WalkConfig

LEVELS = np.array([0.5, 0.8, 0.9, 0.95])


@dataclass(frozen=True)
class Row(TensorStruct):
    obs: Tensor


class Truth(DensityModel[Row]):
    """The true model of `Line`, with ``factor`` times its standard deviations."""

    config_class = NoConfig

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__(Line.observation_space, Line.action_space, NoConfig())
        self.noise = factor * torch.tensor(Line.noise, dtype=torch.float32)

    def initial(self, batch_size):
        return Row(torch.zeros(batch_size, 2))

    def observe(self, state, action, obs, is_first, generator=None):
        return Row(obs)

    def moments(self, state, action):
        after = state.obs @ torch.tensor([[0.9, -0.2], [0.2, 0.8]]) + action * torch.tensor([0.3, 0.5])
        mean = torch.cat([after, state.obs[:, :1] - 0.5 * action], -1)[None]
        return mean, self.noise.square().expand_as(mean)

    def predict(self, state, action, generator=None, sample=True, uncertainty=True):
        value = self.moments(state, action)[0][0]
        if sample:
            value = value + self.noise * torch.randn(value.shape, generator=generator)
        no = torch.zeros(len(value), dtype=torch.bool)
        return Row(value[:, :2]), Prediction(value[:, 2], no, no, 1.0 - no.float(), torch.zeros(len(value)))

    def features(self, state):
        return state.obs

    def decode(self, state):
        return state.obs

    def loss(self, batch, start=None):
        return ModelLoss(torch.zeros(()), {})


@pytest.fixture(scope="module")
def line():
    return recorded(Line(), 3000, 1)


# ---- formulas -------------------------------------------------------------------------------------------------------


def test_the_score_of_samples_is_that_of_their_pairs_and_of_the_gaussian_in_the_limit():
    draw = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.linspace(-1, 1, 5, dtype=torch.float64)
    pairs = (draw[:, None] - draw[None]).abs().sum((0, 1)) / (7 * 6)
    expected = (draw - target).abs().mean(0) - pairs / 2
    np.testing.assert_allclose(s.sample_crps(draw, target), expected)
    many = torch.randn(40_000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    point = torch.tensor([0.7], dtype=torch.float64)
    np.testing.assert_allclose(s.sample_crps(many, point), s.gaussian_crps(point, torch.ones(1)), atol=0.01)


def test_kendalls_tau_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 20).astype(float), rng.integers(0, 5, 20).astype(float)
    assert s.kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)
    assert s.kendall(np.arange(3.0), np.array([2.0, 1.0, 3.0])) == pytest.approx(1 / 3)
    assert math.isnan(s.kendall(np.ones(3), np.arange(3.0)))


def test_the_pit_histogram_has_all_shares():
    np.testing.assert_allclose(s.pit(np.linspace(0.05, 0.95, 10)), 0.1)
    assert s.pit(np.array([1.0, 0.99, 0.0, 0.55])).tolist() == [0.25, 0, 0, 0, 0, 0.25, 0, 0, 0, 0.5]


def test_json_has_no_numbers_that_json_has_not():
    value = plain({"a": np.array([1.0, np.nan]), "b": (np.float64(np.inf), np.int64(3)), 4: None})
    assert value == {"a": [1.0, None], "b": [None, 3], "4": None}
    json.dumps(value, allow_nan=False)


# ---- open loop ------------------------------------------------------------------------------------------------------


def test_the_mean_predictor_errs_by_what_reality_deviates_from_the_mean():
    replay = counter_replay()
    error = open_loop_error(Toy(), replay, horizon=4, windows=1000)
    rows = replay.gather(replay.windows(1), 1).obs[:, 0].double().numpy()
    arrived = replay.gather(replay.windows(5), 5).obs.double().numpy()[:, 1:]  # [W, K, D]
    expected = np.sqrt(np.square((arrived - rows.mean(0)) / rows.std(0)).mean(0))
    np.testing.assert_allclose(error.mean, expected, rtol=1e-4)
    np.testing.assert_allclose(error.overall_mean, np.sqrt(np.square(expected).mean(1)), rtol=1e-4)
    np.testing.assert_array_equal(error.baseline, np.minimum(error.overall_mean, error.overall_persistence))


def test_a_model_is_useful_for_as_long_as_it_beats_both_baselines():
    assert open_loop_error(Toy(), counter_replay(), 4).useful == 4
    assert open_loop_error(Toy(moves=0.0), counter_replay(), 4).useful == 0
    found = open_loop_error(Toy(), counter_replay(), 4)
    curves = {"overall_persistence": np.array([2.0, 3, 3, 3]), "overall_mean": np.array([3.0, 1, 1, 1])}
    assert replace(found, overall=np.array([1.0, 0.5, 2, 0.5]), **curves).useful == 2
    assert replace(found, overall=np.array([2.5, 0.5, 0.5, 0.5]), **curves).useful == 0


# ---- calibration ----------------------------------------------------------------------------------------------------


def test_the_true_model_of_a_linear_gaussian_world_is_calibrated_in_closed_form(line):
    exact = calibration(Truth(), line)
    np.testing.assert_allclose(exact.coverage, LEVELS[:, None] + np.zeros(3), atol=0.035)
    np.testing.assert_allclose(exact.crps * exact.scale, Line.noise / math.sqrt(math.pi), rtol=0.05)
    np.testing.assert_allclose(exact.pit, 0.1, atol=0.03)
    assert exact.pit.shape == (10, 3)
    np.testing.assert_allclose(exact.pit.sum(0), 1)
    for k in (1, 10):
        sampled = sampled_calibration(Truth(), line, k, windows=1500, particles=32)
        assert sampled.k == k
        np.testing.assert_allclose(sampled.coverage, LEVELS[:, None] + np.zeros(3), atol=0.05)
        np.testing.assert_allclose(sampled.pit, 0.1, atol=0.04)
        assert sampled.overall_calibration_error < 0.03
    variance, step = np.zeros((2, 2)), np.array([[0.9, 0.2], [-0.2, 0.8]])
    for _ in range(10):
        variance = step @ variance @ step.T + np.diag(Line.noise[:2] ** 2)
    deviation = np.sqrt(variance.diagonal())  # of the 10-step prediction
    np.testing.assert_allclose((sampled.sharpness * sampled.scale)[:2], deviation, rtol=0.05)
    np.testing.assert_allclose((sampled.crps * sampled.scale)[:2], deviation / math.sqrt(math.pi), rtol=0.08)


def test_uncertainty_toolbox_says_the_same_of_it(line):
    uct = pytest.importorskip("uncertainty_toolbox")
    batch = line.gather(line.windows(2)[:800], 2)
    mean = Truth().moments(Row(batch.obs[:, 0]), batch.action[:, 0])[0][0, :, 0].double().numpy()
    deviation, target = np.full(len(mean), Line.noise[0]), batch.obs[:, 1, 0].double().numpy()
    mine = calibration(Truth(), batch, windows=800)
    ece = uct.mean_absolute_calibration_error(mean, deviation, target)
    assert mine.calibration_error[0] == pytest.approx(ece, abs=1e-3)
    assert mine.crps[0] * mine.scale[0] == pytest.approx(uct.crps_gaussian(mean, deviation, target), rel=1e-3)
    assert mine.sharpness[0] * mine.scale[0] == pytest.approx(uct.sharpness(deviation), rel=1e-5)


def test_samples_that_are_too_narrow_or_too_wide_are_seen_through(line):
    found = {f: sampled_calibration(Truth(f), line, 5, windows=400, particles=32) for f in (0.3, 1.0, 3.0)}
    assert (found[0.3].coverage[2] < 0.6).all()
    assert (found[3.0].coverage[0] > 0.75).all()
    assert found[0.3].pit[0].mean() > 0.2  # a valley
    assert found[3.0].pit[4:6].sum(0).mean() > 0.3  # a hill
    assert min(found, key=lambda f: found[f].overall_crps) == 1.0
    assert min(found, key=lambda f: found[f].overall_calibration_error) == 1.0
    assert found[0.3].overall_sharpness < found[1.0].overall_sharpness < found[3.0].overall_sharpness


def test_sampled_calibration_draws_what_it_is_asked_for(line):
    first, second = (sampled_calibration(Truth(), line, 2, 50, 4, seed=3) for _ in range(2))
    assert first.windows == 50
    assert first.particles == 4
    assert first.to_json() == second.to_json()
    assert sampled_calibration(Truth(), line, 2, 50, 4, seed=4).overall_crps != first.overall_crps
    with pytest.raises(ValueError, match="particles must be at least 2 to have a spread, got 1"):
        sampled_calibration(Truth(), line, particles=1)
    with pytest.raises(ValueError, match=r"model must draw its predictions .* all 8 rollouts of a Toy are equal"):
        sampled_calibration(Toy(), counter_replay(), 2, particles=8)


# ---- single steps ---------------------------------------------------------------------------------------------------


def steps(**columns):
    n = len(next(iter(columns.values())))
    zeros = {name: np.zeros(n) for name in ("error", "uncertainty", "reward", "real_reward", "ending")}
    no = {name: np.zeros(n, bool) for name in ("terminated", "ended")}
    return Predicted(**{**zeros, **no, **{name: np.asarray(value) for name, value in columns.items()}})


def test_rewards_are_scored_by_hand():
    scores = reward_scores(steps(reward=[1.0, -1.0, 0.005, 2.0], real_reward=[1.0, 1.0, 0.0, -2.0]))
    assert scores.mae == pytest.approx((0 + 2 + 0.005 + 4) / 4)
    assert scores.r2 == pytest.approx(1 - (0 + 4 + 0.005**2 + 16) / 6)
    assert scores.signs.tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert scores.wrong_signs == pytest.approx(2 / 3)
    assert "predicted" not in scores.to_json()
    constant = reward_scores(steps(reward=[1.0, 1.1], real_reward=[1.0, 1.0]))
    assert math.isnan(constant.r2)
    assert math.isnan(reward_scores(steps(reward=[0.0], real_reward=[0.0])).wrong_signs)


def test_ends_are_scored_by_hand():
    ended, said = [True, True, False, False, False], [True, False, True, False, False]
    scores = termination_scores(steps(ended=ended, terminated=said, ending=[0.9, 0.4, 0.6, 0.0, 0.0]))
    assert (scores.precision, scores.recall, scores.ends, scores.predicted) == (0.5, 0.5, 2, 2)
    assert scores.brier == pytest.approx((0.01 + 0.36 + 0.36) / 5)
    assert scores.reference == pytest.approx(0.4 * 0.6)
    never = termination_scores(steps(ended=[False], terminated=[False], ending=[0.0]))
    assert math.isnan(never.precision)
    assert math.isnan(never.recall)


def test_an_uncertainty_is_scored_by_the_order_it_makes():
    error = np.linspace(0.1, 2, 50)
    good, bad = (uncertainty_scores(steps(error=error, uncertainty=sign * error + 3)) for sign in (1, -1))
    assert (good.spearman, good.large_error_auroc, good.sparsification_error) == (1, 1, 0)
    assert (bad.spearman, bad.large_error_auroc) == (-1, 0)
    assert bad.sparsification_error > 0.4
    np.testing.assert_allclose(good.kept_error, good.best_error)
    assert good.kept[-1] == 1
    assert good.kept_error[-1] == pytest.approx(1)
    with pytest.raises(ValueError, match="must differ between transitions"):
        uncertainty_scores(steps(error=error, uncertainty=np.ones(50)))


def test_steps_are_predicted_from_recorded_contexts():
    for context in (1, 3):
        found = predicted_steps(Toy(context=context), counter_replay())
        assert len(found.error) == 5 * (13 - context)
        assert found.error.max() < 1e-4
        np.testing.assert_allclose(found.reward, found.real_reward, atol=1e-6)
    wrong = predicted_steps(Toy(bias=0.5), counter_replay())
    batch = counter_replay().gather(counter_replay().windows(2), 2)
    change = (batch.obs[:, 1] - batch.obs[:, 0]).double().numpy().std(0)
    unit = np.where(change > 1e-6, change, 1.0)
    np.testing.assert_allclose(wrong.error, np.sqrt(np.square(0.5 / unit).mean()), rtol=1e-3)
    assert len(predicted_steps(Toy(), counter_replay(), windows=7).error) == 7


# ---- policies and matched episodes ----------------------------------------------------------------------------------


def half(obs, memory, episode_start, deterministic):
    """Pushes by a half, in one episode or in many."""
    return np.full((*np.shape(obs)[:-1], 1), 0.5, np.float32), None


def played(predict, env=None, episodes=3):
    replay = SequenceReplay(OBSERVATIONS, ACTIONS, 1000)
    run_episodes(predict, env or Counter(6), episodes, replay=replay)
    return whole_episodes(replay)


def test_a_share_of_the_actions_is_random():
    found = []
    for share in (0.0, 0.5, 1.0):
        actions = torch.cat([e.action[0, :-1, 0] for e in played(Noisy(half, ACTIONS, share), Counter(200), 2)])
        found.append(float((actions != 0.5).float().mean()))
    assert found[0] == 0
    assert 0.4 < found[1] < 0.6
    assert found[2] == 1
    assert list(noisy_policies(half, ACTIONS)) == [
        "policy",
        "policy, 25 % random actions",
        "policy, 50 % random actions",
        "random actions",
    ]
    with pytest.raises(ValueError, match="share must be between 0 and 1, got 2"):
        Noisy(half, ACTIONS, 2)
    with pytest.raises(ValueError, match=r"share must be 1 without a policy, got 0.5; give predict"):
        Noisy(None, ACTIONS, 0.5)


def test_random_episodes_differ_from_each_other_and_by_seed():
    one, two = (torch.cat([e.action for e in played(Noisy(None, ACTIONS, seed=seed))]) for seed in (0, 1))
    assert (one[0] != one[1])[:-1].any()
    assert (one != two).any()


@pytest.mark.parametrize("context", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_perfect_dream_returns_what_reality_does(context, share):
    predict = Noisy(None if share == 1 else half, ACTIONS, share)
    matched = matched_episodes(Toy(context=context), played(predict), predict, horizon=6 - context + 1)
    np.testing.assert_allclose(matched.dream, matched.real, atol=1e-5)
    assert matched.real_lengths.tolist() == matched.dream_lengths.tolist() == [7 - context] * 3
    assert matched.broken == 0
    assert matched.mean_gap == pytest.approx(0, abs=1e-5)


def test_a_dream_that_pays_more_has_a_gap():
    class Generous(Toy):
        def predict(self, *args, **kwargs):
            state, step = super().predict(*args, **kwargs)
            return state, replace(step, reward=step.reward + 1)

    matched = matched_episodes(Generous(), played(half), half, 6)
    np.testing.assert_allclose(matched.gap, 6, rtol=1e-5)
    assert matched.standard_error == pytest.approx(0, abs=1e-6)
    shorter = matched_episodes(Generous(), played(half), half, 4)  # both sides stop there
    np.testing.assert_allclose(shorter.gap, 4, rtol=1e-5)
    np.testing.assert_allclose(shorter.real, 2, rtol=1e-5)


def test_penalties_do_not_count():
    class Unsure(Toy):
        def predict(self, *args, **kwargs):
            state, step = super().predict(*args, **kwargs)
            return state, replace(step, uncertainty=torch.ones_like(step.reward))

    penalised = UncertaintyPenalty(Unsure(), coefficient=10.0)
    np.testing.assert_allclose(matched_episodes(penalised, played(half), half, 6).gap, 0, atol=1e-5)


@pytest.mark.parametrize(("flag", "kept"), [("truncated", 2), ("halted", 2), ("terminated", 6)])
def test_a_dream_that_is_cut_is_compared_with_as_many_real_steps(flag, kept):
    class Short(Toy):
        def predict(self, state, *args, **kwargs):
            after, step = super().predict(state, *args, **kwargs)
            self.count += 1
            now = torch.full_like(step.terminated, self.count == 2)
            if flag == "halted":
                return after, replace(step, terminated=now, info={"halted": now})
            return after, replace(step, **{flag: now})

    model = Short()
    model.count = 0
    matched = matched_episodes(model, played(half), half, 6)
    assert matched.dream_lengths.tolist() == [2, 2, 2]
    assert matched.real_lengths.tolist() == [kept] * 3
    np.testing.assert_allclose(matched.dream, 1, rtol=1e-5)


def test_a_diverged_dream_is_counted():
    model = Walk(OBSERVATIONS, PUSH, WalkConfig(breaks_with=float("nan")))
    replay = SequenceReplay(OBSERVATIONS, PUSH, 100)
    hard = lambda obs, *_: (np.full((*np.shape(obs)[:-1], 1), 2.0, np.float32), None)  # noqa: E731
    env = Counter(5)
    env.action_space = PUSH
    run_episodes(hard, env, 3, replay=replay)
    assert matched_episodes(model, whole_episodes(replay), hard, 5).broken == 3


def test_episodes_within_the_context_are_left_out_and_streams_stay_in_step():
    class Uneven(Counter):
        def reset(self, **kwargs):
            self.length = 2 if self.length == 6 else 6
            return super().reset(**kwargs)

    predict = Noisy(None, ACTIONS)
    episodes = played(predict, Uneven(6), 4)
    assert [e.length for e in episodes] == [3, 7, 3, 7]
    matched = matched_episodes(Toy(context=4), episodes, predict, 3)
    np.testing.assert_allclose(matched.gap, 0, atol=1e-5)
    assert len(matched.real) == 2
    with pytest.raises(ValueError, match="more than the 9 rows of the model's context"):
        matched_episodes(Toy(context=9), episodes, predict, 3)


def test_a_policy_has_to_take_batches():
    lone = lambda *_: (np.array([0.5], np.float32), None)  # noqa: E731
    with pytest.raises(ValueError, match=r"policy must return actions for a batch of 3 .* got the shape \(1,\)"):
        matched_episodes(Toy(), played(lone), lone, 6)


def test_whole_episodes_leave_out_what_is_open():
    replay = SequenceReplay(OBSERVATIONS, ACTIONS, 40, n_envs=2)
    replay.begin(np.zeros((2, 2), np.float32))
    for t in range(5):
        obs = np.full((2, 2), t + 1, np.float32)
        ends = np.array([t == 2, False])
        replay.add(np.zeros((2, 1), np.float32), obs, [1.0, 5.0], ends, [False, t == 3], obs)
    found = whole_episodes(replay)
    assert [e.length for e in found] == [4, 5]
    assert [float(e.reward.sum()) for e in found] == [3.0, 20.0]


# ---- the rule of the alarm, and ranking -----------------------------------------------------------------------------


def pairs(real, dream):
    real, dream = np.asarray(real, float), np.asarray(dream, float)
    return Matched(real, dream, np.full(len(real), 9), np.full(len(real), 9), 0)


@pytest.mark.parametrize(
    ("real", "dream", "alarm"),
    [
        ([-900, -950, -1000], [-200, -220, -250], True),  # most of the promise is missing
        ([-200, -210, -190], [-180, -190, -170], False),  # sure, but 2 % of the promise
        ([-900, -100, -500], [-300, -400, -500], False),  # large, but chance
        ([-200, -210, -190], [-900, -950, -1000], False),  # too pessimistic a dream exploits nobody
        ([-900], [-200], False),  # of one pair nothing can be said
    ],
)
def test_the_alarm_needs_a_gap_that_is_sure_and_large(real, dream, alarm):
    gap = exploitation_gap(pairs(real, dream), [-1200, -1100, -1000])
    assert gap.alarm is alarm
    assert gap.random == -1100
    assert gap.promise == pytest.approx(max(np.mean(dream) + 1100, np.std([-1200, -1100, -1000])))
    assert gap.missing == pytest.approx(gap.gap / gap.promise)
    assert gap.gap == pytest.approx(np.mean(dream) - np.mean(real))


def test_an_alarm_needs_returns_of_random_actions():
    with pytest.raises(ValueError, match="random_returns must hold at least one return"):
        exploitation_gap(pairs([0], [0]), [])


def test_policies_are_ranked():
    order = {name: pairs([real], [dream]) for name, real, dream in (("a", 1, 10), ("b", 2, 30), ("c", 4, 20))}
    ranking = policy_ranking(order)
    assert ranking.names == ("a", "b", "c")
    assert ranking.kendall == pytest.approx(1 / 3)
    assert ranking.spearman == pytest.approx(0.5)
    assert ranking.regret == pytest.approx(2 / 3)  # b is chosen, c is best, a is worst
    with pytest.raises(ValueError, match="at least 3 policies to rank, got 2"):
        policy_ranking({"a": order["a"], "b": order["b"]})


# ---- pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(20, 24, 1), (9, 12, 3)])
def test_likeness_is_that_of_scikit_image(shape):
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (3, *shape), dtype=np.uint8)
    drawn = np.clip(real + rng.normal(0, 25, real.shape), 0, 255).astype(np.uint8)
    mine = ssim(torch.from_numpy(drawn), torch.from_numpy(real)), psnr(torch.from_numpy(drawn), torch.from_numpy(real))
    for i in range(3):
        assert mine[0][i] == pytest.approx(metrics.structural_similarity(real[i], drawn[i], channel_axis=-1), abs=1e-6)
        assert mine[1][i] == pytest.approx(metrics.peak_signal_noise_ratio(real[i], drawn[i]), abs=1e-6)


def test_equal_pictures_are_alike_whatever_their_size():
    for size in (3, 4, 12):
        picture = torch.randint(0, 256, (2, size, size, 1), dtype=torch.uint8)
        assert ssim(picture, picture).tolist() == pytest.approx([1, 1])
        assert psnr(picture, picture).tolist() == [100, 100]


SCREEN = spaces.Box(0, 255, (12, 12, 1), np.uint8)


class Mover(Toy):
    """A bright ball on a dark screen that moves one column a step; ``lost`` draws none."""

    def __init__(self, lost=False):
        super().__init__()
        self.observation_space, self.lost = SCREEN, lost

    def observe(self, state, action, obs, is_first, generator=None):
        return Row(obs.float())

    def predict(self, state, action, generator=None, sample=True, uncertainty=True):
        obs = torch.zeros_like(state.obs) if self.lost else state.obs.roll(1, 2)
        no = torch.zeros(len(obs), dtype=torch.bool)
        return Row(obs), Prediction(torch.zeros(len(obs)), no, no, 1.0 - no.float(), torch.zeros(len(obs)))

    def initial(self, batch_size):
        return Row(torch.zeros(batch_size, 12, 12, 1))

    def decode(self, state):
        return state.obs.to(torch.uint8)


def screens(length=9):
    replay = SequenceReplay(SCREEN, ACTIONS, 100)
    frames = np.zeros((length, 1, 12, 12, 1), np.uint8)
    for t in range(length):
        frames[t, :, 5, t] = 200
    replay.begin(frames[0])
    for frame in frames[1:]:
        replay.add(np.zeros((1, 1), np.float32), frame, [0.0], [False], [False])
    return replay


def ball(images):
    assert images.shape[1:] == (12, 12)
    where = [np.argwhere(image) for image in images]
    return np.array([spot[0] if len(spot) else (np.nan, np.nan) for spot in where], dtype=float)


def test_a_ball_is_found_where_it_is_drawn():
    good, bad = (image_error(Mover(lost), screens(), 5, objects={"ball": ball}) for lost in (False, True))
    assert good.windows == 4
    assert good.recall["ball"].tolist() == [1] * 5
    assert good.psnr.tolist() == [100] * 5
    np.testing.assert_allclose(good.ssim, 1)
    assert bad.recall["ball"].tolist() == [0] * 5
    assert (bad.psnr > 20).all()  # which says nothing of the ball
    assert bad.still_recall["ball"].tolist() == [1, 1, 0, 0, 0]  # within 2 pixels
    assert (good.still_ssim < 1).all()
    mean_square = (200**2 / 144) * np.array([2, 2, 2, 2, 2])  # a ball is missing, and another one is not there
    np.testing.assert_allclose(good.still_psnr, 10 * np.log10(255**2 / mean_square))
    assert good.film.shape == (6, 2, 3, 12, 12, 1)
    assert "film" not in good.to_json()
    assert len(image_error(Mover(), screens(), 5, windows=2).psnr) == 5


def test_pictures_have_their_channels_last():
    model = Mover()
    for shape, axis in (((12, 10), None), ((3, 12, 10), 0), ((12, 10, 3), 2)):
        model.observation_space = spaces.Box(0, 255, shape, np.uint8)
        found = pictures(model, torch.zeros(5, *shape, dtype=torch.uint8))
        assert found.shape == (5, 12, 10, 1 if axis is None else 3)
    model.observation_space = spaces.Dict(a=spaces.Box(-1, 1, (2,)), view=SCREEN)
    assert pictures(model, {"a": torch.zeros(5, 2), "view": torch.zeros(5, 12, 12, 1)}).shape == (5, 12, 12, 1)
    assert sees(model)
    assert not sees(Toy())
    found = predicted_steps(Mover(), screens())
    assert found.error.tolist() == [0] * 8


# ---- insides --------------------------------------------------------------------------------------------------------


def test_a_latent_that_nothing_is_said_to_has_no_active_units():
    torch.manual_seed(0)
    model = RSSM(OBSERVATIONS, ACTIONS, RSSMConfig(deter=16, hidden=8, blocks=2, stoch=4, classes=4, units=8, layers=1))
    replay = counter_replay()
    health = latent_health(model, replay, length=6)
    assert health.units == 4
    assert health.kl == pytest.approx(health.kl_by_unit.sum())
    assert health.rows == 6 * min(64, len(replay.windows(7)))
    assert health.to_json() == latent_health(model, replay, length=6).to_json()
    with torch.no_grad():  # both say the same
        for net in (model.prior, model.posterior):
            last = [p for p in net.parameters() if p.shape[0] == model.latent.outputs]
            for parameter in last:
                parameter.zero_()
    dead = latent_health(model, replay, length=6)
    assert dead.active_units == 0
    assert dead.kl == pytest.approx(0, abs=1e-6)
    assert latent_health(Toy(), replay) is None


def test_the_global_generator_is_left_alone():
    model = RSSM(OBSERVATIONS, ACTIONS, RSSMConfig(deter=16, hidden=8, blocks=2, stoch=4, classes=4, units=8, layers=1))
    before = torch.random.get_rng_state()
    latent_health(model, counter_replay(), length=6)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_normaliser_fits_the_data_that_it_is_of(pendulum):
    from worlds import real_steps

    replay = real_steps("Pendulum-v1", 400)
    fit = normaliser_fit(pendulum.model, replay)
    assert fit.misfit == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(fit.mean, 0, atol=0.05)
    np.testing.assert_allclose(fit.deviation, 1, atol=0.05)
    assert normaliser_fit(Toy(), counter_replay()) is None


def test_a_horizon_reaches_as_far_as_enough_windows_do():
    replay = counter_replay(episodes=5, length=12)  # 5 x (13 - k) windows of k steps
    assert reach(Toy(), replay, 30) == 7
    assert reach(Toy(), replay, 3) == 3
    assert reach(Toy(), counter_replay(2, 12), 30) == 12  # none has 30 windows
    with pytest.raises(ValueError, match="an episode of at least 21 rows to judge this model"):
        reach(Toy(context=20), replay, 3)


@pytest.mark.parametrize(("name", "least"), [("horizon", 1), ("episodes", 2), ("particles", 2), ("seed", 0)])
def test_a_config_refuses_numbers_below_their_least(name, least):
    with pytest.raises(ValueError, match=f"{name} must be at least {least}, got {least - 1}"):
        ReportConfig(**{name: least - 1})


def test_generators_are_on_the_device_of_the_model():
    assert seeded(Toy(), 3).initial_seed() == 3
