"""Playing without a network: keys, sessions, recordings, and the real environment beside the dream."""

import threading
import time
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image
from test_video import ACTIONS, SMALL, SPACE, court, pushed

from mbrl_gym import StartStates, StoredModel, zoo
from mbrl_gym.models.video import VideoModel
from mbrl_gym.play import Game, Session, make_key_map
from mbrl_gym.play.reality import NoRealityError, Reality, make_real
from mbrl_gym.play.session import HOLD
from mbrl_gym.play.window import play_window, window_keys
from mbrl_gym.store import load_shared
from worlds import BOX, PUSH, Walk, WalkConfig, walk_starts


@pytest.fixture(scope="module")
def cartpole():
    """The shipped model."""
    return load_shared(zoo.shipped_models()["Learned-CartPole-v1"], "cpu")


@pytest.fixture(scope="module")
def pendulum():
    """The shipped model."""
    return load_shared(zoo.shipped_models()["Learned-Pendulum-v1"], "cpu")


class Real(gym.Env):
    """What `Walk` models, but twice as fast; ends beyond ``ends_at``, and is cut after ``steps``."""

    def __init__(self, ends_at=50.0, steps=1000, first=10.0):
        self.observation_space, self.action_space = BOX, PUSH
        self.ends_at, self.steps, self.first = ends_at, steps, first
        self.closed = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.count = self.first, 0
        return self._obs(), {}

    def step(self, action):
        self.place += float(action[0])
        self.count += 1
        return self._obs(), 7.0, self.place > self.ends_at, self.count >= self.steps, {}

    def close(self):
        self.closed = True

    def _obs(self):
        return np.full(2, self.place, np.float32)


def walk(real=None, horizon=1000, firsts=(3.0,), policy=None, record=None, fps=15, **config):
    """The game of a `Walk`, whose pushes of 2 move it by 1, beside ``real``, which they move by 2."""
    model = Walk(BOX, PUSH, WalkConfig(**config))
    stored = StoredModel(model, walk_starts(model, *firsts), None, horizon)
    return Game(stored, "walk", real, policy=policy, policy_name="Policy", record=record, fps=fps)


def session(*arguments, **options):
    return Session(walk(*arguments, **options), seed=0)


def place(played):
    """Where the dream is."""
    return float(played._dream.obs[0])


def ticks(played, count):
    """The numbers of the last of several ticks."""
    return [played.tick().numbers for _ in range(count)][-1]


# Actions


def test_a_key_moves_dream_and_reality_by_the_same_action():
    played = session(Real)
    played.press("ArrowRight")
    numbers = ticks(played, 2)
    assert numbers["action"] == [2.0]
    assert numbers["dream"] == {"reward": 12.0, "total": 23.0, "ended": ""}
    assert numbers["real"] == {"reward": 7.0, "total": 14.0, "ended": ""}
    assert (numbers["step"], numbers["since_real"], numbers["stepped"]) == (2, 2, True)
    assert (numbers["uncertainty"], numbers["termination_probability"]) == (1.0, 0.0)
    played.release("ArrowRight")
    assert ticks(played, 1)["action"] == [0.0]
    assert place(played) == 12.0


def test_of_two_keys_the_latest_counts_and_all_can_be_let_go():
    played = session()
    for key, value in (("ArrowRight", 2.0), ("ArrowLeft", -2.0), ("ArrowRight", 2.0)):
        played.press(key)
        assert ticks(played, 1)["action"] == [value]
    played.release_all()
    assert ticks(played, 1)["action"] == [0.0]
    played.release("ArrowLeft")  # is not down
    with pytest.raises(ValueError, match=r"key must be one of ArrowLeft, ArrowRight, got 'KeyQ'"):
        played.press("KeyQ")


def test_a_slider_is_the_action_while_no_key_is_down():
    played = session()
    played.slide(0, 1.5)
    assert ticks(played, 1)["action"] == [1.5]
    played.press("ArrowLeft")
    assert ticks(played, 1)["action"] == [-2.0]
    played.release_all()
    played.slide(0, 99.0)
    assert ticks(played, 1)["action"] == [2.0]
    with pytest.raises(ValueError, match="number must be one of the 1 sliders, got 1"):
        played.slide(1, 0.0)
    with pytest.raises(ValueError, match="value must be finite, got nan"):
        played.slide(0, float("nan"))


# Time


