"""Infoprop: fusion, the filtered draw, what a step loses, and where a dream stops."""

import math

import numpy as np
import pytest
import torch
from told import at, steps, told

from mbrl_gym.model import imagine, trajectory_return
from mbrl_gym.models.propagation import PROPAGATIONS
from mbrl_gym.wrappers import Infoprop, KnownReward, RecalibrateVariance
from mbrl_gym.wrappers.infoprop import InfopropState, fuse
from worlds import Walk

MEAN = [[0.5, -1.0, 2.0], [0.7, -0.4, 1.5], [0.1, -1.3, 2.6]]
VARIANCE = [[0.04, 0.09, 0.25], [0.01, 0.16, 0.36], [0.09, 0.04, 0.49]]
# Of these moments by the reference, gaussian_mlp.py's info_sample_1d (2 million draws for mean and variance), and the
# loss that infoprop_dyna.py makes of its conditional_var.
FUSED = [0.02204082, 0.07081967, 0.34019028]
CONDITIONAL = [0.01788894, 0.05046165, 0.12788711]
BITS = [19.07627008, 19.82432979, 20.49513511]
DRAWN = {"mean": [0.58041, -1.03399, 2.01439], "variance": [0.021755, 0.070084, 0.349172]}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_fusion_is_the_references():
    moments = torch.tensor(MEAN)[:, None], torch.tensor(VARIANCE)[:, None]
    (_, spread), epistemic = fuse(*moments)
    assert spread[0].tolist() == pytest.approx(FUSED, rel=1e-5)
    assert (spread * epistemic / (spread + epistemic))[0].tolist() == pytest.approx(CONDITIONAL, rel=1e-5)


def test_draws_have_the_references_mean_and_variance():
    model = Infoprop(told(MEAN, VARIANCE, propagation="ts1"))
    after, step = model.predict(*at(model, torch.zeros(200_000)), seeded())
    drawn = torch.cat([after.inner.obs, step.reward[:, None]], 1)
    assert drawn.mean(0).tolist() == pytest.approx(DRAWN["mean"], abs=5e-3)
    assert drawn.var(0).tolist() == pytest.approx(DRAWN["variance"], rel=1e-2)


def test_a_draw_is_the_hypothesis_own_drawn_towards_the_fused_mean():
    model = Infoprop(told(MEAN, VARIANCE))  # TS-infinity: the noise is all that is random
    state, action = at(model, torch.zeros(12))
    member = state.inner.member
    assert set(member.tolist()) == {0, 1, 2}
    after, step = model.predict(state, action, seeded(1))
    noise = torch.randn(12, 3, generator=seeded(1)).numpy()
    mean, variance = np.array(MEAN), np.array(VARIANCE)
    fused = 1 / (1 / variance).mean(0)
    centre = fused * (mean / variance).mean(0)
    gain = fused / (fused + ((mean - centre) ** 2).mean(0))
    expected = centre + gain * (mean[member] - centre)
    deviation = np.sqrt(gain**2 * variance[member] + (1 - gain) * fused)
    drawn = torch.cat([after.inner.obs, step.reward[:, None]], 1)
    np.testing.assert_allclose(drawn, expected + deviation * noise, rtol=1e-4, atol=1e-5)
    after, step = model.predict(state, action, sample=False)
    np.testing.assert_allclose(torch.cat([after.inner.obs, step.reward[:, None]], 1), expected, rtol=1e-4, atol=1e-5)


def test_only_elites_are_fused():
    inner = told([*MEAN, [50.0, 50.0, 50.0]], [*VARIANCE, [1e-3] * 3], elites=3)
    model, alone = Infoprop(inner), Infoprop(told(MEAN, VARIANCE))
    inner.elites.copy_(torch.tensor([0, 1, 2]))
    action = torch.zeros(9)
    mine, theirs = (m.predict(*at(m, action), seeded()) for m in (model, alone))
    assert mine[0].inner.obs.equal(theirs[0].inner.obs)
    assert mine[0].information_lost.equal(theirs[0].information_lost)
    for each in (model, alone):
        each.calibrate(steps([0.1, 0.2]), None)
    assert model.step_limit.equal(alone.step_limit)


def test_hypotheses_that_are_sure_and_a_belief_that_has_lost_everything():
    model = Infoprop(told([[0.5, 1.0, 2.0]] * 2, 0.0))
    state, action = at(model, [0.0])
    after, step = model.predict(state, action)
    assert not step.truncated.any()
    assert after.inner.obs.tolist() == [[0.5, 1.0]]
    lost = InfopropState(state.inner, torch.full((1, 3), 3e38))
    model = Infoprop(told(MEAN, VARIANCE))
    after, step = model.predict(lost, action)
    after, step = model.predict(InfopropState(after.inner, after.information_lost * 1e30), action)
    assert after.information_lost.isfinite().all()
    assert step.info["information_lost"].isfinite().all()


