"""Tree search in tables: trees worked by hand, numbers of mctx, optima, ends, divergence, rows and randomness."""

import itertools
import json
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from mbrl_gym import ActionCodec, Prediction, TensorStruct, WorldModel
from mbrl_gym.model import trajectory_return
from mbrl_gym.planners import MCTS, PLANNERS, MCTSConfig
from mbrl_gym.planners.mcts_selection import Edges, Gumbel, considered_visits, normalised

SELECTIONS = ["uct", "puct", "gumbel"]
TWO = spaces.Discrete(2)


@dataclass(frozen=True)
class Place(TensorStruct):
    at: torch.Tensor
    """[B] int64"""
    shift: torch.Tensor
    """[B] a hypothesis: what is added to every reward"""
    particles: int = 1


class Maze(WorldModel[Place]):
    """Deterministic tables [S, A]: ``following``, ``reward`` (of any float), ``ends`` and ``breaks``."""

    config_class = dict

    def __init__(self, following, reward, ends=None, breaks=None, noise=0.0):
        self.following, self.reward = torch.as_tensor(following), torch.as_tensor(reward, dtype=torch.float32)
        super().__init__(spaces.Discrete(len(self.following)), spaces.Discrete(self.following.shape[1]), None)
        none = torch.zeros(self.following.shape, dtype=torch.bool)
        self.ends = none if ends is None else torch.as_tensor(ends)
        self.breaks = none if breaks is None else torch.as_tensor(breaks)
        self.noise, self.calls, self.sampled = noise, [], []

    def initial(self, batch_size):
        return self.at(torch.zeros(batch_size, dtype=torch.int64))

    @staticmethod
    def at(places):
        places = torch.as_tensor(places)
        return Place(places, torch.zeros(len(places), device=places.device))

    def observe(self, state, action, obs, is_first, generator=None):
        return self.at(obs)

    def predict(self, state, action, generator=None, sample=True, uncertainty=True):
        assert action.shape == (len(state.at), self.following.shape[1])
        self.calls.append(len(state.at))
        self.sampled.append(sample)
        index = state.at, action.argmax(-1)
        reward = self.reward[index] + state.shift
        if sample and self.noise:
            reward = reward + self.noise * torch.randn(reward.shape, generator=generator, device=reward.device)
        ends, breaks = self.ends[index], self.breaks[index]
        info = {"diverged": breaks}
        after = replace(state, at=self.following[index])
        return after, Prediction(reward, ends, breaks, 1 - ends.float(), torch.zeros_like(reward), info)

    def branch(self, state, n):
        rows = state.repeat(n)
        shift = torch.arange(n, device=rows.at.device, dtype=torch.float32).repeat(len(state.at))
        return replace(rows, shift=shift, particles=n)

    def features(self, state):
        return state.at[:, None]

    def decode(self, state):
        return state.at

    def loss(self, batch, start=None):
        raise NotImplementedError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def planner_of(model, terminal_value=None, prior=None, **config):
    return MCTS(model.action_codec, MCTSConfig(**config), terminal_value, prior)


def table(values):
    """A function of beliefs from a value, or a row of logits, for each state."""
    values = torch.as_tensor(values, dtype=torch.float32)
    return lambda state: values[state.at]


def search(model, places=(0,), terminal_value=None, prior=None, seed=0, **config):
    return planner_of(model, terminal_value, prior, **config).search(model, model.at(list(places)), seeded(seed))


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))


# --- trees worked by hand ---------------------------------------------------------------------------------------------


def heap(size=64, **rewards):
    """A binary tree: action a leads from node i to 2 i + 1 + a; e.g. ``r5=2`` is the reward for arriving at node 5."""
    following = torch.stack([2 * torch.arange(size) + 1, 2 * torch.arange(size) + 2], -1).clamp(max=size - 1)
    reward = torch.tensor([float(rewards.get(f"r{i}", 0)) for i in range(size)])
    return Maze(following, reward[following])


def hand_worked():
    """Rewards on arrival, and values, of the nodes; the left action's prior is 0.6 at the root and 0.75 elsewhere.

           0              values: 1 at node 0
      +1 /   \\ 0                 2 at node 1, 8 at node 2
        1     2                   0 at node 3, 2 at node 4, 0 at node 5, 4 at node 6
    +4 / \\0 -2/ \\ +2            0 further down; -4 on arrival at node 7, which is left of 3
      3   4  5   6
    """
    value = torch.zeros(64)
    value[[0, 1, 2, 4, 6]] = torch.tensor([1.0, 2.0, 8.0, 2.0, 4.0])
    prior = torch.tensor([[0.75, 0.25]]).repeat(64, 1)
    prior[0] = torch.tensor([0.6, 0.4])
    return heap(r1=1, r3=4, r5=-2, r6=2, r7=-4), table(value), table(prior.log())


