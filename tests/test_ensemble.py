"""Ensemble: networks, loss, normalisers, heads, elites, uncertainty, clamp and divergence, against plain references."""

import copy
import json
import math
import pickle
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.models.ensemble import Ensemble, EnsembleConfig
from mbrl_gym.models.transition import TransitionState
from mbrl_gym.nets.ensemble_mlp import EnsembleMLP

FREE = spaces.Box(-np.inf, np.inf, (2,), np.float32)
TORQUE = spaces.Box(-1, 1, (1,), np.float32)
TINY = EnsembleConfig(members=3, hidden=(16,), termination_hidden=(8,), clamp_margin=None)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ensemble(seed: int = 0, space: spaces.Space[Any] = FREE, **change: Any) -> Ensemble:
    torch.manual_seed(seed)
    return Ensemble(space, TORQUE, replace(TINY, **change))


def transitions(
    obs: Tensor, action: Tensor, after: Tensor, reward: Tensor, ends: Tensor | None = None
) -> SequenceBatch:
    """Return N windows of one transition each."""
    n = len(obs)
    flags = torch.zeros(n, 2, dtype=torch.bool)
    terminated, is_first = flags.clone(), flags.clone()
    is_first[:, 0] = True
    if ends is not None:
        terminated[:, 1] = ends
    pair = torch.stack([obs, after], dim=1)
    actions = torch.stack([action, torch.zeros_like(action)], dim=1)
    rewards = torch.stack([torch.zeros(n), reward], dim=1)
    return SequenceBatch(pair, actions, rewards, terminated, flags, is_first, torch.arange(2 * n).reshape(n, 2))


def linear_world(n: int = 512, seed: int = 0, noise: float = 0.1) -> SequenceBatch:
    """x' = x + 0.5 a + noise, y' = 0.9 y, reward = x; an episode ends where x' is above 1."""
    obs, action = torch.randn(n, 2, generator=generator(seed)), torch.rand(n, 1, generator=generator(seed + 1)) * 2 - 1
    x = obs[:, :1] + 0.5 * action + noise * torch.randn(n, 1, generator=generator(seed + 2))
    return transitions(obs, action, torch.cat([x, 0.9 * obs[:, 1:]], 1), obs[:, 0], x[:, 0] > 1)


def train(model: Ensemble, data: SequenceBatch, steps: int = 400, rate: float = 5e-3, batch: int = 128) -> Ensemble:
    model.before_fit(data)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], rate)
    order = generator(7)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        rows = torch.randint(data.batch_size, (batch,), generator=order)
        optimizer.zero_grad()
        model.loss(data[rows]).total.backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def fitted() -> Ensemble:
    return train(ensemble(clamp_margin=0.25), linear_world(), steps=1200)


def belief(model: Ensemble, obs: Tensor) -> TransitionState:
    return TransitionState(obs, torch.zeros(len(obs), dtype=torch.int64))


def test_a_step_completed_from_drawn_values_is_the_models_own(fitted: Ensemble) -> None:
    state, action = belief(fitted, torch.randn(6, 2, generator=generator(1))), torch.zeros(6, 1)
    mean = fitted.moments(state, action)[0][0]  # what the first member, which all rows are bound to, expects
    own_state, own = fitted.predict(state, action, sample=False)
    after, step = fitted.complete(state, action, mean.clone(), own.uncertainty, {"note": own.reward})
    assert torch.equal(after.obs, own_state.obs)
    assert torch.equal(step.reward, own.reward)
    assert torch.equal(step.continuation, own.continuation)
    assert torch.equal(step.uncertainty, own.uncertainty)
    assert torch.equal(step.info["note"], own.reward)
    broken, cut = fitted.complete(state, action, torch.full_like(mean, torch.nan))
    assert cut.truncated.all()
    assert torch.equal(broken.obs, state.obs)
    assert not cut.uncertainty.any()


# ---- the networks ---------------------------------------------------------------------------------------------------


def plain_networks(net: EnsembleMLP) -> list[nn.Sequential]:
    """Return each member as an ordinary perceptron with the same weights."""
    networks = []
    for e in range(net.weights[0].shape[0]):
        layers: list[nn.Module] = []
        for weight, bias in zip(net.weights, net.biases, strict=True):
            linear = nn.Linear(weight.shape[1], weight.shape[2])
            linear.weight.data, linear.bias.data = weight.data[e].T.clone(), bias.data[e, 0].clone()
            layers += [linear, nn.SiLU()]
        networks.append(nn.Sequential(*layers[:-1]))
    return networks


