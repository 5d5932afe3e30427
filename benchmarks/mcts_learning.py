"""Tree search in a learned model of CartPole-v1, from 3,000 real steps, as JSON.

    python benchmarks/mcts_learning.py cartpole      # Dyna with PPO, then MCTS led by its policy and critic
    python benchmarks/mcts_learning.py cartpole_dqn  # Dyna with DoubleDQN, wary of what the model is unsure of

Reward and termination are learned, too. The last model and policy are what counts, nothing is selected; beside the
search stands the policy alone. Results go to benchmarks/results/mcts_TASK.json. Run it with OMP_NUM_THREADS=1.
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

from mbrl_gym.agents import BranchedRollouts, DoubleDQN, Dyna, FixedLength, search_policy
from mbrl_gym.planners import MCTSConfig
from mbrl_gym.wrappers import UncertaintyPenalty

ENV, STEPS, EPISODES = "CartPole-v1", 3_000, 10
LEADERS: dict[str, dict[str, Any]] = {
    # Dreams must be long enough to show that a slow drift ends at the border.
    "cartpole": {"algorithm": PPO, "dream_horizon": 200, "algorithm_kwargs": {"gamma": 0.99}},
    # Where nothing was seen values are guesses, and a search goes where they are high: the penalty keeps it away.
    "cartpole_dqn": {
        "algorithm": DoubleDQN,
        "rollouts": BranchedRollouts(FixedLength(10), rollouts_per_step=20, retain=4, updates_per_step=20),
        "wrappers": [(UncertaintyPenalty, {"coefficient": 3.0})],
    },
}
SEARCH = MCTSConfig(simulations=32, horizon=30, particles=5)


def returns(policy: Any, seed: int) -> dict[str, Any]:
    """Return the returns of 10 episodes, all at once: the model then steps in batches of 10."""
    env = make_vec_env(ENV, EPISODES, seed=10_000 + 100 * seed)
    found, _ = evaluate_policy(policy, env, EPISODES, return_episode_rewards=True)
    return {"episodes": EPISODES, "mean": float(np.mean(found)), "returns": [float(r) for r in found]}


def led(leader: dict[str, Any], seed: int, say: Say) -> dict[str, Any]:
    """Return the run of Dyna, and of the search that its policy or values lead."""
    started = time.process_time()
    agent = Dyna("MlpPolicy", gym.make(ENV), seed=seed, device="cpu", **leader)
    agent.learn(STEPS, Episodes(say))
    policy_alone = returns(agent, seed)
    found = returns(search_policy(agent, SEARCH, seed), seed)
    spent = time.process_time() - started
    return {
        "real_steps": agent.num_timesteps,
        "imagined_steps": agent.imagined_timesteps,
        "cpu_seconds": spent,
        "evaluation": found,
        "policy_alone": policy_alone,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(LEADERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/mcts_TASK.json)")
    arguments = parser.parse_args()
    leader = LEADERS[arguments.task]
    run_seeds("mcts_learning.py", "mcts", arguments, arguments.task, lambda seed, say: led(leader, seed, say))


if __name__ == "__main__":
    main()
