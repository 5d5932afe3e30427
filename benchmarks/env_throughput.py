"""Steps per second of learned environments, side by side in one run.

    OMP_NUM_THREADS=1 python benchmarks/env_throughput.py

For each number of environments: `LearnedVectorEnv` with the numpy and the torch backend, SB3's DummyVecEnv and
Gymnasium's SyncVectorEnv over single learned environments, and the bare network (all members on all rows, no sampling,
no environment). The contestants take turns; a ratio is the median over the rounds of the ratio within a round. Results
go to benchmarks/results/env_throughput.json.
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
import torch
from dyna_learning import RESULTS, processor
from stable_baselines3.common.vec_env import DummyVecEnv

import mbrl_gym
from mbrl_gym import Ensemble, LearnedEnv, LearnedVectorEnv, SequenceReplay, StartStates

Step = Callable[[], Any]


def untrained() -> tuple[Ensemble, StartStates]:
    """Return the default ensemble on Pendulum's spaces; its speed does not depend on its weights."""
    env = gym.make("Pendulum-v1")
    replay = SequenceReplay(env.observation_space, env.action_space, 100)
    for seed in range(40):
        replay.begin(env.reset(seed=seed)[0][None])
    torch.manual_seed(0)
    return Ensemble(env.observation_space, env.action_space).requires_grad_(False), replay.starts(1, kind="resets")


def contestants(model: Ensemble, starts: StartStates, n: int) -> dict[str, Step]:
    """Return one step of n environments by each contestant."""
    numpy_env = LearnedVectorEnv(model, starts, n, horizon=200)
    torch_env = LearnedVectorEnv(model, starts, n, horizon=200, backend="torch")
    singles = [lambda: LearnedEnv(model, starts, 200)] * n
    dummy, sync = DummyVecEnv(singles), gym.vector.SyncVectorEnv(singles)
    for env in (numpy_env, torch_env, sync):
        env.reset(seed=0)
    dummy.reset()
    actions = numpy_env.action_space.sample()
    tensors = torch.as_tensor(actions)
    rows = torch.randn(n, model.codec.size + model.action_codec.size)
    return {
        "bare network": torch.inference_mode()(lambda: model.net(rows)),
        "numpy": lambda: numpy_env.step(actions),
        "torch": lambda: torch_env.step(tensors),
        "DummyVecEnv": lambda: dummy.step(actions),
        "SyncVectorEnv": lambda: sync.step(actions),
    }


def rate(step: Step, n: int, seconds: float) -> float:
    """Return environment steps per second of wall time."""
    started, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - started < seconds:
        step()
        calls += 1
    return n * calls / (time.perf_counter() - started)


def measure(n: int, rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Return rate and ratio to the native numpy environment of each contestant."""
    steps = contestants(*untrained(), n)
    for step in steps.values():
        step()
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            rates[name].append(rate(step, n, seconds))
    native = np.array(rates["numpy"])
    return {
        name: {"steps_per_second": float(np.median(r)), "numpy_over_this": float(np.median(native / np.array(r)))}
        for name, r in rates.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=int, nargs="+", default=[1, 16, 256, 1024, 20_000])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each contestant's turn")
    parser.add_argument("--out", type=Path, default=RESULTS / "env_throughput.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = {}
    for n in arguments.envs:
        rounds = arguments.rounds if n <= 1024 else 3  # one step of 20,000 single environments takes many seconds
        table[n] = measure(n, rounds, arguments.seconds)
        print(f"\n{n} environments            steps/s   numpy env is")
        for name, row in table[n].items():
            print(f"  {name:<14} {row['steps_per_second']:>18,.0f}   {row['numpy_over_this']:>8.2f} x")
    versions = {"mbrl_gym": mbrl_gym.__version__, "torch": torch.__version__, "python": platform.python_version()}
    result = {"versions": versions, "processor": processor(), "threads": 1, "environments": table}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
