"""ModelTrainer: splits, schedules, selection, stopping, failures and resuming."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.fit import FitReport, ModelTrainer, TrainerConfig
from mbrl_gym.model import ModelLoss, Prediction, WorldModel
from mbrl_gym.models.ensemble import Ensemble, EnsembleConfig
from mbrl_gym.packing import same_numbers
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.spaces import Observation
from mbrl_gym.tensors import TensorStruct

BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)
TORQUE = spaces.Box(-1, 1, (1,), np.float32)
CONFIG = TrainerConfig(learning_rate=0.01, final_learning_rate=1.0, batch_size=16, max_epochs=8, patience=100)


def world(steps: int = 200, seed: int = 0, episode: int = 50, n_envs: int = 1) -> SequenceReplay:
    replay = SequenceReplay(BOX, TORQUE, 100_000, n_envs)
    extend(replay, steps, seed, episode)
    return replay


def extend(replay: SequenceReplay, steps: int, seed: int = 0, episode: int = 50) -> None:
    """Add steps of x' = x + 0.5 a + noise with reward x."""
    rng, n = np.random.default_rng(seed), replay.n_envs
    no = np.zeros(n, bool)
    obs = rng.normal(size=(n, 2)).astype(np.float32)
    replay.begin(obs)
    for t in range(1, steps + 1):
        action = rng.uniform(-1, 1, (n, 1)).astype(np.float32)
        after = (obs + 0.5 * action + 0.05 * rng.normal(size=(n, 2))).astype(np.float32)
        reward, last = obs[:, 0], t % episode == 0
        obs = rng.normal(size=(n, 2)).astype(np.float32) if last else after
        replay.add(action, obs, reward, no, no | last, after if last else None)


@dataclass(frozen=True)
class Blank(TensorStruct):
    x: Tensor


@dataclass(frozen=True)
class ScriptConfig:
    """Nothing to configure."""


class Script(WorldModel[Blank]):
    """A model whose weights fall by the learning rate at each update and whose held-out errors are given.

    It notes every batch, every learning rate and its weights at every evaluation.
    """

    config_class = ScriptConfig

    def __init__(self, errors: Sequence[Sequence[float]] = (), members: int = 2) -> None:
        super().__init__(BOX, TORQUE, ScriptConfig())
        self.members = members
        self.own = nn.Parameter(torch.zeros(members, 1))
        self.shared = nn.Parameter(torch.zeros(1))
        self.errors = list(errors)
        self.batches: list[SequenceBatch] = []
        self.held: list[SequenceBatch] = []
        self.evaluated: list[tuple[Tensor, Tensor]] = []
        self.given: SequenceBatch | None = None
        self.final: Tensor | None = None
        self.scale: Callable[[int], float] = lambda update: 1.0

    def before_fit(self, data: SequenceBatch) -> None:
        self.given = data

    def after_fit(self, error: Tensor) -> None:
        self.final = error.clone()

    def calibrate(self, data: SequenceBatch, holdout: SequenceBatch | None) -> None:
        self.calibrated = (data, holdout, self.own.detach().clone(), None if self.final is None else self.final.clone())

    def member_parameters(self) -> frozenset[str]:
        return frozenset({"own"})

    def loss(self, batch: SequenceBatch, start: Blank | None = None) -> ModelLoss[Blank]:
        self.batches.append(batch)
        total = (self.own.sum() + self.shared.sum()) * self.scale(len(self.batches))
        return ModelLoss(total, {"size": torch.tensor(float(batch.batch_size))})

    def holdout_error(self, batch: SequenceBatch) -> Tensor:
        self.held.append(batch)
        self.evaluated.append((self.own.detach().clone(), self.shared.detach().clone()))
        at = len(self.evaluated) - 1
        return torch.tensor(self.errors[at]) if at < len(self.errors) else torch.full((self.members,), 1e9)

    def initial(self, batch_size: int) -> Blank:
        return Blank(torch.zeros(batch_size))

    def observe(self, state: Blank, action: Tensor, obs: Observation, is_first: Tensor, generator: Any = None) -> Blank:
        return state

    def predict(self, state: Blank, action: Tensor, *args: Any, **kwargs: Any) -> tuple[Blank, Prediction]:
        raise NotImplementedError

    def features(self, state: Blank) -> Tensor:
        raise NotImplementedError

    def decode(self, state: Blank) -> Observation:
        raise NotImplementedError


