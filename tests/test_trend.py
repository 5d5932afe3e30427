"""Several checkpoints of a run: how the dream ranks them, and how its gap to reality went."""

import json
import shutil
from dataclasses import replace
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import CheckpointCallback
from test_cli import error_of

from mbrl_gym import save_model
from mbrl_gym.cli.errors import UserError
from mbrl_gym.cli.main import main
from mbrl_gym.cli.report import _checkpoints_in
from mbrl_gym.report import ReportConfig, check_model, evaluate
from mbrl_gym.report.matched import Matched
from mbrl_gym.report.panels import trend_figure
from mbrl_gym.report.trend import gap_trend

LITTLE = ReportConfig(horizon=3, windows=20, segments=5, particles=2, episodes=2, episode_steps=20)


def pairs(real, dream):
    real, dream = np.array(real, float), np.array(dream, float)
    return Matched(real, dream, np.ones(len(real), int), np.ones(len(real), int), 0)


@pytest.mark.parametrize(
    ("last", "alarm"),
    [
        (([1, 2, 3], [21, 22, 23]), True),
        (([11, 12, 13], [21, 22, 23]), False),  # reality rose, too
        (([1, 2, 3], [9, 10, 11]), False),  # the dream fell, too
        (([0, 6, 12], [0, 20, 40]), False),  # of so few episodes it may be chance
        (([1], [30]), False),  # of one pair nothing can be said
    ],
)
def test_the_alarm_is_that_the_dream_rises_and_reality_falls(last, alarm):
    trend = gap_trend({"old": pairs([9, 10, 11], [11, 12, 13]), "mid": pairs([8, 9], [12, 15]), "new": pairs(*last)})
    assert trend.names == ("old", "mid", "new")
    assert trend.alarm is alarm
    assert trend.gap.tolist() == [2, 5, np.mean(last[1]) - np.mean(last[0])]
    assert trend.growth == trend.gap[-1] - 2
    assert trend.standard_errors[0] == 0
    assert trend.tau == (1 if trend.gap[-1] > 5 else pytest.approx(1 / 3))


def test_a_trend_needs_two():
    with pytest.raises(ValueError, match="at least 2 checkpoints for a trend, got 1; add older ones"):
        gap_trend({"only": pairs([1, 2], [1, 2])})


def torque(push):
    """Always the same push."""
    return lambda obs, memory, *_: (np.full((*np.shape(obs)[:-1], 1), push, np.float32), memory)


@pytest.fixture(scope="module")
def planted(pendulum):
    """A report of three checkpoints, of which the dream likes the one best that pushes the most."""
    checkpoints = {"a": torque(0.0), "b": torque(1.0), "c": torque(2.0)}
    return evaluate(pendulum.model, "Pendulum-v1", checkpoints["c"], checkpoints=checkpoints, config=LITTLE)


def test_checkpoints_are_ranked_and_have_a_trend(planted):
    assert planted.ranking.names == planted.trend.names == ("a", "b", "c")
    np.testing.assert_array_equal(planted.trend.gap, planted.ranking.dream - planted.ranking.real)
    assert planted.to_json()["trend"]["names"] == ["a", "b", "c"]
    assert "The gap over the checkpoints" in str(planted)
    alarm = replace(planted, trend=replace(planted.trend, alarm=True, growth=3.0))
    for report, level in ((alarm, "fail"), (replace(planted, trend=replace(planted.trend, alarm=False)), "pass")):
        (verdict,) = (v for v in check_model(report) if v.rule == "trend of the gap")
        assert (verdict.level, bool(verdict.remedy)) == (level, level == "fail")
    left, right = trend_figure(alarm.trend).axes
    assert [text.get_text() for text in left.get_xticklabels()] == ["a", "b", "c"]
    assert "ALARM" in right.get_title()


def test_either_policies_or_checkpoints(pendulum):
    with pytest.raises(ValueError, match="policies must be left out with checkpoints"):
        evaluate(pendulum.model, "Pendulum-v1", policies={}, checkpoints={})


def test_the_command_line_takes_checkpoints(pendulum, tmp_path, monkeypatch, capsys):
    small = partial(ReportConfig, windows=20, segments=5, particles=2)
    monkeypatch.setattr("mbrl_gym.cli.report.ReportConfig", small)
    monkeypatch.setattr("mbrl_gym.report.page.figures", lambda report: [])
    monkeypatch.chdir(tmp_path)
    save_model("model", pendulum)
    for seed in range(3):
        PPO("MlpPolicy", gym.make("Pendulum-v1"), seed=seed).save(f"{seed}.zip")
    short = ["--episodes", "2", "--steps", "10", "--horizon", "3", "--out", "out"]
    assert main(["report", "model", "--checkpoints", "0.zip", "2.zip", "1.zip", *short]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["trend"]["names"] == report["ranking"]["names"] == ["0.zip", "2.zip", "1.zip"]
    newest = report["exploitation"]
    assert newest["real"] == pytest.approx(report["trend"]["real"][-1])  # the last one is the policy of the report
    (tmp_path / "saved").mkdir()
    for steps in (10, 9):
        shutil.copy("0.zip", f"saved/ppo_{steps}_steps.zip")
    assert main(["report", "model", "--checkpoints", "saved", *short]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["trend"]["names"] == ["saved/ppo_9_steps.zip", "saved/ppo_10_steps.zip"]
    message = error_of(capsys, "report", "model", "--checkpoints", "0.zip", "none.zip", *short)
    assert "there is no file none.zip; check --checkpoints" in message


def test_the_folder_of_a_checkpoint_callback_is_its_policies_by_steps(tmp_path):
    saved = CheckpointCallback(3, str(tmp_path), name_prefix="pen_2", save_replay_buffer=True)
    SAC("MlpPolicy", "Pendulum-v1", seed=0, learning_starts=100).learn(12, saved)
    (tmp_path / "other.zip").touch()
    assert [file.name for file in _checkpoints_in(tmp_path)] == [f"pen_2_{n}_steps.zip" for n in (3, 6, 9, 12)]
    single = tmp_path / "other.zip"
    assert _checkpoints_in(single) == [single]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no \*_STEPS_steps.zip of SB3's CheckpointCallback; check"):
        _checkpoints_in(tmp_path / "empty")
