"""SequenceReplay: the alignment by hand, everything else against a list of rows."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

import mbrl_gym.replay as replay_module
from mbrl_gym import _ring
from mbrl_gym.batch import SequenceBatch
from mbrl_gym.replay import SequenceReplay, row_hash
from mbrl_gym.start_states import StartStates

OBS = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACTION = spaces.Box(-2.0, 2.0, (1,), np.float32)
FIELDS = ("reward", "terminated", "truncated", "is_first", "index")


def column(*values: float, width: int = 2) -> np.ndarray:
    """One observation (or action) per env, its entries all equal to the env's value."""
    return np.repeat(np.array(values, np.float32)[:, None], width, axis=1)


def fill(
    replay: SequenceReplay, steps: int, seed: int = 0, end: float = 0.2, first: int = 0
) -> "list[list[dict[str, Any]]]":
    """Add random episodes; return the same as a list of rows for each env: the naive model of a replay."""
    rng = np.random.default_rng(seed)
    n = replay.n_envs
    rows: list[list[dict[str, Any]]] = [[] for _ in range(n)]

    def put(env: int, obs: np.ndarray, reward: float = 0.0, ended: tuple[bool, bool] = (False, False)) -> None:
        row = {"obs": obs[env], "action": 0.0, "reward": reward, "index": len(rows[env]) * n + env}
        flags = {"terminated": ended[0], "truncated": ended[1], "is_first": obs is resets}
        rows[env].append({**row, **flags})

    resets = rng.standard_normal((n, 2)).astype(np.float32)
    replay.begin(resets)
    for env in range(n):
        put(env, resets)
    for step in range(first, first + steps):
        action = rng.uniform(-2, 2, (n, 1)).astype(np.float32)
        reached = rng.standard_normal((n, 2)).astype(np.float32)
        resets = rng.standard_normal((n, 2)).astype(np.float32)
        reward = np.float32(step) + np.arange(n, dtype=np.float32) / 8
        terminated, truncated = rng.random(n) < end / 2, rng.random(n) < end / 2
        ended = terminated | truncated
        replay.add(action, np.where(ended[:, None], resets, reached), reward, terminated, truncated, reached)
        for env in range(n):
            rows[env][-1]["action"] = float(action[env, 0]) / 2
            put(env, reached, reward[env], (terminated[env], truncated[env]))
            if ended[env]:
                put(env, resets)
    return rows


def naive_windows(
    rows: "list[list[dict[str, Any]]]", kept: int, length: int, cross: bool
) -> "list[list[dict[str, Any]]]":
    found = []
    for env_rows in rows:
        held = env_rows[-kept:]
        for i in range(len(held) - length + 1):
            window = held[i : i + length]
            if cross or not any(row["is_first"] for row in window[1:]):
                found.append(window)
    return found


def assert_batch(batch: SequenceBatch, windows: "list[list[dict[str, Any]]]") -> None:
    for name in FIELDS:
        expected = np.array([[row[name] for row in window] for window in windows])
        np.testing.assert_array_equal(getattr(batch, name).numpy(), expected, err_msg=name)
    np.testing.assert_array_equal(batch.obs.numpy(), np.array([[row["obs"] for row in w] for w in windows]))
    actions = np.array([[row["action"] for row in window] for window in windows])
    np.testing.assert_allclose(batch.action[..., 0].numpy(), actions, atol=1e-7)


def assert_equal_replays(a: SequenceReplay, b: SequenceReplay) -> None:
    assert len(a) == len(b)
    assert a.total_added == b.total_added
    assert a.n_transitions == b.n_transitions
    starts = a.windows(1)
    np.testing.assert_array_equal(starts, b.windows(1))
    left, right = a.gather(starts, 1).tensors(), b.gather(starts, 1).tensors()
    assert all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(left, right, strict=True))


# The alignment, by hand


def test_alignment_across_an_episode_border_with_one_env() -> None:
    replay = SequenceReplay(OBS, ACTION, capacity=10)
    replay.begin(column(0))
    replay.add(column(1.0, width=1), column(1), [1.5], [False], [False])
    replay.add(column(-1.0, width=1), column(10), [2.5], [True], [False], column(2))
    replay.add(column(2.0, width=1), column(11), [3.5], [False], [False])
    batch = replay.gather([0], 5)
    assert batch.obs[0, :, 0].tolist() == [0, 1, 2, 10, 11]
    assert batch.action[0, :, 0].tolist() == [0.5, -0.5, 0, 1, 0]
    assert batch.reward[0].tolist() == [0, 1.5, 2.5, 0, 3.5]
    assert batch.terminated[0].tolist() == [False, False, True, False, False]
    assert batch.truncated[0].tolist() == [False] * 5
    assert batch.is_first[0].tolist() == [True, False, False, True, False]
    assert batch.index[0].tolist() == [0, 1, 2, 3, 4]
    assert (len(replay), replay.n_transitions, replay.total_added) == (5, 3, 3)
    assert (batch.obs.dtype, batch.action.dtype, batch.reward.dtype) == (torch.float32,) * 3
    assert (batch.terminated.dtype, batch.index.dtype, batch.length) == (torch.bool, torch.int64, 5)
    assert batch.weight is None


