"""Dyna-Q against value iteration and against plain Q-learning, and Dyna-Q+ in the book's shortcut maze."""

import math

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from mbrl_gym.agents.dyna_q import DynaQ
from mbrl_gym.agents.tabular_model import Outcome, TabularModel
from mbrl_gym.checkpoint import CheckpointError, ForeignCheckpoint

MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
DYNA_MAZE = ("       #G", "  #    # ", "S #    # ", "  #      ", "     #   ", "         ")  # example 8.1
SHORTCUT = ("        G", "         ", "         ", " ########", "         ", "   S     ")  # example 8.3
OPENED = ("        G", "         ", "         ", " ####### ", "         ", "   S     ")
SMALL = ("S # ", "    ", "# #G")


class Maze(gym.Env):
    """A walk from S to G, which pays 1; from step ``opens_at`` on the walls are those of ``later``."""

    action_space = spaces.Discrete(4)

    def __init__(self, rows=SMALL, later=None, opens_at=0, limit=None, start=0):
        self.rows, self.later, self.opens_at, self.limit = rows, later, opens_at, limit
        self.width = len(rows[0])
        self.first = start
        self.observation_space = spaces.Discrete(len(rows) * self.width, start=start)
        self.total = 0

    def obs(self):
        return self.first + self.place[0] * self.width + self.place[1]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = next((i, row.index("S")) for i, row in enumerate(self.rows) if "S" in row)
        self.steps = 0
        return self.obs(), {}

    def step(self, action):
        self.total, self.steps = self.total + 1, self.steps + 1
        rows = self.later if self.later and self.total > self.opens_at else self.rows
        row, column = self.place[0] + MOVES[action][0], self.place[1] + MOVES[action][1]
        if 0 <= row < len(rows) and 0 <= column < self.width and rows[row][column] != "#":
            self.place = row, column
        found = rows[self.place[0]][self.place[1]] == "G"
        return self.obs(), float(found), found, self.limit is not None and self.steps >= self.limit, {}


def optimal(maze, discount):
    """Q* [S, A] by value iteration; walls and the goal keep 0."""
    q = np.zeros((maze.observation_space.n, 4))
    for _ in range(200):
        for i, row in enumerate(maze.rows):
            for j, cell in enumerate(row):
                for action in range(4) if cell not in "#G" else ():
                    maze.place, maze.steps = (i, j), 0
                    obs, reward, terminated, _, _ = maze.step(action)
                    q[i * maze.width + j, action] = reward + (0 if terminated else discount * q[obs - maze.first].max())
    return q


@pytest.mark.parametrize("discount", [0.9, 0.5])
@pytest.mark.parametrize("stochastic", [False, True])
def test_it_finds_what_value_iteration_finds(discount, stochastic):
    agent = DynaQ(
        Maze(), learning_rate=1.0, discount=discount, exploration=0.5, planning_steps=10, stochastic=stochastic, seed=0
    ).learn(1500)
    expected = optimal(Maze(), discount)
    assert len(agent.model) == 4 * sum(cell in "S " for row in SMALL for cell in row)  # everything was tried
    np.testing.assert_allclose(agent.q, expected, atol=1e-6)
    assert expected.max() == 1.0
    assert expected[0].max() == pytest.approx(discount**4)  # five steps from S to G


def test_without_planning_it_is_q_learning():
    agent = DynaQ(Maze(), learning_rate=0.3, discount=0.9, exploration=0.2, planning_steps=0, seed=7).learn(400)
    rng, env, q = np.random.default_rng(7), Maze(), np.zeros((12, 4))
    state = env.reset(seed=int(rng.integers(2**31 - 1)))[0]
    for _ in range(400):
        if rng.random() < 0.2:
            action = int(rng.integers(4))
        else:
            best = [a for a in range(4) if q[state, a] == max(q[state])]
            action = best[0] if len(best) == 1 else int(rng.choice(best))
        after, reward, terminated, _, _ = env.step(action)
        q[state, action] += 0.3 * (reward + (0.0 if terminated else 0.9 * max(q[after])) - q[state, action])
        state = env.reset()[0] if terminated else after
    assert q.max() > 0.5
    np.testing.assert_array_equal(agent.q, q)


