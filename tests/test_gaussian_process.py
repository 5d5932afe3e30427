"""GaussianProcess: likelihood, draws and moments against plain formulas and scikit-learn; its fit, limits and uses."""

import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from linear_world import NOISE, PLANE, TORQUE, belief, coverage, fit, grid, linear_world, uncertainty, windows
from torch import Tensor

from mbrl_gym import LearnedVectorEnv, StoredModel, check_world_model, load_model, save_model
from mbrl_gym.models import gaussian_process
from mbrl_gym.models.gaussian_process import GaussianProcess, GaussianProcessConfig
from mbrl_gym.models.kernels import (
    SMALLEST_NOISE,
    Hyperparameters,
    fourier_features,
    log_marginal_likelihood,
    maximise_likelihood,
    posterior_draws,
    squared_exponential,
)
from mbrl_gym.nets.variational_linear import centred_noise
from mbrl_gym.planners import CEM, CEMConfig
from worlds import real_steps

QUICK = GaussianProcessConfig(likelihood_steps=20, likelihood_points=60, frequencies=64, clamp_margin=None)


def make(space: spaces.Space[Any] = PLANE, **change: Any) -> GaussianProcess:
    torch.manual_seed(0)
    return GaussianProcess(space, TORQUE, replace(QUICK, **change))


@pytest.fixture(scope="module")
def fitted() -> GaussianProcess:
    model = make(likelihood_steps=100, likelihood_points=300, draws=20, frequencies=256)
    fit(model, linear_world(300))
    return model


def same(a: GaussianProcess, b: GaussianProcess) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return all(mine[key].shape == theirs[key].shape and torch.equal(mine[key], theirs[key]) for key in mine)


# ---- kernels --------------------------------------------------------------------------------------------------------


def sklearn_data(n: int) -> tuple[Tensor, Tensor]:
    i = torch.arange(n, dtype=torch.float64)
    x = torch.stack([torch.sin(1.3 * i), torch.cos(0.7 * i)], 1)
    return x, torch.sin(2 * x[:, 0]) + 0.3 * x[:, 1]


def test_the_kernel_is_the_formula_and_safe_far_away() -> None:
    x, y = torch.tensor([[0.0, 1.0], [3e38, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, -1.0]])
    expected = [[1.0, math.exp(-0.5 * 5)], [0.0, 0.0]]
    assert squared_exponential(x, y).tolist() == [pytest.approx(row) for row in expected]


def test_the_likelihood_of_two_points_is_the_one_by_hand() -> None:
    x, y = torch.tensor([[0.0], [2.0]]).double(), torch.tensor([1.0, -0.5]).double()
    off = 3.0 * math.exp(-0.5 * (2.0 / 1.6) ** 2)
    on = 3.0 + 0.2
    determinant = on**2 - off**2
    quadratic = (on * 1.0 + on * 0.25 - 2 * off * 1.0 * -0.5) / determinant
    expected = -0.5 * quadratic - 0.5 * math.log(determinant) - math.log(2 * math.pi)
    arguments = (torch.tensor(v, dtype=torch.float64) for v in ([1.6], 3.0, 0.2))
    assert log_marginal_likelihood(x, y, *arguments).item() == pytest.approx(expected, rel=1e-10)


def test_the_likelihood_is_that_of_scikit_learn() -> None:
    x, y = sklearn_data(12)
    arguments = (torch.tensor(v, dtype=torch.float64) for v in ([0.8, 1.9], 1.7, 0.05))
    assert log_marginal_likelihood(x, y, *arguments).item() == pytest.approx(-5.438760112918958, rel=1e-9)


def test_the_likelihood_is_maximised_as_far_as_scikit_learn_does() -> None:
    x, y = sklearn_data(60)
    i = torch.arange(60, dtype=torch.float64)
    y = y + 0.1 * torch.sin(37.7 * i * i)
    found, likelihood = maximise_likelihood(x, torch.stack([y, torch.zeros_like(y)], 1), 150)
    lengths, signal, noise = found.of(0)
    best = log_marginal_likelihood(x, y, lengths, signal, noise).item()
    assert best == pytest.approx(85.648, abs=0.3)
    assert best > log_marginal_likelihood(x, y, *maximise_likelihood(x, y[:, None], 10)[0].of(0)).item() + 5
    assert likelihood[0].item() * 60 == pytest.approx(best)
    assert noise.item() == pytest.approx(0.00119, rel=0.1)
    assert lengths[0].item() == pytest.approx(1.22, rel=0.1)
    assert all(torch.isfinite(v).all() for v in found.of(1))  # of constant targets too