def test_the_batched_networks_equal_plain_ones() -> None:
    torch.manual_seed(0)
    net = EnsembleMLP(4, (3, 16, 8, 5))
    for bias in net.biases:
        nn.init.normal_(bias)
    x, members = torch.randn(7, 3), plain_networks(net)
    assert torch.allclose(net(x), torch.stack([m(x) for m in members]), atol=1e-5)
    own = torch.randn(4, 7, 3)
    assert torch.allclose(net(own), torch.stack([m(y) for m, y in zip(members, own, strict=True)]), atol=1e-5)
    assert torch.allclose(net(x, torch.tensor([2, 0])), torch.stack([members[2](x), members[0](x)]), atol=1e-5)
    assert torch.allclose(
        net(own[:2], torch.tensor([3, 1])), torch.stack([members[3](own[0]), members[1](own[1])]), atol=1e-5
    )


def test_initial_weights_are_a_truncated_normal() -> None:
    torch.manual_seed(0)
    net = EnsembleMLP(5, (64, 128, 16))
    for weight, fan_in in zip(net.weights, (64, 128), strict=True):
        deviation = 1 / (2 * math.sqrt(fan_in))
        assert weight.abs().max() <= 2 * deviation
        assert weight.abs().max() > 1.95 * deviation
        assert weight.std().item() == pytest.approx(0.8796 * deviation, rel=0.02)  # of a normal cut at two deviations
        assert abs(weight.mean().item()) < 0.02 * deviation
    assert all(not bias.any() for bias in net.biases)
    assert not torch.equal(net.weights[0][0], net.weights[0][1])


def test_the_weights_of_each_layer_decay_and_nothing_else() -> None:
    assert ensemble(weight_decay=(0.3, 0.7)).weight_decay() == {"net.weights.0": 0.3, "net.weights.1": 0.7}
    assert ensemble(weight_decay=(0.0, 0.7)).weight_decay() == {"net.weights.1": 0.7}


def test_the_hidden_widths_are_those_of_the_config() -> None:
    model = ensemble(hidden=(5, 7), termination_hidden=(3,))
    assert [tuple(w.shape) for w in model.net.weights] == [(3, 3, 5), (3, 5, 7), (3, 7, 6)]
    assert [tuple(w.shape) for w in model.termination_net.weights] == [(3, 5, 3), (3, 3, 1)]


# ---- the loss -------------------------------------------------------------------------------------------------------


def softplus(x: Tensor) -> Tensor:
    return torch.log1p(torch.exp(x.double()))


def test_log_variance_is_bounded_as_in_pets() -> None:
    model = ensemble(max_log_variance=0.7, min_log_variance=-3.0)
    raw = torch.linspace(-8, 8, 50)[:, None].expand(50, 6).contiguous()
    _, log_variance = model._outputs(raw)
    upper = 0.7 - softplus(0.7 - raw[:, 3:])
    expected = -3.0 + softplus(upper + 3.0)
    assert torch.allclose(log_variance.double(), expected, atol=1e-6)
    assert model.max_log_variance.tolist() == pytest.approx([0.7] * 3)
    assert model.min_log_variance.tolist() == pytest.approx([-3.0] * 3)
    _, extreme = model._outputs(torch.cat([torch.zeros(2, 3), torch.tensor([[-1e30] * 3, [1e30] * 3])], dim=1))
    assert extreme[0].tolist() == pytest.approx([-3.0] * 3, abs=1e-3)
    assert extreme[1].tolist() == pytest.approx([0.7 + math.log1p(math.exp(-3.7))] * 3, abs=1e-3)


def reference_loss(model: Ensemble, batch: SequenceBatch, weight: Tensor | None = None) -> Tensor:
    """Return the PETS loss, written out member by member."""
    config, beta = model.config, model.config.variance_weighting
    assert isinstance(batch.obs, Tensor)
    obs, after = batch.obs[:, 0], batch.obs[:, 1]
    x = (torch.cat([obs, batch.action[:, 0]], 1) - model.input_mean) / model.input_std
    absolute = torch.tensor([i in config.absolute for i in range(2)])
    target = torch.cat([torch.where(absolute, after, after - obs), batch.reward[:, 1:]], 1)
    target = (target - model.target_mean) / model.target_std
    total = torch.zeros(())
    for e, network in enumerate(plain_networks(model.net)):
        mean, raw = network(x).split(3, dim=1)
        log_variance = model.max_log_variance - softplus(model.max_log_variance - raw)
        log_variance = model.min_log_variance + softplus(log_variance - model.min_log_variance)
        nll = ((mean - target) ** 2 / log_variance.exp() + log_variance) * log_variance.detach().exp() ** beta
        nll = nll.mean(1)
        total = total + (nll * (1.0 if weight is None else weight[:, e])).mean()
    return total + 0.01 * model.max_log_variance.sum() - 0.01 * model.min_log_variance.sum()


