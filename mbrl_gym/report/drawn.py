"""A film of any model's open loop: pictures as they are, vectors as the environment draws them."""

from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.envs.rendering import Renderer, make_renderer
from mbrl_gym.film import compared, open_loop
from mbrl_gym.model import WorldModel
from mbrl_gym.report.pictures import pictures, sees
from mbrl_gym.spaces import observation_array

Array = np.ndarray[Any, np.dtype[Any]]
WIDTH = 200  # pixels of a drawn picture at most


def drawn_film(model: WorldModel[Any], batch: SequenceBatch, context: int = 5, real_id: str | None = None) -> Array:
    """Return [T, 3 H, B W, 3] uint8: what was, what the model says, and the difference (grey: none), by window.

    The model sees the first ``context`` rows; from then on it goes by the actions alone. Vectors are drawn as
    `mbrl_gym.envs.rendering.make_renderer` draws them, scaled down to 200 pixels across.

    Args:
        model: any world model.
        batch: windows [B, T] of one episode each.
        context: rows that are seen.
        real_id: the real environment's id, which chooses the renderer.

    Raises:
        ValueError: ``context`` leaves nothing to predict.
    """
    said = list(open_loop(model, batch, context))
    if sees(model):
        predicted = [_colours(pictures(model, obs)) for obs, _ in said]
        return compared(_colours(pictures(model, batch.obs)), np.stack(predicted, 1))
    told = [(observation_array(obs), reward.cpu().numpy()) for obs, reward in said]
    shown, paid = observation_array(batch.obs), batch.reward.cpu().numpy()
    actions = model.action_codec.decode(batch.action).cpu().numpy()
    sides: tuple[list[Array], list[Array]] = ([], [])
    for b in range(batch.batch_size):
        true = [(_row(shown, (b, t)), paid[b, t]) for t in range(batch.length)]
        imagined = [(_row(obs, (b,)), reward[b]) for obs, reward in told]
        for side, rows in zip(sides, (true, imagined), strict=True):
            side.append(_draw(make_renderer(real_id, model.observation_space), rows, actions[b]))
    return compared(np.stack(sides[0]), np.stack(sides[1]))


def _colours(images: Tensor) -> Array:
    """Return [..., H, W, 3] of pictures [..., H, W, C], the newest of a stack."""
    newest = images[..., -3:] if images.shape[-1] % 3 == 0 else images[..., -1:].expand(*images.shape[:-1], 3)
    colours: Array = newest.cpu().numpy()
    return colours


def _row(obs: Any, index: tuple[int, ...]) -> Any:
    return {key: x[index] for key, x in obs.items()} if isinstance(obs, dict) else obs[index]


def _draw(renderer: Renderer, rows: list[tuple[Any, Any]], actions: Array) -> Array:
    """Return the pictures [T, H, W, 3] of observations and rewards; an action stands in the row it was taken in."""
    found = []
    try:
        for t, (obs, reward) in enumerate(rows):
            if t:
                renderer.follow(obs, actions[t - 1], float(reward))
            else:
                renderer.begin(obs)
            image = Image.fromarray(renderer.draw())
            image.thumbnail((WIDTH, WIDTH))
            found.append(np.asarray(image))
    finally:
        renderer.close()
    return np.stack(found)
