"""benchmarks/dreamer_gpu.py on a CPU: slices and kills change no result, and what is missing is told at once."""

import importlib
import json
import os
import signal
import subprocess
import sys

import pytest

from conftest import ROOT

DIES = """
import os, signal, sys
import _slices, dreamer_gpu
goes_on = _slices.Piece._on_step
dies = lambda self: os.kill(os.getpid(), signal.SIGKILL)
_slices.Piece._on_step = lambda self: (goes_on if self.num_timesteps < 60 else dies)(self)
dreamer_gpu.main(sys.argv[1:])
"""


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", "disabled"))  # or importing it would, for good
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("dreamer_gpu")


def learned(folder, task):
    """What a finished smoke run found, but for its times, and the weights that it ended with."""
    (run,) = json.loads((folder / "smoke" / "dreamer_gpu_1m.json").read_text())["tasks"][task]
    weights = [path.read_bytes() for path in sorted((folder / "smoke").rglob("*.safetensors"))]
    assert weights
    return {**run, "wall_seconds": None}, weights


@pytest.mark.parametrize("task", ["boxing", pytest.param("walker_walk", marks=pytest.mark.slow)])
def test_slices_are_the_run_without_a_stop(task, benchmark, tmp_path):
    if task == "walker_walk":
        pytest.importorskip("dm_control")
    words = [task, "--smoke", "--device", "cpu", "--folder"]
    assert benchmark.main([*words, str(tmp_path / "whole")])
    slices = [benchmark.main([*words, str(tmp_path / "cut"), "--minutes", "0"]) for _ in range(4)]
    assert slices == [False, False, False, True]
    whole, cut = (learned(tmp_path / name, task) for name in ("whole", "cut"))
    assert whole == cut
    assert (whole[0]["real_steps"], whole[0]["done"]) == (96, True)
    assert whole[0]["updates"] > 5
    assert [e["real_steps"] for e in whole[0]["episodes"]] == list(range(12, 97, 12))
    assert whole[0]["score"] == whole[0]["episodes"][-1]["return"]


def test_after_a_kill_it_goes_on_from_what_was_saved(benchmark, tmp_path, monkeypatch):
    words = ["boxing", "--smoke", "--device", "cpu", "--folder"]
    assert benchmark.main([*words, str(tmp_path / "whole")])
    assert not benchmark.main([*words, str(tmp_path / "cut"), "--minutes", "0"])
    save = benchmark.Dreamer.save

    def killed(self, path):
        raise KeyboardInterrupt  # the facts of a later step are written, the agent is not

    monkeypatch.setattr(benchmark.Dreamer, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        benchmark.main([*words, str(tmp_path / "cut"), "--minutes", "0"])
    monkeypatch.setattr(benchmark.Dreamer, "save", save)
    assert benchmark.main([*words, str(tmp_path / "cut")])
    assert learned(tmp_path / "whole", "boxing") == learned(tmp_path / "cut", "boxing")


@pytest.mark.slow
def test_a_killed_process_goes_on(benchmark, tmp_path):
    words = ["boxing", "--smoke", "--device", "cpu", "--folder"]
    assert benchmark.main([*words, str(tmp_path / "whole")])
    assert not benchmark.main([*words, str(tmp_path / "cut"), "--minutes", "0"])
    killed = subprocess.run([sys.executable, "-c", DIES, *words, str(tmp_path / "cut")], cwd=ROOT / "benchmarks")
    assert killed.returncode == -signal.SIGKILL
    assert benchmark.main([*words, str(tmp_path / "cut")])
    assert learned(tmp_path / "whole", "boxing") == learned(tmp_path / "cut", "boxing")


def test_the_games_are_those_of_atari_100k(benchmark):
    env = benchmark.TASKS["boxing"].make()
    assert (env.observation_space.shape, env.observation_space.dtype) == ((64, 64, 3), "uint8")
    ale = env.unwrapped.ale
    assert ale.getFloat("repeat_action_probability") == 0.0
    assert env.action_space.n == len(ale.getMinimalActionSet())
    assert env.get_wrapper_attr("frame_skip") == 4
    assert env.get_wrapper_attr("noop_max") == 30
    assert not env.get_wrapper_attr("terminal_on_life_loss")
    env.close()
    assert {name: task.arguments.get("train_ratio") for name, task in benchmark.TASKS.items()} == {
        "boxing": 256.0, "krull": 256.0, "crazy_climber": 256.0, "walker_walk": None, "cartpole_swingup": None
    }  # fmt: skip


def test_a_missing_extra_is_told_before_anything_is_learned(benchmark, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dm_control", None)
    monkeypatch.setitem(sys.modules, "dm_control.suite", None)
    with pytest.raises(
        SystemExit, match=r"extra 'dmc', which is not installed .*pip install 'mbrl-gym\[dmc\]', or name"
    ):
        benchmark.main(["--smoke", "--folder", str(tmp_path)])
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        benchmark.main(["pong"])
