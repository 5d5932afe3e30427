"""Runs of agents on real tasks that are learned in slices: shared by dreamer_gpu.py and simple_gpu.py.

A run is saved about every two minutes and goes on from there, after a kill too. Stops come between pieces of learning
that depend on the run alone: slices change no result (on a CPU no bit of it).
"""

import argparse
import contextlib
import itertools
import json
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dyna_learning import processor
from stable_baselines3.common.callbacks import BaseCallback

import mbrl_gym

SAVE_EVERY = 120.0  # seconds


@dataclass(frozen=True)
class Task:
    """A task of the benchmark.

    Attributes:
        make: makes the real environment, or names it.
        policy: how SB3 calls what it shows.
        steps: of the agent.
        piece: steps after which the next end of an episode ends a piece of learning.
        arguments: of the agent, where they are not the preset's.
    """

    make: Callable[[], Any]
    policy: str
    steps: int
    piece: int
    arguments: dict[str, Any] = field(default_factory=dict)


class Piece(BaseCallback):
    """Notes real episodes, and stops at the first one's end that is at least ``steps`` steps away."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.found = steps, list[dict[str, Any]]()

    def _on_training_start(self) -> None:
        self._begun = self.num_timesteps

    def _on_step(self) -> bool:
        ended = [info["episode"] for info in self.locals["infos"] if "episode" in info]
        self.found += [
            {"real_steps": self.num_timesteps, "return": float(e["r"]), "length": int(e["l"])} for e in ended
        ]
        return not ended or self.num_timesteps - self._begun < self.steps


class PartDoneError(Exception):
    """Ends a piece between two parts of a training."""


class SlicedRun(ABC):
    """A seed of a task in a folder: an agent, and what is known of its run, which is written first.

    Args:
        task: what is learned.
        seed: of everything.
        folder: of the run.
        variant: what else tells the run from others, by name.
        device: a torch device.
    """

    def __init__(self, task: Task, seed: int, folder: Path, variant: dict[str, Any], device: str) -> None:
        self.task, self.folder, self.variant = task, folder, variant
        env = task.make()
        if (folder / "agent").exists():
            self.agent: Any = self.load(env, device)
            self.facts: dict[str, Any] = json.loads(self._facts().read_text())
        else:
            self.agent = self.fresh(env, seed, device)
            self.facts = {"seed": seed, **variant, "hardware": [], "seconds": 0.0, "episodes": []}
        self.agent.on_part = self._end_piece
        self.facts["hardware"] = sorted({*self.facts["hardware"], hardware(self.agent.device)})
        self._saved = time.monotonic(), self._progress()

    @abstractmethod
    def fresh(self, env: Any, seed: int, device: str) -> Any:
        """Return a new agent."""

    @abstractmethod
    def load(self, env: Any, device: str) -> Any:
        """Return the agent that was saved."""

    def more(self) -> dict[str, Any]:
        """Return what the JSON says of the run beside what it says of all."""
        return {}

    @property
    def done(self) -> bool:
        """Whether there is nothing left to learn."""
        return bool(self.agent.real_steps >= self.task.steps)

    def learn(self) -> None:
        """Learn one piece: to an end of an episode, or of a part of a training."""
        piece, started = Piece(self.task.piece), time.monotonic()
        with contextlib.suppress(PartDoneError):
            self.agent.learn(self.task.steps - self.agent.real_steps, piece, reset_num_timesteps=False)
        if self.agent.device.type == "cuda":
            torch.cuda.synchronize(self.agent.device)
        self.facts["seconds"] += time.monotonic() - started
        self.facts["episodes"] += piece.found

    def _end_piece(self) -> None:
        raise PartDoneError

    def save(self, every: float = 0.0) -> None:
        """Save the run, where there is something new and the last time is ``every`` seconds ago."""
        now = time.monotonic(), self._progress()
        if now[1] == self._saved[1] or now[0] - self._saved[0] < every:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._facts().write_text(json.dumps(self.facts))
        self.agent.save(self.folder / "agent")  # replaces the old one whole: facts of other steps are of no use now
        for path in set(self.folder.glob("facts-*.json")) - {self._facts()}:
            path.unlink()
        self._saved = now

    def _progress(self) -> str:
        """Return how far the agent is."""
        return str(self.agent.real_steps)

    def _facts(self) -> Path:
        return self.folder / f"facts-{self._progress()}.json"

    def result(self) -> dict[str, Any]:
        """Return what the JSON says of the run."""
        steps, late = self.agent.real_steps, 0.9 * self.task.steps
        last = [e["return"] for e in self.facts["episodes"] if e["real_steps"] > late]
        return {
            **{name: self.facts[name] for name in ("seed", *self.variant, "hardware")},
            "wall_seconds": round(self.facts["seconds"], 1),
            "real_steps": steps,
            "updates": self.agent.trainer.updates,
            **self.more(),
            "done": self.done,
            "score": float(np.mean(last)) if last and self.done else None,
            "episodes": self.facts["episodes"],
        }


def hardware(device: torch.device) -> str:
    """Return what learns."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def go_on(run: SlicedRun, deadline: float) -> None:
    """Learn until the run is done or the next piece may not end before ``deadline``, but one piece at least."""
    longest = 0.0
    while not run.done:
        started = time.monotonic()
        run.learn()
        run.save(SAVE_EVERY)
        longest = max(longest, time.monotonic() - started)
        if time.monotonic() + longest > deadline:
            break
    run.save()


