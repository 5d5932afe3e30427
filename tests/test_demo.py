"""The demo, with a tiny budget: what it prints and what it leaves."""

import csv
import json

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image
from stable_baselines3 import PPO

from mbrl_gym.agents import Dyna
from mbrl_gym.cli.main import main


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_demo_leaves_what_it_says(in_folder, capsys):
    assert main(["demo", "--quick", "--steps", "90"]) == 0
    text = capsys.readouterr().out
    for words in ("random actions", "PPO in reality", "Dyna: PPO in the model of Pendulum-v1", "Next:"):
        assert words in text
    lines = text.splitlines()
    for steps, imagined in ((30, "512"), (60, "1,024"), (90, "1,536")):
        (line,) = [line for line in lines if line.split()[:2] == [str(steps), imagined]]
        assert "±" in line

    run = in_folder / "runs" / "demo"
    names = {"run.json", "agent", "model", "policy.zip", "progress.csv", "model.png", "dream.webp"}
    assert names <= {path.name for path in run.iterdir()}
    for name in names:
        assert f"  {name} " in text
    record = json.loads((run / "run.json").read_text())
    assert record["finished"]
    assert {name.split(":")[0]: r["real_steps"] for name, r in record["results"].items()} == {
        "random actions": 0,
        "PPO in reality (Stable-Baselines3)": 128,
        "Dyna": 90,
    }
    rows = [row for row in csv.DictReader((run / "progress.csv").open()) if row["eval/mean_reward"]]
    assert [row["time/total_timesteps"] for row in rows] == ["30", "60", "90"]
    with Image.open(run / "dream.webp") as animation:
        assert animation.n_frames == 12
    assert np.asarray(Image.open(run / "model.png")).std() > 10
    env = gym.make("Learned-Pendulum-v1", checkpoint=str(run / "model"))
    PPO.load(run / "policy.zip").predict(env.reset(seed=0)[0])
    assert Dyna.load(run / "agent").real_steps == 90

    before = (run / "run.json").read_bytes()
    assert main(["demo", "--quick", "--steps", "30", "--no-baseline"]) == 0
    text = capsys.readouterr().out
    assert "run folder: runs/demo-2" in text
    assert "PPO in reality" not in text
    assert (run / "run.json").read_bytes() == before
    assert (in_folder / "runs" / "demo-2" / "dream.webp").exists()


def test_the_demo_works_for_discrete_actions_and_episodes_that_terminate(in_folder, capsys):
    assert main(["demo", "--quick", "--steps", "60", "--no-baseline", "--env", "CartPole-v1", "--out", "x"]) == 0
    text = capsys.readouterr().out
    assert "Dyna: PPO in the model of CartPole-v1" in text
    assert 'gym.make("Learned-CartPole-v1", checkpoint="x/model")' in text


def test_wrong_requests(in_folder, capsys):
    assert main(["demo", "--steps", "2"]) == 2
    assert main(["demo", "--env", "Nope-v1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "--steps must be at least 3 real steps, got 2" in err
    assert "cannot make the environment 'Nope-v1'" in err
    assert not (in_folder / "runs").exists()
