"""Planners in tiny exact worlds: optima that can be computed, returns that are not finite, memory and randomness."""

import json
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from mbrl_gym import ActionCodec, ModelLoss, Prediction, TensorStruct, WorldModel
from mbrl_gym.planners import (
    CEM,
    ICEM,
    MCTS,
    MPPI,
    PLANNERS,
    CEMConfig,
    GradientConfig,
    GradientPlanner,
    ICEMConfig,
    MPPIConfig,
    RandomShooting,
    RandomShootingConfig,
)

PUSH = spaces.Box(-3.0, 3.0, (1,), np.float32)
PUSHES = spaces.Box(-3.0, 3.0, (2,), np.float32)
CONTINUOUS = ["cem", "gradient", "icem", "mppi", "random_shooting"]
SMALL = {
    "random_shooting": RandomShootingConfig(candidates=12, horizon=4, particles=2),
    "cem": CEMConfig(candidates=12, elites=4, iterations=3, horizon=4, particles=2),
    "icem": ICEMConfig(candidates=12, elites=4, iterations=3, horizon=4, particles=2),
    "mppi": MPPIConfig(candidates=12, iterations=3, horizon=4, particles=2),
    "gradient": GradientConfig(candidates=4, steps=3, horizon=4, particles=2),
}
GOOD = {
    "random_shooting": RandomShootingConfig(candidates=2000, horizon=1),
    "cem": CEMConfig(candidates=200, elites=20, iterations=10, horizon=8, particles=1, epsilon=1e-6),
    "icem": ICEMConfig(candidates=300, elites=15, iterations=10, horizon=8, particles=1, noise_exponent=0.5),
    "mppi": MPPIConfig(candidates=300, iterations=12, horizon=8, particles=1, temperature=0.005, deviation=0.15),
    "gradient": GradientConfig(candidates=8, steps=80, learning_rate=0.05, horizon=8, particles=1),
}

EVERYWHERE = [(name, PUSHES) for name in SMALL] + [
    (n, s) for n in ("cem", "random_shooting") for s in (spaces.Discrete(3), spaces.MultiBinary(2))
]


@dataclass(frozen=True)
class Point(TensorStruct):
    x: torch.Tensor
    """[B, D]"""


class World(WorldModel[Point]):
    """``move(x, action) -> x``, ``reward(x, action, next x)`` and ``ends(next x)`` are given; all actions are noted."""

    config_class = dict

    def __init__(self, reward, action_space=PUSH, move=lambda x, a: x, ends=None, noise=0.0, device=None):
        super().__init__(spaces.Box(-9, 9, (1,)), action_space, None)
        self.reward, self.move, self.ends, self.noise, self.seen = reward, move, ends, noise, []
        self.scale = torch.nn.Parameter(torch.ones((), device=device))

    def initial(self, batch_size):
        return Point(torch.zeros(batch_size, 1))

    def observe(self, state, action, obs, is_first, generator=None):
        return Point(obs)

    def predict(self, state, action, generator=None, sample=True, uncertainty=True):
        self.seen.append(action.detach())
        x = self.move(state.x, action * self.scale)
        x = x + self.noise * torch.randn(x.shape, generator=generator, device=x.device)
        reward = self.reward(state.x, action * self.scale, x)
        no = torch.zeros_like(reward, dtype=torch.bool)
        terminated = no if self.ends is None else self.ends(x)
        return Point(x), Prediction(reward, terminated, no, 1 - terminated.float(), torch.zeros_like(reward))

    def features(self, state):
        return state.x

    def decode(self, state):
        return state.x

    def loss(self, batch, start=None):
        return ModelLoss(self.scale.square(), {})


def to_target(x, action, _):
    """The state says which action is best."""
    return -(action - x).square().sum(-1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def planner_of(name, config=None, space=PUSH, **changes):
    config = config or SMALL[name]
    return PLANNERS[name](ActionCodec(space), replace(config, **changes))


def plan_of(planner, model, x, seed=0, carry=None):
    state = Point(torch.as_tensor(x, dtype=torch.float32))
    carry = planner.initial(state.batch_size) if carry is None else carry
    return planner.plan(model, state, carry, seeded(seed))


def equal(a, b):
    return all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))


# --- optima ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_optimum_of_a_quadratic_is_found(name):
    world = World(to_target, PUSHES)
    target = [[0.5, -0.3], [-0.85, 0.0], [0.1, 0.7]]
    planner = planner_of(name, GOOD[name], PUSHES, horizon=1)
    plan = plan_of(planner, world, target)
    tolerance = 0.07 if name == "random_shooting" else 0.02
    torch.testing.assert_close(plan.action, torch.tensor(target), atol=tolerance, rtol=0)
    assert plan.action.shape == (3, 2)
    assert (plan.value > -2 * tolerance**2).all()
    assert (plan.value <= 0).all()
    assert plan.non_finite.tolist() == [0, 0, 0]
    assert plan.non_finite.dtype == torch.int64