def test_alignment_with_three_envs_that_end_at_different_times() -> None:
    replay = SequenceReplay(OBS, ACTION, capacity=30, n_envs=3)
    replay.begin(column(0, 100, 200))
    final = [None, column(102)[0], None]
    replay.add(column(2, 2, 2, width=1), column(1, 101, 201), [1, 11, 21], [False] * 3, [False] * 3)
    replay.add(column(-2, -2, -2, width=1), column(2, 150, 202), [2, 12, 22], [0, 0, 0], [0, 1, 0], final)
    final = {0: column(3)[0], 2: column(203)[0]}
    replay.add(column(1, 1, 1, width=1), column(50, 151, 250), [3, 13, 23], [1, 0, 1], [0, 0, 1], final)
    batch = replay.gather([0, 1, 2], 5)
    assert batch.obs[..., 0].tolist() == [[0, 1, 2, 3, 50], [100, 101, 102, 150, 151], [200, 201, 202, 203, 250]]
    assert batch.action[..., 0].tolist() == [[1, -1, 0.5, 0, 0], [1, -1, 0, 0.5, 0], [1, -1, 0.5, 0, 0]]
    assert batch.reward.tolist() == [[0, 1, 2, 3, 0], [0, 11, 12, 0, 13], [0, 21, 22, 23, 0]]
    assert batch.terminated.int().tolist() == [[0, 0, 0, 1, 0], [0] * 5, [0, 0, 0, 1, 0]]
    assert batch.truncated.int().tolist() == [[0] * 5, [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]
    assert batch.is_first.int().tolist() == [[1, 0, 0, 0, 1], [1, 0, 0, 1, 0], [1, 0, 0, 0, 1]]
    assert batch.index.tolist() == [[0, 3, 6, 9, 12], [1, 4, 7, 10, 13], [2, 5, 8, 11, 14]]
    assert (len(replay), replay.n_transitions, replay.total_added) == (15, 9, 9)
    assert replay.windows(4).tolist() == [0, 2]
    assert replay.windows(3).tolist() == [0, 3, 1, 2, 5]


def test_begin_cuts_an_open_episode() -> None:
    replay = SequenceReplay(OBS, ACTION, capacity=10)
    replay.begin(column(0))
    replay.add(column(1, width=1), column(1), [1], [False], [False])
    replay.begin(column(5))
    batch = replay.gather([0], 3)
    assert batch.is_first[0].tolist() == [True, False, True]
    assert batch.action[0, :, 0].tolist() == [0.5, 0, 0]
    assert not (batch.terminated | batch.truncated).any()


def test_a_gymnasium_vector_env_in_same_step_mode_is_understood() -> None:
    import gymnasium as gym

    env = SyncVectorEnv(
        [lambda: gym.make("CartPole-v1", max_episode_steps=7)] * 2, autoreset_mode=AutoresetMode.SAME_STEP
    )
    replay = SequenceReplay(env.single_observation_space, env.single_action_space, 100, 2)
    env.action_space.seed(0)
    replay.begin(env.reset(seed=0)[0])
    for _ in range(20):
        action = env.action_space.sample()
        obs, reward, terminated, truncated, infos = env.step(action)
        replay.add(action, obs, reward, terminated, truncated, infos.get("final_obs"))
    windows = replay.gather(replay.windows(8), 8)
    assert len(windows.reward) >= 4
    assert windows.truncated[:, -1].all()
    assert windows.reward[0].tolist() == [0, 1, 1, 1, 1, 1, 1, 1]
    # CartPole's position moves by 0.02 times its velocity: the final row belongs to the old episode.
    torch.testing.assert_close(windows.obs[:, 1:, 0], windows.obs[:, :-1, 0] + 0.02 * windows.obs[:, :-1, 1])


# Against the naive model


@settings(max_examples=80, deadline=None)
@given(
    n_envs=st.integers(1, 3),
    rows=st.integers(2, 12),
    steps=st.integers(0, 40),
    end=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    seed=st.integers(0, 2**31),
    length=st.integers(1, 6),
    cross=st.booleans(),
)
def test_windows_equal_a_list_of_rows(
    n_envs: int, rows: int, steps: int, end: float, seed: int, length: int, cross: bool
) -> None:
    replay = SequenceReplay(OBS, ACTION, rows * n_envs, n_envs)
    naive = fill(replay, steps, seed, end)
    assert len(replay) == sum(min(rows, len(env_rows)) for env_rows in naive)
    assert replay.n_transitions == len(naive_windows(naive, rows, 2, False))
    assert replay.total_added == steps * n_envs
    expected = naive_windows(naive, rows, length, cross)
    starts = replay.windows(length, cross_episodes=cross)
    assert starts.dtype == np.int64
    assert starts.tolist() == [window[0]["index"] for window in expected]
    if expected:
        assert_batch(replay.gather(starts, length), expected)
        batch = replay.sample(5, length, np.random.default_rng(seed), cross_episodes=cross)
        assert set(batch.index[:, 0].tolist()) <= set(starts.tolist())
    visited = [w for w in naive_windows(naive, rows, length, False) if not (w[-1]["terminated"] or w[-1]["truncated"])]
    for kind, contexts in (("visited", visited), ("resets", [w for w in visited if w[0]["is_first"]])):
        found = replay.starts(length, kind=kind)
        assert (len(found), found.context) == (len(contexts), length)
        for i, window in enumerate(contexts):
            np.testing.assert_array_equal(found.obs[i].numpy(), np.array([row["obs"] for row in window]))
            actions = [row["action"] for row in window[:-1]] + [0.0]
            np.testing.assert_allclose(found.action[i, :, 0].numpy(), actions, atol=1e-7)


def test_windows_are_cached_until_data_changes_and_read_only() -> None:
    replay = SequenceReplay(OBS, ACTION, 50)
    fill(replay, 20)
    first = replay.windows(3)
    assert replay.windows(3) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0
    fill(replay, 1)
    assert replay.windows(3) is not first


def test_sample_is_a_function_of_the_generator() -> None:
    replay = SequenceReplay(OBS, ACTION, 100, 2)
    fill(replay, 40)
    a, b, c = (replay.sample(16, 4, np.random.default_rng(seed), members=2) for seed in (1, 1, 2))
    assert all(torch.equal(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))
    assert not torch.equal(a.index, c.index)
    many = replay.sample(20_000, 4, np.random.default_rng(0)).index[:, 0]
    counts = np.unique(many, return_counts=True)[1]
    assert len(counts) == len(replay.windows(4))
    assert abs(counts / counts.mean() - 1).max() < 0.3


# Spaces and storage


LEAVES = [
    spaces.Box(-1, 1, (3,), np.float32),
    spaces.Box(0, 255, (8, 8, 3), np.uint8),
    spaces.Discrete(5, start=2),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(4),
]


@pytest.mark.parametrize("space", [*LEAVES, spaces.Dict({"image": LEAVES[1], "goal/x": LEAVES[2]})], ids=str)
@pytest.mark.parametrize("n_envs", [1, 2])
def test_every_observation_space_comes_back_bit_by_bit(space: Any, n_envs: int) -> None:
    replay = SequenceReplay(space, spaces.Discrete(2), 40, n_envs)
    keys = list(space.spaces) if isinstance(space, spaces.Dict) else [None]
    space.seed(0)

    def draw() -> Any:
        rows = [space.sample() for _ in range(n_envs)]
        return {key: np.stack([row[key] for row in rows]) for key in keys} if keys[0] is not None else np.stack(rows)

    seen = [draw() for _ in range(6)]
    no, yes, action = np.zeros(n_envs, bool), np.ones(n_envs, bool), np.zeros(n_envs, np.int64)
    replay.begin(seen[0])
    replay.add(action, seen[1], no * 1.0, no, no)
    replay.add(action, seen[3], no * 1.0, yes, no, seen[2])
    final = np.full(n_envs, None, object)
    for env in range(n_envs):
        final[env] = {k: seen[4][k][env] for k in keys} if keys[0] is not None else seen[4][env]
    replay.add(action, seen[5], no * 1.0, no, yes, final)
    obs = replay.gather(np.arange(n_envs), 6).obs
    for key in keys:
        stored = obs if key is None else obs[key]
        expected = np.stack([step if key is None else step[key] for step in seen], axis=1)
        assert stored.numpy().dtype == expected.dtype
        np.testing.assert_array_equal(stored.numpy(), expected)


def test_float64_is_stored_as_float32() -> None:
    space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    replay = SequenceReplay(space, ACTION, 10)
    replay.begin(np.array([[0.1, 0.2]]))
    obs = replay.gather([0], 1).obs
    assert obs.dtype == torch.float32
    np.testing.assert_array_equal(obs[0, 0].numpy(), np.array([0.1, 0.2], np.float32))
    with pytest.raises(ValueError, match="obs must be finite and fit float32, got 1e"):
        replay.begin(np.array([[0.0, 1e300]]))


@pytest.mark.parametrize(
    ("space", "action", "encoded"),
    [
        (spaces.Discrete(3, start=5), [6], [0, 1, 0]),
        (spaces.MultiDiscrete([2, 3], start=[1, 0]), [[2, 0]], [0, 1, 1, 0, 0]),
        (spaces.MultiBinary(3), [[1, 0, 1]], [1, 0, 1]),
        (spaces.Box(0, 4, (2,), np.float64), [[1.0, 9.0]], [-0.5, 1]),
        (spaces.Box(-2, 2, (2, 1), np.float32), [[[1.0], [0.0]]], [0.5, 0]),
    ],
    ids=str,
)
def test_every_action_space_is_encoded_and_unused_actions_are_zero(
    space: Any, action: Any, encoded: list[float]
) -> None:
    replay = SequenceReplay(OBS, space, 10)
    replay.begin(column(0))
    replay.add(np.array(action), column(2), [0], [True], [False], column(1))
    got = replay.gather([0], 3).action
    assert got.dtype == torch.float32
    assert got[0].tolist() == [encoded, [0.0] * len(encoded), [0.0] * len(encoded)]


def test_memmap_equals_ram(tmp_path: Path) -> None:
    extras = {"latent": ((3,), np.float32)}
    ram = SequenceReplay(OBS, ACTION, 24, 2, extras=extras)
    disk = SequenceReplay(OBS, ACTION, 24, 2, extras=extras, directory=tmp_path / "new")
    for replay in (ram, disk):
        fill(replay, 30)
        replay.write_back("latent", replay.windows(1)[:2], np.ones((2, 3)))
    assert_equal_replays(ram, disk)
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert {"obs.npy", "action.npy", "extras%2Flatent.npy"} <= names


def test_a_memmap_directory_is_reused_for_the_same_layout_only(tmp_path: Path) -> None:
    old = SequenceReplay(OBS, ACTION, 24, directory=tmp_path)
    fill(old, 20)
    before = [x.clone() for x in old.gather(old.windows(1), 1).tensors()]
    new = SequenceReplay(OBS, ACTION, 24, directory=tmp_path)
    assert len(new) == 0
    fill(new, 30, seed=1)
    # The first replay keeps its own files, though they no longer have a name.
    assert all(torch.equal(x, y) for x, y in zip(old.gather(old.windows(1), 1).tensors(), before, strict=True))
    with pytest.raises(
        ValueError, match=r"directory must be empty or hold a replay of the same layout, but .*action.npy"
    ):
        SequenceReplay(OBS, ACTION, 26, directory=tmp_path)
    (tmp_path / "other.npy").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"other.npy is no array of a replay"):
        SequenceReplay(OBS, ACTION, 24, directory=tmp_path)
    assert (tmp_path / "other.npy").read_bytes() == b"something else"


