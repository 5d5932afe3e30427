"""UncertaintyPenalty, and the measures of uncertainty that all wrappers share."""

import math

import pytest
import torch
from told import at, told

from mbrl_gym import Ensemble, EnsembleConfig, check_world_model
from mbrl_gym.model import trajectory_return
from mbrl_gym.planners import CEM, CEMConfig
from mbrl_gym.wrappers import Halt, KnownReward, TruncateUncertain, UncertaintyPenalty
from mbrl_gym.wrappers.disagreement import MEASURES
from worlds import BOX, PUSH, Walk

MEAN = [[0.5, -1.0, 2.0], [0.7, -0.4, 1.5], [0.1, -1.3, 2.6]]
VARIANCE = [[0.04, 0.09, 0.25], [0.01, 0.16, 0.36], [0.09, 0.04, 0.49]]
# Of these moments by OfflineRL-Kit's ensemble_dynamics.py (its three modes), a pairwise norm over the observation, and
# MACURA's distance_measures.py (calc_uncertainty_score_genShen over its symmetric pairs), run from their repositories.
GOLDEN = {
    "max_aleatoric": 0.78740079,
    "pairwise": 0.56666667,
    "ensemble_std": 0.31797973,
    "geometric_js": 1.38473637,
    "largest_gap": 1.08166538,
}
MODEL = {"mean": MEAN, "variance": VARIANCE, "propagation": "expectation"}


@pytest.mark.parametrize("measure", GOLDEN)
def test_raw_measures_are_the_references(measure):
    model = UncertaintyPenalty(told(**MODEL, scale=(2.0, 3.0, 4.0)), 2.0, measure, units="raw")
    _, step = model.predict(*at(model, [0.0, 0.5]))
    torch.testing.assert_close(step.info["penalty"], torch.full((2,), 2 * GOLDEN[measure]))
    torch.testing.assert_close(step.reward, 2.0333333 - step.info["penalty"])
    assert step.info["raw_reward"].tolist() == pytest.approx([2.0333333] * 2)


@pytest.mark.parametrize("measure", GOLDEN)
def test_standard_measures_do_not_depend_on_the_units_of_the_observation(measure):
    factor = torch.tensor([100.0, 0.01, 1.0])
    inner = told(**MODEL)
    scaled = told(inner.mean * factor, inner.variance * factor.square(), scale=factor, propagation="expectation")
    results = []
    for base in (inner, scaled):
        model = UncertaintyPenalty(base, 1.0, measure)
        results.append(model.predict(*at(model, [0.0]))[1].info["penalty"].item())
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    if measure != "ensemble_std":  # the model's own includes the reward
        assert results[0] == pytest.approx(GOLDEN[measure], rel=1e-5)
    raw = UncertaintyPenalty(scaled, 1.0, measure, units="raw")
    changed = raw.predict(*at(raw, [0.0]))[1].info["penalty"].item() != pytest.approx(results[0], rel=1e-2)
    assert changed == (measure != "geometric_js")  # which has no units


def test_the_default_is_the_models_own_uncertainty_whether_it_was_asked_for_or_not():
    model = UncertaintyPenalty(told(**MODEL), 3.0)
    state, action = at(model, [0.0, 1.0])
    own = model.inner.predict(state, action)[1].uncertainty
    means = torch.tensor(MEAN)
    assert own[0].item() == pytest.approx(means.var(0, unbiased=False).mean().sqrt().item(), rel=1e-5)
    for uncertainty in (True, False):
        assert model.predict(state, action, uncertainty=uncertainty)[1].info["penalty"].equal(3 * own)
    walk = UncertaintyPenalty(Walk(), 3.0)  # which knows no moments: its uncertainty is the size of the push
    _, step = walk.predict(*at(walk, [0.5, -0.25]))
    assert step.info["penalty"].tolist() == [1.5, 0.75]
    assert step.reward.tolist() == [0.5 - 1.5, -0.25 - 0.75]


def test_penalties_add_up_and_the_raw_reward_stays_the_innermost():
    model = UncertaintyPenalty(UncertaintyPenalty(Walk(), 3.0), 1.0)
    _, step = model.predict(*at(model, [0.5]))
    assert step.info["raw_reward"].tolist() == [0.5]
    assert step.info["penalty"].tolist() == [2.0]
    assert step.reward.tolist() == [-1.5]


