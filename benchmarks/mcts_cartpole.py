"""Tree search in a learned model of CartPole-v1, from 3,000 real steps, as JSON: alone, and led by a policy.

    python benchmarks/mcts_cartpole.py rollouts      # PETS with MCTS: random rollouts say what a leaf is worth
    python benchmarks/mcts_cartpole.py led           # Dyna with PPO, then MCTS led by its policy and critic

Reward and termination are learned, too. The last model and policy are what counts, nothing is selected; beside the led
search stands the policy alone. Results go to benchmarks/results/mcts_cartpole_KIND.json. Run it with OMP_NUM_THREADS=1.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from _learning import Episodes, Say, run_seeds
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from mbrl_gym.agents import PETS, Dyna, search_policy
from mbrl_gym.planners import MCTSConfig

ENV, STEPS, EPISODES = "CartPole-v1", 3_000, 10
ROLLOUTS = MCTSConfig(simulations=50, horizon=30, particles=5)
LED = MCTSConfig(simulations=50, horizon=30, particles=5)


def returns(policy: Any, seed: int) -> dict[str, Any]:
    """Return the returns of 10 episodes, all at once: the model then steps in batches of 10."""
    env = make_vec_env(ENV, EPISODES, seed=10_000 + 100 * seed)
    found, _ = evaluate_policy(policy, env, EPISODES, return_episode_rewards=True)
    return {"episodes": EPISODES, "mean": float(np.mean(found)), "returns": [float(r) for r in found]}


def alone(seed: int, say: Say) -> dict[str, Any]:
    """Return the run of PETS with MCTS, in 10 environments at once."""
    started = time.process_time()
    agent = PETS(
        "MlpPolicy",
        make_vec_env(ENV, EPISODES),
        planner=ROLLOUTS,
        learning_starts=500,
        train_freq=500,
        seed=seed,
        device="cpu",
    )
    agent.learn(STEPS, Episodes(say))
    return {**_counts(agent), "evaluation": returns(agent, seed), "cpu_seconds": time.process_time() - started}


def led(seed: int, say: Say) -> dict[str, Any]:
    """Return the run of Dyna with PPO, and of the search that its policy leads."""
    started = time.process_time()
    agent = Dyna("MlpPolicy", gym.make(ENV), algorithm=PPO, seed=seed, device="cpu")
    agent.learn(STEPS, Episodes(say))
    policy_alone = returns(agent, seed)
    found = returns(search_policy(agent, LED, seed), seed)
    spent = time.process_time() - started
    return {**_counts(agent), "evaluation": found, "policy_alone": policy_alone, "cpu_seconds": spent}


def _counts(agent: Any) -> dict[str, Any]:
    return {"real_steps": agent.num_timesteps, "imagined_steps": agent.imagined_timesteps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["rollouts", "led"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/mcts_cartpole_KIND.json)")
    arguments = parser.parse_args()
    run_seeds(
        "mcts_cartpole.py", "mcts_cartpole", arguments, arguments.task, alone if arguments.task == "rollouts" else led
    )


if __name__ == "__main__":
    main()