def test_a_replay_that_would_not_fit_is_refused_before_it_is_allocated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    monkeypatch.setattr(_ring, "available_memory", lambda: 10**9)
    SequenceReplay(image, spaces.Discrete(2), 80_000)
    message = (
        r"capacity must fit into the memory: 1.23 GB are needed \(largest columns: obs 1.23 GB.*1 GB are available"
    )
    with pytest.raises(MemoryError, match=message + r".*smaller capacity, or give directory="):
        SequenceReplay(image, spaces.Discrete(2), 100_000)
    monkeypatch.setattr(_ring, "available_memory", lambda: None)
    SequenceReplay(image, spaces.Discrete(2), 100_000)
    with pytest.raises(MemoryError, match=r"disk space in .*smaller capacity, or another directory"):
        SequenceReplay(image, spaces.Discrete(2), 10**12, directory=tmp_path)
    assert not list(tmp_path.iterdir())


def test_available_memory_is_read() -> None:
    available = _ring.available_memory()
    assert available is None or available > 2**20


# Weights and hashes


def test_bootstrap_weights_are_poisson_and_belong_to_the_row() -> None:
    replay = SequenceReplay(OBS, ACTION, 20_000)
    fill(replay, 3_000)
    starts = replay.windows(2)[:2_000]
    weight = replay.gather(starts, 2, members=5, bootstrap_seed=3).weight
    assert weight is not None
    assert (weight.shape, weight.dtype) == ((2_000, 2, 5), torch.float32)
    assert abs(weight.mean() - 1) < 0.05
    assert abs(weight.var() - 1) < 0.05
    share = [(weight == k).float().mean().item() for k in range(4)]
    np.testing.assert_allclose(share, [0.368, 0.368, 0.184, 0.061], atol=0.02)
    # Members differ, and a holdout chosen by the same seed is no matter of weight.
    correlation = np.corrcoef([*weight[:, 0].numpy().T, row_hash(3, starts)])
    assert abs(correlation - np.eye(6)).max() < 0.1
    fill(replay, 500, seed=1)
    again = replay.gather(starts, 2, members=5, bootstrap_seed=3).weight
    fewer = replay.gather(starts[::-1], 2, members=2, bootstrap_seed=3).weight
    other = replay.gather(starts, 2, members=5, bootstrap_seed=4).weight
    assert again is not None
    assert fewer is not None
    assert other is not None
    assert torch.equal(again, weight)
    assert torch.equal(fewer.flip(0), weight[..., :2])
    assert abs(np.corrcoef(other.numpy().ravel(), weight.numpy().ravel())[0, 1]) < 0.05


