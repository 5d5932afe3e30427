"""Learn a model of the real pendulum and a policy inside it, from 3,000 real steps.

    python examples/dyna_pendulum.py                      # 40 seconds of one core

reaches a real return of -183 ± 97 over 20 episodes (-121 with --seed 1; benchmarks/dyna_learning.py has five seeds with
other start states). Random actions: -1200; PPO in reality needs 100,000 steps for -172.
"""

import argparse

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from mbrl_gym.agents import Dyna


def main() -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    if args.short:
        agent = Dyna("MlpPolicy", "Pendulum-v1", algorithm=PPO, seed=args.seed, learning_starts=100, dream_steps=2_048)
        agent.learn(100)
    else:
        agent = Dyna("MlpPolicy", "Pendulum-v1", algorithm=PPO, seed=args.seed)
        agent.learn(3_000, progress_bar=True)  # 3,000 REAL steps

    real = Monitor(gym.make("Pendulum-v1"))
    real.reset(seed=10_000)  # the same start states each time
    mean, std = evaluate_policy(agent, real, n_eval_episodes=2 if args.short else 20)
    print(f"{agent.num_timesteps:,} real steps, {agent.imagined_timesteps:,} imagined: return {mean:.0f} ± {std:.0f}")
    return float(mean)


if __name__ == "__main__":
    main()
