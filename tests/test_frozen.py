"""The frozen ensemble: the same predictions as the trained one, and as a plain reference; bfloat16 close to them."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_gym import SequenceBatch, check_world_model, trajectory_return
from mbrl_gym.models.ensemble import Ensemble, EnsembleConfig
from mbrl_gym.models.frozen_mlp import BFLOAT16_ROWS, FrozenMLP
from mbrl_gym.models.propagation import PROPAGATIONS
from mbrl_gym.nets.ensemble_mlp import EnsembleMLP

SPACE = spaces.Box(-np.inf, np.inf, (3,), np.float32)
PUSH = spaces.Box(-1, 1, (2,), np.float32)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ensemble(**change: Any) -> Ensemble:
    """An ensemble with scales far from one, which can terminate."""
    torch.manual_seed(0)
    config = EnsembleConfig(members=4, hidden=(32, 32), termination_hidden=(16,), clamp_margin=None)
    model = Ensemble(SPACE, PUSH, replace(config, **change))
    state = model.state_dict()
    for name, low, high in (
        ("input_mean", -5, 5),
        ("input_std", 0.1, 5),
        ("target_mean", -2, 2),
        ("target_std", 0.1, 3),
    ):
        state[name] = torch.empty_like(state[name]).uniform_(low, high)
    state["has_terminations"] = torch.ones(())
    for name in state:
        if "biases" in name:
            state[name] = torch.randn_like(state[name])
    model.load_state_dict(state)
    return model


def start(model: Ensemble, rows: int, particles: int = 1) -> tuple[Any, Tensor]:
    obs = torch.randn(rows, 3, generator=generator(1)) * 3
    state = model.observe(model.initial(rows), torch.zeros(rows, 2), obs, torch.ones(rows).bool(), generator(2))
    state = model.branch(state, particles) if particles > 1 else state
    return state, torch.rand(state.batch_size, 2, generator=generator(3)) * 2 - 1


def assert_close(a: Any, b: Any, tolerance: float) -> None:
    for x, y in zip(a.tensors(), b.tensors(), strict=True):
        torch.testing.assert_close(x.float(), y.float(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("propagation", sorted(PROPAGATIONS))
@pytest.mark.parametrize("elites", [None, 2])
@pytest.mark.parametrize("particles", [1, 8])
@pytest.mark.parametrize("call", [{}, {"uncertainty": False}, {"sample": False}])
def test_a_frozen_ensemble_predicts_the_same(
    propagation: str, elites: int | None, particles: int, call: dict[str, Any]
) -> None:
    model = ensemble(propagation=propagation, elites=elites)
    model.after_fit(torch.tensor([3.0, 1.0, 4.0, 2.0]))
    state, action = start(model, 5, particles)
    wanted = model.predict(state, action, generator(4), **call)
    got = model.frozen(bfloat16_rows=None).predict(state, action, generator(4), **call)
    assert_close(wanted[0], got[0], 2e-5)
    assert_close(wanted[1], got[1], 2e-5)


def plain_step(model: Ensemble, obs: Tensor, action: Tensor, member: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """PETS' step of rows that follow a member each, layer by layer, row by row: (next observation, reward)."""
    after, rewards = [], []
    for o, a, e, n in zip(obs, action, member, noise, strict=True):
        x = (torch.cat([o, a]) - model.input_mean) / model.input_std
        layers = list(zip(model.net.weights, model.net.biases, strict=True))
        for weight, bias in layers[:-1]:
            x = x @ weight[e] + bias[e, 0]
            x = x * torch.sigmoid(x)
        mean, raw = (x @ layers[-1][0][e] + layers[-1][1][e, 0]).chunk(2)
        softplus = torch.nn.functional.softplus
        log_variance = model.max_log_variance - softplus(model.max_log_variance - raw)
        log_variance = model.min_log_variance + softplus(log_variance - model.min_log_variance)
        value = mean * model.target_std + model.target_mean + (0.5 * log_variance).exp() * model.target_std * n
        after.append(o + value[:-1])
        rewards.append(value[-1])
    return torch.stack(after), torch.stack(rewards)