def test_row_hash_is_uniform_and_fixed() -> None:
    index = np.arange(100_000).reshape(2, 50_000)
    value = row_hash(0, index)
    assert (value.shape, value.dtype) == (index.shape, np.float64)
    assert value.min() >= 0
    assert value.max() < 1
    assert abs(np.histogram(value, 20, (0, 1))[0] / 5_000 - 1).max() < 0.1
    assert row_hash(0, 70_000) == value[1, 20_000]
    assert row_hash(0, 70_000).shape == ()
    assert abs(np.corrcoef(value.ravel(), row_hash(1, index).ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(value.ravel()[1:], value.ravel()[:-1])[0, 1]) < 0.02
    assert (row_hash(-1, index) != value).all()


def test_splitmix_is_the_published_generator() -> None:
    from mbrl_gym._hash import _splitmix

    # The first outputs for the seed 1234567: the reference implementation's test vector.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert _splitmix(np.array(1234567, np.uint64), np.arange(1, 5)).tolist() == expected


# Extras


def test_write_back_reaches_stored_rows_and_ignores_overwritten_ones() -> None:
    extras = {"latent": ((2,), np.float32), "count": ((), np.int64)}
    replay = SequenceReplay(OBS, ACTION, 16, 2, extras=extras)
    fill(replay, 5, end=0.0)
    batch = replay.gather(replay.windows(3), 3)
    assert set(batch.extras) == {"latent", "count"}
    assert not batch.extras["latent"].any()
    assert batch.extras["count"].dtype == torch.int64
    values = torch.stack([batch.index, -batch.index], dim=-1).to(torch.bfloat16)
    replay.write_back("latent", batch.index, values)
    got = replay.gather(replay.windows(1), 1)
    assert got.extras["latent"][:, 0, 0].tolist() == got.index[:, 0].tolist()
    # 4 more rows per env: rows 0 and 1 of each are gone, and the slots they left are zero again.
    fill(replay, 3, end=0.0, seed=1)
    replay.write_back("count", np.arange(20), np.arange(20) + 100)
    got = replay.gather(replay.windows(1), 1)
    assert got.extras["count"][:, 0].tolist() == [i + 100 for i in got.index[:, 0].tolist()]
    old = got.index[:, 0] < 12
    assert got.extras["latent"][old, 0, 1].tolist() == (-got.index[old, 0]).tolist()
    assert not got.extras["latent"][~old].any()


def test_extras_on_a_device_are_those_beside_the_rest() -> None:
    """Rows that are gone, slots that are used again, chunks and what was read from them: all as without a device."""
    extras = {"latent": ((2,), np.float16), "count": ((), np.int64)}
    options: list[dict[str, Any]] = [{}, {"extras_device": "cpu"}]
    host, device = (SequenceReplay(OBS, ACTION, 16, 2, extras=extras, **more) for more in options)
    for replay in (host, device):
        fill(replay, 5, end=0.2)
        index = replay.gather(replay.windows(3), 3).index[::3]
        replay.write_back("latent", index, torch.stack([index, -index], dim=-1).to(torch.bfloat16))
        fill(replay, 4, end=0.2, seed=1)
        replay.write_back("count", np.arange(20), torch.arange(20) + 100)
        with pytest.raises(ValueError, match=r"values must have the shape \(1, 2\) .* got \(1, 3\)"):
            replay.write_back("latent", [12], torch.zeros(1, 3))
    assert host.gather([12], 1).extras["count"].item() == 112
    assert_equal_replays(host, device)
    for x, y in zip(host.chunks(), device.chunks(), strict=True):
        assert x.keys() == y.keys()
        assert all(np.array_equal(x[name], y[name]) for name in x)
    again = SequenceReplay.from_chunks(device.chunks(), OBS, ACTION, 16, 2, extras=extras, extras_device="cpu")
    for replay in (host, again):
        fill(replay, 3, end=0.2, seed=2)
    assert_equal_replays(host, again)


# Chunks


def copied(chunks: "list[dict[str, np.ndarray]]") -> "list[dict[str, np.ndarray]]":
    return [{name: array.copy() for name, array in chunk.items()} for chunk in chunks]


@pytest.mark.parametrize("steps", [0, 5, 60])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_chunks_round_trip_exactly(steps: int, n_envs: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(replay_module, "CHUNK_ROWS", 7)
    extras = {"latent": ((2,), np.float32)}
    replay = SequenceReplay(OBS, ACTION, 25 * n_envs, n_envs, extras=extras)
    fill(replay, steps, first=3)
    replay.write_back("latent", replay.windows(1)[-2:], np.ones((len(replay.windows(1)[-2:]), 2)))
    for i, chunk in enumerate(replay.chunks()):
        np.savez(tmp_path / f"{i}.npz", **chunk)
    saved = [dict(np.load(tmp_path / f"{i}.npz")) for i in range(len(replay.chunks()))]
    disk = tmp_path / "memmap"
    again = SequenceReplay.from_chunks(saved, OBS, ACTION, 25 * n_envs, n_envs, extras=extras, directory=disk)
    assert_equal_replays(replay, again)
    # Both go on alike, the open rows included: add() without begin().
    for each in (replay, again):
        one = np.ones(n_envs)
        each.add(column(*one, width=1), column(*one), one, one > 2, one > 2)
        fill(each, 10, seed=9)
    assert_equal_replays(replay, again)


def test_an_empty_replay_round_trips() -> None:
    again = SequenceReplay.from_chunks(SequenceReplay(OBS, ACTION, 9).chunks(), OBS, ACTION, 9)
    assert len(again) == again.n_transitions == 0
    with pytest.raises(RuntimeError, match="call begin"):
        again.add(column(0, width=1), column(0), [0], [False], [False])


def test_old_chunks_do_not_change_as_data_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "CHUNK_ROWS", 5)
    replay = SequenceReplay(OBS, ACTION, 60, 2, extras={"latent": ((), np.float32)})

    def keyed() -> dict[tuple[Any, ...], dict[str, np.ndarray]]:
        chunks = copied(replay.chunks())[:-1]
        return {(int(c["env"]), int(c["begin"]), "extras/latent" in c): c for c in chunks}

    fill(replay, 11, end=0.3)
    before, compared = keyed(), 0
    for step in range(40):
        fill(replay, 1, seed=step)
        replay.write_back("latent", replay.windows(1)[-1:], [1.0])
        after = keyed()
        for (env, begin, of_extras), chunk in before.items():
            newest = max(key[1] for key in before if key[0] == env)
            oldest = min(key[1] for key in after if key[0] == env)
            if begin >= oldest and begin != newest:
                same = after[env, begin, of_extras]
                assert all(np.array_equal(chunk[name], same[name]) for name in chunk)
                compared += 1
        before = after
    assert compared > 400


def test_chunks_are_read_only() -> None:
    replay = SequenceReplay(OBS, ACTION, 20)
    fill(replay, 5)
    with pytest.raises(ValueError, match="read-only"):
        replay.chunks()[0]["obs"][0] = 0


def test_chunks_of_something_else_are_refused() -> None:
    replay = SequenceReplay(OBS, ACTION, 20, extras={"latent": ((2,), np.float32)})
    fill(replay, 5)
    chunks = replay.chunks()

    def load(chunks: Any = chunks, obs: Any = OBS, action: Any = ACTION, capacity: int = 20, shape: Any = (2,)) -> None:
        extras = None if shape is None else {"latent": (shape, np.float32)}
        SequenceReplay.from_chunks(chunks, obs, action, capacity, extras=extras)

    load()
    with pytest.raises(ValueError, match=r"observation_space must be the one .* saved with, Box.*got Discrete\(3\)"):
        load(obs=spaces.Discrete(3))
    with pytest.raises(ValueError, match=r"action_space must be the one .* got Box\(-1.0, 1.0"):
        load(action=spaces.Box(-1, 1, (1,), np.float32))
    with pytest.raises(ValueError, match=r"n_envs and capacity must be those.*20 rows per env, got 1 and 30"):
        load(capacity=30)
    for shape in ((3,), None):
        with pytest.raises(ValueError, match=r"chunks must hold .*pass the spaces and extras they were saved with"):
            load(shape=shape)
    with pytest.raises(ValueError, match="chunks must end with the header"):
        load(chunks[:-1])
    with pytest.raises(ValueError, match=r"chunks must hold each of the .* got 0; pass all chunks of one save"):
        load(chunks[1:])
    with pytest.raises(ValueError, match=r"chunks must have a header of version 1 .* got version 2"):
        load([*chunks[:-1], {**chunks[-1], "version": np.array(2)}])
    with pytest.raises(ValueError, match="chunks must lie within the header's rows, got rows 3 to"):
        load([{**chunks[0], "begin": np.array(3)}, *chunks[1:]])
    pair = SequenceReplay(OBS, ACTION, 20, 2)
    fill(pair, 3, end=0.0)
    first, _, header = pair.chunks()
    with pytest.raises(ValueError, match=r"chunks must hold each of the 8 rows .* once, got 4"):
        SequenceReplay.from_chunks([first, first, header], OBS, ACTION, 20, 2)


# Start states


def starts_of(space: Any) -> StartStates:
    replay = SequenceReplay(space, spaces.Discrete(3), 40)
    space.seed(0)
    no = np.zeros(1, bool)
    batch = [{k: v[None] for k, v in o.items()} if isinstance(o, dict) else o[None] for o in (space.sample(),) * 4]
    replay.begin(batch[0])
    for obs in batch[1:]:
        replay.add([1], obs, [1.0], no, no)
    return replay.starts(2)


DICT = spaces.Dict({"image": spaces.Box(0, 255, (8, 8, 3), np.uint8), "a/b": spaces.Box(-1, 1, (2,), np.float32)})


@pytest.mark.parametrize(("space", "kind"), [(LEAVES[0], "vector"), (LEAVES[1], "image"), (DICT, "dict")])
def test_start_states_round_trip_and_sample(space: Any, kind: str) -> None:
    starts = starts_of(space)
    assert (len(starts), starts.context, starts.batch_size) == (3, 2, 3)
    assert starts.action.tolist() == [[[0, 1, 0], [0, 0, 0]]] * 3
    arrays = starts.to_arrays()
    changes = [name.split(":")[1] for name in arrays if name.startswith("changes:")]
    assert set(changes) == {"vector": set(), "image": {"obs"}, "dict": {"obs/image"}}[kind]
    plain = {name for name in arrays if not name.startswith("changes:")}
    assert plain == {"vector": {"obs", "action"}, "image": {"action"}, "dict": {"obs/a/b", "action"}}[kind]
    again = StartStates.from_arrays(arrays)
    pairs = list(zip(starts.tensors(), again.tensors(), strict=True))
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)
    assert isinstance(again.obs, dict) == (space is DICT)
    a, b = (starts.sample(50, torch.Generator().manual_seed(1)) for _ in range(2))
    assert (len(a), a.context) == (50, 2)
    assert all(torch.equal(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))


