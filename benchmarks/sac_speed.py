"""Time of a SAC update, LeanSAC beside Stable-Baselines3's SAC, in one process on one thread.

    OMP_NUM_THREADS=1 python benchmarks/sac_speed.py

Both agents take updates on batches of 256 from stock replay buffers of the same random transitions, in turns; a ratio
is the median over the rounds of the ratio within a round. Times are CPU seconds of the process, which on one thread are
those of the clock on an idle machine. The floor is that of the matrix products: the time this processor takes for as
many products [256, hidden] x [hidden, hidden] as an update has to make between hidden layers (15; SB3 makes 18).
Results go to benchmarks/results/sac_speed.json.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch
from dyna_learning import RESULTS, processor
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger

import mbrl_gym
from mbrl_gym.agents.sac import LeanSAC

BATCH = 256
STORED = 20_000
# Two hidden layers and two critics: the actor twice, targets, critics, critics again for the actor, as often as each
# goes forward; back: the critics' weights and activations, one critic per row for the actor, the actor's both.
PRODUCTS = 2 + 2 + 2 + 2 + 4 + 1 + 2


class Spaces(gym.Env[Any, Any]):
    """Spaces of the given sizes; nobody steps it."""

    def __init__(self, observations: int, actions: int) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (observations,), np.float32)
        self.action_space = spaces.Box(-1, 1, (actions,), np.float32)


def agent(kind: type[SAC], observations: int, actions: int, hidden: int) -> SAC:
    """Return an agent with a full replay of random transitions."""
    env = Spaces(observations, actions)
    sizes = {"net_arch": [hidden, hidden]}
    made = kind("MlpPolicy", env, buffer_size=STORED, policy_kwargs=sizes, seed=0, device="cpu")
    made.set_logger(Logger(None, []))
    rng, buffer = np.random.default_rng(0), made.replay_buffer
    assert buffer is not None
    buffer.observations[:] = rng.standard_normal(buffer.observations.shape)
    buffer.next_observations[:] = rng.standard_normal(buffer.next_observations.shape)
    buffer.actions[:] = rng.uniform(-1, 1, buffer.actions.shape)
    buffer.rewards[:] = rng.standard_normal(buffer.rewards.shape)
    buffer.full = True
    return made


def milliseconds(work: Callable[[], Any], calls: int) -> float:
    """Return CPU milliseconds of one of ``calls`` units of work that ``work`` does."""
    started = time.process_time()
    work()
    return (time.process_time() - started) * 1e3 / calls


def products(hidden: int) -> Callable[[], Any]:
    """Return the matrix products of an update and nothing else."""
    rows, weight = torch.randn(BATCH, hidden), torch.randn(hidden, hidden)
    out = torch.empty(BATCH, hidden)
    return lambda: [torch.mm(rows, weight, out=out) for _ in range(PRODUCTS)]


def measure(observations: int, actions: int, hidden: int, rounds: int, updates: int) -> dict[str, float]:
    """Return times of an update by stock and lean SAC and of the products, and the ratio."""
    stock, lean = (agent(kind, observations, actions, hidden) for kind in (SAC, LeanSAC))
    floor = products(hidden)
    times = []
    for turn in range(-1, rounds):
        row = [milliseconds(lambda a=a: a.train(updates, BATCH), updates) for a in (stock, lean)]  # type: ignore[misc]
        row.append(milliseconds(floor, 1))
        if turn >= 0:  # the first is not counted
            times.append(row)
    table = np.array(times)
    names = ("stock_ms", "lean_ms", "products_ms")
    result = {name: float(value) for name, value in zip(names, np.median(table, axis=0), strict=True)}
    fastest = {f"fastest_{name}": float(value) for name, value in zip(names, table.min(axis=0), strict=True)}
    return {**result, **fastest, "stock_over_lean": float(np.median(table[:, 0] / table[:, 1]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--updates", type=int, default=20, help="of each agent in a round")
    parser.add_argument("--out", type=Path, default=RESULTS / "sac_speed.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = []
    print("obs act hidden    SB3 ms   lean ms   products ms   SB3 / lean")
    for observations, actions in ((11, 3), (4, 1)):
        for hidden in arguments.hidden:
            row = measure(observations, actions, hidden, arguments.rounds, arguments.updates)
            table.append({"observations": observations, "actions": actions, "hidden": [hidden, hidden], **row})
            times = f"{row['stock_ms']:8.2f}  {row['lean_ms']:8.2f}  {row['products_ms']:12.2f}"
            print(f"{observations:3} {actions:3} {hidden:6}  {times}   {row['stock_over_lean']:8.2f} x")
    versions = {
        "mbrl_gym": mbrl_gym.__version__,
        "stable_baselines3": stable_baselines3.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    result = {"versions": versions, "processor": processor(), "threads": 1, "batch": BATCH, "updates": table}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
