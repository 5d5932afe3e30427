"""What a model says of recorded transitions, put beside them: the material that `calibration` judges.

One legend of shapes: W windows, N transitions, E members, P particles, K imagined steps, D scored dimensions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.horizon_error import deviation, roll
from mbrl_gym.model import DensityModel, WorldModel
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.report.open_loop import _draw
from mbrl_gym.report.scores import sample_quantile
from mbrl_gym.spaces import ObservationCodec
from mbrl_gym.tensors import TensorStruct

ROWS = 16_384  # particles that are imagined at a time, at most
SMALLEST_VARIANCE = 1e-24  # in standardised units


@dataclass(frozen=True)
class Steps(TensorStruct):
    """N transitions and what the model says of them, in standardised units.

    Attributes:
        mean: [E, N, D] float64.
        std: [E, N, D].
        target: [N, D].
        at_low: [N, D] bool, the target is the lower bound of its space.
        at_high: [N, D] bool.
        centre: [N, D] the mixture's mean, within the space.
        uncertainty: [N].
    """

    mean: Tensor
    std: Tensor
    target: Tensor
    at_low: Tensor
    at_high: Tensor
    centre: Tensor
    uncertainty: Tensor


def segments(
    model: WorldModel[Any], data: SequenceReplay | SequenceBatch, horizon: int, windows: int, seed: int
) -> SequenceBatch:
    """Return at most ``windows`` windows of C + K rows within one episode on the model's device."""
    if isinstance(data, SequenceReplay):
        return _draw(model, data, horizon, windows, seed)
    if not isinstance(data, SequenceBatch):
        raise TypeError(f"data must be a SequenceReplay or a SequenceBatch, got {type(data).__name__}")
    for name, value in (("horizon", horizon), ("windows", windows)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    length = model.context + horizon
    if data.length >= length:
        first = data.is_first.unfold(1, length, 1)[..., 1:]  # [W, T - length + 1, length - 1]
        window, row = torch.nonzero(~first.any(-1), as_tuple=True)
    if data.length < length or len(window) == 0:
        raise ValueError(
            f"data must hold a window with {length} rows of one episode to judge {horizon} steps, got windows of "
            f"{data.length} rows; lower horizon or cut longer windows"
        )
    order = torch.from_numpy(np.sort(np.random.default_rng(seed).permutation(len(window))[:windows]))
    window, row = (x[order.to(x.device)][:, None] for x in (window, row))
    return data[window, row + torch.arange(length, device=row.device)].to(model.device)


def _believe(model: WorldModel[Any], batch: SequenceBatch, generator: torch.Generator) -> tuple[Any, Tensor]:
    """Return the belief [W] after the context and the action [W, A] that was taken there."""
    seen = batch[:, : model.context]
    return model.believe(seen.obs, seen.action, generator), seen.action[:, -1]


@torch.inference_mode()
def uncertainty_of(model: WorldModel[Any], batch: SequenceBatch, generator: torch.Generator) -> Tensor:
    """Return [W], how uncertain the model says the step after the context is."""
    state, action = _believe(model, batch, generator)
    return model.predict(state, action, generator, sample=False)[1].uncertainty


def scored(model: WorldModel[Any], codec: ObservationCodec) -> int:
    """Return D: without the reward where the model does not learn it."""
    return codec.size + bool(getattr(model.config, "learn_reward", True))


def change_scale(model: WorldModel[Any], codec: ObservationCodec, batch: SequenceBatch) -> Tensor:
    """Return [D]: the standard deviation of the changes and, where it is learned, of the reward; of constants 1."""
    obs = codec.encode(batch.obs)[:, -2:]
    change = torch.cat([obs[:, 1] - obs[:, 0], batch.reward[:, -1:]], dim=-1)
    return deviation(change)[: scored(model, codec)].double()


@torch.inference_mode()
def predict_steps(
    model: DensityModel[Any], codec: ObservationCodec, batch: SequenceBatch, scale: Tensor, generator: torch.Generator
) -> Steps:
    """Return the last transition of each window [N, C + 1] beside what the model says of it."""
    size = len(scale)
    state, action = _believe(model, batch, generator)
    mean, variance = (x[..., :size].double() for x in model.moments(state, action))
    bound = codec.low.new_full((1,), torch.inf)
    low, high = (torch.cat(x)[:size].to(scale.device) for x in ((codec.low, -bound), (codec.high, bound)))
    target = torch.cat([codec.encode(batch.obs)[:, -1], batch.reward[:, -1:]], dim=-1)[:, :size]
    centre = torch.minimum(torch.maximum(mean.mean(0), low), high)
    return Steps(
        mean=mean / scale,
        std=(variance / scale.square()).clamp(min=SMALLEST_VARIANCE).sqrt(),
        target=target / scale,
        at_low=target <= low,
        at_high=target >= high,
        centre=centre / scale,
        uncertainty=uncertainty_of(model, batch, generator),
    )


@torch.inference_mode()
def particle_quantiles(
    model: DensityModel[Any],
    codec: ObservationCodec,
    batch: SequenceBatch,
    particles: int,
    generator: torch.Generator,
) -> Tensor:
    """Return [W, K, D]: which quantile of P sampled rollouts reality is; every particle forms a belief of its own."""
    rows = max(1, ROWS // particles)
    parts = (batch[begin : begin + rows] for begin in range(0, batch.batch_size, rows))
    return torch.cat([_particle_quantiles(model, codec, part, particles, generator) for part in parts])


def _particle_quantiles(
    model: DensityModel[Any], codec: ObservationCodec, batch: SequenceBatch, particles: int, generator: torch.Generator
) -> Tensor:
    samples, target = particle_samples(model, codec, batch, particles, generator)
    return sample_quantile(samples, target, generator)


@torch.inference_mode()
def particle_samples(
    model: WorldModel[Any], codec: ObservationCodec, batch: SequenceBatch, particles: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return P sampled rollouts [P, W, K, D] and reality [W, K, D]; every particle forms a belief of its own."""
    real, predicted, reward = roll(model, codec, batch.repeat(particles), generator, sample=True)
    target = torch.cat([real[::particles, 1:], batch.reward[:, model.context :, None]], dim=-1)  # [W, K, D]
    samples = torch.cat([predicted[:, 1:], reward[..., None]], dim=-1)  # [W * P, K, D]
    samples = samples.reshape(-1, particles, *samples.shape[1:]).transpose(0, 1)  # [P, W, K, D]
    size = scored(model, codec)
    return samples[..., :size], target[..., :size]
