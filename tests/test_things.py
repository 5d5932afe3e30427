"""Things on a screen: what is found, followed and drawn, and what is learned of where they go."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mbrl_gym.models.video_state import Cells
from mbrl_gym.nets import moves
from mbrl_gym.nets.moves import WRONG, MoveNetwork, perturbed
from mbrl_gym.nets.things import Grid, Things, draw, find, match

PICTURE = (24, 20)
CUT = Cells(PICTURE, (4, 4))
GRID = Grid(CUT.shape, (4, 4), 3, 30, 8, (24, 20))
USUAL = torch.zeros(PICTURE, dtype=torch.uint8)


def cells(pictures: Tensor) -> Tensor:
    return CUT.cut(pictures).flatten(-3, -2)


def found(pictures: Tensor, usual: Tensor = USUAL, grid: Grid = GRID) -> Things:
    return find(cells(pictures), cells(usual), grid)


def boxes(things: Things, n: int = 0) -> set[tuple[int, ...]]:
    """Return boxes and colours of the things on picture ``n``."""
    rows = zip(things.box[n].tolist(), things.colour[n].tolist(), things.there[n].tolist(), strict=True)
    return {(*box, colour) for box, colour, there in rows if there}


def rectangle(*where: tuple[int, int, int, int, int]) -> Tensor:
    """Return a picture [1, 24, 20] of rectangles: top, bottom, left, right, colour."""
    picture = USUAL.clone()[None]
    for top, bottom, left, right, colour in where:
        picture[:, top:bottom, left:right] = colour
    return picture


def filled(mask: Tensor, colour: int) -> list[tuple[int, ...]]:
    """Return the boxes of connected pixels of a mask [H, W], and a colour."""
    left, result = {(int(y), int(x)) for y, x in mask.nonzero()}, []
    while left:
        heap, thing = [left.pop()], []
        while heap:
            y, x = heap.pop()
            thing.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            heap += near
        rows, columns = zip(*thing, strict=True)
        result.append((min(rows), max(rows) + 1, min(columns), max(columns) + 1, colour))
    return result


def test_things_are_the_connected_pixels_of_a_colour() -> None:
    """As filled from pixel to pixel; corners count. (What is apart by less than a cell may count as connected.)"""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.zeros(40, *PICTURE, dtype=torch.uint8)
    for picture in pictures:
        for _ in range(4):
            top, left = (4 * int(torch.randint(limit // 4, (), generator=generator)) for limit in PICTURE)
            height, width, colour = (int(torch.randint(1, most, (), generator=generator)) for most in (8, 8, 3))
            picture[top : top + height, left : left + width] = colour
    things, seen = found(pictures), 0
    for n, picture in enumerate(pictures):
        expected = {box for colour in (1, 2) for box in filled(picture == colour, colour)}
        assert boxes(things, n) == expected
        seen += len(expected)
    assert seen > 100


def test_a_thing_that_winds_is_one_thing() -> None:
    picture = torch.zeros(1, 32, 32, dtype=torch.uint8)
    for row in range(0, 28, 8):
        picture[0, row : row + 4] = 1
        picture[0, row + 4 : row + 8, 28:] = row % 16 == 0
        picture[0, row + 4 : row + 8, :4] = row % 16 == 8
    picture[0, 28:] = 0
    cut = Cells((32, 32), (4, 4))
    cells, usual = (cut.cut(x).flatten(-3, -2) for x in (picture, torch.zeros(32, 32, dtype=torch.uint8)))
    assert boxes(find(cells, usual, Grid(cut.shape, (4, 4), 2, 64, 8, (32, 32)))) == {(0, 28, 0, 32, 1)}


def test_a_thing_differs_from_the_background_and_may_have_the_commonest_colour() -> None:
    usual = rectangle((0, 24, 0, 10, 1))[0]
    picture = usual.clone()[None]
    picture[0, 5:8, 2:6] = 0
    picture[0, 5:8, 12:15] = 1
    picture[0, 15:18, 2:6] = 1  # as usual there
    assert boxes(found(picture, usual)) == {(5, 8, 2, 6, 0), (5, 8, 12, 15, 1)}


def test_the_largest_things_are_kept_and_those_that_are_too_large_left_out() -> None:
    picture = rectangle((0, 20, 0, 4, 1), (2, 6, 8, 12, 1), (10, 12, 8, 12, 2), (20, 21, 8, 9, 2))
    assert boxes(found(picture, grid=replace(GRID, largest=(10, 10), things=2))) == {
        (2, 6, 8, 12, 1),
        (10, 12, 8, 12, 2),
    }


def test_a_thing_is_the_nearest_of_its_colour_within_reach() -> None:
    now = found(rectangle((4, 8, 4, 8, 1), (14, 18, 4, 8, 2)))
    then = found(rectangle((6, 9, 4, 8, 1), (4, 8, 12, 16, 1), (14, 18, 10, 14, 2)))
    near = match(now, then, 4)
    order = now.colour[0].tolist()
    one, two = order.index(1), order.index(2)
    assert near.box[0, one].tolist() == [6, 9, 4, 8]
    assert near.there[0].tolist() == [i == one for i in range(8)]
    assert match(now, then, 6).there[0].tolist() == [i in (one, two) for i in range(8)]


def test_things_are_drawn_in_their_new_boxes_and_stretched_with_them() -> None:
    picture = rectangle((4, 8, 4, 8, 1))
    picture[0, 4, 4] = 0  # a corner is missing
    things = found(picture)
    for box, expected in (
        ((4, 8, 4, 8), picture[0]),
        ((-2, 2, 17, 21), torch.roll(picture[0], (-6, 13), (0, 1))),
        ((10, 18, 4, 8), None),
    ):
        to = things.box.clone()
        to[0, 0] = torch.tensor(box)
        drawn = draw(picture, USUAL, things, to, (24, 20))[0]
        if expected is None:
            assert (drawn[10:18, 4:8] == 1).sum() == 8 * 4 - 2  # a corner twice as high
            assert (drawn[10:12, 4] == -1).all()
        else:
            expected = expected.clone()
            if box[0] < 0:  # what is rolled around is out of the picture
                expected[-2:] = 0
                expected[:, :1] = 0
            assert torch.equal(drawn.clamp(min=0), expected.short())
    to[0, 0] = torch.tensor((10, 18, 4, 8))
    assert (draw(picture, USUAL, things, to, (6, 3))[0] == 1).sum() == 6 * 3 - 2  # no larger than that
    gone = Things(things.box, things.colour, torch.zeros_like(things.there))
    assert (draw(picture, USUAL, gone, things.box, (24, 20)) == -1).all()


# ---- where things go ------------------------------------------------------------------------------------------------


def table(box: Tensor, colour: Tensor) -> Things:
    """Return things [N, O] of boxes [N, O, 4] and colours [O]."""
    return Things(box, colour.expand(box.shape[:2]), torch.ones(box.shape[:2], dtype=torch.bool))


def at(top: Tensor, left: Tensor, height: int = 4) -> Tensor:
    return torch.stack([top, top + height, left, left + 4], -1)


def world(count: int, seed: int) -> tuple[list[Things], Tensor, Things]:
    """Return two pictures, actions, and the picture after: a ball that flies on until it meets a paddle, which follows
    the action; the ball then flies back, and goes where there is no paddle.
    """
    generator = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (count,), generator=generator)

    paddle, action, ball, left, speed = whole(2, 14), whole(0, 2), whole(4, 16), whole(8, 13), whole(0, 2) * 6 - 3
    colour = torch.tensor([1, 2])
    wall = torch.full_like(left, 15)
    now = torch.stack([at(paddle, wall, 6), at(ball, left)], 1)
    before = torch.stack([at(paddle, wall, 6), at(ball - speed, left - 2)], 1)
    new = paddle + 2 * action - 1
    hits = (left == 12) & ((ball - new).abs() <= 3)
    leaves = (left == 12) & ~hits
    after = torch.stack([at(new, wall, 6), at(ball + speed, torch.where(hits, left - 2, left + 2))], 1)
    things = table(after, colour)
    things = Things(things.box, things.colour, torch.stack([torch.ones_like(leaves), ~leaves], 1))
    return [table(now, colour), table(before, colour)], torch.nn.functional.one_hot(action, 2).float(), things


@pytest.fixture(scope="module")
def network() -> MoveNetwork:
    """A network that knows the world of a ball and a paddle."""
    torch.manual_seed(0)
    net = MoveNetwork(PICTURE, 3, frames=2, reach=8, actions=2, codes=4, hidden=64)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for i in range(400):
        past, action, after = world(128, i)
        optimizer.zero_grad()
        net.loss(net.scene(past), action, None, after)[0].sum(-1).mean().backward()
        optimizer.step()
    return net


def test_what_things_do_to_each_other_is_learned(network: MoveNetwork) -> None:
    past, action, after = world(1000, -1)
    scene = network.scene(past)
    nats, right = network.loss(scene, action, None, after)
    assert right.float().mean() > 0.99
    assert nats.mean() < 0.05
    to = network.choose(scene, action, None)
    same = (to.there == after.there) & ((to.box == after.box).all(-1) | ~after.there)
    assert torch.equal(same, right)
    assert 0.1 < (~after.there[:, 1]).float().mean() < 0.3  # it is no small part of them


@pytest.mark.parametrize("what", ["action", "past", "pairs", "box"])
def test_each_thing_that_the_network_reads_counts(network: MoveNetwork, what: str) -> None:
    past, action, after = world(1000, -1)
    scene = network.scene(past)
    swapped = torch.arange(1000).roll(1)
    if what == "action":
        action = action[swapped]
    if what == "past":
        scene = replace(scene, each=torch.cat([scene.each[..., :5], scene.each[swapped][..., 5:]], -1))
    if what == "pairs":
        scene = replace(scene, pairs=scene.pairs[swapped])
    if what == "box":
        scene = network.scene([past[0], table(past[0].box, past[0].colour[0])])
    assert network.loss(scene, action, None, after)[1].float().mean() < 0.93


def test_some_boxes_are_wrong_by_an_edge_now_or_all_the_time() -> None:
    box = torch.tensor([[50, 66, 140, 148], [100, 120, 60, 68]]).expand(3000, 2, 4)
    past = [Things(box + t, torch.tensor([[1, 2]]).expand(3000, 2), torch.ones(3000, 2).bool()) for t in range(3)]
    found = perturbed(past, 8, torch.Generator().manual_seed(0))
    off = torch.stack([after.box - before.box for before, after in zip(past, found, strict=True)])  # [3, 3000, 2, 4]
    wrong = off.any(-1)
    assert wrong.any(0).float().mean() == pytest.approx(WRONG * 0.95, abs=0.03)  # some are moved by nothing
    assert (off[0] != 0).sum(-1).max() == 1
    assert off[0].amax((0, 1)).tolist() == [12, 12, 6, 6]
    assert off[0, :, 0].amin(0).tolist() == [-10, -10, -6, -6]
    assert torch.equal(off[1], off[2])
    assert 0.4 < wrong[1].sum() / wrong[0].sum() < 0.6
    assert torch.equal(off[1][wrong[1]], off[0][wrong[1]])
    dots = Things(torch.tensor([[[9, 10, 9, 10]]]).expand(500, 1, 4), past[0].colour[:500, :1], past[0].there[:500, :1])
    top, bottom, left, right = perturbed([dots], 8, torch.Generator().manual_seed(0))[0].box.unbind(-1)
    assert (bottom > top).all()
    assert (right > left).all()


def test_the_code_says_nothing_before_it_is_learned_and_then_decides() -> None:
    """A thing that goes up or down, as the code says."""
    torch.manual_seed(0)
    net = MoveNetwork(PICTURE, 3, frames=2, reach=4, actions=1, codes=2, hidden=32)
    start = table(at(torch.full((64,), 10), torch.full((64,), 8))[:, None], torch.tensor([1]))
    side = torch.arange(64) % 2
    code, action = torch.nn.functional.one_hot(side, 2).float(), torch.zeros(64, 1)
    after = table(at(10 + 4 * side - 2, torch.full((64,), 8))[:, None], torch.tensor([1]))
    scene = net.scene([start, start])
    assert torch.equal(net.read(scene, action, code), net.read(scene, action, None))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        net.loss(scene, action, code, after)[0].mean().backward()
        optimizer.step()
    assert torch.equal(net.choose(scene, action, code).box, after.box)


def test_what_saw_wrong_boxes_makes_them_right_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thing of a height of 6 that stands still, and is 9 rows high now."""
    monkeypatch.setattr(moves, "WRONG", 0.8)
    errors = {}
    for wrong in (False, True):
        torch.manual_seed(0)
        net = MoveNetwork(PICTURE, 3, frames=2, reach=8, actions=1, codes=2, hidden=32)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        for i in range(400):
            top = torch.randint(2, 14, (64,), generator=torch.Generator().manual_seed(i))
            true = table(at(top, torch.full_like(top, 8), 6)[:, None], torch.tensor([1]))
            past = perturbed([true, true], 8) if wrong else [true, true]
            optimizer.zero_grad()
            net.loss(net.scene(past), torch.zeros(64, 1), None, true)[0].mean().backward()
            optimizer.step()
        now = table(true.box + torch.tensor([0, 3, 0, 0]), true.colour[0])
        box = net.choose(net.scene([now, true]), torch.zeros(64, 1), None).box
        errors[wrong] = float(((box[..., 1] - box[..., 0]) != 6).float().mean())
    assert errors[True] < 0.1 < 0.5 < errors[False]


def test_a_thing_that_came_from_nowhere_has_no_past() -> None:
    net = MoveNetwork(PICTURE, 3, frames=2, reach=4, actions=1, codes=2, hidden=8)
    now, empty = found(rectangle((4, 8, 4, 8, 1))), found(rectangle())
    moved = net.scene([now, empty]).each[0, 0, 5:] - net.first[5:]
    assert moved.tolist() == [9, 9, 9, 9]  # the class behind -4 ... 4
    assert (net.scene([now, now]).each[0, 0, 5:] - net.first[5:]).tolist() == [4, 4, 4, 4]
