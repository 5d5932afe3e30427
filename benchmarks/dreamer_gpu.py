"""DreamerV3 of size "12m" on Atari 100k and on control from vectors: returns over real steps, as JSON. Wants a GPU.

    python benchmarks/dreamer_gpu.py                        # five tasks, seed 0, until all are done
    python benchmarks/dreamer_gpu.py --minutes 8            # the same in slices: run it again until it says "done"
    python benchmarks/dreamer_gpu.py boxing --seeds 0 1 2   # one task, more seeds
    python benchmarks/dreamer_gpu.py --smoke                # size "1m", a few steps: does it run? Its numbers are none

Atari: 100,000 steps of the agent (400,000 frames), train ratio 256. Control (dm_control, `pip install mbrl-gym[dmc]`):
500,000 steps, no action repeat, the preset's train ratio of 1024. All else is the preset "paper".

A run is saved about every two minutes and goes on from there, after a kill too. Stops come between pieces of learning,
each to the end of an episode, that depend on the run alone: slices change no result (on a CPU no bit of it). Runs are
kept in --folder; the JSON has hardware, seconds of the clock, real steps, and the return of every episode of training,
which is what the published scores are of. `score` is the mean over those that end in the last tenth of the steps.

Source: danijar/dreamerv3 at e3f0224, configs.yaml (atari100k, dmc_proprio) and embodied/envs. Not as there: screens are
shrunk by OpenCV's area average for Pillow's bilinear one, 1 to 30 no-ops for 0 to 30; its own runs of Atari 100k are of
size 200m, those of control of 1m.
"""

import argparse
import itertools
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "disabled")  # nothing is drawn, so no library for it is needed

import gymnasium as gym
import numpy as np
import torch
from dyna_learning import RESULTS, processor
from gymnasium.wrappers import FlattenObservation, TimeLimit
from stable_baselines3.common.callbacks import BaseCallback

import mbrl_gym
from mbrl_gym.agents import BehaviorConfig, Dreamer
from mbrl_gym.wrappers import AtariSettings, make_atari

SAVE_EVERY = 120.0  # seconds
SMOKE_STEPS, SMOKE_EPISODE = 96, 12


def atari(game: str) -> gym.Env[Any, Any]:
    """Return a game of Atari 100k: 64 x 64 in colour, four frames a step, no sticky actions, lives do not matter."""
    return make_atari(f"ALE/{game}-v5", AtariSettings.dreamer_v3_100k())


def control(task: str) -> gym.Env[Any, Any]:
    """Return a task of the DeepMind Control Suite, seen as one vector.

    Raises:
        SystemExit: the extra "dmc" is not installed.
    """
    try:
        import dm_control.suite  # noqa: F401
        import shimmy  # noqa: F401  registers the tasks
    except ImportError as error:
        raise SystemExit(
            f"tasks of control need the extra 'dmc', which is not installed ({error}): pip install 'mbrl-gym[dmc]', or "
            "name other tasks"
        ) from error
    return FlattenObservation(gym.make(f"dm_control/{task}-v0"))


@dataclass(frozen=True)
class Task:
    """A task of the benchmark.

    Attributes:
        make: makes the real environment.
        policy: how SB3 calls what it shows.
        steps: of the agent.
        piece: steps after which the next end of an episode ends a piece of learning.
        arguments: of the agent, where they are not the preset's.
    """

    make: Callable[[], gym.Env[Any, Any]]
    policy: str
    steps: int
    piece: int
    arguments: dict[str, Any] = field(default_factory=dict)


def _game(name: str) -> Task:
    return Task(lambda: atari(name), "CnnPolicy", 100_000, 1000, {"train_ratio": 256.0})


def _control(name: str) -> Task:
    return Task(lambda: control(name), "MlpPolicy", 500_000, 1000)


TASKS = {
    "boxing": _game("Boxing"),
    "krull": _game("Krull"),
    "crazy_climber": _game("CrazyClimber"),
    "walker_walk": _control("walker-walk"),
    "cartpole_swingup": _control("cartpole-swingup"),
}


def smoke(task: Task) -> Task:
    """Return the task with short episodes, for an agent that learns a few times from little."""
    little = {
        "batch_size": 2,
        "batch_length": 8,
        "train_ratio": 4.0,
        "learning_starts": 24,
        "behavior_config": BehaviorConfig(horizon=3),
    }
    return Task(lambda: TimeLimit(task.make(), SMOKE_EPISODE), task.policy, SMOKE_STEPS, 20, little)