def test_more_planning_needs_fewer_real_steps():
    def steps(planning_steps):  # of episodes 2 to 6: the first one knows nothing
        agents = [DynaQ(Maze(DYNA_MAZE), planning_steps=planning_steps, seed=seed).learn(4000) for seed in range(3)]
        return np.mean([agent.episode_lengths[1:6] for agent in agents])

    none, few, many = steps(0), steps(5), steps(30)
    assert none > 2 * few > 3 * many
    assert many < 40  # 14 is the shortest way


def test_dyna_q_plus_finds_the_shortcut_and_dyna_q_does_not():
    def lengths(bonus):
        env = Maze(SHORTCUT, OPENED, opens_at=1500)
        agent = DynaQ(env, learning_rate=1.0, planning_steps=30, bonus=bonus, seed=0).learn(4000)
        return np.array(agent.episode_lengths)

    plain, plus = lengths(0.0), lengths(1e-3)
    assert plain.min() == 16  # the long way round
    assert plus.min() == 10  # the shortcut
    assert (plus < 16).sum() > 50


# ---- single steps, by hand ------------------------------------------------------------------------------------------


class Script(gym.Env):
    """Plays back (observation, reward, terminated, truncated); begins at observation 0."""

    observation_space, action_space = spaces.Discrete(4), spaces.Discrete(2)

    def __init__(self, *steps):
        self.steps = list(steps)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        self.action = action
        return (*self.steps.pop(0), {})


def test_an_end_is_worth_nothing_and_a_time_limit_is_no_end():
    for terminated, truncated, expected in ((True, False, 3.0), (False, True, 3.0 + 0.5 * 10), (True, True, 3.0)):
        agent = DynaQ(Script((1, 3.0, terminated, truncated)), 1.0, 0.5, 1.0, planning_steps=0, seed=0)
        agent.q[1] = [10.0, 4.0]
        agent.learn(1)
        assert agent.q[0].max() == expected
        assert agent.episode_lengths == [1]
        assert agent.episode_returns == [3.0]
        agent._plan(0.0, 0.0, 0.0)
        assert agent.q[0].max() == expected  # and the model knows it


@pytest.mark.parametrize("rate", [1.0, 0.25])
def test_a_value_moves_by_the_learning_rate(rate):
    agent = DynaQ(Script((1, 2.0, True, False)), learning_rate=rate, planning_steps=0, seed=0).learn(1)
    assert agent.q[0].max() == 2.0 * rate
    assert np.count_nonzero(agent.q) == 1


def test_the_bonus_is_kappa_times_the_root_of_the_time_since_and_untried_actions_stay():
    agent = DynaQ(Script(), learning_rate=1.0, discount=0.5, bonus=0.1, seed=0)
    agent.planning_steps = 0
    agent._learn_from(2, 0, Outcome(1.0, 3, True))
    assert agent.q[2, 0] == 1.0  # reality brings no bonus
    agent.num_timesteps = 26
    agent._plan(0.0, 0.0, 0.0)
    assert agent.q[2, 0] == pytest.approx(1.0 + 0.1 * math.sqrt(25))
    agent._plan(0.0, 0.6, 0.0)  # action 1, never tried: back to state 2, with a reward of 0
    assert agent.q[2, 1] == pytest.approx(0.1 * math.sqrt(26) + 0.5 * 1.5)
    plain = DynaQ(Script(), learning_rate=1.0, planning_steps=0, seed=0)
    plain._learn_from(2, 0, Outcome(1.0, 3, True))
    plain._plan(0.0, 0.6, 0.0)
    assert plain.q[2, 1] == 0  # Dyna-Q plans with what was tried


def test_equals_are_drawn_at_random_and_exploration_is_a_probability():
    agent = DynaQ(Maze(), exploration=0.0, seed=0)
    agent.q[0] = [1.0, 0.0, 1.0, 0.0]
    counts = np.bincount([agent.predict(0, deterministic=False)[0] for _ in range(400)], minlength=4)
    assert counts[[1, 3]].sum() == 0
    assert 150 < counts[0] < 250
    agent.exploration = 0.4
    counts = np.bincount([agent.predict(0, deterministic=False)[0] for _ in range(2000)], minlength=4)
    assert counts[[1, 3]].sum() / 2000 == pytest.approx(0.2, abs=0.04)


# ---- the model ------------------------------------------------------------------------------------------------------