CHANGES = [
    {"absolute": (1,)},
    {"normalize_targets": False},
    {"variance_weighting": 0.5},
    {"variance_weighting": 1.0},
]


@pytest.mark.parametrize("change", [{}, *CHANGES])
def test_the_loss_is_that_of_pets(change: dict[str, Any]) -> None:
    model, data = ensemble(**{"variance_weighting": 0.0, **change}), linear_world(64)
    data = replace(data, terminated=data.terminated & False)
    model.before_fit(data)
    assert model.loss(data).total.item() == pytest.approx(reference_loss(model, data).item(), rel=1e-5)
    weight = torch.randint(3, (64, 2, 3), generator=generator()).float()
    weighted = model.loss(replace(data, weight=weight)).total.item()
    assert weighted == pytest.approx(reference_loss(model, data, weight[:, 1]).item(), rel=1e-5)
    assert weighted != pytest.approx(reference_loss(model, data).item(), rel=1e-3)


@pytest.mark.parametrize(("weighting", "same"), [(1.0, True), (0.0, False)])
def test_with_full_weighting_the_means_follow_the_squared_error(weighting: float, same: bool) -> None:
    data = linear_world(64)
    gradients = []
    for shift in (0.0, -2.0):  # of the predicted variances
        model = ensemble(variance_weighting=weighting)
        model.before_fit(data)
        bias = model.net.biases[-1]
        with torch.no_grad():
            bias[..., 3:] += shift
        gradients.append(torch.autograd.grad(model.loss(data).total, bias)[0][..., :3])
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-6) == same


def clipped_world(n: int, seed: int = 0) -> SequenceBatch:
    """Return steps of x' = clip(x + a, -1, 1), half of which end on a bound."""
    rng = generator(seed)
    before, action = torch.rand(n, 1, generator=rng) * 2 - 1, torch.rand(n, 1, generator=rng) * 2 - 1
    obs = torch.stack([before, (before + action).clamp(-1, 1)], dim=1)
    no = torch.zeros(n, 2, dtype=torch.bool)
    is_first = no.clone()
    is_first[:, 0] = True
    actions = torch.stack([action, torch.zeros_like(action)], dim=1)
    return SequenceBatch(obs, actions, torch.zeros(n, 2), no, no, is_first, torch.arange(2 * n).reshape(n, 2))


def test_a_mean_beyond_a_bound_that_reality_sits_on_is_no_error() -> None:
    box = spaces.Box(-1, 1, (1,), np.float32)
    exact = EnsembleConfig(members=1, hidden=(), bfloat16_rows=None)
    bounded, action = Ensemble(box, box, exact), clipped_world(500)
    free = Ensemble(spaces.Box(-5, 5, (1,), np.float32), box, exact)
    errors = []
    for model in (bounded, free):
        model.before_fit(action)
        with torch.no_grad():  # x' = x + a exactly, before the clipping
            for p in model.net.parameters():
                p.zero_()
            model.net.weights[0][0, 1, 0] = model.input_std[1] / model.target_std[0]
            model.net.biases[0][0, 0, 0] = (model.input_mean[1] - model.target_mean[0]) / model.target_std[0]
        errors.append(model.holdout_error(action).item())
    assert errors[0] == pytest.approx(0.0, abs=1e-9)  # projection makes this model exact
    assert errors[1] > 0.01
    gradient = torch.autograd.grad(bounded.loss(action).total, bounded.net.weights[0])[0]
    assert gradient[0, :, 0].abs().max() < 1e-4  # and nothing pulls it towards the kink


def test_variance_bound_penalty_weighs_the_bounds() -> None:
    data = linear_world(64)
    losses = []
    for penalty in (0.0, 0.5):
        model = ensemble(variance_bound_penalty=penalty)
        model.before_fit(data)
        losses.append(model.loss(data).total.item())
    assert losses[1] - losses[0] == pytest.approx(0.5 * 3 * (0.5 + 10), rel=1e-5)


def test_the_bounds_are_learned_only_on_request() -> None:
    data = linear_world(64)
    learned, fixed = (train(ensemble(learn_variance_bounds=learn), data, 20) for learn in (True, False))
    assert ((learned.max_log_variance - 0.5).abs() > 0.01).all()
    assert (learned.min_log_variance > -9.99).all()  # the penalty pulls it up
    assert fixed.max_log_variance.tolist() == [0.5] * 3
    assert fixed.min_log_variance.tolist() == [-10.0] * 3


