"""Models of Pendulum-v1 that are healthy or have one planted fault, and policies to judge them with."""

import copy

import gymnasium as gym
import numpy as np
import torch

from mbrl_gym import Ensemble, EnsembleConfig, ModelTrainer, SequenceReplay, TrainerConfig
from mbrl_gym.envs.dream import Dream
from mbrl_gym.report import Noisy, run_episodes

ENV = "Pendulum-v1"


def pump(obs, memory, episode_start, deterministic):
    """Push where it swings: much more energetic than random actions; of one observation or of many."""
    speed = np.asarray(obs)[..., 2:]
    return np.where(speed >= 0, 2.0, -2.0).astype(np.float32), None


class Linear:
    """Torque is 2 tanh(gains . (observation, 1))."""

    def __init__(self, gains):
        self.gains = torch.as_tensor(gains, dtype=torch.float32)  # [..., 4]

    def encoded(self, obs):
        """Actions [B, 1] in [-1, 1] for tensors [B, 3]; one row of gains for each, or one for all."""
        inputs = torch.cat([obs, torch.ones_like(obs[..., :1])], -1)
        return torch.tanh((inputs * self.gains).sum(-1, keepdim=True))

    def __call__(self, obs, memory, episode_start, deterministic):
        return 2 * self.encoded(torch.as_tensor(np.asarray(obs))).numpy(), None


def recorded(policies, episodes=5, seed=0, steps=200):
    """Real episodes of each of the policies; None is random actions."""
    env = gym.make(ENV)
    replay = SequenceReplay(env.observation_space, env.action_space, 50_000)
    for i, policy in enumerate(policies):
        predict = policy or Noisy(None, env.action_space, seed=seed)
        run_episodes(predict, env, episodes, seed + 100 * i, replay, max_steps=steps)
    return replay


def fitted(replay, updates=1500, members=3, seed=0):
    """An ensemble of some seconds' fit."""
    torch.manual_seed(seed)
    config = EnsembleConfig(members=members, hidden=(64, 64), learn_termination=False)
    model = Ensemble(replay.observation_space, replay.action_space, config)
    trainer = TrainerConfig(max_updates=updates, max_epochs=10_000, learning_rate=3e-3)
    ModelTrainer(model, trainer, seed=seed).fit(replay)
    return model.eval().requires_grad_(False)


def flipped(model):
    """The model with its reward's sign turned, as where a wrapper changed it on the way into the replay."""

    class Flipped(type(model)):
        def _moments(self, raw):
            mean, variance = super()._moments(raw)
            return torch.cat([mean[..., :-1], -mean[..., -1:]], -1), variance

    return _changed(model, Flipped)


def overconfident(model, factor=16.0):
    """The model with too small variances."""

    class Overconfident(type(model)):
        def _moments(self, raw):
            mean, variance = super()._moments(raw)
            return mean, variance / factor

    return _changed(model, Overconfident)


def stale(model, shift=6.0, scale=1.0):
    """The model with a normaliser of other data."""
    model = copy.deepcopy(model)
    model.input_mean.add_(shift * model.input_std)
    model.input_std.mul_(scale)
    return model


def _changed(model, kind):
    changed = copy.deepcopy(model)
    changed.__class__ = kind
    kind.frozen = lambda self: self  # which would be one of the unchanged kind
    return changed


def cheated(model, starts, steps=100, population=96, iterations=8, seed=0):
    """The linear policy that earns most in the dream: cross-entropy search, the mean of 4 starts each."""
    rng = np.random.default_rng(seed)
    mean, deviation = np.zeros(4), np.full(4, 3.0)
    dream = Dream(model.frozen(), starts, population * 4, steps)
    for _ in range(iterations):
        gains = rng.normal(mean, deviation, (population, 4))
        rows = Linear(np.repeat(gains, 4, 0))
        dream.generator.manual_seed(seed)
        obs, total = dream.reset(), torch.zeros(population * 4)
        for _ in range(steps):
            obs, step = dream.step(rows.encoded(obs))
            total += step.reward
        elites = gains[total.view(population, 4).mean(1).argsort(descending=True)[:12].numpy()]
        mean, deviation = elites.mean(0), elites.std(0) + 0.05
    return Linear(mean)
