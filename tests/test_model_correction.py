"""Model correction: the multi-step loss, input noise of the model's own error, and Data as Demonstrator."""

import copy
import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.functional import softplus

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.data_as_demonstrator import DataAsDemonstrator, roll, tiles
from mbrl_gym.fit import FitReport, ModelTrainer, TrainerConfig
from mbrl_gym.horizon_error import errors_by_horizon
from mbrl_gym.model import ModelLoss, Prediction, WorldModel
from mbrl_gym.models.ensemble import Ensemble, EnsembleConfig
from mbrl_gym.models.gaussian_process import GaussianProcess
from mbrl_gym.models.mc_dropout import MCDropout, MCDropoutConfig
from mbrl_gym.packing import same_numbers
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.spaces import Observation
from mbrl_gym.tensors import TensorStruct

PLANE = spaces.Box(-np.inf, np.inf, (2,), np.float32)
TORQUE = spaces.Box(-1, 1, (1,), np.float32)
TINY = EnsembleConfig(members=2, hidden=(8,), termination_hidden=(4,), learn_termination=False)
SHORT = TrainerConfig(learning_rate=1e-2, max_epochs=20, max_updates=200)
DAD = DataAsDemonstrator(iterations=2, horizon=4)


def ensemble(seed: int = 0, space: spaces.Space[Any] = PLANE, **change: Any) -> Ensemble:
    torch.manual_seed(seed)
    return Ensemble(space, TORQUE, replace(TINY, **change))


