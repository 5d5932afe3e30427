"""How a model's error grows with the imagined steps, on three kinds of dynamics: a figure and JSON.

    python benchmarks/compounding_error.py

Pendulum-v1 (bounded: the error saturates), InvertedPendulum-v5 (an unstable plant: it grows exponentially) and
HalfCheetah-v5. Each ensemble is fitted to 3,000 real steps and judged on other episodes of the same policy, beside the
error of predicting that nothing changes. Policies are random, but for the inverted pendulum, whose random episodes last
ten steps: there, a linear feedback with noise keeps the pole up. Results go to
benchmarks/results/compounding_error.json
and .png. Run it with OMP_NUM_THREADS=1 and MUJOCO_GL=egl.
"""

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from dyna_learning import RESULTS, processor
from matplotlib.figure import Figure

import mbrl_gym
from mbrl_gym import Ensemble, ModelTrainer, SequenceReplay
from mbrl_gym.report import open_loop_error, random_policy, run_episodes

STEPS, HORIZON = 3_000, 50


def balance(env: gym.Env[Any, Any], seed: int) -> Callable[..., tuple[Any, None]]:
    """Return a feedback that keeps the pole of InvertedPendulum up, with noise of deviation 0.5."""
    gains, rng = np.array([0.5, 10.0, 0.8, 1.5]), np.random.default_rng(seed)
    space: Any = env.action_space

    def act(obs: Any, *_: Any) -> tuple[Any, None]:
        force = gains @ obs + 0.5 * rng.standard_normal()
        return np.clip([force], space.low, space.high).astype(np.float32), None

    return act


def uniform(env: gym.Env[Any, Any], seed: int) -> Callable[..., tuple[Any, None]]:
    """Return random actions."""
    return random_policy(env.action_space, seed)


TASKS: dict[str, Callable[[gym.Env[Any, Any], int], Any]] = {
    "Pendulum-v1": uniform,
    "InvertedPendulum-v5": balance,
    "HalfCheetah-v5": uniform,
}


def experience(env_id: str, seed: int) -> SequenceReplay:
    """Return at least `STEPS` real steps in episodes of at most 200."""
    env = gym.make(env_id, max_episode_steps=200)
    policy = TASKS[env_id](env, seed)
    replay = SequenceReplay(env.observation_space, env.action_space, 4 * STEPS)
    while replay.n_transitions < STEPS:
        seed += 1
        run_episodes(policy, env, 1, seed=seed, replay=replay)
    return replay


def measure(env_id: str, seed: int) -> dict[str, Any]:
    """Return the errors over k of one seed, in standard deviations of the data."""
    data, test = experience(env_id, 1_000 * seed), experience(env_id, 1_000 * seed + 500)
    torch.manual_seed(seed)
    model = Ensemble(data.observation_space, data.action_space)
    ModelTrainer(model, seed=seed).fit(data)
    error = open_loop_error(model, test, horizon=HORIZON, seed=seed)
    return {"seed": seed, "error": error.overall.tolist(), "persistence": error.overall_persistence.tolist()}


def figure(table: dict[str, list[dict[str, Any]]]) -> Figure:
    """Return the errors over k, a panel an environment."""
    picture = Figure(figsize=(11, 3.6), dpi=110, layout="constrained")
    steps = np.arange(1, HORIZON + 1)
    for at, (env_id, runs) in enumerate(table.items()):
        axes = picture.add_subplot(1, len(table), at + 1)
        for run in runs:
            axes.semilogy(steps, run["error"], color="#c2410c", label="model" if run is runs[0] else None)
            axes.semilogy(
                steps, run["persistence"], ":", color="#6b7280", label="nothing changes" if run is runs[0] else None
            )
        axes.set(title=env_id, xlabel="imagined steps k", ylabel="error [standard deviations]" if at == 0 else None)
        axes.legend()
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS / "compounding_error.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, list[dict[str, Any]]] = {}
    for env_id in TASKS:
        table[env_id] = [measure(env_id, seed) for seed in arguments.seeds]
        mean = np.mean([run["error"] for run in table[env_id]], axis=0)
        still = np.mean([run["persistence"] for run in table[env_id]], axis=0)
        shown = "  ".join(f"k={k}: {mean[k - 1]:.3g} ({still[k - 1]:.3g})" for k in (1, 5, 10, 25, 50))
        print(f"{env_id:<20} {shown}", flush=True)
    versions = {"mbrl_gym": mbrl_gym.__version__, "torch": torch.__version__, "python": platform.python_version()}
    command = f"python benchmarks/compounding_error.py --seeds {' '.join(map(str, arguments.seeds))}"
    result = {"command": command, "versions": versions, "processor": processor(), "environments": table}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    figure(table).savefig(arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