def test_start_states_reach_every_row_and_refuse_nonsense() -> None:
    starts = StartStates(torch.arange(4.0).reshape(4, 1, 1), torch.zeros(4, 1, 2))
    assert set(starts.sample(200, torch.Generator().manual_seed(0)).obs.flatten().tolist()) == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="at least one context to sample from"):
        starts[:0].sample(1)
    with pytest.raises(ValueError, match=r"arrays must be 'action' and 'obs' .* got \['obs'\]"):
        StartStates.from_arrays({"obs": np.zeros((1, 1, 2))})
    with pytest.raises(ValueError, match="must share the axes"):
        StartStates.from_arrays({"obs": np.zeros((2, 1, 2)), "action": np.zeros((1, 1, 2))})


# Errors


GOOD: dict[str, Any] = {
    "action": column(0, 0, width=1),
    "obs": column(0, 0),
    "reward": [0.0, 0.0],
    "terminated": [False, False],
    "truncated": [False, False],
    "final_obs": None,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs": column(0)}, "obs must have n_envs = 2 rows, got 1"),
        ({"obs": np.zeros((2, 3))}, "obs must have the shape"),
        ({"obs": column(0, np.nan)}, "obs must be finite, got NaN or infinity in row 1"),
        ({"action": np.zeros((2, 2))}, r"action must have the shape \(2, 1\).* got \(2, 2\)"),
        ({"action": column(0, np.nan, width=1)}, "action must be finite and fit float32, got nan"),
        ({"reward": 0.0}, r"reward must have the shape \(2,\), one entry for each env, got \(\)"),
        ({"reward": [0, np.inf]}, "reward must be finite and fit float32, got inf"),
        ({"reward": [0, 1e39]}, "reward must be finite and fit float32, got 1e"),
        ({"reward": ["a", "b"]}, "reward must be numbers"),
        ({"terminated": [False]}, "terminated must have the shape"),
        ({"truncated": [0, 2]}, "truncated must be finite and fit bool, got 2"),
        ({"terminated": [False, True]}, "final_obs must hold .* got none for env 1; pass infos"),
        ({"truncated": [True, False], "final_obs": [None, column(0)[0]]}, "final_obs must hold .* for env 0"),
        ({"terminated": [False, True], "final_obs": [column(0)[0]]}, "final_obs must hold .* for env 1"),
        ({"terminated": [False, True], "final_obs": column(0, np.inf)}, r"final_obs\[1\] must be finite"),
        ({"terminated": [False, True], "final_obs": [0.0, 0.0]}, r"final_obs\[1\] must have the shape"),
    ],
)
def test_a_refused_add_writes_nothing(change: dict[str, Any], message: str) -> None:
    replay, untouched = (SequenceReplay(OBS, ACTION, 20, 2) for _ in range(2))
    for each in (replay, untouched):
        fill(each, 5)
    with pytest.raises(ValueError, match=message):
        replay.add(**{**GOOD, **change})
    assert_equal_replays(replay, untouched)
    replay.add(**GOOD)
    assert replay.total_added == 12