@pytest.mark.parametrize(
    ("simulations", "visits", "q"),
    [
        # 1: left 0.6 sqrt(1) / 1 beats 0.4. Its return is 1 + 0.5 * 2 = 2.
        (1, [1, 0], [2.0, 0.0]),
        # 2: one value has no range, so Q counts 0: left 0.6 sqrt(2) / 2 = 0.42, right 0.4 sqrt(2) = 0.57. 0.5 * 8 = 4.
        (2, [1, 1], [2.0, 4.0]),
        # 3: Q in [2, 4] counts 0 and 1: left 0.52, right 1.35. At node 2 left, 0.75: -2, at the root 0.5 * -2 = -1.
        (3, [1, 2], [2.0, 1.5]),
        # 4: Q in [-2, 2] counts 1 and 0.875: left 1.6, right 1.14. At node 1 left: 4, at the root 1 + 0.5 * 4 = 3.
        (4, [2, 2], [2.5, 1.5]),
        # 5: Q in [-2, 4] counts 0.75 and 0.58: left 1.20, right 0.88. At node 1 left again, 1 + 0.75 sqrt(2) / 2 = 1.53
        #    against 0.35, then left at node 3: -4. At node 1 that is 4 + 0.5 * -4 = 2, at the root 1 + 0.5 * 2 = 2.
        (5, [3, 2], [7 / 3, 1.5]),
    ],
)
def test_puct_agrees_with_a_tree_worked_by_hand(simulations, visits, q):
    model, value, prior = hand_worked()
    found = search(
        model, (0,), value, prior, selection="puct", simulations=simulations, discount=0.5, puct_init=1, puct_base=1e12
    )
    assert found.visits.tolist() == [visits]
    torch.testing.assert_close(found.q, torch.tensor([q]))
    torch.testing.assert_close(found.policy, found.visits / simulations)
    total = 1 + visits[0] * q[0] + visits[1] * q[1]  # with the root's own estimate
    torch.testing.assert_close(found.value, torch.tensor([total / (simulations + 1)]))
    if simulations == 5:
        assert found.action.tolist() == [[1, 0]]
    assert model.calls == [1] * simulations


@pytest.mark.parametrize(
    ("simulations", "visits", "q"),
    [
        (1, [1, 0], [2.0, 0.0]),  # of what is untried the more probable
        (2, [1, 1], [2.0, 4.0]),
        # 3: both have the bonus sqrt(ln 2), and Q counts 0 and 1: right, where left comes first, -2; 0.5 * -2 = -1.
        (3, [1, 2], [2.0, 1.5]),
        # 4: left 1 + sqrt(ln 3) = 2.05, right 0.875 + sqrt(ln 3 / 2) = 1.62. At node 1 left: 4; 1 + 0.5 * 4 = 3.
        (4, [2, 2], [2.5, 1.5]),
        # 5: left, 0.75 against 0.58. At node 1 right was not tried: 0.5 * 2 = 1; 1 + 0.5 * 1 = 1.5.
        (5, [3, 2], [6.5 / 3, 1.5]),
        # 6: left (6.5 / 3 + 2) / 6 + sqrt(ln 5 / 3) = 1.43, right 3.5 / 6 + sqrt(ln 5 / 2) = 1.48. At node 2 right was
        #    not tried: 2 + 0.5 * 4 = 4; 0.5 * 4 = 2.
        (6, [3, 3], [6.5 / 3, 5 / 3]),
    ],
)
def test_uct_agrees_with_a_tree_worked_by_hand(simulations, visits, q):
    model, value, prior = hand_worked()
    found = search(model, (0,), value, prior, selection="uct", simulations=simulations, discount=0.5, exploration=1.0)
    assert found.visits.tolist() == [visits]
    torch.testing.assert_close(found.q, torch.tensor([q]))
    if simulations == 6:
        assert found.action.tolist() == [[1, 0]]  # as often visited, of a higher value


# --- numbers of mctx 0.0.71 -------------------------------------------------------------------------------------------

