"""Propagation: which member each particle follows, and what it draws, against the equations."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_gym.model import imagine, trajectory_return
from mbrl_gym.models.ensemble import Ensemble, EnsembleConfig
from mbrl_gym.models.propagation import PROPAGATIONS
from mbrl_gym.models.transition import TransitionState

FREE = spaces.Box(-np.inf, np.inf, (2,), np.float32)
TORQUE = spaces.Box(-1, 1, (1,), np.float32)
DRAWING = ["ts1", "ts_inf", "distribution_sampling", "moment_matching"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ensemble(propagation: str, **change: Any) -> Ensemble:
    torch.manual_seed(0)
    config = EnsembleConfig(members=4, hidden=(16,), termination_hidden=(8,), propagation=propagation)
    model = Ensemble(FREE, TORQUE, replace(config, **change))
    model.target_mean.copy_(torch.tensor([0.1, -0.2, 0.3]))
    model.target_std.copy_(torch.tensor([1.0, 2.0, 0.5]))
    return model


def apart(propagation: str, **change: Any) -> Ensemble:
    """Return an ensemble without noise whose member e moves both dimensions by e and is rewarded with e."""
    model = ensemble(propagation, min_log_variance=-41.0, max_log_variance=-40.0, **change)
    model.target_mean.zero_()
    model.target_std.fill_(1.0)
    with torch.no_grad():
        for weight in model.net.weights:
            weight.zero_()
        model.net.biases[-1][:, 0, :3] = torch.arange(4.0)[:, None]
    return model


def beliefs(*rows: list[float]) -> TransitionState:
    obs = torch.tensor(rows)
    return TransitionState(obs, torch.zeros(len(obs), dtype=torch.int64))


def followed(model: Ensemble, state: TransitionState, seed: int = 0, **call: Any) -> Tensor:
    """Return the member that each row followed in one step of `apart`."""
    action = torch.zeros(state.batch_size, 1)
    _, step = model.predict(state, action, generator(seed), **call)
    return step.reward.round().long()


def elite_moments(model: Ensemble, state: TransitionState, action: Tensor) -> tuple[Tensor, Tensor]:
    mean, variance = model.moments(state, action)
    return mean[model.elites], variance[model.elites]


# ---- which member ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uncertainty", [True, False])
def test_ts_inf_binds_equal_shares_in_the_documented_layout(uncertainty: bool) -> None:
    model = apart("ts_inf")
    state = model.branch(beliefs([0.0, 0.0], [9.0, 9.0]), 8)
    assert state.member.reshape(2, 8).tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]] * 2
    for seed in range(3):  # for the whole horizon
        assert (
            followed(model, state, seed, uncertainty=uncertainty).reshape(2, 8).tolist()
            == [[0, 0, 1, 1, 2, 2, 3, 3]] * 2
        )
        state, _ = model.predict(state, torch.zeros(16, 1), generator(seed), uncertainty=uncertainty)


@pytest.mark.parametrize("uncertainty", [True, False])
def test_ts1_gives_each_member_its_share_of_each_belief_and_changes_them(uncertainty: bool) -> None:
    model = apart("ts1")
    state = model.branch(beliefs([0.0, 0.0], [9.0, 9.0], [1.0, 1.0]), 8)
    seen = torch.stack([followed(model, state, seed, uncertainty=uncertainty) for seed in range(6)])
    groups = seen.reshape(6, 3, 8)
    assert (groups.sort(-1).values == torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])).all()
    assert len(torch.unique(groups.reshape(18, 8), dim=0)) > 12  # every step and belief is permuted on its own
    assert (seen.amin(0) < seen.amax(0)).all()


def test_ts1_without_particles_draws_any_member() -> None:
    model = apart("ts1")
    counts = torch.bincount(followed(model, beliefs(*[[0.0, 0.0]] * 2000)), minlength=4)
    assert counts.tolist() == pytest.approx([500] * 4, abs=80)


@pytest.mark.parametrize("propagation", ["ts1", "ts_inf"])
def test_only_elites_are_followed(propagation: str) -> None:
    model = apart(propagation, elites=2)
    model.after_fit(torch.tensor([3.0, 0.0, 2.0, 1.0]))
    state = model.branch(beliefs([0.0, 0.0]), 6)
    for uncertainty in (True, False):
        assert followed(model, state, uncertainty=uncertainty).sort().values.tolist() == [1, 1, 1, 3, 3, 3]


@pytest.mark.parametrize("propagation", ["ts1", "ts_inf"])
def test_particles_must_be_a_multiple_of_the_elites(propagation: str) -> None:
    model = ensemble(propagation, elites=3)
    with pytest.raises(ValueError, match=f"particles must be a multiple of the 3 elite .*'{propagation}'.* got 4"):
        model.branch(beliefs([0.0, 0.0]), 4)
    with pytest.raises(ValueError, match="particles must be a multiple of the 3 elite members"):
        trajectory_return(model, beliefs([0.0, 0.0]), torch.zeros(1, 2, 1), particles=4)


@pytest.mark.parametrize("propagation", ["expectation", "distribution_sampling", "moment_matching"])
def test_others_take_any_number_of_particles(propagation: str) -> None:
    model = ensemble(propagation)
    assert model.branch(beliefs([0.0, 0.0]), 3).batch_size == 3
    returns = trajectory_return(model, beliefs([0.0, 0.0]), torch.zeros(1, 2, 1), particles=3, generator=generator())
    assert torch.isfinite(returns).all()


@pytest.mark.parametrize("elites", [None, 2])
@pytest.mark.parametrize("propagation", ["ts1", "ts_inf"])
@pytest.mark.parametrize("sample", [True, False])
def test_one_member_a_row_gives_what_all_members_would(propagation: str, sample: bool, elites: int | None) -> None:
    model = ensemble(propagation, elites=elites)
    model.has_terminations.fill_(1.0)
    model.load_state_dict(model.state_dict())
    if elites:
        model.after_fit(torch.tensor([3.0, 0.0, 2.0, 1.0]))
    state = model.branch(TransitionState(torch.randn(5, 2), torch.zeros(5).long()), 8)
    action = torch.rand(40, 1) * 2 - 1
    slow, slow_step = model.predict(state, action, generator(3), sample=sample)
    fast, fast_step = model.predict(state, action, generator(3), sample=sample, uncertainty=False)
    assert torch.allclose(slow.obs, fast.obs, atol=1e-5)
    assert torch.allclose(slow_step.reward, fast_step.reward, atol=1e-5)
    assert torch.allclose(slow_step.continuation, fast_step.continuation, atol=1e-5)


def test_the_fast_path_evaluates_each_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ensemble("ts_inf")
    rows: list[int] = []
    forward = model.net.forward

    def counting(x: Tensor, members: Tensor | None = None) -> Tensor:
        out = forward(x, members)
        rows.append(out.shape[0] * out.shape[1])
        return out

    monkeypatch.setattr(model.net, "forward", counting)
    state = model.branch(beliefs([0.0, 0.0]), 8)
    for uncertainty in (True, False):
        model.predict(state, torch.zeros(8, 1), uncertainty=uncertainty)
    assert rows == [32, 8]


def test_rows_taken_out_of_a_branch_still_follow_their_member() -> None:
    model = apart("ts_inf")
    state = model.branch(beliefs([0.0, 0.0]), 8)
    rows = torch.tensor([0, 1, 2, 7])
    assert followed(model, state[rows], uncertainty=False).tolist() == [0, 0, 1, 3]
    assert followed(model, state.repeat(2), uncertainty=False).tolist() == [
        0,
        0,
        0,
        0,
        1,
        1,
        1,
        1,
        2,
        2,
        2,
        2,
        3,
        3,
        3,
        3,
    ]


# ---- the mean -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("propagation", sorted(PROPAGATIONS))
@pytest.mark.parametrize("particles", [1, 8])
def test_the_mean_uses_no_randomness(propagation: str, particles: int) -> None:
    model = ensemble(propagation)
    state = (
        model.branch(TransitionState(torch.randn(3, 2), torch.zeros(3).long()), particles)
        if particles > 1
        else beliefs([1.0, 2.0])
    )
    action, source = torch.zeros(state.batch_size, 1), generator(1)
    before, globally = source.get_state(), torch.get_rng_state()
    first, _ = model.predict(state, action, source, sample=False)
    again, _ = model.predict(state, action, generator(2), sample=False)
    assert torch.equal(first.obs, again.obs)
    assert torch.equal(source.get_state(), before)
    assert torch.equal(torch.get_rng_state(), globally)


@pytest.mark.parametrize("propagation", sorted(PROPAGATIONS))
def test_what_the_mean_is(propagation: str) -> None:
    model = ensemble(propagation, elites=2)
    model.after_fit(torch.tensor([3.0, 0.0, 2.0, 1.0]))
    state = replace(beliefs([1.0, 2.0], [0.5, 0.5]), member=torch.tensor([1, 0]))
    action = torch.zeros(2, 1)
    mean, _ = elite_moments(model, state, action)
    after, step = model.predict(state, action, sample=False)
    expected = torch.stack([mean[1, 0], mean[0, 1]]) if propagation == "ts_inf" else mean.mean(0)
    assert torch.allclose(torch.cat([after.obs, step.reward[:, None]], 1), expected, atol=1e-5)


@pytest.mark.parametrize("propagation", DRAWING)
def test_a_draw_is_not_the_mean_and_repeats_with_its_generator(propagation: str) -> None:
    model = ensemble(propagation)
    state, action = model.branch(beliefs([1.0, 2.0]), 8), torch.zeros(8, 1)
    drawn, again, other = (model.predict(state, action, generator(seed))[0].obs for seed in (1, 1, 2))
    assert torch.equal(drawn, again)
    assert not torch.allclose(drawn, other)
    assert len(torch.unique(drawn, dim=0)) == 8


# ---- the distributions ----------------------------------------------------------------------------------------------


def many(model: Ensemble, n: int = 40_000) -> tuple[Tensor, Tensor, Tensor]:
    """Return draws [n, D + 1] of one step from one belief, and the elites' mean and variance [K, D + 1] there."""
    state = beliefs([1.0, -0.5])
    mean, variance = elite_moments(model, state, torch.zeros(1, 1))
    after, step = model.predict(model.branch(state, n), torch.zeros(n, 1), generator(1), uncertainty=False)
    return torch.cat([after.obs, step.reward[:, None]], 1), mean[:, 0], variance[:, 0]


