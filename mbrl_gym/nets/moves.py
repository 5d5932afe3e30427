"""MoveNetwork: where the things on a screen go next, from where they and all others were.

Shapes: N pictures, O things, T pictures of which the newest is first, A encoded action, Z code, E = 4 edges of a box:
top, bottom, left, right.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding_bag, silu

from mbrl_gym.nets.things import Things, match
from mbrl_gym.tensors import TensorStruct

FAR = 64  # pixels from which all distances between two things are read as one
PAIR = 64  # hidden units for a pair of things
# Share of the things that in training have an edge in a wrong place. In dreams boxes are a little wrong now and then;
# what never saw such boxes makes them ever more so.
WRONG = 0.2


@dataclass(frozen=True)
class Scene(TensorStruct):
    """Things with their past, as the network reads them.

    Attributes:
        things: [N, O], on the newest picture.
        each: [N, O, features] int64, rows of the table that each is read by.
        pairs: [N, O, O, features] int64, likewise.
    """

    things: Things
    each: Tensor
    pairs: Tensor


class MoveNetwork(nn.Module):
    """Says for each thing where the four edges of its box go, or that it goes.

    It reads, for each thing, colour, box and by how much each edge moved in the last steps; for each pair, how far one
    is from the other; sums over pairs what they mean for each (interaction network: Battaglia et al. 2016, section 2);
    and chooses the edges one after the other, each given those before, so that a box is one choice, not four.

    Args:
        picture: height and width in pixels.
        colours: K.
        frames: pictures, whose things are known.
        reach: the most pixels that an edge moves by.
        actions: A.
        codes: Z.
        hidden: units.
    """

    first: Tensor  # where the rows of each feature begin

    def __init__(
        self, picture: tuple[int, int], colours: int, frames: int, reach: int, actions: int, codes: int, hidden: int
    ) -> None:
        super().__init__()
        self.picture, self.frames, self.reach = picture, frames, reach
        edges = (picture[0] + 1, picture[0] + 1, picture[1] + 1, picture[1] + 1)
        sizes = [colours, *edges, *(2 * reach + 2,) * (4 * (frames - 1))]
        self.register_buffer("first", torch.tensor([0, *accumulate(sizes[:-1])]), persistent=False)
        self.each = nn.Parameter(0.1 * torch.randn(sum(sizes), hidden))
        self.pairs = nn.Parameter(0.1 * torch.randn(4 * (2 * FAR + 1) + 1, PAIR))
        self.place = nn.Linear(4, hidden)
        self.action = nn.Linear(actions, hidden, bias=False)
        self.code = nn.Linear(codes, hidden, bias=False)
        self.one, self.other = nn.Linear(hidden, PAIR), nn.Linear(hidden, PAIR, bias=False)
        self.pair = nn.Linear(PAIR, PAIR)
        self.meant = nn.Linear(PAIR, hidden)
        self.body = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        classes = 2 * reach + 2  # the last: it goes
        self.chosen = nn.ModuleList(nn.Embedding(classes, hidden) for _ in range(3))
        heads = [nn.Linear(hidden, classes) for _ in range(4)]
        self.heads = nn.ModuleList(heads)
        nn.init.zeros_(self.code.weight)  # says nothing of things before it is learned
        with torch.no_grad():
            self.each[: colours + sum(edges)] = 0  # places that were never seen are like those beside them
            for head in heads:
                head.weight.mul_(0.1)

    @property
    def learns(self) -> bool:
        """Whether it is trained."""
        return self.each.requires_grad

    def scene(self, past: list[Things]) -> Scene:
        """Return what the network reads of the things on each picture, the newest first."""
        now, moved = past[0], []
        for here, then in pairwise(followed(past, self.reach)):
            by = torch.where(then.there[..., None], here.box - then.box, self.reach + 1)
            moved.append(by + self.reach)
        limit = torch.tensor([self.picture[0]] * 2 + [self.picture[1]] * 2, device=now.box.device)
        each = torch.cat([now.colour[..., None], now.box.minimum(limit), *moved], -1) + self.first
        away = (now.box[:, None] - now.box[:, :, None]).clamp(-FAR, FAR) + FAR
        away = away + (2 * FAR + 1) * torch.arange(4, device=away.device)
        known = now.there[:, None] & ~torch.eye(now.there.shape[1], dtype=torch.bool, device=away.device)
        pairs = torch.where(known[..., None], away, len(self.pairs) - 1)
        return Scene(now, each, pairs)

    def read(self, scene: Scene, action: Tensor, code: Tensor | None) -> Tensor:
        """Return features [N, O, hidden].

        Args:
            scene: [N, O].
            action: [N, A].
            code: [N, Z]; None: not known.
        """
        count, things = scene.things.there.shape
        given = self.action(action) if code is None else self.action(action) + self.code(code)
        limit = scene.things.box.new_tensor([self.picture[0]] * 2 + [self.picture[1]] * 2)
        own = embedding_bag(scene.each.flatten(0, 1), self.each, mode="sum").view(count, things, -1)
        x = silu(own + self.place(scene.things.box / limit) + given[:, None])
        pair = embedding_bag(scene.pairs.flatten(0, 2), self.pairs, mode="sum", padding_idx=len(self.pairs) - 1)
        pair = silu(pair.view(count, things, things, -1) + self.one(x)[:, :, None] + self.other(x)[:, None])
        known = (scene.pairs[..., :1] < len(self.pairs) - 1).float()
        x = x + self.meant((silu(self.pair(pair)) * known).sum(2))
        found: Tensor = x + self.body(silu(x))
        return found

    def loss(self, scene: Scene, action: Tensor, code: Tensor | None, after: Things) -> tuple[Tensor, Tensor]:
        """Return [N, O] nats of what became of each thing, and whether it was the likeliest.

        Args:
            scene: [N, O].
            action: [N, A].
            code: [N, Z]; None: not known.
            after: the things on the next picture.
        """
        then = match(scene.things, after, self.reach)
        label = torch.where(then.there[..., None], then.box - scene.things.box + self.reach, 2 * self.reach + 1)
        x = self.read(scene, action, code)
        nats = torch.zeros_like(x[..., 0])
        right = torch.ones_like(then.there)
        for edge, head in enumerate(self.heads):
            logits = head(silu(x))
            error = cross_entropy(logits.flatten(0, 1), label[..., edge].flatten(), reduction="none")
            known = scene.things.there & (then.there | (edge == 0))
            nats = nats + error.view_as(nats) * known
            right = right & ((logits.argmax(-1) == label[..., edge]) | ~known)
            if edge < 3:
                x = x + self.chosen[edge](label[..., edge])
        return nats, right

    @torch.no_grad()
    def choose(self, scene: Scene, action: Tensor, code: Tensor | None) -> Things:
        """Return where things go, in their likeliest boxes; those that go are not there."""
        x = self.read(scene, action, code)
        there, moved = scene.things.there, []
        for edge, head in enumerate(self.heads):
            choice = head(silu(x)).argmax(-1)
            there = there & (choice <= 2 * self.reach)
            moved.append(choice - self.reach)
            if edge < 3:
                x = x + self.chosen[edge](choice)
        return Things(scene.things.box + torch.stack(moved, -1), scene.things.colour, there)


def followed(past: list[Things], reach: int) -> list[Things]:
    """Return what the things of the first picture are on each of those before it [N, O], the newest first.

    Args:
        past: the things on each picture.
        reach: as in `mbrl_gym.nets.things.match`.
    """
    found = [past[0]]
    for then in past[1:]:
        found.append(match(found[-1], then, reach))
    return found


@torch.no_grad()
def perturbed(past: list[Things], reach: int, generator: torch.Generator | None = None) -> list[Things]:
    """Return things [N, O], the newest first, some of which have an edge in a wrong place: now, or all the time.

    It is off by at most half of the thing's height, or width, and two pixels.

    Args:
        past: the things on each picture.
        reach: as in `mbrl_gym.nets.things.match`.
        generator: source of randomness.
    """
    box = past[0].box
    size = torch.stack([box[..., 1] - box[..., 0], box[..., 3] - box[..., 2]], -1).repeat_interleave(2, -1)
    edge, much, some, always = torch.rand((4, *size.shape), generator=generator, device=box.device)
    off = ((size // 2 + 2) * (2 * much - 1)).round().long()
    off = off * (edge == edge.amax(-1, keepdim=True)) * (some[..., :1] < WRONG)
    return [
        _moved(things, off if t == 0 else off * (always[..., :1] < 0.5))
        for t, things in enumerate(followed(past, reach))
    ]


def _moved(things: Things, off: Tensor) -> Things:
    """Return things with their edges moved by ``off`` [N, O, 4], at least a pixel high and wide."""
    top, bottom, left, right = (things.box + off).clamp(min=0).unbind(-1)
    box = torch.stack([top, bottom.maximum(top + 1), left, right.maximum(left + 1)], -1)
    return Things(box, things.colour, things.there)