def test_windows_that_cross_episodes_count_only_their_own_steps() -> None:
    model, data = ensemble(), linear_world(32)
    crossing = linear_world(32, seed=9).map(lambda x: x)
    crossing = replace(crossing, is_first=crossing.is_first | True, obs=crossing.obs * 1e3)
    both = SequenceBatch(
        *(torch.cat([getattr(data, k), getattr(crossing, k)]) for k in list(SequenceBatch.__dataclass_fields__)[:7])
    )
    model.before_fit(data)
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    model.before_fit(both)
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())
    terms = (model.loss(d).terms["nll"].item() for d in (data, both))
    assert next(terms) == pytest.approx(2 * next(terms), rel=1e-5)
    assert torch.allclose(model.holdout_error(data), model.holdout_error(both), rtol=1e-5)


def test_bootstrap_weights_make_members_differ() -> None:
    model = ensemble()
    with torch.no_grad():
        for weight in (*model.net.weights, *model.termination_net.weights):
            weight.copy_(weight[:1].expand_as(weight))  # identical members
    data = linear_world(64)
    train(model, data, 5)
    assert torch.equal(model.net.weights[0][0], model.net.weights[0][1])
    weight = torch.zeros(64, 2, 3)
    for e in range(3):
        weight[e * 20 : (e + 1) * 20, :, e] = 3.0
    train(model, replace(data, weight=weight), 5)
    assert not torch.allclose(model.net.weights[0][0], model.net.weights[0][1], atol=1e-4)


def test_a_linear_gaussian_world_is_recovered(fitted: Ensemble) -> None:
    state, action = belief(fitted, torch.tensor([[0.3, -0.5], [-0.6, 0.4]])), torch.tensor([[0.8], [-0.4]])
    mean, variance = fitted.moments(state, action)
    assert torch.allclose(mean.mean(0), torch.tensor([[0.7, -0.45, 0.3], [-0.8, 0.36, -0.6]]), atol=0.06)
    deviation = variance.mean(0).sqrt()
    assert torch.allclose(deviation[:, 0], torch.full((2,), 0.1), atol=0.03)  # the noise of x
    assert (deviation[:, 1:] < 0.04).all()  # y and the reward have none


def test_holdout_error_by_hand() -> None:
    model, data = ensemble(), linear_world(40)
    model.before_fit(data)
    state = belief(model, data.obs[:, 0])
    mean, _ = model.moments(state, data.action[:, 0])
    truth = torch.cat([data.obs[:, 1], data.reward[:, 1:]], 1)
    squares = ((mean - truth) / model.target_std).square().mean((1, 2))
    assert model.has_terminations
    inputs = torch.cat([data.obs[:, 0], data.action[:, 0], data.obs[:, 1]], 1)
    scale = torch.cat([model.input_std, model.input_std[:2]])
    inputs = (inputs - torch.cat([model.input_mean, model.input_mean[:2]])) / scale
    ends = data.terminated[:, 1].float()
    logits = torch.stack([m(inputs)[:, 0] for m in plain_networks(model.termination_net)])
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, ends.expand(3, -1), reduction="none").mean(1)
    assert torch.allclose(model.holdout_error(data), squares + entropy, rtol=1e-4)
    weighted = replace(data, weight=torch.rand(40, 2, 3))
    assert torch.equal(model.holdout_error(weighted), model.holdout_error(data))  # selection is not bootstrapped


# ---- normalisers and targets ----------------------------------------------------------------------------------------


def test_normalisers_are_the_datas_moments() -> None:
    model, data = ensemble(), linear_world(200)
    model.before_fit(data)
    x = torch.cat([data.obs[:, 0], data.action[:, 0]], 1)
    change = torch.cat([data.obs[:, 1] - data.obs[:, 0], data.reward[:, 1:]], 1)
    for mean, deviation, values in (
        (model.input_mean, model.input_std, x),
        (model.target_mean, model.target_std, change),
    ):
        assert torch.allclose(mean, values.mean(0), atol=1e-6)
        assert torch.allclose(deviation, values.std(0, unbiased=False), rtol=1e-5)
    assert torch.allclose(
        model.features(belief(model, data.obs[:, 0])).std(0, unbiased=False), torch.ones(2), rtol=1e-4
    )


def test_without_normalised_targets_they_stay_as_they_are() -> None:
    model = ensemble(normalize_targets=False)
    model.before_fit(linear_world(200))
    assert model.target_mean.tolist() == [0, 0, 0]
    assert model.target_std.tolist() == [1, 1, 1]
    assert not torch.equal(model.input_std, torch.ones(3))


def with_constant(data: SequenceBatch, value: float) -> SequenceBatch:
    return replace(data, obs=torch.cat([data.obs, torch.full_like(data.obs[..., :1], value)], dim=-1))


