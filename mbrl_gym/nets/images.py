"""Convolutions of the Dreamer family: images to features and back.

Shapes: N images, H height, W width, C channels; images are channels-last uint8 as environments make them.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d, pixel_shuffle

from mbrl_gym.nets.blocks import ACTIVATIONS, BlockLinear, Linear, RMSNorm, activated, truncated_

MULTIPLES = (2, 3, 4, 4)  # of the depth, by stage; source: danijar/dreamerv3 dreamerv3/rssm.py
LEAST, MOST = 3, 16  # height and width of the innermost features


def stages(height: int, width: int) -> int:
    """Return how often an image is halved: as often as possible, up to four times.

    Raises:
        ValueError: no number of halvings leaves 3 to 16 rows and columns.
    """
    for count in range(len(MULTIPLES), 0, -1):
        inner = [size / 2**count for size in (height, width)]
        if all(x.is_integer() and LEAST <= x <= MOST for x in inner):
            return count
    raise ValueError(
        f"images must be halved one to four times to {LEAST} to {MOST} rows and columns, got {height}x{width}; "
        "resize them, for example to 64x64 with gymnasium.wrappers.ResizeObservation"
    )


class Convolution(nn.Conv2d):
    """A convolution that starts as the Dreamer's: truncated normal by the fan-in, biases zero."""

    def reset_parameters(self) -> None:
        """Start anew."""
        truncated_(self.weight, math.prod(self.weight.shape[1:]))
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class _Normed(nn.Module):
    """Norm over the channels and activation of [N, C, H, W], in memory channels-last."""

    def __init__(self, channels: int, activation: str, norm: bool) -> None:
        super().__init__()
        self.norm = RMSNorm(channels) if norm else nn.Identity()
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        return activated(x.permute(0, 2, 3, 1), self.norm, self.activation).permute(0, 3, 1, 2)


