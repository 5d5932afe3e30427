"""What each strategy against model error does to MBPO, as a table and JSON.

    python benchmarks/model_error.py                       # InvertedPendulum-v5, 3,000 real steps, seeds 0-2
    python benchmarks/model_error.py --strategies none penalty

The inverted pendulum is an unstable plant, where model error bites: errors grow exponentially with the imagined steps.
Per strategy: the return of the last policy over 10 real episodes, the real steps until the first full episode of
training (1,000 steps without a fall; steps + 1 if there was none), the mean gap between the dream's return and
reality's (the same policy from the same states, 100 steps, without penalties), the mean length of the imagined
rollouts, and CPU-seconds. Results go to benchmarks/results/model_error.json, anew after each run. OMP_NUM_THREADS=1,
MUJOCO_GL=egl.
"""

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from _learning import Episodes
from dyna_learning import RESULTS, processor
from stable_baselines3.common.callbacks import BaseCallback

import mbrl_gym
from mbrl_gym import DataAsDemonstrator, WorldModel, imagine
from mbrl_gym.agents import MBPO, AdaptiveLength, BranchedRollouts, FixedLength, ScheduledLength
from mbrl_gym.agents.mbpo_presets import cpu
from mbrl_gym.report import run_episodes
from mbrl_gym.wrappers import Halt, Infoprop, ModelWrapper, UncertaintyPenalty

ENV, STEPS, COMPARED, FULL = "InvertedPendulum-v5", 3_000, 100, 1_000
PRESET = cpu(ENV)
LONG = BranchedRollouts(FixedLength(10), rollouts_per_step=20)  # as many imagined steps as 1 x 200


def rollouts(length: Any) -> dict[str, Any]:
    """Return MBPO's argument for rollouts of a length, as many imagined steps as the others."""
    return {"rollouts": replace(LONG, length=length)}


STRATEGIES: dict[str, dict[str, Any]] = {
    "none": {"rollouts": LONG},
    "penalty": {"rollouts": LONG, "wrappers": [(UncertaintyPenalty, {"coefficient": 1.0})]},
    "halt": {"rollouts": LONG, "wrappers": [(Halt, {"cost": 100.0})]},
    "infoprop": {"rollouts": LONG, "wrappers": [(Infoprop, {})]},
    "fixed k = 1": {"rollouts": BranchedRollouts(FixedLength(1), rollouts_per_step=200)},
    "scheduled k": rollouts(ScheduledLength(500, 3_000, 1, 10)),
    "adaptive k": rollouts(AdaptiveLength(bound=0.1, longest=10)),
    "DaD": {"rollouts": LONG, "trainer_config": replace(PRESET.trainer, correction=DataAsDemonstrator(2, 10))},
    "multi-step loss": {
        "rollouts": LONG,
        "model_config": replace(PRESET.model, loss_horizon=3),
        "trainer_config": replace(PRESET.trainer, length=4),
    },
}


def gap(agent: MBPO, seed: int, episodes: int = 20) -> float:
    """Return the mean of the dream's return minus reality's over the first steps of episodes, from the same states."""
    env, real, starts = gym.make(agent.real_id or ENV), [], []
    for episode in range(episodes):
        obs, _ = env.reset(seed=20_000 + 100 * seed + episode)
        starts.append(obs)
        total, steps, over = 0.0, 0, False
        while not over and steps < COMPARED:
            obs, reward, terminated, truncated, _ = env.step(agent.predict(obs, deterministic=True)[0])
            total, steps, over = total + float(reward), steps + 1, terminated or truncated
        real.append(total)
    return float(np.mean(dream_returns(agent, np.array(starts), seed)) - np.mean(real))


@torch.no_grad()
def dream_returns(agent: MBPO, starts: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
    """Return what the deterministic policy earns in the bare model [N], penalties left out, from states [N, *obs]."""
    model: WorldModel[Any] = agent.model
    while isinstance(model, ModelWrapper) and type(model).__name__ not in ("KnownReward", "KnownTermination"):
        model = model.inner
    model, generator = model.frozen(), torch.Generator().manual_seed(seed)
    count = len(starts)
    first, nothing = torch.ones(count, dtype=torch.bool), torch.zeros(count, model.action_codec.size)
    state = model.observe(model.initial(count), nothing, torch.as_tensor(starts), first, generator)
    state = model.branch(state, model.hypotheses)

    def policy(belief: Any) -> torch.Tensor:
        action = agent.predict(model.decode(belief).numpy(), deterministic=True)[0]  # type: ignore[union-attr]
        return model.action_codec.encode(action)

    dream = imagine(model, state, policy, COMPARED, generator, uncertainty=False)
    returns: np.ndarray[Any, Any] = (dream.prediction.reward * dream.alive).sum(1).numpy()
    return returns


class RolloutLengths(BaseCallback):
    """Notes the mean length of the rollouts after each training."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[float] = []

    def _on_step(self) -> bool:
        agent: Any = self.model
        if agent.trainings > len(self.found):
            self.found.append(agent.strategy.mean_length)
        return True


def measure(strategy: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return the run of one strategy and seed."""
    started, lengths, episodes = time.process_time(), RolloutLengths(), Episodes(lambda row: None)
    agent = MBPO("MlpPolicy", ENV, seed=seed, device="cpu", **strategy)
    agent.learn(STEPS, [lengths, episodes])
    seconds = time.process_time() - started
    returns = run_episodes(agent.predict, gym.make(ENV), 10, 10_000 + seed)
    return {
        "seed": seed,
        "evaluation": returns.to_json(),
        "first_full_episode": next((e["real_steps"] for e in episodes.found if e["return"] >= FULL), STEPS + 1),
        "gap": gap(agent, seed),
        "mean_rollout_length": float(np.mean(lengths.found)),
        "cpu_seconds": round(seconds, 1),
    }


def line(name: str, runs: list[dict[str, Any]]) -> str:
    """Return one row of the table, means over seeds."""
    returns = [run["evaluation"]["mean"] for run in runs]
    first, gaps, lengths, seconds = (
        np.mean([run[key] for run in runs])
        for key in ("first_full_episode", "gap", "mean_rollout_length", "cpu_seconds")
    )
    span = f"({min(returns):.0f} to {max(returns):.0f})"
    return f"{name:<16} {np.mean(returns):7.0f} {span:<14} {first:6.0f} {gaps:7.1f} {lengths:8.2f} {seconds:7.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=STRATEGIES)
    parser.add_argument("--out", type=Path, default=RESULTS / "model_error.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':<16}  return                 first 1000     gap  mean k  CPU-s")
    table: dict[str, Any] = {}
    if arguments.out.exists():
        table = json.loads(arguments.out.read_text())["strategies"]
    versions = {"mbrl_gym": mbrl_gym.__version__, "torch": torch.__version__, "python": platform.python_version()}
    for name in arguments.strategies:
        table[name] = []
        for seed in arguments.seeds:
            table[name].append(measure(STRATEGIES[name], seed))
            command = f"python benchmarks/model_error.py --seeds {' '.join(map(str, arguments.seeds))}"
            result = {"command": command, "versions": versions, "processor": processor(), "strategies": table}
            arguments.out.write_text(json.dumps(result, indent=1) + "\n")
        print(line(name, table[name]), flush=True)


if __name__ == "__main__":
    main()
