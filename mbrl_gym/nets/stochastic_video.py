"""The networks of SimPLe's video model: pictures down to a few features and up again.

Shapes: B batch, F frames, C channels, H x W and h x w places, A encoded action, E embedding.

Source: tensorflow/tensor2tensor at bafdc1b, ``models/video/basic_deterministic.py`` (next_frame),
``layers/common_video.py`` (inject_additional_input), ``layers/common_layers.py`` (double_discriminator,
mean_with_attention, standardize_images), ``layers/common_attention.py`` (add_timing_signal_nd).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, pad, relu

SLOWEST = 1e4  # pixels that the slowest of the waves takes for a radian


def standardised(pictures: Tensor) -> Tensor:
    """Return pictures [B, F * C, H, W] float32 with mean 0 and deviation 1 in each channel of each picture."""
    x = pictures.float()
    mean = x.mean((2, 3), keepdim=True)
    deviation = (x - mean).square().mean((2, 3), keepdim=True).sqrt()
    return (x - mean) / deviation.clamp(min=(x.shape[2] * x.shape[3]) ** -0.5)


def places(channels: int, height: int, width: int) -> Tensor:
    """Return [C, H, W]: sines and cosines of the row, then of the column, and zeros for what is left of C."""
    count = channels // 4
    rates = SLOWEST ** (-torch.arange(count) / max(count - 1, 1))
    found = torch.zeros(channels, height, width)
    rows = rates[:, None, None] * torch.arange(height)[None, :, None]
    columns = rates[:, None, None] * torch.arange(width)[None, None, :]
    for i, wave in enumerate((rows.sin(), rows.cos(), columns.sin(), columns.cos())):
        found[i * count : (i + 1) * count] = wave
    return found


class ChannelLayerNorm(nn.Module):
    """LayerNorm over the channels of [B, C, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, h, w] in the dtype of ``x``."""
        found: Tensor = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return found.to(x.dtype)


class Injection(nn.Module):
    """Multiplies by a sigmoid of what is given, and adds to it ("multi_additive").

    Args:
        given: E.
        channels: C.
    """

    def __init__(self, given: int, channels: int) -> None:
        super().__init__()
        self.parts = nn.Linear(given, 2 * channels)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        """Return [B, C, h, w] of ``x`` [B, C, h, w] and ``given`` [B, E]."""
        scale, shift = self.parts(given)[:, :, None, None].chunk(2, 1)
        found: Tensor = x * torch.sigmoid(scale) + shift
        return found


class _Down(nn.Module):
    """Halves height and width, rounded up."""

    here: Tensor  # [C, h, w]

    def __init__(self, channels: int, wider: int, size: tuple[int, int], rate: float) -> None:
        super().__init__()
        self.rate, self.odd = rate, (0, size[1] % 2, 0, size[0] % 2)
        self.convolution = nn.Conv2d(channels, wider, 4, stride=2, padding=1)
        self.norm = ChannelLayerNorm(wider)
        even = size[0] + size[0] % 2, size[1] + size[1] % 2
        self.register_buffer("here", places(channels, *even), persistent=False)

    def forward(self, x: Tensor, learning: bool) -> Tensor:
        x = pad(dropout(x, self.rate, learning), self.odd) + self.here
        found: Tensor = self.norm(relu(self.convolution(x)))
        return found


class _Up(nn.Module):
    """Doubles height and width to those of a finer level, and adds that."""

    here: Tensor  # [C, h, w]

    def __init__(self, channels: int, narrower: int, embedding: int, size: tuple[int, int], rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.action = Injection(embedding, channels)
        self.convolution = nn.ConvTranspose2d(channels, narrower, 4, stride=2, padding=1)
        self.norm = ChannelLayerNorm(narrower)
        self.register_buffer("here", places(narrower, *size), persistent=False)

    def forward(self, x: Tensor, finer: Tensor, given: Tensor, learning: bool) -> Tensor:
        x = self.action(dropout(x, self.rate, learning), given)
        x = relu(self.convolution(x))[:, :, : finer.shape[2], : finer.shape[3]]
        found: Tensor = self.norm(x + finer) + self.here
        return found


class FrameEncoder(nn.Module):
    """Standardised pictures to features of every level.

    Args:
        inputs: F * C.
        channels: of each level, finest first.
        size: (H, W).
        rate: of dropout.

    Attributes:
        sizes: (h, w) of each level.
    """

    here: Tensor  # [C, H, W]

    def __init__(self, inputs: int, channels: tuple[int, ...], size: tuple[int, int], rate: float) -> None:
        super().__init__()
        self.sizes = [size]
        for _ in channels[1:]:
            height, width = self.sizes[-1]
            self.sizes.append(((height + 1) // 2, (width + 1) // 2))
        self.embed = nn.Conv2d(inputs, channels[0], 1)
        self.register_buffer("here", places(channels[0], *size), persistent=False)
        steps = zip(pairwise(channels), self.sizes[:-1], strict=True)
        self.down = nn.ModuleList(_Down(a, b, size, rate) for (a, b), size in steps)

    def forward(self, pictures: Tensor, learning: bool) -> list[Tensor]:
        """Return the levels [B, C, h, w] of ``pictures`` [B, F * C, H, W]; there is dropout if ``learning``."""
        levels = [self.embed(pictures) + self.here]
        for down in self.down:
            levels.append(down(levels[-1], learning))
        return levels


class FrameDecoder(nn.Module):
    """The lowest level's features, the levels above and an action to features of the whole picture.

    Args:
        channels: of each level, finest first.
        sizes: of each level.
        embedding: E, of the action.
        rate: of dropout.
        hidden_rate: of dropout at the lowest level.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        sizes: list[tuple[int, int]],
        embedding: int,
        rate: float,
        hidden_rate: float,
    ) -> None:
        super().__init__()
        self.hidden_rate, low = hidden_rate, channels[-1]
        self.first = nn.Conv2d(low, low, 3, padding=1)
        self.second = nn.Conv2d(low, low, 3, padding=1)
        self.norm = ChannelLayerNorm(low)
        steps = zip(pairwise(channels[::-1]), sizes[-2::-1], strict=True)
        self.up = nn.ModuleList(_Up(a, b, embedding, size, rate) for (a, b), size in steps)

    def forward(self, x: Tensor, levels: list[Tensor], given: Tensor, learning: bool) -> Tensor:
        """Return [B, C, H, W].

        Args:
            x: the lowest level [B, C, h, w], with action and latent.
            levels: of `FrameEncoder`.
            given: the action [B, E].
            learning: whether there is dropout.
        """
        x = relu(self.first(dropout(x, self.hidden_rate, learning)))
        x = self.norm(x + relu(self.second(dropout(x, self.hidden_rate, learning))))
        for up, finer in zip(self.up, levels[-2::-1], strict=True):
            x = up(x, finer, given, learning)
        return x


