"""mbrl-gym report: the page, the files, the terminal, and what users get wrong."""

import base64
import io
import json
import re
import shutil
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image
from stable_baselines3 import PPO
from test_cli import error_of
from test_report import Toy, counter_replay
from test_video import BALL, GROUND, SMALL, court

from mbrl_gym import StoredModel, TrainerConfig, save_model
from mbrl_gym.cli.main import main
from mbrl_gym.models.video import VideoModel
from mbrl_gym.report import Noisy, ReportConfig, evaluate
from mbrl_gym.report.panels import figures, picture_figure
from worlds import real_steps

SHORT = ["--episodes", "2", "--steps", "60", "--horizon", "5"]


@pytest.fixture(autouse=True)
def little(monkeypatch):
    """Little is measured."""
    small = partial(ReportConfig, windows=200, segments=20, particles=4, films=4)
    monkeypatch.setattr("mbrl_gym.cli.report.ReportConfig", small)
    monkeypatch.setattr("mbrl_gym.cli.train.EPISODES", 1)
    monkeypatch.setattr("mbrl_gym.agents.dyna.TrainerConfig", partial(TrainerConfig, max_updates=50))


@pytest.fixture
def undrawn(monkeypatch):
    """Figures take most of the time."""
    monkeypatch.setattr("mbrl_gym.report.page.figures", lambda report: [])


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, pendulum):
    folder = tmp_path_factory.mktemp("models") / "Learned-Pendulum-v1"
    save_model(folder, pendulum)
    return folder


@pytest.fixture(scope="module")
def reported(model_folder, tmp_path_factory):
    """The report of a stored model with a policy: its folder."""
    folder = tmp_path_factory.mktemp("reported")
    PPO("MlpPolicy", "Pendulum-v1", seed=0).save(folder / "ppo.zip")
    arguments = ["report", str(model_folder), "--out", str(folder / "out"), "--policy", str(folder / "ppo.zip")]
    assert main([*arguments, *SHORT]) == 0
    return folder


FIGURES = {
    *(f"{i}_{name}.png" for i in (0, 1) for name in ("open_loop", "uncertainty", "reward")),
    "calibration.png",
    "exploitation.png",
    "ranking.png",
}


def test_all_files_are_there(reported):
    names = {file.name for file in (reported / "out").iterdir()}
    assert names == FIGURES | {"report.html", "report.json"}
    for name in FIGURES:
        with Image.open(reported / "out" / name) as image:
            assert image.width > 500
            assert np.asarray(image.convert("L")).std() > 5


def test_the_page_needs_nothing_else(reported):
    page = (reported / "out" / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == len(FIGURES)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in page
    assert "<script" not in page
    image = Image.open(io.BytesIO(base64.b64decode(sources[0].partition(",")[2])))
    assert image.format == "PNG"
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert "max-width: 100%" in page  # on a phone
    for words in ("Verdicts", "Matched episodes", "Kendall", "Uncertainty against error", "parameters: "):
        assert words in page


def test_the_json_holds_every_number(reported):
    report = json.loads((reported / "out" / "report.json").read_text())
    assert [data["name"] for data in report["data"]] == ["random actions", "policy"]
    data = report["data"][0]
    assert len(data["open_loop"]["error"]) == 5
    assert len(data["calibration"]["levels"]) == 4
    assert [sampled["k"] for sampled in data["sampled"]] == [1, 10]
    assert set(report["exploitation"]) >= {"real", "dream", "gap", "standard_error", "alarm", "missing"}
    assert len(report["ranking"]["names"]) == 4
    assert {verdict["level"] for verdict in report["verdicts"]} <= {"pass", "warn", "fail"}


def test_the_terminal_has_the_numbers_and_the_verdicts(model_folder, tmp_path, capsys, undrawn):
    assert main(["report", str(model_folder), "--out", str(tmp_path / "out"), *SHORT]) == 0
    text = capsys.readouterr().out
    assert "... 2 real episodes of random actions" in text
    for words in ("Learned-Pendulum-v1: a model of Pendulum-v1", "one-step prediction", "ranking: not available"):
        assert words in text
    assert f"Written: {tmp_path / 'out' / 'report.html'}" in text
    assert max(map(len, text.splitlines())) < 200


def test_a_shipped_model_is_found_by_its_id(tmp_path, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "Learned-CartPole-v1", *SHORT, "--check"]) in (0, 1)
    report = json.loads((tmp_path / "Learned-CartPole-v1-report" / "report.json").read_text())
    assert report["data"][0]["termination"]["ends"] == 2
    assert report["facts"]["real steps"] > 0