@pytest.mark.parametrize("name", ["cem", "icem", "mppi", "gradient"])
def test_a_best_action_on_the_bound_is_approached_and_not_passed(name):
    world = World(lambda x, a, _: a[:, 0] - x[:, 0] * a[:, 0] * 2)  # +1 is best at x = 0, -1 at x = 1
    planner = planner_of(name, GOOD[name])
    plan = plan_of(planner, world, [[0.0], [1.0]])
    assert plan.action.abs().max() <= 1
    assert plan.action[0, 0] > 0.9
    assert plan.action[1, 0] < -0.9
    assert max(float(action.abs().max()) for action in world.seen) <= 1


TRANSITION = np.array([[1.0, 0.2], [0.0, 1.0]])
CONTROL = np.array([[0.02], [0.2]])
STATE_COST, ACTION_COST = np.diag([1.0, 0.1]), np.array([[0.05]])


def lqr(horizon):
    """Riccati recursion: the first gain and the cost-to-go of costs x'Qx + a'Ra, x that which follows a."""
    cost_to_go, gain = np.zeros((2, 2)), None
    for _ in range(horizon):
        inner = STATE_COST + cost_to_go
        gain = np.linalg.solve(ACTION_COST + CONTROL.T @ inner @ CONTROL, CONTROL.T @ inner @ TRANSITION)
        closed = TRANSITION - CONTROL @ gain
        cost_to_go = closed.T @ inner @ closed + gain.T @ ACTION_COST @ gain
    return gain, cost_to_go


def linear_world():
    transition, control = torch.tensor(TRANSITION).float(), torch.tensor(CONTROL).float()
    weight = torch.tensor(np.diag(STATE_COST)).float()
    return World(
        lambda x, a, new: -(new.square() @ weight) - 0.05 * a.square().sum(-1),
        move=lambda x, a: x @ transition.T + a @ control.T,
    )


@pytest.mark.parametrize("name", ["cem", "icem", "mppi", "gradient"])
def test_the_cost_of_lqr_is_reached_open_and_closed_loop(name):
    world, planner = linear_world(), planner_of(name, GOOD[name])
    start = torch.tensor([[0.2, 0.1], [-0.3, 0.2]])
    gain, cost_to_go = lqr(planner.config.horizon)
    optimal = np.einsum("bi,ij,bj->b", start, cost_to_go, start)
    plan = plan_of(planner, world, start)
    assert (plan.value.numpy() <= -optimal + 1e-5).all()
    assert (plan.value.numpy() >= -optimal * 1.02).all()

    state, carry, cost = Point(start), planner.initial(2), torch.zeros(2)
    linear, linear_cost, generator = start.numpy(), np.zeros(2), seeded(1)
    for _ in range(10):
        plan = planner.plan(world, state, carry, generator)
        state, step = world.predict(state, plan.action)
        cost, carry = cost - step.reward.detach(), plan.carry
        action = -linear @ gain.T
        assert np.abs(action).max() < 1  # the bounds do not matter here
        linear = linear @ TRANSITION.T + action @ CONTROL.T
        linear_cost += np.einsum("bi,ij,bj->b", linear, STATE_COST, linear) + 0.05 * (action**2).sum(-1)
    assert (cost.numpy() <= linear_cost * 1.02).all()


# --- every hyperparameter has an effect -----------------------------------------------------------------------------

OTHER = {
    "random_shooting": {"candidates": 13, "horizon": 5, "particles": 3, "discount": 0.5},
    "cem": {
        "candidates": 13,
        "elites": 5,
        "iterations": 4,
        "horizon": 5,
        "particles": 3,
        "alpha": 0.3,
        "epsilon": 0.1,
        "discount": 0.5,
        "init_deviation": 0.3,
        "bounds": "clipped",
    },
    "icem": {
        "candidates": 13,
        "elites": 5,
        "iterations": 4,
        "horizon": 5,
        "particles": 3,
        "alpha": 0.3,
        "noise_exponent": 1.0,
        "decay": 1.0,
        "kept_fraction": 0.8,
        "init_deviation": 0.3,
        "discount": 0.5,
    },
    "mppi": {
        "candidates": 13,
        "iterations": 4,
        "horizon": 5,
        "particles": 3,
        "temperature": 0.3,
        "deviation": 0.3,
        "noise_correlation": 0.1,
        "discount": 0.5,
    },
    "gradient": {
        "candidates": 5,
        "steps": 4,
        "learning_rate": 0.2,
        "horizon": 5,
        "particles": 3,
        "init_deviation": 0.3,
        "discount": 0.5,
    },
}


