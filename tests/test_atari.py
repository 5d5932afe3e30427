"""Atari: one environment and many show the same pixels, every setting has its effect, stacks are kept once."""

import sys
from dataclasses import replace

import ale_py  # noqa: F401  (registers ALE/...)
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from stable_baselines3 import PPO

from mbrl_gym import SequenceReplay, check_vector_env
from mbrl_gym.frames import newest_frame, stack_frames
from mbrl_gym.wrappers.atari import AtariSettings, make_atari, make_atari_vec
from mbrl_gym.wrappers.sb3 import SB3VecEnv

PONG, BREAKOUT = "ALE/Pong-v5", "ALE/Breakout-v5"
EXACT = AtariSettings(no_ops=0)  # where one environment and many agree whatever the seed
TINY = AtariSettings(no_ops=0, height=20, width=16, stack=2)
SAME_STEP = AutoresetMode.SAME_STEP


def played(env, actions, seed=0):
    """All that one environment shows, as (last observation of the step, reward, terminated, truncated, score)."""
    obs, _ = env.reset(seed=seed)
    steps, resets = [], [obs]
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(int(action))
        steps.append((obs, float(reward), terminated, truncated, info.get("episode", {}).get("r")))
        if terminated or truncated:
            resets.append(env.reset()[0])
    return steps, resets


def played_vec(env, actions, row=0, seed=0):
    """The same of a row of a vector environment; all rows take the same actions."""
    obs, _ = env.reset(seed=seed)
    steps, resets = [], [obs[row]]
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(np.full(env.num_envs, action))
        if terminated[row] or truncated[row]:
            resets.append(obs[row])
            score = info["final_info"]["episode"]["r"][row]
            steps.append((info["final_obs"][row], reward[row], terminated[row], truncated[row], score))
        else:
            steps.append((obs[row], reward[row], terminated[row], truncated[row], None))
    return steps, resets


def assert_same(one, other):
    for (obs, *rest), (other_obs, *other_rest) in zip(one[0], other[0], strict=True):
        assert rest == other_rest
        np.testing.assert_array_equal(obs, other_obs, strict=True)
    for obs, other_obs in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(obs, other_obs, strict=True)


def random_actions(count, actions, seed=0):
    return np.random.default_rng(seed).integers(actions, size=count)


def compare(env_id, settings, steps, actions=None):
    env = make_atari(env_id, settings)
    actions = random_actions(steps, int(env.action_space.n)) if actions is None else actions
    one, many = played(env, actions), played_vec(make_atari_vec(env_id, 2, settings), actions, row=1)
    assert_same(one, many)
    return one


# Pixels


@pytest.mark.parametrize(("env_id", "steps"), [(PONG, 950), (BREAKOUT, 520)])
def test_one_environment_and_many_show_the_same_pixels(env_id, steps):
    rows, resets = compare(env_id, EXACT, steps)
    assert rows[0][0].shape == (4, 84, 84)
    assert rows[0][0].dtype == np.uint8
    assert len(resets) > 1  # a whole episode
    assert sum(row[1] != 0 for row in rows) > 3


@pytest.mark.parametrize(
    "changed",
    [
        {"life_loss_terminates": True},
        {"clip_rewards": True},
        {"fire_reset": True},
        {"full_action_space": True},
        {"max_episode_steps": 30},
        {"frame_skip": 1},
        {"frame_skip": 3},
        {"grayscale": False},
        {"grayscale": False, "channels_last": True, "stack": 1},
        {"channels_last": True},
        {"height": 105, "width": 80},
    ],
    ids=str,
)
def test_they_agree_under_other_settings(changed):
    _, resets = compare(BREAKOUT, replace(EXACT, **changed), 120)
    if "life_loss_terminates" in changed or "max_episode_steps" in changed:
        assert len(resets) > 2