def test_nothing_happens_while_it_is_paused_but_single_steps():
    played = session(Real)
    played.press("ArrowRight")
    played.pause(True)
    numbers = ticks(played, 3)
    assert (numbers["step"], numbers["stepped"], numbers["paused"]) == (0, False, True)
    played.pause(False)
    assert ticks(played, 1)["step"] == 1
    played.step_once()
    numbers = ticks(played, 3)
    assert (numbers["step"], numbers["paused"]) == (2, True)


def test_the_horizon_and_the_speed_can_be_changed():
    played = session(horizon=500)
    assert (ticks(played, 1)["horizon"], played.fps) == (500, 15)
    played.set_horizon(3)
    played.set_fps(30)
    assert [played.tick().numbers["dream"]["ended"] for _ in range(2)] == ["", "horizon"]
    assert played.tick().numbers["fps"] == 30
    for change, name in ((played.set_horizon, "horizon"), (played.set_fps, "fps")):
        with pytest.raises(ValueError, match=f"{name} must be 1 to 1?[06]0(,?000)?, got 0"):
            change(0)
        with pytest.raises(ValueError, match=f"{name} must be"):
            change(10**6)
    assert played.tick().numbers["horizon"] == 3


def test_predictions_are_sampled_or_their_mean():
    model = Walk()
    told = []
    predict = model.predict
    model.predict = lambda state, action, generator, sample: told.append(sample) or predict(state, action)
    played = Session(Game(StoredModel(model, walk_starts(model, 3.0), None, 9)))
    assert played.tick().numbers["sample"] is True
    played.set_sample(False)
    assert played.tick().numbers["sample"] is False
    assert told == [True, False]


# The real environment


def test_a_reset_begins_both_from_one_state():
    played = session(Real)
    assert place(played) == 10.0
    played.press("ArrowRight")
    ticks(played, 4)
    assert place(played) == 14.0
    played.reset()
    numbers = ticks(played, 1)
    assert (place(played), numbers["step"], numbers["dream"]["total"], numbers["real"]["total"]) == (11, 1, 11, 7)


def test_resync_sets_the_dream_to_where_reality_is():
    played = session(Real)
    played.press("ArrowRight")
    ticks(played, 3)
    assert place(played) == 13.0
    played.resync()
    assert place(played) == 16.0
    played.release_all()
    numbers = ticks(played, 1)
    assert (numbers["since_real"], numbers["step"], numbers["real"]["total"]) == (1, 4, 28.0)
    assert numbers["dream"] == {"reward": 16.0, "total": 16.0, "ended": ""}


def test_resync_forms_the_belief_from_the_last_real_steps_and_their_actions():
    played = session(Real, context=3)
    played.press("ArrowRight")
    ticks(played, 2)
    played.press("ArrowLeft")
    ticks(played, 1)
    played.resync()
    played.release_all()
    # Reality was in 12, 14, 12: what is past are the first two, twice each, and 100 times the encoded actions between.
    assert ticks(played, 1)["dream"]["reward"] == 12.0 + 2 * (12.0 + 14.0) + 100 * (1.0 - 1.0)
    played.press("ArrowRight")
    ticks(played, 2)
    played.resync()
    played.release_all()
    assert ticks(played, 1)["dream"]["reward"] == 16.0 + 2 * (12.0 + 14.0) + 100 * (1.0 + 1.0)


def test_reality_idles_until_a_belief_can_be_formed():
    played = session(Real, context=3)
    assert played._real._env.count == 2
    assert ticks(played, 1)["real"]["total"] == 21.0  # idle steps are real ones


def test_episodes_too_short_for_a_belief_are_told():
    with pytest.raises(NoRealityError, match="no real episode lasted the 3 steps"):
        session(partial(Real, steps=1), context=3)


def test_without_reality_there_is_nothing_to_resync_to():
    played = session()
    frame = played.tick()
    assert frame.numbers["real"] is None
    assert set(frame.pictures) == {"dream"}
    with pytest.raises(ValueError, match="no real environment to resync to: it was not asked for"):
        played.resync()


def test_dictionaries_are_stacked_by_key():
    class Keyed(Real):
        def _obs(self):
            return {"place": np.full(2, self.place, np.float32)}

    env = Keyed()
    env.observation_space = spaces.Dict(place=BOX)
    real = Reality(env, None, 2)
    real.begin(lambda step: np.array([1.0], np.float32))
    recent = real.recent()
    assert recent["start"]["place"].tolist() == [[10.0, 10.0], [11.0, 11.0]]
    assert recent["action"].tolist() == [[1.0], [1.0]]