def turning(steps: int, noise: float, seed: int = 0, episode: int = 40, ends: bool = False) -> SequenceReplay:
    """A point that turns by 0.3 a step, pushed a little, seen with noise, which a one-step fit takes for friction."""
    rng, n = np.random.default_rng(seed), 10
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    replay, no = SequenceReplay(PLANE, TORQUE, 100_000, n), np.zeros(n, bool)

    def seen(x: Any) -> Any:
        return (x + noise * rng.normal(size=x.shape)).astype(np.float32)

    x = rng.normal(size=(n, 2))
    replay.begin(seen(x))
    for t in range(1, steps // n + 1):
        action = rng.uniform(-1, 1, (n, 1)).astype(np.float32)
        after, last = x @ turn.T + action * np.array([0.0, 0.2]), t % episode == 0
        x, reward = rng.normal(size=(n, 2)) if last else after, x[:, 0]
        end = no | (last and ends)
        replay.add(action, seen(x), reward, end, (no | last) & ~end, seen(after) if last else None)
    return replay


def numbers(trainer: ModelTrainer) -> dict[str, Any]:
    return {"model": dict(trainer.model.state_dict()), "trainer": trainer.state_dict()}


# ---- the multi-step loss --------------------------------------------------------------------------------------------

ROOM = spaces.Box(-1.0, 1.0, (2,), np.float32)


def batch_with_everything(seed: int = 0, rows: int = 6) -> SequenceBatch:
    """Windows at the bounds of the space, with bootstrap weights, ends, and a border between episodes."""
    rng = torch.Generator().manual_seed(seed)
    obs = (torch.randn(5, rows, 2, generator=rng)).clamp(-1, 1)
    flags = torch.zeros(5, rows, dtype=torch.bool)
    terminated, is_first = flags.clone(), flags.clone()
    is_first[:, 0] = True
    is_first[1, 3:4] = True
    terminated[2, 2] = terminated[1, 2] = True
    action, reward = torch.randn(5, rows, 1, generator=rng), torch.randn(5, rows, generator=rng)
    index = torch.arange(5 * rows).reshape(5, rows)
    weight = torch.poisson(torch.ones(5, rows, 2), generator=rng)
    return SequenceBatch(obs, action, reward, terminated, flags, is_first, index, weight)


def stirred(**change: Any) -> Ensemble:
    """An ensemble with normalisers, clamp and terminations in use, whose rollouts meet the bounds."""
    model = ensemble(space=ROOM, learn_termination=True, clamp_margin=0.1, **change)
    model.before_fit(batch_with_everything())
    with torch.no_grad():
        for p in model.net.parameters():
            p.mul_(2.0).add_(0.1)
        model.low[1], model.high[1] = -0.7, 0.6  # within the space
    return model


def plain(model: Ensemble, batch: SequenceBatch, squared: bool = False) -> Tensor:
    """The sum over steps of a multi-step loss [E], by loops over members, windows and starts; weights as given."""
    horizon, rho, size = model.config.loss_horizon, model.config.loss_discount, 2
    shares = np.array([rho**h for h in range(horizon)]) / sum(rho**h for h in range(horizon))
    totals = []
    for e in range(model.members):
        total = torch.zeros(())
        for h in range(horizon):
            terms, weights = [], []
            for b in range(batch.batch_size):
                for start in range(batch.length - horizon):
                    s = batch.obs[b, start]
                    for t in range(start, start + h + 1):
                        x = (torch.cat([s, batch.action[b, t]]) - model.input_mean) / model.input_std
                        for i, (w, c) in enumerate(zip(model.net.weights, model.net.biases, strict=True)):
                            x = x @ w[e] + c[e, 0]
                            x = nn.functional.silu(x) if i == 0 else x
                        mean, log_variance = x[:3], x[3:]
                        before = s
                        value = torch.cat([s, torch.zeros(1)]) + model.target_mean + mean * model.target_std
                        s = torch.minimum(torch.maximum(value, model.low), model.high)[:size].clamp(-1, 1)
                    after = batch.obs[b, t + 1]
                    upper, lower = model.max_log_variance, model.min_log_variance
                    log_variance = upper - softplus(upper - log_variance)
                    log_variance = lower + softplus(log_variance - lower)
                    target = torch.cat([after - before, batch.reward[b, t + 1, None]])
                    error = mean - (target - model.target_mean) / model.target_std
                    term = error**2
                    if not squared:
                        term = term * torch.exp(-log_variance) + log_variance
                        term = term * torch.exp(model.config.variance_weighting * log_variance.detach())
                    free = [bool((after[d] == 1 and error[d] > 0) or (after[d] == -1 and error[d] < 0)) for d in (0, 1)]
                    terms.append(torch.where(torch.tensor([*free, False]), 0.0, term).mean())
                    whole = not batch.is_first[b, start + 1 : t + 2].any()
                    weights.append(whole * (1.0 if batch.weight is None or squared else batch.weight[b, t + 1, e]))
            weight = torch.tensor([float(w) for w in weights])
            sum_ = (torch.stack(terms) * weight).sum()
            total = total + shares[h] * sum_ / (weight.sum() if squared else len(terms))
        totals.append(total)
    return torch.stack(totals)


@pytest.mark.parametrize(("horizon", "rho", "beta"), [(2, 0.5, 0.0), (3, 0.9, 0.5), (5, 1.0, 0.5)])
def test_the_multi_step_loss_and_its_gradient_equal_loops(horizon: int, rho: float, beta: float) -> None:
    batch = batch_with_everything()
    model = stirred(loss_horizon=horizon, loss_discount=rho, variance_weighting=beta)
    one_step = Ensemble(ROOM, TORQUE, replace(model.config, loss_horizon=1))
    one_step.load_state_dict(model.state_dict())
    loss, reference = model.loss(batch), plain(model, batch).sum()
    assert loss.terms["nll"].item() == pytest.approx(reference.item() / 2, rel=1e-4)
    rest = one_step.loss(batch)  # the ends and the bounds' penalty are as ever
    assert loss.terms["termination"] == rest.terms["termination"] > 0
    penalty = 0.01 * (model.max_log_variance.sum() - model.min_log_variance.sum())
    whole = reference + penalty + 2 * rest.terms["termination"]
    assert loss.total.item() == pytest.approx(whole.item(), rel=1e-4)
    weights = list(model.net.parameters())
    found = torch.autograd.grad(loss.total, weights)
    expected = torch.autograd.grad(reference, weights)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("horizon", [2, 4])
def test_the_held_out_error_is_that_of_the_steps_of_the_loss(horizon: int) -> None:
    batch, model = batch_with_everything(), stirred(loss_horizon=horizon, loss_discount=0.7)
    with torch.no_grad():
        error, reference = model.holdout_error(batch), plain(model, batch, squared=True)
        one_step = Ensemble(ROOM, TORQUE, replace(model.config, loss_horizon=1))
        one_step.load_state_dict(model.state_dict())
        data = model._transitions(replace(batch, weight=None))
        ends = model._termination_error(model._normalise(data.x), data)[:, data.weight[0] > 0].mean(1)
        assert torch.allclose(error, reference + ends, rtol=1e-4)
        assert not torch.allclose(error, one_step.holdout_error(batch), rtol=1e-2)


def test_a_horizon_of_one_is_the_plain_likelihood_to_the_bit() -> None:
    batch = batch_with_everything()
    models = [stirred(loss_discount=rho) for rho in (0.2, 1.0)]
    data = models[0]._transitions(batch)
    inputs = models[0]._normalise(data.x)
    expected, _ = models[0]._likelihood(models[0]._net(inputs, False), inputs, data)
    assert all(torch.equal(model.loss(batch).total, expected) for model in models)


def test_windows_have_to_be_longer_than_the_horizon() -> None:
    model, batch = ensemble(loss_horizon=3), batch_with_everything(rows=3)
    for use in (model.loss, model.holdout_error):
        with pytest.raises(ValueError, match=r"more than loss_horizon = 3 rows, got 3; set TrainerConfig\(length=4\)"):
            use(batch)
    assert torch.isfinite(model.loss(batch_with_everything(rows=4)).total)


def test_only_models_that_follow_a_setting_take_it() -> None:
    for name, value in (("loss_horizon", 2), ("input_noise", 0.5)):
        with pytest.raises(ValueError, match=f"{name} must be .* for LastWord, .* got {value}; use an Ensemble"):
            type("LastWord", (MCDropout,), {"corrections": frozenset()})(
                PLANE, TORQUE, MCDropoutConfig(**{name: value})
            )
    with pytest.raises(ValueError, match="loss_horizon must be 1 for MCDropout"):
        MCDropout(PLANE, TORQUE, MCDropoutConfig(loss_horizon=2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss_horizon": 0}, "loss_horizon must be at least 1 step, got 0"),
        ({"loss_discount": 0.0}, "loss_discount must be above 0 and at most 1, got 0.0"),
        ({"loss_discount": 1.1}, "loss_discount must be above 0 and at most 1, got 1.1"),
        ({"input_noise": -0.1}, "input_noise must be at least 0 and finite, got -0.1"),
        ({"input_noise": math.inf}, "input_noise must be at least 0 and finite, got inf"),
    ],
)
def test_bad_settings_of_the_loss_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnsembleConfig(**change)


# ---- input noise ----------------------------------------------------------------------------------------------------


def persistent(**change: Any) -> Ensemble:
    """An ensemble that predicts that nothing changes."""
    model = ensemble(clamp_margin=None, **change)
    with torch.no_grad():
        for p in model.net.parameters():
            p.zero_()
    return model


def windows(rows: Tensor) -> SequenceBatch:
    """Windows [B, T] of the observations [B, T, 2], one episode each."""
    flags = torch.zeros(rows.shape[:2], dtype=torch.bool)
    is_first = flags.clone()
    is_first[:, 0] = True
    index = torch.arange(flags.numel()).reshape(flags.shape)
    return SequenceBatch(rows, torch.zeros(*flags.shape, 1), torch.zeros(flags.shape), flags, flags, is_first, index)


def test_the_error_is_that_of_the_last_step_on_held_out_windows() -> None:
    model = persistent(input_noise=0.5)
    assert not model.input_error.any()
    data = windows(torch.tensor([[[0.0, 0.0], [9.0, 9.0], [3.0, 1.0]], [[1.0, 0.0], [9.0, 9.0], [5.0, 1.0]]]))
    model.calibrate(data, None)
    assert torch.allclose(model.input_error, torch.tensor([12.5**0.5, 1.0]))  # of 3 and 4; of 1 and 1
    crossing = replace(data, is_first=torch.tensor([[True, False, False], [True, True, False]]))
    model.calibrate(crossing, None)
    assert torch.allclose(model.input_error, torch.tensor([3.0, 1.0]))
    model.calibrate(data, windows(torch.zeros(1, 3, 2)))
    assert not model.input_error.any()
    loaded = ensemble(input_noise=0.5)
    model.input_error.fill_(2.0)
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(loaded.input_error, model.input_error)
    assert "input_error" not in ensemble().state_dict()  # models of before are loaded as ever


def test_each_hypothesis_has_its_share_in_the_error() -> None:
    model = persistent(input_noise=1.0)
    with torch.no_grad():
        model.net.biases[-1][1, 0, 0] = 2.0  # the second member: two more a step
    model.calibrate(windows(torch.zeros(4, 3, 2)), None)
    assert torch.allclose(model.input_error, torch.tensor([8.0**0.5, 0.0]))  # of 0 and 4


def test_noise_moves_the_observation_and_leaves_where_it_leads() -> None:
    model = ensemble(input_noise=0.5, absolute=(1,))
    model.input_error.copy_(torch.tensor([2.0, 4.0]))
    batch = windows(torch.randn(4000, 2, 2, generator=torch.Generator().manual_seed(0)))
    batch = replace(batch, action=torch.randn(4000, 2, 1), reward=torch.randn(4000, 2))
    before = model._transitions(batch)
    torch.manual_seed(0)
    after = model._perturbed(before)
    moved = after.obs - before.obs
    assert moved.std(0).tolist() == pytest.approx([1.0, 2.0], rel=0.05)
    assert moved.mean(0).tolist() == pytest.approx([0.0, 0.0], abs=0.1)
    assert torch.equal(after.x, torch.cat([after.obs, before.x[:, 2:]], 1))
    assert torch.allclose(after.obs[:, 0] + after.target[:, 0], before.next_obs[:, 0], atol=1e-5)
    assert torch.equal(after.target[:, 1:], before.target[:, 1:])  # absolute, and the reward
    inside = ensemble(space=ROOM, input_noise=0.5)
    inside.input_error.fill_(9.0)
    within = inside._perturbed(inside._transitions(batch_with_everything()))
    assert within.obs.abs().max() == 1.0
    assert torch.allclose(within.obs + within.target[:, :2], within.next_obs, atol=1e-5)


@pytest.mark.parametrize("horizon", [1, 2])
def test_noise_enters_the_loss_once_there_is_an_error(horizon: int) -> None:
    batch = replace(batch_with_everything(), weight=None)
    quiet, noisy = (ensemble(loss_horizon=horizon, input_noise=noise) for noise in (0.0, 0.5))
    assert noisy.loss(batch).total.item() == pytest.approx(quiet.loss(batch).total.item(), rel=1e-6)
    error = noisy.holdout_error(batch)
    noisy.input_error.fill_(1.0)
    losses = [noisy.loss(batch).total.item() for _ in range(2)]
    assert len({*losses, quiet.loss(batch).total.item()}) == 3
    assert torch.equal(noisy.holdout_error(batch), error)


def test_noise_is_the_trainers_and_a_resumed_fit_has_the_same() -> None:
    def trainer(seed: int = 0) -> ModelTrainer:
        return ModelTrainer(ensemble(input_noise=1.0), replace(SHORT, max_updates=20), seed)

    replay = turning(200, noise=0.1)
    straight, again = trainer(), trainer()
    before = torch.random.get_rng_state()
    straight.fit(replay), again.fit(replay)
    assert torch.equal(before, torch.random.get_rng_state())
    resumed = trainer(5)
    resumed.model.load_state_dict(copy.deepcopy(straight.model.state_dict()))
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    assert straight.model.input_error.min() > 0
    straight.fit(replay), resumed.fit(replay), again.fit(replay)
    assert same_numbers(numbers(straight), numbers(resumed))
    assert same_numbers(numbers(straight), numbers(again))


# ---- Data as Demonstrator: which data -------------------------------------------------------------------------------

LINE = spaces.Box(-np.inf, np.inf, (1,), np.float32)


@dataclass(frozen=True)
class At(TensorStruct):
    x: Tensor


@dataclass(frozen=True)
class StrideConfig:
    """Nothing to configure."""


class Stride(WorldModel[At]):
    """Steps by ``strides[n]`` after fit n, whatever the action, and breaks where x would reach ``wall``."""

    config_class = StrideConfig
    members = 2

    def __init__(self, *strides: float, wall: float = math.inf) -> None:
        super().__init__(LINE, TORQUE, StrideConfig())
        self.weight = nn.Parameter(torch.zeros(2, 1))
        self.register_buffer("fits", torch.zeros(()))
        self.strides, self.wall = torch.tensor(strides), wall
        self.batches: list[list[SequenceBatch]] = []
        self.held: list[SequenceBatch] = []
        self.seen: list[SequenceBatch] = []

    def before_fit(self, data: SequenceBatch) -> None:
        self.seen.append(data)
        self.batches.append([])

    def loss(self, batch: SequenceBatch, start: At | None = None) -> ModelLoss[At]:
        self.batches[-1].append(batch)
        return ModelLoss(self.weight.sum(), {"fits": self.fits + 0.0})

    def holdout_error(self, batch: SequenceBatch) -> Tensor:
        self.held.append(batch)
        return torch.ones(2)

    def initial(self, batch_size: int) -> At:
        return At(torch.zeros(batch_size, 1))

    def observe(self, state: At, action: Tensor, obs: Observation, is_first: Tensor, generator: Any = None) -> At:
        assert isinstance(obs, Tensor)
        return At(obs)

    def predict(
        self, state: At, action: Tensor, generator: Any = None, sample: bool = True, uncertainty: bool = True
    ) -> tuple[At, Prediction]:
        assert not sample
        x = state.x + self.strides[int(self.fits) - 1]
        cut, zero = x[:, 0] >= self.wall, torch.zeros(len(x))
        info = {"diverged": cut}
        return At(torch.where(cut[:, None], state.x, x)), Prediction(zero, cut & False, cut, zero, zero, info)

    def features(self, state: At) -> Tensor:
        return state.x

    def decode(self, state: At) -> Observation:
        return state.x


class Counted(ModelTrainer):
    """Tells its model when one of its fits has ended."""

    def _train(self, *arguments: Any) -> FitReport:
        report = super()._train(*arguments)
        self.model.fits += 1
        self.model.batches.append([])
        return report


def episode(*x: float) -> SequenceReplay:
    """One episode through these places, ending for good, with the rewards 1, 2, ... and ever greater actions."""
    replay, no = SequenceReplay(LINE, TORQUE, 1000), np.zeros(1, bool)
    place = [np.array([[value]], np.float32) for value in x]
    replay.begin(place[0])
    for t in range(1, len(x)):
        last = t == len(x) - 1
        action = np.full((1, 1), 0.1 * t, np.float32)
        after = place[0] if last else place[t]
        replay.add(action, after, np.array([t], np.float32), no | last, no, place[t] if last else None)
    return replay


EXACT = TrainerConfig(holdout=0.0, batch_size=1000, max_epochs=1, correction=DataAsDemonstrator(1, 3, None))


def taught(model: Stride, replay: SequenceReplay, fits: int, **change: Any) -> list[list[list[float]]]:
    """What each of the fits was given: (from, action, to, reward, end) in order."""
    config = replace(EXACT, correction=replace(EXACT.correction, iterations=fits - 1, **change))  # type: ignore[type-var]
    Counted(model, config).fit(replay)
    return [rows(batches[0]) for batches in model.batches[:fits]]


def rows(batch: SequenceBatch) -> list[list[float]]:
    assert isinstance(batch.obs, Tensor)
    assert not batch.is_first[:, 1].any()
    columns = [batch.obs[:, 0, 0], batch.action[:, 0, 0], batch.obs[:, 1, 0], batch.reward[:, 1]]
    data = torch.stack([*columns, batch.terminated[:, 1].float()], 1)
    return sorted([round(float(value), 4) for value in row] for row in data)


REAL = [[0.0, 0.1, 2.0, 1.0, 0.0], [2.0, 0.2, 5.0, 2.0, 0.0], [5.0, 0.3, 9.0, 3.0, 1.0]]


def test_the_data_of_an_episode_of_three_steps() -> None:
    """The first fit predicts 0 -> 1 -> 2 (then 3, which nothing follows), the second 0 -> 4 -> 8."""
    first, second, third = taught(Stride(1.0, 4.0, 1.0), episode(0.0, 2.0, 5.0, 9.0), fits=3)
    assert first == REAL
    corrected = [[1.0, 0.2, 5.0, 2.0, 0.0], [2.0, 0.3, 9.0, 3.0, 1.0]]
    assert second == sorted(REAL + corrected)
    assert third == sorted(REAL + corrected + [[4.0, 0.2, 5.0, 2.0, 0.0], [8.0, 0.3, 9.0, 3.0, 1.0]])


def test_segments_lie_end_to_end_within_an_episode() -> None:
    _, second = taught(Stride(1.0, 1.0), episode(0.0, 2.0, 5.0, 9.0, 14.0, 20.0), fits=2, horizon=2)
    pairs = [row for row in second if row[0] not in (0.0, 2.0, 5.0, 9.0, 14.0)]
    assert pairs == [[1.0, 0.2, 5.0, 2.0, 0.0], [6.0, 0.4, 14.0, 4.0, 0.0]]  # the fifth step is in none
    short = Stride(1.0, 1.0)
    Counted(short, EXACT).fit(episode(0.0, 2.0, 5.0))
    assert short.fits == 1  # no segment of the horizon's length: a plain fit
    starts = np.array([0, 2, 4, 6, 8, 20, 22, 24, 1, 3, 5])
    assert tiles(starts, 2, n_envs=2).tolist() == [0, 4, 8, 20, 24, 1, 5]
    assert tiles(starts, 3, n_envs=2).tolist() == [0, 6, 20, 1]
    assert tiles(starts[:0], 3, n_envs=2).tolist() == []


@pytest.mark.parametrize(("cap", "kept"), [(0.3, []), (0.4, [1.0]), (1.0, [1.0, 2.0]), (None, [1.0, 2.0])])
def test_a_cap_drops_what_is_too_far(cap: float | None, kept: list[float]) -> None:
    """The deviation of 0, 2, 2, 5, 5, 9, the rows of the windows, is 2.911; the predictions are 1 and 3 away."""
    unit = np.std([0.0, 2.0, 2.0, 5.0, 5.0, 9.0])
    assert 0.3 < 1 / unit < 0.4 < 1.0 < 3 / unit < 1.1
    replay = episode(0.0, 2.0, 5.0, 9.0)
    _, second = taught(Stride(1.0, 1.0), replay, fits=2, cap=1.1 if cap == 1.0 else cap)
    assert [row[0] for row in second if row not in REAL] == kept


def test_nothing_is_learned_from_where_the_model_broke() -> None:
    _, second = taught(Stride(1.0, 1.0, wall=2.0), episode(0.0, 2.0, 5.0, 9.0), fits=2)
    assert [row for row in second if row not in REAL] == [[1.0, 0.2, 5.0, 2.0, 0.0]]


def test_corrections_have_the_weights_and_the_indices_of_what_they_correct() -> None:
    model = Stride(1.0, 1.0)
    Counted(model, EXACT).fit(episode(0.0, 2.0, 5.0, 9.0))
    (batch,) = model.batches[1]
    assert batch.weight is not None
    weight = {int(i): w.tolist() for i, w in zip(batch.index[:, 1], batch.weight[:, 1], strict=True)}
    assert sorted(batch.index[:, 1].tolist()) == [1, 2, 2, 3, 3]
    assert all(weight[int(i)] == w.tolist() for i, w in zip(batch.index[:, 1], batch.weight[:, 1], strict=True))
    unweighted = Stride(1.0, 1.0)
    Counted(unweighted, replace(EXACT, bootstrap=False)).fit(episode(0.0, 2.0, 5.0, 9.0))
    assert unweighted.batches[1][0].weight is None


# ---- which fit is kept ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strides", "best"), [((3.0, 1.0, 9.0), 0), ((1.0, 3.0, 9.0), 1), ((9.0, 1.0, 3.0), 2), ((3.0, 3.0, 3.0), 0)]
)
def test_the_fit_with_the_smallest_error_over_the_horizon_is_kept(strides: tuple[float, ...], best: int) -> None:
    model, epochs = Stride(*strides), []
    trainer = Counted(model, replace(EXACT, correction=DataAsDemonstrator(2, 3, None), max_epochs=2))
    report = trainer.fit(episode(0.0, 2.0, 5.0, 9.0), lambda epoch, loss, error: epochs.append(epoch))
    assert model.fits == best + 1
    assert model.weight[0].item() == pytest.approx(-2e-3 * 2 * (best + 1), rel=0.5)  # its weights, and no later ones
    apart = [abs(strides[best] * k - x) for k, x in ((1, 2.0), (2, 5.0), (3, 9.0))]
    unit = np.std([0.0, 2.0, 2.0, 5.0, 5.0, 9.0])
    assert report.terms["multi_step_error"] == pytest.approx(np.mean(apart) / unit, rel=1e-5)
    assert report.terms["corrections"] == best
    assert report.terms["fits"] == best  # the loss terms are of the fit that was kept
    assert (report.epochs, report.updates, report.windows) == (6, 6, 3)
    assert epochs == [1, 2, 3, 4, 5, 6]
    assert trainer.updates == 6