def test_a_row_that_terminates_and_one_that_is_out_of_time_in_the_same_step():
    """The first is reset by ale-py, the second by this package."""
    fire, idle = 1, 0  # idle never serves the ball
    single, length = make_atari(BREAKOUT, TINY), 1
    single.reset(seed=0)
    while not (step := single.step(fire))[2]:
        length += 1
    env = make_atari_vec(BREAKOUT, 2, replace(TINY, max_episode_steps=length + 3), seed=0)
    first, _ = env.reset()
    for _ in range(3):
        env.step([idle, idle])
    env.reset(options={"reset_mask": np.array([True, False])})
    for _ in range(length):
        obs, _, terminated, truncated, info = env.step([fire, idle])
    assert (terminated.tolist(), truncated.tolist()) == ([True, False], [False, True])
    np.testing.assert_array_equal(info["final_obs"][0], step[0])
    np.testing.assert_array_equal(obs, first)
    assert info["lives"].tolist() == [5, 5]
    assert info["episode_frame_number"].tolist() == [0, 0]
    assert info["final_info"]["episode"]["l"].tolist() == [length, length + 3]
    assert info["final_info"]["episode"]["r"].tolist() == [step[4]["episode"]["r"], 0.0]


def test_a_row_that_terminates_as_its_time_is_up():
    fire = np.ones(200, int)
    length = [step[2] for step in played(make_atari(BREAKOUT, TINY), fire)[0]].index(True) + 1
    steps, _ = compare(BREAKOUT, replace(TINY, max_episode_steps=length), length, fire[:length])
    assert steps[-1][2:4] == (True, True)


def test_pixels_are_gymnasiums():
    env = gym.make(PONG, frameskip=1, repeat_action_probability=0.0)
    theirs = FrameStackObservation(AtariPreprocessing(env, noop_max=7), 4, padding_type="zero")
    ours = make_atari(PONG, AtariSettings(no_ops=7))
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    actions = random_actions(150, 6)
    one, other = played(ours, actions, seed=3), played(theirs, actions, seed=3)
    for (obs, reward, *_), (their_obs, their_reward, *_) in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(obs, their_obs)
        assert reward == their_reward
    np.testing.assert_array_equal(one[1][0], other[1][0])


def test_colour_is_frame_by_frame():
    grey = FrameStackObservation(
        AtariPreprocessing(gym.make(PONG, frameskip=1, repeat_action_probability=0.0), 0, grayscale_obs=False),
        4,
        padding_type="zero",
    )
    actions = random_actions(20, 6)
    theirs = np.stack([step[0] for step in played(grey, actions)[0]])  # [20, S, H, W, 3]
    ours = np.stack([step[0] for step in played(make_atari(PONG, replace(EXACT, grayscale=False)), actions)[0]])
    for frame in range(4):
        for colour in range(3):
            np.testing.assert_array_equal(ours[:, 3 * frame + colour], theirs[:, frame, ..., colour])


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        (AtariSettings(), (4, 84, 84)),
        (AtariSettings.machado(), (4, 84, 84)),
        (AtariSettings.simple(), (12, 105, 80)),
        (AtariSettings.dreamer_v3(), (96, 96, 1)),
        (AtariSettings.dreamer_v3_100k(), (64, 64, 3)),
    ],
)
def test_observations_lie_in_the_space(settings, shape):
    env, vec = make_atari(PONG, settings), make_atari_vec(PONG, 2, settings)
    for space in (env.observation_space, vec.single_observation_space):
        assert space == settings.observation_space
        assert space.shape == shape
        assert space.dtype == np.uint8
    assert env.action_space.n == vec.single_action_space.n == (18 if settings.full_action_space else 6)
    assert env.observation_space.contains(env.reset(seed=0)[0])
    assert vec.observation_space.contains(vec.reset(seed=0)[0])


# Every setting has its effect


def vec(env_id=BREAKOUT, num_envs=2, seed=0, **settings):
    return make_atari_vec(env_id, num_envs, replace(TINY, **settings), seed=seed)


def frames_after_reset(env):
    resets = [env.reset(seed=0), *(env.reset() for _ in range(20))]
    return {int(np.ravel(info["episode_frame_number"])[0]) for _, info in resets}


def test_no_ops():
    """None to all of them where ale-py draws, at least one where Gymnasium does."""
    for no_ops, one, many in ((2, {1, 2}, {0, 1, 2}), (0, {0}, {0})):
        settings = replace(TINY, no_ops=no_ops)
        assert frames_after_reset(make_atari(PONG, settings)) == one
        assert frames_after_reset(make_atari_vec(PONG, 1, settings)) == many