def test_the_model_believes_the_last_outcome_or_draws_as_often_as_it_saw():
    a, b = Outcome(0.0, 1, False), Outcome(1.0, 2, True)
    last, every = TabularModel(), TabularModel(keep_all=True)
    for model in (last, every):
        for outcome in (a, a, b, a):
            model.record(5, 1, outcome)
        model.record(3, 0, b)
        assert model.states == [5, 3]
        assert model.tried == {5: [1], 3: [0]}
        assert len(model) == 2
        assert model.draw(5, 0, 0.5) is None
        assert model.probabilities(4, 0) == {}
    assert last.probabilities(5, 1) == {a: 1.0}
    assert last.draw(5, 1, 0.99) == a
    assert every.probabilities(5, 1) == {a: 0.75, b: 0.25}
    assert [every.draw(5, 1, u) for u in (0.0, 0.74, 0.75, 0.999)] == [a, a, b, b]


def test_in_a_slippery_world_counts_beat_the_last_outcome():
    def success(stochastic):
        env = gym.make("FrozenLake-v1", map_name="4x4", is_slippery=True)
        agent = DynaQ(env, 0.05, 0.99, 0.3, planning_steps=20, stochastic=stochastic, seed=1).learn(6000)
        found = 0
        for seed in range(100):
            obs, ended = env.reset(seed=seed)[0], False
            while not ended:
                obs, reward, terminated, truncated, _ = env.step(int(agent.predict(obs)[0]))
                ended = terminated or truncated
            found += reward
        return found / 100

    counts, last = success(True), success(False)
    assert counts > 0.6  # 0.74 is the best there is, within 100 steps
    assert counts > last + 0.1


# ---- SB3's interface ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CliffWalking", "Taxi", "FrozenLake"])
def test_gymnasium_environments_work(name):
    agent = DynaQ(name, seed=0).learn(50)
    assert agent.q.shape == (agent.env.observation_space.n, agent.env.action_space.n)
    assert agent.num_timesteps == agent.learn(30).num_timesteps - 30 == 50
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    mean, _ = evaluate_policy(agent, Monitor(gym.make(name, max_episode_steps=20)), n_eval_episodes=2)
    assert math.isfinite(mean)


def test_predict_takes_one_or_many_and_spaces_may_start_anywhere():
    plain, moved = (DynaQ(Maze(start=start), exploration=0.3, seed=0).learn(800) for start in (0, 100))
    np.testing.assert_array_equal(plain.q, moved.q)
    obs = np.arange(12)
    actions, state = plain.predict(obs, state="memory")
    assert state == "memory"
    np.testing.assert_array_equal(actions, plain.q.argmax(1))
    np.testing.assert_array_equal(moved.predict(obs + 100)[0], actions)
    assert plain.predict(4)[0] == actions[4]
    assert np.shape(plain.predict(4)[0]) == ()
    assert plain.predict(obs.reshape(3, 4), deterministic=False)[0].shape == (3, 4)
    for wrong in (-1, 12, [0, 99]):
        with pytest.raises(ValueError, match=r"obs must be in Discrete\(12\), got"):
            plain.predict(wrong)
    shifted = Script((1, 1.0, True, False))
    shifted.action_space = spaces.Discrete(2, start=5)
    agent = DynaQ(shifted, planning_steps=0, seed=0).learn(1)
    assert shifted.action in (5, 6)
    assert agent.predict(0)[0] == shifted.action


def test_the_progress_bar_counts_real_steps(capsys):
    DynaQ(Maze(), seed=0).learn(300, progress_bar=True)
    assert "300/300" in capsys.readouterr().err
    DynaQ(Maze(), seed=0).learn(30)
    assert not capsys.readouterr().err


def test_two_runs_are_equal_and_two_seeds_are_not():
    def run(seed, evaluate=False):
        agent = DynaQ(Maze(DYNA_MAZE), seed=seed).learn(900)
        if evaluate:
            agent.predict(np.arange(54), deterministic=False)  # changes no training
        return agent.learn(200).q

    np.testing.assert_array_equal(run(1), run(1))
    np.testing.assert_array_equal(run(1), run(1, evaluate=True))
    assert run(1).any()
    assert (run(1) != run(2)).any()
    assert DynaQ(Maze()).seed != DynaQ(Maze()).seed


