"""Halt and TruncateUncertain, and the real steps that thresholds are calibrated on."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from told import at, steps, told

from mbrl_gym.model import trajectory_return
from mbrl_gym.planners import CEM, CEMConfig
from mbrl_gym.wrappers import Halt, TruncateUncertain, UncertaintyPenalty
from mbrl_gym.wrappers.calibrated import quantile, real_steps
from worlds import Walk, WalkConfig

PUSHES = [0.1, -0.2, 0.3, 0.4, -0.5]
# Means that part by 2 |push| in the first dimension.
PARTS = {"mean": [[0.0] * 3] * 2, "slope": [[1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]], "propagation": "expectation"}


def detector(kind, inner, **kwargs):
    return Halt(inner, 5.0, **kwargs) if kind == "halt" else TruncateUncertain(inner, **kwargs)


@pytest.mark.parametrize("kind", ["halt", "truncate"])
@pytest.mark.parametrize(("q", "scale"), [(1.0, 1.0), (0.5, 1.0), (0.5, 1.5), (0.95, 0.2)])
def test_the_threshold_is_a_quantile_of_the_measure_on_real_steps(kind, q, scale):
    model = detector(kind, told(**PARTS), quantile=q, scale=scale, measure="largest_gap")
    assert model.threshold.isinf()
    model.calibrate(steps(PUSHES), steps([0.9]))
    expected = scale * np.quantile(2 * np.abs(PUSHES), q)
    assert model.threshold.item() == pytest.approx(expected, rel=1e-5)
    state, action = at(model, np.linspace(-1, 1, 21))
    _, step = model.predict(state, action)
    gap = 2 * action[:, 0].abs()
    torch.testing.assert_close(step.info["largest_gap"], gap)
    flag = step.info["halted" if kind == "halt" else "uncertain"]
    clear = (gap - expected).abs() > 1e-4
    assert flag[clear].equal((gap > expected)[clear])


@pytest.mark.parametrize("kind", ["halt", "truncate"])
def test_no_effect_before_the_first_fit(kind):
    model = detector(kind, told(**PARTS))
    state, action = at(model, [1.0, -1.0])
    (_, mine), (_, theirs) = model.predict(state, action), model.inner.predict(state, action)
    for name in ("reward", "terminated", "truncated", "continuation"):
        assert getattr(mine, name).equal(getattr(theirs, name)), name


def test_a_halt_ends_the_episode_at_a_cost():
    model = Halt(told(**PARTS), 5.0)
    model.calibrate(steps(PUSHES), None)
    _, step = model.predict(*at(model, [0.4, 0.6]))
    assert step.info["halted"].tolist() == step.terminated.tolist() == [False, True]
    assert step.continuation.tolist() == [1.0, 0.0]
    assert not step.truncated.any()
    assert step.reward.tolist() == pytest.approx([0.4, 0.6 - 5.0])
    assert step.info["raw_reward"].tolist() == pytest.approx([0.4, 0.6])
    assert step.info["penalty"].tolist() == [0.0, 5.0]
    state, _ = at(model, [0.0])
    plan = torch.tensor([0.3, 0.6, 0.3])[None, :, None]
    assert trajectory_return(model, state, plan).item() == pytest.approx(0.3 + 0.6 - 5.0)


def test_truncation_cuts_the_dream_and_takes_nothing():
    model = TruncateUncertain(told(**PARTS), quantile=1.0, scale=1.0)
    model.calibrate(steps(PUSHES), None)
    state, action = at(model, [0.4, 0.6])
    _, step = model.predict(state, action)
    assert step.info["uncertain"].tolist() == step.truncated.tolist() == [False, True]
    assert not step.terminated.any()
    assert step.continuation.tolist() == [1.0, 1.0]
    assert step.reward.equal(model.inner.predict(state, action)[1].reward)
    expected = (2 * 0.6) ** 2 / 8  # a quarter of the squared distance over the sum of variances, 2
    assert step.info["geometric_js"][1].item() == pytest.approx(expected, rel=1e-4)


def test_thresholds_follow_every_fit():
    model = TruncateUncertain(told(**PARTS))
    model.calibrate(steps(PUSHES), None)
    before = model.threshold.item()
    model.calibrate(steps([2 * x for x in PUSHES]), None)
    assert model.threshold.item() == pytest.approx(4 * before, rel=1e-4)


@pytest.mark.parametrize("kind", ["halt", "truncate"])
def test_the_models_own_end_stays_an_end(kind):
    model = detector(kind, Walk(config=WalkConfig(ends_at=0.2)), measure="ensemble_std")
    _, step = model.predict(*at(model, [0.1, 0.3]))
    assert step.terminated.tolist() == [False, True]


@pytest.mark.parametrize("outer", ["halt", "truncate"])
def test_a_fit_calibrates_every_wrapper(outer):
    model = detector(outer, TruncateUncertain(told(**PARTS)))
    model.calibrate(steps(PUSHES), None)
    assert model.threshold.isfinite()
    assert model.inner.threshold.isfinite()


@pytest.mark.parametrize("kind", ["halt", "truncate"])
def test_a_row_that_diverged_is_not_also_unknown(kind):
    model = detector(kind, told(**PARTS))
    model.calibrate(steps(PUSHES), None)
    _, step = model.predict(*at(model, [math.inf]))
    assert step.truncated.all()
    assert not step.terminated.any()
    assert not step.info["halted" if kind == "halt" else "uncertain"].any()
    assert step.reward.item() == 0


def test_units_weigh_the_dimensions():
    def thresholds(units):
        inner = told([[0.0] * 3] * 2, slope=[[1.0, 0.1, 0.0], [-1.0, -0.1, 0.0]], scale=(10.0, 0.01, 1.0))
        model = Halt(inner, 1.0, units=units)
        model.calibrate(steps([0.5]), None)
        return model.threshold.item()

    assert thresholds("raw") == pytest.approx(math.hypot(1.0, 0.1), rel=1e-5)
    assert thresholds("standard") == pytest.approx(math.hypot(0.1, 10.0), rel=1e-5)


def test_any_model_with_an_uncertainty_can_be_halted():
    model = Halt(Walk(), 2.0, measure="ensemble_std")
    model.calibrate(steps(PUSHES), None)
    assert model.threshold.item() == pytest.approx(0.5)
    _, step = model.predict(*at(model, [0.4, -0.6]), uncertainty=False)
    assert step.info["halted"].tolist() == [False, True]


def test_a_planner_avoids_a_halt_that_costs_enough():
    inner = told(**PARTS)
    cem = CEM(inner.action_codec, CEMConfig(horizon=3, candidates=80, elites=8, iterations=5, particles=1))

    def chosen(model):
        model.calibrate(steps(PUSHES), None)
        plan = cem.plan(model, at(model, [0.0])[0], cem.initial(1), torch.Generator().manual_seed(0))
        return plan.action.item()

    assert chosen(UncertaintyPenalty(inner, 0.0)) > 0.9
    assert 0.4 < chosen(Halt(inner, 10.0)) <= 0.5
    assert 0.4 < chosen(TruncateUncertain(inner, 1.0, 1.0)) <= 0.5  # it goes on earning


def test_costs_of_a_halt_add_to_a_penalty():
    model = UncertaintyPenalty(Halt(told(**PARTS), 5.0), 1.0)
    model.calibrate(steps(PUSHES), None)
    _, step = model.predict(*at(model, [0.6]))
    assert step.info["raw_reward"].item() == pytest.approx(0.6)
    assert step.info["penalty"].item() == pytest.approx(5.0 + 0.6 / math.sqrt(3), rel=1e-4)
    assert step.reward.item() == pytest.approx((step.info["raw_reward"] - step.info["penalty"]).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantile": 1.1}, "quantile must be at least 0 and at most 1, got 1.1"),
        ({"quantile": -0.1}, "quantile must be at least 0 and at most 1, got -0.1"),
        ({"scale": 0.0}, "scale must be above 0 and finite, got 0.0"),
    ],
)
@pytest.mark.parametrize("kind", ["halt", "truncate"])
def test_arguments_out_of_range(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        detector(kind, told(**PARTS), **arguments)


def test_a_negative_cost():
    with pytest.raises(ValueError, match="cost must be at least 0 and finite, got -1"):
        Halt(told(**PARTS), -1)


# ---- real steps -----------------------------------------------------------------------------------------------------


def windows():
    """Two windows of four rows; the second crosses into another episode at its third row."""
    rows = torch.arange(8.0).reshape(2, 4)
    first = torch.tensor([[True, False, False, False], [False, False, True, False]])
    data = steps([0.0, 0.0])
    return replace(
        data,
        obs=torch.stack([rows, rows], -1),
        action=rows[..., None] / 10,
        reward=rows * 100,
        terminated=torch.zeros_like(first),
        truncated=torch.zeros_like(first),
        is_first=first,
        index=rows.long(),
    )


def test_real_steps_are_those_within_an_episode():
    found = [
        (
            step.state.obs[i, 0].item(),
            round(10 * step.action[i].item()),
            step.next_obs[i, 0].item(),
            step.reward[i].item(),
        )
        for step in real_steps(told(**PARTS), windows())
        for i in range(len(step.reward))
    ]
    assert sorted(found) == [(i, i, i + 1, 100.0 * (i + 1)) for i in (0, 1, 2, 4, 6)]


def test_real_steps_need_the_models_context():
    model = Walk(config=WalkConfig(context=2))
    found = [
        (step.state.obs[i, 0].item(), step.state.past[i].item())
        for step in real_steps(model, windows())
        for i in range(len(step.reward))
    ]
    # The past: all numbers observed before, and 100 times the actions taken there.
    assert found == [(1.0, 0.0), (2.0, 2.0 + 100 * 0.1), (6.0, 0.0)]
    amid = replace(windows(), is_first=torch.zeros(2, 4, dtype=torch.bool))  # nothing is known of what was before
    assert next(real_steps(model, amid)).state.past.tolist() == [0.0, 8.0 + 100 * 0.4]
    assert len(list(real_steps(model, steps([0.1, 0.2])))) == 1  # windows shorter than the context still count


def test_real_steps_of_many_windows_come_in_parts(monkeypatch):
    monkeypatch.setattr("mbrl_gym.wrappers.calibrated.WINDOWS", 3)
    pushes = torch.linspace(-1, 1, 8)
    parts = [step.action[:, 0] for step in real_steps(told(**PARTS), steps(pushes))]
    assert [len(x) for x in parts] == [3, 3, 2]
    assert torch.cat(parts).equal(pushes)


@pytest.mark.parametrize("q", [0.0, 0.01, 0.3, 0.5, 0.9999, 1.0])
def test_quantiles_are_numpys(q):
    x = torch.randn(37, 3, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(quantile(x, q), np.quantile(x.numpy(), q, axis=0), rtol=1e-5)
    assert quantile(x[:1], q).equal(x[0])


def test_no_transition_to_calibrate_on():
    data = steps([0.1])
    data = replace(data, is_first=torch.ones_like(data.is_first))
    with pytest.raises(ValueError, match="data must hold at least one transition to calibrate on, got none; collect"):
        TruncateUncertain(told(**PARTS)).calibrate(data, None)
