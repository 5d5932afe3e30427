"""What is known of Pong's screen, and the measures of how true a model of it is."""

import numpy as np
import pytest
import torch

from mbrl_gym.models.video import VideoModel
from mbrl_gym.models.video_config import VideoConfig
from mbrl_gym.zoo import pong
from mbrl_gym.zoo.pong_fidelity import fidelity, play_real


@pytest.fixture(scope="module")
def replay() -> "pong.SequenceReplay":
    """Some hundred real steps."""
    return pong.collect(400, seed=0)


def screens(replay: "pong.SequenceReplay") -> np.ndarray:
    """Return all screens in order [N, 210, 160]."""
    return replay.gather(replay.windows(1), 1).obs[:, 0, 0].numpy()  # type: ignore[index]


def test_ball_and_paddle_are_found_and_move_as_such_things_do(replay: "pong.SequenceReplay") -> None:
    found = screens(replay)
    ball, paddle = pong.ball(found), pong.paddle(found)
    assert 0.4 < np.isfinite(ball[:, 0]).mean() < 0.95
    assert np.isfinite(paddle).mean() > 0.9
    jump = np.abs(np.diff(ball, axis=0)).max(1)
    assert np.nanmedian(jump) <= 8
    assert np.isnan(pong.ball(np.full((1, 210, 160), 87, np.uint8))).all()


def test_who_follows_the_ball_moves_towards_it() -> None:
    screen = np.full((3, 210, 160), 87, np.uint8)
    screen[:, 100:116, 140:144] = pong.PADDLE
    for i, row in enumerate((60, 106, 160)):
        screen[i, row : row + 4, 70:72] = pong.BALL
    assert pong.follow(screen).tolist() == [pong.UP, pong.STAY, pong.DOWN]
    assert pong.follow(np.full((1, 210, 160), 87, np.uint8)).tolist() == [pong.STAY]


@pytest.mark.parametrize(("skill", "least"), [(0.0, 0.0), (0.9, 0.6)])
def test_recorded_players_follow_the_ball_as_often_as_they_are_skilled(skill: float, least: float) -> None:
    screen = np.full((1, 210, 160), 87, np.uint8)
    screen[0, 60:64, 80:82], screen[0, 120:136, 140:144] = pong.BALL, pong.PADDLE
    follows = []
    for seed in range(30):
        player = pong.Mixed(np.random.default_rng(seed), skill)
        follows.append(np.mean([player(screen)[0] == pong.UP for _ in range(100)]))
    assert least <= min(follows) < least + 0.3
    assert (np.mean(follows) > 0.8) == (skill > 0)


def test_a_sweep_goes_up_and_down() -> None:
    sweep, screens = pong.Sweep(), np.full((2, 210, 160), 87, np.uint8)
    moves = np.array([sweep(screens) for _ in range(75)])
    assert moves.shape == (75, 2)
    assert (moves[:30] == pong.UP).all()
    assert (moves[30:60] == pong.DOWN).all()
    assert (moves[60:] == pong.UP).all()


def test_following_the_ball_loses_less_than_doing_nothing() -> None:
    assert play_real(pong.follow, 1500, 0).reward_rate > play_real(pong.still, 1500, 0).reward_rate


def test_the_same_seed_collects_the_same(replay: "pong.SequenceReplay") -> None:
    assert np.array_equal(screens(replay), screens(pong.collect(400, seed=0)))
    assert len(replay.windows(1)) == 401


def test_a_model_that_knows_only_the_background_draws_no_ball(replay: "pong.SequenceReplay") -> None:
    torch.manual_seed(0)
    config = VideoConfig(colours=5, patch=(10, 8), channels=(8, 8), blocks=1, embedding=8, codes=2, context=4)
    model = VideoModel(replay.observation_space, replay.action_space, config)
    model.before_fit(replay.gather(replay.windows(1), 1))
    model.networks.moves.heads[0].bias.data[-1] = 1000.0  # whatever moves goes
    starts = replay.starts(4, most=8, rng=np.random.default_rng(0))
    table = fidelity(model, starts, replay, steps=20, games=2, samples=64)
    assert table["one_step"]["recall"] == 0.0
    assert table["one_step"]["false_balls"] == 0.0
    assert 0 < table["one_step"]["wrong_pixels"] < 2000
    assert table["alive"]["1"]["dream"] == 0.0
    assert table["alive"]["1"]["real"] > 0.3
    for row in table["played"].values():
        assert row["dream"]["longest_absence"] == 20
        assert row["dream"]["longest_standstill"] >= 18
        assert row["real"]["longest_without_paddle"] <= 1
        assert row["real"]["longest_standstill"] < 20
