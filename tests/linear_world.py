"""A linear world with Gaussian noise, for models that say what they know and what nobody can."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_gym import ModelTrainer, SequenceReplay
from mbrl_gym.fit import FitReport, TrainerConfig
from mbrl_gym.models.transition import TransitionModel, TransitionState

PLANE = spaces.Box(-np.inf, np.inf, (2,), np.float32)
TORQUE = spaces.Box(-1, 1, (1,), np.float32)
NOISE = (0.1, 0.05, 0.2)  # deviations of x', y' and the reward


def linear_world(steps: int, seed: int = 0, ends: bool = False) -> SequenceReplay:
    """Single steps of x' = x + a / 2, y' = 0.9 y, reward x / 2, all with noise; an end is where x' is above 1."""
    rng, n = np.random.default_rng(seed), 20
    replay = SequenceReplay(PLANE, TORQUE, 100_000, n)
    no = np.zeros(n, bool)
    obs = rng.normal(size=(n, 2)).astype(np.float32)
    replay.begin(obs)
    for _ in range(steps // n):
        action = rng.uniform(-1, 1, (n, 1)).astype(np.float32)
        noise = rng.normal(size=(n, 3)) * NOISE
        after = np.stack([obs[:, 0] + action[:, 0] / 2, 0.9 * obs[:, 1]], 1) + noise[:, :2]
        reward = obs[:, 0] / 2 + noise[:, 2]
        obs = rng.normal(size=(n, 2)).astype(np.float32)
        replay.add(action, obs, reward, after[:, 0] > 1 if ends else no, ~no, after.astype(np.float32))
    return replay


def windows(replay: SequenceReplay, length: int = 2) -> Any:
    """All windows of a replay."""
    return replay.gather(replay.windows(length), length)


def fit(model: TransitionModel, replay: SequenceReplay, config: TrainerConfig | None = None) -> FitReport:
    """Fit in the way that agents do."""
    return ModelTrainer(model, config or TrainerConfig(), seed=0).fit(replay)


def belief(obs: Tensor) -> TransitionState:
    """A belief [B], bound to the first hypothesis."""
    return TransitionState(obs, torch.zeros(len(obs), dtype=torch.int64))


def grid(radius: float, n: int = 40) -> TransitionState:
    """Beliefs on a circle."""
    angle = torch.arange(n) * (2 * torch.pi / n)
    return belief(radius * torch.stack([angle.cos(), angle.sin()], 1))


def uncertainty(model: TransitionModel, radius: float) -> float:
    """The mean uncertainty on a circle."""
    state = grid(radius)
    with torch.no_grad():
        return model.predict(state, torch.zeros(len(state.obs), 1), sample=False)[1].uncertainty.mean().item()


def coverage(model: TransitionModel, replay: SequenceReplay) -> list[float]:
    """How often the 90 % intervals of the hypotheses' mixture hold what happens, a number a dimension."""
    data = model._transitions(windows(replay))
    kept = data.weight[0] > 0
    with torch.no_grad():
        means, variances = model._moments(model._raw(data.x[kept], bound=False))
    deviation = (variances.mean(0) + means.var(0, unbiased=False)).sqrt()
    covered: list[float] = ((data.target[kept] - means.mean(0)).abs() < 1.6449 * deviation).float().mean(0).tolist()
    return covered