class Piece(BaseCallback):
    """Notes real episodes, and stops at the first one's end that is at least ``steps`` steps away."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.found = steps, list[dict[str, Any]]()

    def _on_training_start(self) -> None:
        self._begun = self.num_timesteps

    def _on_step(self) -> bool:
        ended = [info["episode"] for info in self.locals["infos"] if "episode" in info]
        self.found += [{"real_steps": self.num_timesteps, "return": float(e["r"]), "length": e["l"]} for e in ended]
        return not ended or self.num_timesteps - self._begun < self.steps


class Run:
    """A seed of a task in a folder: an agent, and what is known of its run, which is written first.

    Args:
        task: what is learned.
        seed: of everything.
        folder: of the run.
        size: of the networks.
        device: a torch device.
    """

    def __init__(self, task: Task, seed: int, folder: Path, size: str, device: str) -> None:
        self.task, self.folder = task, folder
        env = task.make()
        if (folder / "agent").exists():
            self.agent = Dreamer.load(folder / "agent", env=env, device=device)
            self.facts: dict[str, Any] = json.loads(self._facts().read_text())
        else:
            arguments = {
                "size": size,
                "preset": "paper",
                "buffer_size": task.steps + task.steps // 10,
                **task.arguments,
            }
            self.agent = Dreamer(task.policy, env, seed=seed, device=device, **arguments)
            self.facts = {"seed": seed, "size": size, "hardware": [], "seconds": 0.0, "episodes": []}
        self.facts["hardware"] = sorted({*self.facts["hardware"], hardware(self.agent.device)})
        self._saved = time.monotonic(), self.agent.real_steps

    @property
    def done(self) -> bool:
        """Whether there is nothing left to learn."""
        return self.agent.real_steps >= self.task.steps

    def learn(self) -> None:
        """Learn one piece."""
        piece, started = Piece(self.task.piece), time.monotonic()
        self.agent.learn(self.task.steps - self.agent.real_steps, piece, reset_num_timesteps=False)
        if self.agent.device.type == "cuda":
            torch.cuda.synchronize(self.agent.device)
        self.facts["seconds"] += time.monotonic() - started
        self.facts["episodes"] += piece.found

    def save(self, every: float = 0.0) -> None:
        """Save the run, where there is something new and the last time is ``every`` seconds ago."""
        now = time.monotonic(), self.agent.real_steps
        if now[1] == self._saved[1] or now[0] - self._saved[0] < every:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._facts().write_text(json.dumps(self.facts))
        self.agent.save(self.folder / "agent")  # replaces the old one whole: facts of other steps are of no use now
        for path in set(self.folder.glob("facts-*.json")) - {self._facts()}:
            path.unlink()
        self._saved = now

    def _facts(self) -> Path:
        return self.folder / f"facts-{self.agent.real_steps}.json"

    def result(self) -> dict[str, Any]:
        """Return what the JSON says of the run."""
        steps, late = self.agent.real_steps, 0.9 * self.task.steps
        last = [e["return"] for e in self.facts["episodes"] if e["real_steps"] > late]
        return {
            **{name: self.facts[name] for name in ("seed", "size", "hardware")},
            "wall_seconds": round(self.facts["seconds"], 1),
            "real_steps": steps,
            "updates": self.agent.trainer.updates,
            "train_ratio": self.agent.train_ratio,
            "done": self.done,
            "score": float(np.mean(last)) if last and self.done else None,
            "episodes": self.facts["episodes"],
        }


def hardware(device: torch.device) -> str:
    """Return what learns."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def go_on(run: Run, deadline: float) -> None:
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


def parsed(words: list[str] | None) -> argparse.Namespace:
    """Return the command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), metavar="task", help=", ".join(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--size", help='of the networks (default: "12m")')
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of this slice (default: no limit)")
    parser.add_argument("--folder", type=Path, default=Path("runs/dreamer_gpu"), help="where runs are kept")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/dreamer_gpu_SIZE.json)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--smoke", action="store_true", help='size "1m", a few short episodes; JSON in the folder')
    arguments = parser.parse_args(words)
    unknown = sorted(set(arguments.tasks) - set(TASKS))
    if unknown:
        parser.error(f"task must be one of {', '.join(TASKS)}, got {unknown[0]!r}")
    arguments.size = arguments.size or ("1m" if arguments.smoke else "12m")
    if arguments.smoke:
        arguments.folder /= "smoke"
    name = f"dreamer_gpu_{arguments.size}.json"
    arguments.out = arguments.out or (arguments.folder if arguments.smoke else RESULTS) / name
    return arguments


def main(words: list[str] | None = None) -> bool:
    """Return whether all that was asked for is done."""
    arguments = parsed(words)
    deadline = time.monotonic() + 60 * arguments.minutes
    tasks = {name: smoke(TASKS[name]) if arguments.smoke else TASKS[name] for name in arguments.tasks}
    for task in tasks.values():
        task.make().close()  # what is missing is missed now, not hours later
    done = {(name, run["seed"]) for name, runs in known_runs(arguments.out).items() for run in runs if run["done"]}
    left = [pair for pair in itertools.product(tasks, arguments.seeds) if pair not in done]
    for name, seed in left:
        task, folder = tasks[name], arguments.folder / arguments.size / name / str(seed)
        run = Run(task, seed, folder, arguments.size, arguments.device)
        go_on(run, deadline)
        write(arguments.out, f"python benchmarks/dreamer_gpu.py --size {arguments.size}", name, run.result())
        print(f"{name} seed {seed}: {run.agent.real_steps} of {task.steps} real steps", flush=True)
        if not run.done or ((name, seed) != left[-1] and time.monotonic() > deadline):
            print("not done: run the same command again to go on", flush=True)
            return False
    print(f"done: {arguments.out}", flush=True)
    return True


if __name__ == "__main__":
    main()
