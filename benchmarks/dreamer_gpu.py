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
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "disabled")  # nothing is drawn, so no library for it is needed

import gymnasium as gym
from _slices import SlicedRun, Task, add_arguments, run_slice
from dyna_learning import RESULTS
from gymnasium.wrappers import FlattenObservation, TimeLimit

from mbrl_gym.agents import BehaviorConfig, Dreamer
from mbrl_gym.wrappers import AtariSettings, make_atari

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


class Run(SlicedRun):
    """A seed of a task: DreamerV3."""

    def fresh(self, env: Any, seed: int, device: str) -> Dreamer:
        """Return a new agent of the size that was asked for."""
        arguments = {
            "size": self.variant["size"],
            "preset": "paper",
            "buffer_size": self.task.steps + self.task.steps // 10,
            **self.task.arguments,
        }
        return Dreamer(self.task.policy, env, seed=seed, device=device, **arguments)

    def load(self, env: Any, device: str) -> Dreamer:
        """Return the agent that was saved."""
        return Dreamer.load(self.folder / "agent", env=env, device=device)

    def more(self) -> dict[str, Any]:
        """Return what else is to be known."""
        return {"train_ratio": self.agent.train_ratio}


def parsed(words: list[str] | None) -> argparse.Namespace:
    """Return the command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, TASKS, Path("runs/dreamer_gpu"), "benchmarks/results/dreamer_gpu_SIZE.json")
    parser.add_argument("--size", help='of the networks (default: "12m")')
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
    tasks = {name: smoke(TASKS[name]) if arguments.smoke else TASKS[name] for name in arguments.tasks}
    command = f"python benchmarks/dreamer_gpu.py --size {arguments.size}"
    return run_slice(Run, tasks, {"size": arguments.size}, arguments, command)


if __name__ == "__main__":
    main()
