import itertools
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from mbrl_gym import LearnedEnv, StartStates, available_models, publish, zoo
from mbrl_gym.store import load_shared
from mbrl_gym.wrappers import make_atari
from worlds import BOX, DICT, PUSH, Walk, WalkConfig, walk_starts

SHIPPED = sorted(zoo.shipped_models())


def walk(horizon=1000, space=BOX, render_mode=None, firsts=(0.0,), action_space=PUSH, **config):
    model = Walk(space, action_space, WalkConfig(**config))
    return LearnedEnv(model, walk_starts(model, *firsts), horizon, render_mode)


def real_env(env_id, **mode):
    """The real environment of a shipped model, as policies know it."""
    real_id = load_shared(available_models()[env_id], "cpu").real_id
    return make_atari(real_id, **mode) if real_id.startswith("ALE/") else gym.make(real_id, **mode)


def warnings_of(make, render):
    """What Gymnasium's and SB3's checkers warn of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(make().unwrapped, skip_render_check=not render)
        sb3_check_env(make(), warn=True, skip_render_check=not render)
    return {str(warning.message) for warning in caught}


# Checkers


@pytest.mark.parametrize("env_id", SHIPPED)
@pytest.mark.parametrize("render", [False, True])
def test_shipped_models_warn_of_nothing_that_the_real_environment_does_not(env_id, render):
    mode = {"render_mode": "rgb_array"} if render else {}
    learned = warnings_of(lambda: gym.make(env_id, **mode), render)
    assert learned <= warnings_of(lambda: real_env(env_id, **mode), render)


@pytest.mark.parametrize("render", [False, True])
@pytest.mark.parametrize("name", ["pendulum", "cartpole"])
def test_fitted_models_warn_of_nothing_that_the_real_environment_does_not(name, render, request, home):
    stored = request.getfixturevalue(name)
    env_id = f"Learned-{stored.real_id}"
    publish(stored, env_id)
    mode = {"render_mode": "rgb_array"} if render else {}
    learned = warnings_of(lambda: gym.make(env_id, **mode), render)
    assert learned <= warnings_of(lambda: gym.make(stored.real_id, **mode), render)


@pytest.mark.parametrize("space", [BOX, DICT, spaces.Discrete(5), spaces.MultiDiscrete([3, 4])], ids=str)
@pytest.mark.parametrize("action_space", [PUSH, spaces.Discrete(3)], ids=str)
def test_every_kind_of_space_passes_the_checkers(space, action_space):
    model = Walk(space, action_space, WalkConfig(noise=0.5, ends_at=2.0))
    samples = [space.sample() for _ in range(20)]
    if isinstance(space, spaces.Dict):
        obs = {key: torch.as_tensor(np.stack([sample[key] for sample in samples]))[:, None] for key in samples[0]}
    else:
        obs = torch.as_tensor(np.stack(samples))[:, None]
    starts = StartStates(obs, torch.zeros(20, 1, model.action_codec.size))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of these spaces, and of a missing spec
        check_env(LearnedEnv(model, starts, 7, "rgb_array"))
        sb3_check_env(LearnedEnv(model, starts, 7, "rgb_array"))


def test_spaces_are_those_of_the_real_environment_and_available_models_are_the_shipped_ones(home):
    assert sorted(available_models()) == SHIPPED
    for env_id in SHIPPED:
        real, learned = real_env(env_id), gym.make(env_id)
        assert learned.observation_space == real.observation_space
        assert learned.action_space == real.action_space


# Episodes


def test_one_step_by_hand():
    env = walk(firsts=(10.0,), ends_at=11.0)
    obs, info = env.reset(seed=0)
    assert obs.tolist() == [10.0, 10.0]
    assert info == {"uncertainty": 0.0}
    obs, reward, terminated, truncated, info = env.step(np.array([1.0], np.float32))
    assert obs.tolist() == [10.5, 10.5]
    assert (reward, terminated, truncated) == (10.5, False, False)
    assert info == {"uncertainty": 0.5, "push": 0.5, "diverged": False}
    assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
    assert [type(value) for value in info.values()] == [float, float, bool]
    assert env.step(np.array([2.0], np.float32))[2:4] == (True, False)


def test_what_the_model_said_of_the_latest_step_can_be_read():
    env = walk(firsts=(10.0,), ends_at=11.0)
    env.reset(seed=0)
    assert env.prediction is None
    env.step(np.array([2.0], np.float32))
    assert (env.prediction.continuation.tolist(), env.prediction.uncertainty.tolist()) == ([1.0], [1.0])
    env.step(np.array([2.0], np.float32))
    assert env.prediction.continuation.tolist() == [0.0]


def test_steps_are_drawn_or_the_mean():
    env, told = walk(), []
    predict = env.model.predict
    env.model.predict = lambda *arguments: told.append(arguments[3]) or predict(*arguments)
    env.reset(seed=0)
    env.step(np.zeros(1))
    env.dream.sample = False
    env.step(np.zeros(1))
    assert told == [True, False]


def test_the_horizon_truncates_and_never_terminates():
    env = walk(horizon=3)
    env.reset(seed=0)
    assert [env.step(np.zeros(1))[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_dream_that_breaks_ends_as_truncated(value):
    env = walk(space=spaces.Box(-np.inf, np.inf, (2,), np.float32), firsts=(3.0,), breaks_with=value)
    env.reset(seed=0)
    obs, reward, terminated, truncated, info = env.step(np.array([2.0], np.float32))
    assert obs.tolist() == [3.0, 3.0]
    assert (reward, terminated, truncated, info["diverged"], info["uncertainty"]) == (0.0, False, True, True, 0.0)


def episode(env, seed, steps=30):
    env.action_space.seed(0)
    found = [env.reset(seed=seed)[0]]
    found += [env.step(env.action_space.sample())[0] for _ in range(steps)]
    return np.stack(found)


def test_a_seeded_reset_repeats_and_unseeded_ones_differ(cartpole):
    env = LearnedEnv(cartpole.model, cartpole.starts)
    first = episode(env, 5)
    assert np.array_equal(first, episode(env, 5))
    assert np.array_equal(first, episode(LearnedEnv(cartpole.model, cartpole.starts), 5))
    assert not np.array_equal(first, episode(env, 6))
    unseeded = [env.reset()[0] for _ in range(5)]
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(unseeded))
    env.reset(seed=5)
    second = episode(env, None)
    env.reset(seed=5)
    assert np.array_equal(second, episode(env, None))  # the episodes after a seeded one are fixed too


def test_starts_by_options():
    env = walk(context=2)
    obs, _ = env.reset(options={"start": np.array([[1.0, 2.0], [3.0, 4.0]]), "action": np.array([[1.0], [0.0]])})
    assert obs.tolist() == [3.0, 4.0]
    assert env.step(np.zeros(1))[1] == 3 + (1 + 2 + 50)
    obs, _ = walk().reset(options={"start": np.array([1.0, 2.0])})
    assert obs.tolist() == [1.0, 2.0]
    obs, _ = walk(space=DICT).reset(options={"start": {"place": np.ones((1, 2)), "kind": 2}})
    assert obs["kind"] == 2
    assert DICT.contains(obs)


def test_bad_input_is_refused():
    env = walk()
    with pytest.raises(RuntimeError, match=r"step\(\) needs a reset\(\) first"):
        env.step(np.zeros(1))
    env.reset()
    with pytest.raises(ValueError, match=r"actions must have the shape \(1, 1\), a batch of 1 of Box.*, got \(1, 2\)"):
        env.step(np.zeros(2))
    with pytest.raises(ValueError, match="actions must be finite, got nan"):
        env.step(np.array([np.nan]))
    with pytest.raises(ValueError, match=r"options may have the keys \['start', 'action'\], got \['low'\]"):
        env.reset(options={"low": 1})
    with pytest.raises(ValueError, match=r"options\['start'\] must have the shape \(2,\)"):
        env.reset(options={"start": np.zeros(3)})
    with pytest.raises(ValueError, match=r"render_mode must be None or one of .*, got 'ansi'"):
        walk(render_mode="ansi")
    with pytest.raises(ValueError, match="horizon must be at least 1"):
        walk(horizon=0)
    discrete = walk(action_space=spaces.Discrete(2))
    discrete.reset()
    with pytest.raises(ValueError, match="member of Discrete"):
        discrete.step(2)
    discrete.step(np.int64(1))


def test_a_refused_reset_leaves_the_seed_alone():
    env = walk(firsts=range(100))
    env.reset(seed=3)
    following = env.reset()[0]
    env.reset(seed=3)
    with pytest.raises(ValueError, match="options"):
        env.reset(seed=4, options={"start": np.zeros(7)})
    assert np.array_equal(env.reset()[0], following)
