"""Fixtures that several test files share."""

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a screen

import ale_py  # noqa: F401  (registers its games once a process: before any test that puts the registry back)
import pytest
import torch
from gymnasium.envs.registration import registry

from mbrl_gym import Ensemble, EnsembleConfig, ModelTrainer, StoredModel, TrainerConfig
from worlds import real_steps

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parent.parent


def fitted(env_id, horizon):
    """A small ensemble of 400 random steps: good enough to be dreamt in, not to be learned from."""
    replay = real_steps(env_id, 400)
    torch.manual_seed(0)
    model = Ensemble(replay.observation_space, replay.action_space, EnsembleConfig(members=2, hidden=(32, 32)))
    ModelTrainer(model, TrainerConfig(max_updates=200, max_epochs=40, learning_rate=5e-3), seed=0).fit(replay)
    model.eval().requires_grad_(False)
    return StoredModel(model, replay.starts(kind="resets"), env_id, horizon, {"note": "fixture"})


@pytest.fixture(scope="session")
def pendulum():
    """A fitted model of Pendulum-v1, which never terminates."""
    return fitted("Pendulum-v1", 200)


@pytest.fixture(scope="session")
def cartpole():
    """A fitted model of CartPole-v1, whose actions are discrete and whose episodes end."""
    return fitted("CartPole-v1", 500)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty $MBRL_GYM_HOME; ids that a test registers are forgotten after it."""
    folder = tmp_path / "home"
    monkeypatch.setenv("MBRL_GYM_HOME", str(folder))
    before = dict(registry)
    yield folder
    registry.clear()
    registry.update(before)


@pytest.fixture
def python(tmp_path):
    """Runs code in a fresh interpreter, in an empty folder, with the checkout on its path; returns what it printed."""
    folder = tmp_path / "elsewhere"

    def run(*arguments, env=None, cwd=None, path=ROOT, fails=False):
        folder.mkdir(exist_ok=True)
        if not arguments[0].startswith("-"):
            arguments = ("-c", *arguments)
        variables = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", **(env or {})}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=cwd or folder, env=variables, capture_output=True, text=True, timeout=300
        )
        assert (done.returncode != 0) == fails, f"exit status {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr if fails else done.stdout

    return run
