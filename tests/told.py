"""An ensemble whose members predict what they are told: linear in the action, with constant variances."""

import torch

from mbrl_gym import Ensemble, EnsembleConfig, SequenceBatch
from worlds import BOX, PUSH


class Told(Ensemble):
    """Member e says that (observation, reward) changes by ``mean[e] + slope[e] * action``, variance ``variance[e]``."""

    def tell(self, mean, variance, slope=0.0):
        self.mean = torch.as_tensor(mean, dtype=torch.float32)  # [E, D + 1]
        self.variance = torch.as_tensor(variance, dtype=torch.float32).expand_as(self.mean)
        self.slope = torch.as_tensor(slope, dtype=torch.float32).expand_as(self.mean)
        return self

    def _raw(self, x, bound):
        members = self.elites if bound else slice(None)
        mean = self.mean[members, None] + self.slope[members, None] * x[..., -1:]
        return torch.cat([mean, self.variance[members, None].expand_as(mean)], dim=-1)

    def _moments(self, raw):
        return raw.chunk(2, dim=-1)


def told(mean, variance=1.0, slope=0.0, scale=(1.0, 1.0, 1.0), propagation="ts_inf", space=BOX, **config):
    """A `Told` on two numbers and a push; ``scale`` is its ``target_std``."""
    config = {"hidden": (4,), "termination_hidden": (4,), "clamp_margin": None, **config}
    torch.manual_seed(0)
    model = Told(space, PUSH, EnsembleConfig(members=len(mean), propagation=propagation, **config))
    model.target_std.copy_(torch.as_tensor(scale))
    return model.tell(mean, variance, slope)


def steps(actions, obs=None, after=None, reward=None):
    """Windows [W, 2] with these actions [W], observations and next ones [W, 2], zeros by default."""
    n = len(actions)
    action = torch.zeros(n, 2, 1)
    action[:, 0, 0] = torch.as_tensor(actions)
    zeros = torch.zeros(n, 2)
    pair = [zeros if x is None else torch.as_tensor(x, dtype=torch.float32) for x in (obs, after)]
    rewards = torch.zeros(n, 2)
    if reward is not None:
        rewards[:, 1] = torch.as_tensor(reward)
    flags = torch.zeros(n, 2, dtype=torch.bool)
    first = flags.clone()
    first[:, 0] = True
    return SequenceBatch(torch.stack(pair, 1), action, rewards, flags, flags, first, torch.arange(2 * n).reshape(n, 2))


def at(model, action, obs=(0.0, 0.0), particles=None):
    """The beliefs in ``obs`` and the encoded actions [B, 1]."""
    action = torch.as_tensor(action, dtype=torch.float32)[:, None]
    n = len(action)
    where = torch.tensor(obs).expand(n, 1, 2)
    return model.believe(where, torch.zeros(n, 1, 1), torch.Generator().manual_seed(0)), action