def wandering(x, action, new):
    return -(new[:, 0] - 1).square() - 0.3 * action[:, 0].square()


@pytest.mark.parametrize(("name", "field"), [(name, field) for name in SMALL for field in OTHER[name]])
def test_every_hyperparameter_changes_the_plan(name, field):
    world = World(wandering, move=lambda x, a: x + a, noise=0.1)
    assert set(OTHER[name]) == {f.name for f in fields(SMALL[name])}

    def two_plans(config):
        planner, x = planner_of(name, config), torch.linspace(0, 2, 30)[:, None]
        first = plan_of(planner, world, x)
        return plan_of(planner, world, x, 1, first.carry)

    base, other = two_plans(SMALL[name]), two_plans(replace(SMALL[name], **{field: OTHER[name][field]}))
    assert equal(base, two_plans(SMALL[name]))  # so that what differs comes from the field
    assert not torch.equal(base.action, other.action)


@pytest.mark.parametrize("name", SMALL)
def test_imagined_steps_are_those_of_the_model(name):
    world, planner = World(to_target), planner_of(name)
    plan_of(planner, world, [[0.3]])
    assert sum(len(action) for action in world.seen) == planner.imagined_steps


@pytest.mark.parametrize("name", SMALL)
def test_returns_are_discounted_and_the_mean_over_particles(name):
    ones = World(lambda x, a, _: torch.ones(len(a)) + 0 * a[:, 0])
    plan = plan_of(planner_of(name, discount=0.5), ones, [[0.0]])
    assert float(plan.value) == 1 + 0.5 + 0.25 + 0.125
    noisy = World(lambda x, a, new: new[:, 0], noise=1.0)
    planner = planner_of(name, horizon=1, particles=16)
    returns, lost = planner.evaluate(noisy, Point(torch.zeros(100, 1)), torch.zeros(100, 30, 1, 1), seeded())
    assert returns.shape == (100, 30)
    assert float(returns.std()) == pytest.approx(0.25, abs=0.02)
    assert lost.tolist() == [0] * 100


@pytest.mark.parametrize("name", SMALL)
def test_a_config_goes_through_json_and_is_checked(name):
    cls = type(SMALL[name])
    assert cls(**json.loads(json.dumps(asdict(SMALL[name])))) == SMALL[name]
    assert PLANNERS[name](ActionCodec(PUSH)).config == cls()
    with pytest.raises(ValueError, match=f"config must be a {cls.__name__} for .*, got 3"):
        PLANNERS[name](ActionCodec(PUSH), 3)


BAD = [
    ("candidates", 0),
    ("candidates", 2.5),
    ("horizon", 0),
    ("horizon", True),
    ("particles", 0),
    ("discount", 0.0),
    ("discount", 1.1),
    ("discount", float("nan")),
    ("iterations", 0),
    ("steps", 0),
    ("elites", 0),
    ("elites", 13),
    ("alpha", 1.0),
    ("alpha", -0.1),
    ("epsilon", -1.0),
    ("init_deviation", -0.1),
    ("init_deviation", float("inf")),
    ("bounds", "wrapped"),
    ("noise_exponent", -1.0),
    ("decay", 0.9),
    ("kept_fraction", 1.5),
    ("temperature", 0.0),
    ("deviation", 0.0),
    ("noise_correlation", 1.0),
    ("learning_rate", 0.0),
]


@pytest.mark.parametrize(("field", "value"), BAD)
def test_a_bad_value_is_refused_by_name_and_value(field, value):
    assert {name for name, _ in BAD} == {f.name for config in SMALL.values() for f in fields(config)}
    checked = 0
    for config in SMALL.values():
        if hasattr(config, field):
            with pytest.raises(ValueError, match=rf"^{field} must .*got {value!r}$"):
                replace(config, **{field: value})
            checked += 1
    assert checked


