"""Dreamer and PlaNet on small tasks: returns over real steps, as JSON.

    python benchmarks/dreamer_learning.py cartpole                 # DreamerV3, CartPole-v1, 10,000 real steps
    python benchmarks/dreamer_learning.py pendulum                 # DreamerV3, Pendulum-v1, 10,000 real steps
    python benchmarks/dreamer_learning.py pendulum --agent planet  # or dreamer1, dreamer2; 20,000 real steps
    python benchmarks/dreamer_learning.py catch --steps 8000       # DreamerV3 from 64 x 64 pixels (catch_game.py)

All runs of an agent have the hyperparameters of its preset "cpu". The last policy is what counts, over 10 real episodes
(100 of catch, beside 1,000 of random actions) without exploration. Results go to
benchmarks/results/dreamer_AGENT_TASK.json; seeds that are there already stay. Beside it, of catch, there is a picture
for each seed: new games of a random player, what the model made of them once it had seen two steps, and the error. Run
it with OMP_NUM_THREADS=1.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import catch_game  # registers Catch-v0
import gymnasium as gym
import numpy as np
from _learning import Episodes, Say, run_seeds
from dyna_learning import RESULTS
from PIL import Image

from mbrl_gym.agents import Dreamer, PlaNet
from mbrl_gym.agents.sequence_agent import SequenceAgent
from mbrl_gym.data import record
from mbrl_gym.report import film_strip, open_loop_film, random_policy, run_episodes

TASKS = {"cartpole": "CartPole-v1", "pendulum": "Pendulum-v1", "catch": "Catch-v0"}
AGENTS: dict[str, tuple[Callable[..., SequenceAgent], dict[str, Any], int]] = {  # arguments, real steps
    "dreamer3": (Dreamer, {"version": 3}, 10_000),
    "dreamer2": (Dreamer, {"version": 2}, 20_000),
    "dreamer1": (Dreamer, {"version": 1}, 20_000),
    "planet": (PlaNet, {}, 20_000),
}


def train(name: str, env: str, steps: int | None, seed: int, folder: Path, say: Say) -> dict[str, Any]:
    """Return the run of one seed; what there is to see goes to ``folder``."""
    started = time.process_time()
    make, arguments, usual = AGENTS[name]
    sees = env == "Catch-v0"
    agent = make("CnnPolicy" if sees else "MlpPolicy", env, seed=seed, device="cpu", **arguments)
    episodes = Episodes(say)
    agent.learn(steps or usual, episodes)
    trained = time.process_time() - started
    real = gym.make(env)
    returns = run_episodes(agent.predict, real, 100 if sees else 10, 10_000 + seed)
    if sees:
        draw(agent, env, folder / f"dreamer_{name}_catch_{seed}.png", 30_000 + seed)
    chance = run_episodes(random_policy(real.action_space, seed), real, 1000 if sees else 10, 20_000 + seed)
    return {
        "real_steps": agent.num_timesteps,
        "imagined_steps": agent.imagined_timesteps,
        "updates": agent.trainer.updates,
        "cpu_seconds": round(trained, 1),
        "episodes": episodes.found,
        "evaluation": returns.to_json(),
        "random": chance.mean,
    }


def draw(agent: SequenceAgent, env: str, path: Path, seed: int, games: int = 3) -> None:
    """Write a picture of whole games, one below the other: what was, what the model says, the error (grey: none)."""
    length = catch_game.CELLS
    played = record(gym.make(env), steps=games * length, seed=seed)
    windows = [played.gather(start[None], length) for start in played.windows(length)]
    strips = [film_strip(open_loop_film(agent.model, window, 2)) for window in windows]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(strips)[..., 0]).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--agent", choices=AGENTS, default="dreamer3")
    parser.add_argument("--steps", type=int, help="real steps (default: 10,000 for dreamer3, 20,000 for the others)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/dreamer_AGENT_TASK.json)")
    arguments = parser.parse_args()
    env, folder = TASKS[arguments.task], arguments.out.parent if arguments.out else RESULTS
    run_seeds(
        "dreamer_learning.py",
        "dreamer",
        arguments,
        f"{arguments.agent}_{arguments.task}",
        lambda seed, say: train(arguments.agent, env, arguments.steps, seed, folder, say),
    )


if __name__ == "__main__":
    main()