# ---- exactness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("propagation", PROPAGATIONS)
@pytest.mark.parametrize("particles", [1, 6])
@pytest.mark.parametrize("sample", [True, False])
def test_without_epistemic_variance_a_dream_is_the_models_own(propagation, particles, sample):
    inner = told([MEAN[0]] * 3, VARIANCE[:1] * 3, slope=[[0.3, -0.1, 1.0]] * 3, propagation=propagation)
    model = Infoprop(inner)
    (mine, _), (theirs, _) = at(model, [0.0, 0.3, -0.7, 1.0]), at(inner, [0.0, 0.3, -0.7, 1.0])
    if particles > 1:
        mine, theirs = model.branch(mine, particles), inner.branch(theirs, particles)
    pushes = torch.linspace(-1, 1, len(theirs.member))[:, None]
    mine = imagine(model, mine, lambda state: pushes, 5, seeded(3), sample)
    theirs = imagine(inner, theirs, lambda state: pushes, 5, seeded(3), sample)
    equal = torch.equal if propagation in ("ts1", "ts_inf") and sample else torch.allclose  # means are rounded
    assert equal(mine.states.inner.obs, theirs.states.obs)
    for name in ("reward", "terminated", "truncated"):
        x, y = (getattr(trajectory.prediction, name) for trajectory in (mine, theirs))
        assert equal(x.float(), y.float()), name
    assert mine.prediction.uncertainty.eq(0).all()
    assert mine.states.information_lost.eq(0).all()


def test_uncertainty_and_aleatoric_are_the_models_own():
    model = Infoprop(told(MEAN, VARIANCE, scale=(2.0, 3.0, 4.0)))
    state, action = at(model, [0.0, 0.5])
    mine, theirs = model.predict(state, action)[1], model.inner.predict(state.inner, action)[1]
    torch.testing.assert_close(mine.uncertainty, theirs.uncertainty)
    torch.testing.assert_close(mine.info["aleatoric"], theirs.info["aleatoric"])
    assert model.predict(state, action, uncertainty=False)[1].uncertainty.eq(0).all()


# ---- what is lost ---------------------------------------------------------------------------------------------------


def test_losses_are_the_references_bits_and_add_up():
    model = Infoprop(told(MEAN, VARIANCE))
    state, action = at(model, [0.0, 0.5])
    for count in (1, 2, 3):
        state, step = model.predict(state, action, seeded())
        torch.testing.assert_close(state.information_lost, count * torch.tensor([BITS, BITS]))
        torch.testing.assert_close(step.info["information_lost"], torch.full((2,), count * sum(BITS)))
        assert not step.truncated.any()  # no limit before the first fit
        assert not step.info["information_exhausted"].any()


def test_losses_are_in_units_of_what_is_learned():
    factor = torch.tensor([100.0, 0.01, 3.0])
    model = Infoprop(told(torch.tensor(MEAN) * factor, torch.tensor(VARIANCE) * factor.square(), scale=factor))
    after, _ = model.predict(*at(model, [0.0]))
    torch.testing.assert_close(after.information_lost, torch.tensor([BITS]), rtol=1e-4, atol=1e-4)


def test_resolution_is_what_counts_as_no_loss():
    def lost(resolution):
        model = Infoprop(told(MEAN, VARIANCE), resolution=resolution)
        return model.predict(*at(model, [0.0]))[0].information_lost[0]

    torch.testing.assert_close(lost(1e-6) - lost(4e-6), torch.full((3,), 2.0), rtol=1e-4, atol=1e-4)
    assert lost(1e3).eq(0).all()  # never below zero


def test_a_real_step_clears_what_was_lost():
    model = Infoprop(told(MEAN, VARIANCE))
    state, action = at(model, [0.0, 0.5])
    assert state.information_lost.eq(0).all()
    state, _ = model.predict(state, action)
    assert state.information_lost.gt(0).all()
    seen = model.observe(state, action, torch.ones(2, 2), torch.zeros(2, dtype=torch.bool))
    assert seen.information_lost.eq(0).all()
    assert seen.inner.obs.eq(1).all()
    assert model.initial(4).information_lost.shape == (4, 3)


def test_beliefs_carry_what_they_have_lost():
    model = Infoprop(told(MEAN, VARIANCE))
    state, _ = at(model, [0.0, 0.5])
    state = InfopropState(state.inner, torch.arange(6.0).reshape(2, 3))
    assert state[torch.tensor([1])].information_lost.tolist() == [[3, 4, 5]]
    branched = model.branch(state, 3)
    assert branched.information_lost[:, 0].tolist() == [0, 0, 0, 3, 3, 3]
    assert branched.inner.member.tolist() == [0, 1, 2, 0, 1, 2]
    assert branched.inner.particles == 3
    # Groups of particles end where the rows are picked or repeated, as they do without the wrapper.
    assert branched[torch.tensor([0, 4])].inner.particles == 1
    assert branched.repeat(2).inner.particles == 1
    assert branched.repeat(2).information_lost.shape == (12, 3)
    both = state.where(torch.tensor([True, False]), model.initial(2))
    assert both.information_lost[:, 1].tolist() == [1, 0]