def fit(
    model: Script, replay: SequenceReplay | None = None, seed: int = 0, **change: Any
) -> tuple[ModelTrainer, FitReport]:
    trainer = ModelTrainer(model, replace(CONFIG, **change), seed)
    return trainer, trainer.fit(world() if replay is None else replay)


# ---- the last step of a fit -----------------------------------------------------------------------------------------


def test_a_fit_ends_with_the_best_weights_calibrated_on_both_sides_of_the_data() -> None:
    model = Script([[3.0, 3.0], [1.0, 1.0], [2.0, 2.0]])
    fit(model, max_epochs=3)
    data, holdout, own, final = model.calibrated
    assert data is model.given
    assert holdout is not None
    assert torch.equal(holdout.obs, model.held[0].obs)
    assert torch.equal(own, model.evaluated[1][0])  # of the second epoch, the best
    assert final is not None
    assert torch.equal(final, torch.tensor([1.0, 1.0]))


def test_a_fit_without_holdout_is_calibrated_too() -> None:
    model = Script()
    fit(model, max_epochs=1, holdout=0.0)
    assert model.calibrated[0] is model.given
    assert model.calibrated[1] is None


# ---- the split ------------------------------------------------------------------------------------------------------


def sides(replay: SequenceReplay, seed: int = 0, **change: Any) -> tuple[set[int], set[int]]:
    """Return the absolute indices of the rows that training and held-out transitions arrive at."""
    model = Script()
    fit(model, replay, seed, max_epochs=1, **change)
    assert model.given is not None
    held = model.held[0].index[:, 1:].flatten().tolist() if model.held else []
    return set(model.given.index[:, 1:].flatten().tolist()), set(held)


def test_every_window_is_trained_on_or_held_out_but_never_both() -> None:
    replay = world(1000)
    train, held = sides(replay, holdout=0.2)
    assert train | held == set((replay.windows(2) + 1).tolist())
    assert not train & held
    assert len(held) / 1000 == pytest.approx(0.2, abs=0.05)
    model = Script()
    _, report = fit(model, replay, max_epochs=2)
    trained = {i for batch in model.batches for i in batch.index[:, 1].tolist()}
    assert model.given is not None
    assert trained == set(model.given.index[:, 1].tolist())  # every window, and no held-out one
    assert report.windows == len(trained)


def test_new_data_moves_no_window_to_the_other_side() -> None:
    replay = world(300)
    train, held = sides(replay)
    extend(replay, 300, seed=1)
    later_train, later_held = sides(replay)
    assert train < later_train
    assert held < later_held


def test_another_seed_holds_out_others() -> None:
    replay = world(300)
    assert sides(replay, seed=0)[1] == sides(replay, seed=0)[1] != sides(replay, seed=1)[1]


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("length", [3, 8])
def test_no_transition_of_a_held_out_sequence_is_trained_on(length: int, n_envs: int) -> None:
    replay = world(600, episode=200, n_envs=n_envs)
    train, held = sides(replay, length=length, holdout=0.3)
    assert not train & held
    assert 0.1 < len(held) / (600 * n_envs) < 0.5
    assert len(train | held) > 0.7 * 600 * n_envs  # little is lost at the borders
    extend(replay, 300, seed=1)
    later_train, later_held = sides(replay, length=length, holdout=0.3)
    assert not train & later_held
    assert not held & later_train


def test_without_a_holdout_the_last_weights_stay() -> None:
    model, seen = Script(), []
    trainer = ModelTrainer(model, replace(CONFIG, holdout=0.0, max_epochs=3))
    report = trainer.fit(world(), lambda *args: seen.append(args))
    assert model.held == []
    assert model.final is None
    assert report.holdout_error == []
    assert report.windows == 200
    assert model.shared.item() == pytest.approx(-0.01 * report.updates, rel=1e-3)
    assert all(error.isnan().all() for _, _, error in seen)


