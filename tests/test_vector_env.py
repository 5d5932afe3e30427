import copy
import json
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as wrappers

from mbrl_gym import LearnedEnv, LearnedVectorEnv, StartStates, check_vector_env
from mbrl_gym.wrappers import SB3VecEnv
from worlds import BOX, DICT, PUSH, UNBOUNDED, Walk, WalkConfig, walk_starts

MODES = [mode.value for mode in AutoresetMode]
UP = np.float32(2.0)  # the largest push: +1 on every number


def walk(n=3, horizon=1000, mode="SameStep", space=BOX, backend="numpy", firsts=(0.0,), action_space=PUSH, **config):
    model = Walk(space, action_space, WalkConfig(**config))
    return LearnedVectorEnv(model, walk_starts(model, *firsts), n, horizon, mode, backend)


def push(*amounts):
    """Actions [n, 1] that add ``amounts`` to the numbers."""
    return np.array(amounts, np.float32)[:, None] * UP


def rollout(env, steps, seed):
    """Every array of a seeded run, in order."""
    env.action_space.seed(seed)
    obs, info = env.reset(seed=seed)
    arrays = [*leaves(obs), *leaves(info)]
    for _ in range(steps):
        returned = env.step(env.action_space.sample())
        arrays += [array for part in returned for array in leaves(part)]
    return arrays


def leaves(value):
    if isinstance(value, dict):
        return [array for item in value.values() for array in leaves(item)]
    return [value]