def test_begin_checks_the_observation() -> None:
    replay = SequenceReplay(OBS, ACTION, 20, 2)
    with pytest.raises(ValueError, match="obs must have n_envs = 2 rows, got 3"):
        replay.begin(column(0, 0, 0))
    with pytest.raises(ValueError, match="obs must be finite"):
        replay.begin(column(0, np.nan))
    assert len(replay) == replay.n_transitions == 0
    with pytest.raises(RuntimeError, match=r"add\(\) must follow begin\(\).*call begin\(obs\)"):
        replay.add(**GOOD)


def test_a_discrete_action_outside_its_space_is_refused() -> None:
    for space, action in ((spaces.Discrete(3), [3]), (spaces.MultiDiscrete([2, 2]), [[0, 2]]), (ACTION, [["x"]])):
        replay = SequenceReplay(OBS, space, 20)
        replay.begin(column(0))
        with pytest.raises(ValueError, match="action must be "):
            replay.add(action, column(0), [0], [False], [False])
    replay = SequenceReplay(spaces.Box(0, 255, (2,), np.uint8), spaces.Discrete(3), 20)
    with pytest.raises(ValueError, match=r"obs must be finite and fit uint8, got 0.5"):
        replay.begin(np.full((1, 2), 0.5))


def test_errors_of_the_constructor() -> None:
    with pytest.raises(ValueError, match="n_envs must be at least 1, got 0"):
        SequenceReplay(OBS, ACTION, 10, 0)
    with pytest.raises(ValueError, match=r"capacity must give each env at least 2 rows \(n_envs = 4\), got 4"):
        SequenceReplay(OBS, ACTION, 4, 4)
    with pytest.raises(ValueError, match="observation_space must be a Box"):
        SequenceReplay(spaces.Text(3), ACTION, 10)
    with pytest.raises(ValueError, match="observation_space must be a Box"):
        SequenceReplay(spaces.Dict({"a": spaces.Dict({"b": OBS})}), ACTION, 10)
    with pytest.raises(ValueError, match="action_space must be bounded"):
        SequenceReplay(OBS, OBS, 10)