def test_too_few_windows_to_hold_any_out() -> None:
    model = Script()
    _, report = fit(model, world(2), max_epochs=1, holdout=0.01)
    assert (report.windows, report.holdout_error) == (2, [])
    _, report = fit(model, world(2), max_epochs=1, holdout=0.999)
    assert (report.windows, report.holdout_error) == (2, [])


def test_an_empty_replay_is_refused() -> None:
    replay = SequenceReplay(BOX, TORQUE, 100)
    with pytest.raises(ValueError, match="replay must hold at least one window of 2 rows to fit a model, got 0 rows"):
        fit(Script(), replay)
    with pytest.raises(ValueError, match="at least one window of 60 rows to fit a model, got 205 rows; collect more"):
        fit(Script(), world(), length=60)


def test_windows_have_the_configured_length() -> None:
    model = Script()
    fit(model, max_epochs=1, length=5)
    assert {batch.length for batch in (*model.batches, *model.held)} == {5}


def test_bootstrap_weighs_training_rows_for_each_member() -> None:
    replay = world()
    model = Script()
    fit(model, replay, max_epochs=2)
    assert all(batch.weight is not None and batch.weight.shape[1:] == (2, 2) for batch in model.batches)
    assert all(batch.weight is None for batch in model.held)
    given = model.given
    assert given is not None
    assert given.weight is not None
    assert given.weight.mean().item() == pytest.approx(1.0, abs=0.15)
    assert not torch.equal(given.weight[..., 0], given.weight[..., 1])
    drawn = {int(i): w for i, w in zip(given.index[:, 1], given.weight[:, 1, 0].tolist(), strict=True)}
    extend(replay, 50, seed=2)
    later = Script()
    fit(later, replay, max_epochs=1)
    assert later.given is not None
    assert later.given.weight is not None
    again = {int(i): w for i, w in zip(later.given.index[:, 1], later.given.weight[:, 1, 0].tolist(), strict=True)}
    assert all(again[i] == w for i, w in drawn.items())  # drawn once
    other = Script()
    fit(other, replay, seed=1, max_epochs=1, holdout=0.0)
    fit(later, replay, seed=0, max_epochs=1, holdout=0.0)
    assert other.given is not None
    assert other.given.weight is not None
    assert not torch.equal(other.given.weight, later.given.weight)


@pytest.mark.parametrize(("members", "bootstrap"), [(2, False), (1, True)])
def test_no_bootstrap_where_none_is_wanted(members: int, bootstrap: bool) -> None:
    model = Script(members=members)
    fit(model, max_epochs=1, bootstrap=bootstrap)
    assert all(batch.weight is None for batch in model.batches)


# ---- how long -------------------------------------------------------------------------------------------------------