def test_noise_has_a_floor_below_the_signal() -> None:
    found = Hyperparameters(torch.zeros(1, 1), torch.tensor([1.0]), torch.tensor([-50.0]))
    assert found.of(0)[2].item() == pytest.approx((SMALLEST_NOISE * math.e) ** 2, rel=1e-5)


def test_fourier_features_approximate_the_kernel_and_are_exact_for_a_point_with_itself() -> None:
    frequencies = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))
    x = torch.tensor([[0.0, 0.0], [0.5, -0.3], [2.0, 1.0]])
    features = fourier_features(x, frequencies)
    assert features.shape == (3, 40_000)
    assert torch.allclose(features @ features.T, squared_exponential(x, x), atol=0.02)
    few = fourier_features(x, frequencies[:3])
    assert (few @ few.T).diagonal().tolist() == pytest.approx([1.0] * 3)


def test_centred_noise_has_mean_zero_and_deviation_one() -> None:
    noise = centred_noise(4, 50_000, generator=torch.Generator().manual_seed(0))
    assert noise.mean(0).abs().max() < 1e-6
    assert noise.std(1).tolist() == pytest.approx([1.0] * 4, abs=0.02)
    assert noise.square().mean().item() == pytest.approx(1.0, abs=0.02)


def test_draws_have_the_mean_and_variance_that_scikit_learn_predicts() -> None:
    x, y = sklearn_data(12)
    log_noise = 0.5 * math.log(0.05 - SMALLEST_NOISE**2 * 1.7)
    values = ([[0.8, 1.9]], [0.5 * math.log(1.7)], [log_noise])
    found = Hyperparameters(
        *(torch.tensor(v).double().log() if i == 0 else torch.tensor(v).double() for i, v in enumerate(values))
    )
    generator, draws, count = torch.Generator().manual_seed(0), 4000, 1000
    frequencies = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    prior, error = (centred_noise(draws, n, generator=generator, dtype=torch.float64).T for n in (2 * count, 12))
    coefficients = posterior_draws(x, y, found, 0, frequencies, prior, error)
    assert coefficients.shape == (12 + 2 * count, draws)
    at, lengths = torch.tensor([[0.1, 0.2], [3.0, -1.0]]).double(), torch.tensor([0.8, 1.9]).double()
    kernel = squared_exponential(at / lengths, x / lengths)
    functions = torch.cat([kernel, fourier_features(at / lengths, frequencies)], 1) @ coefficients
    assert functions.mean(1).tolist() == pytest.approx([0.3057280526693307, 0.0011076552279126245], abs=1e-8)
    spread = functions.var(1, unbiased=False).tolist()
    assert spread == pytest.approx([0.03456957167447097, 1.6929667236260169], rel=0.08)


# ---- the model against a textbook ------------------------------------------------------------------------------------


def textbook(model: GaussianProcess, data: Any, at: np.ndarray[Any, Any]) -> tuple[Any, Any, Any]:
    """Return mean, variance and noise variance [T, B] of changes and rewards, in their own units (R & W 2.25, 2.26)."""
    rows = model._transitions(data)
    x = ((rows.x - model.input_mean) / model.input_std).double().numpy()
    y = ((rows.target - model.target_mean) / model.target_std).double().numpy()
    at = (at - model.input_mean.numpy()) / model.input_std.numpy()
    results = []
    for t in range(3):
        length = model.log_lengths[t].detach().double().exp().numpy()
        signal = math.exp(2 * model.log_signal[t].item())
        noise = math.exp(2 * model.log_noise[t].item()) + SMALLEST_NOISE**2 * signal

        def kernel(a: Any, b: Any, length: Any = length, signal: float = signal) -> Any:
            return signal * np.exp(-0.5 * (((a[:, None] - b[None]) / length) ** 2).sum(-1))

        inverse, cross = np.linalg.inv(kernel(x, x) + noise * np.eye(len(x))), kernel(at, x)
        scale, shift = model.target_std[t].item(), model.target_mean[t].item()
        mean = cross @ inverse @ y[:, t] * scale + shift
        variance = (signal - np.einsum("bn,nm,bm->b", cross, inverse, cross)) * scale**2
        results.append((mean, variance, np.full(len(at), noise * scale**2)))
    return tuple(np.stack(part) for part in zip(*results, strict=True))