@pytest.mark.parametrize("value", [0.0, 3.7, 1e6])
def test_a_constant_dimension_survives_and_changes_nothing_else(value: float) -> None:
    space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    models = []
    for constant in (0.0, value):
        data = with_constant(linear_world(64), constant)
        models.append(train(ensemble(space=space, clamp_margin=0.25), data, 10))
        assert models[-1].input_std[2] == 1.0
        assert models[-1].target_std[2] == 1.0
    for mine, other in zip(models[0].net.weights, models[1].net.weights, strict=True):
        assert torch.allclose(mine, other, atol=1e-6)
    obs = torch.cat([torch.randn(8, 2, generator=generator()), torch.full((8, 1), value)], 1)
    state, step = models[1].predict(belief(models[1], obs), torch.zeros(8, 1), generator())
    assert state.obs[:, 2].tolist() == pytest.approx([value] * 8)
    other = obs.clone()
    other[:, 2] = 0.0
    twin, twin_step = models[0].predict(belief(models[0], other), torch.zeros(8, 1), generator())
    assert torch.allclose(state.obs[:, :2], twin.obs[:, :2], atol=1e-5)
    assert torch.allclose(step.reward, twin_step.reward, atol=1e-5)


def test_absolute_dimensions_are_predicted_as_such() -> None:
    model = ensemble(absolute=(1,))
    with torch.no_grad():
        for weight in model.net.weights:
            weight.zero_()
    state, _ = model.predict(belief(model, torch.tensor([[5.0, 7.0]])), torch.zeros(1, 1), sample=False)
    assert state.obs.tolist() == [[5.0, 0.0]]
    model.before_fit(linear_world(100))
    data = linear_world(100)
    assert torch.allclose(model.target_mean[1], data.obs[:, 1, 1].mean(), atol=1e-6)
    state, _ = model.predict(belief(model, torch.tensor([[5.0, 7.0]])), torch.zeros(1, 1), sample=False)
    assert state.obs[0, 1].item() == pytest.approx(model.target_mean[1].item())


def test_moments_and_the_mean_step_agree(fitted: Ensemble) -> None:
    state, action = belief(fitted, torch.tensor([[0.3, -0.5]])), torch.tensor([[0.2]])
    mean, variance = fitted.moments(state, action)
    after, step = fitted.predict(state, action, sample=False)
    assert torch.allclose(torch.cat([after.obs, step.reward[:, None]], 1), mean[0], atol=1e-6)  # bound to member 0
    many = state.repeat(20_000)
    drawn, _ = fitted.predict(many, action.expand(20_000, 1), generator())
    assert drawn.obs.std(0).tolist() == pytest.approx(variance[0, 0, :2].sqrt().tolist(), rel=0.03)
    assert drawn.obs.mean(0).tolist() == pytest.approx(mean[0, 0, :2].tolist(), abs=5e-3)


# ---- termination ----------------------------------------------------------------------------------------------------


def test_termination_is_learned(fitted: Ensemble) -> None:
    state = belief(fitted, torch.tensor([[1.8, 0.0], [-0.5, 0.0], [1.4, 0.0]]))
    _, step = fitted.predict(state, torch.tensor([[0.5], [0.0], [1.0]]), generator())
    assert step.terminated.tolist() == [True, False, True]
    assert torch.equal(step.continuation, 1 - step.info["termination_probability"])
    assert step.continuation[1] > 0.9
    assert "termination" in fitted.loss(linear_world(64)).terms


def test_the_threshold_decides(fitted: Ensemble) -> None:
    state, action = belief(fitted, torch.linspace(0, 2, 60)[:, None] * torch.tensor([1.0, 0.0])), torch.zeros(60, 1)
    counts = []
    for threshold in (0.1, 0.5, 0.9):
        model = copy.deepcopy(fitted)
        model.config = replace(model.config, termination_threshold=threshold)
        _, step = model.predict(state, action, sample=False)
        assert torch.equal(step.terminated, step.info["termination_probability"] > threshold)
        counts.append(int(step.terminated.sum()))
    assert counts[0] > counts[1] > counts[2]


def test_data_without_ends_never_terminates() -> None:
    data = linear_world(128)
    data = replace(data, terminated=data.terminated & False)
    model = ensemble()
    before = [w.clone() for w in model.termination_net.weights]
    train(model, data, 20)
    _, step = model.predict(belief(model, torch.randn(500, 2, generator=generator()) * 5), torch.zeros(500, 1))
    assert not step.terminated.any()
    assert step.continuation.tolist() == [1.0] * 500
    assert all(torch.equal(a, b) for a, b in zip(before, model.termination_net.weights, strict=True))
    assert "termination" not in model.loss(data).terms