def test_epochs_and_batches() -> None:
    model = Script()
    trainer, report = fit(model, max_epochs=3, batch_size=50)
    per_epoch = -(-report.windows // 50)
    assert (report.epochs, report.updates) == (3, 3 * per_epoch)
    assert trainer.updates == report.updates == len(model.batches)
    assert [b.batch_size for b in model.batches[: per_epoch - 1]] == [50] * (per_epoch - 1)
    orders = [torch.cat([b.index[:, 0] for b in model.batches[i * per_epoch :][:per_epoch]]) for i in range(2)]
    assert not torch.equal(*orders)  # shuffled anew
    assert torch.equal(orders[0].sort().values, orders[1].sort().values)


def test_max_updates_ends_a_fit_within_an_epoch() -> None:
    model = Script()
    _, report = fit(model, max_updates=17, batch_size=16)
    assert report.updates == len(model.batches) == 17
    assert report.epochs == 2
    assert fit(Script(), max_updates=None, max_epochs=2)[1].updates == fit(Script(), max_epochs=2)[1].updates


def test_the_report_averages_the_last_epoch() -> None:
    model = Script()
    _, report = fit(model, max_epochs=2, batch_size=100)
    sizes = [float(b.batch_size) for b in model.batches[-2:]]
    assert report.terms == {"size": pytest.approx(np.mean(sizes))}
    assert report.loss == pytest.approx(-3 * (0.02 + 0.03) / 2, rel=1e-3)  # before the third and the fourth update


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_counts_epochs_without_any_members_improvement(patience: int) -> None:
    model = Script([[5, 5], [4, 6], [6, 3], *[[5, 5]] * 20])
    _, report = fit(model, patience=patience, max_epochs=30)
    assert report.epochs == 3 + patience


@pytest.mark.parametrize(
    ("improvement", "errors", "best", "epochs"),
    [
        (0.0, [1.0, 0.99, 0.98, 0.98, 0.98], 0.98, 5),
        (0.1, [1.0, 0.95, 0.91, 0.0, 0.0], 1.0, 3),  # each falls by less than a tenth of the best
        (0.1, [1.0, 0.95, 0.89, 0.85, 0.85], 0.89, 5),  # small falls add up
        (0.1, [-1.0, -1.05, -1.2, -1.25, -1.1], -1.2, 5),  # a likelihood below zero
        (0.1, [-1.0, -0.95, -0.92, -0.95, -2.0], -1.0, 3),  # is worse as it rises
    ],
)
def test_improvement_is_relative_to_the_best(improvement: float, errors: list[float], best: float, epochs: int) -> None:
    model = Script([[e] for e in errors], members=1)
    _, report = fit(model, improvement=improvement, patience=2, max_epochs=50)
    assert report.holdout_error == pytest.approx([best])
    assert report.epochs == epochs


def test_each_member_keeps_its_own_best_weights() -> None:
    model = Script([[3, 3], [1, 4], [2, 2], [9, 9], [9, float("nan")]])
    seen: list[list[float]] = []
    trainer = ModelTrainer(model, replace(CONFIG, max_epochs=5))
    report = trainer.fit(world(), lambda epoch, loss, error: seen.append([epoch, *error.tolist()]))
    assert report.holdout_error == [1, 2]
    assert model.own[0].item() == model.evaluated[1][0][0].item()
    assert model.own[1].item() == model.evaluated[2][0][1].item()
    assert model.shared.item() == model.evaluated[2][1].item()  # as any member last improved
    assert model.own[0].item() != model.own[1].item()
    assert model.final is not None
    assert model.final.tolist() == [1, 2]
    assert seen == [[1, 3, 3], [2, 1, 3], [3, 1, 2], [4, 1, 2], [5, 1, 2]]


def test_a_member_whose_error_is_never_finite_keeps_its_first_weights() -> None:
    model = Script([[float("inf"), 1.0], [float("nan"), 2.0]])
    _, report = fit(model, max_epochs=2)
    assert model.own[0].item() == 0.0
    assert np.isnan(report.holdout_error[0])


def test_held_out_errors_are_averaged_over_blocks() -> None:
    model = Script()
    trainer = ModelTrainer(model, CONFIG)
    flags = torch.zeros(5000, 2, dtype=torch.bool)
    batch = SequenceBatch(
        torch.zeros(5000, 2, 2), torch.zeros(5000, 2, 1), torch.rand(5000, 2), flags, flags, flags, flags
    )
    model.holdout_error = lambda b: b.reward.mean().expand(2)  # type: ignore[method-assign]
    assert torch.allclose(trainer._holdout_error(batch), batch.reward.mean().expand(2), rtol=1e-5)


# ---- the optimiser --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "final"), [(0.1, 0.25), (0.01, 1.0)])
def test_the_learning_rate_follows_a_cosine(rate: float, final: float) -> None:
    model, rates = Script(), []
    trainer = ModelTrainer(model, replace(CONFIG, learning_rate=rate, final_learning_rate=final, max_updates=20))
    model.scale = lambda update: rates.append(trainer.optimizer.param_groups[0]["lr"]) or 1.0  # type: ignore[func-returns-value]
    for _ in range(2):  # each fit starts anew
        rates.clear()
        trainer.fit(world())
        expected = [rate * (final + (1 - final) * 0.5 * (1 + np.cos(np.pi * k / 20))) for k in range(20)]
        assert rates == pytest.approx(expected)
        assert trainer.optimizer.param_groups[0]["lr"] == rate  # for single updates afterwards


def test_the_learning_rate_warms_up_once_and_models_are_told_of_updates() -> None:
    model, rates, told = Script(), [], []
    trainer = ModelTrainer(model, replace(CONFIG, learning_rate=0.1, warmup=20, max_updates=15))
    model.scale = lambda update: rates.append(trainer.optimizer.param_groups[0]["lr"]) or 1.0  # type: ignore[func-returns-value]
    model.after_update = lambda: told.append(trainer.updates)  # type: ignore[method-assign]
    for _ in range(2):
        trainer.fit(world())
    assert rates == pytest.approx([0.1 * min(1.0, (k + 1) / 20) for k in range(30)])
    assert told == list(range(1, 31))


def test_adafactor_moves_weights_by_a_share_of_their_size() -> None:
    model = Script()
    model.shared.data.fill_(8.0)
    fit(model, holdout=0.0, learning_rate=0.05, max_updates=1, optimizer="adafactor")
    assert model.shared.item() == pytest.approx(8.0 * 0.95, rel=1e-3)


def test_weights_move_by_the_learning_rate() -> None:
    model = Script()
    trainer, _ = fit(model, holdout=0.0, learning_rate=0.05, max_updates=4)
    assert model.own.flatten().tolist() == pytest.approx([-0.2, -0.2], rel=1e-3)
    assert trainer.updates == 4


@pytest.mark.parametrize(("clip", "norm"), [(0.5, 0.5), (100.0, 30 * 3**0.5), (None, 30 * 3**0.5)])
def test_gradients_are_clipped(clip: float | None, norm: float) -> None:
    model = Script()
    model.scale = lambda update: 30.0
    trainer = ModelTrainer(model, replace(CONFIG, grad_clip=clip))
    trainer.update(world().gather(np.array([0]), 2))
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert torch.cat([g.flatten() for g in gradients]).norm().item() == pytest.approx(norm, rel=1e-4)


def test_an_update_returns_its_terms() -> None:
    model = Script()
    trainer = ModelTrainer(model, CONFIG)
    for count in (1, 2):
        terms = trainer.update(world().gather(np.array([0, 1, 2]), 2))
        assert set(terms) == {"loss", "size"}
        assert not terms["loss"].requires_grad
        assert terms["size"] == 3
        assert trainer.updates == count
    assert model.shared.item() == pytest.approx(-0.02, rel=1e-3)


def test_what_a_model_lets_decay_has_the_gradient_of_half_its_squares() -> None:
    class Decaying(Script):
        def weight_decay(self) -> dict[str, float]:
            return {"own": 2.0}

    decaying, by_hand = Decaying(), Script()
    for model in (decaying, by_hand):
        nn.init.constant_(model.own, -1.0)  # where the decay outweighs the loss
    trainer = ModelTrainer(decaying, replace(CONFIG, grad_clip=None))
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=CONFIG.learning_rate)
    batch = trainer._split(world())[0][:8]
    for _ in range(3):
        trainer.update(batch)
        optimizer.zero_grad()
        (by_hand.loss(batch).total + by_hand.own.square().sum()).backward()
        optimizer.step()
    assert decaying.own[0].item() > -1.0
    torch.testing.assert_close(decaying.own, by_hand.own)
    torch.testing.assert_close(decaying.shared, by_hand.shared)