# ---- where a dream stops --------------------------------------------------------------------------------------------


def calibrated(**arguments):
    """Members that part by the push, and the loss of real steps with pushes 0.01 to 1."""
    inner = told([[0.0] * 3] * 2, 1e-4, slope=[[1.0, 0.1, 0.5], [-1.0, -0.1, -0.5]])
    model = Infoprop(inner, **arguments)
    pushes = torch.linspace(0.01, 1.0, 50)
    apart = torch.tensor([1.0, 0.1, 0.5]).square() * pushes[:, None].square()
    conditional = 1e-4 * apart / (1e-4 + apart)
    bits = (0.5 * torch.log2(2 * math.pi * math.e * conditional) - math.log2(model.resolution)).clamp(min=0)
    model.calibrate(steps(pushes), None)
    return model, bits


@pytest.mark.parametrize("arguments", [{}, {"horizon": 7}, {"step_quantile": 0.5}, {"total_quantile": 0.4}])
def test_limits_are_quantiles_of_the_loss_on_real_steps(arguments):
    model, bits = calibrated(**arguments)
    expected = np.quantile(bits, arguments.get("step_quantile", 0.9999), axis=0)
    np.testing.assert_allclose(model.step_limit, expected, rtol=1e-4)
    expected = arguments.get("horizon", 100) * np.quantile(bits, arguments.get("total_quantile", 0.01), axis=0)
    np.testing.assert_allclose(model.total_limit, expected, rtol=1e-4)


def test_a_step_that_loses_more_than_real_ones_is_the_last():
    model, _ = calibrated(step_quantile=0.5)
    _, step = model.predict(*at(model, [0.1, 0.4, 0.6, 0.9]))
    assert step.info["information_exhausted"].tolist() == step.truncated.tolist() == [False, False, True, True]
    assert not step.terminated.any()
    model.step_limit[1:] = math.inf  # any one dimension is enough
    assert model.predict(*at(model, [0.1, 0.9]))[1].truncated.tolist() == [False, True]


def test_a_dream_ends_where_it_has_lost_what_its_horizon_allows():
    model, _ = calibrated(horizon=3, step_quantile=1.0, total_quantile=0.5)
    state, _ = at(model, [0.0])
    plan = torch.full((1, 6, 1), 0.5)  # the median push: three steps are within the limit
    dream = imagine(model, state, lambda state: plan[:, 0], 6, seeded())
    assert dream.prediction.truncated[0].tolist() == [False, False, False, True, True, True]
    assert dream.alive.sum() == 4
    assert trajectory_return(model, state, plan, generator=seeded()).item() == pytest.approx(
        dream.prediction.reward[0, :4].sum().item()
    )


def test_a_row_that_diverged_is_not_also_exhausted():
    model, _ = calibrated()
    after, step = model.predict(*at(model, [math.inf, 0.5]))
    assert step.truncated.tolist() == step.info["diverged"].tolist() == [True, False]
    assert not step.info["information_exhausted"].any()
    assert after.information_lost.isfinite().all()


def test_losses_follow_recalibrated_variances():
    inner = RecalibrateVariance(told(MEAN, VARIANCE))
    inner.variance_scale.copy_(torch.tensor([4.0, 1.0, 1.0]))
    model = Infoprop(inner)
    scaled = Infoprop(told(MEAN, torch.tensor(VARIANCE) * inner.variance_scale))
    state, action = at(model, [0.0, 0.5])
    for x, y in zip(*(m.predict(state, action, seeded())[0].tensors() for m in (model, scaled)), strict=True):
        torch.testing.assert_close(x, y)


# ---- what it needs --------------------------------------------------------------------------------------------------


def test_it_goes_next_to_the_model():
    inner = told(MEAN, VARIANCE)
    known = KnownReward(inner, lambda obs, action, after: after[:, 0])
    with pytest.raises(ValueError, match=r"KnownReward does not: wrap the other way round, KnownReward\(Infoprop\(mod"):
        Infoprop(known)
    with pytest.raises(ValueError, match="Infoprop does not: one Infoprop is enough"):
        Infoprop(Infoprop(inner))
    with pytest.raises(ValueError, match="Walk does not: use a TransitionModel, such as Ensemble"):
        Infoprop(Walk())
    model = KnownReward(Infoprop(inner), lambda obs, action, after: after[:, 0])
    after, step = model.predict(*at(model, [0.5]))
    assert step.reward.equal(after.inner.obs[:, 0])
    assert "information_lost" in step.info


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("horizon", 0, "at least 1 and finite"),
        ("step_quantile", 1.5, "at least 0 and at most 1"),
        ("total_quantile", -0.1, "at least 0 and at most 1"),
        ("resolution", 0.0, "above 0 and finite"),
    ],
)
def test_arguments_out_of_range(name, value, rule):
    with pytest.raises(ValueError, match=f"{name} must be {rule}, got {value}"):
        Infoprop(told(MEAN, VARIANCE), **{name: value})
