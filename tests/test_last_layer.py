"""LastLayer: the variational bound against VBLL's own numbers, draws and closed form, its fit, knobs and uses."""

import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from linear_world import NOISE, PLANE, TORQUE, belief, coverage, fit, grid, linear_world, uncertainty, windows

from mbrl_gym import LearnedVectorEnv, StoredModel, TrainerConfig, check_world_model, load_model, save_model
from mbrl_gym.models.last_layer import LastLayer, LastLayerConfig
from mbrl_gym.nets.variational_linear import LOGARITHM_SPEED, VariationalLinear
from mbrl_gym.planners import CEM, CEMConfig

SMALL = LastLayerConfig(hidden=(32, 32), termination_hidden=(16,), clamp_margin=None)
QUICK = TrainerConfig(learning_rate=5e-3, batch_size=32, max_epochs=4)
FULL = TrainerConfig(learning_rate=5e-3, max_epochs=200, max_updates=1000)


def make(space: spaces.Space[Any] = PLANE, **change: Any) -> LastLayer:
    torch.manual_seed(0)
    return LastLayer(space, TORQUE, replace(SMALL, **change))


@pytest.fixture(scope="module")
def fitted() -> LastLayer:
    model = make()
    fit(model, linear_world(600), FULL)
    return model


# ---- the layer against VectorInstitute/vbll 0.4.9, Regression(parameterization="dense") -----------------------------


def reference(outputs: int) -> tuple[VariationalLinear, torch.Tensor, torch.Tensor]:
    """Return the layer with the weights that the reference was given, and features and targets of 5 rows."""
    size = 4
    layer = VariationalLinear(size, outputs, prior_scale=1.5, wishart_scale=0.02, wishart_freedom=2.0).double()
    k = torch.arange(outputs * size, dtype=torch.float64).reshape(outputs, size)
    with torch.no_grad():
        layer.mean.copy_(torch.sin(k))
        layer.diagonal.copy_((-1 + 0.3 * torch.cos(k)) / LOGARITHM_SPEED)
        i = torch.arange(outputs * size * size, dtype=torch.float64).reshape(outputs, size, size)
        layer.lower.copy_(0.2 * torch.sin(1.7 * i))
        layer.noise.copy_((-0.5 + 0.1 * torch.arange(outputs, dtype=torch.float64)) / LOGARITHM_SPEED)
    x = torch.cos(0.7 * torch.arange(20, dtype=torch.float64)).reshape(5, size)
    return layer, x, torch.sin(0.9 * torch.arange(5 * outputs, dtype=torch.float64)).reshape(5, outputs)


def test_the_bound_is_the_references() -> None:
    layer, x, y = reference(1)
    constant = 0.5 * 4  # of the divergence, which the reference leaves out
    bound = layer.log_likelihood(x, y).mean() + 0.01 * (layer.log_noise_prior() - layer.divergence() - constant)
    assert -bound.item() == pytest.approx(5.0020133880376605, rel=1e-12)


@pytest.mark.parametrize(
    ("outputs", "divergence", "noise_prior"),
    [(1, 5.054805349451115, 1.9728171817154097), (3, 17.041619682111765, 7.132340584426579)],
)
def test_the_priors_are_the_references(outputs: int, divergence: float, noise_prior: float) -> None:
    layer, _, _ = reference(outputs)
    assert layer.divergence().item() + 0.5 * 4 * outputs == pytest.approx(divergence, rel=1e-12)
    assert layer.log_noise_prior().item() == pytest.approx(noise_prior, rel=1e-12)


def test_mean_and_variance_are_the_references() -> None:
    layer, x, _ = reference(3)
    spread = layer.spread(x).square().sum(-1)
    assert layer(x)[1].tolist() == pytest.approx([-1.207473407126892, 1.8705898670149357, -1.2379248605259576])
    assert spread[1].tolist() == pytest.approx([0.610486221210028, 0.3128915024325353, 0.10718515640707722])
    deviation = (spread + layer.noise_variance()).sqrt()
    assert deviation[4].tolist() == pytest.approx([0.9235257567353664, 0.9601888758389698, 1.0353342860911567])


