"""Predicted pictures against recorded ones after k steps: likeness, and whether the objects of a game are there.

One legend of shapes: W windows, N pictures, K imagined steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl_gym.horizon_error import seeded
from mbrl_gym.model import WorldModel
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.report.pictures import pictures, psnr, ssim
from mbrl_gym.report.predictions import segments
from mbrl_gym.report.section import PICTURES_ONLY, Section

Array = np.ndarray[Any, np.dtype[Any]]
# Where an object is in pictures [N, H, W] (grey) or [N, H, W, 3] uint8: rows, [N], or rows and columns, [N, 2]; NaN
# where there is none. `mbrl_gym.zoo.pong` has ball and paddle.
Locate = Callable[[Array], Array]

NEAR = 2.0  # pixels within which an object counts as found
FILM = 3  # windows that the figure shows


@dataclass(frozen=True)
class ImageError(Section):
    """How good pictures are after k = 1 ... K recorded actions.

    Attributes:
        psnr: [K] peak signal-to-noise ratio in decibel, of the pixels of all segments together: a few perfect ones must
            not outweigh the others.
        ssim: [K] mean structural similarity.
        still_psnr: [K] that of showing the last real picture on and on.
        still_ssim: [K].
        recall: by object [K], the share of the recorded ones that are predicted within 2 pixels; NaN without any.
        still_recall: the same of showing the last real picture.
        windows: W.
        film: [K + 1, 2, F, H, W, C] uint8, recorded and predicted, of some windows; row 0 is the last that was seen.
    """

    psnr: Array
    ssim: Array
    still_psnr: Array
    still_ssim: Array
    recall: dict[str, Array]
    still_recall: dict[str, Array]
    windows: int
    film: Array = field(metadata=PICTURES_ONLY)


@torch.inference_mode()
def image_error(
    model: WorldModel[Any],
    data: SequenceReplay,
    horizon: int = 30,
    windows: int = 32,
    objects: Mapping[str, Locate] | None = None,
    seed: int = 0,
) -> ImageError:
    """Return how far the mean prediction's pictures are from recorded ones after 1 ... ``horizon`` recorded actions.

    Likeness says little about a game: a ball is a few of its pixels. So name the objects that matter.

    Args:
        model: a model of pictures, see `mbrl_gym.report.pictures.sees`.
        data: recorded reality.
        horizon: K.
        windows: segments at most, drawn without replacement.
        objects: functions that say where an object is, by its name.
        seed: of the draw and of what the model draws when it forms its belief.

    Raises:
        ValueError: nothing in the data is long enough, or a number is below 1.
    """
    objects = objects or {}
    batch, generator = segments(model, data, horizon, windows, seed), seeded(model, seed)
    real = pictures(model, batch.obs)[:, model.context - 1 :]  # [W, K + 1, H, W, C]
    seen = batch[:, : model.context]
    state = model.believe(seen.obs, seen.action, generator)
    rows: list[list[float]] = []
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in objects}
    film = [torch.stack([real[:FILM, 0]] * 2)]
    for k in range(1, horizon + 1):
        state, _ = model.predict(state, batch.action[:, model.context + k - 2], generator, False, uncertainty=False)
        drawn, true, still = pictures(model, model.decode(state)), real[:, k], real[:, 0]
        rows.append([value for x in (drawn, still) for value in (_psnr(x, true), float(ssim(x, true).mean()))])
        for name, locate in objects.items():
            found[name].append((_recall(locate, drawn, true), _recall(locate, still, true)))
        film.append(torch.stack([true[:FILM], drawn[:FILM]]))
    model_psnr, model_ssim, still_psnr, still_ssim = np.array(rows).T
    return ImageError(
        psnr=model_psnr,
        ssim=model_ssim,
        still_psnr=still_psnr,
        still_ssim=still_ssim,
        recall={name: np.array(pairs)[:, 0] for name, pairs in found.items()},
        still_recall={name: np.array(pairs)[:, 1] for name, pairs in found.items()},
        windows=batch.batch_size,
        film=torch.stack(film).cpu().numpy(),
    )


def _psnr(drawn: Tensor, true: Tensor) -> float:
    """Return the ratio of all pictures [N, H, W, C] as one."""
    return float(psnr(drawn.flatten(0, 1)[None], true.flatten(0, 1)[None]))


def _recall(locate: Locate, drawn: Tensor, true: Tensor) -> float:
    """Return the share of the recorded objects that are drawn where they are; NaN without any."""
    there, here = (np.asarray(locate(_plain(x)), dtype=np.float64).reshape(len(x), -1) for x in (drawn, true))
    present = ~np.isnan(here).any(1)
    if not present.any():
        return float("nan")
    distance = np.abs(there - here).max(1)[present]  # NaN, where nothing is drawn, is not near
    return float((distance <= NEAR).mean())


def _plain(images: Tensor) -> Array:
    """Return [N, H, W] or [N, H, W, 3]."""
    array: Array = images.cpu().numpy()
    return array[..., 0] if array.shape[-1] == 1 else array
