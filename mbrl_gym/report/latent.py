"""Health of an RSSM's latent state: whether observations say anything that the prior does not know.

One legend of shapes: W windows, T rows, U units (numbers or groups of the stochastic state).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mbrl_gym.model import WorldModel
from mbrl_gym.models.rssm import ACTIVE, RSSM
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.report.open_loop import _array
from mbrl_gym.report.predictions import segments
from mbrl_gym.report.section import Section

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class LatentHealth(Section):
    """Divergence of the posterior from the prior on recorded reality, after the first row of each window.

    Attributes:
        kl: nats a row, mean.
        kl_by_unit: [U] the same by unit.
        active_units: how many units say more than 0.01 nats a row on average; 0 is a collapsed posterior.
        units: U.
        rows: how many were filtered.
    """

    kl: float
    kl_by_unit: Array
    active_units: int
    units: int
    rows: int


@torch.inference_mode()
def latent_health(
    model: WorldModel[Any], data: SequenceReplay, length: int = 16, windows: int = 64, seed: int = 0
) -> LatentHealth | None:
    """Return the health of a recurrent model's latent state; None for other models.

    Args:
        model: any world model, wrapped or not.
        data: recorded reality.
        length: rows that are filtered in each window, besides the context.
        windows: segments at most, drawn without replacement.
        seed: of the draw and of the posterior's samples.

    Raises:
        ValueError: nothing in the data is long enough, or a number is below 1.
    """
    inner = getattr(model, "unwrapped", model)
    if not isinstance(inner, RSSM):
        return None
    batch = segments(inner, data, length, windows, seed)
    with torch.random.fork_rng([inner.device] if inner.device.type == "cuda" else []):
        torch.manual_seed(seed)  # filtering whole windows draws from the global generator
        units = inner.divergence(batch)[:, 1:]  # [W, T - 1, U]
    mean = _array(units.mean((0, 1)))
    return LatentHealth(
        kl=float(mean.sum()),
        kl_by_unit=mean,
        active_units=int((mean > ACTIVE).sum()),
        units=len(mean),
        rows=units.shape[0] * units.shape[1],
    )