# Contract


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["pendulum", "cartpole"])
def test_fitted_models_pass_the_checker(name, mode, request):
    stored = request.getfixturevalue(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_vector_env(LearnedVectorEnv(stored.model, stored.starts, 4, 13, mode), steps=60)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("space", [BOX, DICT, spaces.Discrete(5), spaces.MultiDiscrete([3, 4])], ids=str)
def test_every_kind_of_space_passes_the_checker(space, mode):
    model = Walk(space, PUSH, WalkConfig(noise=0.5, ends_at=2.0))
    samples = [space.sample() for _ in range(20)]
    if isinstance(space, spaces.Dict):
        obs = {key: torch.as_tensor(np.stack([sample[key] for sample in samples]))[:, None] for key in samples[0]}
    else:
        obs = torch.as_tensor(np.stack(samples))[:, None]
    starts = StartStates(obs, torch.zeros(20, 1, 1))
    check_vector_env(LearnedVectorEnv(model, starts, 3, 7, mode), steps=60)


@pytest.mark.parametrize("mode", MODES)
def test_two_seeded_runs_across_autoresets_are_bit_equal(mode, cartpole):
    envs = [LearnedVectorEnv(cartpole.model, cartpole.starts, 5, 20, mode) for _ in range(2)]
    first, second = (rollout(env, 80, seed=3) for env in envs)
    again = rollout(envs[0], 80, seed=3)  # the same env, after a run
    other = rollout(envs[0], 80, seed=4)
    assert len(first) == len(second) == len(again)
    assert all(np.array_equal(a, b) and np.array_equal(a, c) for a, b, c in zip(first, second, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=False))


def test_unseeded_resets_differ_and_the_global_generators_are_left_alone():
    env = walk(4, firsts=range(100))
    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(0)
    np.random.seed(0)
    first, second = env.reset()[0], env.reset()[0]
    env.step(env.action_space.sample())
    assert not np.array_equal(first, second)
    assert not np.array_equal(walk(4, firsts=range(100)).reset()[0], walk(4, firsts=range(100)).reset()[0])
    assert (torch.rand(1), np.random.rand()) == expected


def test_a_list_of_seeds_seeds_the_whole():
    env = walk(3, firsts=range(100))
    first = env.reset(seed=[1, 2, 3])[0]
    assert np.array_equal(first, env.reset(seed=[1, 2, 3])[0])
    assert not np.array_equal(first, env.reset(seed=[1, 2, 4])[0])
    assert np.array_equal(env.reset(seed=np.int64(5))[0], env.reset(seed=5)[0])
    assert env.np_random_seed == 5


def test_spaces_equal_those_of_the_real_environment(cartpole):
    real = gym.make_vec("CartPole-v1", num_envs=4)
    env = LearnedVectorEnv(cartpole.model, cartpole.starts, 4)
    assert env.single_observation_space == real.single_observation_space
    assert env.single_action_space == real.single_action_space
    assert env.observation_space == real.observation_space
    assert env.action_space == real.action_space


def test_every_observation_lies_in_the_space_even_from_outside_and_at_the_edge():
    env = walk(2)
    obs, _ = env.reset(options={"start": np.array([[1000.0, -1000.0], [99.5, 0.0]])})
    assert env.observation_space.contains(obs)
    assert obs.tolist() == [[100.0, -100.0], [99.5, 0.0]]
    obs = env.step(push(0.9, 0.9))[0]
    assert env.observation_space.contains(obs)


def test_returned_arrays_are_fresh():
    env = walk(2, horizon=2)
    kept = [env.reset(seed=0)] + [env.step(push(0.5, 0.25)) for _ in range(4)]
    snapshot = copy.deepcopy(kept)
    env.step(push(1, 1))
    for part, before in zip(leaves_of(kept), leaves_of(snapshot), strict=True):
        assert np.array_equal(part, before)
    arrays = [array for array in leaves_of(kept) if isinstance(array, np.ndarray)]
    assert all(not np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


def leaves_of(calls):
    return [array for call in calls for part in call for array in leaves(part)]


# What a step returns


def test_one_step_by_hand():
    env = walk(3, firsts=(10.0,))
    obs, info = env.reset(seed=0)
    assert obs.tolist() == [[10.0, 10.0]] * 3
    assert info["uncertainty"].tolist() == [0.0] * 3
    obs, reward, terminated, truncated, info = env.step(push(0.5, 0.0, -0.5))
    assert obs.tolist() == [[10.5, 10.5], [10.0, 10.0], [9.5, 9.5]]
    assert (obs.dtype, reward.dtype) == (np.float32, np.float32)
    assert reward.tolist() == [10.5, 10.0, 9.5]
    assert not terminated.any()
    assert not truncated.any()
    assert info["uncertainty"].tolist() == [0.5, 0.0, 0.5]
    assert info["push"].tolist() == [0.5, 0.0, -0.5]
    assert not any(key.startswith("final") for key in info)


def test_the_horizon_truncates_and_never_terminates():
    env = walk(2, horizon=3)
    env.reset(seed=0)
    flags = [env.step(push(0.1, 0.1))[2:4] for _ in range(7)]
    assert [truncated.tolist() for _, truncated in flags] == [[False] * 2, [False] * 2, [True] * 2] * 2 + [[False] * 2]
    assert not any(terminated.any() for terminated, _ in flags)


def test_a_terminal_step_at_the_horizon_raises_both_flags():
    env = walk(1, horizon=1, ends_at=5.0, firsts=(5.0,))
    env.reset(seed=0)
    _, _, terminated, truncated, _ = env.step(push(0.5))
    assert terminated.tolist() == truncated.tolist() == [True]


def test_the_horizon_can_be_changed():
    env = walk(1, horizon=10)
    env.reset(seed=0)
    env.horizon = 2
    assert env.horizon == 2
    assert [bool(env.step(push(0.0))[3][0]) for _ in range(4)] == [False, True, False, True]
    with pytest.raises(ValueError, match="horizon must be at least 1 imagined step, got 0"):
        env.horizon = 0


def test_a_finished_row_has_its_last_step_in_final_obs_and_final_info():
    env = walk(3, ends_at=10.0, firsts=(0.0,))
    env.reset(options={"start": np.array([[9.5, 9.5], [0, 0], [9.75, 0.0]])})
    obs, reward, terminated, truncated, info = env.step(push(1.0, 0.5, 0.75))
    ended = [True, False, True]
    assert terminated.tolist() == ended
    assert not truncated.any()
    assert reward.tolist() == [10.5, 0.5, 10.5]  # of the step that ended them
    assert obs.tolist() == [[0, 0], [0.5, 0.5], [0, 0]]  # the next episodes begin at 0
    assert info["_final_obs"].tolist() == info["_final_info"].tolist() == ended
    assert info["final_obs"][[0, 2]].tolist() == [[10.5, 1 + 9.5], [10.5, 0.75]]
    assert info["final_info"]["uncertainty"][[0, 2]].tolist() == [1.0, 0.75]
    assert info["final_info"]["push"][[0, 2]].tolist() == [1.0, 0.75]


def test_info_arrays_are_about_the_step_in_every_row():
    env = walk(2, horizon=1)
    env.reset(seed=0)
    info = env.step(push(0.5, 0.25))[4]
    assert info["uncertainty"].tolist() == info["final_info"]["uncertainty"].tolist() == [0.5, 0.25]
    info["uncertainty"][:] = -1
    assert info["final_info"]["uncertainty"].tolist() == [0.5, 0.25]


def test_sb3_reads_the_arrays_of_the_step_and_those_of_finished_rows():
    venv = SB3VecEnv(walk(2, ends_at=10.0))
    venv.set_options({"start": np.array([[9.5, 9.5], [0.0, 0.0]])})
    venv.reset()
    _, _, dones, infos = venv.step(push(1.0, 0.5))
    assert dones.tolist() == [True, False]
    assert venv.step_info["uncertainty"].tolist() == [1.0, 0.5]
    assert infos[0]["uncertainty"] == 1.0
    assert infos[0]["push"] == 1.0
    assert infos[0]["terminal_observation"].tolist() == [10.5, 10.5]


def test_a_vector_env_is_row_by_row_what_single_envs_are():
    model = Walk(config=WalkConfig(ends_at=3.0))
    starts = walk_starts(model, 0.0)
    native = LearnedVectorEnv(model, starts, 3, 5)
    sync = SyncVectorEnv([lambda: LearnedEnv(model, starts, 5)] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    assert np.array_equal(native.reset(seed=0)[0], sync.reset(seed=0)[0])
    native.action_space.seed(0)
    ends = 0
    for _ in range(40):
        actions = native.action_space.sample()
        mine, theirs = native.step(actions), sync.step(actions)
        for a, b in zip(mine[:4], theirs[:4], strict=True):
            assert np.array_equal(a, b)
        ended = mine[2] | mine[3]
        for row in np.flatnonzero(ended):
            ends += 1
            assert np.array_equal(mine[4]["final_obs"][row], theirs[4]["final_obs"][row])
            for key in ("uncertainty", "push"):
                assert mine[4]["final_info"][key][row] == np.float32(theirs[4]["final_info"][key][row])
    assert ends > 10


# Broken dreams


@pytest.mark.parametrize("broken", ["obs", "reward"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("mode", MODES)
def test_a_diverged_row_is_cut_flagged_and_sound(broken, value, mode):
    env = walk(3, space=UNBOUNDED, firsts=(7.0,), breaks_with=value, breaks=broken, mode=mode)
    env.reset(seed=0)
    env.step(push(0.5, 0.5, 0.5))
    obs, reward, terminated, truncated, info = env.step(push(0.25, 1.0, 0.5))
    last = info["final_obs"] if mode == "SameStep" else obs
    assert last.tolist() == [[7.75] * 2, [7.5] * 2, [8.0] * 2]  # the broken row keeps its last sound numbers
    assert reward.tolist() == [7.75, 0.0, 8.0]
    assert truncated.tolist() == info["diverged"].tolist() == [False, True, False]
    assert not terminated.any()
    assert info["uncertainty"].tolist() == [0.25, 0.0, 0.5]
    assert all(np.isfinite(array).all() for array in leaves([obs, reward, info]) if isinstance(array, np.ndarray))
    assert (obs[1] == 7.0).all() == (mode == "SameStep")
    if mode == "Disabled":
        env.reset(options={"reset_mask": truncated})
    after = env.step(push(0.0, 0.0, 0.0))
    assert after[0].tolist() == [[7.75] * 2, [7.0] * 2, [8.0] * 2]
    assert not after[4]["diverged"].any()


def test_a_dream_that_broke_in_a_hidden_number_is_cut_too():
    class Hidden(Walk):
        def predict(self, state, action, generator=None, sample=True, uncertainty=True):
            state, prediction = super().predict(state, action, generator, sample, uncertainty)
            return type(state)(state.obs, state.past / 0.0), prediction

    model = Hidden()
    env = LearnedVectorEnv(model, walk_starts(model, 1.0), 2)
    env.reset(seed=0)
    *_, truncated, info = env.step(push(0.0, 0.0))
    assert truncated.all()
    assert info["diverged"].all()


# Reset options


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, list])
def test_one_start_for_all_rows_one_for_each_and_contexts(kind):
    env = walk(2)
    one = env.reset(options={"start": kind(np.array([1.0, 2.0], np.float32))})[0]
    assert one.tolist() == [[1, 2], [1, 2]]
    each = env.reset(options={"start": kind(np.array([[1.0, 2.0], [3.0, 4.0]], np.float32))})[0]
    assert each.tolist() == [[1, 2], [3, 4]]
    contexts = env.reset(options={"start": kind(np.array([[[9.0, 9.0], [1.0, 2.0]]] * 2, np.float32))})[0]
    assert contexts.tolist() == [[1, 2], [1, 2]]  # this model needs the last one only


def test_a_start_holds_for_one_reset_only():
    env = walk(2)
    env.reset(options={"start": np.array([1.0, 2.0])})
    assert env.reset()[0].tolist() == [[0, 0], [0, 0]]


def test_contexts_with_actions_form_the_belief():
    env = walk(2, context=3)
    obs = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    action = np.array([[[0.5], [1.0], [0.0]], [[0.0], [0.0], [2.0]]], np.float32)  # the last is unused
    first, _ = env.reset(options={"start": obs, "action": action})
    assert first.tolist() == [[4, 5], [10, 11]]
    reward = env.step(push(0.0, 0.0))[1]
    # past: 0 + 1 + 2 + 3, and 100 times the encoded actions 0.25 and 0.5; 6 + 7 + 8 + 9
    assert reward.tolist() == [4 + 6 + 75, 10 + 30]


def test_dict_and_discrete_starts():
    env = walk(2, space=DICT)
    start = {"place": np.array([[1.0, 2.0]]), "kind": 2}
    obs, _ = env.reset(options={"start": start})
    assert obs["place"].tolist() == [[[1, 2]], [[1, 2]]]
    assert obs["kind"].tolist() == [2, 2]
    obs, _ = env.reset(options={"start": {"place": np.ones((2, 1, 2)), "kind": np.array([0, 1])}})
    assert obs["kind"].tolist() == [0, 1]
    assert env.observation_space.contains(obs)
    model = Walk(spaces.Discrete(4), PUSH)
    discrete = LearnedVectorEnv(model, StartStates(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, 1)), 3)
    assert discrete.reset(options={"start": 3})[0].tolist() == [3, 3, 3]
    assert discrete.reset(options={"start": [0, 1, 2]})[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("mode", MODES)
def test_a_mask_resets_its_rows_only(mode):
    env = walk(3, mode=mode, horizon=4)
    env.reset(seed=0)
    env.step(push(0.25, 0.5, 0.75))
    obs, info = env.reset(options={"reset_mask": np.array([False, True, False])})
    assert obs.tolist() == [[0.25] * 2, [0.0] * 2, [0.75] * 2]
    assert info["uncertainty"].tolist() == [0.0] * 3
    start = np.array([[8.0, 8.0], [9.0, 9.0], [7.0, 7.0]])
    obs, _ = env.reset(options={"reset_mask": np.array([True, False, False]), "start": start})
    assert obs.tolist() == [[8.0] * 2, [0.0] * 2, [0.75] * 2]
    truncated = [env.step(push(0.0, 0.0, 0.0))[3].tolist() for _ in range(4)]
    assert truncated[2:] == [[False, False, True], [True, True, mode == "Disabled"]]


def test_disabled_leaves_resets_to_the_caller():
    env = walk(2, horizon=2, mode="Disabled")
    env.reset(seed=0)
    env.step(push(0.5, 0.25))
    obs, _, _, truncated, info = env.step(push(0.5, 0.25))
    assert truncated.all()
    assert obs.tolist() == [[1.0] * 2, [0.5] * 2]
    assert "final_obs" not in info
    venv = SB3VecEnv(walk(2, horizon=2, mode="Disabled"))
    venv.reset()
    venv.step(push(0.5, 0.25))
    obs, _, dones, infos = venv.step(push(0.5, 0.25))
    assert dones.all()
    assert obs.tolist() == [[0.0] * 2] * 2
    assert infos[0]["terminal_observation"].tolist() == [1.0, 1.0]


def test_starts_can_be_changed():
    env = walk(2, horizon=2)
    env.reset(seed=0)
    env.set_starts(walk_starts(env.model, 20.0))
    assert env.step(push(0.0, 0.0))[0].tolist() == [[0, 0], [0, 0]]  # running episodes go on
    assert env.step(push(0.0, 0.0))[0].tolist() == [[20, 20], [20, 20]]
    assert env.reset()[0].tolist() == [[20, 20], [20, 20]]


def test_starts_are_drawn_uniformly():
    env = walk(3000, firsts=(0.0, 1.0, 2.0))
    obs, _ = env.reset(seed=0)
    assert np.allclose(np.bincount(obs[:, 0].astype(int)) / 3000, 1 / 3, atol=0.03)


# NextStep


def test_next_step_resets_in_the_step_after_the_end():
    env = walk(2, ends_at=10.0, mode="NextStep")
    env.reset(options={"start": np.array([[9.5, 9.5], [0.0, 0.0]])})
    obs, reward, terminated, _, info = env.step(push(1.0, 0.5))
    assert terminated.tolist() == [True, False]
    assert obs.tolist() == [[10.5, 10.5], [0.5, 0.5]]
    assert reward.tolist() == [10.5, 0.5]
    assert "final_obs" not in info
    obs, reward, terminated, truncated, info = env.step(push(1.0, 0.5))
    assert obs.tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert reward.tolist() == [0.0, 1.0]
    assert info["uncertainty"].tolist() == [0.0, 0.5]
    assert not (terminated | truncated).any()
    assert env.step(push(1.0, 0.5))[0].tolist() == [[1.0, 1.0], [1.5, 1.5]]


def test_gymnasiums_normalize_observation_works():
    env = wrappers.NormalizeObservation(walk(8, horizon=20, mode="NextStep", firsts=range(-50, 50)))
    seen = [env.reset(seed=0)[0]]
    seen += [env.step(env.action_space.sample())[0] for _ in range(100)]
    assert abs(np.concatenate(seen).mean()) < 0.5
    assert 0.5 < np.concatenate(seen).std() < 1.5


def test_gymnasiums_vector_wrappers_work(cartpole):
    base = LearnedVectorEnv(cartpole.model, cartpole.starts, 4, 10)
    env = wrappers.DictInfoToList(wrappers.RecordEpisodeStatistics(wrappers.NormalizeReward(base)))
    env.reset(seed=0)
    for _ in range(10):
        *_, infos = env.step(env.action_space.sample())
    ended = [info["episode"]["l"] for info in infos if "episode" in info]
    assert ended
    assert max(ended) == 10


@pytest.mark.parametrize("mode", MODES)
def test_gymnasium_counts_episodes_in_every_mode(mode):
    env = wrappers.RecordEpisodeStatistics(walk(2, 3, mode))
    env.reset(seed=0)
    for _ in range(8):
        _, _, terminated, truncated, _ = env.step(push(0.0, 0.0))
        ended = terminated | truncated
        if mode == "Disabled" and ended.any():
            env.reset(options={"reset_mask": ended})
    assert set(env.length_queue) == {3}


# Torch


def test_the_torch_backend_returns_tensors_of_equal_values(cartpole):
    numpy = LearnedVectorEnv(cartpole.model, cartpole.starts, 4, 9)
    tensors = LearnedVectorEnv(cartpole.model, cartpole.starts, 4, 9, backend="torch")
    numpy.action_space.seed(0)
    a, b = numpy.reset(seed=1), tensors.reset(seed=1)
    for _ in range(30):
        mine, theirs = leaves_of([a]), leaves_of([b])
        assert len(mine) == len(theirs)
        assert all(
            isinstance(x, torch.Tensor) and np.array_equal(x.numpy(), y) for x, y in zip(theirs, mine, strict=True)
        )
        actions = numpy.action_space.sample()
        a, b = numpy.step(actions), tensors.step(torch.as_tensor(actions))


def test_tensors_of_the_torch_backend_belong_to_the_caller_and_take_part_in_autograd():
    env = walk(2, backend="torch", horizon=2)
    obs, _ = env.reset(seed=0)
    obs += 100  # in place
    weight = torch.ones((), requires_grad=True)
    for _ in range(2):
        obs, reward, terminated, truncated, info = env.step(torch.full((2, 1), 1.0))
        loss = (weight * obs).sum() + (weight * reward).sum() + (weight * info["uncertainty"]).sum()
        loss = loss + (weight * (~terminated).float() * truncated.float()).sum()
    (loss + (weight * info["final_obs"]).sum()).backward()
    assert info["final_obs"].tolist() == [[1.0, 1.0]] * 2
    assert weight.grad is not None


def test_dict_observations_in_torch():
    obs, _ = walk(2, space=DICT, backend="torch").reset(seed=0)
    assert obs["kind"].dtype == torch.int64
    assert obs["place"].shape == (2, 1, 2)


# Specs


@pytest.mark.parametrize("vector", [False, True])
def test_a_spec_carries_no_model(vector, home):
    model = Walk()
    kind = "vector_entry_point" if vector else "entry_point"
    shared = {"starts": walk_starts(model, 0.0), "horizon": 7}
    entry = "mbrl_gym.envs.vector:LearnedVectorEnv" if vector else "mbrl_gym.envs.single:LearnedEnv"
    gym.register("Mine-v0", **{kind: entry}, kwargs=shared)
    env = gym.make_vec("Mine-v0", num_envs=2, model=model) if vector else gym.make("Mine-v0", model=model)
    assert env.unwrapped.model is model
    spec = env.spec if not vector else env.unwrapped.spec
    assert set(spec.kwargs) <= {"horizon", "num_envs", "vectorization_mode"}
    assert copy.deepcopy(spec) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec  # noqa: S301
    assert EnvSpec.from_json(spec.to_json()).kwargs["horizon"] == 7
    assert len(json.dumps(spec.to_json())) < 2000


# Errors


def test_steps_need_a_reset():
    with pytest.raises(RuntimeError, match=r"step\(\) needs a reset\(\) first"):
        walk().step(push(0, 0, 0))
    with pytest.raises(RuntimeError, match="of some rows needs a reset"):
        walk().reset(options={"reset_mask": np.array([True, False, False])})


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((3, 2)), r"actions must have the shape \(3, 1\), a batch of 3 of Box.*, got \(3, 2\)"),
        (np.zeros((2, 1)), r"got \(2, 1\)"),
        (np.zeros(3), r"got \(3,\)"),
        (np.array([[0.0], [np.nan], [0.0]]), "actions must be finite, got nan; check the policy's output"),
        (np.array([[0.0], [np.inf], [0.0]]), "actions must be finite, got inf"),
    ],
)
def test_bad_continuous_actions_are_refused(actions, message, tensor):
    env = walk(3, backend="torch" if tensor else "numpy")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(torch.as_tensor(actions) if tensor else actions)
    with pytest.raises(ValueError, match="actions must"):
        env.step(actions.tolist())


