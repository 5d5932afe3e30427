"""Experience: recorded, as episodes, on disk, and as Minari datasets."""

import importlib
import itertools
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from mbrl_gym import CheckpointError, SequenceReplay
from mbrl_gym.checkpoint import Checkpoint, save_checkpoint
from mbrl_gym.data import (
    Episode,
    episodes,
    experience_facts,
    from_minari,
    load_experience,
    minari_facts,
    play,
    random_policy,
    record,
    replay_of,
    save_experience,
    to_minari,
)
from recorded import BOX, PUSH, Told, as_lists

DOUBLE = spaces.Box(-5.0, 5.0, (2,), np.float64)
IMAGE = spaces.Box(0, 255, (40, 32, 3), np.uint8)
OBSERVATIONS = {
    "box": BOX,
    "double": DOUBLE,
    "discrete": spaces.Discrete(5, start=2),
    "image": IMAGE,
    "dict": spaces.Dict(place=BOX, kind=spaces.Discrete(3), picture=IMAGE),
}
ACTIONS = {"box": PUSH, "discrete": spaces.Discrete(4), "bits": spaces.MultiBinary(3)}
SPACES = [(o, a) for o in OBSERVATIONS for a in ("box", "discrete")] + [("box", "bits")]


def rows_of(replay):
    """All columns of a replay, byte for byte."""
    return [{k: (v.dtype.str, v.shape, v.tobytes()) for k, v in chunk.items()} for chunk in replay.chunks()]


# ---- recording ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("observation", "action"), SPACES)
def test_a_recording_holds_what_the_environment_said(observation, action):
    env = Told(OBSERVATIONS[observation], ACTIONS[action])
    replay = record(env, steps=10, seed=5)  # 3 + 1 + 4 + 2 of an open one
    found = list(episodes(replay))
    assert [(len(e), e.terminated, e.truncated) for e in found] == [
        (3, True, False),
        (1, False, True),
        (4, True, False),
        (2, False, False),
    ]
    assert as_lists(found) == as_lists(env.episodes())
    assert replay.total_added == 10
    assert env.seeds == [5, None, None, None]


def test_episodes_of_one_step_all_fit():
    replay = record(Told(lengths=(1,)), steps=7)
    assert [len(e) for e in episodes(replay)] == [1] * 7


def test_a_recording_is_a_function_of_its_seed():
    first, same, other = (rows_of(record(gym.make("Pendulum-v1"), steps=30, seed=s)) for s in (1, 1, 2))
    assert first == same != other


def test_a_recording_goes_on_in_a_given_replay():
    env = Told()
    replay = SequenceReplay(env.observation_space, env.action_space, 100)
    assert record(env, steps=3, replay=replay) is replay
    record(env, steps=2, replay=replay)
    assert [len(e) for e in episodes(replay)] == [3, 2]


def test_the_policy_gets_its_memory_back_and_starts_each_episode_without():
    heard = []

    def predict(obs, memory, episode_start, deterministic):
        heard.append((memory, bool(episode_start[0]), deterministic))
        return np.zeros(2, np.float32), len(heard)

    record(Told(lengths=(2,)), predict, steps=4)
    record(Told(lengths=(2,)), predict, steps=1, deterministic=True)
    assert heard == [(None, True, False), (1, False, False), (None, True, False), (3, False, False), (None, True, True)]


def test_play_cuts_long_episodes_and_seeds_each_reset():
    env = Told(lengths=(3,))
    steps = itertools.islice(play(random_policy(env.action_space), env, itertools.count(8), max_steps=2), 5)
    assert [(step.terminated, step.truncated) for step in steps] == [(False, False), (False, True)] * 2 + [(False,) * 2]
    assert env.seeds == [8, 9, 10]
    env = Told(lengths=(2,))
    (_, last) = itertools.islice(play(random_policy(env.action_space), env, itertools.count(), max_steps=2), 2)
    assert (last.terminated, last.truncated) == (True, False)  # an end is an end, whatever the limit


def test_nothing_to_record_is_an_error():
    with pytest.raises(ValueError, match="steps must be at least 1 real step, got 0"):
        record(Told(), steps=0)


# ---- episodes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("observation", "action"), SPACES)
def test_episodes_make_the_same_replay_again(observation, action):
    env = Told(OBSERVATIONS[observation], ACTIONS[action])
    replay = record(env, steps=10)
    again = replay_of(episodes(replay), replay.observation_space, replay.action_space, replay.capacity)
    assert rows_of(again) == rows_of(replay)
    assert (
        len(replay_of(episodes(replay), replay.observation_space, replay.action_space)._rings.columns["reward"][0])
        == 14
    )