def test_expectation_has_no_variance_and_needs_no_generator() -> None:
    model = ensemble("expectation")
    drawn, mean, _ = many(model, 16)
    assert torch.allclose(drawn, mean.mean(0).expand(16, 3), atol=1e-5)
    source = generator(1)
    before = source.get_state()
    model.predict(beliefs([1.0, 2.0]), torch.zeros(1, 1), source)
    assert torch.equal(source.get_state(), before)


@pytest.mark.parametrize("propagation", DRAWING)
def test_a_step_has_the_moments_of_the_mixture(propagation: str) -> None:
    model = ensemble(propagation)
    model.net.biases[-1].data[:, 0, :3] += torch.arange(4.0)[:, None]  # so that disagreement counts as noise does
    drawn, mean, variance = many(model)
    total = variance.mean(0) + mean.var(0, unbiased=False)
    assert torch.allclose(drawn.mean(0), mean.mean(0), atol=0.05)
    assert torch.allclose(drawn.var(0), total, rtol=0.04)


@pytest.mark.parametrize("propagation", ["ts1", "ts_inf"])
def test_trajectory_sampling_draws_from_each_members_own_gaussian(propagation: str) -> None:
    model = ensemble(propagation)
    model.net.biases[-1].data[:, 0, :3] += 60.0 * torch.arange(4.0)[:, None]  # far apart, so that draws name theirs
    drawn, mean, variance = many(model)
    nearest = (drawn[:, None, 0] - mean[None, :, 0]).abs().argmin(1)
    assert torch.bincount(nearest).tolist() == [10_000] * 4
    for e in range(4):
        own = drawn[nearest == e]
        assert torch.allclose(own.mean(0), mean[e], rtol=0.01, atol=0.05)
        assert torch.allclose(own.var(0), variance[e], rtol=0.08)