def test_a_fit_that_breaks_is_never_kept() -> None:
    model = Stride(9.0, 3.0, 9.0, wall=6.0)
    Counted(model, replace(EXACT, correction=DataAsDemonstrator(2, 3, None))).fit(episode(0.0, 2.0, 5.0, 9.0))
    assert model.fits == 1  # all broke: the first
    better = Stride(9.0, 3.0, 1.0, wall=6.0)
    Counted(better, replace(EXACT, correction=DataAsDemonstrator(2, 3, None))).fit(episode(0.0, 2.0, 5.0, 9.0))
    assert better.fits == 3  # 3, 6: broken; the worse one is whole


def test_a_refit_that_fails_leaves_the_best_fit_so_far() -> None:
    model = Stride(3.0, 1.0, 1.0)
    whole = model.loss
    model.loss = lambda batch, start=None: (  # type: ignore[method-assign]
        ModelLoss(model.weight.sum() * torch.nan, {}) if model.fits == 2 else whole(batch)
    )
    with pytest.raises(FloatingPointError):
        Counted(model, replace(EXACT, correction=DataAsDemonstrator(2, 3, None))).fit(episode(0.0, 2.0, 5.0, 9.0))
    assert model.fits == 1
    assert model.weight[0].item() == pytest.approx(-2e-3)


