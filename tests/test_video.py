"""VideoModel and its palette, on small games whose rules are known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn.functional import one_hot

from mbrl_gym import ModelTrainer, TrainerConfig, check_world_model
from mbrl_gym.batch import SequenceBatch
from mbrl_gym.models.palette import Palette
from mbrl_gym.models.video import VideoModel, _doubt
from mbrl_gym.models.video_config import VideoConfig
from mbrl_gym.models.video_state import Cells, VideoState
from mbrl_gym.nets.video import LIKELIEST, MEMORY, CellCopies, PixelLoss
from mbrl_gym.start_states import StartStates
from mbrl_gym.store import StoredModel, load_model, save_model

SPACE, ACTIONS = spaces.Box(0, 255, (12, 12), np.uint8), spaces.Discrete(3)
SMALL = VideoConfig(colours=3, patch=(3, 3), channels=(16, 24), blocks=1, embedding=24, codes=8, context=4)
GROUND, WALL, BALL = 50, 120, 236


def windows(obs: Tensor, action: Tensor, reward: Tensor | None = None, **columns: Tensor) -> SequenceBatch:
    """Return windows [B, T] of pictures and actions [B, T] that begin anywhere but in an episode's first row."""
    no = torch.zeros(obs.shape[:2], dtype=torch.bool)
    reward = torch.zeros(obs.shape[:2]) if reward is None else reward
    index = torch.arange(no.numel()).view(no.shape)
    plain = SequenceBatch(obs, one_hot(action, 3).float(), reward, no, no, no, index)
    return replace(plain, **columns)


def court(column: Tensor) -> Tensor:
    """Return pictures [..., 12, 12] with a ball of 2 x 2 pixels in the middle rows, at a column [...]; -1: none."""
    pictures = torch.full((*column.shape, 12, 12), GROUND, dtype=torch.uint8)
    pictures[..., 0, :] = WALL
    at = torch.arange(12)
    inside = ((at == column[..., None]) | (at == column[..., None] + 1)) & (column[..., None] >= 0)
    pictures[..., 5:7, :] = torch.where(inside[..., None, :], BALL, pictures[..., 5:7, :])
    return pictures


def pushed(count: int, length: int, seed: int = 0) -> SequenceBatch:
    """Return windows of a ball that actions 0, 1, 2 push one pixel left, nowhere, right; it pays 1 at the right."""
    generator = torch.Generator().manual_seed(seed)
    action = torch.randint(0, 3, (count, length), generator=generator)
    columns = [torch.randint(0, 11, (count,), generator=generator)]
    for t in range(length - 1):
        columns.append((columns[-1] + action[:, t] - 1).clamp(0, 10))
    column = torch.stack(columns, 1)
    return windows(court(column), action, (column == 10).float())


def trained(data: SequenceBatch, updates: int, config: VideoConfig = SMALL, batch: int = 16) -> VideoModel:
    """Return a model of all windows."""
    torch.manual_seed(0)
    model = VideoModel(SPACE, ACTIONS, config)
    model.before_fit(data)
    trainer = ModelTrainer(model, TrainerConfig(learning_rate=3e-3))
    generator = torch.Generator().manual_seed(1)
    for _ in range(updates):
        trainer.update(data[torch.randint(0, len(data.reward), (batch,), generator=generator)])
    return model


def belief(model: VideoModel, data: SequenceBatch, rows: int) -> VideoState:
    """Return beliefs after the first rows."""
    assert isinstance(data.obs, Tensor)
    return model.believe(data.obs[:, :rows], data.action[:, :rows])


@pytest.fixture(scope="module")
def player() -> VideoModel:
    """A model of the pushed ball."""
    return trained(pushed(400, 7), 350)


# ---- the palette ----------------------------------------------------------------------------------------------------