class PooledEncoder(nn.Module):
    """DreamerV3's: 5x5 convolutions, each followed by a maximum over 2x2: [N, C, H, W] -> [N, E].

    Source: danijar/dreamerv3 ``dreamerv3/rssm.py`` (Encoder) at e3f0224.

    Args:
        shape: (H, W, C) of the images.
        depth: by which channels are multiplied.
        activation: "silu", "elu" or "relu".
        norm: whether features are normed over their channels.
    """

    def __init__(self, shape: tuple[int, int, int], depth: int, activation: str, norm: bool) -> None:
        super().__init__()
        height, width, channels = shape
        count = stages(height, width)
        depths = [depth * multiple for multiple in MULTIPLES[:count]]
        self.convolutions = nn.ModuleList(
            Convolution(before, after, 5, padding=2)
            for before, after in zip([channels, *depths[:-1]], depths, strict=True)
        )
        self.normed = nn.ModuleList(_Normed(after, activation, norm) for after in depths)
        self.size = depths[-1] * (height >> count) * (width >> count)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, E], rows and columns before channels."""
        for convolution, normed in zip(self.convolutions, self.normed, strict=True):
            x = normed(max_pool2d(convolution(x), 2))
        return x.permute(0, 2, 3, 1).flatten(1)


class PooledDecoder(nn.Module):
    """DreamerV3's: features, doubled in size before each 5x5 convolution, to sigmoids: [N, D], [N, S] -> [N, C, H, W].

    Doubling by repetition and a 5x5 convolution are together four 3x3 convolutions of the small image, one for each
    corner of a doubled pixel; that is how it is computed here, in a third of the multiplications. Source:
    danijar/dreamerv3 ``dreamerv3/rssm.py`` (Decoder) at e3f0224.

    Args:
        shape: (H, W, C) of the images.
        depth: by which channels are multiplied.
        deter: D.
        stoch: S.
        units: half of the hidden units over the stochastic state.
        activation: "silu", "elu" or "relu".
        norm: whether features are normed over their channels.
        blocks: in which the deterministic state is read; fewer where the channels are no multiple of them.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        depth: int,
        deter: int,
        stoch: int,
        units: int,
        activation: str,
        norm: bool,
        blocks: int,
    ) -> None:
        super().__init__()
        height, width, channels = shape
        count = stages(height, width)
        depths = [depth * multiple for multiple in MULTIPLES[:count]]
        self.inner = (height >> count, width >> count, depths[-1])
        size = math.prod(self.inner)
        self.blocks = math.gcd(blocks, depths[-1])
        self.from_deter = BlockLinear(deter, size, self.blocks)
        self.from_stoch = nn.Sequential(
            Linear(stoch, 2 * units),
            RMSNorm(2 * units) if norm else nn.Identity(),
            ACTIVATIONS[activation](),
            Linear(2 * units, size),
        )
        self.first = _Normed(depths[-1], activation, norm)
        outputs = [*depths[:-1][::-1], channels]
        self.convolutions = nn.ModuleList(
            Convolution(before, after, 5, padding=2)
            for before, after in zip([depths[-1], *outputs[:-1]], outputs, strict=True)
        )
        self.normed = nn.ModuleList([*(_Normed(after, activation, norm) for after in outputs[:-1]), nn.Sigmoid()])

    def forward(self, deter: Tensor, stoch: Tensor) -> Tensor:
        """Return [N, C, H, W] between 0 and 1."""
        height, width, channels = self.inner
        own = self.from_deter(deter).view(-1, self.blocks, height, width, channels // self.blocks)
        own = own.permute(0, 1, 4, 2, 3).flatten(1, 2)  # [N, G * C / G, H, W]
        other = self.from_stoch(stoch).view(-1, height, width, channels).permute(0, 3, 1, 2)
        x = self.first(own + other)
        for convolution, normed in zip(self.convolutions, self.normed, strict=True):
            assert isinstance(convolution, Convolution)
            x = normed(doubled_convolution(x, convolution.weight, convolution.bias))
        found: Tensor = x
        return found


def doubled_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the 5x5 convolution [N, O, 2H, 2W] of ``x`` [N, I, H, W] with every pixel repeated 2x2, zeros around.

    Of the five columns that a kernel [O, I, 5, 5] reads, a pixel in the left half of a repeated pair sees the pair
    before it twice, its own twice and the next once; one in the right half 1, 2, 2. Rows alike.
    """
    small = _corners(_corners(weight, 2), 4)  # [q, p, O, I, 3, 3]: the corner's column, its row
    small = small.permute(2, 1, 0, 3, 4, 5).flatten(0, 2)  # [O * 4, I, 3, 3]
    each = None if bias is None else bias.repeat_interleave(4)
    return pixel_shuffle(conv2d(x, small, each, padding=1), 2)


def _corners(weight: Tensor, axis: int) -> Tensor:
    """Return [2, ...], a kernel's axis of five as the three pixels that each half of a doubled one sees."""
    a, b, c, d, e = weight.unbind(axis)
    return torch.stack([torch.stack([a + b, c + d, e], axis), torch.stack([a, b + c, d + e], axis)])


class StridedEncoder(nn.Sequential):
    """PlaNet's, DreamerV1's and V2's: four 4x4 convolutions of stride 2 over 64x64 images: [N, C, 64, 64] -> [N, E].

    Source: danijar/dreamer ``models.py`` (ConvEncoder), danijar/dreamerv2 ``common/nets.py`` (ConvEncoder).

    Args:
        shape: (64, 64, C).
        depth: of the first convolution; doubled by each of the others.
        activation: "silu", "elu" or "relu".

    Raises:
        ValueError: the images are of another size.
    """

    def __init__(self, shape: tuple[int, int, int], depth: int, activation: str) -> None:
        _check_64(shape)
        channels = [shape[2], *(depth * 2**i for i in range(4))]
        layers = [
            part
            for before, after in pairwise(channels)
            for part in (Convolution(before, after, 4, stride=2), ACTIVATIONS[activation]())
        ]
        super().__init__(*layers, nn.Flatten())
        self.size = channels[-1] * 4


class StridedDecoder(nn.Module):
    """PlaNet's, DreamerV1's and V2's: transposed convolutions up to 64x64: [N, D], [N, S] -> [N, C, 64, 64].

    Images are Gaussians of deviation 1 around 0.5 lower than theirs. Source: as `StridedEncoder` (ConvDecoder).

    Args:
        shape: (64, 64, C).
        depth: of the last hidden layer.
        features: D + S.
        activation: "silu", "elu" or "relu".

    Raises:
        ValueError: the images are of another size.
    """

    def __init__(self, shape: tuple[int, int, int], depth: int, features: int, activation: str) -> None:
        super().__init__()
        _check_64(shape)
        self.dense = Linear(features, 32 * depth)
        channels = [32 * depth, 4 * depth, 2 * depth, depth, shape[2]]
        kernels = (5, 5, 6, 6)
        layers: list[nn.Module] = []
        for before, after, kernel in zip(channels[:-1], channels[1:], kernels, strict=True):
            layers += [nn.ConvTranspose2d(before, after, kernel, stride=2), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, deter: Tensor, stoch: Tensor) -> Tensor:
        """Return [N, C, 64, 64], about between 0 and 1."""
        x = self.dense(torch.cat([deter, stoch], -1))
        found: Tensor = self.layers(x[..., None, None])
        return found + 0.5


def _check_64(shape: tuple[int, int, int]) -> None:
    if shape[:2] != (64, 64):
        raise ValueError(
            f"images must be 64x64 for strided convolutions, got {shape[0]}x{shape[1]}; resize them with "
            "gymnasium.wrappers.ResizeObservation, or take convolutions='pooled'"
        )