@pytest.mark.parametrize("copied", ["load_state_dict", "pickle", "deepcopy"])
def test_copies_terminate_as_the_original_does(fitted: Ensemble, copied: str) -> None:
    if copied == "load_state_dict":
        twin = Ensemble(FREE, TORQUE, fitted.config)
        twin.load_state_dict(fitted.state_dict())
    else:
        twin = pickle.loads(pickle.dumps(fitted)) if copied == "pickle" else copy.deepcopy(fitted)  # noqa: S301
    state, action = belief(fitted, torch.tensor([[1.8, 0.0]])), torch.tensor([[0.5]])
    mine, theirs = (m.predict(state, action, generator())[1] for m in (fitted, twin))
    assert mine.terminated.all()
    assert torch.equal(mine.continuation, theirs.continuation)
    untrained = Ensemble(FREE, TORQUE, fitted.config)
    twin.load_state_dict(untrained.state_dict())
    assert not twin.predict(state, action, generator())[1].terminated.any()


# ---- elites and uncertainty -----------------------------------------------------------------------------------------


def test_the_best_members_become_elites_and_predict() -> None:
    model = ensemble(members=4, elites=2, propagation="expectation")
    assert model.elites.tolist() == [0, 1]
    model.after_fit(torch.tensor([0.3, 0.1, float("nan"), 0.2]))
    assert model.elites.tolist() == [1, 3]
    state, action = belief(model, torch.randn(5, 2)), torch.zeros(5, 1)
    mean, _ = model.moments(state, action)
    after, step = model.predict(state, action)
    assert torch.allclose(after.obs, mean[[1, 3], :, :2].mean(0), atol=1e-6)
    assert torch.allclose(step.reward, mean[[1, 3], :, 2].mean(0), atol=1e-6)


def test_each_member_owns_its_networks_and_shares_the_bounds() -> None:
    model = ensemble()
    shared = {"max_log_variance", "min_log_variance"}
    assert model.member_parameters() == {name for name, _ in model.named_parameters()} - shared


def test_the_elites_alone_judge_termination(fitted: Ensemble) -> None:
    model = copy.deepcopy(fitted)
    model.elites = torch.tensor([1])
    state, action = belief(model, torch.tensor([[0.9, 0.0]])), torch.tensor([[0.2]])
    _, step = model.predict(state, action, sample=False)
    with torch.no_grad():
        for weight in (*model.termination_net.weights, *model.termination_net.biases):
            weight[[0, 2]] = 9.0  # the others
    _, again = model.predict(state, action, sample=False)
    assert torch.equal(step.continuation, again.continuation)


def test_identical_members_are_certain_with_a_finite_gradient() -> None:
    model = ensemble()
    with torch.no_grad():
        for weight in model.net.weights:
            weight.copy_(weight[:1].expand_as(weight))
    action = torch.zeros(4, 1, requires_grad=True)
    _, step = model.predict(belief(model, torch.randn(4, 2)), action, generator())
    assert step.uncertainty.max() < 1e-6
    single = ensemble(members=1)
    _, step = single.predict(belief(single, torch.randn(4, 2)), action, generator())
    assert step.uncertainty.tolist() == [0.0] * 4
    step.uncertainty.sum().backward()
    assert action.grad is not None
    assert torch.isfinite(action.grad).all()


def test_uncertainty_by_hand() -> None:
    model = ensemble(members=3)
    model.target_std.copy_(torch.tensor([1.0, 2.0, 5.0]))
    state, action = belief(model, torch.randn(4, 2)), torch.zeros(4, 1)
    mean, variance = model.moments(state, action)
    scaled = mean / model.target_std
    expected = scaled.var(0, unbiased=False).mean(-1).sqrt()
    _, step = model.predict(state, action, generator())
    assert torch.allclose(step.uncertainty, expected, rtol=1e-4)
    aleatoric = (variance / model.target_std.square()).mean((0, 2)).sqrt()
    assert torch.allclose(step.info["aleatoric"], aleatoric, rtol=1e-4)
    _, skipped = model.predict(state, action, generator(), uncertainty=False)
    assert not skipped.uncertainty.any()
    assert "aleatoric" not in skipped.info


def test_uncertainty_is_larger_off_the_data(fitted: Ensemble) -> None:
    action = torch.zeros(200, 1)
    near = belief(fitted, torch.randn(200, 2, generator=generator(3)) * 0.5)
    far = belief(fitted, torch.randn(200, 2, generator=generator(3)) * 0.5 + 8.0)
    on, off = (fitted.predict(s, action, generator())[1].uncertainty.median() for s in (near, far))
    assert off > 3 * on


def test_the_noise_of_the_world_is_aleatoric(fitted: Ensemble) -> None:
    quiet = train(ensemble(), linear_world(noise=0.0))
    state, action = belief(fitted, torch.randn(100, 2, generator=generator(3)) * 0.5), torch.zeros(100, 1)
    loud_step, quiet_step = (m.predict(state, action, generator())[1].info["aleatoric"] for m in (fitted, quiet))
    assert loud_step.mean() > 1.5 * quiet_step.mean()


