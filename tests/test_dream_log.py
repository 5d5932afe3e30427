"""Films of dreams and the report's figures in TensorBoard: what is written, when, and that the run stays the same."""

import csv
import io
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mbrl_gym import EnsembleConfig, SequenceReplay, TrainerConfig
from mbrl_gym.agents import BehaviorConfig, Dreamer, Dyna
from mbrl_gym.cli.main import main
from mbrl_gym.models.rssm_config import RSSMConfig
from mbrl_gym.report import DreamLog, ReportConfig, drawn_film
from worlds import Walk, real_steps

LITTLE = ReportConfig(horizon=4, ahead=2, windows=20, segments=5, particles=2, films=2)


class Blink(gym.Env[Any, Any]):
    """A grey picture that flashes; episodes of 12 steps."""

    observation_space = spaces.Box(0, 255, (16, 20, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps = 0
        return self._picture(0), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self._picture(int(action)), float(action), False, self.steps == 12, {}

    def _picture(self, light: int) -> Any:
        return np.full((16, 20, 3), 50 + 150 * light, np.uint8)


def dyna(**change: Any) -> Dyna:
    return Dyna(
        "MlpPolicy", "CartPole-v1", model_config=EnsembleConfig(members=2, hidden=(8,)), learning_starts=40,
        trainer_config=TrainerConfig(max_updates=5), train_freq=20, dream_steps=64, dream_envs=2, dream_horizon=8,
        algorithm_kwargs={"n_steps": 16, "batch_size": 16}, seed=0, device="cpu", **change,
    )  # fmt: skip


def dreamer(**change: Any) -> Dreamer:
    return Dreamer(
        "CnnPolicy", Blink(), model_config=RSSMConfig(deter=16, hidden=8, stoch=4, classes=4, units=16, layers=1),
        behavior_config=BehaviorConfig(horizon=3, units=16), batch_size=2, batch_length=4, train_ratio=0.5,
        learning_starts=30, log_freq=20, seed=0, device="cpu", **change,
    )  # fmt: skip


def written(folder: Path) -> dict[str, list[tuple[int, Image.Image]]]:
    """Return the images of an event file by name: their steps and pictures."""
    (run,) = folder.iterdir()
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    images = {name: events.Images(name) for name in events.Tags()["images"]}
    return {k: [(i.step, Image.open(io.BytesIO(i.encoded_image_string))) for i in found] for k, found in images.items()}


def test_a_film_and_figures_come_at_every_interval(tmp_path: Path) -> None:
    dyna(tensorboard_log=str(tmp_path)).learn(75, DreamLog(30, LITTLE))
    found = written(tmp_path)
    assert {"report/film", "report/open_loop", "report/uncertainty", "report/calibration"} <= {*found}
    for images in found.values():
        assert [step for step, _ in images] == [41, 71]  # nothing was learned at 30
    film = found["report/film"][-1][1]
    assert film.format == "GIF"
    assert film.n_frames == 1 + LITTLE.horizon  # type: ignore[attr-defined]
    assert film.info["duration"] == 100
    assert film.width == 2 * 200  # two drawn windows side by side
    assert found["report/open_loop"][0][1].format == "PNG"


def test_a_model_that_sees_shows_its_pictures(tmp_path: Path) -> None:
    options = {"windows": 1, "fps": 5, "with_figures": False}
    dreamer(tensorboard_log=str(tmp_path)).learn(50, DreamLog(40, LITTLE, **options))
    found = written(tmp_path)
    assert {name for name in found if name.startswith("report/")} == {"report/film"}
    film = found["report/film"][0][1]
    assert film.size == (20, 3 * 16)
    assert film.info["duration"] == 200


def test_other_outputs_get_nothing_and_the_run_stays_the_same(tmp_path: Path, monkeypatch: Any) -> None:
    """Not even a model that drew from the global generators would change it."""

    def drawing(*arguments: Any) -> Any:
        torch.rand(3), np.random.rand(3)
        return drawn_film(*arguments)

    monkeypatch.setattr("mbrl_gym.report.dream_log.drawn_film", drawing)
    agents = []
    for name, callback in (("with", DreamLog(25, LITTLE, with_figures=False)), ("without", None)):
        agent = dyna()
        agent.set_logger(configure(str(tmp_path / name), ["stdout", "csv", "json", "tensorboard"]))
        agents.append(agent.learn(80, callback))
    rows = [csv.DictReader((tmp_path / name / "progress.csv").open()) for name in ("with", "without")]
    steps = [[row["time/total_timesteps"] for row in found] for found in rows]
    assert steps[0] == steps[1]
    assert rows[0].fieldnames == rows[1].fieldnames
    pairs = zip(*(agent.policy.state_dict().values() for agent in agents), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_what_cannot_be_logged() -> None:
    for name in ("every", "windows", "fps"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            DreamLog(**{name: 0})
    with pytest.raises(ValueError, match="log must have TensorBoard, got none; make the agent with tensorboard_log"):
        dyna().learn(10, DreamLog())
    with pytest.raises(TypeError, match="must learn a model, got PPO"):
        PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).learn(10, DreamLog())


def test_figures_need_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    DreamLog(with_figures=False)
    with pytest.raises(ImportError, match="matplotlib draws the figures"):
        DreamLog()


def test_nothing_is_written_until_an_episode_is_long_enough(tmp_path: Path) -> None:
    log = DreamLog(1000, LITTLE)
    agent = dyna(tensorboard_log=str(tmp_path)).learn(45, log)
    agent.replay = SequenceReplay(agent.observation_space, agent.action_space, 10)
    log._write(agent)
    assert not any(name.startswith("report/") for name in written(tmp_path))


def test_vectors_are_drawn_as_the_environment_draws_them() -> None:
    """The rows that are seen are reality's; a wrong prediction shows in the difference."""
    replay = real_steps("Pendulum-v1", 30)
    model = Walk(replay.observation_space, replay.action_space)
    film = drawn_film(model, replay.gather(replay.windows(8)[:2], 8), 3, "Pendulum-v1")
    assert film.shape == (8, 3 * 200, 2 * 200, 3)
    truth, said, error = np.split(film, 3, axis=1)
    assert np.array_equal(truth[:3], said[:3])
    assert (error[:3] == 127).all()
    assert (error[-1] != 127).any()
    chart = drawn_film(model, replay.gather(replay.windows(8)[:1], 8), 3)
    assert chart.shape[2] == 200  # a strip chart, which is as wide
    assert not np.array_equal(chart[:, : chart.shape[1] // 3], truth[:, :, :200][:, : chart.shape[1] // 3])


def test_the_command_line_asks_for_it(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Noted(DreamLog):
        def __init__(self, every: int) -> None:
            super().__init__(every, LITTLE, with_figures=False)
            asked.append(every)

    monkeypatch.setattr("mbrl_gym.cli.train.DreamLog", Noted)
    monkeypatch.setattr("mbrl_gym.cli.train.EPISODES", 1)
    schedule = ["--learning-starts", "40", "--train-freq", "20", "--dream-steps", "64", "--dream-envs", "2"]
    command = ["train", "dyna", "--env", "CartPole-v1", "--steps", "60", *schedule]
    assert main([*command, "--out", str(tmp_path / "run"), "--dream-log", "30"]) == 0
    assert asked == [30]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert "report/film" in events.Tags()["images"]
    assert main([*command, "--out", str(tmp_path / "other"), "--dream-log", "0"]) == 2
    assert "--dream-log: every must be at least 1, got 0" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
