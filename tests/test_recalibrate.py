"""RecalibrateVariance: the factor, what has it, and on which data it is measured."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from told import at, steps, told

from mbrl_gym.wrappers import KnownReward, RecalibrateVariance, UncertaintyPenalty
from worlds import Walk

VARIANCE = [[0.04, 0.09, 0.25], [0.01, 0.16, 0.36]]
MEAN = [[0.1, 0.2, 0.3], [0.3, 0.2, -0.1]]


def errors(n, *deviations, seed=0):
    """Windows whose next values are normal with these deviations."""
    drawn = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)) * torch.tensor(deviations)
    return steps(torch.zeros(n), after=drawn[:, :2], reward=drawn[:, 2]), drawn.numpy()


def by_hand(drawn, members=(0, 1)):
    rows = [(drawn - MEAN[e]) ** 2 / VARIANCE[e] for e in members]
    return np.mean(rows, axis=(0, 1))


def test_the_factor_is_the_mean_squared_standardised_error_on_held_out_steps():
    model = RecalibrateVariance(told(MEAN, VARIANCE))
    assert model.variance_scale.tolist() == [1.0, 1.0, 1.0]
    held_out, drawn = errors(64, 0.5, 0.1, 1.0)
    model.calibrate(errors(64, 9.0, 9.0, 9.0)[0], held_out)
    np.testing.assert_allclose(model.variance_scale, by_hand(drawn), rtol=1e-4)


def test_standardised_errors_then_have_unit_variance():
    model = RecalibrateVariance(told([[0.0] * 3], [[1.0] * 3]))
    held_out, _ = errors(256, 0.5, 2.0, 1.0)
    model.calibrate(held_out, held_out)
    assert model.variance_scale.sqrt().tolist() == pytest.approx([0.5, 2.0, 1.0], rel=0.15)
    again = RecalibrateVariance(model)
    again.calibrate(held_out, held_out)
    assert again.variance_scale.tolist() == pytest.approx([1.0, 1.0, 1.0], rel=1e-4)


def test_without_held_out_steps_it_uses_the_training_data_and_says_so():
    model = RecalibrateVariance(told(MEAN, VARIANCE))
    data, drawn = errors(32, 0.5, 0.1, 1.0)
    with pytest.warns(UserWarning, match=r"no held-out windows .*: train with TrainerConfig\(holdout=0.1\)"):
        model.calibrate(data, None)
    np.testing.assert_allclose(model.variance_scale, by_hand(drawn), rtol=1e-4)


def test_only_elites_are_measured():
    inner = told(MEAN, VARIANCE, elites=1)
    inner.elites.fill_(1)
    model = RecalibrateVariance(inner)
    held_out, drawn = errors(32, 0.5, 0.1, 1.0)
    model.calibrate(held_out, held_out)
    np.testing.assert_allclose(model.variance_scale, by_hand(drawn, members=(1,)), rtol=1e-4)
    model.variance_scale.fill_(1.0)
    state, action = at(model, [0.0, 0.5])
    for x, y in zip(
        model.predict(state, action, torch.Generator().manual_seed(0))[0].tensors(),
        inner.predict(state, action, torch.Generator().manual_seed(0))[0].tensors(),
        strict=True,
    ):
        assert x.equal(y)


def test_moments_draws_and_aleatoric_have_it_and_the_disagreement_has_not():
    inner = told(MEAN, VARIANCE)
    model = RecalibrateVariance(inner)
    state, action = at(model, [0.0, 0.5, 1.0])

    def outcome():
        after, step = model.predict(state, action, torch.Generator().manual_seed(0))
        return torch.cat([after.obs, step.reward[:, None]], 1), step

    (before, first), mean = outcome(), torch.tensor(MEAN)[state.member]
    after, theirs = inner.predict(state, action, torch.Generator().manual_seed(0))
    assert before.equal(torch.cat([after.obs, theirs.reward[:, None]], 1))  # with the factor one
    torch.testing.assert_close(first.info["aleatoric"], theirs.info["aleatoric"])
    model.variance_scale.copy_(torch.tensor([4.0, 0.25, 9.0]))
    drawn, second = outcome()
    torch.testing.assert_close(drawn - mean, (before - mean) * torch.tensor([2.0, 0.5, 3.0]))
    torch.testing.assert_close(model.moments(state, action)[1], inner.moments(state, action)[1] * model.variance_scale)
    expected = (torch.tensor(VARIANCE) * model.variance_scale).mean().sqrt()
    torch.testing.assert_close(second.info["aleatoric"], expected.expand(3))
    assert second.uncertainty.equal(first.uncertainty)
    torch.testing.assert_close(first.uncertainty, theirs.uncertainty)
    assert first.uncertainty.gt(0).all()
    assert model.predict(state, action, uncertainty=False)[1].uncertainty.eq(0).all()
    penalty = UncertaintyPenalty(model, 1.0, "max_aleatoric").predict(state, action)[1].info["penalty"]
    expected = (torch.tensor(VARIANCE) * model.variance_scale).sum(1).sqrt().max()
    torch.testing.assert_close(penalty, expected.expand(3))


def test_the_factor_stays_within_its_limit():
    model = RecalibrateVariance(told([[0.0] * 3], [[1.0] * 3]), largest=10.0)
    held_out = steps([0.0], after=[[100.0, 1e-4]], reward=[2.0])
    model.calibrate(held_out, held_out)
    assert model.variance_scale.tolist() == pytest.approx([10.0, 0.1, 4.0])
    with pytest.raises(ValueError, match=r"largest must be at least 1 and finite, got 0.5"):
        RecalibrateVariance(told(MEAN, VARIANCE), largest=0.5)


def test_a_prediction_beyond_a_bound_that_reality_sits_on_is_right():
    space = spaces.Box(np.float32([-100, -1]), np.float32([100, 1]), (2,))
    model = RecalibrateVariance(told([[0.0, 5.0, 0.0]], [[1.0] * 3], space=space))
    held_out = steps([0.0] * 2, after=[[1.0, 1.0], [1.0, 0.5]], reward=[1.0, 1.0])
    model.calibrate(held_out, held_out)
    assert model.variance_scale.tolist() == pytest.approx([1.0, 0.5**2 / 2, 1.0])


def test_it_goes_next_to_the_model():
    with pytest.raises(ValueError, match=r"wrap the other way round, KnownReward\(RecalibrateVariance\(model\), ...\)"):
        RecalibrateVariance(KnownReward(told(MEAN, VARIANCE), lambda obs, action, after: after[:, 0]))
    with pytest.raises(ValueError, match="Walk does not: use a TransitionModel"):
        RecalibrateVariance(Walk())