def test_sticky_actions():
    """Rows differ by their seeds alone, and one environment from itself."""
    for probability in (0.0, 0.5):
        env = vec(PONG, 2, sticky_probability=probability)
        env.reset(seed=0)
        for action in random_actions(30, 6):
            obs, *_ = env.step(np.full(2, action))
        assert (obs[0] == obs[1]).all() == (probability == 0.0)
        single = make_atari(PONG, replace(TINY, sticky_probability=probability))
        ends = [played(single, random_actions(30, 6), seed=seed)[0][-1][0] for seed in (0, 1)]
        assert (ends[0] == ends[1]).all() == (probability == 0.0)


def test_clipped_rewards_leave_the_score():
    """Space Invaders pays 5 to 30 and more for an invader."""
    limit = {"max_episode_steps": 200}
    actions = np.ones(200, int)  # FIRE
    for clip in (False, True):
        settings = replace(TINY, clip_rewards=clip, **limit)
        one, _ = compare("ALE/SpaceInvaders-v5", settings, 200, actions)
        rewards, score = [step[1] for step in one], one[-1][-1]
        assert set(rewards) == {0.0, 1.0} if clip else max(rewards) >= 5.0
        assert score > 20.0
        assert (score == sum(rewards)) is not clip


def test_a_reset_forgets_the_score_of_the_episode_that_is_left():
    env, fire = vec("ALE/SpaceInvaders-v5", 1, max_episode_steps=200), [1]
    env.reset()
    assert sum(env.step(fire)[1][0] for _ in range(199)) > 0
    env.reset()
    steps = [env.step(fire) for _ in range(200)]
    assert steps[-1][4]["final_info"]["episode"]["r"][0] == sum(step[1][0] for step in steps)


def test_a_lost_life_ends_the_episode_and_the_next_is_a_new_game():
    actions = np.ones(100, int)  # FIRE, and no move
    for terminates in (False, True):
        settings = replace(TINY, life_loss_terminates=terminates)
        rows, _ = compare(BREAKOUT, settings, 100, actions)
        assert any(row[2] for row in rows) == terminates
    env = make_atari_vec(BREAKOUT, 1, settings)
    env.reset(seed=0)
    while not (step := env.step([1]))[2][0]:
        pass
    assert step[4]["lives"].tolist() == [5]


def test_fire_reset():
    for fire, frames in ((False, 0), (True, 1)):
        settings = replace(TINY, fire_reset=fire)
        assert make_atari(BREAKOUT, settings).reset(seed=0)[1]["episode_frame_number"] == frames
        assert vec(fire_reset=fire).reset(seed=0)[1]["episode_frame_number"].tolist() == [frames] * 2
    # a game without FIRE
    settings = replace(TINY, fire_reset=True)
    assert make_atari("ALE/Freeway-v5", settings).reset(seed=0)[1]["episode_frame_number"] == 0
    assert vec("ALE/Freeway-v5", 1, fire_reset=True).reset()[1]["episode_frame_number"].tolist() == [0]


@pytest.mark.parametrize("skip", [1, 2, 4])
def test_frame_skip(skip):
    settings = replace(TINY, frame_skip=skip)
    for env, action in ((make_atari(PONG, settings), 0), (make_atari_vec(PONG, 1, settings), [0])):
        env.reset(seed=0)
        for _ in range(3):
            info = env.step(action)[-1]
        assert np.ravel(info["episode_frame_number"]).tolist() == [3 * skip]


def test_time_is_up_after_so_many_actions_whatever_the_no_ops():
    settings = replace(TINY, max_episode_steps=7, no_ops=30)
    env, many = make_atari(PONG, settings), make_atari_vec(PONG, 3, settings)
    env.reset(seed=0)
    many.reset(seed=0)
    for step in range(1, 8):
        _, _, terminated, truncated, info = env.step(0)
        assert (terminated, truncated) == (False, step == 7)
        _, _, terminated, truncated, many_info = many.step(np.zeros(3, int))
        assert not terminated.any()
        assert truncated.tolist() == [step == 7] * 3
    assert info["episode"]["l"] == 7
    assert many_info["final_info"]["episode"]["l"].tolist() == [7] * 3
    assert many_info["episode_frame_number"].max() <= 30  # of the next episodes


