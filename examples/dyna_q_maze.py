"""Plan between real steps: the Dyna maze of Sutton & Barto (example 8.1), solved with 0, 5 and 50 planning steps.

    python examples/dyna_q_maze.py                      # 10 seconds of one core

prints the steps that episodes take, the mean over 10 runs. 14 is the shortest way, and one action in ten is random:
episode 5 takes 175 steps without planning, 26 with 5 planned backups after each real step, and 16 with 50.
"""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mbrl_gym.agents.dyna_q import DynaQ

MAZE = ("       #G", "  #    # ", "S #    # ", "  #      ", "     #   ", "         ")
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))


class DynaMaze(gym.Env[int, int]):
    """A walk from S to G, which pays 1 and ends the episode; who walks into a wall stays."""

    observation_space: spaces.Space[Any] = spaces.Discrete(54)
    action_space: spaces.Space[Any] = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Begin at S."""
        super().reset(seed=seed)
        self.place = 2, 0
        return 18, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Move up, down, left or right."""
        row, column = (at + move for at, move in zip(self.place, MOVES[action], strict=True))
        if 0 <= row < 6 and 0 <= column < 9 and MAZE[row][column] != "#":
            self.place = row, column
        found = MAZE[self.place[0]][self.place[1]] == "G"
        return 9 * self.place[0] + self.place[1], float(found), found, False, {}


def main() -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="one run, to see that it runs")
    args = parser.parse_args()

    runs = 1 if args.short else 10
    print("planning steps | steps of episode 1     2     3     5    10")
    for planning_steps, steps in ((0, 10_000), (5, 5_000), (50, 4_000)):
        agents = [DynaQ(DynaMaze(), planning_steps=planning_steps, seed=seed).learn(steps) for seed in range(runs)]
        lengths = np.mean([agent.episode_lengths[:10] for agent in agents], axis=0)
        print(f"{planning_steps:14} | {'':11}" + " ".join(f"{lengths[i - 1]:5.0f}" for i in (1, 2, 3, 5, 10)))
    print(f"episode 5 with {planning_steps} planning steps: {lengths[4]:.0f} steps of 14 at least")
    return float(lengths[4])


if __name__ == "__main__":
    main()
