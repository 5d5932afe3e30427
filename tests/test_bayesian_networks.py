"""MC dropout, Bayes by backprop and SWAG behind the contract: draws, both uncertainties, fits, checkpoints, plans."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.functional import silu

from mbrl_gym.checker import check_world_model
from mbrl_gym.envs.vector import LearnedVectorEnv
from mbrl_gym.fit import FitReport, ModelTrainer, TrainerConfig
from mbrl_gym.models.bayes_by_backprop import BayesByBackprop, BayesByBackpropConfig
from mbrl_gym.models.mc_dropout import MCDropout, MCDropoutConfig
from mbrl_gym.models.posterior_network import PosteriorConfig, PosteriorNetwork
from mbrl_gym.models.swag import SWAG, SWAGConfig
from mbrl_gym.models.transition import TransitionState
from mbrl_gym.packing import same_numbers
from mbrl_gym.planners import CEM, CEMConfig
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.store import StoredModel, load_model, save_model

LINE = spaces.Box(-np.inf, np.inf, (1,), np.float32)
TORQUE = spaces.Box(-1, 1, (1,), np.float32)
NOISE = 0.3
SMALL: dict[str, Any] = {"hidden": (16,), "termination_hidden": (8,), "draws": 4, "clamp_margin": None}
QUICK = TrainerConfig(learning_rate=5e-3, batch_size=32, max_epochs=3)
FULL = TrainerConfig(learning_rate=5e-3, max_epochs=400, max_updates=1000, patience=60)
KINDS: dict[str, tuple[type[PosteriorNetwork], PosteriorConfig]] = {
    "mc_dropout": (MCDropout, MCDropoutConfig(**SMALL)),
    "bayes_by_backprop": (BayesByBackprop, BayesByBackpropConfig(**SMALL)),
    "swag": (SWAG, SWAGConfig(**SMALL, collections=8, interval=5, rank=4)),
}
KIND = pytest.mark.parametrize("kind", sorted(KINDS))


def make(kind: str, seed: int = 0, **change: Any) -> PosteriorNetwork:
    torch.manual_seed(seed)
    model_class, config = KINDS[kind]
    return model_class(LINE, TORQUE, replace(config, **change))  # type: ignore[arg-type]


def world(steps: int, seed: int = 0, noise: float = NOISE, ends: bool = False) -> SequenceReplay:
    """Single steps of x' = 0.6 x + 0.5 a + noise with reward x / 2 + noise; there is no |x| below 1."""
    rng, n = np.random.default_rng(seed), 20
    replay = SequenceReplay(LINE, TORQUE, 100_000, n)
    no = np.zeros(n, bool)

    def draw() -> Any:
        return (rng.uniform(1, 2, (n, 1)) * rng.choice([-1, 1], (n, 1))).astype(np.float32)

    obs = draw()
    replay.begin(obs)
    for _ in range(steps // n):
        action = rng.uniform(-1, 1, (n, 1)).astype(np.float32)
        after = (0.6 * obs + 0.5 * action + noise * rng.normal(size=(n, 1))).astype(np.float32)
        reward = obs[:, 0] / 2 + noise * rng.normal(size=n)
        obs = draw()
        replay.add(action, obs, reward, after[:, 0] > 1.3 if ends else no, ~no, after)
    return replay


def moments(model: PosteriorNetwork, x: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    state = TransitionState(x[:, None], torch.zeros(len(x), dtype=torch.int64))
    with torch.no_grad():
        return model.moments(state, action[:, None])


def epistemic(model: PosteriorNetwork, low: float, high: float) -> float:
    """Return the mean uncertainty of states between the two."""
    x = torch.linspace(low, high, 100)
    state = TransitionState(x[:, None], torch.zeros(100, dtype=torch.int64))
    return model.predict(state, torch.zeros(100, 1), sample=False)[1].uncertainty.mean().item()


def fit(model: PosteriorNetwork, replay: SequenceReplay, config: TrainerConfig = QUICK, seed: int = 0) -> FitReport:
    return ModelTrainer(model, config, seed).fit(replay)


@pytest.fixture(scope="module")
def fitted() -> dict[str, PosteriorNetwork]:
    """Each kind, fitted to 1500 steps in its proper size."""
    models, replay = {}, world(1500)
    for kind in KINDS:
        collecting = {"collections": 20, "interval": 20, "rank": 20} if kind == "swag" else {}
        models[kind] = make(kind, draws=10, **collecting)
        fit(models[kind], replay, FULL)
    return models


# ---- the contract ---------------------------------------------------------------------------------------------------


@KIND
@pytest.mark.parametrize("propagation", ["ts1", "ts_inf", "moment_matching"])
def test_they_keep_the_contract(kind: str, propagation: str) -> None:
    model = make(kind, draws=2, propagation=propagation)
    check_world_model(model)
    fit(model, world(200, ends=True))
    assert model.has_terminations
    check_world_model(model)


@KIND
def test_they_keep_the_contract_of_other_spaces(kind: str) -> None:
    space = spaces.Dict(a=spaces.Box(-2, 2, (2,), np.float32), b=spaces.Discrete(3))
    torch.manual_seed(0)
    model_class, config = KINDS[kind]
    check_world_model(model_class(space, spaces.Discrete(3), replace(config, draws=2)))  # type: ignore[arg-type]


@KIND
def test_a_particle_follows_one_draw_and_they_have_equal_shares(kind: str, fitted: dict[str, PosteriorNetwork]) -> None:
    model = fitted[kind]
    state = TransitionState(torch.tensor([[3.0], [-2.0]]), torch.zeros(2, dtype=torch.int64))
    branched = model.branch(state, 20)
    assert branched.member.tolist() == [k // 2 for k in range(20)] * 2
    mean, _ = moments(model, torch.tensor([3.0, -2.0]), torch.zeros(2))
    after, _ = model.predict(branched, torch.zeros(40, 1), sample=False, uncertainty=False)
    torch.testing.assert_close(after.obs.view(2, 20), mean[..., 0].T.repeat_interleave(2, 1))
    assert torch.equal(after.member, branched.member)
    with pytest.raises(ValueError, match="particles must be a multiple of the 10 draws under propagation='ts_inf'"):
        model.branch(state, 15)


@KIND
def test_the_draws_stay_the_same(kind: str, fitted: dict[str, PosteriorNetwork]) -> None:
    x, a = torch.randn(5), torch.zeros(5)
    first, second = moments(fitted[kind], x, a), moments(copy.deepcopy(fitted[kind]), x, a)
    assert torch.equal(first[0], second[0])
    assert first[0].std(0).min() > 0
    assert len(make(kind, draws=7).branch(make(kind).initial(1), 7).member.unique()) == 7


# ---- what the uncertainties mean ------------------------------------------------------------------------------------


@KIND
def test_intervals_cover_linear_gaussian_data_and_the_noise_is_recovered(
    kind: str, fitted: dict[str, PosteriorNetwork]
) -> None:
    rng = torch.Generator().manual_seed(3)
    x = (1 + torch.rand(4000, generator=rng)) * torch.randn(4000, generator=rng).sign()
    a = torch.rand(4000, generator=rng) * 2 - 1
    mean, variance = moments(fitted[kind], x, a)
    true = torch.stack([0.6 * x + 0.5 * a, x / 2], 1) + NOISE * torch.randn(4000, 2, generator=rng)
    total = variance.mean(0) + mean.var(0, unbiased=False)
    inside = ((true - mean.mean(0)).abs() < 1.645 * total.sqrt()).float().mean(0)
    assert inside.min() > 0.86
    assert inside.max() < 0.94
    for aleatoric in variance.mean((0, 1)).sqrt().tolist():
        assert aleatoric == pytest.approx(NOISE, rel=0.2)


@KIND
def test_epistemic_uncertainty_is_larger_far_from_the_data(kind: str, fitted: dict[str, PosteriorNetwork]) -> None:
    model = fitted[kind]
    assert epistemic(model, 6.0, 8.0) > 2 * epistemic(model, 1.2, 1.8) > 0


@pytest.mark.parametrize("kind", ["bayes_by_backprop", "mc_dropout"])  # SWAG's follows the learning rate instead
def test_epistemic_uncertainty_falls_with_more_data(kind: str) -> None:
    wide = {"initial_deviation": 0.2, "divergence_weight": 1.0} if kind == "bayes_by_backprop" else {}
    few, many = (make(kind, draws=10, **wide) for _ in range(2))
    fit(few, world(60), replace(FULL, max_updates=400))
    fit(many, world(3000), replace(FULL, max_updates=400))
    assert epistemic(few, 3.0, 4.0) > 1.15 * epistemic(many, 3.0, 4.0)


# ---- fits -----------------------------------------------------------------------------------------------------------


def numbers(trainer: ModelTrainer) -> dict[str, Any]:
    return {"model": dict(trainer.model.state_dict()), "trainer": trainer.state_dict()}


@KIND
def test_seeded_fits_are_bit_equal_whatever_the_global_generator(kind: str) -> None:
    trainers = [ModelTrainer(make(kind), QUICK, seed) for seed in (0, 0, 1)]
    reports = []
    for i, trainer in enumerate(trainers):
        torch.manual_seed(i)
        before = torch.get_rng_state()
        reports.append(trainer.fit(world(200)))
        assert torch.equal(torch.get_rng_state(), before)
    assert reports[0] == reports[1] != reports[2]
    assert same_numbers(numbers(trainers[0]), numbers(trainers[1]))


@KIND
def test_a_resumed_fit_equals_an_uninterrupted_one(kind: str) -> None:
    straight = ModelTrainer(make(kind), QUICK, 0)
    straight.fit(world(200))
    batch = world(200).gather(np.arange(8), 2)
    straight.update(batch)
    resumed = ModelTrainer(make(kind, seed=9), QUICK, 5)
    resumed.model.load_state_dict(copy.deepcopy(straight.model.state_dict()))
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    torch.manual_seed(77)
    for trainer in (straight, resumed):
        trainer.update(batch)
        trainer.fit(world(300))
    assert same_numbers(numbers(straight), numbers(resumed))


@KIND
def test_the_noise_of_training_is_fresh(kind: str) -> None:
    model, batch = make(kind), world(200).gather(np.arange(60), 2)
    model.before_fit(batch)
    losses = [model.loss(batch).total.item() for _ in range(3)]
    assert len(set(losses)) == (1 if kind == "swag" else 3)


@KIND
def test_the_held_out_error_is_the_mixtures_likelihood(kind: str, fitted: dict[str, PosteriorNetwork]) -> None:
    model, batch = copy.deepcopy(fitted[kind]), world(200, seed=5).gather(np.arange(100), 2)
    data = model._transitions(batch)
    mean, variance = moments(model, data.obs[:, 0], batch.action[:, 0, 0])
    if kind == "swag":
        for buffer in (b for name, b in model.named_buffers() if "deviation" in name):
            buffer.zero_()  # the network itself is judged: in a fit its draws are those of the fit before
        mean, variance = moments(model, data.obs[:, 0], batch.action[:, 0, 0])
    true = torch.cat([data.next_obs, data.target[:, -1:]], 1)
    total = (variance.mean(0) + mean.var(0, unbiased=False)) / model.target_std.square()
    rows = ((mean.mean(0) - true) / model.target_std).square() / total + total.log()
    expected = (rows.mean(1) * data.weight[0]).sum() / data.weight.sum()
    with torch.no_grad():
        assert model.holdout_error(batch).item() == pytest.approx(expected.item(), rel=1e-4)


@KIND
def test_ends_are_learned_and_judged(kind: str) -> None:
    model, replay = make(kind), world(1500, ends=True)
    fit(model, replay, replace(QUICK, max_epochs=6, learning_rate=2e-2))
    x = torch.tensor([[-2.0], [2.0]])
    state = TransitionState(x, torch.zeros(2, dtype=torch.int64))
    _, step = model.predict(state, torch.tensor([[-1.0], [1.0]]), sample=False)
    assert step.terminated.tolist() == [False, True]
    batch = replay.gather(replay.windows(2)[:100], 2)
    with torch.no_grad():
        judged = model.holdout_error(batch)
        data = model._transitions(batch)
        ends = (model._termination_error(model._normalise(data.x), data) * data.weight).sum() / data.weight.sum()
        model._can_terminate = False
        torch.testing.assert_close(judged - model.holdout_error(batch), ends[None], rtol=1e-3, atol=1e-5)


@KIND
def test_weight_decay_names_the_dynamics_weights(kind: str) -> None:
    model = make(kind, weight_decay=(1e-3, 0.0))
    name = "net.mean.weights.0" if kind == "bayes_by_backprop" else "net.weights.0"
    assert model.weight_decay() == {name: 1e-3}
    assert name in dict(model.named_parameters())


# ---- where they are used --------------------------------------------------------------------------------------------


@KIND
def test_a_checkpoint_keeps_the_draws(kind: str, fitted: dict[str, PosteriorNetwork], tmp_path: Any) -> None:
    model, replay = fitted[kind], world(100)
    save_model(tmp_path / "model", StoredModel(model, replay.starts(kind="resets"), None, 10))
    loaded = load_model(tmp_path / "model", "cpu").model
    assert isinstance(loaded, type(model))
    assert loaded.config == model.config
    x, a = torch.linspace(-3, 3, 9), torch.zeros(9)
    for mine, theirs in zip(moments(model, x, a), moments(loaded, x, a), strict=True):
        assert torch.equal(mine, theirs)


@KIND
@pytest.mark.parametrize("particles", [1, 10])
def test_a_frozen_model_predicts_the_same(kind: str, particles: int, fitted: dict[str, PosteriorNetwork]) -> None:
    model = fitted[kind]
    frozen, rounded = model.frozen(bfloat16_rows=None), model.frozen(bfloat16_rows=1)
    state = TransitionState(torch.linspace(-3, 3, 8)[:, None], torch.arange(8))
    state = state if particles == 1 else model.branch(state, particles)
    action = torch.zeros(8 * particles, 1)
    for uncertainty in (True, False):
        for contestant, tolerance in ((frozen, 1e-4), (rounded, 0.05)):
            generators = [torch.Generator().manual_seed(1) for _ in range(2)]
            mine = model.predict(state, action, generators[0], uncertainty=uncertainty)
            theirs = contestant.predict(state, action, generators[1], uncertainty=uncertainty)
            torch.testing.assert_close(theirs[0].obs, mine[0].obs, rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(theirs[1].uncertainty, mine[1].uncertainty, rtol=tolerance, atol=tolerance)
    assert type(frozen.twin()) is type(model)
    assert frozen.frozen() is frozen
    assert not any(p.requires_grad for p in frozen.parameters())
    with pytest.raises(RuntimeError, match="a frozen model cannot be changed"):
        frozen.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match="a frozen model cannot be trained"):
        frozen.loss(world(100).gather(np.arange(8), 2))


@KIND
def test_environments_and_planners_work_in_them(kind: str, fitted: dict[str, PosteriorNetwork]) -> None:
    model = fitted[kind].frozen()
    env = LearnedVectorEnv(model, world(100).starts(kind="resets"), num_envs=6, horizon=5)
    env.reset(seed=0)
    for _ in range(6):
        obs, reward, *_ = env.step(env.action_space.sample())
        assert np.isfinite(obs).all()
        assert np.isfinite(reward).all()
    planner = CEM(model.action_codec, CEMConfig(candidates=40, elites=8, iterations=3, horizon=3, particles=20))
    state = TransitionState(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))
    plan = planner.plan(model, state, planner.initial(2), torch.Generator().manual_seed(0))
    assert (plan.action > 0.3).all()  # a push to the right is what rewards
    assert not plan.non_finite.any()


# ---- MC dropout -----------------------------------------------------------------------------------------------------


def test_masks_drop_units_and_scale_the_others() -> None:
    model = make("mc_dropout", dropout=0.25, draws=4000)
    mask = model.get_buffer("mask0")
    assert mask.shape == (4000, 16)
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert (mask == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert isinstance(model, MCDropout)
    x, (weights, biases) = torch.randn(3, 2), (model.net.weights, model.net.biases)
    hidden = silu(x @ weights[0][0] + biases[0][0])
    expected = torch.stack([(hidden * m) @ weights[1][0] + biases[1][0] for m in mask[:5]])
    found = model._net(x, False)
    torch.testing.assert_close(found[:5], expected)
    torch.testing.assert_close(found.mean(0), hidden @ weights[1][0] + biases[1][0], atol=0.02, rtol=0.0)


def test_training_drops_per_row_with_the_same_scale() -> None:
    model = make("mc_dropout", dropout=0.25)
    torch.manual_seed(1)
    x = torch.randn(1, 2)
    drawn = model._fresh(x.expand(20_000, 2))[0].detach()
    assert len(drawn[:, 0].unique()) > 1000
    masked = make("mc_dropout", draws=20_000, dropout=0.25)._net(x, False)[:, 0].detach()
    torch.testing.assert_close(drawn.mean(0), masked.mean(0), atol=5e-3, rtol=0.0)
    torch.testing.assert_close(drawn.std(0), masked.std(0), atol=0.0, rtol=0.05)


def test_more_dropout_is_more_uncertainty() -> None:
    little, much = (make("mc_dropout", dropout=p, draws=64) for p in (0.05, 0.4))
    assert epistemic(much, 1, 2) > 2 * epistemic(little, 1, 2)


# ---- Bayes by backprop ----------------------------------------------------------------------------------------------


def backprop(**change: Any) -> BayesByBackprop:
    model = make("bayes_by_backprop", **change)
    assert isinstance(model, BayesByBackprop)
    return model


def test_the_divergence_counts_by_the_number_of_transitions() -> None:
    model, replay = backprop(divergence_weight=0.3), world(400)
    batch = replay.gather(replay.windows(2), 2)
    assert model.loss(batch[:8]).terms["divergence"] == 0  # no fit has said how many there are
    model.before_fit(batch)
    assert model.rows.item() == 400
    found = model.loss(batch[:8])
    expected = model.net.divergence().item() * 0.3 * 2 / (400 * 2)  # two targets
    assert found.terms["divergence"].item() == pytest.approx(expected, rel=1e-5)
    torch.manual_seed(0)
    total = model.loss(batch[:8]).total.item()
    torch.manual_seed(0)
    plain = super(BayesByBackprop, model).loss(batch[:8]).total.item()
    assert total - plain == pytest.approx(expected, rel=1e-3)


def test_transitions_in_overlapping_windows_count_once() -> None:
    rng = np.random.default_rng(0)
    replay = SequenceReplay(LINE, TORQUE, 1000)
    replay.begin(rng.normal(size=(1, 1)).astype(np.float32))
    for _ in range(200):
        no = np.zeros(1, bool)
        replay.add(np.zeros((1, 1), np.float32), rng.normal(size=(1, 1)).astype(np.float32), [0.0], no, no)
    model = backprop()
    model.before_fit(replay.gather(replay.windows(5), 5))
    assert model.rows.item() == pytest.approx(200, rel=0.03)


def test_draws_are_means_plus_deviations_times_noise() -> None:
    model = backprop()
    weights, biases = model._drawn()
    for i, (mean, deviation, bias, bias_deviation) in enumerate(model.net.layers()):
        torch.testing.assert_close(weights[i], mean + deviation * model.get_buffer(f"weight_noise{i}"))
        torch.testing.assert_close(biases[i], bias + bias_deviation * model.get_buffer(f"bias_noise{i}"))
    nn.init.constant_(model.net.weight_rho[0], -30.0)  # draws follow the deviations
    torch.testing.assert_close(model._drawn()[0][0], model.net.mean.weights[0].expand(4, -1, -1))


def test_hyperparameters_of_the_prior_and_the_posterior_matter() -> None:
    def after(**change: Any) -> BayesByBackprop:
        model = backprop(**change)
        fit(model, world(200), replace(QUICK, max_epochs=20, learning_rate=2e-2))
        return model

    def size(model: BayesByBackprop) -> float:
        return sum(w.square().sum().item() for w in model.net.mean.weights)

    plain = size(after(divergence_weight=1.0))
    assert size(after(divergence_weight=30.0)) < 0.8 * plain
    assert size(after(divergence_weight=1.0, prior_deviations=(0.1, 1.0))) < 0.8 * plain
    narrow = {"divergence_weight": 1.0, "prior_share": 0.5}
    assert size(after(**narrow, prior_deviations=(0.1, 0.1))) < 0.8 * size(after(**narrow, prior_deviations=(0.1, 2.0)))
    assert epistemic(backprop(initial_deviation=0.3), 1, 2) > 3 * epistemic(backprop(initial_deviation=0.03), 1, 2)


# ---- SWAG -----------------------------------------------------------------------------------------------------------


def test_swag_averages_where_a_constant_rate_leads() -> None:
    change = {"collections": 5, "interval": 7, "rank": 3, "rate": 0.3}
    trainer, replay = ModelTrainer(make("swag", **change), QUICK, 0), world(200)
    met: list[dict[str, Tensor]] = []
    rates: list[float] = []
    make_collector = trainer.model.collector

    def watched() -> Any:
        collector = make_collector()
        collect = collector.collect

        def note() -> None:
            met.append({name: p.detach().clone() for name, p in trainer.model.named_parameters()})
            rates.append(trainer.optimizer.param_groups[0]["lr"])
            collect()

        collector.collect = note
        return collector

    trainer.model.collector = watched
    report = trainer.fit(replay)
    assert len(met) == 5
    assert rates == pytest.approx([0.3 * QUICK.learning_rate] * 5)
    windows = report.windows
    assert report.updates == trainer.updates == 3 * math.ceil(windows / 32) + 5 * 7
    assert trainer.optimizer.param_groups[0]["lr"] == QUICK.learning_rate
    for name, p in trainer.model.named_parameters():
        torch.testing.assert_close(p, torch.stack([weights[name] for weights in met]).mean(0))
    held = trainer._split(replay)[1]
    assert held is not None
    assert report.holdout_error == trainer._holdout_error(held).tolist()  # of the mean, not of what was selected


def test_swags_draws_deviate_from_the_mean_as_they_were_met() -> None:
    model = make("swag", draws=400, collections=10, interval=10, rank=10, scale=2.0)
    assert epistemic(model, 1, 2) < 1e-6  # before any fit there is one network
    fit(model, world(200), replace(QUICK, max_epochs=10))
    assert isinstance(model, SWAG)
    weights, biases = model._drawn()
    for drawn, mean in zip((*weights, *biases), (*model.net.weights, *model.net.biases), strict=True):
        torch.testing.assert_close(drawn.mean(0), mean[0], atol=0.02, rtol=0.0)
        assert drawn.std() > 0
    before = model._drawn()[0][0] - model.net.weights[0]
    nn.init.zeros_(model.net.weights[0])
    torch.testing.assert_close(model._drawn()[0][0], before)  # draws follow the parameters


def test_swags_hyperparameters_matter() -> None:
    def after(**change: Any) -> float:
        model = make("swag", **{"draws": 64, "collections": 10, "interval": 10, "rank": 10, **change})
        fit(model, world(200), replace(QUICK, max_epochs=25))
        return epistemic(model, 1, 2)

    plain = after()
    assert after(scale=2.0) == pytest.approx(2 * plain, rel=0.1)  # a factor of the covariance
    assert after(rate=2.0) > 1.2 * plain
    others = [after(rank=2), after(collections=12), after(interval=12)]
    assert len({plain, *others}) == 4


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (MCDropoutConfig, {"draws": 0}, "draws must be at least 1, got 0"),
        (MCDropoutConfig, {"dropout": 0.0}, "dropout must be above 0 and below 1, got 0.0"),
        (MCDropoutConfig, {"dropout": 1.0}, "dropout must be above 0 and below 1, got 1.0"),
        (MCDropoutConfig, {"hidden": (0,)}, "hidden widths must be at least 1"),
        (BayesByBackpropConfig, {"prior_share": 0.0}, "prior_share must be above 0 and at most 1, got 0.0"),
        (BayesByBackpropConfig, {"prior_share": 1.1}, "prior_share must be above 0 and at most 1, got 1.1"),
        (BayesByBackpropConfig, {"prior_deviations": (1.0, 0.0)}, "prior_deviations must be two positive numbers"),
        (BayesByBackpropConfig, {"prior_deviations": (1.0,)}, "prior_deviations must be two positive numbers"),
        (BayesByBackpropConfig, {"initial_deviation": 0.0}, "initial_deviation must be positive, got 0.0"),
        (BayesByBackpropConfig, {"divergence_weight": -1.0}, "divergence_weight must be at least 0, got -1.0"),
        (SWAGConfig, {"interval": 0}, "interval must be at least 1, got 0"),
        (SWAGConfig, {"rate": 0.0}, "rate must be positive, got 0.0"),
        (SWAGConfig, {"rank": 1}, "rank must be between 2 and collections = 40, got 1"),
        (SWAGConfig, {"collections": 19}, "rank must be between 2 and collections = 19, got 20"),
        (SWAGConfig, {"scale": -0.5}, "scale must be at least 0, got -0.5"),
    ],
)
def test_bad_configurations_are_refused(config: type, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**change)