@pytest.mark.parametrize(("bonus", "stochastic"), [(0.0, False), (1e-3, False), (0.0, True)])
def test_it_goes_on_from_the_disk_as_if_nothing_had_happened(tmp_path, bonus, stochastic):
    def agent():
        return DynaQ("FrozenLake-v1", 0.2, 0.9, 0.3, planning_steps=4, bonus=bonus, stochastic=stochastic, seed=3)

    whole = agent().learn(500)
    whole.predict(np.arange(16), deterministic=False)
    whole.learn(300)
    half = agent().learn(500)
    half.predict(np.arange(16), deterministic=False)
    half.save(tmp_path / "agent.zip")  # SB3's callbacks add a suffix
    loaded = DynaQ.load(tmp_path / "agent", env="FrozenLake-v1")
    for name in ("learning_rate", "discount", "exploration", "planning_steps", "bonus", "stochastic", "seed"):
        assert getattr(loaded, name) == getattr(half, name)
    loaded.learn(300)
    np.testing.assert_array_equal(loaded.q, whole.q)
    np.testing.assert_array_equal(loaded.last_tried, whole.last_tried)
    assert loaded.model.states == whole.model.states
    assert loaded.model.tried == whole.model.tried
    assert loaded.model._counts == whole.model._counts
    assert loaded.episode_lengths == whole.episode_lengths
    assert loaded.episode_returns == whole.episode_returns
    assert loaded.num_timesteps == whole.num_timesteps == 800
    np.testing.assert_array_equal(
        loaded.predict(np.arange(16), deterministic=False)[0], whole.predict(np.arange(16), deterministic=False)[0]
    )
    files = {file.suffix for file in tmp_path.rglob("*") if file.is_file()}
    assert files <= {".json", ".npz", ""}


def test_a_loaded_agent_predicts_without_an_environment(tmp_path):
    agent = DynaQ(Maze(start=3), seed=0).learn(200)
    agent.save(tmp_path / "agent")
    loaded = DynaQ.load(tmp_path / "agent")
    np.testing.assert_array_equal(loaded.predict(np.arange(3, 15))[0], agent.predict(np.arange(3, 15))[0])
    with pytest.raises(ValueError, match=r"env is not set; give one to load\(\)"):
        loaded.learn(10)
    with pytest.raises(
        ValueError, match=r"env must have the spaces that the agent learned on.*Discrete\(12, start=3\)"
    ):
        DynaQ.load(tmp_path / "agent", env=Maze())
    with pytest.raises(CheckpointError):
        DynaQ.load(tmp_path / "nothing")
    from mbrl_gym.checkpoint import Checkpoint, save_checkpoint

    save_checkpoint(tmp_path / "other", Checkpoint("pets", {}))
    with pytest.raises(ForeignCheckpoint, match="dyna_q"):
        DynaQ.load(tmp_path / "other")


@pytest.mark.parametrize(
    ("argument", "values", "rule"),
    [
        ("learning_rate", (0, -1, 1.1, math.nan), "must be above 0 and at most 1"),
        ("discount", (-0.1, 1.1, math.nan), "must be between 0 and 1"),
        ("exploration", (-0.1, 1.1, math.nan), "must be a probability between 0 and 1"),
        ("planning_steps", (-1, 2.5), "must be a whole number"),
        ("bonus", (-1e-3, math.inf, math.nan), "must be at least 0 and finite"),
        ("seed", (-1,), "must be at least 0, or None"),
    ],
)
def test_numbers_out_of_range_are_refused(argument, values, rule):
    for value in values:
        with pytest.raises(ValueError, match=f"{argument} {rule}.*got {value}"):
            DynaQ(Maze(), **{argument: value})


def test_environments_without_a_table_are_refused():
    with pytest.raises(TypeError, match=r"observation_space must be Discrete for a table, got Box.*use Dyna"):
        DynaQ("Pendulum-v1")
    env = Maze()
    env.action_space = spaces.MultiDiscrete([2, 2])
    with pytest.raises(TypeError, match="action_space must be Discrete for a table, got MultiDiscrete"):
        DynaQ(env)
    with pytest.raises(TypeError, match="env must be one Gymnasium environment or its id, got list"):
        DynaQ([Maze()])
    with pytest.raises(ValueError, match="total_timesteps must be at least 1 real step, got 0"):
        DynaQ(Maze()).learn(0)
    with pytest.raises(ValueError, match="it has nothing to save"):
        DynaQ(None).save("somewhere")