class _AttentiveMean(nn.Module):
    """Mean over places, and means that ``heads`` weigh by themselves: [B, C, h, w] to [B, 2 C]."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.weigh = nn.Linear(channels, heads)
        self.project = nn.Linear((heads + 1) * channels, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2).transpose(1, 2)  # [B, h * w, C]
        weights = self.weigh(rows).softmax(1)
        means = torch.einsum("bnc,bnh->bch", rows, weights.to(rows.dtype))
        found: Tensor = self.project(torch.cat([means, rows.mean(1)[..., None]], -1).flatten(1))
        return found


class PairReader(nn.Module):
    """Pictures, the next one and an action to what a latent is made of; used in training alone.

    Args:
        inputs: (F + 1) * C.
        embedding: E, and the channels of the finest level.
        channels: of the first convolution; the second has four times as many.
        size: (H, W).
    """

    here: Tensor  # [E, H, W]

    def __init__(self, inputs: int, embedding: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.embed = nn.Conv2d(inputs, embedding, 1)
        self.register_buffer("here", places(embedding, *size), persistent=False)
        self.action = Injection(embedding, embedding)
        self.first = nn.Conv2d(embedding, channels, 8, stride=4)
        self.second = nn.Conv2d(channels, 4 * channels, 8, stride=4)
        self.first_mean, self.second_mean = _AttentiveMean(channels), _AttentiveMean(4 * channels)
        self.outputs = 10 * channels

    def forward(self, pictures: Tensor, given: Tensor) -> Tensor:
        """Return [B, 10 * channels] of ``pictures`` [B, (F + 1) * C, H, W] and the action ``given`` [B, E]."""
        x = self.action(self.embed(pictures) + self.here, given)
        low = self.first(_padded(x))
        lower = self.second(_padded(relu(low)))
        return torch.cat([self.first_mean(low), self.second_mean(lower)], -1)


def _padded(x: Tensor, kernel: int = 8, stride: int = 4) -> Tensor:
    """Return ``x`` [B, C, h, w] with zeros around: a convolution then divides its sides by ``stride``, rounded up."""
    amounts = []
    for side in (x.shape[3], x.shape[2]):
        amount = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        amounts += [amount // 2, amount - amount // 2]
    return pad(x, amounts)


def initialise(network: nn.Module) -> None:
    """Draw weights uniformly, with a variance of 1.3 over the mean of what goes in and out; biases are zero."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight, gain=1.3**0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
