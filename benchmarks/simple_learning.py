"""SimPLe, preset "cpu", on a small game with ALE's screens: returns over real steps, as JSON.

    python benchmarks/simple_learning.py catch                    # 20,000 real steps, three seeds

The last policy plays 20 games that are not learned from, beside random actions and a player that keeps the paddle
where the ball will be (catch_game.py). `share` is where SimPLe is between these two. Results go to
benchmarks/results/simple_catch.json; seeds that are there already stay. Run it with OMP_NUM_THREADS=1.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from _learning import Episodes, Say, run_seeds
from catch_game import CatchScreen, catcher

from mbrl_gym.agents import SimPLe
from mbrl_gym.report import random_policy, run_episodes

STEPS, GAMES = 20_000, 20


def train(steps: int, seed: int, say: Say) -> dict[str, Any]:
    """Return the run of one seed."""
    started = time.process_time()
    agent = SimPLe("CnnPolicy", "CatchScreen-v0", seed=seed, device="cpu")
    episodes = Episodes(say)
    agent.learn(steps, episodes)
    trained = time.process_time() - started
    env = gym.make("CatchScreen-v0")
    game = env.unwrapped
    assert isinstance(game, CatchScreen)
    found = run_episodes(agent.predict, env, GAMES, 10_000 + seed)
    chance = run_episodes(random_policy(env.action_space, seed), env, GAMES, 20_000 + seed)
    best = run_episodes(lambda *_, **__: (np.asarray(catcher(game)), None), env, GAMES, 20_000 + seed)
    return {
        "real_steps": agent.num_timesteps,
        "imagined_steps": agent.imagined_timesteps,
        "cpu_seconds": round(trained, 1),
        "episodes": episodes.found,
        "evaluation": found.to_json(),
        "random": chance.mean,
        "scripted": best.mean,
        "share": (found.mean - chance.mean) / (best.mean - chance.mean),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["catch"])
    parser.add_argument("--steps", type=int, default=STEPS, help="real steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/simple_catch.json)")
    arguments = parser.parse_args()
    run_seeds(
        "simple_learning.py",
        "simple",
        arguments,
        arguments.task,
        lambda seed, say: train(arguments.steps, seed, say),
    )


if __name__ == "__main__":
    main()