REWARD = [[0.13, -0.13, 0.64], [0.1, -0.54, 0.36], [1.3, 0.95, -0.7], [-1.27, -0.62, 0.04], [-2.33, -0.22, -1.25]]
REWARD += [[-0.73, -0.54, -0.32], [0.41, 1.04, -0.13], [1.37, -0.67, 0.35], [0.9, 0.09, -0.74]]
FOLLOWING = [[7, 8, 3], [6, 8, 5], [7, 6, 6], [3, 7, 1], [5, 6, 7], [4, 3, 2], [3, 4, 6], [8, 0, 8], [4, 3, 6]]
VALUE = [3.02, 2.7, 1.56, 0.52, -0.62, 2.92, 3.92, 3.6, 2.64]
LOGITS = [[0.36, -1.21, 0.0], [0.66, -1.29, 0.4], [0.43, 0.7, -1.18], [-0.66, -0.44, -1.17], [1.74, -0.5, 0.33]]
LOGITS += [[-0.26, 1.58, 1.32], [0.63, -2.2, 0.05], [0.68, 1.0, -0.62], [1.82, -1.32, -0.66]]
NOISE = [[-1.593456, -1.352848, 0.61199], [-0.016423, -0.405741, -0.754342]]
NOISE += [[-0.730412, 0.727404, -0.856032], [4.091363, 0.155386, 1.69638]]
MCTX = [
    (  # muzero_policy, with values normalised over the tree instead of over node and siblings
        {"selection": "puct", "simulations": 30, "horizon": 30, "discount": 0.9},
        [0, 2, 0, 2],
        [[18, 0, 12], [12, 0, 18], [18, 12, 0], [5, 11, 14]],
        [[1.800925, 0, 1.862944], [1.629062, 0, 2.143945], [3.102662, 2.479062, 0], [-0.357778, 1.015463, 1.800369]],
        [1.864257, 1.962573, 2.811505, 1.132464],
        None,
    ),
    (
        {"selection": "puct", "simulations": 30, "horizon": 3, "discount": 0.97, "puct_init": 0.6, "puct_base": 5.0},
        [0, 2, 1, 1],
        [[16, 2, 12], [14, 0, 16], [14, 16, 0], [5, 14, 11]],
        [
            [2.459931, 1.295221, 2.761126],
            [2.359362, 0, 3.501773],
            [3.650786, 3.314437, 0],
            [-0.150691, 1.730786, 2.532064],
        ],
        [2.519447, 2.959982, 3.409742, 1.672589],
        None,
    ),
    (  # gumbel_muzero_policy
        {"selection": "gumbel", "simulations": 30, "horizon": 30, "discount": 0.9},
        [2, 2, 0, 2],
        [[12, 5, 13], [12, 5, 13], [13, 12, 5], [5, 12, 13]],
        [
            [2.296569, 1.334912, 1.960842],
            [1.529799, 0.924912, 1.972481],
            [3.488633, 2.379799, 1.421192],
            [0.170831, 1.546569, 1.557853],
        ],
        [2.024012, 1.655626, 2.663735, 1.296293],
        [
            [0.927874, 0.000354, 0.071771],
            [0.082975, 0.000311, 0.916714],
            [0.956922, 0.042727, 0.000351],
            [0.001028, 0.662777, 0.336195],
        ],
    ),
    (
        {"selection": "gumbel", "simulations": 20, "horizon": 4, "discount": 0.95, "considered": 2},
        [0, 2, 0, 2],
        [[10, 0, 10], [10, 0, 10], [10, 10, 0], [10, 0, 10]],
        [[3.233883, 0, 3.080372], [2.470611, 0, 3.085083], [4.403883, 3.320611, 0], [1.170372, 0, 2.405502]],
        [3.150597, 2.77414, 3.752616, 1.727559],
        [
            [0.985147, 0.013149, 0.001704],
            [0.003185, 0.006067, 0.990748],
            [0.993105, 0.003225, 0.00367],
            [0.003962, 0.036243, 0.959795],
        ],
    ),
]


@pytest.mark.parametrize(("config", "action", "visits", "q", "value", "policy"), MCTX)
def test_searches_agree_with_mctx(config, action, visits, q, value, policy, monkeypatch):
    # Both were run on the MDP above from states 0 to 3; mctx's own Gumbel noise is put in.
    monkeypatch.setattr(Gumbel, "noise", lambda self, prior, generator: torch.tensor(NOISE))
    found = search(Maze(FOLLOWING, REWARD), range(4), table(VALUE), table(LOGITS), **config)
    assert found.visits.tolist() == visits
    assert found.action.argmax(-1).tolist() == action
    torch.testing.assert_close(found.q, torch.tensor(q), atol=2e-6, rtol=0)
    torch.testing.assert_close(found.value, torch.tensor(value), atol=2e-6, rtol=0)
    if policy is not None:
        torch.testing.assert_close(found.policy, torch.tensor(policy), atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("considered", "order"),
    [
        (1, [0, 1, 2, 3, 4]),
        (2, [0, 0, 1, 1, 2, 2, 3]),
        (3, [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]),
        (4, [0] * 4 + [1] * 4 + [2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]),
        (5, [0] * 5 + [1, 1, 2, 2]),
        (16, [0] * 16 + [1] * 8 + [2] * 4 + [3] * 4 + [4, 4, 5, 5, 6, 6, 7, 7]),
    ],
)
def test_sequential_halving_is_that_of_mctx(considered, order):
    assert considered_visits(considered, len(order), torch.device("cpu")).tolist() == order