# ---- the sides of the data ------------------------------------------------------------------------------------------


def walk(steps: int) -> SequenceReplay:
    replay, no = SequenceReplay(LINE, TORQUE, 10_000, 2), np.zeros(2, bool)
    rng = np.random.default_rng(0)
    replay.begin(np.zeros((2, 1), np.float32))
    for t in range(1, steps + 1):
        x, last = rng.normal(size=(2, 1)).astype(np.float32), t % 30 == 0
        replay.add(np.zeros((2, 1), np.float32), x, np.zeros(2, np.float32), no, no | last, x if last else None)
    return replay


def arrivals(batches: list[SequenceBatch]) -> set[int]:
    return {i for batch in batches for i in batch.index[:, 1].tolist()}


def test_held_out_transitions_are_never_trained_on_nor_rolled_over() -> None:
    model = Stride(0.1, 0.2, 0.3)
    trainer = Counted(model, replace(EXACT, holdout=0.3, correction=DataAsDemonstrator(2, 5, None)))
    replay = walk(400)
    report = trainer.fit(replay)
    sizes = [sum(batch.batch_size for batch in batches) for batches in model.batches[:3]]
    assert sizes[0] == report.windows < sizes[1] < sizes[2]
    train, held = arrivals([b for fit in model.batches for b in fit]), arrivals(model.held)
    assert not train & held
    assert train | held == set((replay.windows(2) + 2).tolist())
    assert 0.15 < len(held) / 800 < 0.45
    for segments, mine in zip(trainer._segments(replay, 5, True), (train, held), strict=True):
        assert segments is not None
        inside = segments.index[:, 1:].flatten().tolist()
        assert set(inside) <= mine
        assert len(set(inside)) == len(inside) > 0.5 * len(mine)  # most transitions, each of them once
        assert not segments.is_first[:, 1:].any()
    assert [batch.batch_size for batch in model.held[:3]] == sorted(batch.batch_size for batch in model.held[:3])
    assert model.held[1].batch_size > model.held[0].batch_size  # weights are selected on held-out rollouts too
    assert model.held[-1].batch_size == model.held[0].batch_size  # and reported on recorded data
    assert report.holdout_error == [1.0, 1.0]