def test_episodes_of_several_environments_and_chunks(monkeypatch):
    monkeypatch.setattr("mbrl_gym.replay.CHUNK_ROWS", 3)
    replay = SequenceReplay(spaces.Discrete(100), spaces.Discrete(100), 40, n_envs=2)
    replay.begin([0, 50])
    for t in range(1, 9):
        ended, final = [t == 5, False], {0: np.array(99)}
        replay.add([t, 50 + t], [10 if t == 5 else t, 50 + t], [t, -t], ended, [False, False], final)
    found = as_lists(episodes(replay))
    assert [e[0] for e in found] == [[0, 1, 2, 3, 4, 99], [10, 6, 7, 8], list(range(50, 59))]
    assert [e[1] for e in found] == [[1, 2, 3, 4, 5], [6, 7, 8], list(range(51, 59))]
    assert [e[3:] for e in found] == [(True, False), (False, False), (False, False)]


def test_episodes_without_their_beginning_are_left_out():
    env = Told(lengths=(4,))
    replay = SequenceReplay(env.observation_space, env.action_space, 9)
    record(env, steps=9, replay=replay)  # 5 + 5 + 2 rows: the first episode's first three are gone
    assert [len(e) for e in episodes(replay)] == [4, 1]


def test_extras_are_no_part_of_episodes():
    replay = SequenceReplay(spaces.Discrete(3), spaces.Discrete(2), 10, extras={"latent": ((2,), np.float32)})
    replay.begin([0])
    replay.add([1], [2], [0.5], [False], [False])
    assert as_lists(episodes(replay)) == [([0, 2], [1], [0.5], False, False)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.zeros((1, 2))}, "episode 1: action must have 2 entries, got 1"),
        ({"obs": np.zeros((2, 3))}, "episode 1: obs must have 3 entries, got 2"),
        ({"obs": np.full((3, 3), np.nan)}, "episode 1: obs must be finite"),
        ({"reward": np.array([0.0, np.inf])}, "episode 1: reward must be finite"),
        ({"action": np.zeros((2, 5))}, "episode 1: action must have the shape"),
        ({"reward": np.zeros(0)}, "episode 1: it must have at least one step"),
    ],
)
def test_wrong_episodes_are_refused(change, message):
    good = {"obs": np.zeros((3, 3)), "action": np.zeros((2, 2)), "reward": np.zeros(2)}
    pair = [Episode(**given, terminated=False, truncated=False) for given in (good, {**good, **change})]
    with pytest.raises(ValueError, match=message):
        replay_of(pair, BOX, PUSH)


def test_no_episode_and_too_little_room_are_errors():
    with pytest.raises(ValueError, match="at least one episode"):
        replay_of([], BOX, PUSH)
    with pytest.raises(ValueError, match="at least the 14 rows of all episodes, got 13"):
        replay_of(episodes(record(Told(), steps=10)), BOX, PUSH, 13)


# ---- on disk --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_what_is_saved_is_loaded_exactly(observation, tmp_path):
    replay = record(Told(OBSERVATIONS[observation]), steps=10)
    save_experience(tmp_path / "e", replay, {"real_id": "Told-v0", "time_limit": 4})
    loaded = load_experience(tmp_path / "e")
    assert rows_of(loaded) == rows_of(replay)
    assert (loaded.capacity, loaded.n_envs) == (replay.capacity, replay.n_envs)
    assert experience_facts(tmp_path / "e") == {"real_id": "Told-v0", "time_limit": 4}


def test_a_replay_that_grew_is_saved_over_the_old_one(tmp_path):
    env = Told()
    replay = SequenceReplay(env.observation_space, env.action_space, 100)
    for _ in range(2):
        record(env, steps=3, replay=replay)
        save_experience(tmp_path / "e", replay)
    assert rows_of(load_experience(tmp_path / "e")) == rows_of(replay)
    assert experience_facts(tmp_path / "e") == {}


def test_extras_stay_behind(tmp_path):
    replay = SequenceReplay(spaces.Discrete(3), spaces.Discrete(2), 10, n_envs=2, extras={"x": ((), np.float32)})
    replay.begin([0, 1])
    replay.add([1, 0], [2, 2], [0.5, 1], [False] * 2, [False] * 2)
    save_experience(tmp_path / "e", replay)
    loaded = load_experience(tmp_path / "e")
    assert as_lists(episodes(loaded)) == as_lists(episodes(replay))
    assert not loaded._format.extras


def test_what_is_no_experience_is_refused(tmp_path):
    save_checkpoint(tmp_path / "model", Checkpoint("model", {}))
    with pytest.raises(CheckpointError, match="must be a checkpoint of kind 'experience', is 'model'"):
        load_experience(tmp_path / "model")
    with pytest.raises(CheckpointError):
        experience_facts(tmp_path / "nothing")
    save_checkpoint(tmp_path / "odd", Checkpoint("experience", {"capacity": 3}, chunks={"replay": []}))
    with pytest.raises(CheckpointError, match="does not fit its own description"):
        load_experience(tmp_path / "odd")
    assert experience_facts(tmp_path / "odd") == {}


