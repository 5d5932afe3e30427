"""Latent overshooting: an RSSM's prior compared with its posterior several steps ahead, PlaNet's option."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch

if TYPE_CHECKING:
    from mbrl_gym.models.rssm import RSSM, RSSMState


def overshooting(model: "RSSM", states: "RSSMState", posterior: Tensor, batch: SequenceBatch) -> Tensor:
    """Return [], the mean divergence of posteriors from priors that saw nothing for 2 or more steps.

    From each belief the prior goes on with the real actions, up to ``config.overshooting`` steps. Gradients reach the
    belief that is started from, not the posterior that is compared with. Pairs across the border of an episode do not
    count. Source: Hafner et al. 2019, section 4; google-research/planet ``tools/overshooting.py``.

    Args:
        model: the model.
        states: beliefs [B, T].
        posterior: its outputs for the last rows [B, T or T - 1, ...].
        batch: the windows [B, T].
    """
    length = batch.length
    without = length - posterior.shape[1]  # first rows that have no posterior, 0 or 1
    total, pairs = posterior.new_zeros(()), posterior.new_zeros(())
    ahead = states
    whole = torch.ones_like(batch.is_first)
    for distance in range(1, min(model.config.overshooting, length - 1) + 1):
        kept = length - distance  # rows that have so many behind them
        ahead, prior = _next(model, ahead[:, :kept], batch.action[:, distance - 1 : -1])
        whole = whole[:, :kept] & ~batch.is_first[:, distance:]
        if distance == 1:
            continue  # the model's own loss
        target = posterior[:, distance - without :].detach()
        divergence = model.latent.kl(model.latent.dist(target), model.latent.dist(prior))  # [B, kept]
        total = total + (divergence.clamp(min=model.config.free_nats) * whole).sum()
        pairs = pairs + whole.sum()
    return total / pairs.clamp(min=1.0)


def _next(model: "RSSM", states: "RSSMState", action: Tensor) -> tuple["RSSMState", Tensor]:
    """Return the imagined beliefs [B, K] after ``action`` [B, K, A], and the prior's outputs for them."""
    shape = action.shape[:2]
    flat = states.map(lambda x: x.flatten(0, 1))
    deter = model.cell(flat.deter, flat.stoch, model.cell.embed(action.flatten(0, 1)))
    prior = model.prior(deter)
    stoch = model.latent.sample(model.latent.dist(prior), model.latent.noise((len(deter),), deter.device))
    after = type(states)(deter, stoch).map(lambda x: x.reshape(*shape, -1))
    return after, prior.reshape(*shape, -1)