def test_the_likelihood_is_expected_over_the_posterior() -> None:
    layer, x, y = reference(3)
    noise = torch.randn(40_000, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = layer.drawn(noise)
    mean = torch.einsum("nf,ktf->knt", x, weights)
    normal = torch.distributions.Normal(mean, layer.noise_variance().sqrt())
    assert torch.allclose(layer.log_likelihood(x, y), normal.log_prob(y).mean(0), atol=0.05)


def test_the_divergence_is_zero_at_the_start_but_for_the_mean() -> None:
    layer = VariationalLinear(8, 2, 1.7, 1e-2, 1.0)
    mean = layer.mean.square().sum().item() / (1.7 / 8) / 2
    assert layer.divergence().item() == pytest.approx(mean, rel=1e-4)


def test_the_bounds_optimum_is_bayesian_linear_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator) @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.3]])
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.4 * torch.randn(200, 1, generator=generator)
    torch.manual_seed(0)
    layer = VariationalLinear(3, 1, 1.0, 1e-2, 1.0)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        bound = layer.log_likelihood(x, y).sum() + layer.log_noise_prior() - layer.divergence()
        (-bound).backward()
        return -bound

    optimizer.step(closure)
    precision = x.T @ x / layer.noise_variance() + torch.eye(3) / layer.prior_variance
    covariance, factor = torch.linalg.inv(precision), layer.factor()[0]
    assert torch.allclose(factor @ factor.T, covariance, rtol=0.02, atol=1e-5)
    assert torch.allclose(layer.mean[0], covariance @ x.T @ y[:, 0] / layer.noise_variance(), atol=0.02)
    assert layer.log_noise.exp().item() == pytest.approx(0.4, rel=0.1)


# ---- draws and both uncertainties -----------------------------------------------------------------------------------


def test_the_draws_have_the_posteriors_mean_and_its_variance() -> None:
    model = make(draws=2000)
    with torch.no_grad():
        model.head.lower.normal_(0, 0.1)
        model.target_mean.fill_(3.0)
        model.target_std.copy_(torch.tensor([0.5, 2.0, 1.0]))
    state, action = grid(1.0), torch.zeros(40, 1)
    mean, variance = model.moments(state, action)
    phi = model._phi(torch.cat([state.obs, action], 1))
    change = mean.mean(0) - torch.nn.functional.pad(state.obs, (0, 1))
    assert torch.allclose(change, model.head(phi) * model.target_std + 3.0, atol=1e-4)
    expected = torch.einsum("nf,tfg,nhg,nh->nt", phi, model.head.factor(), model.head.factor()[:1], phi)
    spread = torch.stack([((phi @ factor) ** 2).sum(1) for factor in model.head.factor()], 1)
    assert torch.allclose(expected[:, 0], spread[:, 0], rtol=1e-3)
    assert torch.allclose(mean.var(0, unbiased=False), spread * model.target_std.square(), rtol=0.15)
    assert torch.allclose(variance, (model.head.noise_variance() * model.target_std.square()).expand_as(variance))
    step = model.predict(state, action, sample=False)[1]
    assert torch.allclose(step.uncertainty, spread.mean(1).sqrt(), rtol=1e-4)
    disagreement = ((mean - mean.mean(0)) / model.target_std).square().mean((0, 2)).sqrt()
    assert torch.allclose(step.uncertainty, disagreement, rtol=0.05)


def test_a_last_layer_is_the_same_one_whoever_asks(fitted: LastLayer) -> None:
    state = belief(torch.randn(5, 2, generator=torch.Generator().manual_seed(0)))
    action = torch.full((5, 1), 0.3)
    mean, _ = fitted.moments(state, action)
    branched = fitted.branch(state, 20)  # two particles a draw
    after, _ = fitted.predict(branched, action.repeat_interleave(20, 0), sample=False, uncertainty=False)
    expected = mean[:, :, :2].transpose(0, 1).repeat_interleave(2, 1)
    assert torch.allclose(after.obs.view(5, 20, 2), expected, atol=1e-5)


