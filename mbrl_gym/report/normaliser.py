"""Whether a model's normaliser still fits: what the networks read of data should have mean 0 and deviation 1."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mbrl_gym.horizon_error import seeded
from mbrl_gym.model import WorldModel
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.report.open_loop import _array
from mbrl_gym.report.predictions import segments
from mbrl_gym.report.section import Section

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class NormaliserFit(Section):
    """How what the networks read of data is distributed.

    Attributes:
        mean: [F] of each feature; 0 where the normaliser is that of the data.
        deviation: [F]; 1 where it is.
        size: the largest root mean square of a feature; 1 where the normaliser is that of the data. Data from a part of
            what the model was trained on may be narrow in one feature or another, and not in all of them.
        misfit: the factor, up or down, between that and 1.
    """

    mean: Array
    deviation: Array
    size: float
    misfit: float


@torch.inference_mode()
def normaliser_fit(
    model: WorldModel[Any], data: SequenceReplay, windows: int = 2000, seed: int = 0
) -> NormaliserFit | None:
    """Return how well a model's normaliser fits data like that which it was trained on; None where it has none.

    Raises:
        ValueError: nothing in the data is long enough, or ``windows`` is below 1.
    """
    if not isinstance(getattr(model, "input_std", None), torch.Tensor):
        return None
    batch = segments(model, data, 1, windows, seed)
    seen = batch[:, : model.context]
    features = model.features(model.believe(seen.obs, seen.action, seeded(model, seed))).double()
    size = float(features.square().mean(0).sqrt().amax())
    mean, deviation = _array(features.mean(0)), _array(features.std(0, unbiased=False))
    return NormaliserFit(mean, deviation, size, max(size, 1 / max(size, 1e-12)))