def test_both_pictures_are_drawn_alike_and_closed():
    played = session(Real)
    frame = played.tick()
    assert frame.pictures["dream"].shape == frame.pictures["real"].shape == (34 * 3 + 20, 480, 3)
    assert not np.array_equal(frame.pictures["dream"], played.tick().pictures["dream"])
    played.close()
    assert played._real._env.closed


# Ends


def test_after_an_end_the_dream_goes_on_from_reality():
    played = session(partial(Real, ends_at=90.0), horizon=2)
    played.press("ArrowRight")
    assert ticks(played, 2)["dream"]["ended"] == "horizon"
    numbers = ticks(played, HOLD - 1)
    assert (numbers["stepped"], numbers["dream"]["ended"], numbers["step"]) == (False, "horizon", 2)
    numbers = ticks(played, 1)
    assert (numbers["stepped"], numbers["dream"]["ended"], place(played)) == (False, "", 14.0)
    numbers = ticks(played, 1)
    assert (numbers["stepped"], numbers["step"], numbers["real"]["total"]) == (True, 3, 21.0)


def test_reality_that_ended_stands_still_until_the_dream_ends():
    played = session(partial(Real, ends_at=11.0), ends_at=12.0)
    played.press("ArrowRight")
    assert ticks(played, 1)["real"] == {"reward": 7.0, "total": 7.0, "ended": "terminated"}
    numbers = ticks(played, 1)
    assert numbers["real"] == {"reward": None, "total": 7.0, "ended": "terminated"}
    assert numbers["dream"]["ended"] == ""
    with pytest.raises(ValueError, match="the real episode has ended: begin a new one with reset"):
        played.resync()
    numbers = ticks(played, 1)
    assert (numbers["dream"]["ended"], numbers["termination_probability"]) == ("terminated", 1.0)
    numbers = ticks(played, HOLD)
    assert (numbers["step"], numbers["real"]["ended"], place(played)) == (0, "", 10.0)


def test_the_dream_alone_begins_anew():
    played = session(horizon=2)
    played.press("ArrowRight")
    ticks(played, 2)
    assert place(played) == 5.0
    assert ticks(played, HOLD)["step"] == 0
    assert place(played) == 3.0


def test_it_is_told_how_an_episode_ended():
    played = session(partial(Real, steps=1), horizon=9, breaks_with=float("nan"))
    played.press("ArrowRight")
    numbers = ticks(played, 1)
    assert (numbers["dream"]["ended"], numbers["real"]["ended"]) == ("the model broke down", "time limit")

    class Halting(Walk):
        def predict(self, *arguments):
            state, said = super().predict(*arguments)
            return state, said.map(lambda x: ~x if x is said.truncated else x)

    model = Halting()
    played = Session(Game(StoredModel(model, walk_starts(model, 3.0), None, 9)))
    assert played.tick().numbers["dream"]["ended"] == "halted by the model"


def test_numbers_that_json_has_not_are_left_out():
    class Odd(Real):
        def step(self, action):
            obs, _, *rest = super().step(action)
            return obs, float("inf"), *rest

    real = session(Odd).tick().numbers["real"]
    assert real == {"reward": None, "total": None, "ended": ""}


# A policy


def test_a_policy_sees_the_dream_and_keeps_its_memory():
    seen = []

    def policy(obs, memory, begins, deterministic):
        seen.append((float(obs[0]), memory, begins.tolist(), deterministic))
        return np.array([2.0], np.float32), (memory or 0) + 1

    played = session(Real, policy=policy)
    played.press("ArrowLeft")
    assert ticks(played, 1)["policy"] is False
    played.reset()
    played.set_policy(True)
    numbers = ticks(played, 2)
    assert (numbers["policy"], numbers["action"]) == (True, [2.0])
    assert seen == [(10.0, None, [True], True), (11.0, 1, [False], True)]
    played.resync()
    ticks(played, 1)
    assert seen[-1] == (14.0, None, [True], True)
    played.set_policy(False)
    assert ticks(played, 1)["action"] == [-2.0]