def known_runs(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the results that the JSON holds, by task."""
    found: dict[str, list[dict[str, Any]]] = json.loads(path.read_text())["tasks"] if path.exists() else {}
    return found


def write(path: Path, command: str, task: str, result: dict[str, Any]) -> None:
    """Put a run's result into the JSON in place of the older one of its seed."""
    known = known_runs(path)
    runs = {run["seed"]: run for run in [*known.get(task, []), result]}
    versions = {"mbrl_gym": mbrl_gym.__version__, "torch": torch.__version__, "python": platform.python_version()}
    tasks = {**known, task: [runs[seed] for seed in sorted(runs)]}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"command": command, "versions": versions, "tasks": tasks}, indent=1) + "\n")
    temporary.replace(path)


def add_arguments(parser: argparse.ArgumentParser, tasks: Mapping[str, Any], folder: Path, out: str) -> None:
    """Add the arguments that all such commands have."""
    parser.add_argument("tasks", nargs="*", default=list(tasks), metavar="task", help=", ".join(tasks))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of this slice (default: no limit)")
    parser.add_argument("--folder", type=Path, default=folder, help="where runs are kept")
    parser.add_argument("--out", type=Path, help=f"JSON file (default: {out})")
    parser.add_argument("--device", default="auto")


def run_slice(
    kind: type[SlicedRun],
    tasks: Mapping[str, Task],
    variant: dict[str, Any],
    arguments: argparse.Namespace,
    command: str,
) -> bool:
    """Learn what is left for as long as there is time, and return whether all is done.

    Args:
        kind: of runs.
        tasks: by name.
        variant: of the runs, by name.
        arguments: of the command.
        command: that the JSON names.
    """
    deadline = time.monotonic() + 60 * arguments.minutes
    for task in tasks.values():
        env = task.make()  # what is missing is missed now, not hours later
        if not isinstance(env, str):
            env.close()
    done = {(name, run["seed"]) for name, runs in known_runs(arguments.out).items() for run in runs if run["done"]}
    left = [pair for pair in itertools.product(tasks, arguments.seeds) if pair not in done]
    for name, seed in left:
        folder = arguments.folder.joinpath(*map(str, variant.values()), name, str(seed))
        run = kind(tasks[name], seed, folder, variant, arguments.device)
        go_on(run, deadline)
        write(arguments.out, command, name, run.result())
        print(f"{name} seed {seed}: {run.agent.real_steps} of {tasks[name].steps} real steps", flush=True)
        if not run.done or ((name, seed) != left[-1] and time.monotonic() > deadline):
            print("not done: run the same command again to go on", flush=True)
            return False
    print(f"done: {arguments.out}", flush=True)
    return True