# --- optima -----------------------------------------------------------------------------------------------------------


def chain(length=3):
    """Action 0 pays 1 and ends the episode, action 1 costs 0.1 and moves on; the end of the chain pays 10."""
    following = [[length, min(i + 1, length)] for i in range(length + 1)]
    reward = [[1.0, 10.0 if i == length - 1 else -0.1] for i in range(length)] + [[0.0, 0.0]]
    ends = [[True, i == length - 1] for i in range(length)] + [[True, True]]
    return Maze(following, reward, ends)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("critic", [None, table([0.0] * 4)])
def test_a_far_reward_is_found_behind_a_near_one(selection, critic):
    model = chain()
    config = {"selection": selection, "simulations": 300, "value_scale": 0.02}
    planner = planner_of(model, critic, **config, horizon=6)
    state, carry = model.at([0]), planner.initial(1)
    for step in range(3):
        plan = planner.plan(model, state, carry, seeded(step))
        assert plan.action.tolist() == [[0, 1]]
        state, carry = model.predict(state, plan.action)[0], plan.carry
    short = search(model, (0,), critic, **config, horizon=2)
    assert short.action.tolist() == [[1, 0]]  # which does not see so far


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_best_action_of_random_trees_is_found(selection):
    draw, horizon, size = np.random.default_rng(0), 4, 25
    model = Maze(draw.integers(0, size, (size, 3)), draw.normal(size=(size, 3)))
    wanted = []
    for place in range(size):
        sequences = torch.tensor(list(itertools.product(range(3), repeat=horizon)))
        actions = torch.nn.functional.one_hot(sequences, 3).float()
        returns = trajectory_return(model, model.at([place] * len(actions)), actions)
        wanted.append([float(returns[sequences[:, 0] == a].max()) for a in range(3)])
    wanted = torch.tensor(wanted)
    found = search(model, range(size), selection=selection, simulations=200, horizon=horizon, exploration=0.5)
    regret = wanted.amax(1) - (wanted * found.action).sum(1)
    by_chance = wanted.amax(1) - wanted.mean(1)
    assert regret.mean() < 0.3 * by_chance.mean()


@pytest.mark.parametrize("selection", SELECTIONS)
def test_without_a_critic_every_simulation_looks_exactly_to_the_horizon(selection):
    always = Maze([[0, 0, 0]], [[1.0, 1.0, 1.0]])
    found = search(always, (0, 0), selection=selection, simulations=15, horizon=5, discount=0.5)
    torch.testing.assert_close(found.q[found.visits > 0], torch.full((int((found.visits > 0).sum()),), 1.9375))
    torch.testing.assert_close(found.value, torch.full((2,), 1.9375))


# --- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("selection", SELECTIONS)
def test_nothing_comes_after_an_end(selection):
    model = Maze([[0, 0]], [[-1.0, -2.0]], ends=[[True, True]])
    for critic in (None, table([100.0]), table([-torch.nan])):
        planner = planner_of(model, critic, selection=selection, simulations=9, horizon=5)
        found = planner.search(model, model.at([0]), seeded())
        assert found.q.tolist() == [[-1.0, -2.0]]
        assert found.visits.sum() == 9  # an end that is chosen again counts again
        assert found.action.tolist() == [[1, 0]]
        assert found.non_finite.tolist() == [0]
        plan = planner.plan(model, model.at([0]), planner.initial(1), seeded())
        assert plan.value.tolist() == [-1.0]


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_tree_does_not_grow_beyond_the_horizon(selection):
    seen = []

    def value(state):
        seen.append(state.at)
        return torch.zeros(len(state.at))

    line = Maze([[min(i + 1, 30)] * 2 for i in range(31)], [[1.0, 1.0]] * 31)
    found = search(line, (0,), value, selection=selection, simulations=40, horizon=3)
    assert int(found.visits.sum()) == 40
    assert found.q.amax() <= 3  # one a step