def test_sessions_ask_a_policy_in_turns():
    busy, overlaps = threading.Lock(), []

    def policy(obs, memory, begins, deterministic):
        overlaps.append(not busy.acquire(blocking=False))
        time.sleep(0.01)
        busy.release()
        return None, None

    game = walk(policy=policy)
    threads = [threading.Thread(target=game.act, args=(None, None, True)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == [False] * 4


def test_without_a_policy_nobody_else_plays():
    with pytest.raises(ValueError, match="there is no policy: start mbrl-gym play with --policy"):
        session().set_policy(True)


# Recordings


def test_a_recording_is_an_animation_and_the_numbers(tmp_path):
    played = session(Real, record=tmp_path / "records", fps=20)
    ticks(played, 1)
    played.record(True)
    assert played.tick().numbers["recording"] is True
    played.press("ArrowRight")
    ticks(played, 2)
    played.pause(True)
    ticks(played, 2)  # nothing that could be recorded
    played.record(False)
    assert played.tick().numbers["notices"] == ["recorded: play-0001"]
    data = np.load(tmp_path / "records" / "play-0001" / "play.npz")
    assert data["action"].tolist() == [[0.0], [2.0], [2.0]]
    assert data["dream_reward"].tolist() == [10.0, 11.0, 12.0]
    assert data["real_reward"].tolist() == [7.0, 7.0, 7.0]
    assert data["step"].tolist() == data["since_real"].tolist() == [2, 3, 4]
    assert data["uncertainty"].tolist() == [0.0, 1.0, 1.0]
    assert not any(data[name].any() for name in ("dream_ended", "real_ended", "termination_probability"))
    with Image.open(tmp_path / "records" / "play-0001" / "play.gif") as picture:
        assert (picture.n_frames, picture.info["duration"]) == (3, 50)
        assert picture.width > 2 * picture.height


def test_each_recording_has_a_folder_of_its_own(tmp_path):
    played = session(record=tmp_path)
    for number in (1, 2):
        played.record(True)
        played.record(True)  # goes on
        ticks(played, 2)
        played.record(False)
        data = np.load(tmp_path / f"play-000{number}" / "play.npz")
        assert len(data["step"]) == 2
        assert np.isnan(data["real_reward"]).all()


def test_what_is_recorded_when_a_player_leaves_is_saved(tmp_path):
    played = session(record=tmp_path)
    played.record(True)
    ticks(played, 1)
    played.close()
    assert (tmp_path / "play-0001" / "play.gif").is_file()


def test_recordings_end_by_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr("mbrl_gym.play.recorder.LONGEST", 2)
    played = session(record=tmp_path)
    played.record(True)
    numbers = ticks(played, 2)
    assert (numbers["recording"], numbers["notices"]) == (False, ["recorded: play-0001"])


def test_what_cannot_be_recorded_is_told(tmp_path):
    with pytest.raises(ValueError, match="nothing can be recorded: start mbrl-gym play with --record"):
        session().record(True)
    session().record(False)
    (tmp_path / "file").touch()
    played = session(record=tmp_path / "file")
    played.record(True)
    played.record(False)
    assert played.tick().numbers["notices"] == ["nothing was recorded"]
    played.record(True)
    ticks(played, 1)
    played.record(False)
    (notice,) = played.tick().numbers["notices"]
    assert notice.startswith("the recording could not be saved: ")


# Which keys


def test_digits_are_the_actions_that_have_no_better_keys():
    keys = make_key_map(spaces.Discrete(12, start=5))
    assert keys.action(["Digit3"], []) == 8
    assert keys.action([], []) == 5
    assert len(keys.keys) == 10
    assert keys.buttons[0].label == "action 5"
    assert keys.sliders == ()


def test_classic_control_has_arrows():
    keys = make_key_map(spaces.Discrete(2), "CartPole-v1")
    assert [keys.action([key], []) for key in ("ArrowLeft", "ArrowRight", "Digit0", "Digit1")] == [0, 1, 0, 1]
    assert [keys.action([], [], step) for step in range(3)] == [0, 1, 0]  # nobody pushes: in turns
    assert {button.label for button in keys.buttons} == {"push left", "push right"}
    for env_id in ("MountainCar-v0", "Acrobot-v1"):
        keys = make_key_map(spaces.Discrete(3), env_id)
        assert [keys.action(pressed, []) for pressed in (["ArrowLeft"], [], ["ArrowRight"])] == [0, 1, 2]


class Pad(gym.Env):
    """An environment with keys of its own."""

    action_space = spaces.Discrete(6)

    def __init__(self, keys, meanings=("NOOP", "UP", "DOWN", "FIRE", "UPFIRE", "LEFT")):
        self.get_keys_to_action = lambda: keys
        self.get_action_meanings = lambda: list(meanings)


def test_the_real_environment_says_which_keys():
    up, fire = ord("w"), " "
    pad = Pad({("e",): 0, (up,): 1, ("s",): 2, (fire,): 3, (up, fire): 4, "a": 5, (273,): 1, (): 0, ("x",): 77})
    keys = make_key_map(pad.action_space, None, pad)
    assert keys.action(["KeyW"], []) == keys.action(["ArrowUp"], []) == 1
    assert keys.action(["ArrowUp", "Space"], []) == keys.action(["Space", "KeyW"], []) == 4  # the larger combination
    assert keys.action(["Space", "ArrowDown"], []) == 2  # there is none: the latest
    assert keys.action([], []) == 0
    assert "KeyX" not in keys.keys
    assert next(button.label for button in keys.buttons if button.keys == ("ArrowLeft",)) == "left"


def test_games_without_up_and_down_take_these_arrows_as_right_and_left():
    pad = Pad({("d",): 2, ("a",): 3}, ("FIRE", "NOOP", "RIGHT", "LEFT"))
    keys = make_key_map(pad.action_space, None, pad)
    assert [keys.action([f"Arrow{side}"], []) for side in ("Up", "Down", "Right", "Left")] == [2, 3, 2, 3]
    assert keys.action([], []) == 1  # the one that is called noop


def test_an_environment_that_has_keys_only_in_another_mode_has_none():
    def refuse():
        raise AttributeError("continuous")

    pad = Pad({})
    pad.get_keys_to_action = pad.get_action_meanings = refuse
    assert make_key_map(pad.action_space, None, pad).keys == {f"Digit{i}" for i in range(6)}
    own = make_key_map(pad.action_space, None, pad, {"w": 2, "up": 2, "down": 3})
    assert [own.action([key], []) for key in ("KeyW", "ArrowUp", "ArrowDown")] == [2, 2, 3]


def test_numbers_have_pairs_of_keys_and_sliders():
    space = spaces.Box(np.array([-1, 2, -3, -4, -5], np.float32), np.array([1, 4, 3, 4, 5], np.float32))
    keys = make_key_map(space)
    action = keys.action(["ArrowLeft", "ArrowUp", "KeyD", "KeyS"], [])
    assert (action.dtype, action.tolist()) == (np.float32, [-1.0, 4.0, 3.0, -4.0, 0.0])
    assert keys.action([], [0.5, 3.0, 0.0, 0.0, -5.0]).tolist() == [0.5, 3.0, 0.0, 0.0, -5.0]
    assert [slider.rest for slider in keys.sliders] == [0.0, 2.0, 0.0, 0.0, 0.0]
    assert len(keys.combinations()) == 3**4 - 1


@pytest.mark.parametrize(
    ("space", "ends"),
    [
        (spaces.MultiDiscrete([3, 4], start=[1, 0]), ([1, 0], [3, 3])),
        (spaces.MultiBinary(2), ([0, 0], [1, 1])),
        (spaces.MultiBinary((2, 1)), ([[0], [0]], [[1], [1]])),
        (spaces.Box(-3, 3, (2,), np.int32), ([-3, -3], [3, 3])),
    ],
)
def test_whole_numbers_stay_in_their_space(space, ends):
    keys = make_key_map(space)
    low, high = keys.action(["ArrowLeft", "ArrowDown"], []), keys.action(["ArrowRight", "ArrowUp"], [])
    assert (low.tolist(), high.tolist()) == ends
    assert space.contains(low)
    assert space.contains(high)
    assert space.contains(keys.action([], []))
    assert all(slider.whole for slider in keys.sliders)


def test_whole_numbers_are_rounded_where_a_slider_is_set():
    model = Walk(BOX, spaces.MultiDiscrete([3, 4]))
    played = Session(Game(StoredModel(model, walk_starts(model, 3.0), None, 9)))
    played.slide(1, 1.7)
    assert played.tick().numbers["action"] == [0, 2]


# Real environments of stored models


def test_the_game_of_a_model_is_beside_the_real_environment(cartpole, pendulum):
    for stored in (cartpole, pendulum):
        game = Game.of(stored, "x", fps=9)
        played = Session(game)
        frame = played.tick()
        assert set(frame.pictures) == {"dream", "real"}
        assert frame.numbers["real"]["reward"] == pytest.approx(frame.numbers["dream"]["reward"], abs=0.5)
        assert game.fps == 9
        played.close()
        assert Session(Game.of(stored, "x", with_real=False)).tick().numbers["real"] is None


@pytest.mark.parametrize(
    ("real_id", "why"),
    [
        (None, "the model does not say which environment it is of"),
        ("NoSuch-v0", "NoSuch-v0 cannot be made here: "),
        ("MountainCar-v0", "MountainCar-v0 has other spaces than the model"),
    ],
)
def test_why_there_is_no_real_environment_is_told(cartpole, real_id, why):
    game = Game.of(StoredModel(cartpole.model, cartpole.starts, real_id, 9), "x")
    assert game.real is None
    assert game.no_real.startswith(why)
    assert Session(game).tick().numbers["dream"]["reward"] == pytest.approx(1.0, abs=0.2)


class Court(gym.Env):
    """The game of test_video: a ball that is pushed."""

    observation_space, action_space = SPACE, ACTIONS

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.column = 5
        return court(torch.tensor(5)).numpy(), {}

    def step(self, action):
        self.column = min(max(self.column + int(action) - 1, 0), 10)
        return court(torch.tensor(self.column)).numpy(), float(self.column == 10), False, False, {}


@pytest.fixture
def video():
    """A stored model of `Court` that has seen its colours, and learned nothing yet."""
    data = pushed(20, 7)
    torch.manual_seed(0)
    model = VideoModel(SPACE, ACTIONS, SMALL)
    model.before_fit(data)
    model.eval()
    return StoredModel(model, StartStates(data.obs[:, :4], data.action[:, :4]), None, 50)


def test_models_of_pictures_are_played(video):
    played = Session(Game(video, real=Court))
    played.press("Digit2")
    frame = played.tick()
    assert frame.pictures["real"].shape == frame.pictures["dream"].shape == (12, 12, 3)
    assert (frame.pictures["real"][6, 3, 0], frame.pictures["real"][6, 2, 0]) == (236, 50)  # 3 idle steps left, 1 right
    played.resync()
    played.pause(True)
    frame = played.tick()
    assert np.array_equal(frame.pictures["dream"], frame.pictures["real"])


def test_games_of_atari_are_shown_as_their_models_know_them(video):
    for shape in ((1, 42, 39), (3, 42, 39), (42, 39, 1)):
        space = spaces.Box(0, 255, shape, np.uint8)
        model = VideoModel(space, spaces.Discrete(6), SMALL)
        stored = StoredModel(model, video.starts, "ALE/Pong-v5", 50)
        real = make_real(stored)
        assert real.reset(seed=0)[0].shape == shape
        assert real.observation_space == space
        real.close()
    ram = StoredModel(Walk(BOX, spaces.Discrete(6)), walk_starts(Walk(), 3.0), "ALE/Pong-v5", 50)
    with pytest.raises(
        NoRealityError, match=r"ALE/Pong-v5 cannot be made here: the model reads no screens, but \(2,\)"
    ):
        make_real(ram)
    keys = Game.of(stored, "Pong").keys
    names = {button.keys: button.label for button in keys.buttons}
    assert (names[("ArrowUp",)], names[("ArrowDown",)], names[("Space",)]) == ("right", "left", "fire")
    assert keys.action(["ArrowUp", "Space"], []) == 4  # RIGHTFIRE


# A window


def test_gymnasiums_window_is_given_the_keys(monkeypatch):
    given = {}
    monkeypatch.setattr("gymnasium.utils.play.play", lambda env, **options: given.update(options, env=env))
    play_window(walk(fps=7), seed=3)
    assert (given["fps"], given["seed"], given["noop"].tolist()) == (7, 3, [0.0])
    import pygame

    assert {keys: action.tolist() for keys, action in given["keys_to_action"].items()} == {
        (pygame.K_LEFT,): [-2.0],
        (pygame.K_RIGHT,): [2.0],
    }
    assert given["env"].render_mode == "rgb_array"


def test_keys_of_a_window_have_pygames_numbers():
    game = walk()
    game.keys = make_key_map(Pad.action_space, None, Pad({("w", " "): 4}))
    assert window_keys(game)[(ord("w"), ord(" "))] == 4
    assert window_keys(game)[(ord("3"),)] == 3


def test_the_window_is_played(cartpole, monkeypatch):
    import pygame

    game, env = Game.of(cartpole, "x", with_real=False, fps=1000), None
    env = game.dream()
    step, taken = env.step, []

    def stepped(action):
        taken.append(action)
        if len(taken) == 1:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_RIGHT))
        if len(taken) == 3:
            pygame.event.post(pygame.event.Event(pygame.QUIT))
        return step(action)

    monkeypatch.setattr(env, "step", stepped)
    monkeypatch.setattr(game, "dream", lambda: env)
    play_window(game)
    assert taken == [0, 1, 1]
