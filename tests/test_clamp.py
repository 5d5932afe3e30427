"""ClampRange: which bounds, and what they change."""

import math

import pytest
import torch
from told import at, steps, told

from mbrl_gym import Ensemble, EnsembleConfig
from mbrl_gym.wrappers import ClampRange, Infoprop, KnownReward, RecalibrateVariance
from worlds import BOX, PUSH, Walk

# One step leads to (push, 10 push), the reward is 100 push.
LINEAR = {"mean": [[0.0] * 3] * 2, "slope": [[1.0, 10.0, 100.0]] * 2, "propagation": "expectation"}
DATA = {"obs": [[0.0, -1.0], [0.5, 0.0]], "after": [[0.2, 3.0], [-0.1, 2.0]], "reward": [-4.0, 6.0]}


def values(model, *pushes):
    after, step = model.predict(*at(model, pushes))
    return torch.cat([after.obs, step.reward[:, None]], 1).tolist(), step


def test_the_datas_range_and_a_margin():
    model = ClampRange(told(**LINEAR))
    assert values(model, 1.0)[0] == [[1.0, 10.0, 100.0]]  # no effect before the first fit
    model.calibrate(steps([0.0, 0.0], **DATA), None)
    assert model.least.tolist() == pytest.approx([-0.1, -1.0, -4.0])
    assert model.most.tolist() == pytest.approx([0.5, 3.0, 6.0])
    found, step = values(model, 1.0, -1.0, 0.01)
    assert found[0] == pytest.approx([0.5, 3.0, 6.0])
    assert found[1] == pytest.approx([-0.1, -1.0, -4.0])
    assert found[2] == pytest.approx([0.01, 0.1, 1.0])
    assert step.info["clamped"].tolist() == [True, True, False]
    wider = ClampRange(told(**LINEAR), margin=0.5)
    wider.calibrate(steps([0.0, 0.0], **DATA), None)
    assert wider.least.tolist() == pytest.approx([-0.4, -3.0, -9.0])
    assert wider.most.tolist() == pytest.approx([0.8, 5.0, 11.0])
    model.calibrate(steps([0.0], after=[[9.0, 9.0]]), None)  # bounds follow every fit
    assert model.most.tolist() == [9.0, 9.0, 0.0]


def test_given_bounds():
    model = ClampRange(told(**LINEAR), margin=None, low=[None, None, -50.0], high=[0.5, None, 50.0])
    assert values(model, 1.0, -1.0)[0] == [[0.5, 10.0, 50.0], [-1.0, -10.0, -50.0]]
    model.calibrate(steps([0.0, 0.0], **DATA), None)
    assert values(model, 1.0)[0] == [[0.5, 10.0, 50.0]]
    mixed = ClampRange(told(**LINEAR), high=[0.7, None, None])
    mixed.calibrate(steps([0.0, 0.0], **DATA), None)
    assert mixed.most.tolist() == pytest.approx([0.7, 3.0, 6.0])
    assert mixed.arguments() == {"margin": 0.0, "low": [None] * 3, "high": [0.7, None, None]}


@pytest.mark.parametrize("slope", [0.0, 1.0])  # of an infinite push: no number, and infinity
def test_a_value_that_is_not_finite_still_diverges(slope):
    model = ClampRange(told(LINEAR["mean"], slope=slope), margin=None, low=[-1.0] * 3, high=[1.0] * 3)
    found, step = values(model, math.inf)
    assert step.truncated.all()
    assert not step.info["clamped"].any()
    assert found[0][2] == 0


def test_the_end_is_predicted_of_what_will_be_seen():
    torch.manual_seed(0)
    inner = Ensemble(BOX, PUSH, EnsembleConfig(members=2, hidden=(8,), termination_hidden=(8,)))
    inner.has_terminations.fill_(1.0)
    inner.load_state_dict(inner.state_dict())
    model = ClampRange(inner, margin=None, low=[-0.01] * 3, high=[0.01] * 3)
    state, action = at(model, [0.5, -0.5, 1.0])
    after, step = model.predict(state, action, torch.Generator().manual_seed(0))
    expected = inner.complete(state, action, torch.cat([after.obs, step.reward[:, None]], 1))[1]
    assert step.info["clamped"].any()
    assert step.info["termination_probability"].equal(expected.info["termination_probability"])


def test_other_wrappers_next_to_the_model_keep_the_bounds():
    bounds = {"margin": None, "low": [-0.5] * 3, "high": [0.5] * 3}
    for model in (
        Infoprop(ClampRange(told(**LINEAR), **bounds)),
        RecalibrateVariance(ClampRange(told(**LINEAR), **bounds)),
    ):
        after, step = model.predict(*at(model, [1.0]))
        assert model.decode(after).tolist() == [[0.5, 0.5]]
        assert step.reward.tolist() == [0.5]
        assert step.info["clamped"].all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": -0.1}, "margin must be at least 0 and finite, got -0.1"),
        ({"low": [0.0]}, r"low must have 3 finite numbers, one for each encoded .*, got \[0.0\]"),
        ({"high": [0.0, math.inf, 1.0]}, "high must have 3 finite numbers"),
        (
            {"low": [0.0, 0.0, 2.0], "high": [None, 1.0, 1.0]},
            "low must be at most high, got 2.0 and 1.0 for dim",
        ),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClampRange(told(**LINEAR), **arguments)


def test_it_goes_next_to_the_model():
    with pytest.raises(ValueError, match=r"wrap the other way round, KnownReward\(ClampRange\(model\), ...\)"):
        ClampRange(KnownReward(told(**LINEAR), lambda obs, action, after: after[:, 0]))
    with pytest.raises(ValueError, match="Walk does not: use a TransitionModel"):
        ClampRange(Walk())
