"""Observations as pictures, and how alike two pictures are.

One legend of shapes: N pictures, H rows, W columns, C channels.
"""

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn.functional import avg_pool2d

from mbrl_gym.model import WorldModel
from mbrl_gym.spaces import Observation, is_image

BEST_PSNR = 100.0  # decibel where all pixels are equal, in place of infinity
WINDOW = 7  # rows and columns that structure is compared over


def sees(model: WorldModel[Any]) -> bool:
    """Return whether a model predicts pictures: it is a model of them, or its observations hold one."""
    space = model.observation_space
    leaves = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    return hasattr(model, "pictures") or any(is_image(leaf) for leaf in leaves)


def pictures(model: WorldModel[Any], obs: Observation) -> Tensor:
    """Return the pictures [..., H, W, C] uint8 of a model's observations; of several the first by name."""
    space = model.observation_space
    if isinstance(space, spaces.Dict):
        key = next(key for key, leaf in sorted(space.spaces.items()) if is_image(leaf))
        assert isinstance(obs, dict)
        obs, space = obs[key], space[key]
    assert isinstance(obs, Tensor)
    shape = space.shape or ()
    if len(shape) == 2:
        return obs[..., None]
    return obs.movedim(-3, -1) if shape[0] < shape[-1] else obs


def psnr(predicted: Tensor, real: Tensor) -> Tensor:
    """Return [N] the peak signal-to-noise ratio of pictures [N, H, W, C] uint8 in decibel, at most 100.

    Source: scikit-image ``peak_signal_noise_ratio``.
    """
    error = (predicted.double() - real.double()).square().flatten(1).mean(1)
    ratio: Tensor = (10 * torch.log10(255.0**2 / error)).clamp(max=BEST_PSNR)
    return ratio


def ssim(predicted: Tensor, real: Tensor) -> Tensor:
    """Return [N] the structural similarity of pictures [N, H, W, C] uint8: 1 where they are equal.

    The mean over channels and all windows of 7 x 7 pixels (of the largest odd size that fits into smaller pictures),
    with unbiased variances. Source: Wang et al. 2004, equation 13, as scikit-image ``structural_similarity`` has it by
    default (no Gaussian weights).
    """
    x, y = (image.double().movedim(-1, 1) for image in (predicted, real))  # [N, C, H, W]
    size = min(WINDOW, *x.shape[-2:])
    size -= 1 - size % 2
    count = size**2
    unbiased = count / max(count - 1, 1)
    mean_x, mean_y = avg_pool2d(x, size, 1), avg_pool2d(y, size, 1)
    variance_x = unbiased * (avg_pool2d(x * x, size, 1) - mean_x.square())
    variance_y = unbiased * (avg_pool2d(y * y, size, 1) - mean_y.square())
    covariance = unbiased * (avg_pool2d(x * y, size, 1) - mean_x * mean_y)
    a, b = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    above = (2 * mean_x * mean_y + a) * (2 * covariance + b)
    below = (mean_x.square() + mean_y.square() + a) * (variance_x + variance_y + b)
    likeness: Tensor = (above / below).flatten(1).mean(1)
    return likeness