def test_bad_discrete_actions_are_refused():
    env = walk(2, action_space=spaces.Discrete(2))
    env.reset(seed=0)
    for actions, message in (([0, 2], "member of Discrete"), ([-1, 0], "member of"), ([0.5, 0.0], "must be integers")):
        with pytest.raises(ValueError, match=message):
            env.step(np.array(actions))
    env.step(np.array([0, 1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"begin": 1}, r"options may have the keys \['start', 'action', 'reset_mask'\], got \['begin'\]"),
        ({"start": np.zeros(3)}, r"options\['start'\] must have the shape \(2,\) of Box.*or \[n, \*obs\].*got \(3,\)"),
        ({"start": 1.0}, r"must have the shape \(2,\)"),
        ({"start": {"place": 1}}, r"must have the shape \(2,\)"),
        ({"start": np.zeros((4, 2))}, r"options\['start'\] must hold 1 or 3 observations, got 4"),
        ({"start": np.zeros((3, 0, 2))}, r"must hold contexts \[n, 1, \*obs\] for this model, got 0"),
        ({"start": np.array([0.0, np.nan])}, r"options\['start'\] must be finite"),
        ({"action": np.zeros((3, 1, 1))}, r"options\['action'\] must come with options\['start'\]"),
        ({"start": np.zeros(2), "action": np.zeros((3, 2, 1))}, r"options\['action'\] must have the shape \(3, 1, 1\)"),
        ({"start": np.zeros(2), "action": np.full((3, 1, 1), np.nan)}, "actions must be finite"),
        ({"reset_mask": np.zeros(3, bool)}, r"options\['reset_mask'\] must be 3 booleans, at least one of them true"),
        ({"reset_mask": np.ones(2, bool)}, "must be 3 booleans"),
        ({"reset_mask": np.ones(3)}, "must be 3 booleans"),
    ],
)
def test_bad_options_are_refused(options, message):
    env = walk(3)
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)


