"""The command mbrl-gym: help, the round trip of a run, and what users get wrong."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial

import gymnasium as gym
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from stable_baselines3 import PPO

from mbrl_gym import EnsembleConfig
from mbrl_gym.agents import MBPO, PETS, Dyna, SimPLe
from mbrl_gym.agents.pets_presets import PRESETS, PETSPreset
from mbrl_gym.agents.simple_presets import PRESETS as SIMPLE_PRESETS
from mbrl_gym.cli.errors import INTERRUPTED
from mbrl_gym.cli.logs import ContinuedCSV
from mbrl_gym.cli.main import main
from mbrl_gym.cli.real import ALGORITHMS, find_algorithm, find_policy
from mbrl_gym.cli.run_folder import fresh_folder
from mbrl_gym.cli.text import table
from mbrl_gym.envs.view import FrameStack
from mbrl_gym.fit import TrainerConfig
from mbrl_gym.models.video_config import VideoConfig
from mbrl_gym.planners import CEM, CEMConfig
from mbrl_gym.wrappers import KnownReward

SCHEDULE = {"learning_starts": 20, "train_freq": 20, "dream_steps": 512, "dream_envs": 16}
TRAIN = ["train", "dyna", "--env", "Pendulum-v1", "--seed", "3"]
for name, value in SCHEDULE.items():
    TRAIN += [f"--{name.replace('_', '-')}", str(value)]


@pytest.fixture(autouse=True)
def short_fits(monkeypatch, tmp_path):
    """Fits of ten steps, two evaluation episodes, models published in a folder of the test's own."""
    monkeypatch.setenv("MBRL_GYM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("mbrl_gym.cli.train.EPISODES", 2)
    monkeypatch.setattr("mbrl_gym.agents.dyna.TrainerConfig", partial(TrainerConfig, max_updates=10))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of 40 real steps, and what it printed; copy it to change it."""
    return tmp_path_factory.mktemp("finished") / "run"


@pytest.fixture
def run(finished, tmp_path, capsys):
    if not finished.exists():
        assert main([*TRAIN, "--steps", "40", "--out", str(finished)]) == 0
        (finished / "printed.txt").write_text(capsys.readouterr().out)
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def error_of(capsys, *arguments):
    """The message of a user's error: one line on stderr, exit code 2, and nothing of a traceback."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("mbrl-gym: error: ")
    return lines[0].removeprefix("mbrl-gym: error: ")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ["demo", "train", "record", "evaluate", "report", "play", "export", "list"]),
        (["demo"], ["--out", "--seed", "--env", "--steps", "--no-baseline", "runs/demo", "3000", "Pendulum-v1"]),
        (["train"], ["{dreamer,dyna,mbpo,model,pets,planet,simple}"]),
        (
            ["train", "dyna"],
            ["--env", "--steps", "--out", "--algorithm", "--seed", "--device", "--publish", "--resume"],
        ),
        (["train", "dyna"], ["--learning-starts", "--train-freq", "--dream-steps", "--dream-envs", "--dream-horizon"]),
        (["evaluate"], ["--episodes", "20", "--dream", "--json"]),
        (["report"], ["--out", "--policy", "--algo", "--episodes", "--horizon", "--steps", "--check", "unpickles"]),
        (["play"], ["--port", "8000", "--host", "127.0.0.1", "--no-browser", "--no-real", "--policy", "--algo"]),
        (["play"], ["--record", "--fps", "15", "--window"]),
        (["list"], ["shipped"]),
    ],
)
def test_help_is_complete(command, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for word in words:
        assert word in text


def test_help_does_not_wait_for_sb3_or_matplotlib():
    code = (
        "import sys; sys.argv = ['mbrl-gym', '--help']\n"
        "from mbrl_gym.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('stable_baselines3', 'matplotlib', 'pygame') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_a_run_explains_itself(run):
    printed = (run / "printed.txt").read_text()
    assert "40 real steps" in printed
    assert "evaluate" in printed
    assert "checkpoint=" in printed
    record = json.loads((run / "run.json").read_text())
    assert record["arguments"]["env"] == "Pendulum-v1"
    assert record["arguments"]["algorithm"] == "stable_baselines3:PPO"
    assert record["arguments"]["seed"] == 3
    assert {k: record["arguments"][k] for k in SCHEDULE} == SCHEDULE
    (session,) = record["sessions"]
    assert session["status"] == "finished"
    assert session["to_step"] == 40
    assert session["versions"]["torch"] == torch.__version__
    assert set(session) >= {"git", "platform", "command", "started", "finished"}
    assert len(record["evaluation"]["returns"]) == 2
    rows = list(csv.DictReader((run / "progress.csv").open()))
    assert [row["time/total_timesteps"] for row in rows] == ["20", "40"]
    assert [row["time/imagined_timesteps"] for row in rows] == ["512", "1024"]
    assert (run / "model.png").stat().st_size > 20_000


def test_what_a_run_leaves_works_without_the_command(run):
    env = gym.make("Learned-Pendulum-v1", checkpoint=str(run / "model"))
    obs, _ = env.reset(seed=0)
    assert env.spec is not None
    action, _ = PPO.load(run / "policy.zip").predict(obs, deterministic=True)
    again, _ = Dyna.load(run / "agent").predict(obs, deterministic=True)
    assert action == again


def test_evaluate(run, capsys):
    assert main(["evaluate", str(run), "--episodes", "2", "--dream"]) == 0
    text = capsys.readouterr().out
    assert "Pendulum-v1 (real)" in text
    assert "its learned environment" in text
    report = json.loads((run / "evaluation.json").read_text())
    assert report["real_steps_of_training"] == 40
    for part in ("real", "dream"):
        assert report[part]["lengths"] == [200, 200]
        assert report[part]["mean"] == pytest.approx(sum(report[part]["returns"]) / 2)
    assert main(["evaluate", str(run / "agent"), "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["real"] == report["real"]


def test_resuming_continues_exactly(run, capsys):
    agent = Dyna("MlpPolicy", gym.make("Pendulum-v1"), seed=3, **SCHEDULE)
    agent.learn(40)
    agent.learn(30, reset_num_timesteps=False)
    assert main(["train", "dyna", "--out", str(run), "--resume", "--steps", "70"]) == 0
    resumed = Dyna.load(run / "agent")
    assert resumed.real_steps == agent.real_steps == 70
    for name, value in agent.policy.state_dict().items():
        assert torch.equal(value, resumed.policy.state_dict()[name]), name
    for name, value in agent.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    rows = list(csv.DictReader((run / "progress.csv").open()))
    assert [row["time/total_timesteps"] for row in rows] == ["20", "40", "60"]
    sessions = json.loads((run / "run.json").read_text())["sessions"]
    assert [(s["from_step"], s["to_step"]) for s in sessions] == [(0, 40), (40, 70)]


def test_publish_then_list(tmp_path, capsys):
    assert main(["list"]) == 0
    before = capsys.readouterr().out
    assert "Learned-CliTest-v0" not in before
    out = tmp_path / "run"
    arguments = [*TRAIN, "--steps", "20", "--algorithm", "a2c", "--out", str(out)]
    assert main([*arguments, "--publish", "Learned-CliTest-v0"]) == 0
    capsys.readouterr()
    assert main(["list"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "Learned-CliTest-v0" in line]
    assert line.split()[1:4] == ["Pendulum-v1", "20", "200"]
    assert str(tmp_path / "home") in line
    assert gym.make("Learned-CliTest-v0").action_space == gym.make("Pendulum-v1").action_space


def test_list_survives_a_broken_model(run, capsys, tmp_path):
    folder = tmp_path / "home" / "models" / "Learned-Broken-v0"
    shutil.copytree(run / "model", folder)
    next(folder.glob("v*/config.json")).write_text("{}")
    assert main(["list"]) == 0
    out, err = capsys.readouterr()
    assert "unreadable" in out
    assert "Learned-Broken-v0 cannot be read" in err


def interrupt_at(monkeypatch, calls):
    """Press Ctrl-C at the given steps of the real pendulum."""
    step, count = PendulumEnv.step, iter(range(1, 10**9))

    def interrupting(self, action):
        if next(count) in calls:
            signal.raise_signal(signal.SIGINT)
        return step(self, action)

    monkeypatch.setattr(PendulumEnv, "step", interrupting)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    out, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupt_at(patch, {30})
        assert main([*TRAIN, "--steps", "60", "--out", str(out)]) == 130
    text, err = capsys.readouterr()
    assert "Stopped after 30 of 60 real steps" in text
    assert f"mbrl-gym train dyna --out {out} --resume" in text
    assert "Ctrl-C: stopping at the next real step" in err
    record = json.loads((out / "run.json").read_text())
    assert record["sessions"][0]["status"] == "interrupted"
    assert record["finished"] is None
    assert signal.getsignal(signal.SIGINT) is before
    assert main(["train", "dyna", "--out", str(out), "--resume"]) == 0
    assert Dyna.load(out / "agent").real_steps == 60


def test_a_second_ctrl_c_stops_at_once_and_saves_too(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    original = Dyna._train

    def interrupted(self):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Dyna, "_train", interrupted)
        assert main([*TRAIN, "--steps", "60", "--out", str(out)]) == 130
    assert "Stopped after 20 of 60" in capsys.readouterr().out
    assert main(["train", "dyna", "--out", str(out), "--resume"]) == 0


def test_an_agent_that_was_never_trained_is_saved_without_a_model(tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*TRAIN, "--steps", "10", "--out", str(out)]) == 0
    assert "Nothing was trained yet: that begins after 20 real steps" in capsys.readouterr().out
    assert not (out / "model").exists()
    assert main(["train", "dyna", "--out", str(out), "--resume", "--steps", "20"]) == 0
    assert (out / "model").exists()


# ---- errors of users ------------------------------------------------------------------------------------------------


def test_a_run_is_never_overwritten(run, tmp_path, capsys):
    message = error_of(capsys, *TRAIN, "--steps", 40, "--out", run)
    assert message == f"{run} holds a run already; continue it with --resume, or choose another --out"
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.jpg").touch()
    assert "is not empty; choose another --out" in error_of(capsys, *TRAIN, "--steps", 40, "--out", other)
    assert "is not empty; choose another --out" in error_of(capsys, *TRAIN, "--steps", 40, "--out", other / "a.jpg")


def test_resume_refuses_what_it_cannot_do(run, tmp_path, capsys):
    resume = ["train", "dyna", "--resume", "--out"]
    assert f"there is no folder {tmp_path / 'none'}" in error_of(capsys, *resume, tmp_path / "none")
    assert "40 of 40 real steps already; ask for more with --steps" in error_of(capsys, *resume, run)
    message = error_of(capsys, *resume, run, "--steps", 60, "--dream-envs", 8)
    assert "--dream-envs of this run is 16, not 8" in message
    message = error_of(capsys, *resume, run, "--steps", 60, "--algorithm", "sac")
    assert "--algorithm of this run is stable_baselines3:PPO, not mbrl_gym.agents.sac:LeanSAC" in message


def test_a_corrupt_checkpoint_is_named(run, capsys):
    file = next((run / "agent").glob("v*/agent.safetensors"))
    file.write_bytes(file.read_bytes()[:-10])
    assert str(file) in error_of(capsys, "evaluate", run)
    assert str(file) in error_of(capsys, "train", "dyna", "--resume", "--steps", 60, "--out", run)


def test_debug_shows_the_traceback(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path / "none"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "9"], "--env and --steps are needed"),
        (["--env", "Pendulum-v1"], "--env and --steps are needed"),
        (["--env", "Pendulum-v1", "--steps", "0"], "--steps must be at least 1 real step, got 0"),
        (["--env", "Pendulumm-v1", "--steps", "9"], "cannot make the environment 'Pendulumm-v1'"),
        (["--env", "nowhere:Pendulum-v1", "--steps", "9"], "cannot make the environment 'nowhere:Pendulum-v1'"),
        (
            ["--env", "Pendulum-v1", "--steps", "9", "--algorithm", "popo"],
            "unknown algorithm 'popo'; it is one of a2c,",
        ),
        (
            ["--env", "Pendulum-v1", "--steps", "9", "--algorithm", "nowhere:PPO"],
            "algorithm 'nowhere:PPO' cannot be imp",
        ),
        (
            ["--env", "Pendulum-v1", "--steps", "9", "--algorithm", "sb3_contrib:Foo"],
            "the module sb3_contrib has no Foo",
        ),
        (["--env", "Pendulum-v1", "--steps", "9", "--algorithm", "json:JSONDecoder"], "must be a class of Stable-Base"),
        (["--env", "Pendulum-v1", "--steps", "9", "--algorithm", "dqn"], "DQN in a model of Pendulum-v1: "),
        (["--env", "CartPole-v1", "--steps", "9", "--algorithm", "sac"], "SAC in a model of CartPole-v1: "),
        (["--env", "Pendulum-v1", "--steps", "9", "--dream-steps", "0"], "dream_steps must be at least 1, got 0"),
        (
            ["--env", "Pendulum-v1", "--steps", "9", "--publish", "Mine-v0"],
            "--publish: env_id must begin with 'Learned-'",
        ),
        (["--env", "Pendulum-v1", "--steps", "9", "--device", "abacus"], "--device abacus cannot be used"),
    ],
)
def test_wrong_requests_for_training(arguments, words, tmp_path, capsys):
    assert words in error_of(capsys, "train", "dyna", "--out", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


def test_wrong_requests_for_evaluation(run, tmp_path, capsys):
    assert "there is no folder" in error_of(capsys, "evaluate", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds no agent" in error_of(capsys, "evaluate", tmp_path / "empty")
    assert "--episodes must be at least 1, got 0" in error_of(capsys, "evaluate", run, "--episodes", 0)
    assert "was trained on other spaces" in error_of(capsys, "evaluate", run, "--env", "CartPole-v1")
    assert "cannot make the environment 'Nope-v0'" in error_of(capsys, "evaluate", run, "--env", "Nope-v0")
    shutil.rmtree(run / "model")
    assert str(run / "model") in error_of(capsys, "evaluate", run, "--episodes", 1, "--dream")
    (run / "run.json").write_text("{")
    assert "run.json cannot be read" in error_of(capsys, "evaluate", run)


# ---- pieces ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_of_the_help_is_found_with_its_policy(name):
    algorithm = find_algorithm(name)
    policy = find_policy(algorithm, gym.make("Pendulum-v1").observation_space)
    assert algorithm.__name__.lower() == {"sac": "leansac"}.get(name, name)
    assert policy == ("MlpLstmPolicy" if name == "recurrentppo" else "MlpPolicy")
    assert policy in algorithm.policy_aliases


def test_fresh_folders_count_up(tmp_path):
    root = tmp_path / "demo"
    assert fresh_folder(root).root == root
    for expected in ("demo-2", "demo-3"):
        run = fresh_folder(root) if root.exists() else fresh_folder(root / "x")
        folder = root if not root.exists() else run.root
        folder.mkdir()
        (folder / "file").touch()
        assert fresh_folder(root).root.name == expected


def test_the_log_gains_columns_and_keeps_rows(tmp_path):
    file = tmp_path / "progress.csv"
    ContinuedCSV(file).write({"a": 1, "text": "x, y", "hidden": 2}, {"hidden": ("csv",)})
    ContinuedCSV(file).write({"a": 3, "b": 4.5}, {})
    rows = list(csv.DictReader(file.open()))
    assert rows == [{"a": "1", "text": "x, y", "b": ""}, {"a": "3", "text": "", "b": "4.5"}]


def test_tables_are_aligned():
    assert table(("id", "n"), [("a", "1"), ("bbb", "1,000")], right={1}).splitlines() == [
        "id       n",
        "---  -----",
        "a        1",
        "bbb  1,000",
    ]


# ---- PETS -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QuickCEM(CEMConfig):
    """What --planner cem is in these tests."""

    candidates: int = 6
    elites: int = 2
    iterations: int = 1
    horizon: int = 2
    particles: int = 2


@pytest.fixture
def quick_pets(monkeypatch):
    """Plans of some milliseconds."""

    def preset(env_id):
        trainer = TrainerConfig(max_updates=10)
        return PETSPreset(QuickCEM(candidates=8), EnsembleConfig(members=2, hidden=(8,)), trainer, 20, 20)

    monkeypatch.setitem(PRESETS, "cpu", preset)
    monkeypatch.setattr(CEM, "config_class", QuickCEM)


PLAN = ["train", "pets", "--env", "Pendulum-v1", "--seed", "3"]


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A finished run of PETS, and what it printed; copy it to change it."""
    return tmp_path_factory.mktemp("planned") / "run"


@pytest.fixture
def pets_run(planned, quick_pets, tmp_path, capsys):
    if not planned.exists():
        assert main([*PLAN, "--planner", "cem", "--reward", "known", "--steps", "40", "--out", str(planned)]) == 0
        (planned / "printed.txt").write_text(capsys.readouterr().out)
    shutil.copytree(planned, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_of_pets_explains_itself(pets_run):
    printed = (pets_run / "printed.txt").read_text()
    assert printed.startswith("PETS(CEM) on Pendulum-v1: 40 real steps")
    assert re.search(r"20 real steps +0 imagined  model error \d\.\de[-+]\d+  \d+ ms a plan", printed)
    assert f"{20 * 8 * 4:,} imagined steps" in printed
    arguments = json.loads((pets_run / "run.json").read_text())["arguments"]
    assert arguments["agent"] == "pets"
    asked = {"preset": "cpu", "planner": "cem", "reward": "known", "termination": "learned"}
    assert {name: arguments[name] for name in asked} == asked
    assert (arguments["learning_starts"], arguments["train_freq"]) == (20, 20)
    rows = list(csv.DictReader((pets_run / "progress.csv").open()))
    assert [row["time/total_timesteps"] for row in rows] == ["20", "40"]
    assert float(rows[-1]["plan/seconds"]) > 0
    assert not (pets_run / "policy.zip").exists()
    agent = PETS.load(pets_run / "agent")
    assert type(agent.model) is KnownReward
    assert agent.planner_config == QuickCEM(candidates=8)  # of the preset's size


def test_pets_is_evaluated_in_reality_and_in_its_dream(pets_run, capsys):
    assert main(["evaluate", str(pets_run), "--episodes", "1", "--dream"]) == 0
    text = capsys.readouterr().out
    assert "Pendulum-v1 (real)" in text
    assert "its learned environment" in text
    report = json.loads((pets_run / "evaluation.json").read_text())
    assert report["dream"]["lengths"] == report["real"]["lengths"] == [200]


def test_pets_resumes_exactly_and_refuses_a_changed_option(pets_run, capsys):
    resume = ["train", "pets", "--resume", "--out", pets_run, "--steps", 60]
    for option, value, stored in (
        ("--planner", "icem", "cem"),
        ("--preset", "paper", "cpu"),
        ("--reward", "learned", "known"),
        ("--termination", "known", "learned"),
        ("--train-freq", "7", "20"),
    ):
        message = error_of(capsys, *resume, option, value)
        assert f"{option} of this run is {stored}, not {value}; leave it out, or begin another run" in message
    message = error_of(capsys, "train", "dyna", "--resume", "--out", pets_run, "--steps", 60)
    assert "--agent of this run is pets, not dyna" in message
    uninterrupted = PETS("MlpPolicy", gym.make("Pendulum-v1"), planner=QuickCEM(candidates=8), reward="known", seed=3)
    uninterrupted.learn(40)
    uninterrupted.learn(20, reset_num_timesteps=False)
    assert main([str(a) for a in (*resume, "--planner", "cem", "--reward", "known")]) == 0  # the same words are fine
    resumed = PETS.load(pets_run / "agent")
    assert resumed.real_steps == 60
    for name, value in uninterrupted.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_pets_before_its_first_training_and_of_its_preset(quick_pets, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*PLAN, "--steps", "5", "--learning-starts", "9", "--termination", "known", "--out", str(out)]) == 0
    assert "Nothing was trained yet: that begins after 9 real steps" in capsys.readouterr().out
    assert not (out / "model").exists()
    assert PETS.load(out / "agent").planner_config == QuickCEM(candidates=8)
    message = error_of(capsys, "train", "pets", "--resume", "--out", out, "--planner", "cem")
    assert "--planner of this run is the preset's, not cem" in message
    assert PETS.load(out / "agent").termination == "Pendulum-v1"
    assert json.loads((out / "run.json").read_text())["arguments"]["termination"] == "known"


def test_mbpo_trains_resumes_and_is_evaluated(tmp_path, capsys):
    out = tmp_path / "run"
    asked = ["train", "mbpo", "--env", "InvertedPendulum-v5", "--seed", "3", "--learning-starts", "20"]
    assert main([*asked, "--train-freq", "10", "--steps", "25", "--out", str(out)]) == 0
    assert json.loads((out / "run.json").read_text())["arguments"]["termination"] == "known if it is"
    assert main(["train", "mbpo", "--resume", "--steps", "35", "--out", str(out)]) == 0
    agent = MBPO.load(out / "agent")
    assert agent.num_timesteps == 35
    assert agent.termination == "InvertedPendulum-v5"
    assert main(["evaluate", str(out), "--episodes", "1"]) == 0
    assert "MBPO" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("agent", "arguments", "words"),
    [
        ("pets", ["--algorithm", "ppo"], "--algorithm is an option of dyna, not of pets; leave it out"),
        ("pets", ["--dream-envs", "4"], "--dream-envs is an option of dyna, not of pets; leave it out"),
        ("dyna", ["--planner", "cem"], "--planner is an option of pets, planet, not of dyna; leave it out"),
        ("mbpo", ["--dream-envs", "4"], "--dream-envs is an option of dyna, not of mbpo; leave it out"),
        ("mbpo", ["--preset", "gpu"], "preset must be one of ['cpu', 'paper'], got 'gpu'"),
        ("dyna", ["--algorithm", "sac", "--dream-envs", "4"], "dream_envs must be left out with LeanSAC"),
        ("pets", ["--planner", "mctx"], "--planner must be one of random_shooting, cem, icem, mppi, gradient, mcts, g"),
        ("pets", ["--preset", "gpu"], "PETS on Pendulum-v1: preset must be one of ['cpu', 'paper'], got 'gpu'"),
        ("pets", ["--reward", "Nope-v0"], "PETS on Pendulum-v1: name must be a task whose reward is known, got 'Nope-"),
        ("pets", ["--learning-starts", "0"], "learning_starts must be at least 1 step, got 0"),
    ],
)
def test_wrong_requests_for_pets(agent, arguments, words, tmp_path, capsys):
    out = tmp_path / "run"
    message = error_of(capsys, "train", agent, "--env", "Pendulum-v1", "--steps", 9, "--out", out, *arguments)
    assert words in message
    assert not out.exists()


def test_the_help_of_pets_names_its_options(capsys):
    with pytest.raises(SystemExit):
        main(["train", "pets", "--help"])
    text = capsys.readouterr().out
    for word in ("--preset", "--planner", "--reward", "--termination", "paper", "random_shooting", "icem"):
        assert word in text


# Dreamer and PlaNet


@pytest.mark.parametrize(
    ("agent", "options", "title"),
    [
        ("dreamer", ["--version", "2", "--train-ratio", "4"], "DreamerV2 on Pendulum-v1: 560 real steps"),
        (
            "planet",
            ["--planner", "random_shooting", "--train-ratio", "4"],
            "PlaNet(RandomShooting) on",
        ),
    ],
)
def test_recurrent_agents_train_evaluate_and_resume(agent, options, title, tmp_path, capsys):
    run = ["train", agent, "--env", "Pendulum-v1", "--seed", "1", *options, "--out", str(tmp_path / "run")]
    assert main([*run, "--steps", "560"]) == 0
    assert capsys.readouterr().out.startswith(title)
    arguments = json.loads((tmp_path / "run" / "run.json").read_text())["arguments"]
    assert (arguments["agent"], arguments["train_ratio"], arguments["learning_starts"]) == (agent, 4.0, 512)
    assert main(["train", agent, "--resume", "--out", str(tmp_path / "run"), "--steps", "580"]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--episodes", "1"]) == 0
    assert "Pendulum-v1 (real)" in capsys.readouterr().out


# SimPLe


def test_simple_trains_on_a_game_resumes_in_the_middle_of_a_training_and_is_evaluated(tmp_path, capsys, monkeypatch):
    cpu = SIMPLE_PRESETS["cpu"]()
    video = VideoConfig(patch=(21, 16), channels=(8, 8), blocks=1, embedding=8, codes=2, context=4)
    small = replace(
        cpu,
        screens=replace(cpu.screens, height=42, width=32, max_episode_steps=30),
        view=FrameStack(stack=2, height=36, width=36),
        model=video,
        trainer=replace(cpu.trainer, batch_size=2, length=6),
        model_updates=(4,),
        dream_steps=(32,),
        ppo={**cpu.ppo, "n_steps": 8, "batch_size": 16, "n_epochs": 1},
        part=(2, 16),
        learning_starts=20,
        train_freq=20,
        dream_envs=2,
        dream_horizon=8,
    )
    monkeypatch.setitem(SIMPLE_PRESETS, "cpu", lambda: small)
    out = tmp_path / "run"
    asked = ["train", "simple", "--out", str(out), "--device", "cpu"]
    fit, calls = SimPLe._fit, []

    def interrupted(self):
        calls.append(self._now)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return fit(self)

    monkeypatch.setattr(SimPLe, "_fit", interrupted)
    assert main([*asked, "--env", "ALE/Pong-v5", "--steps", "20", "--seed", "3"]) == INTERRUPTED
    assert capsys.readouterr().out.startswith("SimPLe(VideoModel) on ALE/Pong-v5: 20 real steps")
    assert main([*asked, "--resume"]) == 0
    assert calls == [range(0, 2), range(2, 4)]  # what was done before is not done again
    agent = SimPLe.load(out / "agent", device="cpu")
    assert (agent.real_steps, agent.trainings, agent.trainer.updates, agent.imagined_timesteps) == (20, 1, 4, 32)
    record = json.loads((out / "run.json").read_text())
    assert record["arguments"]["preset"] == "cpu"
    assert len(record["evaluation"]["returns"]) == 2
    assert main(["evaluate", str(out), "--episodes", "1", "--dream", "--device", "cpu"]) == 0
    assert "ALE/Pong-v5 (real)" in capsys.readouterr().out


def test_simple_needs_pictures(tmp_path, capsys):
    message = error_of(capsys, "train", "simple", "--env", "CartPole-v1", "--steps", 9, "--out", tmp_path / "run")
    assert "SimPLe on CartPole-v1: observation_space must be a uint8 Box" in message