def test_frozen_parameters_stay() -> None:
    model = Script()
    model.shared.requires_grad_(False)
    fit(model, max_epochs=1, holdout=0.0)
    assert model.shared.item() == 0.0
    assert model.own[0].item() != 0.0


def test_a_loss_that_is_not_finite_leaves_the_best_weights_and_a_usable_optimiser() -> None:
    model = Script([[1, 1], [2, 0.5]])
    model.scale = lambda update: float("nan") if update > 30 else 1.0
    trainer = ModelTrainer(model, replace(CONFIG, batch_size=16))
    with pytest.raises(FloatingPointError, match=r"the model's loss became nan .* lower learning_rate \(now 0.01\)"):
        trainer.fit(world())
    assert len(model.evaluated) == 2
    assert model.own[0].item() == model.evaluated[0][0][0].item()
    assert model.own[1].item() == model.evaluated[1][0][1].item()
    model.scale = lambda update: 1.0
    before = model.own.detach().clone()
    trainer.update(world().gather(np.array([0]), 2))
    assert torch.isfinite(model.own).all()
    assert not torch.equal(model.own, before)


def test_a_model_that_fits_itself_is_only_handed_the_data() -> None:
    class SelfTaught(Script):
        def fit(self, data: SequenceBatch, holdout: SequenceBatch | None) -> FitReport:
            self.handed = (data, holdout)
            return FitReport(7, 0, data.batch_size, 0.5, {})

    model = SelfTaught()
    trainer, report = fit(model)
    data, holdout = model.handed
    assert holdout is not None
    assert report == FitReport(7, 0, data.batch_size, 0.5, {})
    assert data.batch_size + holdout.batch_size == 200
    assert model.batches == []
    assert model.given is None
    assert trainer.updates == 0