# --- returns that are not finite ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_return_that_is_not_finite_never_wins_and_is_counted(name, bad):
    # A peer replaces NaN by nearly zero, and then its CEM converges to -0.74 here.
    world = World(lambda x, a, _: torch.where(a[:, 0] < -0.5, bad, -100 - (a[:, 0] - 0.5).square()))
    wide = {"deviation": 0.5, "candidates": 1000} if name == "mppi" else {}
    planner = planner_of(name, GOOD[name], horizon=1, particles=2, **wide)
    plan = plan_of(planner, world, [[0.0]])
    torch.testing.assert_close(plan.action, torch.tensor([[0.5]]), atol=0.02, rtol=0)
    assert -100.01 < float(plan.value) <= -100
    lost = sum(int((action < -0.5).sum()) for action in world.seen)
    assert lost > 0
    assert int(plan.non_finite) == lost // 2  # two particles are one candidate


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_row_without_a_finite_return_keeps_its_plan_and_disturbs_no_other(name):
    def reward(x, action, _):
        return torch.where(x[:, 0] > 5, torch.nan, to_target(x, action, None))

    planner = planner_of(name)
    first = plan_of(planner, World(reward), [[0.4], [-0.4]])
    broken = plan_of(planner, World(reward), [[0.4], [9.0]], 1, first.carry)
    whole = plan_of(planner, World(reward), [[0.4], [-0.4]], 1, first.carry)
    assert equal(broken[:1], whole[:1])
    assert float(whole.value[1]) > -10
    assert broken.value[1] == -torch.inf
    assert all(x.isfinite().all() for x in [broken.action, *broken.carry.tensors()])
    per_step = planner.config.horizon * planner.config.particles
    assert broken.non_finite.tolist() == [0, planner.imagined_steps // per_step]
    if name != "random_shooting":  # which has no plan to keep
        sequence = first.carry.tensors()[0]
        torch.testing.assert_close(broken.action[1], sequence[1, 0])
        torch.testing.assert_close(broken.carry.tensors()[0][1, :-1], sequence[1, 1:])


def test_elites_that_are_not_finite_do_not_count():
    def rare(x, action, _):
        return torch.where(action[:, 0] > 0.8, -(action[:, 0] - 0.9).square(), torch.nan)

    world = World(rare)
    config = CEMConfig(candidates=400, elites=40, iterations=1, horizon=1, particles=1, alpha=0.0)
    plan = plan_of(planner_of("cem", config), world, [[0.0]])
    finite = world.seen[0][world.seen[0] > 0.8]
    assert 0 < len(finite) < 40
    torch.testing.assert_close(plan.action[0, 0], finite.mean())


def test_clipped_normals_are_at_a_bound_at_once():
    """Where the best action is a bound, as in a swing-up, three iterations come to it if they are clipped."""
    found = {}
    for bounds in ("truncated", "clipped"):
        config = CEMConfig(candidates=100, elites=10, iterations=3, horizon=1, particles=1, alpha=0.0, bounds=bounds)
        found[bounds] = plan_of(planner_of("cem", config), World(lambda x, action, _: action[:, 0]), [[0.0]]).action
    assert found["clipped"].item() == 1.0
    assert found["truncated"].item() < 0.97


# --- CEM, iCEM and MPPI, recomputed from what the model saw ----------------------------------------------------------


def seen_candidates(world, planner, counts):
    """The candidates [N, H, A] of each iteration of a plan of one environment, by their numbers."""
    horizon, result = planner.config.horizon, []
    for i, number in enumerate(counts):
        steps = world.seen[i * horizon : (i + 1) * horizon]
        assert all(len(step) == number for step in steps)
        result.append(torch.stack(steps, dim=1).double().numpy())
    assert len(world.seen) == horizon * len(counts)
    return result


def returns_of(candidates, target):
    return -((candidates - target) ** 2).sum((1, 2))


def test_cem_is_that_of_pets():
    config = CEMConfig(candidates=30, elites=6, iterations=3, horizon=2, particles=1, alpha=0.2)
    world, planner = World(to_target), planner_of("cem", config)
    carry = planner.initial(1)
    carry = replace(carry, centre=torch.tensor([[[0.7], [-0.2]]]))
    plan = plan_of(planner, world, [[0.4]], carry=carry)
    mean, variance = carry.centre[0].double().numpy(), np.full((2, 1), 0.25)  # reset, whatever came before
    for candidates in seen_candidates(world, planner, [30] * 3):
        deviation = np.sqrt(np.minimum(np.minimum(((mean + 1) / 2) ** 2, ((1 - mean) / 2) ** 2), variance))
        ratio = np.abs(candidates - mean) / deviation
        assert ratio.max() <= 2 + 1e-5
        assert ratio.max() > 1.5  # and the room is used
        elites = candidates[np.argsort(-returns_of(candidates, 0.4))[:6]]
        mean = 0.2 * mean + 0.8 * elites.mean(0)
        variance = 0.2 * variance + 0.8 * elites.var(0)
    np.testing.assert_allclose(plan.action[0], mean[0], atol=1e-5)  # the mean, not the best
    np.testing.assert_allclose(plan.carry.centre[0], [mean[1], [0.0]], atol=1e-5)
    np.testing.assert_allclose(plan.value[0], returns_of(candidates, 0.4).max(), atol=1e-5)


def test_a_row_whose_variance_fell_below_epsilon_is_finished():
    world = World(to_target)
    frozen = plan_of(planner_of("cem", epsilon=0.25), world, [[0.4]])  # the first variance is not above it
    assert float(frozen.action) == 0
    once = plan_of(planner_of("cem", iterations=1, particles=1), world, [[0.4]])
    stopped = plan_of(planner_of("cem", iterations=6, particles=1, epsilon=0.2), world, [[0.4]])
    assert torch.equal(once.action, stopped.action)


def test_icem_is_that_of_the_paper():
    config = ICEMConfig(
        candidates=30, elites=10, iterations=3, horizon=3, particles=1, alpha=0.2, kept_fraction=0.3, decay=1.3
    )
    world, planner = World(to_target), planner_of("icem", config)
    assert config.draws == (30, 23, 20)
    carry = plan_of(planner, world, [[0.4]]).carry
    world.seen.clear()
    plan = plan_of(planner, world, [[0.4]], 1, carry)
    mean, variance = carry.mean[0].double().numpy(), np.full((3, 1), 0.25)
    kept = carry.elites[0].double().numpy()
    assert kept.shape == (3, 3, 1)
    iterations = seen_candidates(world, planner, [33, 26, 23])
    for i, candidates in enumerate(iterations):
        if i == 0:
            np.testing.assert_allclose(candidates[30:, :-1], kept[:, 1:])  # moved by one step
            assert np.abs(candidates[30:, -1] - kept[:, -1]).min() > 0  # with a new last action
        else:
            np.testing.assert_allclose(candidates[-3:], kept)
        if i == 2:
            np.testing.assert_allclose(candidates[0], mean, atol=1e-5)
        returns = returns_of(candidates, 0.4)
        elites = candidates[np.argsort(-returns)[:10]]
        mean, variance = 0.2 * mean + 0.8 * elites.mean(0), 0.2 * variance + 0.8 * elites.var(0)
        kept = elites[:3]
    np.testing.assert_allclose(plan.action[0], elites[0, 0])  # the best, not the mean
    np.testing.assert_allclose(plan.value[0], returns.max(), atol=1e-5)
    np.testing.assert_allclose(plan.carry.mean[0], mean[[1, 2, 2]], atol=1e-5)
    np.testing.assert_allclose(plan.carry.elites[0], kept)


@pytest.mark.parametrize(("exponent", "correlation"), [(0.0, 0.0), (3.0, 0.8)])
def test_the_candidates_of_icem_are_coloured_along_the_horizon(exponent, correlation):
    config = ICEMConfig(
        candidates=4000, elites=1, iterations=1, horizon=8, particles=1, noise_exponent=exponent, init_deviation=0.1
    )
    world, planner = World(to_target, PUSHES), planner_of("icem", config, PUSHES)
    plan_of(planner, world, [[0.0, 0.0]])
    (candidates,) = seen_candidates(world, planner, [4000])
    np.testing.assert_allclose(candidates[1:].std(0), 0.1, rtol=0.06)
    assert np.corrcoef(candidates[:, 3, 0], candidates[:, 4, 0])[0, 1] == pytest.approx(correlation, abs=0.1)
    assert np.corrcoef(candidates[:, 3, 0], candidates[:, 3, 1])[0, 1] == pytest.approx(0, abs=0.05)


def test_a_fresh_icem_has_draws_where_there_are_no_elites():
    config = ICEMConfig(candidates=30, elites=10, iterations=1, horizon=3, particles=1)
    world, planner = World(to_target), planner_of("icem", config)
    plan_of(planner, world, [[0.4]])
    (candidates,) = seen_candidates(world, planner, [33])
    assert np.count_nonzero(candidates[1:]) == candidates[1:].size
    assert np.count_nonzero(candidates[0]) == 0  # the mean


def test_icem_draws_narrow_with_the_elites():
    config = ICEMConfig(candidates=200, elites=20, iterations=4, horizon=2, particles=1, kept_fraction=0.0)
    world, planner = World(to_target), planner_of("icem", config)
    plan_of(planner, world, [[0.3]])
    spreads = [candidates.std() for candidates in seen_candidates(world, planner, config.draws)]
    assert spreads[0] == pytest.approx(0.5, abs=0.08)
    assert spreads[3] < spreads[0] / 3


@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_mppi_is_a_softmax_over_temperature(temperature):
    config = MPPIConfig(candidates=25, iterations=2, horizon=2, particles=1, temperature=temperature)
    world, planner = World(to_target), planner_of("mppi", config)
    plan = plan_of(planner, world, [[0.4]])
    for candidates in seen_candidates(world, planner, [25] * 2):
        weight = np.exp(returns_of(candidates, 0.4) / temperature)
        mean = (weight[:, None, None] * candidates).sum(0) / weight.sum()
    np.testing.assert_allclose(plan.action[0], mean[0], atol=1e-5)
    np.testing.assert_allclose(plan.carry.mean[0], mean[[1, 1]], atol=1e-5)


@pytest.mark.parametrize("deviation", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_the_spread_of_mppi_is_its_deviation_at_any_correlation(deviation, correlation):
    # A peer's candidates have the deviation 0.72 whatever its sigma is.
    config = MPPIConfig(
        candidates=3000, iterations=1, horizon=4, particles=1, deviation=deviation, noise_correlation=correlation
    )
    world, planner = World(to_target), planner_of("mppi", config)
    plan_of(planner, world, [[0.0]])
    (candidates,) = seen_candidates(world, planner, [3000])
    np.testing.assert_allclose(candidates.std(0), deviation, rtol=0.06)
    found = np.corrcoef(candidates[:, 2, 0], candidates[:, 3, 0])[0, 1]
    assert found == pytest.approx(correlation, abs=0.06)


# --- discrete actions -----------------------------------------------------------------------------------------------


def lock(space, combination):
    """The state counts steps; each pays 1 for every number of the encoded action that is the combination's."""
    codec = ActionCodec(space)
    keys = codec.encode(np.asarray(combination))  # [T, A]
    shift = torch.nn.functional.pad(keys, (0, 0, 0, 8))

    def reward(x, action, _):
        key = shift[x[:, 0].long()]
        return (action == key).all(-1).float() + 0.1 * (action == key).float().sum(-1)

    return World(reward, space, move=lambda x, a: x + 1)


@pytest.mark.parametrize(
    ("space", "combination"),
    [
        (spaces.Discrete(4, start=2), [4, 2, 5, 3]),
        (spaces.MultiDiscrete([3, 2]), [[2, 0], [0, 1], [1, 1], [2, 1]]),
        (spaces.MultiBinary(3), [[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]),
    ],
    ids=["discrete", "multi-discrete", "multi-binary"],
)
def test_a_lock_is_opened(space, combination):
    world = lock(space, combination)
    config = CEMConfig(candidates=100, elites=10, iterations=4, horizon=4, particles=1)
    planner = planner_of("cem", config, space)
    carry = planner.initial(1)
    for t in range(4):
        plan = plan_of(planner, world, [[float(t)]], t, carry)
        assert planner.action_codec.decode(plan.action)[0].tolist() == combination[t]
        carry = plan.carry
        probabilities = torch.split(carry.centre, list(planner.action_codec.groups or (1,) * 3), dim=-1)
        assert all(((part >= 0) & (part <= 1 + 1e-6)).all() for part in probabilities)
        if planner.action_codec.groups:
            assert all(torch.allclose(part.sum(-1), torch.ones(())) for part in probabilities)
    codec = ActionCodec(space)
    for action in world.seen:  # every candidate is a member of the space
        assert torch.equal(codec.encode(codec.decode(action)), action)
    shooting = planner_of("random_shooting", RandomShootingConfig(candidates=500, horizon=1), space)
    plan = plan_of(shooting, world, [[0.0]])
    assert codec.decode(plan.action)[0].tolist() == combination[0]


def test_discrete_draws_follow_the_probabilities_and_the_share_of_uniform_choice():
    world = World(lambda x, a, _: torch.zeros(len(a)), spaces.Discrete(3))
    config = CEMConfig(candidates=6000, elites=1, iterations=1, horizon=1, particles=1, init_deviation=0.3)
    planner = planner_of("cem", config, spaces.Discrete(3))
    carry = replace(planner.initial(1), centre=torch.tensor([[[1.0, 0.0, 0.0]]]))
    plan_of(planner, world, [[0.0]], carry=carry)
    np.testing.assert_allclose(world.seen[0].mean(0), [0.8, 0.1, 0.1], atol=0.02)

    world = World(lambda x, a, _: torch.zeros(len(a)), spaces.MultiBinary(2))
    planner = planner_of("cem", config, spaces.MultiBinary(2))
    carry = replace(planner.initial(1), centre=torch.tensor([[[1.0, 0.2]]]))
    plan_of(planner, world, [[0.0]], carry=carry)
    np.testing.assert_allclose(world.seen[0].mean(0), [0.85, 0.29], atol=0.02)


@pytest.mark.parametrize("name", ["icem", "mppi", "gradient"])
@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)])
def test_a_space_that_cannot_be_searched_is_refused(name, space):
    with pytest.raises(ValueError, match=r"action_space must be a Box for .*, got (Multi)?(Disc|Bin).*use CEM"):
        PLANNERS[name](ActionCodec(space))


