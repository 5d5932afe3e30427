"""Off-policy algorithms in the dream: returns over real steps, as JSON, beside what learns without a model.

    python benchmarks/mbpo_learning.py inverted_pendulum                   # MBPO, 5,000 real steps
    python benchmarks/mbpo_learning.py hopper --seeds 0 1                  # MBPO, 25,000 real steps
    python benchmarks/mbpo_learning.py pendulum_sac                        # Dyna with SAC, 3,000 real steps
    python benchmarks/mbpo_learning.py pendulum_tqc                        # Dyna with TQC
    python benchmarks/mbpo_learning.py cartpole_dqn                        # Dyna with DQN, 5,000 real steps
    python benchmarks/mbpo_learning.py cartpole_double_dqn                 # and with double Q-learning
    python benchmarks/mbpo_learning.py inverted_pendulum --control ppo_dream   # PPO in whole dream episodes
    python benchmarks/mbpo_learning.py hopper --control sac --seeds 0 1    # SB3's SAC on as many real steps
    python benchmarks/mbpo_learning.py hopper --control crossq --seeds 0 1 # CrossQ, two updates a step

The last policy is what counts, nothing is selected. Results go to benchmarks/results/mbpo_TASK.json; seeds that are
there already from earlier runs stay. Run it with OMP_NUM_THREADS=1 and MUJOCO_GL=egl.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
from _learning import Episodes, Say, run_seeds
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm

from mbrl_gym.agents import MBPO, BranchedRollouts, DoubleDQN, Dyna, FixedLength, LeanSAC
from mbrl_gym.report import run_episodes


@dataclass(frozen=True)
class Task:
    """An environment, the agent that is measured on it, and how long.

    Attributes:
        env: id of the real environment.
        steps: real steps.
        agent: makes the agent from a seed and its arguments.
        arguments: of the agent.
        episodes: of the last policy, to report.
    """

    env: str
    steps: int
    agent: Callable[..., BaseAlgorithm]
    arguments: dict[str, Any] = field(default_factory=dict)
    episodes: int = 10


# As RL Zoo's for Pendulum-v1, with small networks.
SMALL: dict[str, Any] = {"learning_rate": 1e-3, "policy_kwargs": {"net_arch": [64, 64]}}
# The updates, networks and rollouts of the paper's Hopper; the model and its fits stay those of the cpu preset.
AS_PUBLISHED: dict[str, Any] = {
    "rollouts": BranchedRollouts(FixedLength(1), rollouts_per_step=400, updates_per_step=20, retain=4),
    "policy_kwargs": {"net_arch": [256, 256]},
}
CARTPOLE = BranchedRollouts(FixedLength(10), rollouts_per_step=20, retain=4)
TASKS = {
    "inverted_pendulum": Task("InvertedPendulum-v5", 5_000, MBPO),
    "hopper": Task("Hopper-v5", 25_000, MBPO, AS_PUBLISHED),
    "pendulum_sac": Task("Pendulum-v1", 3_000, Dyna, {"algorithm": LeanSAC, "algorithm_kwargs": SMALL}),
    "pendulum_tqc": Task("Pendulum-v1", 3_000, Dyna, {"algorithm": TQC, "algorithm_kwargs": SMALL}),
    "cartpole_dqn": Task(
        "CartPole-v1",
        5_000,
        Dyna,
        {"algorithm": DQN, "rollouts": CARTPOLE},
    ),
    "cartpole_double_dqn": Task("CartPole-v1", 5_000, Dyna, {"algorithm": DoubleDQN, "rollouts": CARTPOLE}),
}


def ppo_dream(env: str, **arguments: Any) -> BaseAlgorithm:
    """Return Dyna with PPO in whole dream episodes."""
    return Dyna("MlpPolicy", env, algorithm=PPO, **arguments)


def sac(env: str, **arguments: Any) -> BaseAlgorithm:
    """Return SB3's SAC with its default arguments."""
    return SAC("MlpPolicy", env, **arguments)


def crossq(env: str, **arguments: Any) -> BaseAlgorithm:
    """Return sb3-contrib's CrossQ with two gradient steps a real step, and with MBPO's widths.

    Its own critics of 1,024 need 140 ms an update on a CPU, these 24 ms. What it is known for is that one update a step
    does what others need twenty for (Bhatt et al. 2024).
    """
    return CrossQ("MlpPolicy", env, gradient_steps=2, policy_kwargs={"net_arch": [256, 256]}, **arguments)


CONTROLS: dict[str, Callable[..., BaseAlgorithm]] = {"ppo_dream": ppo_dream, "sac": sac, "crossq": crossq}


def train(task: Task, control: str | None, seed: int, say: Say) -> dict[str, Any]:
    """Return the run of one seed."""
    started = time.process_time()
    if control is None:
        agent = task.agent("MlpPolicy", task.env, seed=seed, device="cpu", **task.arguments)
    else:
        agent = CONTROLS[control](task.env, seed=seed, device="cpu")
    episodes = Episodes(say)
    agent.learn(task.steps, episodes)
    returns = run_episodes(agent.predict, gym.make(task.env), task.episodes, 10_000 + seed)
    return {
        "real_steps": agent.num_timesteps,
        "imagined_steps": getattr(agent, "imagined_timesteps", 0),
        "cpu_seconds": round(time.process_time() - started, 1),
        "episodes": episodes.found,
        "evaluation": returns.to_json(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--control", choices=CONTROLS, help="train this instead, on as many real steps")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/mbpo_TASK.json)")
    arguments = parser.parse_args()
    name = "_".join(filter(None, (arguments.task, arguments.control)))
    run_seeds(
        "mbpo_learning.py",
        "mbpo",
        arguments,
        name,
        lambda s, say: train(TASKS[arguments.task], arguments.control, s, say),
    )


if __name__ == "__main__":
    main()