def test_what_was_held_out_once_stays_so() -> None:
    sides = []
    for steps in (200, 400):
        model = Stride(0.1, 0.2)
        config = replace(EXACT, holdout=0.3, correction=DataAsDemonstrator(1, 5, None))
        Counted(model, config).fit(walk(steps))
        sides.append((arrivals(model.batches[0]), arrivals(model.held)))
    assert sides[0][0] <= sides[1][0]
    assert sides[0][1] <= sides[1][1]


# ---- with an ensemble -----------------------------------------------------------------------------------------------


def ten_step_error(model: Ensemble) -> float:
    clean = turning(600, noise=0.0, seed=9)
    return errors_by_horizon(model, clean, 10, 200, np.zeros(10, np.int64), 1)[-1]


def test_corrections_keep_amplitude_where_a_one_step_fit_loses_it() -> None:
    """Noise on the observations makes one-step regression shrink them; what the model is fed is its own, not noisy."""
    replay = turning(1200, noise=0.4)

    def error(config: TrainerConfig, **change: Any) -> float:
        model = ensemble(**change)
        ModelTrainer(model, config, 0).fit(replay)
        return ten_step_error(model)

    uncorrected = error(replace(SHORT, max_epochs=80, max_updates=800))  # as many updates as the corrected fits have
    corrected = error(replace(SHORT, correction=DataAsDemonstrator(iterations=3, horizon=10)))
    through_time = error(replace(SHORT, length=6), loss_horizon=5)
    assert uncorrected > 0.6
    assert corrected < 0.7 * uncorrected
    assert through_time < 0.7 * uncorrected