# --- rows, memory, randomness and device ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_rows_are_independent_of_each_other(name):
    world = World(wandering, move=lambda x, a: x + a, noise=0.1)
    planner = planner_of(name)
    x = [[0.2], [3.0], [-1.0]]
    one, other = plan_of(planner, world, x), plan_of(planner, world, [[9.0], [3.0], [70.0]])
    assert equal(one[1:2], other[1:2])
    assert not torch.equal(one.value[0], other.value[0])


@pytest.mark.parametrize(("name", "space"), EVERYWHERE)
def test_randomness_comes_from_the_generator_alone(name, space):
    world = World(wandering, space, move=lambda x, a: x + a[:, :1], noise=0.1)
    planner = planner_of(name, space=space)
    before = torch.get_rng_state()
    first, again, other = (plan_of(planner, world, [[0.2]], seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert equal(first, again)
    assert not torch.equal(first.value, other.value)
    state = Point(torch.tensor([[0.2]]))
    plans = []
    for _ in range(2):
        torch.manual_seed(3)
        plans.append(planner.plan(world, state, planner.initial(1)))
    assert equal(*plans)


@pytest.mark.parametrize("name", SMALL)
def test_the_carry_is_all_memory_and_tensors_alone(name):
    world, planner = World(wandering, move=lambda x, a: x + a, noise=0.1), planner_of(name)
    x, attributes = [[0.2], [0.7], [1.4]], dict(vars(planner))
    carry = plan_of(planner, world, x).carry
    assert type(carry) is type(planner.initial(3))
    assert all(len(tensor) == 3 for tensor in carry.tensors())
    assert len(carry.tensors()) == len(fields(carry))
    copy = replace(carry, **{f.name: torch.as_tensor(getattr(carry, f.name).numpy().copy()) for f in fields(carry)})
    assert equal(plan_of(planner, world, x, 1, carry), plan_of(planner, world, x, 1, copy))
    assert vars(planner) == attributes
    mask = torch.tensor([True, False, True])  # an episode begins in the second row
    mixed = plan_of(planner, world, x, 1, carry.where(mask, planner.initial(3)))
    assert equal(mixed[:1], plan_of(planner, world, x, 1, carry)[:1])
    assert equal(mixed[1:2], plan_of(planner, world, x, 1)[1:2])


@pytest.mark.parametrize("name", ["cem", "icem", "mppi", "gradient"])
def test_the_plan_before_helps_the_next(name):
    world = World(to_target)
    x = torch.linspace(-0.9, 0.9, 40)[:, None]
    small = {"steps": 4} if name == "gradient" else {"iterations": 1}
    planner = planner_of(name, candidates=24, horizon=4, particles=1, **small)
    carry = planner.initial(40)
    errors = []
    for t in range(5):
        plan = plan_of(planner, world, x, t, carry)
        carry = plan.carry
        errors.append(float((plan.value).mean()))
    fresh = plan_of(planner, world, x, 4)
    assert errors[-1] > float(fresh.value.mean()) * 0.7  # both negative: at least 30 percent better


@pytest.mark.parametrize("name", SMALL)
def test_a_carry_of_another_batch_or_horizon_is_refused(name):
    planner = planner_of(name)
    with pytest.raises(ValueError, match=r"^carry.* must .*got .*initial\(batch_size\)"):
        plan_of(planner, World(to_target), [[0.0], [1.0]], carry=planner.initial(3))
    if name != "random_shooting":
        longer = planner_of(name, horizon=7)
        with pytest.raises(ValueError, match=r"^carry.* must be \[B, H, A\] = \(2, 4, 1\), got \(2, 7, 1\)"):
            plan_of(planner, World(to_target), [[0.0], [1.0]], carry=longer.initial(2))


def test_elites_of_another_number_are_refused():
    planner, other = planner_of("icem"), planner_of("icem", kept_fraction=1.0)
    with pytest.raises(ValueError, match=r"^carry.elites must be .* = \(1, 1, 4, 1\), got \(1, 4, 4, 1\)"):
        plan_of(planner, World(to_target), [[0.0]], carry=other.initial(1))


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_terminal_value_draws_the_plan(name):
    world = World(lambda x, a, _: torch.zeros(len(a)) * a[:, 0], move=lambda x, a: x + a)
    config = replace(GOOD[name], horizon=1, discount=0.5)
    planner = PLANNERS[name](ActionCodec(PUSH), config, lambda state: -4 - (state.x[:, 0] - 1).square())
    plan = plan_of(planner, world, [[0.4]])
    assert float(plan.action) == pytest.approx(0.6, abs=0.03)
    assert float(plan.value) == pytest.approx(-2, abs=0.01)  # discounted once


@pytest.mark.parametrize("name", ["cem", "icem", "mppi", "random_shooting"])
def test_what_comes_after_the_end_does_not_count(name):
    world = World(lambda x, a, _: -torch.ones(len(a)), move=lambda x, a: a, ends=lambda x: x[:, 0] > 0.5)
    planner = planner_of(name, GOOD[name], horizon=4)
    plan = plan_of(planner, world, [[0.0]])
    assert float(plan.action) > 0.5
    assert float(plan.value) == -1
    valued = PLANNERS[name](ActionCodec(PUSH), planner.config, lambda state: torch.full_like(state.x[:, 0], 100.0))
    plan = plan_of(valued, world, [[0.0]])  # where it pays to live
    assert float(plan.action) <= 0.5
    assert float(plan.value) == 96


@pytest.mark.parametrize(("name", "space"), EVERYWHERE)
def test_nothing_is_read_on_the_host(name, space):
    # A meta tensor has no values: whoever reads one raises.
    world = World(wandering, space, move=lambda x, a: x + a[:, :1], noise=0.1, device="meta")
    planner = PLANNERS[name](ActionCodec(space), SMALL[name], lambda state: state.x[:, 0])
    state = Point(torch.zeros(5, 1, device="meta"))
    plan = planner.plan(world, state, planner.initial(5, "meta"))
    plan = planner.plan(world, state, plan.carry)
    assert all(tensor.device.type == "meta" for tensor in plan.tensors())
    assert plan.action.shape == (5, planner.action_codec.size)
    assert plan.value.shape == plan.non_finite.shape == (5,)


# --- the gradient planner -------------------------------------------------------------------------------------------


def test_the_gradient_planner_leaves_no_gradient_behind():
    world = World(to_target)
    planner = planner_of("gradient", GOOD["gradient"])
    with torch.no_grad():
        plan = plan_of(planner, world, [[0.5]])
    assert float(plan.action) == pytest.approx(0.5, abs=0.01)
    assert world.scale.grad is None
    assert world.scale.requires_grad
    assert not any(tensor.requires_grad for tensor in plan.tensors())


def test_a_gradient_that_is_not_finite_moves_nothing():
    def reward(x, action, _):
        zero = (action - action)[:, 0]
        return to_target(torch.tensor(0.5), action, None) + (zero + x[:, 0]).sqrt()  # at x = 0 its slope is inf - inf

    planner = planner_of("gradient", GOOD["gradient"], candidates=1)
    plan = plan_of(planner, World(reward), [[1.0], [0.0]])
    assert float(plan.action[0]) == pytest.approx(0.5, abs=0.01)
    assert float(plan.action[1]) == 0
    assert plan.non_finite.tolist() == [0, 0]


def test_momentum_does_not_carry_on_where_the_gradient_is_not_finite():
    def reward(x, action, _):
        a = action[:, 0]
        return a + 0.01 * ((0.3 - a) * (a < 0.3)).sqrt()  # beyond 0.3 the slope is inf * 0

    planner = planner_of("gradient", GOOD["gradient"], candidates=1, horizon=1)
    plan = plan_of(planner, World(reward), [[0.0]])
    assert 0.3 < float(plan.action) < 0.4


def test_restarts_find_the_higher_of_two_hills():
    def reward(x, action, _):
        a = action[:, 0]
        return torch.exp(-((a + 0.2) ** 2) / 0.02) + 2 * torch.exp(-((a - 0.7) ** 2) / 0.02)

    one = plan_of(planner_of("gradient", GOOD["gradient"], candidates=1, horizon=1), World(reward), [[0.0]])
    many = plan_of(planner_of("gradient", GOOD["gradient"], candidates=16, horizon=1), World(reward), [[0.0]])
    assert float(one.action) == pytest.approx(-0.2, abs=0.02)
    assert float(many.action) == pytest.approx(0.7, abs=0.02)


def test_a_model_without_gradients_is_refused():
    world = World(lambda x, a, _: to_target(x, a.detach(), None))
    with pytest.raises(ValueError, match=r"^model must be differentiable in its actions, got a World .*use ICEM"):
        plan_of(planner_of("gradient"), world, [[0.5]])


def test_the_names_of_the_planners():
    assert {
        "random_shooting": RandomShooting,
        "cem": CEM,
        "icem": ICEM,
        "mppi": MPPI,
        "gradient": GradientPlanner,
        "mcts": MCTS,
    } == PLANNERS