def test_bad_starts_of_other_spaces_are_refused():
    with pytest.raises(ValueError, match=r"must be a dictionary with the keys \['kind', 'place'\], got ndarray"):
        walk(space=DICT).reset(options={"start": np.zeros(2)})
    with pytest.raises(ValueError, match=r"keys \['kind', 'place'\], got \['place'\]"):
        walk(space=DICT).reset(options={"start": {"place": np.zeros((1, 2))}})
    with pytest.raises(ValueError, match=r"options\['start'\]\['kind'\] must be a member of Discrete\(3\)"):
        walk(space=DICT).reset(options={"start": {"place": np.zeros((1, 2)), "kind": 3}})
    with pytest.raises(ValueError, match=r"\['kind'\] must hold integers that int64 has, got float64: \[\[1.5\]\]"):
        walk(space=DICT).reset(options={"start": {"place": np.zeros((1, 2)), "kind": 1.5}})
    start = {"place": np.zeros((3, 2, 1, 2)), "kind": 0}
    with pytest.raises(ValueError, match=r"must be of one length for all keys, got \[2, 1\] steps"):
        walk(space=DICT).reset(options={"start": start})
    with pytest.raises(ValueError, match=r"\[n, 3, \*obs\] for this model, got 1"):
        walk(context=3).reset(options={"start": np.zeros(2)})
    with pytest.raises(ValueError, match=r"options\['action'\] must hold the actions \[n, 3, \*act\]"):
        walk(context=3).reset(options={"start": np.zeros((3, 3, 2))})