# ---- Minari ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def minari(tmp_path, monkeypatch):
    """Minari with an empty folder of data sets, and without jax, which its own collector needs."""
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return pytest.importorskip("minari", reason="Minari is an extra")


@pytest.mark.parametrize(("observation", "action"), SPACES)
def test_round_trip_through_minari(observation, action, minari):
    replay = record(Told(OBSERVATIONS[observation], ACTIONS[action]), steps=8)  # three whole episodes
    dataset = to_minari(replay, "told/round-trip-v0", author="me")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 8)
    assert dataset.observation_space == replay.observation_space
    for found in (from_minari("told/round-trip-v0"), from_minari(dataset)):
        assert (found.observation_space, found.action_space) == (replay.observation_space, replay.action_space)
        assert as_lists(episodes(found)) == as_lists(episodes(replay))
    assert from_minari(dataset, capacity=50).capacity == 50


def test_an_open_episode_is_written_as_truncated(minari):
    replay = record(Told(), steps=10)
    found = list(episodes(from_minari(to_minari(replay, "open-v0"))))
    assert [(e.terminated, e.truncated) for e in found][-2:] == [(True, False), (False, True)]
    assert as_lists(found)[-1][:3] == as_lists(episodes(replay))[-1][:3]


def by_hand(minari, terminations, truncations):
    """A data set of one episode of zeros with these flags."""
    buffer, steps = importlib.import_module("minari.data_collector.episode_buffer").EpisodeBuffer, len(terminations)
    arrays = {"observations": np.zeros((steps + 1, 3)), "actions": np.zeros((steps, 2)), "rewards": np.zeros(steps)}
    flags = {"terminations": np.array(terminations), "truncations": np.array(truncations)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = [buffer(**arrays, **flags)]
        return minari.create_dataset_from_buffers("hand-v0", data, observation_space=BOX, action_space=PUSH)


def test_an_open_episode_of_minari_stays_open(minari):
    (found,) = episodes(from_minari(by_hand(minari, [False, False], [False, False])))
    assert (found.terminated, found.truncated) == (False, False)


def test_the_environment_travels_along(minari):
    dataset = to_minari(record(gym.make("Pendulum-v1"), steps=5), "pendulum-v0", env_id="Pendulum-v1")
    assert dataset.env_spec.id == "Pendulum-v1"
    assert minari_facts("pendulum-v0") == {"real_id": "Pendulum-v1", "time_limit": 200}
    assert minari_facts(to_minari(record(Told(), steps=3), "told-v0")) == {"real_id": None, "time_limit": None}


def test_both_flags_of_minari_are_kept(minari):
    (found,) = episodes(from_minari(by_hand(minari, [False, True], [False, True])))
    assert (found.terminated, found.truncated) == (True, True)


def test_episodes_of_minari_that_go_on_after_their_end_are_refused(minari):
    with pytest.raises(ValueError, match="episode 0, which goes on after step 0"):
        from_minari(by_hand(minari, [False, True], [True, False]))


def test_what_minari_cannot_do_is_said(minari, tmp_path, monkeypatch):
    replay = record(Told(), steps=4)
    for name in ("no-version", "v0", "", "a b-v0"):
        with pytest.raises(ValueError, match="must be a name with a version"):
            to_minari(replay, name)
    to_minari(replay, "taken-v0")
    with pytest.raises(ValueError, match="must be a new one, got 'taken-v0'"):
        to_minari(replay, "taken-v0")
    with pytest.raises(FileNotFoundError, match=r"got 'group/other-v0'; there are: taken-v0\. Fetch it with"):
        from_minari("group/other-v0")
    empty = SequenceReplay(BOX, PUSH, 10)
    with pytest.raises(ValueError, match="at least one episode"):
        to_minari(empty, "empty-v0")
    with pytest.raises(TypeError):
        to_minari(replay, "half-v0", no_such_option=1)
    with pytest.raises(AssertionError):  # of Minari, when it has begun to write
        to_minari(replay, "half-v0", author=3)
    assert sorted(minari.list_local_datasets()) == ["taken-v0"]
    assert not (tmp_path / "minari" / "half-v0").exists()


def test_a_download_is_made_when_it_is_asked_for(minari, monkeypatch):
    asked = []
    monkeypatch.setattr("minari.load_dataset", lambda name, download: asked.append((name, download)) or dataset)
    dataset = to_minari(record(Told(), steps=3), "mine-v0")
    from_minari("other-v0", download=True)
    from_minari("other-v0")
    minari_facts("other-v0", download=True)
    assert asked == [("other-v0", True), ("other-v0", False), ("other-v0", True)]


def test_without_minari_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ImportError, match=r"pip install 'mbrl-gym\[data\]'"):
        from_minari("any-v0")