def test_few_colours_are_kept_exactly_the_commonest_first() -> None:
    palette = Palette(SPACE, 8)
    pictures = court(torch.tensor([3, 7, -1]))
    palette.learn(pictures)
    assert palette.used == 3
    assert palette.colours[:3, 0].tolist() == [GROUND, WALL, BALL]
    assert torch.equal(palette.decode(palette.encode(pictures)), pictures)
    assert palette.encode(torch.full((12, 12), GROUND + 3, dtype=torch.uint8)).eq(0).all()  # the nearest one


@pytest.mark.parametrize("channels", [1, 3])
def test_many_colours_become_the_ones_that_are_near_all(channels: int) -> None:
    space = spaces.Box(0, 255, (12, 12, channels), np.uint8)
    base = torch.tensor([[20, 200, 90], [220, 30, 160], [120, 120, 10]], dtype=torch.uint8)[:, :channels]
    generator = torch.Generator().manual_seed(0)
    which = torch.randint(0, 3, (50, 12, 12), generator=generator)
    noise = torch.randint(0, 5, (50, 12, 12, channels), generator=generator).to(torch.uint8)
    palette = Palette(space, 3)
    palette.learn(base[which] + noise)
    found = palette.colours.int() - 2
    assert all((found - colour.int()).abs().amax(-1).min() <= 2 for colour in base)
    again = palette.decode(palette.encode(base[which] + noise)).int()
    assert (again - base[which].int()).abs().max() <= 12  # three channels are looked up by five bits


@pytest.mark.parametrize(("shape", "axis"), [((12, 10), None), ((12, 10, 3), -1), ((3, 12, 10), -3), ((1, 12, 10), -3)])
def test_channels_may_be_anywhere(shape: tuple[int, ...], axis: int | None) -> None:
    palette = Palette(spaces.Box(0, 255, shape, np.uint8), 4)
    numbers = torch.randint(0, 4, (5, 12, 10), generator=torch.Generator().manual_seed(0))
    colours = torch.tensor([[0, 80, 160], [80, 0, 240], [160, 160, 0], [240, 80, 80]], dtype=torch.uint8)
    pictures = colours[numbers] if axis is not None and shape[axis] == 3 else colours[numbers][..., :1]
    pictures = pictures[..., 0] if axis is None else pictures.movedim(-1, axis)
    palette.learn(pictures)
    assert palette.encode(pictures).shape == (5, 12, 10)
    assert torch.equal(palette.decode(palette.encode(pictures)), pictures)


@pytest.mark.parametrize("shape", [(12,), (12, 12, 4), (2, 12, 12)])
def test_what_is_no_single_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"observation_space must be a uint8 Box of the shape \[H, W\]"):
        Palette(spaces.Box(0, 255, shape, np.uint8), 4)
    with pytest.raises(ValueError, match="observation_space must be a uint8 Box"):
        Palette(spaces.Box(0, 1, (12, 12), np.float32), 4)


@pytest.mark.parametrize("size", [1, 257])
def test_a_palette_has_2_to_256_colours(size: int) -> None:
    with pytest.raises(ValueError, match=f"size must be between 2 and 256 colours, got {size}"):
        Palette(SPACE, size)


# ---- beliefs --------------------------------------------------------------------------------------------------------


def test_cells_and_rows_are_the_same_pictures() -> None:
    model = VideoModel(SPACE, ACTIONS, replace(SMALL, patch=(3, 4)))
    numbers = torch.randint(0, 3, (2, 5, 12, 12), dtype=torch.uint8)
    cells = model.grid.cut(numbers)
    assert cells.shape == (2, 5, 4, 3, 12)
    assert torch.equal(cells[0, 0, 1, 2].view(3, 4), numbers[0, 0, 3:6, 8:12])
    assert torch.equal(model.grid.joined(cells), numbers)