def test_every_setting_of_the_correction_counts() -> None:
    replay, found = turning(400, noise=0.3), []
    for correction in (None, DAD, replace(DAD, iterations=1), replace(DAD, horizon=5), replace(DAD, cap=0.3)):
        model = ensemble()
        report = ModelTrainer(model, replace(SHORT, max_updates=30, holdout=0.0, correction=correction), 0).fit(replay)
        found.append(report)
    assert len({report.loss for report in found}) == 5
    assert [report.updates for report in found] == [30, 90, 60, 90, 90]


def test_the_normalisers_are_those_of_the_recorded_data() -> None:
    replay, models = turning(400, noise=0.3, ends=True), [ensemble(learn_termination=True) for _ in range(2)]
    for model, iterations in zip(models, (1, 2), strict=True):
        correction = DataAsDemonstrator(iterations, 4)
        trainer = ModelTrainer(model, replace(SHORT, max_updates=30, correction=correction), 0)
        trainer.fit(replay)
        fresh = ensemble()
        fresh.before_fit(trainer._split(replay)[0])
        for name in ("input_mean", "input_std", "target_mean", "target_std", "low", "high"):
            assert torch.equal(model.get_buffer(name), fresh.get_buffer(name)), name
        assert model.has_terminations == 1


def test_a_corrected_fit_is_a_function_of_the_seed_and_resumes_to_the_bit() -> None:
    def trainer(seed: int = 0) -> ModelTrainer:
        return ModelTrainer(ensemble(), replace(SHORT, max_updates=20, correction=DAD), seed)

    replay, later = turning(300, noise=0.3), turning(400, noise=0.3)
    straight, again, other = trainer(), trainer(), trainer(1)
    reports = [each.fit(replay) for each in (straight, again, other)]
    assert reports[0] == reports[1] != reports[2]
    resumed = trainer(5)
    resumed.model.load_state_dict(copy.deepcopy(straight.model.state_dict()))
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    assert straight.fit(later) == resumed.fit(later)
    assert same_numbers(numbers(straight), numbers(resumed))


