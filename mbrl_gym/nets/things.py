"""Things on a screen: connected pixels of one colour that differ from the background, their boxes, and drawing them.

Pixels of one colour in one cell count as connected; so do such parts whose boxes touch.

Shapes: N pictures, C cells of P pixels, H x W pixels in all, M parts, O things. Pictures are numbers of colours, uint8.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from mbrl_gym.tensors import TensorStruct

ROUNDS = 12  # on a GPU, in which parts learn what they hang together with: shapes that wind a lot come in pieces there


@dataclass(frozen=True)
class Things(TensorStruct):
    """What is on pictures, the largest first.

    Attributes:
        box: [N, O, 4] int64, top, bottom, left, right; bottom and right are the first row and column behind it.
        colour: [N, O] int64, its number.
        there: [N, O] bool, places that hold a thing.
    """

    box: Tensor
    colour: Tensor
    there: Tensor


@dataclass(frozen=True)
class Grid:
    """How pictures are cut, and how many things are looked for.

    Attributes:
        cells: (h, w).
        patch: height and width of a cell in pixels.
        colours: K.
        parts: the most parts, one colour in one cell, that things are put together from: the fullest.
        things: O.
        largest: height and width of the largest thing.
    """

    cells: tuple[int, int]
    patch: tuple[int, int]
    colours: int
    parts: int
    things: int
    largest: tuple[int, int]


@torch.no_grad()
def find(pictures: Tensor, usual: Tensor, grid: Grid) -> Things:
    """Return the things on pictures by cell [N, C, P] before the background ``usual`` [C, P]."""
    rows, columns = grid.patch
    off = pictures != usual
    _, cell = _most(off.sum(-1, dtype=torch.int16), grid.parts)  # [N, S]
    every = cell[..., None].expand(-1, -1, off.shape[2])
    shown = torch.where(off.gather(1, every), pictures.gather(1, every).short(), -1)
    coloured = shown[:, :, None] == torch.arange(grid.colours, device=shown.device)[:, None]  # [N, S, K, P]
    size, part = _most(coloured.sum(-1, dtype=torch.int16).flatten(1), grid.parts)
    colour, cell = part % grid.colours, cell.gather(1, part // grid.colours)
    pixels = coloured.flatten(1, 2).gather(1, part[..., None].expand(-1, -1, off.shape[2]))  # [N, M, P]
    inside = pixels.view(*pixels.shape[:2], rows, columns)
    top, bottom = _ends(inside.any(3), cell // grid.cells[1] * rows)
    left, right = _ends(inside.any(2), cell % grid.cells[1] * columns)
    return _together(torch.stack([top, bottom, left, right], -1), colour, size.long(), grid)


def _padded(x: Tensor, columns: int) -> Tensor:
    """Return [N, at least columns] of numbers [N, M], zeros behind."""
    return pad(x, (0, max(0, columns - x.shape[1])))


def _most(count: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the largest of counts [N, C], in order, and where they are; on a CPU without columns of zeros."""
    found, where = count.topk(min(most, count.shape[1]))
    if count.is_cuda:  # would wait to know how many there are
        return found, where
    some = max(1, int((found > 0).sum(1).max())) if len(count) else 1
    return found[:, :some], where[:, :some]