def test_distribution_sampling_draws_from_one_gaussian() -> None:
    model = ensemble("distribution_sampling")
    model.net.biases[-1].data[:, 0, :3] += 60.0 * torch.arange(4.0)[:, None]
    drawn, _, _ = many(model)
    z = (drawn[:, 0] - drawn[:, 0].mean()) / drawn[:, 0].std()
    assert z.pow(4).mean().item() == pytest.approx(3.0, abs=0.15)  # a mixture of four far apart has 1.64


def two_beliefs(model: Ensemble, particles: int = 20_000) -> tuple[TransitionState, TransitionState]:
    """Return the particles of two beliefs whose spreads and means differ, and those after a step."""
    noise = torch.randn(2 * particles, 2, generator=generator(5))
    state = model.branch(beliefs([0.0, 0.0], [5.0, 5.0]), particles)
    state = replace(state, obs=state.obs + noise * torch.tensor([2.0, 0.5]).repeat_interleave(particles)[:, None])
    return state, model.predict(state, torch.zeros(2 * particles, 1), generator(1), uncertainty=False)[0]


def test_moment_matching_refits_each_beliefs_gaussian() -> None:
    model = apart("moment_matching")
    model.net.biases[-1].data.zero_()  # nothing moves: the next values' Gaussian is that of the particles
    state, after = two_beliefs(model)
    for group in (slice(0, 20_000), slice(20_000, 40_000)):
        before, now = state.obs[group], after.obs[group]
        assert torch.allclose(now.mean(0), before.mean(0), atol=0.06)
        assert torch.allclose(now.var(0), before.var(0), rtol=0.04)
        correlation = torch.corrcoef(torch.stack([before[:, 0], now[:, 0]]))[0, 1]
        assert abs(correlation) < 0.03  # drawn anew: distribution sampling would keep each particle where it was
    unmoved, same = two_beliefs_of("distribution_sampling")
    assert torch.allclose(unmoved, same, atol=1e-4)