def test_errors_of_reading() -> None:
    replay = SequenceReplay(OBS, ACTION, 20, extras={"latent": ((2,), np.float32)})
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="holds 0 rows in 0 episodes"):
        replay.sample(1, 1, rng)
    fill(replay, 3, end=0.0)
    fill(replay, 1, end=0.0)
    with pytest.raises(
        ValueError, match=r"at least one episode of 5 rows; the replay holds 6 rows in 2 episodes.*add more"
    ):
        replay.sample(1, 5, rng)
    assert replay.sample(1, 5, rng, cross_episodes=True).length == 5
    with pytest.raises(ValueError, match="needs 7 rows in a row in one env; the replay holds 6 rows"):
        replay.sample(1, 7, rng, cross_episodes=True)
    for call in (lambda: replay.windows(0), lambda: replay.sample(1, 0, rng), lambda: replay.gather([0], 0)):
        with pytest.raises(ValueError, match="length must be at least 1, got 0"):
            call()
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        replay.sample(0, 1, rng)
    with pytest.raises(ValueError, match="members must be at least 0, got -1"):
        replay.gather([0], 1, members=-1)
    with pytest.raises(ValueError, match="starts must name windows of 2 rows that are in the replay, got 5; take them"):
        replay.gather([0, 5], 2)
    with pytest.raises(ValueError, match="starts must name windows of 1 rows that are in the replay, got -1"):
        replay.gather([-1], 1)
    with pytest.raises(ValueError, match=r"starts must be \[B\] integers, got float64"):
        replay.gather([0.5], 1)
    with pytest.raises(ValueError, match="context must be at least 1, got 0"):
        replay.starts(0)
    with pytest.raises(ValueError, match="kind must be 'visited' or 'resets', got 'all'"):
        replay.starts(1, kind="all")
    with pytest.raises(ValueError, match=r"name must be one of the extras \['latent'\], got 'other'"):
        replay.write_back("other", [0], [0])
    with pytest.raises(ValueError, match=r"values must have the shape \(1, 2\)"):
        replay.write_back("latent", [0], [0])
    with pytest.raises(ValueError, match="index must name rows that were written"):
        replay.write_back("latent", [6], [[0, 0]])


