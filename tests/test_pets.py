"""PETS: SB3's interface, planning with a memory, the schedule, exact resume, storing, presets, what is known."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl_gym import CheckpointError, EnsembleConfig, SequenceReplay, TrainerConfig, load_model
from mbrl_gym.agents import PETS
from mbrl_gym.agents.pets_presets import cpu, paper
from mbrl_gym.models.ensemble import Ensemble
from mbrl_gym.packing import same_numbers
from mbrl_gym.planners import (
    PLANNERS,
    CEMConfig,
    GradientConfig,
    ICEMConfig,
    MCTSConfig,
    MPPIConfig,
    RandomShootingConfig,
)
from mbrl_gym.report import run_episodes
from mbrl_gym.tasks import known_reward
from mbrl_gym.wrappers import KnownReward, KnownTermination

TINY_PLANNER = CEMConfig(candidates=10, elites=3, iterations=2, horizon=3, particles=2)
STEPS = 2 * 10 * 3 * 2  # of the model, in one plan of it
SMALL: dict[str, Any] = {
    "planner": TINY_PLANNER,
    "model_config": EnsembleConfig(members=2, hidden=(8,), termination_hidden=(8,)),
    "trainer_config": TrainerConfig(max_updates=5, max_epochs=2),
    "learning_starts": 20,
    "train_freq": 20,
    "device": "cpu",
}
PLANNER_CONFIGS = {
    "random_shooting": RandomShootingConfig(candidates=10, horizon=3, particles=2),
    "cem": TINY_PLANNER,
    "icem": ICEMConfig(candidates=10, elites=3, iterations=2, horizon=5, particles=2),
    "mppi": MPPIConfig(candidates=10, iterations=2, horizon=3, particles=2),
    "gradient": GradientConfig(candidates=3, steps=2, horizon=3, particles=2),
}


class Corridor(gym.Env[Any, Any]):
    """Four steps to an end that is terminal and the time limit at once."""

    observation_space = gym.spaces.Dict(
        {"x": gym.spaces.Box(-9, 9, (2,), np.float64), "step": gym.spaces.Discrete(5), "odd": gym.spaces.MultiBinary(1)}
    )
    action_space = gym.spaces.MultiDiscrete([3, 2])

    def _obs(self) -> dict[str, Any]:
        return {"x": self.x.copy(), "step": self.steps, "odd": np.array([self.steps % 2], np.int8)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x, self.steps = self.np_random.normal(size=2), 0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        self.x, self.steps = self.x * 0.9 + 0.1 * (action[0] - 1), self.steps + 1
        end = self.steps == 4
        return self._obs(), -float(np.abs(self.x).sum()), end, end, {}


def small(env: Any = "Pendulum-v1", policy: Any = "MlpPolicy", **kwargs: Any) -> PETS:
    return PETS(policy, env, **{**SMALL, "seed": 0, **kwargs})


def pendulum_obs(n: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    angle = rng.uniform(-np.pi, np.pi, n)
    return np.stack([np.cos(angle), np.sin(angle), rng.uniform(-8, 8, n)], 1).astype(np.float32)


def assert_equal(a: PETS, b: PETS) -> None:
    mine, theirs = a.get_parameters(), b.get_parameters()
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert same_numbers(mine[name], theirs[name]), f"{name} differs"
    first, second = list(a.replay.chunks()), list(b.replay.chunks())
    assert len(first) == len(second)
    assert all(np.array_equal(x[k], y[k]) for x, y in zip(first, second, strict=True) for k in x)
    for name in ("num_timesteps", "real_steps", "trainings", "imagined_timesteps"):
        assert getattr(a, name) == getattr(b, name), name


def assert_same_plans(a: PETS, b: PETS) -> None:
    obs, memories = pendulum_obs(3), [None, None]
    for _ in range(2):
        actions = []
        for i, agent in enumerate((a, b)):
            action, memories[i] = agent.predict(obs, memories[i])  # type: ignore[call-overload]
            actions.append(action)
        assert np.array_equal(*actions)


@pytest.fixture(scope="module")
def trained() -> PETS:
    """A trained agent for tests that only predict with it."""
    return small().learn(40)


# ---- the loop ------------------------------------------------------------------------------------


def test_num_timesteps_counts_real_steps_and_trainings_follow_the_schedule() -> None:
    agent = small(learning_starts=25, train_freq=10)
    agent.learn(54)
    assert (agent.num_timesteps, agent.real_steps, agent.replay.n_transitions) == (54, 54, 54)
    assert agent.trainings == 3  # after 25, 35 and 45
    assert agent.imagined_timesteps == (54 - 25) * STEPS
    agent.learn(1, reset_num_timesteps=False)
    assert (agent.num_timesteps, agent.trainings) == (55, 4)
    agent.learn(5)
    assert (agent.num_timesteps, agent.real_steps) == (5, 60)


def test_the_replay_holds_what_the_environment_did() -> None:
    agent = small().learn(210)
    env: Any = gym.make("Pendulum-v1").unwrapped
    rows = agent.replay.gather(agent.replay.windows(2), 2)
    for i in range(0, 200, 7):
        obs = rows.obs[i, 0].double().numpy()
        env.state = np.array([np.arctan2(obs[1], obs[0]), obs[2]])
        after, reward, *_ = env.step(2 * rows.action[i, 0].numpy())
        np.testing.assert_allclose(rows.obs[i, 1], after, atol=1e-4)
        np.testing.assert_allclose(rows.reward[i, 1], reward, rtol=1e-4, atol=1e-4)
    assert rows.truncated[:, 1].sum() == 1
    assert not rows.terminated.any()


def test_random_actions_only_before_the_first_training() -> None:
    agent = small(learning_starts=30, train_freq=1000)
    acted = []
    original = agent._act
    agent._act = lambda obs: (acted.append(agent.real_steps), original(obs))[1]  # type: ignore[method-assign]
    agent.learn(40)
    assert acted == list(range(30, 40))


def test_learn_trains_at_once_on_a_replay_that_is_given() -> None:
    source = small(learning_starts=1000).learn(30)
    agent = small(replay=source.replay).learn(3)
    assert (agent.trainings, agent.imagined_timesteps) == (1, 3 * STEPS)
    assert agent.replay.n_transitions == 33


def test_imagined_timesteps_of_several_environments() -> None:
    agent = small(make_vec_env("CartPole-v1", 3), learning_starts=21).learn(36)
    assert (agent.num_timesteps, agent.replay.n_envs, agent.replay.n_transitions) == (36, 3, 36)
    assert agent.imagined_timesteps == 5 * 3 * STEPS


def test_acting_remembers_the_plan_and_forgets_it_at_an_episodes_end() -> None:
    class Ends(gym.Wrapper[Any, Any, Any, Any]):
        steps = 0

        def reset(self, **kwargs: Any) -> Any:
            self.steps = 0
            return self.env.reset(**kwargs)

        def step(self, action: Any) -> Any:
            self.steps += 1
            obs, reward, *_ = self.env.step(action)
            return obs, reward, self.steps == 4, False, {}

    agent = small(Ends(gym.make("Pendulum-v1")), learning_starts=8)
    begun, carried, planned = [], [], []
    plan = agent.policy.planner.plan

    def watch(model: Any, belief: Any, carry: Any, generator: Any = None) -> Any:
        carried.append(carry.centre.clone())
        planned.append(plan(model, belief, carry, generator))
        begun.append(bool(agent._last_episode_starts))
        return planned[-1]

    agent.policy.planner.plan = watch  # type: ignore[method-assign]
    agent.learn(20)
    assert begun == [True, False, False, False] * 3
    prior = agent.policy.planner.initial(1).centre
    for i in range(12):
        expected = prior if begun[i] else planned[i - 1].carry.centre
        assert carried[i].equal(expected), i


def test_log_has_plans_model_and_real_and_imagined_steps(tmp_path: Path) -> None:
    agent = small("CartPole-v1")
    agent.set_logger(configure(str(tmp_path), ["json"]))
    agent.learn(60)
    rows = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert [row["time/total_timesteps"] for row in rows] == [20, 40, 60]
    assert [row["time/imagined_timesteps"] for row in rows] == [0, 20 * STEPS, 40 * STEPS]
    for key in ("rollout/ep_rew_mean", "model/loss", "model/holdout_error", "plan/seconds", "plan/value"):
        assert np.isfinite(rows[-1][key]), key
    assert rows[-1]["plan/seconds"] > 0
    assert "plan/seconds" not in rows[0]  # nothing was planned yet
    assert [row["plan/non_finite"] for row in rows[1:]] == [0, 0]


def test_lost_candidates_are_counted_over_all_plans(tmp_path: Path) -> None:
    def nothing_known(obs: torch.Tensor, action: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return torch.full_like(after[:, 0], torch.nan)

    agent = small(reward=nothing_known)
    agent.set_logger(configure(str(tmp_path), ["json"]))
    agent.learn(60)
    rows = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert [row["plan/non_finite"] for row in rows[1:]] == [20 * 2 * 10] * 2  # plans x iterations x candidates


def test_the_log_is_of_the_real_environments_plans_alone(tmp_path: Path) -> None:
    class Interfere(BaseCallback):
        def _on_step(self) -> bool:
            self.model.predict(pendulum_obs(2))
            return True

    values = []
    for name, callback in (("with", Interfere()), ("without", None)):
        agent = small()
        agent.set_logger(configure(str(tmp_path / name), ["json"]))
        agent.learn(40, callback=callback)
        rows = [json.loads(line) for line in (tmp_path / name / "progress.json").read_text().splitlines()]
        values.append(rows[-1]["plan/value"])
    assert values[0] == values[1]


def test_progress_bar_shows_plan_time_model_error_and_real_return(capsys: pytest.CaptureFixture[str]) -> None:
    small("CartPole-v1").learn(60, progress_bar=True)
    shown = capsys.readouterr().err
    assert "60/60" in shown
    for word in ("plan_ms=", "imagined=", "model_error=", "real_return="):
        assert word in shown, word


def test_sb3_callbacks_checkpoint_and_evaluate(tmp_path: Path) -> None:
    agent = small("CartPole-v1")
    evaluate = EvalCallback(
        make_vec_env("CartPole-v1", 2), best_model_save_path=str(tmp_path), eval_freq=25, n_eval_episodes=2, verbose=0
    )
    agent.learn(30, callback=[evaluate, CheckpointCallback(25, str(tmp_path), name_prefix="pets")])
    assert PETS.load(tmp_path / "best_model").real_steps == 25
    assert PETS.load(tmp_path / "pets_25_steps.zip").num_timesteps == 25


def test_an_evaluation_in_the_middle_changes_nothing() -> None:
    evaluate = EvalCallback(make_vec_env("CartPole-v1", 1, seed=5), eval_freq=7, n_eval_episodes=1, verbose=0)
    assert_equal(small("CartPole-v1").learn(50), small("CartPole-v1").learn(50, callback=evaluate))


def test_learn_and_predict_leave_the_global_generators_alone_and_do_not_depend_on_them() -> None:
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
        runs.append(small().learn(25))
        runs[-1].predict(pendulum_obs(2))
        assert torch.equal(before[0], torch.get_rng_state())
        assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]
    assert_equal(*runs)


def test_set_random_seed_repeats_a_run() -> None:
    runs = [small(seed=seed) for seed in (1, 2)]
    runs[1].set_parameters(runs[0].get_parameters())
    for agent in runs:
        agent.set_random_seed(7)
    assert_equal(runs[0].learn(30), runs[1].learn(30))


def test_parameters_that_are_set_are_planned_with(trained: PETS) -> None:
    other = small(seed=1)
    other.policy.seed = trained.policy.seed
    other.set_parameters(trained.get_parameters())
    assert_same_plans(trained, other)


# ---- predict -------------------------------------------------------------------------------------


def test_predict_of_one_observation_and_of_a_batch(trained: PETS) -> None:
    obs = pendulum_obs(3)
    action, state = trained.predict(obs)
    assert action.shape == (3, 1)
    assert action.dtype == np.float32
    assert trained.action_space.contains(action[0])
    assert state is not None
    assert all(len(x) == 3 for x in state)
    single, state = trained.predict(obs[0])
    assert single.shape == (1,)
    assert state is not None
    assert np.array_equal(single, trained.predict(obs[:1])[0][0])
    assert trained.predict(obs[0], state, np.array([False]))[0].shape == (1,)
    again, _ = trained.predict(obs[0], state, False)  # type: ignore[arg-type]
    assert np.array_equal(again, trained.predict(obs[0], state)[0])


def test_a_plan_begins_from_the_one_before(trained: PETS) -> None:
    obs = pendulum_obs(2)
    first, state = trained.predict(obs)
    warm, _ = trained.predict(obs, state)
    assert not np.array_equal(first, warm)
    assert state is not None
    cold = (np.zeros_like(state[0]), *state[1:])  # the same stream of random numbers around another plan
    assert not np.array_equal(trained.predict(obs, cold)[0], warm)


def test_episode_start_forgets_a_rows_memory_and_no_other(trained: PETS) -> None:
    obs = pendulum_obs(3)
    _, state = trained.predict(obs)
    assert state is not None
    plan = trained.policy.planner.initial(3).centre.numpy()  # type: ignore[attr-defined]
    for starts in ([True, False, True], [False, True, False], [True, True, True]):
        forgotten = np.where(np.array(starts)[:, None, None], plan, state[0])
        action, after = trained.predict(obs, state, np.array(starts))
        expected, wanted = trained.predict(obs, (forgotten, *state[1:]), np.array(starts))
        assert np.array_equal(action, expected)
        assert after is not None
        assert wanted is not None
        assert all(np.array_equal(x, y) for x, y in zip(after, wanted, strict=True))
    other = tuple(np.full_like(x, 3) if i < 3 else x for i, x in enumerate(state))  # plan, observation, member
    everything = np.ones(3, bool)
    assert np.array_equal(trained.predict(obs, other, everything)[0], trained.predict(obs, state, everything)[0])
    assert np.array_equal(trained.predict(obs, None, everything)[0], trained.predict(obs)[0])


def test_predict_is_a_function_of_observation_and_state(trained: PETS) -> None:
    obs = pendulum_obs(2)
    _, state = trained.predict(obs)
    assert state is not None
    kept = tuple(x.copy() for x in state)
    seen = obs.copy()
    action, after = trained.predict(obs, state)
    trained.predict(pendulum_obs(5, seed=1))
    again, after_again = trained.predict(obs, state)
    assert np.array_equal(action, again)
    assert after is not None
    assert after_again is not None
    assert all(np.array_equal(x, y) for x, y in zip(after, after_again, strict=True))
    assert all(np.array_equal(x, y) for x, y in zip(state, kept, strict=True))
    assert np.array_equal(obs, seen)
    frozen = tuple(x.copy() for x in state)
    for x in frozen:
        x.flags.writeable = False
    assert np.array_equal(trained.predict(obs, frozen)[0], action)


def test_memory_holds_the_observation_and_the_member_and_numbers_the_streams() -> None:
    agent = small().learn(25)
    obs = pendulum_obs(16)
    _, state = agent.predict(obs)
    assert state is not None
    _, remembered, member, _, calls = state  # the plan, the belief's two, the action, the calls
    assert np.array_equal(remembered, obs)
    assert set(member) == {0, 1}  # each new episode draws one
    assert (calls == 1).all()
    action, after = agent.predict(obs, state)
    assert after is not None
    assert np.array_equal(after[2], member)
    assert (after[-1] == 2).all()
    assert not np.array_equal(agent.predict(obs, (*state[:-1], calls + 1))[0], action)
    agent.policy.seed += 1
    assert not np.array_equal(agent.predict(obs, state)[0], action)


def test_planning_is_in_the_model_as_it_was_fitted_last() -> None:
    agent = small().learn(25)
    obs = pendulum_obs(4)
    before = agent.predict(obs)[0]
    assert agent.policy.model is not agent.model
    with torch.no_grad():
        agent.model.net.weights[0].mul_(-1)  # type: ignore[union-attr, operator, index]
    assert np.array_equal(agent.predict(obs)[0], before)
    agent.policy.follow(agent.model)
    assert not np.array_equal(agent.predict(obs)[0], before)


def test_a_wrong_state_is_an_error_that_says_so(trained: PETS) -> None:
    obs = pendulum_obs(3)
    _, state = trained.predict(obs[:2])
    assert state is not None
    wrong: list[Any] = [state, state[:-1], (), (1, 2), state[0], "plan", tuple(x.astype(np.float64) for x in state)]
    for memory in wrong:
        with pytest.raises(ValueError, match=r"state must be what the last call of predict returned.*None to begin"):
            trained.predict(obs, memory)
    with pytest.raises(ValueError, match="episode_start must have one flag for each of 3 environments, got 2"):
        trained.predict(obs, None, np.ones(2, bool))
    with pytest.raises(ValueError, match="episode_start must have one flag for each of 1 environments, got 2"):
        trained.predict(obs[0], None, np.ones(2, bool))


def test_a_wrong_observation_is_an_error_that_says_so(trained: PETS) -> None:
    with pytest.raises(ValueError, match=r"observation must have the shape \[batch, 3\]"):
        trained.predict(np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="observation must be finite"):
        trained.predict(np.array([1, 0, np.nan], np.float32))


def test_evaluate_policy_and_run_episodes() -> None:
    agent = small("CartPole-v1").learn(30)
    first = evaluate_policy(agent, make_vec_env("CartPole-v1", 2, seed=1), 4)
    assert first == evaluate_policy(agent, make_vec_env("CartPole-v1", 2, seed=1), 4)
    returns = run_episodes(agent.predict, gym.make("CartPole-v1"), 2, seed=3)
    assert len(returns.returns) == 2
    assert returns == run_episodes(agent.predict, gym.make("CartPole-v1"), 2, seed=3)


@pytest.mark.parametrize("policy", ["MlpPolicy", "MultiInputPolicy"])
def test_dictionaries_and_multidiscrete_actions(policy: str) -> None:
    agent = small(DummyVecEnv([Corridor, Corridor]), policy).learn(50)
    assert agent.trainings == 2
    obs = {"x": np.zeros((3, 2)), "step": np.zeros(3, int), "odd": np.zeros((3, 1), np.int8)}
    action, state = agent.predict(obs)
    assert action.shape == (3, 2)
    assert agent.action_space.contains(action[0])
    assert agent.predict(obs, state)[0].shape == (3, 2)
    single, _ = agent.predict({"x": np.zeros(2), "step": 0, "odd": np.zeros(1, np.int8)})
    assert single.shape == (2,)
    with pytest.raises(ValueError, match="observation must be a dictionary with the keys"):
        agent.predict({"x": np.zeros(2), "step": 0})


def test_discrete_actions() -> None:
    agent = small("CartPole-v1").learn(30)
    action, _ = agent.predict(np.zeros(4, np.float32))
    assert action.shape == ()
    assert agent.action_space.contains(int(action))
    assert agent.predict(np.zeros((5, 4), np.float32))[0].shape == (5,)


def test_sb3s_policy_interface(trained: PETS) -> None:
    obs = pendulum_obs(2)
    actions = trained.policy._predict(torch.as_tensor(obs))
    assert np.array_equal(actions.numpy(), trained.predict(obs)[0])
    assert not list(trained.policy.parameters())


# ---- determinism and storing ---------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_seeded_runs_are_bit_equal_and_seeds_matter(env_id: str) -> None:
    runs = [small(env_id, seed=s).learn(50) for s in (3, 3, 4)]
    assert_equal(runs[0], runs[1])
    with pytest.raises(AssertionError):
        assert_equal(runs[0], runs[2])


@pytest.mark.parametrize(
    ("env_id", "steps", "kwargs"),
    [
        ("Pendulum-v1", 10, {}),  # among the random actions
        ("Pendulum-v1", 35, {"reward": "known", "termination": "known"}),
        ("CartPole-v1", 35, {"model_config": replace(SMALL["model_config"], elites=1)}),
        ("Pendulum-v1", 35, {"planner": PLANNER_CONFIGS["icem"]}),
    ],
)
def test_resume_equals_going_on(tmp_path: Path, env_id: str, steps: int, kwargs: dict[str, Any]) -> None:
    agent = small(env_id, **kwargs).learn(steps)
    agent.save(tmp_path / "agent")
    loaded = PETS.load(tmp_path / "agent", env=env_id, device="cpu")
    assert_equal(agent, loaded)
    assert_equal(agent.learn(30, reset_num_timesteps=False), loaded.learn(30, reset_num_timesteps=False))
    assert agent.policy.seed == loaded.policy.seed


RESUME = """
import sys
from mbrl_gym.agents import PETS
PETS.load(sys.argv[1], env="Pendulum-v1", device="cpu").learn(30, reset_num_timesteps=False).save(sys.argv[2])
"""


def test_resume_in_a_new_process_equals_going_on(tmp_path: Path) -> None:
    agent = small(reward="known").learn(35)
    agent.save(tmp_path / "stopped")
    subprocess.run([sys.executable, "-c", RESUME, str(tmp_path / "stopped"), str(tmp_path / "resumed")], check=True)
    assert_equal(agent.learn(30, reset_num_timesteps=False), PETS.load(tmp_path / "resumed", env="Pendulum-v1"))


def test_loaded_agent_plans_the_same_without_an_environment(tmp_path: Path, trained: PETS) -> None:
    trained.save(tmp_path / "agent")
    loaded = PETS.load(tmp_path / "agent", device="cpu")
    assert_same_plans(trained, loaded)
    assert loaded.imagined_timesteps == trained.imagined_timesteps
    with pytest.raises(ValueError, match=r"env is not set; give one to load\(\)"):
        loaded.learn(10)
    loaded.set_env(gym.make("Pendulum-v1"))
    loaded.learn(5)


def test_arguments_come_back_and_may_differ_on_loading(tmp_path: Path) -> None:
    agent = small(reward="known", preset="paper").learn(25)
    agent.save(tmp_path / "agent")
    loaded = PETS.load(tmp_path / "agent")
    for name in ("preset", "planner_config", "model_config", "trainer_config", "reward", "termination", "buffer_size"):
        assert getattr(loaded, name) == getattr(agent, name), name
    assert (loaded.learning_starts, loaded.train_freq, loaded.real_id) == (20, 20, "Pendulum-v1")
    other = PETS.load(tmp_path / "agent", planner=PLANNER_CONFIGS["mppi"], reward="Pendulum-v1")
    assert type(other.policy.planner).__name__ == "MPPI"
    with pytest.raises(CheckpointError, match=r"(?s)agent: what was learned does not fit.*model_config"):
        PETS.load(tmp_path / "agent", model_config=EnsembleConfig(members=2, hidden=(9,)))


def test_a_function_has_to_be_given_again(tmp_path: Path) -> None:
    reward, termination = known_reward("Pendulum-v1"), lambda obs, action, after: after[:, 0] > 2
    agent = small(reward=reward, termination=termination).learn(25)
    agent.save(tmp_path / "agent")
    message = r"reward was a function, which a file cannot hold; pass reward= to load\(\)"
    with pytest.raises(CheckpointError, match=message):
        PETS.load(tmp_path / "agent")
    with pytest.raises(CheckpointError, match="termination was a function"):
        PETS.load(tmp_path / "agent", reward=reward)
    assert_same_plans(agent, PETS.load(tmp_path / "agent", reward=reward, termination=termination, device="cpu"))


def test_load_says_what_is_wrong(tmp_path: Path, trained: PETS) -> None:
    with pytest.raises(CheckpointError, match="nothing"):
        PETS.load(tmp_path / "nothing")
    trained.save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match="pets"):
        load_model(tmp_path / "agent")


def test_replay_can_be_left_out(tmp_path: Path, trained: PETS) -> None:
    trained.save(tmp_path / "agent", exclude=["replay"])
    loaded = PETS.load(tmp_path / "agent", env=make_vec_env("Pendulum-v1", 2), device="cpu")
    assert len(loaded.replay) == 0
    loaded.learn(24, reset_num_timesteps=False)
    assert loaded.trainings == trained.trainings + 1


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path: Path, trained: PETS) -> None:
    trained.save(tmp_path / "agent")
    kinds = {path.suffix or path.name for path in (tmp_path / "agent").rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors", ".npz", "CURRENT"}


def test_publish_and_the_published_dream_has_the_known_reward(home: Path) -> None:
    agent = small(reward="known", termination="known").learn(30)
    stored = agent.stored_model(reset_states=16, card={"note": "test"})
    assert (stored.real_id, stored.horizon, len(stored.starts)) == ("Pendulum-v1", 200, 16)
    assert stored.card == {"agent": "PETS", "real_steps": 30, "seed": 0, "note": "test"}
    agent.publish("Learned-PetsTest-v0", reset_states=8)
    env = gym.make("Learned-PetsTest-v0")
    obs, _ = env.reset(seed=1)
    action = np.array([-2.0], np.float32)
    after, reward, *_ = env.step(action)
    expected = known_reward("Pendulum-v1")(*(torch.as_tensor(x)[None] for x in (obs, action, after)))
    assert reward == pytest.approx(expected.item(), rel=1e-5)
    agent.learn(5, reset_num_timesteps=False)


def test_publish_in_the_middle_of_a_run_begins_new_episodes() -> None:
    class Look(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 27:
                self.model.stored_model(reset_states=9)  # type: ignore[attr-defined]
            return True

    agent = small().learn(35, callback=Look())
    rows = agent.replay.gather(agent.replay.windows(1), 1)
    assert np.flatnonzero(rows.is_first[:, 0]).tolist() == [0, 28]


# ---- what is known -------------------------------------------------------------------------------


def test_what_is_known_is_not_learned() -> None:
    agent = small("CartPole-v1", reward="known", termination="known")
    assert type(agent.model) is KnownReward
    assert type(agent.model.inner) is KnownTermination
    assert (agent.reward, agent.termination) == ("CartPole-v1", "CartPole-v1")
    agent.learn(60)
    inner: Any = agent.model.unwrapped
    assert (inner.config.learn_reward, inner.config.learn_termination) == (False, False)
    assert not inner.has_terminations
    assert inner.target_mean[-1] == 0  # of the reward, which is always 1
    learned: Any = small("CartPole-v1").learn(60).model
    assert type(learned) is Ensemble
    assert learned.has_terminations
    assert learned.target_mean[-1] == 1


def test_one_of_the_two_may_be_known() -> None:
    reward = small(reward="Pendulum-v1")
    assert type(reward.model) is KnownReward
    assert type(reward.model.inner) is Ensemble
    assert reward.model.inner.config.learn_termination
    termination = small(termination="known")
    assert type(termination.model) is KnownTermination
    assert termination.model.config.learn_reward


def test_a_reward_function_decides_what_is_planned() -> None:
    def push(sign: float) -> Any:
        return lambda obs, action, after: sign * action[:, 0]

    right, left = (small(reward=push(sign), planner=CEMConfig(60, 6, 3, 3, 2)).learn(21) for sign in (1.0, -1.0))
    obs = pendulum_obs(4)
    assert (right.predict(obs)[0] > 1.0).all()
    assert (left.predict(obs)[0] < -1.0).all()


@pytest.mark.parametrize("env", ["Pendulum-v1", "gymnasium:Pendulum-v1"])
def test_the_id_is_found_inside_vec_envs(env: str) -> None:
    for real in (env, gym.make(env), make_vec_env(env, 2), VecNormalize(make_vec_env(env), norm_obs=False)):
        assert small(real, reward="known").reward == "Pendulum-v1"


def test_known_needs_a_task_that_is_known() -> None:
    with pytest.raises(ValueError, match="reward must be the name of a task or a function where env has no id, got"):
        small(Corridor(), reward="known")
    with pytest.raises(ValueError, match=r"termination must be the name of a task.*termination='Pendulum-v1'"):
        small(Corridor(), termination="known")
    with pytest.raises(ValueError, match="a task whose reward is known, got 'MountainCar-v0'"):
        small("MountainCar-v0", reward="known")
    with pytest.raises(ValueError, match="a task whose termination is known, got 'Nope'"):
        small(termination="Nope")


# ---- arguments -----------------------------------------------------------------------------------


def test_tree_search_acts_where_actions_are_discrete() -> None:
    agent = small("CartPole-v1", planner=MCTSConfig(simulations=4, horizon=3, particles=2)).learn(30)
    assert agent.imagined_timesteps == 10 * agent.policy.planner.imagined_steps > 0
    with pytest.raises(ValueError, match="action_space"):
        small(planner=MCTSConfig())


@pytest.mark.parametrize("name", [name for name in PLANNERS if name != "mcts"])
def test_every_planner_acts(name: str) -> None:
    agent = small(planner=PLANNER_CONFIGS[name], reward="known").learn(30)
    assert type(agent.policy.planner) is PLANNERS[name]
    assert agent.imagined_timesteps == 10 * agent.policy.planner.imagined_steps > 0
    obs = pendulum_obs(2)
    _, state = agent.predict(obs)
    action, _ = agent.predict(obs, state, np.array([True, False]))
    assert np.isfinite(action).all()


@pytest.mark.parametrize("propagation", ["ts1", "ts_inf", "expectation", "distribution_sampling", "moment_matching"])
def test_every_propagation_acts(propagation: str) -> None:
    agent = small(model_config=replace(SMALL["model_config"], propagation=propagation)).learn(25)
    assert agent.model.config.propagation == propagation
    assert np.isfinite(agent.predict(pendulum_obs(2))[0]).all()


@pytest.mark.parametrize(
    "change",
    [
        {"planner": replace(TINY_PLANNER, candidates=11)},
        {"reward": "known"},
        {"termination": lambda obs, action, after: after[:, 2] > 0},
        {"model_config": replace(SMALL["model_config"], hidden=(9,))},
        {"trainer_config": replace(SMALL["trainer_config"], learning_rate=0.01)},
        {"learning_starts": 21},
        {"train_freq": 10},
        {"buffer_size": 30},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_argument_has_an_effect(change: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        assert_equal(small().learn(45), small(**change).learn(45))


def test_a_preset_is_for_what_is_not_given() -> None:
    env = gym.make("Pendulum-v1")
    agent = PETS("MlpPolicy", env)
    light, published = cpu("Pendulum-v1"), paper("Pendulum-v1")
    for preset, found in ((light, agent), (published, PETS("MlpPolicy", env, preset="paper"))):
        assert found.planner_config == preset.planner
        assert found.model_config == preset.model
        assert found.trainer_config == preset.trainer
        assert (found.learning_starts, found.train_freq) == (preset.learning_starts, preset.train_freq)
    assert light != published
    planner = replace(TINY_PLANNER, particles=5)
    changed = PETS("MlpPolicy", env, preset="paper", learning_starts=7, planner=planner)
    assert (changed.learning_starts, changed.train_freq, changed.planner_config) == (7, 1000, planner)
    assert changed.model_config == published.model


def test_the_cpu_preset() -> None:
    preset = cpu(None)
    assert preset.planner == ICEMConfig(candidates=64, elites=8, iterations=3, horizon=20, particles=5)
    assert preset.model == EnsembleConfig()
    assert preset.planner.particles % preset.model.members == 0
    assert (preset.learning_starts, preset.train_freq) == (200, 200)


# handful-of-trials @77fd880, dmbrl/config/*.py: hidden layers, decays, learning rate, steps of a task, plan horizon,
# population, elites.
PUBLISHED = {
    "PETSCartpole-v0": ((500, 500, 500), (1e-4, 2.5e-4, 2.5e-4, 5e-4), 1e-3, 200, 25, 400, 40),
    "Reacher-v5": ((200, 200, 200, 200), (2.5e-4, 5e-4, 5e-4, 5e-4, 7.5e-4), 7.5e-4, 150, 25, 400, 40),
    "Pusher-v5": ((200, 200, 200), (2.5e-4, 5e-4, 5e-4, 7.5e-4), 1e-3, 150, 25, 500, 50),
    "HalfCheetah-v5": ((200, 200, 200, 200), (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4), 1e-3, 1000, 30, 500, 50),
}


@pytest.mark.parametrize("env_id", PUBLISHED)
def test_the_papers_preset_is_the_papers(env_id: str) -> None:
    hidden, decay, rate, steps, horizon, population, elites = PUBLISHED[env_id]
    for name in (env_id, f"some/{env_id}"):
        preset = paper(name)
        assert (preset.model.hidden, preset.model.weight_decay) == (hidden, decay)
        assert (preset.learning_starts, preset.train_freq) == (steps, steps)
        planner = preset.planner
        assert type(planner) is CEMConfig
        assert (planner.horizon, planner.candidates, planner.elites) == (horizon, population, elites)
        assert (planner.iterations, planner.alpha, planner.particles, planner.epsilon) == (5, 0.1, 20, 0.001)
        assert (planner.init_deviation, planner.discount) == (0.5, 1.0)  # variance (high - low)^2 / 16 of [-1, 1]
        model = preset.model
        assert (model.members, model.elites, model.propagation) == (5, None, "ts_inf")
        assert (model.max_log_variance, model.min_log_variance) == (0.5, -10.0)
        assert (model.learn_variance_bounds, model.variance_bound_penalty, model.variance_weighting) == (True, 0.01, 0)
        assert (model.normalize_targets, model.clamp_margin) == (False, None)
        trainer = preset.trainer
        assert (trainer.learning_rate, trainer.final_learning_rate) == (rate, 1.0)
        assert (trainer.batch_size, trainer.max_epochs, trainer.holdout, trainer.bootstrap) == (32, 5, 0.0, True)
        assert (trainer.max_updates, trainer.grad_clip) == (None, None)


def test_the_papers_preset_elsewhere() -> None:
    assert paper("PETSCartpole-v0").model.angles == (1,)  # of (x, angle, velocities)
    assert paper("HalfCheetah-v5").model.angles == (1,)  # the torso's
    assert paper("Reacher-v5").model.angles == paper("Ant-v5").model.angles == ()
    assert replace(paper("Ant-v5").model, angles=(1,)) == paper("HalfCheetah-v5").model
    for name in (None, "Ant-v5"):
        assert paper(name).planner == paper("HalfCheetah-v5").planner


def test_a_module_before_the_id_does_not_hide_the_papers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    monkeypatch.setitem(
        sys.modules["mbrl_gym.agents.pets"].PRESETS, "paper", lambda env_id: (found.append(env_id), cpu(env_id))[1]
    )
    for env in ("gymnasium:Pendulum-v1", gym.make("Pendulum-v1"), make_vec_env("Pendulum-v1", 2)):
        PETS("MlpPolicy", env, preset="paper")
    assert found == ["Pendulum-v1"] * 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"policy": "CnnPolicy"}, "policy must be one of .*'MlpPolicy'.*got 'CnnPolicy'"),
        ({"policy": ActorCriticPolicy}, "policy must be one of"),
        ({"policy_kwargs": {"net_arch": [8]}}, "policy_kwargs must be empty.*net_arch"),
        ({"preset": "gpu"}, r"preset must be one of \['cpu', 'paper'\], got 'gpu'"),
        ({"planner": "cem"}, r"planner must be a configuration of mbrl_gym.planners, as in CEMConfig\(\), got 'cem'"),
        ({"planner": CEMConfig}, "planner must be a configuration"),
        ({"learning_starts": 0}, "learning_starts must be at least 1 step, got 0"),
        ({"train_freq": 0}, "train_freq must be at least 1 step, got 0"),
        ({"buffer_size": 0}, "buffer_size must be at least 1 step, got 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"planner": replace(TINY_PLANNER, particles=3)}, "particles must be a multiple of the 2 elite members.*got 3"),
        ({"env": "CartPole-v1", "planner": PLANNER_CONFIGS["gradient"]}, "action_space must be a Box for Gradient"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small(**arguments)


def test_one_particle_needs_no_multiple() -> None:
    agent = small(planner=replace(TINY_PLANNER, particles=1)).learn(22)
    assert agent.imagined_timesteps == 2 * STEPS // 2


def test_images_are_refused() -> None:
    class Picture(gym.Env[Any, Any]):
        observation_space = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return self.observation_space.sample(), {}

    with pytest.raises(ValueError, match=r"must be a vector.*images need a model made for them"):
        small(Picture())


def test_normalised_observations_are_refused_and_nothing_changes() -> None:
    words = "env must show observations as they are, got a VecNormalize with norm_obs=True; take it off"
    normalised = VecNormalize(make_vec_env("Pendulum-v1"))
    with pytest.raises(ValueError, match=words):
        small(normalised)
    agent = small()
    before = agent.env
    with pytest.raises(ValueError, match=words):
        agent.set_env(normalised)
    assert agent.env is before
    agent.learn(22)
    with pytest.raises(ValueError, match=words):
        agent.set_env(normalised)


def test_normalised_rewards_are_stored_as_they_were(tmp_path: Path) -> None:
    agent = small(VecNormalize(make_vec_env("Pendulum-v1"), norm_obs=False)).learn(25)
    assert_equal(agent, small(make_vec_env("Pendulum-v1")).learn(25))
    agent.save(tmp_path / "agent")
    with pytest.raises(ValueError, match="env must show observations as they are"):
        PETS.load(tmp_path / "agent", env=VecNormalize(make_vec_env("Pendulum-v1")))


def test_spaces_of_a_given_replay_have_to_fit() -> None:
    env = gym.make("CartPole-v1")
    with pytest.raises(ValueError, match="replay must have the environment's spaces"):
        small(replay=SequenceReplay(env.observation_space, env.action_space, 10))


def test_a_reward_that_does_not_fit_the_observations_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r'"HalfCheetah-v5" needs observations of width 18, got 17.*:velocity'):
        small("HalfCheetah-v5", reward="known")
    assert small("HalfCheetah-v5", reward="HalfCheetah-v5:velocity").reward == "HalfCheetah-v5:velocity"


@pytest.mark.slow
def test_pets_swings_the_pendulum_up_in_ten_trials() -> None:
    agent = PETS("MlpPolicy", "Pendulum-v1", seed=0, device="cpu").learn(2_000)
    assert agent.ep_info_buffer is not None
    assert np.mean([episode["r"] for episode in agent.ep_info_buffer][-5:]) > -250