def two_beliefs_of(propagation: str) -> tuple[Tensor, Tensor]:
    model = apart(propagation)
    model.net.biases[-1].data.zero_()
    state, after = two_beliefs(model, 100)
    return state.obs, after.obs


def test_moment_matching_makes_a_mixture_gaussian() -> None:
    model = apart("moment_matching")
    model.net.biases[-1].data.zero_()
    particles = 20_000
    state = model.branch(beliefs([0.0, 0.0]), particles)
    state = replace(state, obs=torch.where(torch.arange(particles)[:, None] % 2 == 0, -3.0, 3.0).expand(-1, 2).clone())
    after, _ = model.predict(state, torch.zeros(particles, 1), generator(1))
    z = after.obs[:, 0] / after.obs[:, 0].std()
    assert after.obs[:, 0].std().item() == pytest.approx(3.0, rel=0.02)
    assert z.pow(4).mean().item() == pytest.approx(3.0, abs=0.15)  # two points have 1


def test_moment_matching_of_the_mean_moves_a_belief_to_its_centre() -> None:
    model = apart("moment_matching")
    model.net.biases[-1].data.zero_()
    state = replace(
        model.branch(beliefs([0.0, 0.0], [0.0, 0.0]), 2), obs=torch.tensor([[1.0, 0], [3.0, 0], [5, 0], [9, 0]])
    )
    after, _ = model.predict(state, torch.zeros(4, 1), sample=False)
    assert after.obs[:, 0].tolist() == pytest.approx([2, 2, 7, 7])


@pytest.mark.parametrize("propagation", sorted(PROPAGATIONS))
def test_every_propagation_imagines_and_is_differentiable(propagation: str) -> None:
    model = ensemble(propagation)
    action = torch.zeros(2, 3, 1, requires_grad=True)
    state = TransitionState(torch.randn(2, 2), torch.tensor([0, 3]))
    returns = trajectory_return(model, state, action, particles=8, generator=generator())
    returns.sum().backward()
    assert action.grad is not None
    assert action.grad.abs().min() > 0
    assert torch.isfinite(action.grad).all()
    rollout = imagine(model, model.branch(state, 4), lambda s: torch.zeros(s.batch_size, 1), 3, generator())
    assert rollout.states.obs.shape == (8, 4, 2)