def test_an_end_of_some_particles_is_worth_what_trajectory_return_says():
    class Partly(Maze):
        """A hypothesis ends its episode at the step of its own number."""

        def predict(self, state, action, generator=None, sample=True, uncertainty=True):
            after, step = super().predict(state, action, generator, sample, uncertainty)
            return after, replace(step, terminated=state.shift == state.at)

    model = Partly([[min(i + 1, 9)] for i in range(10)], [[2.0**i] for i in range(10)])
    found = search(model, (0, 1), simulations=6, horizon=4, particles=5, discount=0.5)
    wanted = trajectory_return(model, model.at([0, 1]), torch.ones(2, 4, 1), particles=5, discount=0.5)
    torch.testing.assert_close(found.q[:, 0], wanted)
    # Six visits of the only action, at depths 1, 2, 3, 4, 4, 4 with a critic: the living ones' share of it is added.
    valued = search(model, (0,), lambda state: state.shift * 10, simulations=1, particles=5)
    rewards = (1 + 0 + 1 + 1 + 1 + 2 + 1 + 3 + 1 + 4) / 5
    torch.testing.assert_close(valued.q[0, 0], torch.tensor(rewards + (10 + 20 + 30 + 40) / 5))


# --- what is not finite -----------------------------------------------------------------------------------------------