def test_rollouts_are_those_that_the_report_measures() -> None:
    model, replay = ensemble(), turning(400, noise=0.0)
    starts = replay.windows(6)[::7]
    rollouts = roll(model, replay.gather(starts, 6), torch.ones(2), seed=0)
    state = model.believe(
        replay.gather(starts, 1).obs, replay.gather(starts, 1).action, torch.Generator().manual_seed(0)
    )
    for t in range(5):
        state, _ = model.predict(state, replay.gather(starts, 6).action[:, t], sample=False)
        assert torch.allclose(rollouts.obs[:, t], state.obs, atol=1e-5)
    assert not rollouts.obs.requires_grad
    assert rollouts.usable.all()


def test_dictionaries_of_observations_are_corrected_too() -> None:
    space = spaces.Dict({"a": LINE, "b": spaces.Discrete(3)})
    rng, replay, no = np.random.default_rng(0), SequenceReplay(space, TORQUE, 1000), np.zeros(1, bool)

    def seen() -> dict[str, Any]:
        return {"a": rng.normal(size=(1, 1)).astype(np.float32), "b": rng.integers(0, 3, 1)}

    replay.begin(seen())
    for _ in range(100):
        replay.add(rng.uniform(-1, 1, (1, 1)).astype(np.float32), seen(), np.zeros(1, np.float32), no, no, None)
    report = ModelTrainer(ensemble(space=space), replace(SHORT, max_updates=5, correction=DAD), 0).fit(replay)
    assert report.updates == 15
    assert math.isfinite(report.terms["multi_step_error"])


