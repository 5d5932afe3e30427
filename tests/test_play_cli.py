"""`mbrl-gym play`: what it serves, how it ends, and what users get wrong."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from test_cli import error_of
from test_play_server import Client, page

from mbrl_gym import zoo
from mbrl_gym.cli import play
from mbrl_gym.cli.main import main

CARTPOLE = "Learned-CartPole-v1"


@pytest.fixture
def served(monkeypatch):
    """What would be served: the game and the command's arguments."""
    found = {}
    monkeypatch.setattr(play, "_serve", lambda game, args: found.update(game=game, args=args))
    return found


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """An untrained policy for CartPole, as SB3 stores it."""
    path = tmp_path_factory.mktemp("policy") / "ppo.zip"
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, seed=0).save(path)
    return path


def test_an_id_is_played_beside_the_real_environment(served, tmp_path):
    torch.set_num_threads(2)
    assert main(["play", CARTPOLE, "--fps", "7", "--record", str(tmp_path)]) == 0
    assert torch.get_num_threads() == 1
    game = served["game"]
    assert (game.name, game.fps, game.record) == (CARTPOLE, 7, tmp_path)
    assert game.stored.real_id == "CartPole-v1"
    assert game.real is not None
    assert game.policy is None
    assert main(["play", CARTPOLE, "--no-real"]) == 0
    assert served["game"].real is None


def test_folders_of_models_and_of_runs_are_played(served, tmp_path):
    folder = zoo.shipped_models()[CARTPOLE]
    assert main(["play", str(folder)]) == 0
    (tmp_path / "model").symlink_to(folder)
    assert main(["play", str(tmp_path)]) == 0
    assert served["game"].stored.real_id == "CartPole-v1"


def test_a_policy_of_sb3_can_play(served, policy):
    assert main(["play", CARTPOLE, "--policy", str(policy), "--algo", "ppo"]) == 0
    game = served["game"]
    assert game.policy_name == "PPO"
    action, _ = game.act(np.zeros(4, np.float32), None, True)
    assert action in (0, 1)


def test_the_agent_of_a_run_can_play(served, monkeypatch, tmp_path):
    class Agent:
        observation_space, action_space = (
            gym.make("CartPole-v1").observation_space,
            gym.make("CartPole-v1").action_space,
        )

        def predict(self, *arguments):
            return 1, "memory"

    asked = []
    monkeypatch.setattr("mbrl_gym.cli.agents.load_agent", lambda *arguments: asked.append(arguments) or Agent())
    (tmp_path / "run.json").write_text('{"arguments": {"agent": "dyna"}}')
    assert main(["play", CARTPOLE, "--policy", str(tmp_path)]) == 0
    assert served["game"].policy_name == "Agent"
    assert served["game"].act(None, None, True) == (1, "memory")
    ((run, arguments, device),) = asked
    assert (run.root, arguments, device) == (tmp_path, {"agent": "dyna"}, "cpu")


def test_a_window_has_the_dream_alone(monkeypatch):
    found = {}
    monkeypatch.setattr(play, "play_window", lambda game: found.update(game=game))
    monkeypatch.delenv("SDL_VIDEODRIVER")
    assert main(["play", CARTPOLE, "--window"]) == 0
    assert found["game"].real is None
    assert "SDL_VIDEODRIVER" not in os.environ  # or there would be nothing to see


@pytest.mark.parametrize("missing", [["starlette"], ["uvicorn", "websockets"], ["pygame"]])
def test_what_is_not_installed_is_told(missing, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name in missing else find(name, *rest))
    window = missing == ["pygame"]
    message = error_of(capsys, "play", CARTPOLE, *(["--window"] if window else []))
    extra = "viz" if window else "serve"
    assert message == f"playing needs {', '.join(missing)}; install it with: pip install 'mbrl-gym[{extra}]'"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["CartPole-v1"], "CartPole-v1 is neither a learned id, as in Learned-Pendulum-v1, nor a folder with a model"),
        (["Learned-NoSuch-v0"], "no model of 'Learned-NoSuch-v0' is shipped or published"),
        ([CARTPOLE, "--fps", "0"], "--fps must be 1 to 60, got 0"),
        ([CARTPOLE, "--fps", "61"], "--fps must be 1 to 60, got 61"),
        ([CARTPOLE, "--algo", "ppo"], "--algo says what made the file of --policy"),
        ([CARTPOLE, "--policy", "x.zip"], "--algo must say which algorithm made x.zip, as in --algo ppo"),
        ([CARTPOLE, "--policy", "x.zip", "--algo", "zzz"], "unknown algorithm 'zzz'"),
        ([CARTPOLE, "--policy", "nowhere.zip", "--algo", "ppo"], "PPO cannot read nowhere.zip: "),
        ([CARTPOLE, "--policy", "x.zip", "--algo", "ppo", "--window"], "--policy plays on the page alone"),
        ([CARTPOLE, "--policy", "."], "is no run folder: it has no run.json"),
        ([CARTPOLE, "--host", "999.9.9.9"], "cannot listen on port 8000 of 999.9.9.9: "),
        ([CARTPOLE, "--port", "70000"], "cannot listen on port 70000 of 127.0.0.1: "),
    ],
)
def test_wrong_requests_are_told_in_one_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in error_of(capsys, "play", *arguments)


def test_a_policy_of_another_environment_is_refused(policy, capsys):
    message = error_of(capsys, "play", "Learned-Pendulum-v1", "--policy", policy, "--algo", "ppo")
    assert "reads Box(" in message
    assert "but Learned-Pendulum-v1 has Box(" in message


def test_a_port_in_use_is_told_with_what_to_do(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = error_of(capsys, "play", CARTPOLE, "--no-real", "--no-browser", "--port", str(port))
    assert message.startswith(f"cannot listen on port {port} of 127.0.0.1: ")
    assert message.endswith("choose another --port, or 0 for a free one")


def test_the_page_is_opened_unless_that_is_not_wanted(monkeypatch, capsys):
    opened = []

    class Server:
        def run(self, sockets):
            sockets[0].close()
            raise KeyboardInterrupt

    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("mbrl_gym.play.server.make_server", lambda game, host: Server())
    assert main(["play", CARTPOLE, "--no-real", "--port", "0"]) == 0
    printed = capsys.readouterr().out
    assert len(opened) == 1
    assert f"Play {CARTPOLE} at {opened[0]} (alone, because it was not asked for). Ctrl-C stops." in printed
    assert printed.endswith("Stopped.\n")
    assert main(["play", CARTPOLE, "--no-real", "--port", "0", "--no-browser"]) == 0
    assert len(opened) == 1


def test_it_is_served_until_ctrl_c():
    command = [sys.executable, "-m", "mbrl_gym.cli.main", "play", CARTPOLE, "--port", "0", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said = process.stdout.readline()
        assert "(beside CartPole-v1)" in said
        port = int(said.split("127.0.0.1:")[1].split("/")[0])
        assert page(port)[0] == 200
        with Client(port) as client:
            assert client.frame()[0]["step"] == 1
            process.send_signal(signal.SIGINT)
            assert client.gone() == ""
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "\nStopped.\n", "")
