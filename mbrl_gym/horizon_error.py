"""How far a model's predictions are from recorded reality after k imagined steps.

One legend of shapes: W windows, C rows of context, K imagined steps, D encoded observation dimensions.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import WorldModel
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.spaces import ObservationCodec

Array = np.ndarray[Any, np.dtype[Any]]

SCALE_ROWS = 10_000  # rows that the units are measured on, at most


def errors_by_horizon(
    model: WorldModel[Any], replay: SequenceReplay, longest: int, windows: int, since: Array, least: int
) -> list[float]:
    """Return the error after k = 1, 2, ... imagined steps on the newest experience, overall as in `OpenLoopError`.

    Unlike `mbrl_gym.report.open_loop_error`, which follows the same segments to their end, each k has all segments that
    are long enough for it: where episodes are short, that is what there is.

    Args:
        model: any world model of vector observations.
        replay: real experience.
        longest: the largest k.
        windows: segments at most, evenly spaced.
        since: [n_envs] the step of each environment from which on rows count as new.
        least: with fewer segments than this the list ends.

    Raises:
        ValueError: the observations are images.
    """
    codec = ObservationCodec(replay.observation_space)
    generator, errors = seeded(model, 0), list[float]()
    unit = scale(codec, replay, 0).to(model.device) if len(replay) else torch.ones(codec.size)
    for k in range(1, longest + 1):
        starts = replay.windows(model.context + k)
        starts = starts[starts // replay.n_envs >= since[starts % replay.n_envs]]
        if len(starts) < least:
            break
        chosen = starts[np.linspace(0, len(starts) - 1, min(windows, len(starts))).astype(np.int64)]
        batch = replay.gather(chosen, model.context + k, device=model.device)
        real, predicted, _ = roll(model, codec, batch, generator, sample=False)
        errors.append(float(((predicted[:, -1] - real[:, -1]) / unit).square().mean().sqrt()))
    return errors


@torch.inference_mode()
def roll(
    model: WorldModel[Any],
    codec: ObservationCodec,
    batch: SequenceBatch,
    generator: torch.Generator,
    sample: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return real and predicted observations [W, K + 1, D] (row 0 is the last of the context) and rewards [W, K]."""
    context = model.context
    real = codec.encode(batch.obs)[:, context - 1 :]  # [W, K + 1, D]
    seen = {k: v[:, :context] for k, v in batch.obs.items()} if isinstance(batch.obs, dict) else batch.obs[:, :context]
    state = model.believe(seen, batch.action[:, :context], generator)
    predicted, rewards = [real[:, 0]], []
    for t in range(context - 1, batch.length - 1):
        state, prediction = model.predict(state, batch.action[:, t], generator, sample, uncertainty=False)
        predicted.append(codec.encode(model.decode(state)))
        rewards.append(prediction.reward)
    return real, torch.stack(predicted, dim=1), torch.stack(rewards, dim=1)


def seeded(model: WorldModel[Any], seed: int) -> torch.Generator:
    """Return a generator on the model's device."""
    return torch.Generator(device=model.device).manual_seed(seed)


def scale(codec: ObservationCodec, replay: SequenceReplay, seed: int) -> Tensor:
    """Return [D], the standard deviation of each dimension over the rows of the replay."""
    return deviation(_rows(codec, replay, seed))


def centre(codec: ObservationCodec, replay: SequenceReplay, seed: int) -> Tensor:
    """Return [D], the mean of each dimension over the same rows."""
    return _rows(codec, replay, seed).double().mean(0).float()


def _rows(codec: ObservationCodec, replay: SequenceReplay, seed: int) -> Tensor:
    """Return rows of the replay [N, D]."""
    rows = replay.windows(1)
    if len(rows) > SCALE_ROWS:
        rows = np.random.default_rng(seed).choice(rows, SCALE_ROWS, replace=False)
    return codec.encode(replay.gather(rows, 1).obs)[:, 0]


def deviation(x: Tensor) -> Tensor:
    """Return the standard deviation of each column [N, D] -> [D]; a constant column has the unit 1."""
    deviation = x.double().std(0, unbiased=False).float()
    return torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))