def _ends(lines: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the true ones among lines [N, M, L] begin and end, which begin at ``begins`` [N, M]."""
    number = torch.arange(lines.shape[2], device=lines.device)
    first = torch.where(lines, number, lines.shape[2]).amin(-1)
    return begins + first, begins + torch.where(lines, number, -1).amax(-1) + 1


def _together(box: Tensor, colour: Tensor, size: Tensor, grid: Grid) -> Things:
    """Return the things that parts are of, whose boxes [N, M, 4] touch and whose colour [N, M] is the same."""
    top, bottom, left, right = box.short().unbind(-1)
    near = (top[:, :, None] <= bottom[:, None]) & (left[:, :, None] <= right[:, None])
    near &= near.mT.clone()
    near &= (colour[:, :, None] == colour[:, None]) & ((size > 0)[:, :, None] & (size > 0)[:, None])
    count = size.shape[1]
    first = torch.arange(count, dtype=torch.int16, device=box.device)
    label = first.expand_as(size)
    for _ in range(ROUNDS if box.is_cuda else count):
        before, label = label, torch.where(near, label[:, None], count - 1).amin(-1).minimum(label)
        label = label.gather(1, label.long())
        if not box.is_cuda and torch.equal(label, before):  # which a GPU would have to be waited for
            break
    label = label.long()
    total = torch.zeros_like(size).scatter_add_(1, label, size)
    where = label[..., None].expand_as(box)
    least = torch.zeros_like(box).scatter_reduce_(1, where, box, "amin", include_self=False)
    most = torch.zeros_like(box).scatter_reduce_(1, where, box, "amax", include_self=False)
    whole = torch.stack([least[..., 0], most[..., 1], least[..., 2], most[..., 3]], -1)
    fits = (whole[..., 1] - whole[..., 0] <= grid.largest[0]) & (whole[..., 3] - whole[..., 2] <= grid.largest[1])
    total, kept = _padded(total * fits, grid.things).topk(grid.things)
    kept = kept.clamp(max=count - 1)
    return Things(
        whole.gather(1, kept[..., None].expand(-1, -1, 4)), colour.gather(1, label.gather(1, kept)), total > 0
    )


@torch.no_grad()
def match(now: Things, then: Things, reach: int) -> Things:
    """Return for each of the things ``now`` [N, O] what it is on another picture: the nearest of its colour.

    No edge of its box may be further away than ``reach`` pixels.
    """
    far = (now.box[:, :, None] - then.box[:, None]).abs()  # [N, O, O', 4]
    same = (now.colour[:, :, None] == then.colour[:, None]) & now.there[:, :, None] & then.there[:, None]
    far, found = torch.where(same & (far.amax(-1) <= reach), far.sum(-1), 8 * reach).min(-1)
    box = then.box.gather(1, found[..., None].expand(-1, -1, 4))
    return Things(box, now.colour, far < 8 * reach)


@torch.no_grad()
def draw(picture: Tensor, usual: Tensor, things: Things, box: Tensor, largest: tuple[int, int]) -> Tensor:
    """Return numbers of colours [N, H, W] int16 of pixels that things cover in their new boxes; -1 elsewhere.

    What a thing shows is stretched with its box.

    Args:
        picture: [N, H, W], on which the things are.
        usual: the background [H, W].
        things: those that are there are drawn.
        box: [N, O, 4], theirs afterwards.
        largest: height and width up to which they are drawn.
    """
    count, height, width = picture.shape
    rows, columns = (_longest(box[..., i : i + 2], things.there, largest[i // 2]) for i in (0, 2))
    row, read_row = _lines(things.box[..., :2], box[..., :2], rows, height)
    column, read_column = _lines(things.box[..., 2:], box[..., 2:], columns, width)
    read = (read_row[..., :, None] * width + read_column[..., None, :]).flatten(1)
    shown = picture.flatten(1).gather(1, read)
    own = things.colour[..., None].expand(-1, -1, rows * columns).flatten(1)
    there = (row >= 0)[..., :, None] & (column >= 0)[..., None, :] & things.there[..., None, None]
    there = there.flatten(1) & (shown == own) & (usual.flatten()[read] != own)
    place = torch.where(there, (row[..., :, None] * width + column[..., None, :]).flatten(1), height * width)
    drawn = torch.full((count, height * width + 1), -1, dtype=torch.int16, device=picture.device)
    return drawn.scatter_(1, place, own.short())[:, :-1].view(picture.shape)


def _longest(ends: Tensor, there: Tensor, most: int) -> int:
    """Return the lines of the longest thing, of ends [N, O, 2]; where it would have to be waited for, the most."""
    if ends.is_cuda or not len(ends):
        return most
    return max(1, min(most, int(((ends[..., 1] - ends[..., 0]) * there).max())))


def _lines(before: Tensor, after: Tensor, most: int, limit: int) -> tuple[Tensor, Tensor]:
    """Return the lines [N, O, most] that things are drawn to, -1 for none, and those that they are read from.

    Args:
        before: [N, O, 2], where they begin and end.
        after: [N, O, 2], where they do afterwards.
        most: lines of a thing.
        limit: lines of the picture.
    """
    line = torch.arange(most, device=before.device)
    long, new = before[..., 1:] - before[..., :1], (after[..., 1:] - after[..., :1]).clamp(min=1)
    to = after[..., :1] + line
    read = before[..., :1] + torch.div((2 * line + 1) * long, 2 * new, rounding_mode="floor")
    return torch.where((line < new) & (to >= 0) & (to < limit), to, -1), read.clamp(0, limit - 1)