def test_check_says_by_the_exit_code_whether_a_rule_fails(model_folder, pendulum, tmp_path, undrawn):
    arguments = ["--out", str(tmp_path / "out"), *SHORT]
    model = pendulum.model.twin()  # untrained
    save_model(tmp_path / "bad", StoredModel(model, pendulum.starts, "Pendulum-v1", 200))
    assert main(["report", str(model_folder), *arguments, "--check"]) == 0
    assert main(["report", str(tmp_path / "bad"), *arguments, "--check"]) == 1
    assert main(["report", str(tmp_path / "bad"), *arguments]) == 0


def test_options_have_an_effect(model_folder, tmp_path, undrawn):
    found = {}
    changes = {"": [], "episodes": ["--episodes", "3"], "steps": ["--steps", "40"], "seed": ["--seed", "5"]}
    for name, change in changes.items():
        out = tmp_path / f"out{name}"
        assert main(["report", str(model_folder), "--out", str(out), *SHORT, *change]) == 0
        found[name] = json.loads((out / "report.json").read_text())
    assert [f["data"][0]["transitions"] for f in found.values()] == [120, 180, 80, 120]
    assert found["seed"]["exploitation"]["real"] != found[""]["exploitation"]["real"]


# ---- runs -----------------------------------------------------------------------------------------------------------


def test_a_run_is_judged_by_its_own_policy_and_replay(tmp_path, capsys, undrawn):
    run = tmp_path / "run"
    train = ["train", "dyna", "--env", "Pendulum-v1", "--steps", "250", "--learning-starts", "250", "--seed", "3"]
    assert main([*train, "--dream-steps", "512", "--dream-envs", "16", "--out", str(run)]) == 0
    assert main(["report", str(run), *SHORT]) == 0
    report = json.loads((run / "report" / "report.json").read_text())
    assert [data["name"] for data in report["data"]] == ["recorded data", "policy"]
    assert [data["transitions"] for data in report["data"]] == [250, 120]
    assert report["facts"] | {"agent": "dyna", "real steps": 250, "seed": 3} == report["facts"]
    assert (run / "report" / "report.html").is_file()
    shutil.rmtree(run / "agent")
    assert "holds no agent" in error_of(capsys, "report", run)


def test_a_recurrent_run_says_how_its_latent_is(tmp_path):
    run = tmp_path / "run"
    train = ["train", "dreamer", "--env", "CartPole-v1", "--steps", "120", "--learning-starts", "110", "--seed", "3"]
    assert main([*train, "--train-ratio", "16", "--out", str(run)]) == 0
    assert main(["report", str(run), *SHORT]) == 0
    report = json.loads((run / "report" / "report.json").read_text())
    data = report["data"][0]
    assert data["latent"]["units"] > 0
    assert data["sampled"][0]["k"] == 1
    assert "has no densities" in data["missing"]["calibration"]
    assert "uncertainty" in data["missing"]
    assert (run / "report" / "0_latent.png").is_file()


# ---- pictures -------------------------------------------------------------------------------------------------------


class Court(gym.Env):
    """A ball that actions 0, 1, 2 push left, nowhere, right; episodes of 20 steps."""

    observation_space, action_space = spaces.Box(0, 255, (12, 12), np.uint8), spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.column, self.left = int(self.np_random.integers(11)), 20
        return self._show(), {}

    def step(self, action):
        self.column, self.left = int(np.clip(self.column + action - 1, 0, 10)), self.left - 1
        return self._show(), float(self.column == 10), False, self.left == 0, {}

    def _show(self):
        return court(torch.tensor(self.column)).numpy()


def place(screens):
    """Where the ball is."""
    spots = [np.argwhere(screen == BALL) for screen in screens]
    return np.array([spot.mean(0) if len(spot) else (np.nan, np.nan) for spot in spots])


