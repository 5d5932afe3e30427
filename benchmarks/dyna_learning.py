"""How many real steps Dyna needs: PPO in a learned model of a real task, over seeds, as JSON.

    python benchmarks/dyna_learning.py pendulum              # Pendulum-v1, 3,000 real steps, seeds 0-4
    python benchmarks/dyna_learning.py cartpole              # PPO trained only in the shipped Learned-CartPole-v1
    python benchmarks/dyna_learning.py pendulum_rssm         # PPO trained only in a Dreamer's model after 5,000 steps

Every seed reports the LAST policy on 20 evaluation episodes of its own, deterministic actions; the real steps are those
that training saw, and evaluation chose nothing. Results go to benchmarks/results/. Run it with OMP_NUM_THREADS=1.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import mbrl_gym
from mbrl_gym import LearnedVectorEnv
from mbrl_gym.agents import Dreamer, Dyna
from mbrl_gym.agents.inner import dream_defaults
from mbrl_gym.wrappers import SB3VecEnv

RESULTS = Path(__file__).resolve().parent / "results"


def real_returns(policy: Any, env_id: str, seed: int, episodes: int = 20) -> list[float]:
    env = Monitor(gym.make(env_id))
    env.reset(seed=10_000 + seed)
    returns, _ = evaluate_policy(policy, env, episodes, deterministic=True, return_episode_rewards=True)
    return [float(r) for r in returns]


def pendulum(seed: int) -> dict[str, Any]:
    started = time.process_time()
    agent = Dyna("MlpPolicy", "Pendulum-v1", algorithm=PPO, seed=seed, device="cpu")
    agent.learn(3_000)
    cpu = time.process_time() - started
    returns = real_returns(agent, "Pendulum-v1", seed)
    return {
        "real_steps": agent.num_timesteps,
        "imagined_steps": agent.imagined_timesteps,
        "cpu_seconds": cpu,
        "returns": returns,
    }


def cartpole(seed: int) -> dict[str, Any]:
    started = time.process_time()
    venv = SB3VecEnv(gym.make_vec("Learned-CartPole-v1", num_envs=64, device="cpu"))
    model = PPO("MlpPolicy", venv, seed=seed, device="cpu", **{**dream_defaults(PPO), "gamma": 0.99})
    venv.bootstrap_with(model)
    model.learn(300_000)
    cpu = time.process_time() - started
    returns = real_returns(model, "CartPole-v1", seed)
    return {"real_steps": 0, "imagined_steps": model.num_timesteps, "cpu_seconds": cpu, "returns": returns}


def pendulum_rssm(seed: int) -> dict[str, Any]:
    started = time.process_time()
    agent = Dreamer("MlpPolicy", "Pendulum-v1", seed=seed, device="cpu").learn(5_000)
    stored = agent.stored_model()
    dream = LearnedVectorEnv(stored.model, stored.starts, num_envs=64, horizon=200)
    venv = SB3VecEnv(dream)
    venv.reward_scale = 0.1
    model = PPO("MlpPolicy", venv, seed=seed, device="cpu", **dream_defaults(PPO))
    venv.bootstrap_with(model)
    model.learn(300_000)
    cpu = time.process_time() - started
    returns = real_returns(model, "Pendulum-v1", seed)
    return {"real_steps": 5_000, "imagined_steps": model.num_timesteps, "cpu_seconds": cpu, "returns": returns}


TASKS = {"pendulum": pendulum, "cartpole": cartpole, "pendulum_rssm": pendulum_rssm}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/dyna_TASK.json)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for seed in arguments.seeds:
        run = {"seed": seed, **TASKS[arguments.task](seed)}
        run["mean_return"] = float(np.mean(run["returns"]))
        runs.append(run)
        print(
            f"seed {seed}: {run['mean_return']:8.1f} mean return of {len(run['returns'])} episodes, "
            f"{run['real_steps']} real and {run['imagined_steps']} imagined steps, {run['cpu_seconds']:.1f} CPU-s",
            flush=True,
        )
        _write(arguments.out or RESULTS / f"dyna_{arguments.task}.json", arguments.task, runs)
    means = [run["mean_return"] for run in runs]
    print(f"mean over {len(means)} seeds: {np.mean(means):.1f} (worst {min(means):.1f}, best {max(means):.1f})")


def _write(path: Path, task: str, runs: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    versions = {"mbrl_gym": mbrl_gym.__version__, "torch": torch.__version__, "python": platform.python_version()}
    command = " ".join(["python benchmarks/dyna_learning.py", task, "--seeds", *(str(run["seed"]) for run in runs)])
    means = [run["mean_return"] for run in runs]
    result = {
        "command": command,
        "versions": versions,
        "processor": processor(),
        "mean_return": float(np.mean(means)),
        "runs": runs,
    }
    path.write_text(json.dumps(result, indent=1) + "\n")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


if __name__ == "__main__":
    main()