def test_bad_arguments_are_refused():
    model = Walk()
    starts = walk_starts(model, 0.0)
    with pytest.raises(ValueError, match=r"autoreset_mode must be one of .*'SameStep'\], got 'Never'"):
        LearnedVectorEnv(model, starts, autoreset_mode="Never")
    with pytest.raises(ValueError, match="backend must be 'numpy' or 'torch', got 'jax'"):
        LearnedVectorEnv(model, starts, backend="jax")
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        LearnedVectorEnv(model, starts, 0)
    with pytest.raises(ValueError, match="horizon must be at least 1 imagined step, got -1"):
        LearnedVectorEnv(model, starts, horizon=-1)
    with pytest.raises(ValueError, match="must hold at least one start state, got none; collect an episode first"):
        LearnedVectorEnv(model, starts.map(lambda x: x[:0]))
    with pytest.raises(ValueError, match=r"contexts of 3 real steps for this model, got 1; make them with"):
        LearnedVectorEnv(Walk(config=WalkConfig(context=3)), starts)
    with pytest.raises(ValueError, match=r"starts must hold observations of the shape \(2,\) of Box.*, got \(3,\)"):
        LearnedVectorEnv(model, StartStates(torch.zeros(1, 1, 3), torch.zeros(1, 1, 1)))
    with pytest.raises(ValueError, match="starts must hold 1 numbers an action, got 2"):
        LearnedVectorEnv(model, StartStates(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2)))


@pytest.mark.parametrize("seed", [-1, 1.5, [1, -2, 3], [1, None, 3], "abc"])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="seed must be a non-negative int or a list of such"):
        walk().reset(seed=seed)


def test_a_list_of_seeds_has_one_for_each_row():
    with pytest.raises(ValueError, match="seed must be an int, or a list of 3, one for each row, got 2"):
        walk().reset(seed=[1, 2])
