"""Tiny worlds whose dreams can be computed by hand."""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from mbrl_gym import ModelLoss, ObservationCodec, Prediction, SequenceReplay, StartStates, TensorStruct, WorldModel

BOX = spaces.Box(-100.0, 100.0, (2,), np.float32)
UNBOUNDED = spaces.Box(-np.inf, np.inf, (2,), np.float32)
DICT = spaces.Dict(place=spaces.Box(-100.0, 100.0, (1, 2), np.float32), kind=spaces.Discrete(3))
PUSH = spaces.Box(-2.0, 2.0, (1,), np.float32)


@dataclass(frozen=True)
class WalkConfig:
    """An episode terminates where the first number is beyond ``ends_at``; the largest push emits ``breaks_with``."""

    ends_at: float = 50.0
    breaks_with: float | None = None
    breaks: str = "obs"
    context: int = 1
    noise: float = 0.0


@dataclass(frozen=True)
class WalkState(TensorStruct):
    obs: torch.Tensor
    """[B, D]"""
    past: torch.Tensor
    """[B] sum of all that was observed before, and of the actions taken there"""


class Walk(WorldModel[WalkState]):
    """Adds the encoded push to every number; the reward is the new first number plus ``past``."""

    config_class = WalkConfig

    def __init__(self, observation_space=BOX, action_space=PUSH, config=None):
        super().__init__(observation_space, action_space, config or WalkConfig())
        self.context = self.config.context
        self.codec = ObservationCodec(observation_space)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def initial(self, batch_size):
        return WalkState(torch.zeros(batch_size, self.codec.size), torch.zeros(batch_size))

    def observe(self, state, action, obs, is_first, generator=None):
        past = torch.where(is_first, 0.0, state.past + state.obs.sum(1) + 100 * action.sum(1))
        return WalkState(self.codec.project(self.codec.encode(obs)), past)

    def predict(self, state, action, generator=None, sample=True, uncertainty=True):
        push = action[:, :1] * self.scale
        obs = state.obs + push
        if self.config.noise:
            obs = obs + self.config.noise * torch.randn(obs.shape, generator=generator)
        reward = obs[:, 0] + state.past
        breaks = (action[:, 0] >= 1.0) & (self.config.breaks_with is not None)
        value = torch.tensor(0.0 if self.config.breaks_with is None else self.config.breaks_with)
        if self.config.breaks == "obs":
            obs = torch.where(breaks[:, None], value, obs)
        else:
            reward = torch.where(breaks, value, reward)
        terminated = obs[:, 0] > self.config.ends_at
        state = WalkState(self.codec.project(obs), state.past)
        info = {"push": push[:, 0], "diverged": torch.zeros_like(breaks)}
        unsure = push[:, 0].abs()
        return state, Prediction(reward, terminated, torch.zeros_like(breaks), 1.0 - terminated.float(), unsure, info)

    def features(self, state):
        return state.obs

    def decode(self, state):
        return self.codec.decode(state.obs)

    def loss(self, batch, start=None):
        return ModelLoss(self.scale.square(), {})


def walk_starts(model, *firsts):
    """Contexts [N, C, ...] whose numbers all are ``firsts``; the discrete part of a Dict is 0."""
    n, context = len(firsts), model.context
    numbers = torch.tensor(firsts, dtype=torch.float32)[:, None, None].repeat(1, context, 2)
    action = torch.zeros(n, context, model.action_codec.size)
    if isinstance(model.observation_space, spaces.Dict):
        kind = torch.zeros(n, context, dtype=torch.int64)
        return StartStates({"kind": kind, "place": numbers.reshape(n, context, 1, 2)}, action)
    return StartStates(numbers, action)


def real_steps(env_id, steps, seed=0):
    """A replay of random actions in a real environment."""
    env = gym.make(env_id) if isinstance(env_id, str) else env_id
    replay = SequenceReplay(env.observation_space, env.action_space, 2 * steps)
    env.action_space.seed(seed)
    obs, _ = env.reset(seed=seed)
    replay.begin(obs[None])
    for _ in range(steps):
        action = env.action_space.sample()
        last, reward, terminated, truncated, _ = env.step(action)
        ended = terminated or truncated
        obs = env.reset()[0] if ended else last
        final = last[None] if ended else None
        replay.add(np.asarray(action)[None], obs[None], [reward], [terminated], [truncated], final_obs=final)
    return replay