def test_both_paths_equal_a_plain_reference() -> None:
    model = ensemble(propagation="ts_inf")
    model.has_terminations.zero_()
    model.load_state_dict(model.state_dict())
    state, action = start(model, 3, 8)
    noise = torch.randn(24, 4, generator=generator(4))
    obs, reward = plain_step(model, state.obs, action, state.member, noise)
    for contestant in (model, model.frozen(bfloat16_rows=None)):
        for uncertainty in (True, False):
            after, step = contestant.predict(state, action, generator(4), uncertainty=uncertainty)
            torch.testing.assert_close(after.obs, obs, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(step.reward, reward, rtol=1e-5, atol=1e-5)


SCALE, OFFSET = torch.linspace(1, 3, 5), torch.linspace(-200, 200, 5)


def frozen_mlp(rows: int | None, members: Tensor | None = None) -> tuple[EnsembleMLP, FrozenMLP, Tensor, Tensor]:
    torch.manual_seed(0)
    net = EnsembleMLP(3, (4, 64, 64, 5))
    mean, std = torch.randn(4) * 100, torch.rand(4) + 0.5
    return net, FrozenMLP(net, mean, std, SCALE, OFFSET, members, rows), mean, std


def test_bfloat16_begins_at_its_rows_and_stays_close() -> None:
    net, frozen, mean, std = frozen_mlp(8)
    x = mean + std * torch.randn(20, 4)
    exact = net((x - mean) / std) * SCALE + OFFSET
    few, many = frozen(x[:7]), frozen(x)
    torch.testing.assert_close(few, exact[:, :7], rtol=1e-4, atol=1e-3)
    assert many.dtype == torch.float32
    error = (many - exact).abs().max() / (exact - OFFSET).std()
    assert 1e-4 < error < 0.03  # rounded, but centred: numbers of size 100 would lose a tenth of a deviation


def test_members_are_picked() -> None:
    net, frozen, mean, std = frozen_mlp(None, torch.tensor([2, 0]))
    x = torch.randn(6, 4)
    torch.testing.assert_close(frozen(x), net((x - mean) / std)[[2, 0]] * SCALE + OFFSET, rtol=1e-4, atol=1e-3)


def test_rounding_reaches_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mbrl_gym.models.frozen_ensemble.multiplies_in_bfloat16", lambda device: True)
    model = ensemble()
    state, action = start(model, BFLOAT16_ROWS, 4)
    kept, rounded = model.frozen(bfloat16_rows=None), model.frozen()
    call = {"sample": False, "uncertainty": False}
    exact, close = kept.predict(state, action, **call)[1].reward, rounded.predict(state, action, **call)[1].reward
    assert 0 < (exact - close).abs().max() < 0.1 * exact.std()
    few, actions = start(model, BFLOAT16_ROWS - 1, 4)  # one row a member less
    same = [m.predict(few, actions, **call)[1].reward for m in (kept, rounded)]
    torch.testing.assert_close(*same, rtol=0, atol=0)


def test_a_processor_without_bfloat16_keeps_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mbrl_gym.models.frozen_ensemble.multiplies_in_bfloat16", lambda device: False)
    model = ensemble()
    state, action = start(model, 2 * BFLOAT16_ROWS, 4)
    plain = model.frozen(bfloat16_rows=None).predict(state, action, sample=False)
    assert_close(plain[1], model.frozen().predict(state, action, sample=False)[1], 0.0)


def test_it_is_of_the_weights_as_they_were() -> None:
    model = ensemble()
    frozen = model.frozen(bfloat16_rows=None)
    state, action = start(model, 4)
    before = frozen.predict(state, action, generator())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
        model.input_mean.add_(1.0)
    assert_close(before[1], frozen.predict(state, action, generator())[1], 0.0)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_gradients_with_respect_to_actions_are_the_same() -> None:
    model = ensemble()
    state, action = start(model, 3, 8)
    action.requires_grad_()
    gradients = []
    for contestant in (model, model.frozen()):
        value = trajectory_return(contestant, state, action[:, None].repeat(1, 3, 1), generator=generator())
        gradients.append(torch.autograd.grad(value.sum(), action)[0])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize("propagation", ["ts1", "ts_inf"])
def test_a_frozen_ensemble_keeps_the_contract(propagation: str) -> None:
    """But for learning: it has nothing to train."""
    model = ensemble(propagation=propagation, clamp_margin=0.25)
    twin = copy.deepcopy(model.frozen())
    state, action = start(model, 4, 8)
    assert_close(model.frozen().predict(state, action, generator())[1], twin.predict(state, action, generator())[1], 0)
    check_world_model(model)


def test_a_frozen_ensemble_cannot_be_changed() -> None:
    model = ensemble()
    with pytest.raises(RuntimeError, match=r"load into the ensemble, then call its frozen\(\)"):
        model.frozen().load_state_dict(model.state_dict())
    assert type(model.frozen().twin()) is Ensemble


# What the networks read


def windows(obs: Tensor, reward: Tensor, terminated: Tensor | None = None) -> SequenceBatch:
    count = obs.shape[0]
    flags = torch.zeros(count, 2, dtype=torch.bool)
    first = flags.clone()
    first[:, 0] = True
    ends = flags.clone()
    if terminated is not None:
        ends[:, 1] = terminated
    index = torch.arange(2 * count).reshape(count, 2)
    rewards = torch.stack([torch.zeros(count), reward], 1)
    return SequenceBatch(obs, torch.zeros(count, 2, 2), rewards, ends, flags, first, index)


def test_angles_are_read_as_sine_and_cosine() -> None:
    model = ensemble(angles=(1,))
    state, action = start(model, 5)
    turned = replace(state, obs=state.obs + torch.tensor([0.0, 2 * np.pi, 0.0]))
    before, after = (model.predict(s, action, sample=False) for s in (state, turned))
    torch.testing.assert_close(before[1].reward, after[1].reward, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(before[0].obs[:, 1] + 2 * np.pi, after[0].obs[:, 1], rtol=1e-4, atol=1e-4)
    other = replace(state, obs=state.obs + torch.tensor([0.0, 1.0, 0.0]))
    assert (model.predict(other, action, sample=False)[1].reward - before[1].reward).abs().min() > 1e-4
    assert model.features(state).shape == (5, 4)
    check_world_model(model)


def test_what_is_unseen_changes_nothing_but_is_predicted() -> None:
    model = ensemble(unseen=(0,))
    state, action = start(model, 5)
    moved = replace(state, obs=state.obs + torch.tensor([50.0, 0.0, 0.0]))
    before, after = (model.predict(s, action, sample=False) for s in (state, moved))
    torch.testing.assert_close(before[1].reward, after[1].reward)
    torch.testing.assert_close(before[0].obs[:, 0] + 50.0, after[0].obs[:, 0], rtol=1e-4, atol=1e-4)
    assert model.features(state).shape == (5, 2)
    check_world_model(model)


def test_normalisers_are_of_what_is_read() -> None:
    model = ensemble(angles=(1,), unseen=(0,))
    obs = torch.randn(50, 2, 3)
    model.before_fit(windows(obs, torch.zeros(50)))
    read = torch.cat([obs[:, 0, 2:], obs[:, 0, 1:2].sin(), obs[:, 0, 1:2].cos()], dim=1)
    torch.testing.assert_close(model.input_mean[:3], read.mean(0))
    torch.testing.assert_close(model.input_std[:3], read.std(0, unbiased=False))


@pytest.mark.parametrize("clamp_margin", [0.0])
def test_the_clamp_is_of_the_observation_itself(clamp_margin: float) -> None:
    model = ensemble(angles=(1,), unseen=(0,), clamp_margin=clamp_margin)
    obs = torch.randn(50, 2, 3)
    model.before_fit(windows(obs, torch.zeros(50)))
    torch.testing.assert_close(model.low[:3], obs.flatten(0, 1).amin(0))
    torch.testing.assert_close(model.high[:3], obs.flatten(0, 1).amax(0))


@pytest.mark.parametrize("learns", [True, False])
def test_rewards_are_learned_unless_they_are_known(learns: bool) -> None:
    model = ensemble(learn_reward=learns)
    losses = [model.loss(windows(torch.ones(20, 2, 3), torch.full((20,), r))).total.item() for r in (0.0, 5.0)]
    assert (losses[0] != losses[1]) == learns


@pytest.mark.parametrize("learns", [True, False])
def test_termination_is_learned_unless_it_is_known(learns: bool) -> None:
    model = ensemble(learn_termination=learns)
    model.before_fit(windows(torch.randn(20, 2, 3), torch.zeros(20), torch.arange(20) % 2 == 0))
    assert bool(model.has_terminations) == learns
    assert ("termination" in model.loss(windows(torch.randn(20, 2, 3), torch.zeros(20))).terms) == learns


@pytest.mark.parametrize("name", ["angles", "unseen"])
def test_dimensions_must_exist(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must name encoded observation dimensions 0 to 2, got \(3,\)"):
        ensemble(**{name: (3,)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"angles": (1,), "unseen": (1, 2)}, r"angles and unseen must have no dimension in common, got \(1,\) and"),
        ({"bfloat16_rows": 0}, "bfloat16_rows must be at least 1 or None, got 0"),
    ],
)
def test_bad_configurations_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnsembleConfig(**change)


# Training in bfloat16


def test_large_batches_are_trained_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mbrl_gym.models.gaussian.multiplies_in_bfloat16", lambda device: True)
    exact, rounds = ensemble(bfloat16_rows=None), ensemble(bfloat16_rows=8)
    data = windows(torch.randn(8, 2, 3), torch.randn(8))
    for rows, differs in ((7, False), (8, True)):
        gradients = []
        for model in (exact, rounds):
            total = model.loss(data[:rows]).total
            gradients.append(torch.autograd.grad(total, model.net.weights[0])[0])
        assert gradients[1].dtype == torch.float32
        assert torch.equal(*gradients) != differs
        assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[0].norm()
    monkeypatch.setattr("mbrl_gym.models.gaussian.multiplies_in_bfloat16", lambda device: False)
    assert torch.equal(exact.loss(data).total, rounds.loss(data).total)
