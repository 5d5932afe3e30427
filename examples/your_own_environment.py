"""Your own environment: recorded steps become a model, the model passes a check, and SAC trains in it alone.

    python examples/your_own_environment.py               # 80 seconds of one core

reaches a real return of -6.6 over 20 episodes (--seed 0) from 2,000 recorded steps; random actions: -158.
"""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import SAC

from mbrl_gym import Ensemble, LearnedVectorEnv, ModelTrainer, TrainerConfig
from mbrl_gym.data import random_policy, record
from mbrl_gym.report import check_model, run_episodes
from mbrl_gym.wrappers import SB3VecEnv


class Boat(gym.Env[Any, Any]):
    """A boat that is pushed left and right, and should stay at 0."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (2,), np.float32)  # place, speed
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin near 0."""
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.state, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Push."""
        place, speed = self.state
        speed = 0.9 * speed + 0.1 * float(action[0])
        self.state = np.clip(np.array([place + speed, speed], np.float32), -10, 10)
        return self.state, -abs(float(place)), False, False, {}


def main() -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    real = gym.wrappers.TimeLimit(Boat(), 50)
    replay = record(real, steps=2_000, seed=args.seed)  # or load_experience(folder), from_minari(data set)
    model = Ensemble(replay.observation_space, replay.action_space)
    ModelTrainer(model, TrainerConfig(max_updates=500 if args.short else 2_000), seed=args.seed).fit(replay)

    for verdict in check_model(model, record(real, steps=1_000, seed=args.seed + 1)):  # steps that it has not seen
        print(f"{verdict.level:4}  {verdict.rule}: {verdict.value:.2f}")
        if verdict.level == "fail":
            raise SystemExit(f"nothing is trained in this model: {verdict.remedy}")

    dream = SB3VecEnv(LearnedVectorEnv(model, replay.starts(), num_envs=16, horizon=50))
    sac = SAC("MlpPolicy", dream, learning_starts=800, gradient_steps=4, seed=args.seed, device="cpu")
    sac.learn(1_000 if args.short else 16_000)
    chance = run_episodes(random_policy(real.action_space), real, 20, seed=10_000).mean
    found = run_episodes(sac.predict, real, 20, seed=10_000).mean
    print(f"{replay.n_transitions:,} real steps: return {found:.1f}, random actions {chance:.1f}")
    return found


if __name__ == "__main__":
    main()
