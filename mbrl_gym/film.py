"""Open-loop films of a model that sees: truth, prediction and error, one above the other."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import WorldModel
from mbrl_gym.spaces import Observation

Array = np.ndarray[Any, Any]


def open_loop_film(model: WorldModel[Any], batch: SequenceBatch, context: int = 5, key: str | None = None) -> Array:
    """Return [T, 3 H, B W, C] uint8: what was, what the model says, and the difference (grey: none), by window.

    The model sees the first ``context`` rows; from then on it goes by the actions alone. Source: danijar/dreamerv3
    ``dreamerv3/agent.py`` (report).

    Args:
        model: a model whose observations are images.
        batch: windows [B, T] of one episode each.
        context: rows that are seen.
        key: which image, where observations are dictionaries.

    Raises:
        ValueError: ``context`` leaves nothing to predict, or ``key`` names no image.
    """
    said = [_image(obs, key) for obs, _ in open_loop(model, batch, context)]
    return compared(_image(batch.obs, key), np.stack(said, 1))


def compared(truth: Array, predicted: Array) -> Array:
    """Return [T, 3 H, B W, C] uint8: pictures [B, T, H, W, C], the predicted ones, and the difference (grey: none)."""
    error = ((predicted.astype(np.int16) - truth + 255) // 2).astype(np.uint8)
    film = np.concatenate([truth, predicted, error], 2)  # [B, T, 3 H, W, C]
    return np.concatenate(list(film), 2)


@torch.no_grad()
def open_loop(model: WorldModel[Any], batch: SequenceBatch, context: int) -> Iterator[tuple[Observation, Tensor]]:
    """Yield T times what the model says of a row: observations [B, *obs] and rewards [B], of rows it has seen the real.

    Args:
        model: any world model.
        batch: windows [B, T] of one episode each.
        context: rows that are seen.

    Raises:
        ValueError: ``context`` leaves nothing to predict.
    """
    if not 1 <= context < batch.length:
        raise ValueError(f"context must be at least 1 and below the {batch.length} rows of batch, got {context}")
    generator = torch.Generator(model.device).manual_seed(0)
    state = model.initial(batch.batch_size)
    for t in range(batch.length):
        action, reward = batch.action[:, max(t - 1, 0)], batch.reward[:, t]
        if t < context:
            now = {k: x[:, t] for k, x in batch.obs.items()} if isinstance(batch.obs, dict) else batch.obs[:, t]
            is_first = torch.full_like(batch.is_first[:, 0], t == 0)
            state = model.observe(state, action, now, is_first, generator)
        else:
            state, prediction = model.predict(state, action, generator)
            reward = prediction.reward
        yield model.decode(state), reward


def film_strip(film: Array, every: int = 1) -> Array:
    """Return [3 H, T' B W, C]: every so-manyth picture of a film [T, 3 H, B W, C], side by side."""
    return np.concatenate(list(film[::every]), 1)


def _image(obs: Any, key: str | None) -> Array:
    """Return the image [..., H, W, C] of observations."""
    if isinstance(obs, dict):
        if key not in obs:
            raise ValueError(f"key must name an image of the observations {sorted(obs)}, got {key!r}")
        obs = obs[key]
    pixels: Array = obs.cpu().numpy()
    if pixels.dtype != np.uint8 or pixels.ndim < 4:
        raise ValueError(f"observations must be images, uint8 [..., H, W, C], got {pixels.dtype} {pixels.shape}")
    return np.moveaxis(pixels, -3, -1) if pixels.shape[-3] < pixels.shape[-1] else pixels