# ---- the configuration ----------------------------------------------------------------------------------------------


def test_the_configuration_comes_back_from_json() -> None:
    config = TrainerConfig(correction=DataAsDemonstrator(3, 7, None))
    assert TrainerConfig(**json.loads(json.dumps(asdict(config)))) == config
    assert TrainerConfig(**json.loads(json.dumps(asdict(TrainerConfig())))) == TrainerConfig()


def test_an_agent_takes_its_correction_along(tmp_path: Any) -> None:
    from mbrl_gym.agents import Dyna  # here, because of what it imports

    config = TrainerConfig(correction=DataAsDemonstrator(3, 7, 0.5), max_updates=5)
    model_config = replace(TINY, loss_discount=0.7, input_noise=0.2)
    Dyna("MlpPolicy", "CartPole-v1", trainer_config=config, model_config=model_config).save(tmp_path / "agent")
    loaded = Dyna.load(tmp_path / "agent")
    assert loaded.trainer_config == config
    assert loaded.model.config == model_config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1 refit, got 0; for none: correction=None"),
        ({"horizon": 1}, "horizon must be at least 2 steps, or nothing goes astray, got 1"),
        ({"cap": 0.0}, "cap must be positive or None, got 0.0"),
        ({"cap": math.nan}, "cap must be positive or None, got nan"),
    ],
)
def test_bad_corrections_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataAsDemonstrator(**change)


def test_what_cannot_be_corrected_says_so() -> None:
    with pytest.raises(ValueError, match="length must be 2 with a correction, whose data are single steps, got 3"):
        TrainerConfig(length=3, correction=DAD)
    model = Stride(1.0)
    model.context = 2
    with pytest.raises(ValueError, match="correction must be None for a model with a context of 2 rows, got Data"):
        ModelTrainer(model, EXACT).fit(episode(0.0, 2.0, 5.0, 9.0))
    process = GaussianProcess(LINE, TORQUE)
    with pytest.raises((ValueError, IndexError), match="correction must be None for a model that fits itself"):
        ModelTrainer(process, EXACT).fit(episode(0.0, 2.0, 5.0, 9.0))