def test_a_model_of_pictures_is_judged_by_what_it_draws(home, tmp_path):
    gym.register("Court-v0", entry_point=Court)
    torch.manual_seed(0)
    model = VideoModel(Court.observation_space, Court.action_space, SMALL)
    replay = real_steps(Court(), 200)
    model.before_fit(replay.gather(replay.windows(6), 6))
    folder = tmp_path / "court"
    save_model(folder, StoredModel(model, replay.starts(model.context), "Court-v0", 20))
    assert main(["report", str(folder), "--out", str(tmp_path / "out"), *SHORT, "--episodes", "3"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    images = report["data"][0]["images"]
    assert len(images["psnr"]) == len(images["ssim"]) == 5
    assert report["data"][0]["open_loop"] is None
    assert "pictures" in report["data"][0]["missing"]["open_loop"]
    assert (tmp_path / "out" / "0_pictures.png").is_file()
    assert GROUND != BALL
    found = evaluate(model, replay, objects={"ball": place}, config=ReportConfig(horizon=3))
    assert len(found.data[0].images.recall["ball"]) == 3
    labels = [axes.get_ylabel() for axes in picture_figure(found.data[0].images, "x").axes]
    assert "share of objects found" in labels


# ---- figures and errors ---------------------------------------------------------------------------------------------


def test_figures_change_nothing_global():
    import matplotlib

    before = dict(matplotlib.rcParams)
    report = evaluate(Toy(bias=0.1, noise=0.1), counter_replay(), config=ReportConfig(horizon=3))
    drawn = {name: figure for name, _, figure in figures(report)}
    assert set(drawn) == {"0_open_loop", "0_reward", "calibration"}
    assert dict(matplotlib.rcParams) == before
    for figure in drawn.values():
        assert all(axes.get_xlabel() or not axes.lines for axes in figure.axes[-1:])


def test_without_matplotlib_the_remedy_is_named(monkeypatch, model_folder, tmp_path, capsys):
    monkeypatch.setattr("mbrl_gym.report.page.importlib.util.find_spec", lambda name: None)
    report = evaluate(Toy(), counter_replay(), config=ReportConfig(horizon=3))
    with pytest.raises(ImportError, match=r"install it: pip install 'mbrl-gym\[viz\]'"):
        report.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert main(["report", str(model_folder), "--out", str(tmp_path / "out"), *SHORT]) == 2
    assert "cannot write the report: matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "there is no folder nowhere, and ids begin with Learned-"),
        (["Learned-Nothing-v0"], "no model of 'Learned-Nothing-v0' is shipped or published"),
        (["{}", "--episodes", "1"], "episodes must be at least 2, got 1"),
        (["{}", "--horizon", "0"], "horizon must be at least 1, got 0"),
        (["{}", "--env", "Nope-v0"], "cannot make the environment 'Nope-v0'"),
        (["{}", "--env", "CartPole-v1"], "env must have the model's spaces"),
        (["{}", "--policy", "none.zip"], "there is no file none.zip; check --policy"),
        (["{}", "--device", "abacus"], "--device abacus cannot be used"),
    ],
)
def test_wrong_requests(model_folder, arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in error_of(capsys, "report", *(model_folder if a == "{}" else a for a in arguments))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    assert "holds neither a run (run.json) nor a model" in error_of(capsys, "report", tmp_path)


def test_a_policy_has_to_fit(model_folder, reported, tmp_path, capsys):
    wrong = tmp_path / "wrong.zip"
    wrong.write_text("no zip")
    assert "is no policy of PPO: " in error_of(capsys, "report", model_folder, "--policy", wrong)
    message = error_of(capsys, "report", model_folder, "--policy", reported / "ppo.zip", "--algo", "popo")
    assert "unknown algorithm 'popo'" in message
    PPO("MlpPolicy", "CartPole-v1", seed=0).save(wrong)
    assert "has other actions than the model" in error_of(capsys, "report", model_folder, "--policy", wrong)
    PPO("MlpPolicy", "MountainCarContinuous-v0", seed=0).save(wrong)
    assert "has other actions than the model" in error_of(capsys, "report", model_folder, "--policy", wrong)


def test_random_actions_need_no_policy():
    assert Noisy(None, Court.action_space)(None, None, None, True)[0] in (0, 1, 2)
