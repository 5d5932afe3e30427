"""benchmarks/simple_gpu.py on a CPU: slices change no result, also where they cut a training."""

import importlib
import json
import os

import pytest

from conftest import ROOT


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", "disabled"))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("simple_gpu")


def learned(folder):
    """What a finished smoke run found, but for its times, and the weights that it ended with."""
    (run,) = json.loads((folder / "smoke" / "simple_gpu_cpu.json").read_text())["tasks"]["pong"]
    weights = [path.read_bytes() for path in sorted((folder / "smoke").rglob("*.safetensors"))]
    assert weights
    return {**run, "wall_seconds": None}, weights


def test_slices_are_the_run_without_a_stop(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "EVALUATIONS", 2)
    words = ["pong", "--smoke", "--device", "cpu", "--folder"]
    assert benchmark.main([*words, str(tmp_path / "whole")])
    slices = [False]
    while not slices[-1]:
        slices.append(benchmark.main([*words, str(tmp_path / "cut"), "--minutes", "0"]))
    assert len(slices) > 6  # two pieces of real steps, and two trainings of 2 + 2 parts
    whole, cut = (learned(tmp_path / name) for name in ("whole", "cut"))
    assert whole == cut
    run = whole[0]
    assert (run["preset"], run["real_steps"], run["trainings"], run["done"]) == ("cpu", 48, 2, True)
    assert (run["updates"], run["imagined_steps"]) == (8, 64)
    assert [e["real_steps"] for e in run["episodes"]] == [12, 24, 36, 48]
    assert len(run["evaluation"]) == 2
    assert run["hardware"]


def test_the_games_are_the_presets_and_end_after_its_last_training(benchmark):
    paper = benchmark.PRESETS["paper"]()
    assert paper.learning_starts + 14 * paper.train_freq == benchmark.STEPS
    assert [task.make() for task in benchmark.TASKS.values()] == ["ALE/Pong-v5", "ALE/Freeway-v5", "ALE/Boxing-v5"]
    assert all((task.steps, task.arguments) == (96_000, {}) for task in benchmark.TASKS.values())
    arguments = benchmark.parsed([])
    assert (arguments.preset, arguments.out.name) == ("paper", "simple_gpu_paper.json")
    with pytest.raises(SystemExit):
        benchmark.main(["krull"])