def test_a_penalty_is_taken_from_the_known_reward():
    model = UncertaintyPenalty(KnownReward(Walk(), lambda obs, action, after: after[:, 0] + 7), 1.0)
    _, step = model.predict(*at(model, [0.5]))
    assert (step.info["raw_reward"].item(), step.reward.item()) == (7.5, 7.0)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_row_that_diverged_has_no_penalty_and_every_number_is_finite(measure):
    model = UncertaintyPenalty(told(**MODEL, slope=1.0), 1.0, measure)
    state, action = at(model, [0.0, math.inf])
    _, step = model.predict(state, action)
    assert step.truncated.tolist() == [False, True]
    assert step.info["penalty"][0] > 0
    assert (step.info["penalty"][1], step.reward[1]) == (0, 0)
    model.inner.variance = torch.full((3, 3), 1e38)
    model.inner.slope = torch.tensor([[-1e30], [1e30], [0.0]]).expand(3, 3)
    _, step = model.predict(*at(model, [0.0, 1.0]))
    assert step.reward.isfinite().all()
    assert step.info["penalty"].isfinite().all()


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("units", ["standard", "raw"])
def test_the_contract_and_finite_gradients_where_hypotheses_agree(measure, units):
    torch.manual_seed(0)
    config = EnsembleConfig(members=3, hidden=(4,), termination_hidden=(4,))
    check_world_model(UncertaintyPenalty(Ensemble(BOX, PUSH, config), 1.0, measure, units))
    model = UncertaintyPenalty(told([[0.1, 0.2, 0.3]] * 3, slope=0.5), 1.0, measure, units)
    state, action = at(model, [0.0, 0.5])
    action.requires_grad_()
    (gradient,) = torch.autograd.grad(model.predict(state, action)[1].reward.sum(), action)
    assert gradient.isfinite().all()


def test_measures_of_a_single_hypothesis_see_no_disagreement():
    mean, variance = torch.ones(1, 2, 3), torch.ones(1, 2, 3)
    for name in ("ensemble_std", "pairwise", "largest_gap", "geometric_js"):
        assert MEASURES[name](mean, variance, torch.ones(3)).tolist() == [0, 0], name


def test_geometric_js_of_two_gaussians_by_hand():
    mean = torch.tensor([[[0.0, 0.0]], [[3.0, 0.0]]])
    variance = torch.tensor([[[1.0, 1.0]], [[1.0, 4.0]]])
    expected = 9 / (4 * 2) + 0.5 * math.log(2.5 / 2)
    assert MEASURES["geometric_js"](mean, variance, torch.ones(2)).item() == pytest.approx(expected, rel=1e-5)
    assert MEASURES["geometric_js"](torch.zeros(2, 1, 2), torch.zeros(2, 1, 2), torch.ones(2)).item() == 0
    variance = torch.rand(1, 1000, 1, generator=torch.Generator().manual_seed(0))
    variance = torch.cat([variance, variance * 1.0001])  # so close that rounding decides
    assert MEASURES["geometric_js"](torch.zeros(2, 1000, 1), variance, torch.ones(1)).ge(0).all()


def test_a_planner_stays_where_the_hypotheses_agree():
    # The reward is the push, but the members disagree about where it leads.
    model = told([[0.0] * 3] * 2, slope=[[2.0, 0.0, 1.0], [-2.0, 0.0, 1.0]], propagation="expectation")
    cem = CEM(model.action_codec, CEMConfig(horizon=2, candidates=60, elites=6, iterations=5, particles=1))

    def chosen(model):
        state, _ = at(model, [0.0])
        plan = cem.plan(model, state, cem.initial(1), torch.Generator().manual_seed(0))
        return plan.action.item()

    assert chosen(model) > 0.9
    assert chosen(UncertaintyPenalty(model, 0.5)) > 0.9  # 0.5 * 2 |push| / sqrt(3) costs less than it brings
    assert abs(chosen(UncertaintyPenalty(model, 3.0))) < 0.1
    assert abs(chosen(UncertaintyPenalty(model, 3.0, "largest_gap"))) < 0.1


def test_imagined_returns_are_penalised():
    model = UncertaintyPenalty(Walk(), 2.0)
    state, _ = at(model, [0.0])
    assert trajectory_return(model, state, torch.full((1, 3, 1), 0.5)).item() == pytest.approx(0.5 + 1.0 + 1.5 - 3.0)


@pytest.mark.parametrize("wrapper", [UncertaintyPenalty, lambda m, **k: Halt(m, 1.0, **k), TruncateUncertain])
def test_what_a_measure_needs(wrapper):
    with pytest.raises(ValueError, match=r"measure must be one of \['ensemble_std', .*\], got 'variance'"):
        wrapper(told(**MODEL), measure="variance")
    with pytest.raises(ValueError, match="units must be 'standard' or 'raw', got 'metres'"):
        wrapper(told(**MODEL), measure="pairwise", units="metres")
    with pytest.raises(ValueError, match=r"inner must know the moments .* got Walk; use measure='ensemble_std'"):
        wrapper(Walk(), measure="pairwise")
    with pytest.raises(ValueError, match=r"inner must know .*='ensemble_std' in raw units, got Walk"):
        wrapper(Walk(), measure="ensemble_std", units="raw")

    class Unscaled(Walk):
        def moments(self, state, action):
            return state.obs[None], state.obs[None]

    with pytest.raises(ValueError, match=r"inner must have target_std, .* got Unscaled; use units='raw'"):
        wrapper(Unscaled(), measure="pairwise")
    wrapper(Unscaled(), measure="pairwise", units="raw")


@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan, "much", True])
def test_a_coefficient_out_of_range(value):
    with pytest.raises(ValueError, match="coefficient must be at least 0 and finite, got"):
        UncertaintyPenalty(Walk(), value)
