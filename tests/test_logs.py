"""The log: what is the same has the same key for every agent, and every key is in the table of docs/runs.md."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import TRPO
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.logger import KVWriter, Logger

from mbrl_gym import EnsembleConfig, TrainerConfig
from mbrl_gym.agents import (
    MBPO,
    PETS,
    BehaviorConfig,
    BranchedRollouts,
    DoubleDQN,
    Dreamer,
    Dyna,
    OptimizerConfig,
    PlaNet,
    SimPLe,
)
from mbrl_gym.agents.dreamer_presets import PRESETS
from mbrl_gym.envs.view import FrameStack
from mbrl_gym.models.rssm_config import RSSMConfig
from mbrl_gym.models.video_config import VideoConfig
from mbrl_gym.planners import CEMConfig, MCTSConfig

ALL = {
    *(f"time/{name}" for name in ("total_timesteps", "imagined_timesteps", "iterations", "episodes", "fps")),
    *(f"time/{name}" for name in ("time_elapsed", "training_cpu_seconds")),
    *("rollout/ep_rew_mean", "rollout/ep_len_mean", "model/loss", "model/updates"),
}
POLICY = {"train/n_updates", "train/learning_rate", "dream/reward_mean"}
FITTED = {"model/epochs", "model/holdout_error", "model/cpu_seconds"}
PLANS = {"plan/seconds", "plan/value", "plan/non_finite"}

NETWORKS: dict[str, Any] = {
    "model_config": EnsembleConfig(members=2, hidden=(8,), termination_hidden=(8,)),
    "trainer_config": TrainerConfig(max_updates=5, max_epochs=2),
    "learning_starts": 40,
    "train_freq": 20,
}
WHOLE = {"dream_steps": 128, "dream_envs": 4, "dream_horizon": 8}
BRANCHED = BranchedRollouts(rollouts_per_step=4, updates_per_step=1)
CEM = CEMConfig(candidates=8, elites=2, iterations=2, horizon=3, particles=1)
SEQUENCES: dict[str, Any] = {
    "optimizer_config": OptimizerConfig("adam", 1e-3, clip=100.0, warmup=4),
    "batch_size": 2,
    "batch_length": 8,
    "train_ratio": 4.0,
    "learning_starts": 40,
    "log_freq": 20,
}
SIZES = {"deter": 16, "hidden": 8, "stoch": 4, "units": 16}


class Blink(gym.Env[Any, Any]):
    """A grey picture that flashes; episodes of five steps."""

    observation_space = spaces.Box(0, 255, (12, 12), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps = 0
        return np.full((12, 12), 50, np.uint8), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        picture = np.full((12, 12), 50 + 150 * int(action), np.uint8)
        return picture, float(action), False, self.steps == 5, {}


class Short(gym.Wrapper[Any, Any, Any, Any]):
    """Ends every episode after five steps, before CartPole can fall."""

    def __init__(self, env_id: str) -> None:
        super().__init__(gym.make(env_id, max_episode_steps=5))


def dyna(algorithm: Any, env: str, **change: Any) -> Any:
    dreams = {} if "rollouts" in change else {**WHOLE, "algorithm_kwargs": {"n_steps": 16, "batch_size": 32}}
    return Dyna("MlpPolicy", Short(env), algorithm=algorithm, **{**NETWORKS, **dreams, **change}, **SEED)


def dreamer(version: int) -> Any:
    defaults = PRESETS["cpu"](version, None)
    sizes = {"horizon": 3, "units": 16, "actor_layers": 1, "critic_layers": 1}
    model, behavior = replace(defaults.model, **SIZES, layers=1), replace(defaults.behavior, **sizes)
    options = {**SEQUENCES, "model_config": model, "behavior_config": behavior}
    return Dreamer("MlpPolicy", Short("CartPole-v1"), version=version, **options, **SEED)


def planet() -> Any:
    model = replace(RSSMConfig.planet(), **SIZES, free_nats=0.0)
    return PlaNet("MlpPolicy", Short("Pendulum-v1"), planner=CEM, model_config=model, **SEQUENCES, **SEED)


def simple() -> Any:
    model = VideoConfig(colours=3, patch=(3, 3), channels=(8, 8), blocks=1, embedding=8, codes=4, frames=2, context=2)
    return SimPLe(
        "CnnPolicy", Blink(), view=FrameStack(2, 36, 36), model_config=model, model_updates=(3,), learning_starts=40,
        trainer_config=TrainerConfig(batch_size=4, length=3), dream_starts=10, train_freq=20, **WHOLE, **SEED,
        algorithm_kwargs={"n_steps": 8, "batch_size": 16},
    )  # fmt: skip


def pets(env: str, planner: Any) -> Any:
    return PETS("MlpPolicy", Short(env), planner=planner, **NETWORKS, **SEED)


SEED: dict[str, Any] = {"seed": 0, "device": "cpu"}
WHOLE_KEYS = ALL | POLICY | FITTED | {"dream/ep_rew_mean", "dream/ep_len_mean", "dream/uncertainty"}
BRANCHED_KEYS = ALL | POLICY | FITTED | {"dream/rollout_length", "dream/ep_len_mean"}
AGENTS: dict[str, Any] = {
    "Dyna(PPO)": (lambda: dyna(PPO, "CartPole-v1"), WHOLE_KEYS),
    "Dyna(TRPO)": (lambda: dyna(TRPO, "CartPole-v1"), WHOLE_KEYS),
    "Dyna(DQN)": (lambda: dyna(DQN, "CartPole-v1", rollouts=BRANCHED), BRANCHED_KEYS),
    "Dyna(DoubleDQN)": (lambda: dyna(DoubleDQN, "CartPole-v1", rollouts=BRANCHED), BRANCHED_KEYS),
    "Dyna(SAC)": (lambda: dyna(SAC, "Pendulum-v1", rollouts=BRANCHED), BRANCHED_KEYS),
    "Dyna(TD3)": (lambda: dyna(TD3, "Pendulum-v1", rollouts=BRANCHED), BRANCHED_KEYS),
    "MBPO": (lambda: MBPO("MlpPolicy", Short("Pendulum-v1"), rollouts=BRANCHED, **NETWORKS, **SEED), BRANCHED_KEYS),
    "PETS": (lambda: pets("Pendulum-v1", CEM), ALL | FITTED | PLANS),
    "MCTS": (lambda: pets("CartPole-v1", MCTSConfig(simulations=4, horizon=3, particles=1)), ALL | FITTED | PLANS),
    "PlaNet": (planet, ALL | PLANS | {"model/updates_per_second"}),
    "DreamerV1": (lambda: dreamer(1), ALL | POLICY | {"model/updates_per_second"}),
    "DreamerV2": (lambda: dreamer(2), ALL | POLICY | {"model/updates_per_second"}),
    "DreamerV3": (lambda: dreamer(3), ALL | POLICY | {"model/updates_per_second"}),
    "SimPLe": (simple, WHOLE_KEYS - {"model/holdout_error"}),
}


class Rows(KVWriter):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: Any, key_excluded: Any, step: int = 0) -> None:
        self.rows.append(dict(key_values))

    def close(self) -> None:
        pass


def documented() -> set[str]:
    """Return the keys in the table of docs/runs.md; "..." stands for any name."""
    page = (Path(__file__).parent.parent / "docs" / "runs.md").read_text()
    return set(re.findall(r"^\| `([a-z]+/[a-z_.]+)` \|", page, re.MULTILINE))


def is_documented(key: str) -> bool:
    return any(re.fullmatch(re.escape(known).replace(r"\.\.\.", ".+"), key) for known in documented())


@pytest.mark.parametrize("name", AGENTS)
def test_the_same_has_the_same_key(name: str) -> None:
    make, expected = AGENTS[name]
    agent, log = make(), Rows()
    agent.set_logger(Logger(None, [log]))
    agent.learn(80)
    last = log.rows[-1]
    assert expected - last.keys() == set()
    assert [key for key in last if not is_documented(key)] == []
    assert all(np.isfinite(value) for key, value in last.items() if key in expected)
    assert last["time/total_timesteps"] == 80
    assert last["time/imagined_timesteps"] == agent.imagined_timesteps > 0
    assert last["time/iterations"] == agent.trainings == len(log.rows)
    assert last["time/episodes"] == 16
    assert last["rollout/ep_len_mean"] == 5
    assert last["model/updates"] == agent.trainer.updates > 0
    if name.startswith("Dreamer"):
        assert last["train/n_updates"] == agent.trainer.updates
        assert last["train/learning_rate"] == agent.optimizer_config.rates()["actor"]
    if "dream/ep_rew_mean" in last:
        assert last["dream/reward_mean"] == pytest.approx(last["dream/ep_rew_mean"] / last["dream/ep_len_mean"])


def test_the_table_has_no_key_that_nothing_logs() -> None:
    """But for those of the commands, which have tests of their own, and of success."""
    others = {"rollout/success_rate", "rollout/ep_rew", "rollout/ep_len", "model/...", "train/..."}
    expected = set().union(*(keys for _, keys in AGENTS.values()))
    assert {key for key in documented() if not key.startswith(("eval/", "report/"))} == expected | others


@pytest.mark.parametrize("optimizer", ["adam", "laprop"])
def test_the_rate_rises_with_the_updates(optimizer: str) -> None:
    config = OptimizerConfig(optimizer, 4e-3, actor_learning_rate=2e-3, warmup=10)
    options = {**SEQUENCES, "behavior_config": BehaviorConfig(horizon=3, units=16)}
    options["model_config"] = RSSMConfig(**SIZES, classes=4, layers=1)
    agent = Dreamer("MlpPolicy", "CartPole-v1", **{**options, "optimizer_config": config, "train_ratio": 1.0}, **SEED)
    rates = []
    agent.learn(100)
    for _ in range(12 - agent.trainer.updates):
        agent._update()
        rates.append((agent.trainer.updates, agent.trainer.rate("actor")))
    behind = int(optimizer == "laprop")
    assert rates == [(n, pytest.approx(2e-3 * min(1, (n - behind) / 10))) for n, _ in rates]
    assert agent.trainer.rate("model") == pytest.approx(4e-3)
    assert len(rates) >= 5