def test_intervals_cover_and_noise_is_recovered(fitted: LastLayer) -> None:
    assert all(0.86 <= share <= 0.94 for share in coverage(fitted, linear_world(2000, seed=1)))
    aleatoric = fitted.head.noise_variance().sqrt() * fitted.target_std
    assert aleatoric.tolist() == pytest.approx(NOISE, rel=0.2)
    step = fitted.predict(grid(1.0), torch.zeros(40, 1), sample=False)[1]
    assert torch.allclose(step.info["aleatoric"], fitted.head.noise_variance().mean().sqrt().expand(40))


def test_uncertainty_grows_away_from_data_and_shrinks_with_it(fitted: LastLayer) -> None:
    small = make()
    fit(small, linear_world(60), FULL)
    assert uncertainty(fitted, 1.0) < 0.7 * uncertainty(small, 1.0)
    assert uncertainty(fitted, 10.0) > 2 * uncertainty(fitted, 1.0)


def test_uncertainty_of_a_row_that_breaks_is_finite() -> None:
    step = make().predict(belief(torch.tensor([[3e38, 3e38], [0.0, 0.0]])), torch.zeros(2, 1))[1]
    assert torch.isfinite(step.uncertainty).all()


# ---- the fit --------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_negative_bound_a_transition_and_dimension() -> None:
    model, data = make(), windows(linear_world(100, ends=True))
    alone = model.loss(data)
    assert alone.terms["divergence"] == alone.terms["noise_prior"] == 0  # nothing is known of how much data there is
    model.before_fit(data)
    assert model.rows == 100
    rows = model._transitions(data)
    phi = model._phi(model._normalise(rows.x))
    each = model.head.log_likelihood(phi, (rows.target - model.target_mean) / model.target_std)
    nll = -(each.mean(1) * rows.weight[0]).mean()
    cost = (model.head.divergence() - model.head.log_noise_prior()) / (3 * 100)
    ends = (model._termination_error(model._normalise(rows.x), rows)[0] * rows.weight[0]).mean()
    result = model.loss(data)
    assert result.total.item() == pytest.approx((nll + cost + ends).item(), rel=1e-5)
    assert result.terms["nll"].item() == pytest.approx(nll.item(), rel=1e-5)
    assert result.terms["termination"].item() == pytest.approx(ends.item(), rel=1e-5)
    result.total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_predictions_beyond_a_bound_that_reality_sits_on_are_right() -> None:
    box = spaces.Box(-1, 1, (2,), np.float32)
    model, data = make(box), windows(linear_world(40))
    data = replace(data, obs=torch.ones_like(data.obs))
    rows = model._transitions(data)
    phi = model._phi(rows.x)
    with torch.no_grad():
        model.head.mean.copy_(phi.mean(0).sign() * 100.0)
    kept = (model.head(phi) > 0).all(1)
    assert kept.sum() > 10
    data = data[kept]
    rows = model._transitions(data)
    phi = model._phi(rows.x)
    each = model.head.log_likelihood(phi, rows.target)
    each = torch.cat([torch.zeros_like(each[:, :2]), each[:, 2:]], 1)
    assert model.loss(data).terms["nll"].item() == pytest.approx(-(each.mean(1) * rows.weight[0]).mean().item())


def test_the_held_out_error_is_the_predicted_distributions_likelihood(fitted: LastLayer) -> None:
    data = windows(linear_world(100, seed=3))
    rows = fitted._transitions(data)
    with torch.no_grad():
        phi = fitted._phi(fitted._normalise(rows.x))
        total = fitted.head.noise_variance() + fitted.head.spread(phi).square().sum(-1)
        target = (rows.target - fitted.target_mean) / fitted.target_std
        error = (fitted.head(phi) - target).square() / total + total.log()
        expected = (error.mean(1) * rows.weight[0]).sum() / rows.weight.sum()
        assert fitted.holdout_error(data).item() == pytest.approx(expected.item(), rel=1e-4)


