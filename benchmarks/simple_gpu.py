"""SimPLe on Atari 100k: returns over real steps, as JSON. Wants a GPU.

    python benchmarks/simple_gpu.py                      # three games, the preset "paper", seed 0, until all are done
    python benchmarks/simple_gpu.py --minutes 8          # the same in slices: run it again until it says "done"
    python benchmarks/simple_gpu.py pong --preset cpu    # one game, the light preset
    python benchmarks/simple_gpu.py --smoke              # tiny networks, a few steps: does it run?

96,000 steps of the agent (384,000 frames) in fifteen iterations, after the last of which the policy plays ten games
that are not learned from: `evaluation` is their scores, with actions drawn, as `score` is that of the games of training
in the last tenth of the steps. Slices and saving are as in `_slices.py`; a training of the preset "paper" stops between
its parts. Runs are kept in --folder.

Source: tensorflow/tensor2tensor at bafdc1b (`mbrl_gym.agents.simple_presets` says what differs).
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from _slices import SlicedRun, Task, add_arguments, run_slice
from dyna_learning import RESULTS

from mbrl_gym.agents import SimPLe
from mbrl_gym.agents.simple_presets import PRESETS, cpu
from mbrl_gym.envs.view import FrameStack
from mbrl_gym.models.video_config import VideoConfig
from mbrl_gym.report import run_episodes
from mbrl_gym.wrappers import SB3VecEnv, make_atari, make_atari_vec

STEPS, EVALUATIONS, EVALUATION_SEED = 96_000, 10, 10_000
SMOKE_STEPS, SMOKE_EPISODE = 48, 12
SMOKE_SCREENS = replace(cpu().screens, height=42, width=32, max_episode_steps=SMOKE_EPISODE)
SMOKE: dict[str, Any] = {
    "view": FrameStack(stack=2, height=36, width=36),
    "model_config": VideoConfig(patch=(21, 16), channels=(8, 8), blocks=1, embedding=8, codes=2, context=4),
    "trainer_config": replace(cpu().trainer, batch_size=2, length=6),
    "model_updates": (4,),
    "dream_steps": (32,),
    "part": (2, 16),
    "algorithm_kwargs": {"n_steps": 8, "batch_size": 16, "n_epochs": 1},
    "learning_starts": 24,
    "train_freq": 24,
    "dream_envs": 2,
    "dream_horizon": 8,
}


def _game(name: str) -> Task:
    return Task(lambda: f"ALE/{name}-v5", "CnnPolicy", STEPS, 1000)


TASKS = {"pong": _game("Pong"), "freeway": _game("Freeway"), "boxing": _game("Boxing")}


def smoke(task: Task) -> Task:
    """Return the task with short games on a small screen, for an agent that learns twice from little."""
    return Task(lambda: SB3VecEnv(make_atari_vec(task.make(), 1, SMOKE_SCREENS)), task.policy, SMOKE_STEPS, 24, SMOKE)


class Run(SlicedRun):
    """A seed of a game: SimPLe."""

    def fresh(self, env: Any, seed: int, device: str) -> SimPLe:
        """Return a new agent of the preset that was asked for."""
        given = {**self.variant, **self.task.arguments}
        return SimPLe(self.task.policy, env, seed=seed, device=device, **given)

    def load(self, env: Any, device: str) -> SimPLe:
        """Return the agent that was saved."""
        return SimPLe.load(self.folder / "agent", env=env, device=device)

    @property
    def done(self) -> bool:
        """Whether the last training is over, too."""
        return super().done and not self.agent.training_due

    def _progress(self) -> str:
        """Return how far the agent is, within a training, too."""
        return f"{self.agent.real_steps}-{self.agent.trainer.updates}-{self.agent.imagined_timesteps}"

    def more(self) -> dict[str, Any]:
        """Return how much was dreamt, and in the end how the policy plays."""
        found = {"trainings": self.agent.trainings, "imagined_steps": self.agent.imagined_timesteps}
        return {**found, "evaluation": self._evaluation() if self.done else None}

    def _evaluation(self) -> list[float]:
        """Return the scores of the policy."""
        screens = SMOKE_SCREENS if self.task.arguments else PRESETS[self.agent.preset]().screens
        game = make_atari(TASKS[self.folder.parent.name].make(), replace(screens, clip_rewards=False))
        seed = EVALUATION_SEED * (1 + self.facts["seed"])
        return run_episodes(self.agent.predict, game, EVALUATIONS, seed, deterministic=False, max_steps=27_000).returns


def parsed(words: list[str] | None) -> argparse.Namespace:
    """Return the command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, TASKS, Path("runs/simple_gpu"), "benchmarks/results/simple_gpu_PRESET.json")
    parser.add_argument("--preset", choices=sorted(PRESETS), help='"paper" if not given')
    parser.add_argument("--smoke", action="store_true", help="tiny networks, a few short games; JSON in the folder")
    arguments = parser.parse_args(words)
    unknown = sorted(set(arguments.tasks) - set(TASKS))
    if unknown:
        parser.error(f"task must be one of {', '.join(TASKS)}, got {unknown[0]!r}")
    arguments.preset = arguments.preset or ("cpu" if arguments.smoke else "paper")
    if arguments.smoke:
        arguments.folder /= "smoke"
    name = f"simple_gpu_{arguments.preset}.json"
    arguments.out = arguments.out or (arguments.folder if arguments.smoke else RESULTS) / name
    return arguments


def main(words: list[str] | None = None) -> bool:
    """Return whether all that was asked for is done."""
    arguments = parsed(words)
    tasks = {name: smoke(TASKS[name]) if arguments.smoke else TASKS[name] for name in arguments.tasks}
    command = f"python benchmarks/simple_gpu.py --preset {arguments.preset}"
    return run_slice(Run, tasks, {"preset": arguments.preset}, arguments, command)


if __name__ == "__main__":
    main()