# ---- the clamp, and rows that diverge -------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_predictions_stay_near_the_data(margin: float) -> None:
    data = linear_world(100)
    model = ensemble(clamp_margin=margin)
    model.before_fit(data)
    seen = data.obs.reshape(-1, 2)
    low, high = seen.amin(0), seen.amax(0)
    reward = data.reward[:, 1]
    wild = belief(model, torch.tensor([[1e6, -1e6], [-1e6, 1e6]]))
    after, step = model.predict(wild, torch.zeros(2, 1), generator())
    room = margin * (high - low)
    assert torch.allclose(after.obs[0], torch.stack([(high + room)[0], (low - room)[1]]), rtol=1e-5)
    assert torch.allclose(after.obs[1], torch.stack([(low - room)[0], (high + room)[1]]), rtol=1e-5)
    reach = margin * (reward.max() - reward.min()) + 1e-4
    assert ((step.reward >= reward.min() - reach) & (step.reward <= reward.max() + reach)).all()


def test_none_disables_the_clamp() -> None:
    model = ensemble(clamp_margin=None)
    model.before_fit(linear_world(100))
    assert model.low.isinf().all()
    after, _ = model.predict(belief(model, torch.tensor([[1e4, -1e4]])), torch.zeros(1, 1), generator())
    assert after.obs.abs().min() > 1e3


def test_predictions_stay_inside_the_space() -> None:
    space = spaces.Box(-0.1, 0.1, (2,), np.float32)
    model = ensemble(space=space)
    after, _ = model.predict(belief(model, torch.zeros(50, 2)), torch.zeros(50, 1), generator())
    assert after.obs.abs().max() == np.float32(0.1)
    assert all(row in space for row in model.decode(after).detach().numpy())


def assert_diverged(model: Ensemble, state: TransitionState, action: Tensor, bad: list[bool]) -> None:
    after, step = model.predict(state, action, generator())
    assert all(torch.isfinite(x).all() for x in (*after.tensors(), *step.tensors()))
    assert step.info["diverged"].tolist() == bad
    assert step.truncated.tolist() == bad
    rows = torch.tensor(bad)
    assert torch.equal(after.obs[rows], torch.nan_to_num(state.obs[rows]))
    assert not step.reward[rows].any()
    assert not step.terminated[rows].any()
    assert (step.continuation[rows] == 1).all()
    assert (step.uncertainty[rows] == 1e6).all()


@pytest.mark.parametrize("margin", [None, 0.25])
def test_rows_that_diverge_are_cut_and_no_other(fitted: Ensemble, margin: float | None) -> None:
    model = fitted if margin else train(ensemble(), linear_world(100), 2)
    good, wild = torch.tensor([0.3, -0.2]), torch.tensor([torch.inf, -torch.inf])
    action = torch.zeros(3, 1)
    reference, expected = model.predict(belief(model, torch.stack([good] * 3)), action, generator())
    for bad in (wild, torch.tensor([torch.inf, 0.0]), torch.tensor([0.0, torch.nan])):
        state = belief(model, torch.stack([good, bad, good]))
        assert_diverged(model, state, action, [False, True, False])
        after, step = model.predict(state, action, generator())
        assert torch.allclose(after.obs[[0, 2]], reference.obs[[0, 2]], atol=1e-6)
        assert torch.allclose(step.reward[[0, 2]], expected.reward[[0, 2]], atol=1e-6)
    assert_diverged(
        model,
        belief(model, torch.stack([good] * 3)),
        torch.tensor([[0.0], [torch.inf], [torch.nan]]),
        [False, True, True],
    )


def test_huge_states_stay_finite(fitted: Ensemble) -> None:
    for scale in (1e10, 1e30):
        state = belief(fitted, torch.randn(8, 2, generator=generator()) * scale)
        after, step = fitted.predict(state, torch.zeros(8, 1), generator())
        assert all(torch.isfinite(x).all() for x in (*after.tensors(), *step.tensors()))
        assert after.obs.abs().max() <= scale * 10


@pytest.mark.parametrize("part", ["net.weights.0", "net.biases.1", "termination_net.biases.1", "max_log_variance"])
def test_broken_weights_cut_every_row(fitted: Ensemble, part: str) -> None:
    model = copy.deepcopy(fitted)
    with torch.no_grad():
        model.get_parameter(part).fill_(torch.nan)
    after, step = model.predict(belief(model, torch.zeros(4, 2)), torch.zeros(4, 1), generator())
    assert all(torch.isfinite(x).all() for x in (*after.tensors(), *step.tensors()))
    assert step.info["diverged"].all()
    assert step.truncated.all()
    assert not after.obs.any()