def test_cells_may_stick_out_of_the_picture() -> None:
    model = VideoModel(SPACE, ACTIONS, replace(SMALL, patch=(5, 9)))
    numbers = torch.randint(1, 3, (2, 12, 12), dtype=torch.uint8)
    cells = model.grid.cut(numbers)
    assert cells.shape == (2, 3, 2, 45)
    assert torch.equal(model.grid.joined(cells), numbers)
    assert int((cells == 0).sum()) == 2 * (15 * 18 - 12 * 12)


def test_a_belief_is_the_last_pictures_and_an_episode_begins_with_its_first() -> None:
    model = VideoModel(SPACE, ACTIONS, SMALL)
    column = torch.tensor([[0, 1, 2, 3, 4, 5]])
    model.palette.learn(court(column))
    state = belief(model, windows(court(column), torch.zeros(1, 6, dtype=torch.long)), 6)
    assert torch.equal(model.pictures(state)[..., 0], court(column[:, 2:]))
    assert torch.equal(model.decode(state), court(column[:, -1]))
    first = model.observe(state, torch.zeros(1, 3), court(torch.tensor([9])), torch.tensor([True]))
    assert torch.equal(model.pictures(first)[..., 0], court(torch.tensor([[9, 9, 9, 9]])))
    assert not first.still.any()


def test_a_belief_counts_how_long_cells_have_stood_still() -> None:
    model = VideoModel(SPACE, ACTIONS, SMALL)
    column = torch.tensor([[0, 0, 0, 8, 8]])
    model.palette.learn(court(column))
    state = belief(model, windows(court(column), torch.zeros(1, 5, dtype=torch.long)), 5)
    assert state.still[0, 0].tolist() == [4, 4, 4, 4]  # nothing ever moved there
    assert state.still[0, 1].tolist() == [1, 4, 1, 1]  # the ball left the first and came to the last two, a step ago
    for _ in range(MEMORY):
        state = model.observe(state, torch.zeros(1, 3), court(column[:, -1]), torch.tensor([False]))
    assert state.still.unique().tolist() == [MEMORY - 1]


@pytest.mark.parametrize("rows", [1, 3, 6])
def test_pictures_seen_at_once_are_those_seen_one_by_one(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    model = VideoModel(SPACE, ACTIONS, SMALL)
    frames = torch.randint(0, 2, (64, *model.cells, 4 * 9), dtype=torch.uint8, generator=generator)
    still = torch.randint(0, MEMORY, (64, *model.cells), dtype=torch.uint8, generator=generator)
    pictures = torch.randint(0, 2, (64, rows, *model.cells, 9), dtype=torch.uint8, generator=generator)
    pictures[:, 1:] = torch.where(torch.rand(64, 1, *model.cells, 1) < 0.7, pictures[:, :1], pictures[:, 1:])
    is_first = torch.rand(64, rows, generator=generator) < 0.3
    one_by_one = state = VideoState(frames, still)
    for t in range(rows):
        one_by_one = one_by_one.after(pictures[:, t], is_first[:, t])
    at_once = state.after_all(pictures, is_first)
    assert torch.equal(at_once.frames, one_by_one.frames)
    assert torch.equal(at_once.still, one_by_one.still)


# ---- the loss -------------------------------------------------------------------------------------------------------


def test_the_pixel_loss_is_the_clipped_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(4, 50, generator=generator)).requires_grad_()
    target = torch.randint(0, 4, (50,), generator=generator)
    weight, clip = torch.rand(50, generator=generator), 0.5
    loss = PixelLoss.apply(logits, target.to(torch.uint8), weight, clip)
    (gradient,) = torch.autograd.grad(loss, logits)
    error = torch.nn.functional.cross_entropy(logits.T, target, reduction="none")
    plain = (weight * error * (error > clip)).sum()
    assert 5 < (error > clip).sum() < 45
    assert torch.allclose(loss, plain)
    assert torch.allclose(gradient, torch.autograd.grad(plain, logits)[0], atol=1e-6)


