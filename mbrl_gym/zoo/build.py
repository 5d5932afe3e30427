"""Make the shipped models from scratch: ``python -m mbrl_gym.zoo.build [ID ...]`` (or ``make zoo``).

Each recipe runs Dyna on the real environment several times with fresh policies and one growing replay: where a policy
exploits the model, its own real steps correct it. The last model is fitted once more and for longer to everything,
measured on episodes that it was not trained on, and written into this folder with a card.
"""

import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch

import mbrl_gym
from mbrl_gym.agents import Dyna
from mbrl_gym.fit import ModelTrainer, TrainerConfig
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.report import open_loop_error, random_policy, run_episodes
from mbrl_gym.store import save_model
from mbrl_gym.zoo import FOLDER

HORIZONS = (1, 5, 10, 25, 50)


LONG_FIT = TrainerConfig(max_updates=20_000, max_epochs=10_000, patience=10_000)


@dataclass(frozen=True)
class Recipe:
    """How one shipped model is made: a run of Dyna for each seed, ``real_steps`` long, on what the ones before saw."""

    real_id: str
    real_steps: int
    seeds: tuple[int, ...]
    last_fit: TrainerConfig = LONG_FIT
    arguments: dict[str, Any] = field(default_factory=dict)


RECIPES = {
    "Learned-Pendulum-v1": Recipe("Pendulum-v1", 3_000, seeds=(0, 1, 2)),
    "Learned-CartPole-v1": Recipe(
        "CartPole-v1",
        3_000,
        seeds=(0, 1, 2, 3, 4, 5),
        arguments={"dream_horizon": 200, "algorithm_kwargs": {"gamma": 0.99, "learning_rate": 1e-3}},
    ),
}


def build(env_id: str, root: Path = FOLDER) -> dict[str, Any]:
    """Train, measure and write the model of ``env_id``; return its card."""
    recipe = RECIPES[env_id]
    replay: SequenceReplay | None = None
    for seed in recipe.seeds:
        agent = Dyna("MlpPolicy", recipe.real_id, seed=seed, replay=replay, device="cpu", **recipe.arguments)
        agent.learn(recipe.real_steps, progress_bar=True)
        replay = agent.replay
    steps = recipe.real_steps * len(recipe.seeds)
    ModelTrainer(agent.model, recipe.last_fit, seed=agent.trainer.seed).fit(agent.replay)  # with the same holdout
    card = {
        "made_by": f"python -m mbrl_gym.zoo.build {env_id}",
        "data": f"{steps} steps of {recipe.real_id}: {agent.learning_starts} of random actions, then of the policies "
        f"of {len(recipe.seeds)} runs of Dyna with PPO",
        "seeds": list(recipe.seeds),
        "real_steps": steps,
        "versions": versions(),
        "fidelity": fidelity(agent, recipe),
    }
    stored = agent.stored_model(reset_states=500, card=card)
    save_model(root / env_id, stored)
    (root / env_id / "CARD.md").write_text(card_text(env_id, stored.card))
    return stored.card


def fidelity(agent: Dyna, recipe: Recipe) -> dict[str, Any]:
    """Return the open-loop error on fresh episodes of the last policy and of random actions, and their returns."""
    env = gym.make(recipe.real_id)
    result: dict[str, Any] = {}
    for name, policy in (("policy", agent.predict), ("random", random_policy(env.action_space, recipe.seeds[0]))):
        replay = SequenceReplay(env.observation_space, env.action_space, 50_000)
        returns = run_episodes(policy, env, 20, seed=50_000 + recipe.seeds[0], replay=replay)
        longest = max(k for k in HORIZONS if len(replay.windows(k + 1)))
        error = open_loop_error(agent.model, replay, horizon=longest)
        result[name] = {
            "episodes": 20,
            "real_return": round(returns.mean, 1),
            "error_over_k": {str(k): float(f"{error.overall[k - 1]:.3g}") for k in HORIZONS if k <= longest},
            "persistence_over_k": {
                str(k): float(f"{error.overall_persistence[k - 1]:.3g}") for k in HORIZONS if k <= longest
            },
        }
    return result


def versions() -> dict[str, str]:
    """Return the versions that the numbers depend on."""
    return {
        "mbrl_gym": mbrl_gym.__version__,
        "torch": torch.__version__,
        "gymnasium": gym.__version__,
        "stable_baselines3": stable_baselines3.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def card_text(env_id: str, card: dict[str, Any]) -> str:
    """Return the card as Markdown."""
    lines = [
        f"# {env_id}",
        "",
        f"Made by `{card['made_by']}`, seeds {card['seeds']}, from {card['data']}.",
        f"mbrl_gym {card['versions']['mbrl_gym']}, torch {card['versions']['torch']}.",
        "",
        "Open-loop error after k imagined steps with recorded actions, in standard deviations of the observation, on",
        "20 episodes that the model was not trained on (in brackets: predicting that nothing changes).",
        "",
        "| episodes of | real return | " + " | ".join(f"k = {k}" for k in HORIZONS) + " |",
        "| --- | --- | " + " | ".join("---" for _ in HORIZONS) + " |",
    ]
    for name, row in card["fidelity"].items():
        cells = [
            f"{row['error_over_k'][str(k)]} ({row['persistence_over_k'][str(k)]})"
            if str(k) in row["error_over_k"]
            else "-"
            for k in HORIZONS
        ]
        lines.append(f"| {name} | {row['real_return']} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Build the models named on the command line, or all."""
    torch.set_num_threads(1)
    for env_id in sys.argv[1:] or RECIPES:
        print(card_text(env_id, build(env_id)))


if __name__ == "__main__":
    main()