# The vector environment's contract


def test_it_keeps_the_rules_and_leaves_gymnasiums_class_alone():
    before = dict(VectorEnv.metadata)
    env = make_atari_vec(PONG, 2, replace(TINY, max_episode_steps=10))
    assert VectorEnv.metadata == before
    assert env.metadata["autoreset_mode"] is env.autoreset_mode is SAME_STEP
    with pytest.warns(UserWarning, match="same observations for seeds"):  # no no-ops, not sticky
        check_vector_env(env, steps=25)


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_one_environment_passes_gymnasiums_checker():
    check_env(make_atari(PONG, replace(TINY, max_episode_steps=10)), skip_render_check=True)
    env = make_atari(PONG, TINY, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (210, 160, 3)


def test_final_observations_of_other_rows_are_zero():
    env = vec(PONG, 3, max_episode_steps=4)
    env.reset()
    env.step(np.zeros(3, int))
    env.reset(options={"reset_mask": np.array([False, True, False])})
    for _ in range(3):
        _, _, _, truncated, info = env.step(np.zeros(3, int))
    assert truncated.tolist() == info["_final_obs"].tolist() == [True, False, True]
    assert [bool(x.any()) for x in info["final_obs"]] == [True, False, True]


def test_seeds():
    env = vec(PONG, 2, no_ops=30)

    def frames(seed=None, env=env):
        return env.reset(seed=seed)[1]["episode_frame_number"].tolist()

    starts = frames(5)
    assert frames(6)[0] == starts[1]  # row i has seed + i
    assert frames(np.int64(5)) == frames(np.array([5, 6])) == frames([5, 6]) == starts
    assert frames(5, vec(PONG, 2, seed=9, no_ops=30)) == starts
    seeded = vec(PONG, 2, seed=5, no_ops=30)
    assert frames(env=seeded) == starts
    assert frames(env=seeded) != starts  # the seed is used once


def test_stable_baselines_sees_the_last_observation_and_the_score():
    settings = replace(TINY, max_episode_steps=160, clip_rewards=True, fire_reset=True)
    venv, single = SB3VecEnv(make_atari_vec(BREAKOUT, 2, settings)), make_atari(BREAKOUT, settings)
    venv.seed(0)
    obs = venv.reset()
    # two games that end, then idleness, which only time ends
    actions = np.append(random_actions(200, 4, seed=1), np.zeros(200, int))
    expected, _ = played(single, actions)
    ends = []
    for action, (last, reward, terminated, truncated, score) in zip(actions, expected, strict=True):
        obs, rewards, dones, infos = venv.step(np.full(2, action))
        assert rewards[1] == reward
        assert dones[1] == (terminated or truncated)
        if not dones[1]:
            np.testing.assert_array_equal(obs[1], last)
            continue
        np.testing.assert_array_equal(infos[1]["terminal_observation"], last)
        assert infos[1]["TimeLimit.truncated"] == (truncated and not terminated)
        assert infos[1]["episode"]["r"] == score
        ends.append(infos[1]["TimeLimit.truncated"])
    assert {True, False} == set(ends)


def test_stable_baselines_trains():
    venv = SB3VecEnv(make_atari_vec(PONG, 2, AtariSettings(max_episode_steps=6, height=40, width=40)))
    model = PPO("CnnPolicy", venv, n_steps=8, batch_size=16, n_epochs=1, device="cpu", seed=0).learn(16)
    assert [episode["l"] for episode in model.ep_info_buffer] == [6, 6]


# Frame stacks


@pytest.mark.parametrize(("count", "grayscale"), [(4, True), (3, False), (1, True)])
def test_stacks_made_of_single_frames_are_the_environments_bit_by_bit(count, grayscale):
    """Two rows, episodes of unequal length, some over by themselves and some cut off, windows anywhere."""
    settings = replace(TINY, stack=count, grayscale=grayscale, max_episode_steps=40, life_loss_terminates=True)
    env = make_atari_vec(BREAKOUT, 2, settings)
    replay = SequenceReplay(replace(settings, stack=1).observation_space, env.single_action_space, 400, 2)
    obs, _ = env.reset(seed=0)
    replay.begin(newest_frame(obs, count))
    stacks = [[obs[0]], [obs[1]]]  # of every row of the replay, by environment
    ends = np.zeros(2, int)
    for action in random_actions(240, 4).reshape(120, 2):
        obs, reward, terminated, truncated, info = env.step(action)
        finals = newest_frame(info["final_obs"], count) if "final_obs" in info else None
        replay.add(action, newest_frame(obs, count), reward, terminated, truncated, finals)
        for row in range(2):
            if terminated[row] or truncated[row]:
                stacks[row].append(info["final_obs"][row])
            stacks[row].append(obs[row])
        ends += terminated.sum(), truncated.sum()
    assert ends.min() > 0
    length = 6 + count - 1
    batch = replay.gather(replay.windows(length, cross_episodes=True), length)
    made = stack_frames(batch.obs, batch.is_first, count)[:, count - 1 :]  # [B, 6, count * C, H, W]
    assert batch.is_first[:, count:].any()
    rows = batch.index[:, count - 1 :].tolist()
    wanted = np.array([[stacks[row % 2][row // 2] for row in window] for window in rows])
    np.testing.assert_array_equal(made.numpy(), wanted, strict=True)


def test_stack_frames_by_hand():
    frames = torch.arange(1, 7).reshape(1, 6, 1, 1, 1)
    is_first = torch.tensor([[False, False, False, True, False, False]])
    made = stack_frames(frames, is_first, 3)[0, :, :, 0, 0]
    assert made.tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [0, 0, 4], [0, 4, 5], [4, 5, 6]]
    assert stack_frames(frames, is_first, 1).equal(frames)
    assert stack_frames(frames, is_first, 9).shape == (1, 6, 9, 1, 1)
    assert frames.flatten().tolist() == [1, 2, 3, 4, 5, 6]


def test_single_frames_take_a_quarter_of_the_memory():
    sizes = []
    for stack in (1, 4):
        env = make_atari_vec(PONG, 1, replace(EXACT, stack=stack))
        replay = SequenceReplay(env.single_observation_space, env.single_action_space, 100)
        sizes.append(sum(column.nbytes for column in replay._rings.columns.values()))
    assert sizes[0] < 0.26 * sizes[1]


# Settings as data, and errors


def test_the_defaults_are_these():
    assert AtariSettings().to_json() == {
        "frame_skip": 4,
        "height": 84,
        "width": 84,
        "grayscale": True,
        "stack": 4,
        "channels_last": False,
        "sticky_probability": 0.0,
        "no_ops": 30,
        "fire_reset": False,
        "life_loss_terminates": False,
        "clip_rewards": False,
        "full_action_space": False,
        "max_episode_steps": 27_000,
    }


def test_presets_differ_by_these():
    def changes(settings):
        return dict(settings.to_json().items() - AtariSettings().to_json().items())

    assert changes(AtariSettings.machado()) == {"sticky_probability": 0.25, "no_ops": 0, "full_action_space": True}
    assert changes(AtariSettings.simple()) == {
        "height": 105, "width": 80, "grayscale": False, "no_ops": 8, "clip_rewards": True
    }  # fmt: skip
    assert changes(AtariSettings.dreamer_v3()) == {
        "height": 96, "width": 96, "stack": 1, "channels_last": True, "sticky_probability": 0.25,
        "full_action_space": True,
    }  # fmt: skip
    assert changes(AtariSettings.dreamer_v3_100k()) == {
        "height": 64, "width": 64, "grayscale": False, "stack": 1, "channels_last": True
    }  # fmt: skip


@pytest.mark.parametrize("preset", ["machado", "simple", "dreamer_v3", "dreamer_v3_100k"])
def test_settings_survive_json(preset):
    settings = getattr(AtariSettings, preset)()
    assert AtariSettings.from_json(settings.to_json()) == settings
    assert AtariSettings.from_json({"stack": 2}) == AtariSettings(stack=2)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("frame_skip", 0, "frame_skip must be an integer of at least 1, got 0"),
        ("frame_skip", (2, 5), r"frame_skip must be an integer of at least 1, got \(2, 5\)"),
        ("height", 0, "height must be an integer of at least 1"),
        ("width", 84.0, "width must be an integer of at least 1, got 84.0"),
        ("stack", True, "stack must be an integer of at least 1, got True"),
        ("no_ops", -1, "no_ops must be an integer of at least 0, got -1"),
        ("max_episode_steps", 0, "max_episode_steps must be an integer of at least 1"),
        ("sticky_probability", 1.0, r"sticky_probability must lie in \[0, 1\), got 1.0"),
        ("sticky_probability", float("nan"), "sticky_probability must lie"),
        ("clip_rewards", 1, "clip_rewards must be True or False, got 1"),
        ("grayscale", None, "grayscale must be True or False, got None"),
    ],
)
def test_settings_out_of_range(name, value, message):
    with pytest.raises(ValueError, match=message):
        AtariSettings(**{name: value})


def test_unknown_settings():
    with pytest.raises(ValueError, match=r"data must hold settings of \['frame_skip', .* alone, got \['noop_max'\]"):
        AtariSettings.from_json({"noop_max": 3})


@pytest.mark.parametrize("make", [make_atari, lambda env_id: make_atari_vec(env_id, 1)], ids=["one", "many"])
def test_ids_that_name_no_game(make, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"env_id must be a registered game such as .*, got 'ALE/Pang-v5'"):
        make("ALE/Pang-v5")
    with pytest.raises(ValueError, match=r"must be a game of ale-py .*got 'CartPole-v1' of .*gymnasium.make"):
        make("CartPole-v1")
    with pytest.raises(ValueError, match=r"must be a game of ale-py .*got 'Learned-Pong'"):
        make("Learned-Pong")
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"env_id='ALE/Pong-v5' needs the ROM pong.bin, .*unset ALE_ROMS_DIR"):
        make(PONG)
    (tmp_path / "pong.bin").write_bytes(b"not Pong")
    with pytest.raises(FileNotFoundError, match=r"hash of pong.bin does not match"):
        make(PONG)
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(gym.error.DependencyNotInstalled, match=r"env_id='ALE/Pong-v5' needs ale-py.*pip install"):
        make(PONG)


def test_an_older_id_names_the_game_alone():
    """Its spec says frame skip 1 and a limit in frames."""
    env = make_atari("PongNoFrameskip-v4", TINY)
    env.reset(seed=0)
    assert env.step(0)[-1]["episode_frame_number"] == 4


def test_arguments_of_the_vector_environment():
    with pytest.raises(ValueError, match="num_envs must be an integer of at least 1, got 0"):
        make_atari_vec(PONG, 0)
    with pytest.raises(ValueError, match="num_threads must be an integer of at least 0, got -1"):
        make_atari_vec(PONG, 1, num_threads=-1)
    env = make_atari_vec(PONG, 2, TINY, num_threads=1)
    for seed in (-1, 2**31 - 1, 2**31, 1.5, np.array([0, -1])):
        with pytest.raises(ValueError, match=r"seed must leave every row \(seed \+ row\) an integer in \[0, 2\*\*31\)"):
            env.reset(seed=seed)
    with pytest.raises(ValueError, match="seed must leave"):
        make_atari_vec(PONG, 2, TINY, seed=-1)
    env.reset(seed=2**31 - 2)
    for actions in ([0, 6], [0, -1], [0], [0.0, 0.0], 0):
        with pytest.raises(ValueError, match=r"actions must be 2 integers in \[0, 6\), got"):
            env.step(actions)
    env.step(np.array([0, 5], dtype=np.int32))


def test_arguments_of_stacks():
    frames, is_first = torch.zeros(2, 3, 1, 4, 4), torch.zeros(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"frames must be \[B, T, C, H, W\] and is_first \[B, T\].*a C of 1"):
        stack_frames(frames[:, :, 0], is_first, 4)
    with pytest.raises(ValueError, match=r"got \(2, 3, 1, 4, 4\) and \(2, 2\)"):
        stack_frames(frames, is_first[:, :2], 4)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        stack_frames(frames, is_first, 0)
    with pytest.raises(ValueError, match=r"stacks must be \[..., count \* C, H, W\] with count = 3, got \(4, 8, 8\)"):
        newest_frame(torch.zeros(4, 8, 8), 3)


def test_importing_the_wrappers_does_not_import_ale_py(python):
    assert python("-c", "import sys, mbrl_gym.wrappers; print('ale_py' in sys.modules)").strip() == "False"