def test_what_is_rare_at_its_place_weighs_more_missing_or_too_much() -> None:
    data, losses = pushed(500, 6), {}
    for weight in (1.0, 30.0):
        for goes in (False, True):  # nothing is drawn of the ball, or the ball where it was
            model = VideoModel(SPACE, ACTIONS, replace(SMALL, rare_weight=weight, reach=((0, 0),), self_fed=0.0))
            model.before_fit(data)
            model.copies.choice.bias.data[-1] = -100.0 if goes else 100.0
            losses[weight, goes] = model._pixel_loss(*loss_of(model, data))
    rare = 1 / (2 / 11) ** 0.5  # a pixel of the middle rows has the ball in two columns of eleven
    for goes in (False, True):
        assert 0.7 * rare < losses[30.0, goes] / losses[1.0, goes] < 1.3 * rare


def loss_of(model: VideoModel, data: SequenceBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what the pixel loss of the row behind the context is made of."""
    picture = model._encoded(data.obs[:, 4])  # type: ignore[index, arg-type]
    step = model._step(belief(model, data, 4), data.action[:, 3], picture, None)
    return step.logits, picture, model._picture(step.logits)[0], torch.ones(len(picture))


def rolling(count: int, speed: int) -> SequenceBatch:
    """Return windows of 6 pictures on which the ball rolls on; what is pressed does nothing."""
    column = torch.arange(count)[:, None] % 3 + 5 + speed * (torch.arange(6) - 3)
    return windows(court(column), torch.ones(count, 6, dtype=torch.long))


@pytest.mark.parametrize(("speed", "reach"), [(0, 1), (3, 1), (-3, 1), (-3, 2), (3, 0)])
def test_before_anything_is_learned_the_background_is_known_and_things_go_on(speed: int, reach: int) -> None:
    data = rolling(9, speed)
    model = VideoModel(SPACE, ACTIONS, replace(SMALL, reach=((0, reach),)))
    model.before_fit(data)
    after, _ = model.predict(belief(model, data, 4), data.action[:, 3], sample=False)
    assert torch.equal(model.decode(after), data.obs[:, 4 if reach else 3])  # type: ignore[index]


def test_things_go_on_by_parts_of_a_cell() -> None:
    """A ball that falls by two rows a step, in cells of three."""
    falls = court(torch.arange(3)[:, None] + 2 * torch.arange(5)).mT.contiguous()
    data = windows(falls, torch.ones(3, 5, dtype=torch.long))
    for grain, right in ((1, True), (None, False)):
        model = VideoModel(SPACE, ACTIONS, replace(SMALL, reach=((1, 0),), grain=grain))
        model.before_fit(data)
        after, _ = model.predict(belief(model, data, 4), data.action[:, 3], sample=False)
        assert torch.equal(model.decode(after) == BALL, falls[:, 4] == BALL) == right


def test_the_first_models_had_one_reach() -> None:
    assert VideoConfig(reach=[2, 3]) == VideoConfig(reach=((2, 3),))  # type: ignore[arg-type]


def test_where_things_go_is_learned() -> None:
    data = rolling(9, 3)
    model = VideoModel(SPACE, ACTIONS, SMALL)
    model.before_fit(data)
    model.copies.choice.bias.data[(model.copies.shifts == torch.tensor([1, -1])).all(-1).nonzero()[0]] = 50.0
    after, _ = model.predict(belief(model, data, 4), data.action[:, 3], sample=False)
    ball = model.decode(after) == BALL
    assert torch.equal(ball[:, 3:-3, :-6], (data.obs[:, 3] == BALL)[:, :-6, 3:-3])  # type: ignore[index]
    model.copies.choice.bias.data[-1] = 100.0  # nowhere
    after, _ = model.predict(belief(model, data, 4), data.action[:, 3], sample=False)
    assert torch.equal(model.decode(after), court(torch.full((9,), -1)))


@pytest.mark.parametrize("sources", [3, 20])
@pytest.mark.parametrize("grain", [1, 2])
def test_cells_move_by_what_is_alike_and_what_is_learned(grain: int, sources: int) -> None:
    """Pixel by pixel on pictures of 6 x 8, in cells of 2 x 2."""
    torch.manual_seed(0)
    grid = Cells((6, 8), (2, 2))
    copies = CellCopies(5, (3, 4), (2, 2), ((2, 0), (1, 1)), grain, sources)
    assert len(copies.shifts) == (11 if grain == 2 else 19)
    logits, features = torch.randn(2, 6, 12, 4), torch.randn(6, 5, 3, 4)
    before, newest = torch.randint(0, 2, (2, 6, 6, 8), dtype=torch.uint8)
    usual = torch.randint(0, 2, (6, 8), dtype=torch.uint8)
    copies.choice.weight.data.normal_()
    expected = torch.stack([grid.joined(x.view(6, 3, 4, 4)) for x in logits])  # [K, B, 6, 8]

    def square(down: int, right: int) -> tuple[slice, slice] | None:
        inside = 0 <= down <= 4 and 0 <= right <= 6
        return (slice(down, down + 2), slice(right, right + 2)) if inside else None

    def part(down: int, right: int) -> tuple[slice, slice, slice] | None:
        """Return rows and columns of a square of which something is in the picture, and which of its rows that is."""
        inside = -2 < down < 6 and 0 <= right <= 6
        rows = slice(max(down, 0), min(down + 2, 6))
        return (rows, slice(right, right + 2), slice(rows.start - down, rows.stop - down)) if inside else None

    for b in range(6):
        differs = (newest[b] != usual).view(3, 2, 4, 2).sum((1, 3)).flatten()
        for source in differs.topk(min(sources, 12)).indices.tolist():
            y, x = source // 4 * 2, source % 4 * 2
            here = square(y, x)
            off = newest[b][here] != usual[here]
            choice = copies.choice(features[b].flatten(1)[:, source])
            moves = []
            for d, (down, right) in enumerate(copies.shifts.tolist()):
                back, target = square(y - down * grain, x - 2 * right), part(y + down * grain, x + 2 * right)
                if back is not None:
                    then = before[b][back] != usual[back]
                    same = (off & then & (before[b][back] == newest[b][here])).sum()
                    choice[d] = choice[d] + 8.0 * same / max(int((off | then).sum()), 1)
                if off.any() and target is not None:
                    moves.append((d, target))
            moves.sort(key=lambda move: -choice.softmax(0)[move[0]])
            for d, target in moves[:LIKELIEST]:
                added = expected[:, b, target[0], target[1]]
                for colour in range(2):
                    added[colour] += 12.0 * choice.softmax(0)[d] * (newest[b][here] == colour)[target[2]]
    cut = [grid.cut(x).flatten(-3, -2) for x in (before, newest, usual)]
    found = copies(logits, features, (cut[0], cut[1]), cut[2])
    found = torch.stack([grid.joined(x.view(6, 3, 4, 4)) for x in found])
    assert torch.allclose(found, expected, atol=1e-4)


def test_rows_in_which_an_episode_begins_are_not_predicted() -> None:
    data = pushed(16, 6)
    model = VideoModel(SPACE, ACTIONS, replace(SMALL, self_fed=0.0, learn_termination=True))
    model.before_fit(data)
    is_first = torch.zeros(16, 6, dtype=torch.bool)
    is_first[:, 4:] = True
    terms = model.loss(replace(data, is_first=is_first)).terms
    assert all(not terms[name] for name in ("pixels", "latent", "reward", "termination", "wrong_pixels"))


@pytest.mark.parametrize(("self_fed", "own"), [(0.0, False), (1.0, True)])
def test_self_fed_windows_go_on_from_the_models_own_pictures(self_fed: float, own: bool) -> None:
    data = pushed(4, 7)
    model = VideoModel(SPACE, ACTIONS, replace(SMALL, self_fed=self_fed, reach=((0, 0),)))
    model.before_fit(data)  # untrained: in its own pictures the ball stays
    seen: list[VideoState] = []
    step = model._step
    model._step = lambda state, *rest, **more: (seen.append(state), step(state, *rest, **more))[1]  # type: ignore
    model.loss(data)
    shown = torch.stack([model.decode(state) for state in seen[1:]], 1)
    stayed = data.obs[:, 3:4].expand(-1, 2, -1, -1)  # type: ignore[index, union-attr]
    assert torch.equal(shown, stayed if own else data.obs[:, 4:6])  # type: ignore[index]


def test_windows_that_begin_in_a_dream_go_on_in_it() -> None:
    data = pushed(4, 7)
    model = VideoModel(SPACE, ACTIONS, replace(SMALL, self_fed=0.0, reach=((0, 0),)))
    model.before_fit(data)
    start = belief(model, data, 4)
    seen: list[tuple[VideoState, Tensor]] = []
    step = model._step
    model._step = lambda state, action, *rest, **more: (  # type: ignore[method-assign]
        seen.append((state, action)),
        step(state, action, *rest, **more),
    )[1]
    model.loss(data[:, 3:], start)
    assert seen[0][0] is start
    assert [action.tolist() for _, action in seen] == [data.action[:, t].tolist() for t in (3, 4, 5)]
    assert torch.equal(model.decode(seen[2][0]), data.obs[:, 3])  # type: ignore[index]  # untrained: the ball stays


def test_pictures_drawn_with_a_latent_from_the_prior_are_not_held_against_the_recording() -> None:
    data, losses = pushed(8, 6), []
    for share in (0.0, 1.0):
        model = VideoModel(SPACE, ACTIONS, replace(SMALL, self_fed=1.0, prior_share=share))
        model.before_fit(data)
        losses.append(model.loss(data).terms)
    assert losses[0]["pixels"] > 0
    assert losses[1]["pixels"] == losses[1]["wrong_pixels"] == 0
    assert losses[1]["latent"] > 0


def test_free_nats_cost_what_they_are() -> None:
    data = pushed(8, 6)
    model = VideoModel(SPACE, ACTIONS, replace(SMALL, free_nats=7.0))
    model.before_fit(data)
    assert model.loss(data).terms["latent"] == 7.0


def test_windows_must_be_longer_than_what_is_shown() -> None:
    model = VideoModel(SPACE, ACTIONS, SMALL)
    with pytest.raises(ValueError, match="length must be at least 4 known rows and one, got windows of 4"):
        model.loss(pushed(2, 4))


def test_more_rewards_than_there_is_room_for_are_refused() -> None:
    data = pushed(8, 6)
    model = VideoModel(SPACE, ACTIONS, SMALL)
    with pytest.raises(ValueError, match="rewards must be at most 3 different numbers, got 48"):
        model.before_fit(replace(data, reward=torch.rand(8, 6)))


# ---- what is learned ------------------------------------------------------------------------------------------------


def test_dreams_follow_the_actions_and_pay(player: VideoModel) -> None:
    """For 12 steps, four times as long as it was trained on its own pictures."""
    data = pushed(40, 17, seed=5)
    state, generator = belief(player, data, 5), torch.Generator().manual_seed(0)
    right = paid = 0.0
    with torch.no_grad():
        for t in range(5, 17):
            state, step = player.predict(state, data.action[:, t - 1], generator)
            right += float((player.decode(state) == data.obs[:, t]).all(-1).all(-1).float().mean())  # type: ignore
            paid += float((step.reward == data.reward[:, t]).float().mean())
            assert not (step.terminated | step.truncated).any()
    assert right / 12 > 0.9
    assert paid / 12 > 0.9


def test_past_actions_are_in_the_pictures_and_the_next_one_decides(player: VideoModel) -> None:
    data = pushed(30, 6, seed=7)
    middle = court(torch.full((30, 5), 4))
    state = player.believe(middle, data.action[:, :5])
    for action, column in ((0, 3), (1, 4), (2, 5)):
        after, _ = player.predict(state, one_hot(torch.full((30,), action), 3).float(), sample=False)
        assert torch.equal(player.decode(after), court(torch.full((30,), column)))


def coin(count: int, seed: int = 0) -> SequenceBatch:
    """Return windows in which the ball, from the middle, jumps to the left or the right border by chance."""
    generator = torch.Generator().manual_seed(seed)
    side = torch.where(torch.rand(count, generator=generator) < 0.5, 1, 9)
    column = torch.full((count, 5), 5)
    column[:, 4] = side
    return windows(court(column), torch.ones(count, 5, dtype=torch.long))


def test_what_is_open_is_decided_for_the_whole_picture() -> None:
    """Either ball, never both, none or a half: choices by pixel would make these."""
    model = trained(coin(200), 300, replace(SMALL, self_fed=0.0))
    state = belief(model, coin(200, seed=3), 4)
    with torch.no_grad():
        after, step = model.predict(state, one_hot(torch.ones(200, dtype=torch.long), 3).float(), None)
    drawn = model.decode(after)
    left, right = ((drawn == court(torch.full((200,), c))).all(-1).all(-1) for c in (1, 9))
    assert (left | right).float().mean() > 0.97
    assert 0.35 < left.float().mean() < 0.65
    assert 0.4 < step.info["latent_entropy"].mean() < 1.2  # log 2, and what unimix adds


def serves(count: int, length: int, wait: int, seed: int = 0) -> SequenceBatch:
    """Return windows in which a ball is there for two steps, gone for ``wait``, and so on."""
    generator = torch.Generator().manual_seed(seed)
    phase = torch.randint(0, wait + 2, (count, 1), generator=generator)
    there = (phase + torch.arange(length)) % (wait + 2) < 2
    return windows(court(torch.where(there, 4, -1)), torch.ones(count, length, dtype=torch.long))


def test_a_dream_counts_beyond_its_pictures() -> None:
    """A ball that comes back 10 steps after it left, of which the four pictures show 4."""
    config = replace(SMALL, context=14, frames=4, self_fed=0.0)
    model = trained(serves(300, 18, 10), 180, config, batch=8)
    data = serves(50, 40, 10, seed=4)
    state, generator = belief(model, data, 14), torch.Generator().manual_seed(0)
    right = 0.0
    with torch.no_grad():
        for t in range(14, 40):
            state, _ = model.predict(state, data.action[:, t - 1], generator)
            right += float((model.decode(state) == data.obs[:, t]).all(-1).all(-1).float().mean())  # type: ignore
    assert right / 26 > 0.9


def test_the_end_is_learned_where_asked_for_and_else_never_comes() -> None:
    data = pushed(400, 6)
    ends = data.reward.bool()
    found = {}
    for learn in (False, True):
        model = trained(replace(data, terminated=ends), 150, replace(SMALL, learn_termination=learn, self_fed=0.0))
        new = pushed(200, 6, seed=9)
        _, step = model.predict(belief(model, new, 5), new.action[:, 4], sample=False)
        found[learn] = (step.terminated == new.reward[:, 5].bool()).float().mean()
        assert learn or (not step.terminated.any() and (step.continuation == 1).all())
    assert found[True] > 0.97


# ---- as a model among others ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("colours", [3, 12])
def test_it_satisfies_the_contract(colours: int) -> None:
    check_world_model(VideoModel(SPACE, ACTIONS, replace(SMALL, colours=colours, learn_termination=True)))


def test_the_same_seed_gives_the_same_dream(player: VideoModel) -> None:
    data = pushed(6, 6, seed=2)

    def dream(seed: int) -> list[Tensor]:
        state, generator, found = belief(player, data, 5), torch.Generator().manual_seed(seed), []
        for _ in range(5):
            state, step = player.predict(state, data.action[:, 4], generator)
            found += [*state.tensors(), step.reward]
        return found

    assert all(torch.equal(a, b) for a, b in zip(dream(1), dream(1), strict=True))


def test_it_survives_storing(player: VideoModel, tmp_path: Path) -> None:
    data = pushed(4, 6)
    assert isinstance(data.obs, Tensor)
    save_model(tmp_path / "m", StoredModel(player, StartStates(data.obs[:, :4], data.action[:, :4]), None, 100))
    again: Any = load_model(tmp_path / "m").model
    assert torch.equal(again.palette.colours, player.palette.colours)
    assert torch.equal(again.palette.table, player.palette.table)
    state = belief(player, data, 5)
    one, other = (m.predict(state, data.action[:, 4], sample=False) for m in (player, again))
    assert torch.equal(one[0].frames, other[0].frames)
    assert torch.equal(one[1].reward, other[1].reward)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": (13, 3)}, r"patch must fit into the picture's 12 x 12 pixels, got \(13, 3\)"),
        ({"reach": ((1, -1),)}, r"reach must be pairs of numbers of cells, at least 0, got \(\(1, -1\),\)"),
        ({"reach": ()}, r"reach must be pairs of numbers of cells, at least 0, got \(\(\),\)"),
        ({"grain": 2}, "grain must divide the patch's height of 3 rows, got 2"),
        ({"sources": 0}, "sources must be at least 1"),
        ({"patch": (0, 3)}, "patch must be a height and a width of at least 1"),
        ({"channels": (8,)}, "channels must be those of at least two levels"),
        ({"codes": 0}, "codes must be at least 1, got 0"),
        ({"context": 3}, "context must be at least the 4 frames, got 3"),
        ({"self_fed": 1.5}, "self_fed must be between 0 and 1, got 1.5"),
        ({"clip": -0.1}, "clip must be at least 0, got -0.1"),
        ({"rare_weight": 0.5}, "rare_weight must be between 1 and 255, got 0.5"),
        ({"rare_weight": 256.0}, "rare_weight must be between 1 and 255, got 256.0"),
    ],
)
def test_bad_hyperparameters_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoModel(SPACE, ACTIONS, replace(SMALL, **change))


def test_training_goes_on_the_same_after_loading_whatever_the_memory_format() -> None:
    data = pushed(16, 6)
    states = []
    for stop in (False, True):
        torch.manual_seed(0)
        model = VideoModel(SPACE, ACTIONS, SMALL).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.before_fit(data)
        trainer = ModelTrainer(model)
        trainer.update(data)
        if stop:
            plain = trainer.state_dict()
            for moments in plain["optimizer"]["state"].values():  # as a file brings them
                moments.update(
                    {name: value.clone(memory_format=torch.contiguous_format) for name, value in moments.items()}
                )
            trainer = ModelTrainer(model)
            trainer.load_state_dict(plain)
        trainer.update(data)
        states.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_the_uncertainty_is_the_runner_ups_chance_over_all_pixels() -> None:
    logits = torch.tensor([[0.0, 3.0], [2.0, 1.0], [1.0, -5.0]]).view(3, 1, 2, 1)
    expected = torch.sigmoid(torch.tensor([-1.0, -2.0])).sum()
    assert float(_doubt(logits)) == pytest.approx(float(expected))
    assert float(_doubt(logits[:1])) == 0  # one colour


def test_a_step_says_how_sure_it_is_where_that_is_asked() -> None:
    model = trained(pushed(8, 6), 1)
    state, action = belief(model, pushed(8, 5), 4), torch.eye(3)[[0] * 8]
    unsure = model.predict(state, action)[1].uncertainty
    assert unsure.shape == (8,)
    assert (unsure > 0).all()
    assert (model.predict(state, action, uncertainty=False)[1].uncertainty == 0).all()