class Collecting(Script):
    """Notes the learning rate and the weights whenever they are collected; ends with the first ones."""

    collections, interval, rate = 3, 20, 0.25

    def collector(self) -> "Collecting":
        self.seen: list[tuple[int, float]] = []
        return self

    def collect(self) -> None:
        self.seen.append((len(self.batches), self.own[0].item()))

    @torch.no_grad()
    def finish(self) -> None:
        self.own.fill_(self.seen[0][1])


def test_a_collector_sees_the_weights_at_regular_distances_after_the_selection() -> None:
    model = Collecting([[3.0, 3.0], [1.0, 1.0], [2.0, 2.0], [7.0, 7.0]])
    trainer, report = fit(model, max_epochs=3, learning_rate=0.01, final_learning_rate=0.1)
    before = trainer.updates - 60
    assert [at for at, _ in model.seen] == [before + 20, before + 40, before + 60]
    start = model.evaluated[1][0][0].item()  # the best
    assert model.seen[0][1] == pytest.approx(start - 20 * 0.25 * 0.01, abs=2e-3)
    assert model.seen[0][1] - model.seen[2][1] == pytest.approx(40 * 0.25 * 0.01, rel=0.01)
    assert report.updates == trainer.updates
    assert report.epochs == 3
    assert report.holdout_error == [7.0, 7.0]  # of what it ended with
    assert model.evaluated[3][0][0].item() == model.own[0].item() == model.seen[0][1]
    assert model.final is not None
    assert model.final.tolist() == [7.0, 7.0]
    assert trainer.optimizer.param_groups[0]["lr"] == 0.01
    assert torch.equal(model.calibrated[2], model.own.detach())


def test_weights_are_collected_without_a_holdout_too() -> None:
    model = Collecting()
    _, report = fit(model, max_epochs=1, holdout=0.0)
    assert len(model.seen) == 3
    assert report.holdout_error == []
    assert model.evaluated == []


def test_a_loss_that_breaks_while_weights_are_collected_leaves_the_best_ones() -> None:
    model = Collecting([[2.0, 2.0], [1.0, 1.0]])
    model.scale = lambda update: float("nan") if update > 50 else 1.0
    with pytest.raises(FloatingPointError, match="the model's loss became nan"):
        fit(model, max_epochs=2)
    assert model.own[0].item() == model.evaluated[1][0][0].item()


# ---- determinism ----------------------------------------------------------------------------------------------------

SMALL = EnsembleConfig(members=3, elites=2, hidden=(16,), termination_hidden=(8,))
SHORT = TrainerConfig(max_epochs=4, patience=4, batch_size=32, learning_rate=5e-3)


def trainer_of(seed: int = 0) -> ModelTrainer:
    torch.manual_seed(seed)
    return ModelTrainer(Ensemble(BOX, TORQUE, SMALL), SHORT, seed=seed)


