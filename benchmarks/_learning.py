"""What the learning benchmarks share: a callback that notes real episodes, and results as JSON."""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dyna_learning import RESULTS, processor
from stable_baselines3.common.callbacks import BaseCallback

import mbrl_gym

Say = Callable[[dict[str, Any]], None]


class Episodes(BaseCallback):
    """Notes every real episode; ends the run once ``cpu_seconds`` are spent."""

    def __init__(self, say: Say, cpu_seconds: float | None = None) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []
        self._say, self._limit, self._started = say, cpu_seconds, time.process_time()

    def _on_step(self) -> bool:
        spent = time.process_time() - self._started
        ended = [info["episode"] for info in self.locals["infos"] if "episode" in info]
        for episode in ended:
            row = {"real_steps": self.num_timesteps, "return": float(episode["r"]), "length": int(episode["l"])}
            self.found.append({**row, "cpu_seconds": round(spent, 2)})
            self._say(self.found[-1])
        return not ended or self._limit is None or spent < self._limit


def summary(run: dict[str, Any]) -> str:
    """Return one line on a run."""
    parts = [f"seed {run['seed']}: {run['real_steps']} real steps, {run['cpu_seconds']:.0f} CPU-s"]
    if "episodes" in run:
        last = [e["return"] for e in run["episodes"][-5:]]
        parts.append(f"last 5 episodes of training {np.mean(last):.1f}")
    if "evaluation" in run:
        parts.append(f"{run['evaluation']['episodes']} episodes of the last policy {run['evaluation']['mean']:.1f}")
    return ", ".join(parts)


def run_seeds(
    script: str, prefix: str, arguments: argparse.Namespace, name: str, run: Callable[[int, Say], dict[str, Any]]
) -> None:
    """Run ``run(seed, say)`` for each of ``arguments.seeds``; write the JSON anew after each, other seeds' runs kept.

    Args:
        script: the benchmark's file name.
        prefix: of the result's file name.
        arguments: with task, seeds, out, and the options that make the command.
        name: of the result: the task, and what was trained on it.
        run: trains one seed.
    """
    torch.set_num_threads(1)
    path: Path = arguments.out or RESULTS / f"{prefix}_{name}.json"
    runs = {r["seed"]: r for r in json.loads(path.read_text())["runs"]} if path.exists() else {}
    for seed in arguments.seeds:

        def say(row: dict[str, Any], seed: int = seed) -> None:
            print(f"seed {seed}", *(f"{key} {value}" for key, value in row.items()), flush=True)

        runs[seed] = {"seed": seed, **run(seed, say)}
        print(summary(runs[seed]), flush=True)
        _write(path, f"python benchmarks/{script} {_words(arguments, runs)}", [runs[s] for s in sorted(runs)])


def _words(arguments: argparse.Namespace, runs: dict[int, Any]) -> str:
    """Return the options that would make all ``runs``."""
    options = {k: v for k, v in vars(arguments).items() if k not in ("task", "seeds", "out") and v}
    given = [f"--{name}" if value is True else f"--{name} {value}" for name, value in options.items()]
    return " ".join([arguments.task, *given, "--seeds", *map(str, sorted(runs))])


def _write(path: Path, command: str, runs: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    versions = {"mbrl_gym": mbrl_gym.__version__, "torch": torch.__version__, "python": platform.python_version()}
    result = {"command": command, "versions": versions, "processor": processor(), "runs": runs}
    path.write_text(json.dumps(result, indent=1) + "\n")