def breaking(bad):
    """All rewards are negative. Action 0 breaks the model at state 0, in state 1 both actions do; 3 is a safe place."""
    following = [[3, 1, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]
    reward = [[-1.0, -5.0, -100.0], [-1.0, -1.0, -1.0], [-1.0, -1.0, -1.0], [-50.0, -51.0, -52.0]]
    breaks = [[True, False, False], [True, True, True], [False] * 3, [False] * 3]
    if bad is None:
        return Maze(following, reward, breaks=breaks)
    reward = torch.tensor(reward)
    reward[torch.tensor(breaks)] = bad
    return Maze(following, reward)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("bad", [None, torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_loses_among_negative_returns_and_is_counted(selection, bad):
    model = breaking(bad)
    critic = table([-1.0, -1.0, -1.0, -10.0])
    found = search(model, (0, 3), critic, selection=selection, simulations=40, horizon=3)
    assert found.action[0].tolist() == [0, 0, 1]  # action 1 leads where everything breaks
    assert found.q[0, :2].tolist() == [-torch.inf] * 2
    assert found.q[0, 2].isfinite()
    assert found.visits[0, 0] == 0
    assert found.policy[0].argmax() == 2
    assert found.value.isfinite().all()
    assert found.policy.isfinite().all()
    assert 4 <= int(found.non_finite[0]) <= 8  # each way once, and once more before the way to it is closed
    assert int(found.visits[0].sum()) == 40 - int(found.non_finite[0])
    alone = search(model, (3,), critic, selection=selection, simulations=40, horizon=3)
    assert found.non_finite[1] == 0  # the other row is not disturbed
    if selection != "gumbel":  # of which the noise differs
        assert found.q[1].isfinite().all()
        torch.testing.assert_close(found.q[1].amax(), alone.q[0].amax(), atol=1.0, rtol=0)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_where_everything_breaks_there_is_no_value(selection):
    model = breaking(None)
    for critic in (None, table([0.0] * 4)):
        planner = planner_of(model, critic, selection=selection, simulations=7, horizon=3)
        plan = planner.plan(model, model.at([1]), planner.initial(1), seeded())
        assert plan.value.tolist() == [-torch.inf]
        assert plan.non_finite.tolist() == [7]
        assert plan.action.sum() == 1
        found = planner.search(model, model.at([1]), seeded())
        assert found.policy.isfinite().all()
        assert found.policy.sum() == pytest.approx(1)
        assert found.value.isfinite().all()


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_critic_that_is_not_finite_loses(selection):
    model = Maze([[1, 2], [1, 1], [2, 2]], [[-1.0, -2.0], [-1.0, -1.0], [-1.0, -1.0]])
    found = search(model, (0,), table([torch.nan, torch.nan, -5.0]), selection=selection, simulations=10, horizon=2)
    assert found.action.tolist() == [[0, 1]]
    assert found.non_finite.tolist() == [1]
    assert found.visits.tolist() == [[0, 9]]


def test_what_breaks_after_the_end_of_a_particle_does_not_count():
    model = Maze(
        [[1, 1], [1, 1]], [[1.0, 0.5], [1.0, 1.0]], ends=[[True, True], [True, True]], breaks=[[False] * 2] * 2
    )
    model.breaks[1] = True
    found = search(model, (0,), particles=2, simulations=6, horizon=4)
    assert found.non_finite.tolist() == [0]
    torch.testing.assert_close(found.q, torch.tensor([[1.5, 1.0]]))


def test_what_broke_once_is_not_trusted_again():
    class Once(Maze):
        """Breaks at its first step alone."""

        def predict(self, state, action, generator=None, sample=True, uncertainty=True):
            after, step = super().predict(state, action, generator, sample, uncertainty)
            broken = torch.full_like(step.truncated, len(self.calls) == 1)
            return after, replace(step, truncated=broken, info={"diverged": broken})

    found = search(Once([[0]], [[1.0]]), (0,), table([0.0]), simulations=5)
    assert found.non_finite.tolist() == [5]
    assert found.visits.tolist() == [[0]]


def test_an_action_that_was_not_tried_wins_over_one_that_broke_and_has_no_value():
    model, prior = breaking(None), table([[9.0, 0.0, 1.0]] * 4)
    planner = planner_of(model, table([0.0] * 4), prior, simulations=1)
    plan = planner.plan(model, model.at([0]), planner.initial(1), seeded())
    assert plan.action[0, 0] == 0
    assert plan.value.tolist() == [-torch.inf]
    assert plan.non_finite.tolist() == [1]


@pytest.mark.parametrize("selection", SELECTIONS)
def test_values_of_what_broke_do_not_count_for_its_siblings(selection):
    value, usable = torch.tensor([[[1.0, 2.0, 1e6]]]), torch.tensor([[[True, True, False]]])
    edges = Edges(torch.ones(1, 1, 3), value, torch.full((1, 1, 3), 1 / 3).log(), usable, torch.ones(1, 1))
    assert normalised(edges).tolist() == [[[0.0, 1.0, 0.0]]]
    strategy = planner_of(random_maze(), selection=selection).selection
    other = edges._replace(value=torch.tensor([[[1.0, 2.0, -1e6]]]))
    noise = torch.zeros(1, 3)
    for method in (strategy.scores, strategy.decision):
        assert torch.equal(method(edges, noise)[..., :2], method(other, noise)[..., :2])
    assert torch.equal(strategy.policy(edges), strategy.policy(other))
    assert strategy.policy(edges)[0, 2] == 0


def test_a_prior_that_is_no_number_is_none():
    model, value, _ = hand_worked()
    broken = search(model, (0,), value, lambda state: torch.full((len(state.at), 2), torch.nan), simulations=20)
    assert equal(broken, search(model, (0,), value, simulations=20))


# --- every hyperparameter has an effect -------------------------------------------------------------------------------

BASE = MCTSConfig(simulations=14, horizon=4, particles=2, discount=0.9)
OTHER = [
    ("simulations", 15, {}),
    ("horizon", 5, {}),
    ("particles", 3, {}),
    ("discount", 0.5, {}),
    ("selection", "uct", {}),
    ("sample", True, {}),
    ("exploration", 0.1, {"selection": "uct"}),
    ("puct_init", 0.3, {}),
    ("puct_base", 1.0, {}),
    ("dirichlet_alpha", 5.0, {"dirichlet_fraction": 0.5}),
    ("dirichlet_fraction", 0.5, {}),
    ("considered", 2, {"selection": "gumbel"}),
    ("gumbel_scale", 0.0, {"selection": "gumbel"}),
    ("visit_offset", 1.0, {"selection": "gumbel"}),
    ("value_scale", 0.001, {"selection": "gumbel"}),
]


def random_maze(noise=0.5):
    draw = np.random.default_rng(1)
    return Maze(draw.integers(0, 30, (30, 4)), draw.normal(size=(30, 4)), noise=noise)


@pytest.mark.parametrize(("name", "value", "given"), OTHER)
def test_every_hyperparameter_changes_the_search(name, value, given):
    assert {field for field, _, _ in OTHER} == {f.name for f in fields(MCTSConfig)}
    model, base = random_maze(), asdict(replace(BASE, **given))
    first, again = (search(model, range(30), **base) for _ in range(2))
    assert equal(first, again)
    other = search(model, range(30), **{**base, name: value})
    assert not torch.equal(first.visits, other.visits)
    assert not torch.equal(first.action, other.action) or name in ("puct_base", "visit_offset")


def test_sample_says_whether_steps_are_drawn():
    for sample in (False, True):
        model = random_maze()
        search(model, (0,), simulations=3, horizon=2, sample=sample)
        assert model.sampled == [sample] * 8


def test_particles_are_the_hypotheses_of_the_model_and_are_averaged():
    model = random_maze(noise=1.0)
    assert len(set(search(model, (0,), table([0.0] * 30), simulations=3).q.tolist()[0])) > 1
    found = search(model, (0,), table([0.0] * 30), simulations=4, particles=16, horizon=1, selection="uct")
    torch.testing.assert_close(found.q[0], model.reward[0] + 7.5)  # the mean of 0 to 15
    drawn = search(model, [0] * 500, table([0.0] * 30), simulations=4, particles=16, sample=True, selection="uct")
    assert float((drawn.q - model.reward[0] - 7.5).std()) == pytest.approx(0.25, abs=0.02)


def test_a_prior_leads_the_tree_and_the_rollouts():
    flat = Maze([[0, 0, 0]], [[0.0, 0.0, 1.0]])
    sure = table([[-20.0, -20.0, 20.0]])
    for selection in ("puct", "gumbel"):
        found = search(flat, (0,), table([0.0]), sure, selection=selection, simulations=8, considered=1)
        assert found.visits.tolist() == [[0, 0, 8]]
    led = search(flat, (0,), None, sure, selection="uct", simulations=3, horizon=6)
    assert led.q.tolist() == [[5.0, 5.0, 6.0]]
    turns = Maze([[1, 1], [0, 0]], [[1.0, 0.0], [0.0, 1.0]])  # first action in one place, second in the other
    follows = search(
        turns, (0,), None, table([[20.0, -20.0], [-20.0, 20.0]]), selection="uct", simulations=2, horizon=6
    )
    assert follows.q.tolist() == [[6.0, 5.0]]
    free = search(flat, [0] * 200, selection="uct", simulations=3, horizon=6)
    torch.testing.assert_close(free.q.mean(0), torch.tensor([5 / 3, 5 / 3, 8 / 3]), atol=0.25, rtol=0)


def test_noise_at_the_root_is_a_share_of_a_dirichlet_distribution():
    prior = torch.tensor([[0.7, 0.2, 0.1]]).log().repeat(4000, 1)
    planner = planner_of(random_maze(), dirichlet_fraction=0.25, dirichlet_alpha=0.3)
    drawn = prior.exp() + planner.selection.noise(prior, seeded())
    torch.testing.assert_close(drawn.sum(-1), torch.ones(4000))
    torch.testing.assert_close(drawn.mean(0), 0.75 * prior.exp()[0] + 0.25 / 3, atol=0.01, rtol=0)
    variance = 0.25**2 * (1 / 3) * (2 / 3) / (3 * 0.3 + 1)  # of a Dirichlet's component, by the square of its share
    torch.testing.assert_close(drawn.var(0), torch.full((3,), variance), rtol=0.1, atol=0)


def test_gumbel_noise_has_mean_and_variance_of_the_distribution():
    planner = planner_of(random_maze(), selection="gumbel", gumbel_scale=2.0)
    drawn = planner.selection.noise(torch.zeros(20_000, 4), seeded())
    assert float(drawn.mean()) == pytest.approx(2 * 0.5772, abs=0.03)
    assert float(drawn.std()) == pytest.approx(2 * np.pi / 6**0.5, rel=0.02)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_ties_are_broken_by_chance(selection):
    flat = Maze([[0, 0, 0]], [[1.0, 1.0, 1.0]])
    found = search(flat, [0] * 300, table([0.0]), selection=selection, simulations=1, horizon=1)
    assert (found.action.sum(0) > 60).all()


def test_the_steps_that_are_counted_are_those_of_the_model():
    for critic, particles in itertools.product((None, table([0.0] * 30)), (1, 3)):
        model = random_maze()
        planner = planner_of(model, critic, simulations=5, horizon=4, particles=particles)
        planner.plan(model, model.at([3, 4]), planner.initial(2), seeded())
        assert sum(model.calls) == 2 * planner.imagined_steps
        if critic:
            assert model.calls == [2 * particles] * 5  # one call a simulation


# --- rows, memory, randomness and device ------------------------------------------------------------------------------


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_row_is_the_same_alone_and_among_others(selection):
    model, critic = random_maze(), table(np.random.default_rng(2).normal(size=30))
    prior, places = table(np.random.default_rng(3).normal(size=(30, 4))), list(range(7))
    kwargs = {"selection": selection, "simulations": 25, "particles": 2, "gumbel_scale": 0.0}
    many = search(model, places, critic, prior, **kwargs)
    for row, place in enumerate(places):
        alone = search(model, [place], critic, prior, seed=row, **kwargs)
        assert torch.equal(many.visits[row], alone.visits[0])
        torch.testing.assert_close(many.q[row], alone.q[0])
        torch.testing.assert_close(many.policy[row], alone.policy[0])
        assert torch.equal(many.action[row], alone.action[0])


@pytest.mark.parametrize("selection", SELECTIONS)
def test_randomness_comes_from_the_generator_alone_and_rows_do_not_touch(selection):
    model = random_maze()
    planner = planner_of(model, selection=selection, simulations=8, horizon=3, sample=True, dirichlet_fraction=0.2)
    carry, before = planner.initial(3), torch.get_rng_state()
    first, again, other = (planner.plan(model, model.at([1, 2, 3]), carry, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert equal(first, again)
    assert not torch.equal(first.value, other.value)
    mixed = planner.plan(model, model.at([9, 2, 11]), carry, seeded())
    assert equal(mixed[1:2], first[1:2])
    assert torch.equal(first.carry.nothing, planner.initial(3).nothing)
    assert first.non_finite.dtype == torch.int64


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("critic", [True, False])
def test_nothing_is_read_on_the_host(selection, critic):
    # A meta tensor has no values: whoever reads one raises.
    model = random_maze()
    for name in ("following", "reward", "ends", "breaks"):
        setattr(model, name, getattr(model, name).to("meta"))
    planner = planner_of(
        model,
        (lambda state: state.shift) if critic else None,
        lambda state: state.shift[:, None].expand(-1, 4),
        selection=selection,
        simulations=6,
        particles=2,
    )
    plan = planner.plan(model, model.at(torch.zeros(5, dtype=torch.int64, device="meta")), planner.initial(5, "meta"))
    assert all(tensor.device.type == "meta" for tensor in plan.tensors())
    assert plan.action.shape == (5, 4)
    assert plan.value.shape == plan.non_finite.shape == (5,)


def test_a_state_is_not_changed_and_nothing_is_kept():
    model = random_maze()
    planner, state = planner_of(model, simulations=6), model.at([4, 5])
    attributes = dict(vars(planner))
    planner.search(model, state, seeded())
    assert state.at.tolist() == [4, 5]
    assert vars(planner) == attributes


def test_an_ensemble_is_searched(cartpole):
    model = cartpole.model.frozen()
    state = model.observe(
        model.initial(2), torch.zeros(2, 2), torch.tensor([[0.0, 0, 0.15, 2.5], [0, 0, -0.15, -2.5]]), torch.ones(2) > 0
    )
    planner = planner_of(model, simulations=12, horizon=6, particles=4)
    plan = planner.plan(model, state, planner.initial(2), seeded())
    assert plan.action.sum(-1).tolist() == [1, 1]
    assert (plan.value > 0).all()
    assert (plan.value <= 6.5).all()


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space", [spaces.Box(-1, 1, (2,), np.float32), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)]
)
def test_other_actions_are_refused(space):
    with pytest.raises(ValueError, match=r"^action_space must be Discrete for MCTS, got (Box|Multi).*; use CEM"):
        MCTS(ActionCodec(space))


def test_an_action_space_that_does_not_begin_at_zero():
    codec = ActionCodec(spaces.Discrete(2, start=5))
    model, value, _ = hand_worked()
    planner = MCTS(codec, terminal_value=value)
    plan = planner.plan(model, model.at([2]), planner.initial(1), seeded())
    assert codec.decode(plan.action).tolist() == [6]


def test_what_does_not_fit_is_refused():
    model = random_maze()
    planner = planner_of(model, simulations=2)
    with pytest.raises(
        ValueError, match=r"^carry must have the B = 2 of state, got 3; begin with the carry of initial"
    ):
        planner.plan(model, model.at([0, 1]), planner.initial(3))
    with pytest.raises(ValueError, match=r"^terminal_value must return \(4,\) for as many beliefs, got \(4, 1\)"):
        search(model, [0, 1], lambda state: state.shift[:, None], particles=2)
    with pytest.raises(ValueError, match=r"^prior must return \(2, 4\) for as many beliefs, got \(2, 3\)"):
        search(model, [0, 1], None, lambda state: torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"^config must be a MCTSConfig for MCTS, got 3"):
        MCTS(ActionCodec(TWO), 3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("simulations", 0),
        ("simulations", 1.5),
        ("horizon", 0),
        ("particles", 0),
        ("discount", 0.0),
        ("selection", "best"),
        ("exploration", -1.0),
        ("puct_init", -0.1),
        ("puct_base", 0.0),
        ("dirichlet_alpha", 0.0),
        ("dirichlet_fraction", 1.5),
        ("considered", 0),
        ("gumbel_scale", -1.0),
        ("visit_offset", -1.0),
        ("value_scale", float("inf")),
        ("value_scale", -0.1),
    ],
)
def test_a_bad_value_is_refused_by_name_and_value(field, value):
    with pytest.raises(ValueError, match=rf"^{field} must .*got {value!r}$"):
        replace(BASE, **{field: value})


def test_a_config_goes_through_json():
    assert MCTSConfig(**json.loads(json.dumps(asdict(BASE)))) == BASE
    assert MCTS(ActionCodec(TWO)).config == MCTSConfig()
    assert PLANNERS["mcts"] is MCTS