@pytest.mark.parametrize("normalize", [True, False])
def test_moments_are_the_exact_posteriors(normalize: bool) -> None:
    data = windows(linear_world(80))
    data = data[~data.is_first[:, 1]]
    model = make(draws=600, frequencies=1000, normalize_targets=normalize)
    model.fit(data, None)
    state = grid(1.5, 8)
    action = torch.linspace(-1, 1, 8)[:, None]
    mean, variance = model.moments(state, action)
    expected = textbook(model, data, torch.cat([state.obs, action], 1).numpy())
    change = mean - torch.cat([state.obs, torch.zeros(8, 1)], 1)
    assert np.allclose(change.mean(0).T, expected[0], atol=2e-4)
    spread = mean.var(0, unbiased=False).T.numpy()
    assert np.allclose(spread, expected[1], rtol=0.35)
    assert np.median(spread / expected[1]) == pytest.approx(1.0, abs=0.1)
    assert np.allclose(variance[0].T, expected[2], rtol=1e-4)
    assert torch.equal(variance[0], variance[1])
    step = model.predict(state, action, sample=False)[1]
    exact = np.sqrt((expected[1] / model.target_std[:, None].numpy() ** 2).mean(0))
    assert np.allclose(step.uncertainty, exact, rtol=0.15)