def numbers(trainer: ModelTrainer) -> dict[str, Any]:
    return {"model": dict(trainer.model.state_dict()), "trainer": trainer.state_dict()}


def test_two_seeded_fits_are_bit_equal() -> None:
    first, again, other = trainer_of(), trainer_of(), trainer_of(1)
    reports = [trainer.fit(world()) for trainer in (first, again, other)]
    assert reports[0] == reports[1] != reports[2]
    assert same_numbers(numbers(first), numbers(again))
    assert not same_numbers(numbers(first), numbers(other))


def test_fitting_leaves_the_global_generators_alone() -> None:
    trainer, state = trainer_of(), torch.get_rng_state()
    trainer.fit(world())
    assert torch.equal(torch.get_rng_state(), state)


def test_what_a_loss_draws_follows_the_seed_and_the_updates_alone() -> None:
    def drawn(seed: int, start: int) -> list[list[float]]:
        torch.manual_seed(start)
        model = Script()
        noise: list[float] = []
        model.scale = lambda update: noise.append(torch.rand(()).item()) or 1.0  # type: ignore[func-returns-value]
        trainer, _ = fit(model, seed=seed, max_epochs=2)
        first = list(noise)
        batch = world().gather(np.array([0]), 2)
        torch.rand(start)
        trainer.update(batch), trainer.update(batch)
        return [first, noise[len(first) :]]

    assert drawn(0, 0) == drawn(0, 1)
    first, single = drawn(0, 0)
    assert len({*first, *single}) == len(first) + len(single)  # never the same twice
    assert drawn(1, 0)[0] != first


def test_a_resumed_fit_equals_an_uninterrupted_one() -> None:
    replay, straight = world(), trainer_of()
    straight.fit(replay)
    saved, weights = copy.deepcopy(straight.state_dict()), copy.deepcopy(straight.model.state_dict())
    resumed = trainer_of(5)  # everything else comes from the state
    resumed.model.load_state_dict(weights)
    resumed.load_state_dict(saved)
    assert resumed.seed == straight.seed == 0
    extend(replay, 100, seed=3)
    assert straight.fit(replay) == resumed.fit(replay)
    batch = replay.gather(np.arange(8), 2)
    straight.update(batch), resumed.update(batch)
    assert same_numbers(numbers(straight), numbers(resumed))


def test_an_ensemble_learns_and_its_best_members_become_elites() -> None:
    trainer = trainer_of()
    errors: list[float] = []
    report = trainer.fit(world(600), lambda epoch, loss, error: errors.append(error.mean().item()))
    assert errors[-1] < 0.6 * errors[0]
    model = trainer.model
    assert isinstance(model, Ensemble)
    assert model.elites.tolist() == sorted(np.argsort(report.holdout_error)[:2].tolist())


# ---- the configuration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive, got nan"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"max_epochs": -1}, "max_epochs must be positive, got -1"),
        ({"patience": 0}, "patience must be positive, got 0"),
        ({"max_updates": 0}, "max_updates must be positive and finite, or None, got 0"),
        ({"grad_clip": math.inf}, "grad_clip must be positive and finite, or None, got inf"),
        ({"grad_clip": -1.0}, "grad_clip must be positive and finite, or None, got -1.0"),
        ({"optimizer": "sgd"}, "optimizer must be one of adam, adafactor, got 'sgd'"),
        ({"warmup": -1}, "warmup must be at least 0 updates, got -1"),
        ({"length": 1}, "length must be at least 2 rows, one transition, got 1"),
        ({"final_learning_rate": 0.0}, "final_learning_rate must be above 0 and at most 1, got 0.0"),
        ({"final_learning_rate": 1.1}, "final_learning_rate must be above 0 and at most 1, got 1.1"),
        ({"holdout": 1.0}, "holdout must be at least 0 and below 1, got 1.0"),
        ({"holdout": -0.1}, "holdout must be at least 0 and below 1, got -0.1"),
        ({"improvement": 1.0}, "improvement must be at least 0 and below 1, got 1.0"),
    ],
)
def test_bad_configurations_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainerConfig(**change)
