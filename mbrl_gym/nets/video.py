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
GAIN = 12.0  # nats that a moved cell adds: places where a thing is rarely seen speak against it with 7 or so
MATCH = (
    8.0  # nats, at first, by which a shift that fits the last step exactly is likelier than one that does not at all
)
LIKELIEST = 6  # shifts of a cell that are drawn; what is left of its chances is nothing that one would see
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
    """Features of every level and a latent to the logits of pixels, and to a summary for the heads.

    Args:
        pixels: P.
        colours: K.
        cells: (h, w).
        channels: C of each level.
        embedding: E.
        blocks: residual blocks at the lowest level.
    """

    def __init__(
        self, pixels: int, colours: int, cells: tuple[int, int], channels: tuple[int, ...], embedding: int, blocks: int
    ) -> None:
        super().__init__()
        self.latent = nn.Linear(embedding, channels[-1])
        self.blocks = nn.ModuleList(ConditionedBlock(channels[-1], embedding) for _ in range(blocks))
        upwards = channels[::-1]
        self.up = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(upwards))
        self.refine = nn.ModuleList(ConditionedBlock(c, embedding) for c in upwards[1:])
        self.norm = ChannelNorm(channels[0])
        self.head = nn.Parameter(torch.zeros(colours, channels[0], pixels))
        # What a place looks like when nothing is known: the background is right before anything is learned.
        self.place = nn.Parameter(torch.zeros(colours, 1, cells[0] * cells[1], pixels))

    def forward(self, levels: list[Tensor], given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [K, B, h * w, P], float32, the finest features [B, C, h, w], and the summary [B, 2 C + E].

        Args:
            levels: of `VideoEncoder`.
            given: [B, E] action and latent.
        """
        x = levels[-1] + self.latent(given)[:, :, None, None]
        for block in self.blocks:
            x = block(x, given)
        summary = summarise(x, given)
        for up, refine, finer in zip(self.up, self.refine, levels[-2::-1], strict=True):
            height, width = finer.shape[2:]
            x = refine(interpolate(up(x), scale_factor=2)[:, :, :height, :width] + finer, given)
        x = self.norm(x)
        rows = x.permute(0, 2, 3, 1).reshape(1, -1, x.shape[1])
        logits = torch.matmul(rows, self.head.to(rows.dtype)).view(len(self.head), len(x), -1, self.head.shape[2])
        return logits.float().add_(self.place), x, summary


class CellCopies(nn.Module):
    """Moves what the newest picture shows: each cell that differs from the background is drawn again some cells on.

    Where to is a choice among all shifts within reach, and none. It begins as "on by as much as in the last step",
    which is read from the two newest pictures, and is learned from there: the network only has to say where a thing
    goes otherwise, not to draw it, so that small things keep their shape over many steps. Transport of pixels as in
    Finn et al. 2016 (section 3, "dynamic neural advection"), matching by a cost volume as in optical flow.

    Args:
        channels: C.
        cells: (h, w).
        patch: height and width of a cell in pixels.
        reach: the most cells that things move by, downwards and sideways, for each kind of thing.
        grain: rows of pixels by which they move downwards, a divisor of the patch's height; sideways it is whole cells.
        sources: the most cells of a picture that are moved: those that differ most from the background.
    """

    shifts: Tensor  # [D, 2], downwards in grains, sideways in cells
    offsets: Tensor  # [grains of a cell, P], where a cell's pixels are, so many grains on
    from_grains: Tensor  # [grains of a cell, h * w, P], the pixels of cells that begin there; the last row wraps

    def __init__(
        self,
        channels: int,
        cells: tuple[int, int],
        patch: tuple[int, int],
        reach: tuple[tuple[int, int], ...],
        grain: int,
        sources: int,
    ) -> None:
        super().__init__()
        self.cells, self.patch, self.grain = cells, patch, grain
        self.grains, self.sources = patch[0] // grain, min(sources, cells[0] * cells[1])
        shifts = {
            (row, column)
            for down, aside in reach
            for row in range(-down * self.grains, down * self.grains + 1)
            for column in range(-aside, aside + 1)
        }
        self.register_buffer("shifts", torch.tensor(sorted(shifts)), persistent=False)
        self.register_buffer("offsets", self._offsets(), persistent=False)
        begins = torch.arange(cells[0] * cells[1])[:, None] * (patch[0] * patch[1])
        from_grains = (self.offsets[:, None] + begins) % (cells[0] * cells[1] * patch[0] * patch[1])
        self.register_buffer("from_grains", from_grains, persistent=False)
        self.choice = nn.Linear(channels, len(self.shifts) + 1)  # the last: nowhere
        self.match = nn.Parameter(torch.tensor(MATCH))
        nn.init.zeros_(self.choice.weight)
        with torch.no_grad():  # what could have come from several places has stood still
            self.choice.bias[:-1].copy_((self.shifts == 0).all(-1))

    def forward(self, logits: Tensor, features: Tensor, pictures: tuple[Tensor, Tensor], usual: Tensor) -> Tensor:
        """Return ``logits``, changed in place.

        Args:
            logits: [K, B, h * w, P] float32.
            features: [B, C, h, w].
            pictures: the last but one, and the newest [B, h * w, P] uint8.
            usual: the background [h * w, P] uint8.
        """
        before, newest = pictures
        count, source = (newest != usual).sum(-1).topk(self.sources)  # [B, S]: no wait for how many there are
        shown = newest.gather(1, source[..., None].expand(-1, -1, newest.shape[-1]))  # [B, S, P]
        there = features.flatten(2).mT.gather(1, source[..., None].expand(-1, -1, features.shape[1]))
        choice = self.choice(there).float()
        alike = self.match * self._alike(source, shown, before, usual)
        chosen = torch.softmax(torch.cat([choice[..., :-1] + alike, choice[..., -1:]], -1), -1)[..., :-1]
        target, below, inside = self._shifted(source, 1, whole=False)
        amount = GAIN * chosen * (inside & (count > 0)[..., None])
        amount, first = amount.topk(min(LIKELIEST, amount.shape[-1]))
        return self._added(logits, target.gather(-1, first), below.gather(-1, first), shown, amount)

    def _offsets(self) -> Tensor:
        (rows, columns), width = self.patch, self.cells[1]
        pixel = torch.arange(rows * columns)
        row = pixel // columns + self.grain * torch.arange(self.grains)[:, None]
        return row // rows * (width * rows * columns) + row % rows * columns + pixel % columns

    def _shifted(self, source: Tensor, sign: int, whole: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is one shift on (or, with -1, back) from the cells ``source`` [B, S].

        Returns:
            the cells [B, S, D] in which it begins, how many grains below their tops, and whether it is in the picture:
            the ``whole`` of it, or more than nothing, where the first row of cells may be one above the picture.
        """
        height, width = self.cells
        row = torch.div(source, width, rounding_mode="floor")[..., None] * self.grains + sign * self.shifts[:, 0]
        row, below = torch.div(row, self.grains, rounding_mode="floor"), row % self.grains
        column = (source % width)[..., None] + sign * self.shifts[:, 1]
        first, last = (row, row + (below > 0))[:: 1 if whole else -1]
        inside = (first >= 0) & (last < height) & (column >= 0) & (column < width)
        return torch.where(inside, row * width + column, 0), below, inside

    def _from_each_grain(self, pictures: Tensor) -> Tensor:
        """Return pictures [..., h * w, P] as cells that begin at each grain [..., grains * h * w, P]."""
        if self.grains == 1:
            return pictures
        return pictures.flatten(-2)[..., self.from_grains].flatten(-3, -2)

    def _alike(self, source: Tensor, shown: Tensor, before: Tensor, usual: Tensor) -> Tensor:
        """Return [B, S, D]: of the pixels off the background, now or one shift back in the picture before, the share
        that is the same in both.
        """
        back, below, inside = self._shifted(source, -1, whole=True)
        back = back + below * before.shape[1]
        before, ground = self._from_each_grain(before), self._from_each_grain(usual)
        rows = torch.arange(len(before), device=back.device)[:, None, None] * before.shape[1]
        then = before.flatten(0, 1).index_select(0, (rows + back).flatten()).view(*back.shape, -1)  # [B, S, D, P]
        ground = ground.index_select(0, back.flatten()).view_as(then)
        now = shown[:, :, None]
        off_now = shown != usual.index_select(0, source.flatten()).view_as(shown)
        off_then = then != ground
        same = (off_now[:, :, None] & off_then & (now == then)).sum(-1, dtype=torch.int16)
        either = (off_now[:, :, None] | off_then).sum(-1, dtype=torch.int16)
        return (same / either.clamp(min=1)) * inside

    def _added(self, logits: Tensor, target: Tensor, below: Tensor, shown: Tensor, amount: Tensor) -> Tensor:
        """Add ``amount`` [B, S, D] to the logits, in place, for colours ``shown`` [B, S, P].

        They are those of pixels of the cells ``target`` [B, S, D], so many grains ``below`` [B, S, D].
        """
        _, batch, cells, pixels = logits.shape
        row = torch.arange(batch, device=target.device)[:, None, None]
        place = target[..., None] * pixels + self.offsets[below]  # [B, S, D, P]
        index = (shown[:, :, None].long() * batch + row[..., None]) * (cells * pixels) + place
        added = amount[..., None].expand_as(index)
        if self.grains > 1:
            there = (place >= 0) & (place < cells * pixels)
            index, added = torch.where(there, index, 0), added * there
        return logits.flatten().index_add_(0, index.flatten(), added.flatten()).view_as(logits)


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
