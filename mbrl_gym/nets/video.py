"""The networks of a model of pictures: cells of pixels down to a few numbers and up again.

Shapes: B batch, P pixels of a cell, K colours, F frames, h x w cells, E embedding, C channels. Pictures are numbers of
colours by cells, [B, h, w, P] uint8.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

MEMORY = 64  # steps after which a cell that stands still counts as still for ever
SURE = 6.0  # nats by which what things come to is likelier than another colour, before the network says otherwise
WAVES = 4  # by which numbers of steps below that are told apart


class ChannelNorm(nn.Module):
    """Divides [B, C, h, w] by the root of the mean square over the channels, and scales each of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, h, w] in the dtype of ``x``."""
        length = torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-4)
        return x * length.to(x.dtype) * self.scale.to(x.dtype)


class ConditionedBlock(nn.Module):
    """A residual convolution whose input is multiplied by what is given, and added to (SimPLe's "multi_additive").

    Args:
        channels: C.
        embedding: E.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.condition = nn.Linear(embedding, 2 * channels)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        """Return [B, C, h, w] of ``x`` [B, C, h, w] and ``given`` [B, E]."""
        scale, shift = self.condition(given)[:, :, None, None].chunk(2, 1)
        found: Tensor = x + self.convolution(silu(self.norm(x) * (1 + scale) + shift))
        return found


def _waves() -> Tensor:
    """Return [MEMORY, 2 WAVES]: sines and cosines of numbers of steps."""
    wave = torch.pi * torch.arange(MEMORY)[:, None] / MEMORY * 2.0 ** torch.arange(0, 2 * WAVES, 2)
    return torch.cat([torch.sin(wave), torch.cos(wave)], -1)


class VideoEncoder(nn.Module):
    """Pictures, how long their cells have stood still, and an action to features of every level.

    Args:
        pixels: numbers of a cell in all frames.
        actions: A.
        channels: C of each level.
        embedding: E.
    """

    steps: Tensor  # [MEMORY, 2 WAVES]

    def __init__(self, pixels: int, actions: int, channels: tuple[int, ...], embedding: int) -> None:
        super().__init__()
        self.cells = nn.Linear(pixels, channels[0])
        self.still = nn.Linear(2 * WAVES, channels[0], bias=False)
        self.register_buffer("steps", _waves(), persistent=False)
        self.action = nn.Sequential(nn.Linear(actions, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(channels))
        self.blocks = nn.ModuleList(ConditionedBlock(c, embedding) for c in channels[1:])

    def forward(self, cells: Tensor, still: Tensor, action: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the levels [B, C, h, w], finest first, and the action's embedding [B, E].

        Args:
            cells: [B, h, w, pixels].
            still: [B, h, w] uint8, steps, below `MEMORY`.
            action: [B, A].
        """
        given = silu(self.action(action))
        stood = self.still(self.steps).index_select(0, still.flatten().int()).view(*still.shape, -1)
        x = silu(self.cells(cells) + stood).permute(0, 3, 1, 2)
        levels = [x]
        for down, block in zip(self.down, self.blocks, strict=True):
            x = block(down(x), given)
            levels.append(x)
        return levels, given


class VideoDecoder(nn.Module):
    """Features of every level, a latent and a draft to the logits of pixels, and to a summary for the heads.

    A draft is the next picture as far as things that move make it; what it shows begins as likely, the rest as what is
    usual at its place.

    Args:
        pixels: P.
        numbers: that a cell of the draft is read by.
        colours: K.
        cells: (h, w).
        channels: C of each level.
        embedding: E.
        blocks: residual blocks at the lowest level.
    """

    def __init__(
        self,
        pixels: int,
        numbers: int,
        colours: int,
        cells: tuple[int, int],
        channels: tuple[int, ...],
        embedding: int,
        blocks: int,
    ) -> None:
        super().__init__()
        self.draft = nn.Linear(numbers, channels[0])
        self.latent = nn.Linear(embedding, channels[-1])
        self.blocks = nn.ModuleList(ConditionedBlock(channels[-1], embedding) for _ in range(blocks))
        upwards = channels[::-1]
        self.up = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(upwards))
        self.refine = nn.ModuleList(ConditionedBlock(c, embedding) for c in upwards[1:])
        self.norm = ChannelNorm(channels[0])
        self.head = nn.Parameter(torch.zeros(colours, channels[0], pixels))
        # What a place looks like when nothing is known: the background is right before anything is learned.
        self.place = nn.Parameter(torch.zeros(colours, 1, cells[0] * cells[1], pixels))

    def forward(
        self, levels: list[Tensor], given: Tensor, draft: Tensor, drawn: Tensor, read: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return logits [K, B, h * w, P], float32, and the summary [B, 2 C + E].

        Args:
            levels: of `VideoEncoder`.
            given: [B, E] action and latent.
            draft: [B, h, w, P] uint8.
            drawn: [B, h, w, P] bool, what of it things make.
            read: [B, h, w, numbers], the draft as the network reads it.
        """
        drafted = self.draft(read).permute(0, 3, 1, 2)
        x = levels[-1] + self.latent(given)[:, :, None, None]
        for block in self.blocks:
            x = block(x, given)
        summary = summarise(x, given)
        for up, refine, finer in zip(self.up, self.refine, levels[-2::-1], strict=True):
            height, width = finer.shape[2:]
            finer = finer + drafted if finer is levels[0] else finer
            x = refine(interpolate(up(x), scale_factor=2)[:, :, :height, :width] + finer, given)
        x = self.norm(x)
        rows = x.permute(0, 2, 3, 1).reshape(1, -1, x.shape[1])
        logits = torch.matmul(rows, self.head.to(rows.dtype)).view(len(self.head), len(x), -1, self.head.shape[2])
        drawn = drawn.flatten(1, 2)
        found = logits.float().addcmul_(self.place, (~drawn).float())  # in place: fresh memory costs as much again
        return found.scatter_add_(0, draft.flatten(1, 2)[None].long(), SURE * drawn[None].float()), summary


class TargetEncoder(nn.Module):
    """What a next picture says beside the levels of those before: [B, h, w, pixels] to [B, 128].

    Args:
        pixels: numbers of a cell in one picture.
        channels: C of the finest level.
        cells: (h, w).
    """

    def __init__(self, pixels: int, channels: int, cells: tuple[int, int]) -> None:
        super().__init__()
        self.cells = nn.Linear(pixels, 32)
        halvings = min(3, min(cells).bit_length() - 2)  # one cell alone is no picture
        widths = (32 + channels, *(64,) * max(halvings, 1))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))

    def forward(self, cells: Tensor, finest: Tensor) -> Tensor:
        """Return [B, 128]."""
        x = torch.cat([self.cells(cells).permute(0, 3, 1, 2), finest], 1)
        for down in self.down:
            x = silu(down(x))
        return pooled(x)


def head(inputs: int, outputs: int, hidden: int = 128) -> nn.Sequential:
    """Return a network with one hidden layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


def pooled(x: Tensor) -> Tensor:
    """Return [B, 2 C]: mean and maximum of [B, C, h, w] over the cells."""
    return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)


def summarise(x: Tensor, given: Tensor) -> Tensor:
    """Return [B, 2 C + E] of features [B, C, h, w] and what is given [B, E]."""
    return torch.cat([pooled(x), given], 1)


class PixelLoss(torch.autograd.Function):
    """Cross-entropy over colours, summed over pixels; those that are right enough have neither loss nor gradient.

    The gradient is made on the way forward: colours lead, so that every pass goes through memory in order.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weight: Tensor, clip: float) -> Tensor:
        """Return [].

        Args:
            ctx: of autograd.
            logits: [K, N] float32.
            target: [N] uint8.
            weight: [N].
            clip: nats.
        """
        index = target.long()[None]
        share = logits - logits.amax(0)
        chosen = share.gather(0, index)[0]
        total = share.exp_().sum(0)
        error = total.log() - chosen
        weight = torch.where(error > clip, weight, 0.0)
        share.mul_(weight / total)
        ctx.save_for_backward(share.scatter_add_(0, index, -weight[None]))
        return (weight * error).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradient by the logits."""
        (found,) = ctx.saved_tensors
        return found * gradient, None, None, None
