"""PPO trained only in the shipped Learned-Pong, then on the real ALE/Pong-v5, over seeds, as JSON.

    python benchmarks/pong_transfer.py pong --seeds 0 1       # a million dream steps each, some CPU-hours

Ten full games of the real one with frame skip 4 and no sticky actions, deterministic actions, the last policy; nothing
is selected. The policy is kept under --work and training goes on from there. Results go to
benchmarks/results/pong_transfer.json. Run it with OMP_NUM_THREADS=1.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from _learning import Say, run_seeds
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import NatureCNN

import mbrl_gym  # noqa: F401  (registers Learned-Pong)
from mbrl_gym.nets.precision import mixed_precision
from mbrl_gym.wrappers import SB3VecEnv, make_atari

DREAMS, STEPS, SAVE_EVERY = 16, 1_000_000, 20_480
# RL Zoo's for Atari, with rollouts that are as long in all.
PPO_ATARI: dict[str, Any] = {
    "n_steps": 128,
    "batch_size": 256,
    "n_epochs": 4,
    "learning_rate": lambda left: 2.5e-4 * left,
    "clip_range": lambda left: 0.1 * left,
    "ent_coef": 0.01,
    "vf_coef": 0.5,
}


class MixedCnn(NatureCNN):
    """SB3's network, its convolutions in bfloat16 where these are fast: in less than half of the time."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return features [B, 512] in float32."""
        with mixed_precision(observations.device, 400 * len(observations)):
            return super().forward(observations).float()


POLICY = {"features_extractor_class": MixedCnn}


class Keep(BaseCallback):
    """Saves the policy now and then, and says how the dream's games go."""

    def __init__(self, file: Path, say: Say) -> None:
        super().__init__()
        self._file, self._say = file, say

    def _on_step(self) -> bool:
        if self.num_timesteps % SAVE_EVERY < DREAMS:
            self.model.save(self._file)
            buffer = self.model.ep_info_buffer or []
            self._say({"dream_steps": self.num_timesteps, "games": [e["r"] for e in list(buffer)[-10:]]})
        return True


def trained(seed: int, file: Path, say: Say) -> PPO:
    """Return PPO after a million steps in the dream, gone on with where ``file`` stopped."""
    venv = SB3VecEnv(gym.make_vec("Learned-Pong", num_envs=DREAMS, device="cpu"))
    if file.exists():
        model = PPO.load(file, venv, device="cpu", custom_objects={"seed": seed})
    else:
        model = PPO("CnnPolicy", venv, seed=seed, device="cpu", policy_kwargs=POLICY, **PPO_ATARI)
    venv.bootstrap_with(model)
    left = STEPS - model.num_timesteps
    if left > 0:
        model.learn(left, Keep(file, say), reset_num_timesteps=model.num_timesteps == 0)
        model.save(file)
    return model


def real_games(model: PPO, seed: int, count: int = 10) -> list[float]:
    env = Monitor(make_atari("ALE/Pong-v5"))
    env.reset(seed=10_000 + seed)
    returns, _ = evaluate_policy(model, env, count, deterministic=True, return_episode_rewards=True)
    return [float(r) for r in returns]  # type: ignore[union-attr]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["pong"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--work", type=Path, default=Path("runs/pong_transfer"))
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/pong_transfer.json)")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    work = vars(arguments).pop("work")

    def run(seed: int, say: Say) -> dict[str, Any]:
        started = time.process_time()
        model = trained(seed, work / f"ppo_{seed}.zip", say)
        cpu, returns = time.process_time() - started, real_games(model, seed)
        mean = sum(returns) / len(returns)
        evaluation = {"episodes": len(returns), "mean": mean, "returns": returns}
        imagined = model.num_timesteps
        return {"real_steps": 0, "imagined_steps": imagined, "cpu_seconds": round(cpu, 1), "evaluation": evaluation}

    run_seeds("pong_transfer.py", "pong", arguments, "transfer", run)


if __name__ == "__main__":
    main()