def test_a_batch_of_one_equals_its_row_in_a_larger_one(fitted: Ensemble) -> None:
    state, action = belief(fitted, torch.randn(5, 2)), torch.rand(5, 1)
    many, steps = fitted.predict(state, action, sample=False)
    one, step = fitted.predict(state[2:3], action[2:3], sample=False)
    assert torch.allclose(one.obs, many.obs[2:3], atol=1e-6)
    assert torch.allclose(step.uncertainty, steps.uncertainty[2:3], atol=1e-6)


# ---- beliefs --------------------------------------------------------------------------------------------------------


def test_a_new_episode_draws_its_member_and_keeps_it() -> None:
    model = ensemble(members=5, elites=4)
    obs, action = torch.randn(400, 2), torch.zeros(400, 1)
    first = torch.ones(400, dtype=torch.bool)
    state = model.observe(model.initial(400), action, obs, first, generator(1))
    assert torch.bincount(state.member).tolist() == pytest.approx([100] * 4, abs=35)
    again = model.observe(model.initial(400), action, obs, first, generator(1))
    assert torch.equal(state.member, again.member)
    later = model.observe(state, action, obs + 1, ~first, generator(2))
    assert torch.equal(later.member, state.member)
    assert torch.equal(later.obs, obs + 1)
    after, _ = model.predict(state, action, generator(3))
    assert torch.equal(after.member, state.member)


def test_observations_are_projected_into_the_space() -> None:
    model = ensemble(space=spaces.Box(-1, 1, (2,), np.float32))
    state = model.observe(model.initial(1), torch.zeros(1, 1), torch.tensor([[5.0, 0.5]]), torch.tensor([True]))
    assert state.obs.tolist() == [[1.0, 0.5]]


def test_rows_taken_out_of_a_branch_are_no_groups() -> None:
    model = ensemble()
    branched = model.branch(model.initial(2), 6)
    assert branched.particles == 6
    assert branched[:3].particles == branched[torch.tensor([0, 5])].particles == 1
    assert branched.repeat(2).particles == 1
    assert branched.map(lambda x: x[:, None])[:, 0].particles == 6  # all rows of a trajectory


# ---- the configuration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": 0}, "members must be at least 1, got 0"),
        ({"elites": 4}, "elites must be between 1 and members = 3, got 4"),
        ({"elites": 0}, "elites must be between 1 and members = 3, got 0"),
        ({"propagation": "ts2"}, r"propagation must be one of \['distribution_sampling', .* got 'ts2'"),
        ({"hidden": (8, 0)}, r"hidden widths must be at least 1, got \(8, 0\)"),
        ({"termination_hidden": (0,)}, r"termination_hidden widths must be at least 1, got \(0,\)"),
        ({"weight_decay": (1.0,)}, r"weight_decay must have one number for each of 2 layers, got \(1.0,\)"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0, got -1.0"),
        ({"max_log_variance": -10.0}, "min_log_variance must be below max_log_variance, got -10.0 and -10.0"),
        ({"variance_weighting": 1.5}, "variance_weighting must be between 0 and 1, got 1.5"),
        ({"variance_bound_penalty": -0.1}, "variance_bound_penalty must be at least 0, got -0.1"),
        ({"termination_threshold": 1.0}, "termination_threshold must be between 0 and 1, got 1.0"),
        ({"clamp_margin": -0.1}, "clamp_margin must be at least 0 or None, got -0.1"),
        ({"clamp_margin": float("nan")}, "clamp_margin must be at least 0 or None, got nan"),
    ],
)
def test_bad_configurations_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


@pytest.mark.parametrize("absolute", [(2,), (-1,)])
def test_absolute_dimensions_must_exist(absolute: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="absolute must name encoded observation dimensions 0 to 1, got"):
        ensemble(absolute=absolute)


def test_configurations_survive_json() -> None:
    for config in (EnsembleConfig(), EnsembleConfig.paper(), replace(TINY, absolute=(1,), weight_decay=(0.1, 0.2))):
        assert EnsembleConfig(**json.loads(json.dumps(asdict(config)))) == config


def test_one_decay_stands_for_all_layers() -> None:
    assert EnsembleConfig(weight_decay=0.5).layer_decay == (0.5,) * 4
    assert replace(EnsembleConfig(weight_decay=0.5), hidden=(3,)).layer_decay == (0.5,) * 2


def test_the_papers_preset() -> None:
    config = EnsembleConfig.paper()
    assert (config.members, config.elites, config.propagation) == (5, None, "ts_inf")
    assert config.hidden == (200, 200, 200, 200)
    assert config.layer_decay == (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
    assert (config.max_log_variance, config.min_log_variance) == (0.5, -10.0)
    assert (config.learn_variance_bounds, config.variance_bound_penalty) == (True, 0.01)
    assert (config.normalize_targets, config.clamp_margin) == (False, None)