def test_ends_are_learned() -> None:
    model = make()
    fit(model, linear_world(600, ends=True), replace(QUICK, max_epochs=30))
    state = belief(torch.tensor([[2.5, 0.0], [-2.0, 0.0]]))
    assert model.predict(state, torch.zeros(2, 1), sample=False)[1].terminated.tolist() == [True, False]
    with_ends, without = windows(linear_world(60, seed=5, ends=True)), windows(linear_world(60, seed=5))
    with torch.no_grad():
        assert model.holdout_error(with_ends).item() < model.holdout_error(without).item()


def test_fits_are_equal_to_the_bit() -> None:
    models = [make(), make()]
    for model in models:
        fit(model, linear_world(100), QUICK)
    mine, theirs = (model.state_dict() for model in models)
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize(
    "change",
    [
        {"draws": 5},
        {"hidden": (16,)},
        {"prior_scale": 0.05},
        {"wishart_scale": 5.0},
        {"wishart_freedom": 50.0},
        {"weight_decay": 0.1},
    ],
)
def test_each_hyperparameter_has_an_effect(change: dict[str, Any]) -> None:
    plain, changed = make(), make(**change)
    for model in (plain, changed):
        fit(model, linear_world(100), QUICK)
    for mine, theirs in zip(*(m.moments(grid(1.0), torch.zeros(40, 1)) for m in (plain, changed)), strict=True):
        assert mine.shape != theirs.shape or not torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_priors_pull_in_their_directions() -> None:
    model, weak = make(), make(wishart_scale=5.0, wishart_freedom=0.0)
    wide = make(prior_scale=4.0)
    wider = (wide.head.log_diagonal - model.head.log_diagonal).mean().item()
    assert wider == pytest.approx(math.log(2), rel=1e-4)
    for each in (model, weak):
        each.rows.fill_(10.0)
    gradients = [
        torch.autograd.grad(-each.head.log_noise_prior(), each.head.noise)[0].sum().item() for each in (model, weak)
    ]
    assert gradients[0] > 0 > gradients[1]  # a large scale wants more noise, many degrees of freedom less


def test_the_layers_before_the_last_decay() -> None:
    assert make(weight_decay=0.3).weight_decay() == {"net.weights.0": 0.3, "net.weights.1": 0.3}
    assert make(weight_decay=0.0).weight_decay() == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": 1}, "draws must be at least 2, because their mean is the model's, got 1"),
        ({"hidden": ()}, r"hidden must be the widths of one or more layers, at least 1 each, got \(\)"),
        ({"hidden": (8, 0)}, "hidden must be the widths of one or more layers"),
        ({"prior_scale": 0.0}, "prior_scale must be positive, got 0.0"),
        ({"wishart_scale": -1.0}, "wishart_scale must be positive, got -1.0"),
        ({"wishart_freedom": -1.0}, "wishart_freedom must be at least 0, got -1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0, got -1.0"),
    ],
)
def test_bad_hyperparameters_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LastLayerConfig(**change)


# ---- contract and uses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("propagation", ["ts1", "ts_inf", "moment_matching"])
def test_it_keeps_the_contract(propagation: str) -> None:
    model = make(draws=2, propagation=propagation)
    check_world_model(model)
    fit(model, linear_world(100, ends=True), QUICK)
    check_world_model(model)


def test_it_keeps_the_contract_of_other_spaces() -> None:
    space = spaces.Dict(a=spaces.Box(-2, 2, (2,), np.float32), b=spaces.Discrete(3))
    check_world_model(LastLayer(space, spaces.Discrete(3), replace(SMALL, draws=2)))


def test_a_checkpoint_keeps_the_draws(fitted: LastLayer, tmp_path: Any) -> None:
    save_model(tmp_path / "model", StoredModel(fitted, linear_world(60).starts(kind="resets"), None, 10))
    loaded = load_model(tmp_path / "model", "cpu").model
    assert isinstance(loaded, LastLayer)
    assert LastLayerConfig(**json.loads(json.dumps(asdict(fitted.config)))) == loaded.config
    for mine, theirs in zip(*(m.moments(grid(2.0), torch.zeros(40, 1)) for m in (fitted, loaded)), strict=True):
        assert torch.equal(mine, theirs)


def test_environments_and_planners_work_in_it(fitted: LastLayer) -> None:
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