def test_a_function_is_the_same_one_whoever_asks(fitted: GaussianProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    state = belief(torch.randn(5, 2, generator=torch.Generator().manual_seed(0)))
    action = torch.full((5, 1), 0.3)
    mean, _ = fitted.moments(state, action)
    branched = fitted.branch(state, 40)  # two particles a draw
    after, _ = fitted.predict(branched, action.repeat_interleave(40, 0), sample=False, uncertainty=False)
    expected = mean[:, :, :2].transpose(0, 1).repeat_interleave(2, 1)
    assert torch.allclose(after.obs.view(5, 40, 2), expected, atol=1e-4)
    monkeypatch.setattr(gaussian_process, "CHUNK", 5000)  # two rows at a time
    assert torch.allclose(fitted.moments(state, action)[0], mean, atol=1e-5)
    again, _ = fitted.predict(branched, action.repeat_interleave(40, 0), sample=False, uncertainty=False)
    assert torch.allclose(again.obs, after.obs, atol=1e-4)


# ---- both uncertainties ---------------------------------------------------------------------------------------------


def test_intervals_cover_and_noise_is_recovered(fitted: GaussianProcess) -> None:
    assert all(0.86 <= share <= 0.94 for share in coverage(fitted, linear_world(2000, seed=1)))
    aleatoric = fitted.noise_variance.sqrt() * fitted.target_std
    assert aleatoric.tolist() == pytest.approx(NOISE, rel=0.2)
    step = fitted.predict(grid(1.0), torch.zeros(40, 1), sample=False)[1]
    assert torch.allclose(step.info["aleatoric"], fitted.noise_variance.mean().sqrt().expand(40))


def test_uncertainty_grows_away_from_data_and_shrinks_with_it(fitted: GaussianProcess) -> None:
    small = make(likelihood_steps=100, likelihood_points=300, draws=20, frequencies=256)
    fit(small, linear_world(60))
    assert uncertainty(fitted, 1.0) < 0.7 * uncertainty(small, 1.0)
    assert uncertainty(fitted, 40.0) > 5 * uncertainty(fitted, 1.0)


# ---- the fit --------------------------------------------------------------------------------------------------------


def test_the_report_tells_of_the_fit(fitted: GaussianProcess) -> None:
    model, data = make(likelihood_points=1000), windows(linear_world(200))
    report = model.fit(data, data[:50])
    assert report.epochs == report.updates == 20
    assert report.windows == data.batch_size
    rows = model._transitions(data)
    inputs = ((rows.x - model.input_mean) / model.input_std).double()
    targets = ((rows.target - model.target_mean) / model.target_std).double()
    kept = rows.weight[0] > 0
    found = Hyperparameters(model.log_lengths.double(), model.log_signal.double(), model.log_noise.double())
    values = [log_marginal_likelihood(inputs[kept], targets[kept, t], *found.of(t)) / kept.sum() for t in range(3)]
    assert report.terms["nll"] == pytest.approx(-torch.stack(values).mean().item(), abs=1e-3)
    assert report.loss == report.terms["nll"]
    assert report.holdout_error == model.holdout_error(data[:50]).tolist()
    assert model.fit(data, None).holdout_error == []


def test_the_held_out_error_is_the_mixtures_likelihood(fitted: GaussianProcess) -> None:
    data = windows(linear_world(100, seed=3))
    rows = fitted._transitions(data)
    with torch.no_grad():
        means, variances = fitted._moments(fitted._raw(rows.x, bound=False))
    total = (variances.mean(0) + means.var(0, unbiased=False)) / fitted.target_std.square()
    error = ((means.mean(0) - rows.target) / fitted.target_std).square() / total + total.log()
    expected = (error.mean(1) * rows.weight[0]).sum() / rows.weight.sum()
    assert fitted.holdout_error(data).item() == pytest.approx(expected.item(), rel=1e-4)


def test_fits_are_equal_to_the_bit_and_begin_anew() -> None:
    data = windows(linear_world(100, ends=True))
    first, second = make(), make()
    first.fit(data, None)
    second.fit(windows(linear_world(160, seed=4, ends=True)), None)
    second.termination_net.load_state_dict(make().termination_net.state_dict())
    second.fit(data, None)
    assert same(first, second)
    other = make(seed=1)
    other.fit(data, None)
    assert not torch.equal(other.coefficients, first.coefficients)
    assert not torch.equal(other.frequencies, first.frequencies)


def test_training_leaves_torchs_own_generator_alone() -> None:
    model = make()
    before = torch.random.get_rng_state()
    model.fit(windows(linear_world(60, ends=True)), None)
    assert torch.equal(before, torch.random.get_rng_state())


def test_too_many_points_are_refused_politely() -> None:
    model = make(max_points=99)
    data = windows(linear_world(101))
    for call in (lambda: model.fit(data, None), lambda: model.loss(data)):
        with pytest.raises(ValueError, match=r"at most max_points = 99 transitions, got 100; raise max_points"):
            call()
    assert model.centres.shape[1] == 0  # nothing happened
    make(max_points=100).fit(data, None)


def test_transitions_of_overlapping_windows_count_once() -> None:
    replay = real_steps("Pendulum-v1", 40)
    models = [GaussianProcess(replay.observation_space, replay.action_space, QUICK) for _ in range(2)]
    for model, length in zip(models, (2, 3), strict=True):
        model.fit(windows(replay, length), None)
    assert models[0].centres.shape[1] == models[1].centres.shape[1] == 40


def test_what_crosses_into_the_next_episode_is_no_transition() -> None:
    model, data = make(), windows(linear_world(60))
    is_first = data.is_first.clone()
    is_first[:20, 1] = True
    data = replace(data, is_first=is_first)
    assert model._distinct(data).x.shape[0] == 40
    model.fit(data, None)
    assert model.centres.shape[1] == 40


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"likelihood_points": 10}, "log_lengths"),
        ({"likelihood_steps": 5}, "log_lengths"),
        ({"frequencies": 32}, "coefficients"),
        ({"draws": 4}, "coefficients"),
        ({"termination_updates": 5}, "termination_net.weights.0"),
    ],
)
def test_each_hyperparameter_has_an_effect(change: dict[str, Any], name: str) -> None:
    data = windows(linear_world(80, ends=True))
    plain, changed = make(), make(**change)
    plain.fit(data, None)
    changed.fit(data, None)
    mine, theirs = plain.state_dict()[name], changed.state_dict()[name]
    assert mine.shape != theirs.shape or not torch.allclose(mine, theirs, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": 1}, "draws must be at least 2, because their mean is the model's, got 1"),
        ({"max_points": 0}, "max_points must be at least 1, got 0"),
        ({"likelihood_points": 0}, "likelihood_points must be at least 1, got 0"),
        ({"likelihood_steps": 0}, "likelihood_steps must be at least 1, got 0"),
        ({"frequencies": 0}, "frequencies must be at least 1, got 0"),
        ({"termination_updates": 0}, "termination_updates must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_bad_hyperparameters_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianProcessConfig(**change)


def test_the_loss_is_the_likelihood_and_changes_no_prediction() -> None:
    model, data = make(), windows(linear_world(60, ends=True))
    model.fit(data, None)
    result = model.loss(data[:30])
    rows = model._transitions(data[:30])
    kept = rows.weight[0] > 0
    inputs, targets = model._standardised(rows)
    found = Hyperparameters(model.log_lengths.double(), model.log_signal.double(), model.log_noise.double())
    values = [log_marginal_likelihood(inputs[kept], targets[kept, t], *found.of(t)) for t in range(3)]
    expected = -torch.stack(values).mean().item() / int(kept.sum())
    assert result.terms["nll"].item() == pytest.approx(expected, rel=1e-4)
    assert result.total.item() == pytest.approx(expected + result.terms["termination"].item(), rel=1e-4)
    before = model.moments(grid(1.0), torch.zeros(40, 1))[0]
    result.total.backward()
    with torch.no_grad():
        for parameter in (model.log_lengths, model.log_signal, model.log_noise):
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0
            parameter += 1.0
    assert torch.equal(before, model.moments(grid(1.0), torch.zeros(40, 1))[0])


def test_ends_are_learned() -> None:
    model = make()
    report = model.fit(windows(linear_world(300, ends=True)), None)
    assert report.terms["termination"] < 0.2
    state = belief(torch.tensor([[2.5, 0.0], [-2.0, 0.0]]))
    assert model.predict(state, torch.zeros(2, 1), sample=False)[1].terminated.tolist() == [True, False]
    with_ends, without = windows(linear_world(60, seed=5, ends=True)), windows(linear_world(60, seed=5))
    assert model.holdout_error(with_ends).item() < model.holdout_error(without).item()


# ---- contract and uses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("propagation", ["ts1", "ts_inf", "moment_matching"])
def test_it_keeps_the_contract(propagation: str) -> None:
    model = make(draws=2, propagation=propagation)
    check_world_model(model)
    model.fit(windows(linear_world(60, ends=True)), None)
    check_world_model(model)


def test_it_keeps_the_contract_of_other_spaces() -> None:
    space = spaces.Dict(a=spaces.Box(-2, 2, (2,), np.float32), b=spaces.Discrete(3))
    check_world_model(GaussianProcess(space, spaces.Discrete(3), replace(QUICK, draws=2)))


def test_before_any_fit_it_draws_from_the_prior() -> None:
    mean, variance = make(draws=500).moments(grid(1.0), torch.zeros(40, 1))
    change = mean - torch.nn.functional.pad(grid(1.0).obs, (0, 1))
    assert change.mean(0).abs().max() < 1e-5
    assert change.var(0, unbiased=False).mean().item() == pytest.approx(1.0, abs=0.1)
    assert (variance > 0).all()


def test_its_state_loads_into_a_model_of_other_data(fitted: GaussianProcess, tmp_path: Any) -> None:
    twin = fitted.twin()
    twin.fit(windows(linear_world(60)), None)
    twin.load_state_dict(fitted.state_dict())
    assert same(twin, fitted)
    assert json.loads(json.dumps(asdict(fitted.config))).keys() == asdict(fitted.config).keys()
    state, action = grid(2.0), torch.zeros(40, 1)
    assert torch.equal(twin.moments(state, action)[0], fitted.moments(state, action)[0])
    with pytest.raises(RuntimeError, match="size mismatch"):
        make(draws=3).load_state_dict(fitted.state_dict())
    for model in (fitted, make()):  # one without any data too
        save_model(tmp_path / "model", StoredModel(model, linear_world(60).starts(kind="resets"), None, 10))
        loaded = load_model(tmp_path / "model", "cpu").model
        assert isinstance(loaded, GaussianProcess)
        assert same(loaded, model)


def test_environments_and_planners_work_in_it(fitted: GaussianProcess) -> None:
    env = LearnedVectorEnv(fitted, linear_world(60).starts(kind="resets"), num_envs=6, horizon=5)
    env.reset(seed=0)
    for _ in range(6):
        obs, reward, *_ = env.step(env.action_space.sample())
        assert np.isfinite(obs).all()
        assert np.isfinite(reward).all()
    planner = CEM(fitted.action_codec, CEMConfig(candidates=40, elites=8, iterations=3, horizon=3, particles=20))
    plan = planner.plan(fitted, belief(torch.zeros(2, 2)), planner.initial(2), torch.Generator().manual_seed(0))
    assert (plan.action > 0.3).all()  # a push to the right is what rewards
    assert not plan.non_finite.any()