def test_a_deep_copy_is_a_replay_of_its_own() -> None:
    replay = SequenceReplay(spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2), 10)
    replay.begin(np.zeros((1, 1), np.float32))
    other = copy.deepcopy(replay)
    no = np.zeros(1, bool)
    for ring, reward in ((replay, 1.0), (other, 2.0)):
        ring.add(np.zeros(1, np.int64), np.ones((1, 1), np.float32), np.array([reward]), no, no)
    assert replay.gather(replay.windows(2), 2).reward[0, 1] == 1.0
    assert other.gather(other.windows(2), 2).reward[0, 1] == 2.0


def test_starts_can_be_drawn_instead_of_all_taken() -> None:
    replay = SequenceReplay(OBS, ACTION, 100)
    replay.begin(column(0.0))
    for t in range(40):
        replay.add(column(0.0, width=1), column(t + 1.0), [0.0], [False], [False])
    rng = np.random.default_rng
    few = replay.starts(3, most=7, rng=rng(0))
    assert len(few) == 7
    assert torch.equal(few.obs, replay.starts(3, most=7, rng=rng(0)).obs)
    assert not torch.equal(few.obs, replay.starts(3, most=7, rng=rng(1)).obs)
    rows = {tuple(x) for x in replay.starts(3).obs[:, -1].tolist()}
    assert len({tuple(x) for x in few.obs[:, -1].tolist()} & rows) == 7  # without replacement
    assert torch.equal(replay.starts(3, most=1000, rng=rng(0)).obs, replay.starts(3).obs)
    with pytest.raises(ValueError, match="rng must be given with most"):
        replay.starts(3, most=7)
    with pytest.raises(ValueError, match="most must be at least 1, got 0"):
        replay.starts(3, most=0, rng=rng(0))
