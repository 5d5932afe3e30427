"""VideoModel and its palette, on small games whose rules are known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.functional import one_hot

from mbrl_gym import ModelTrainer, TrainerConfig, check_world_model
from mbrl_gym.batch import SequenceBatch
from mbrl_gym.models.palette import Palette
from mbrl_gym.models.video import VideoModel, _doubt
from mbrl_gym.models.video_config import VideoConfig
from mbrl_gym.models.video_networks import looked_up
from mbrl_gym.models.video_state import VideoState
from mbrl_gym.nets import moves
from mbrl_gym.nets.video import MEMORY, PixelLoss
from mbrl_gym.start_states import StartStates
from mbrl_gym.store import StoredModel, load_model, save_model

SPACE, ACTIONS = spaces.Box(0, 255, (12, 12), np.uint8), spaces.Discrete(3)
SMALL = VideoConfig(
    colours=3, patch=(3, 3), channels=(16, 24), blocks=1, embedding=24, codes=8, context=4, things=4, reach=8, hidden=48
)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_what_colours_are_read_as_is_looked_up(size: int, dtype: torch.dtype) -> None:
    table = torch.randn(5, size, generator=torch.Generator().manual_seed(0)).to(dtype)
    numbers = torch.randint(0, 5, (3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(looked_up(numbers, table), table[numbers.long()])


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


def goes_nowhere(model: VideoModel) -> VideoModel:
    """Return the model, whose things stay where they are."""
    moves = model.networks.moves
    for head in moves.heads:
        nn.init.zeros_(head.weight)
        head.bias.data.copy_(10.0 * (torch.arange(len(head.bias)) == moves.reach))
    return model


def goes(model: VideoModel) -> VideoModel:
    """Return the model, whose things go."""
    goes_nowhere(model).networks.moves.heads[0].bias.data[-1] = 100.0
    return model


def test_what_is_rare_at_its_place_weighs_more_missing_or_too_much() -> None:
    data, losses = pushed(500, 6), {}
    for weight in (1.0, 30.0):
        for change in (goes, goes_nowhere):  # nothing is drawn of the ball, or the ball where it was
            model = VideoModel(SPACE, ACTIONS, replace(SMALL, rare_weight=weight, self_fed=0.0))
            model.before_fit(data)
            losses[weight, change] = model._pixel_loss(*loss_of(change(model), data))
    rare = 1 / (2 / 11) ** 0.5  # a pixel of the middle rows has the ball in two columns of eleven
    for change in (goes, goes_nowhere):
        assert 0.7 * rare < losses[30.0, change] / losses[1.0, change] < 1.3 * rare


def loss_of(model: VideoModel, data: SequenceBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what the pixel loss of the row behind the context is made of."""
    picture = model.encoded(data.obs[:, 4])  # type: ignore[index, arg-type]
    step = model.networks.step(belief(model, data, 4), data.action[:, 3], None, None)
    return step.logits, picture, model._picture(step.logits)[0], torch.ones(len(picture))


def rolling(count: int, speed: int) -> SequenceBatch:
    """Return windows of 6 pictures on which the ball rolls on; what is pressed does nothing."""
    column = torch.arange(count)[:, None] % 3 + 5 + speed * (torch.arange(6) - 3)
    return windows(court(column), torch.ones(count, 6, dtype=torch.long))


def test_before_anything_is_learned_the_background_is_known_and_things_are_drawn_where_they_are_said_to_go() -> None:
    data = rolling(9, 3)
    model = VideoModel(SPACE, ACTIONS, SMALL)
    model.before_fit(data)
    after, _ = goes_nowhere(model).predict(belief(model, data, 4), data.action[:, 3], sample=False)
    assert torch.equal(model.decode(after), data.obs[:, 3])  # type: ignore[index]
    for head, by in zip(model.networks.moves.heads, (1, 1, -1, -1), strict=True):
        head.bias.data[SMALL.reach + by] = 50.0
    after, _ = model.predict(belief(model, data, 4), data.action[:, 3], sample=False)
    ball = model.decode(after) == BALL
    assert torch.equal(ball[:, 2:, :-1], (data.obs[:, 3] == BALL)[:, 1:-1, 1:])  # type: ignore[index]
    after, _ = goes(model).predict(belief(model, data, 4), data.action[:, 3], sample=False)
    assert torch.equal(model.decode(after), court(torch.full((9,), -1)))


@pytest.mark.parametrize("change", [{"things": 1}, {"parts": 1}, {"largest": (4, 4)}])
def test_as_many_and_as_large_things_are_moved_as_asked_for(change: dict[str, Any]) -> None:
    """Beside the ball there is a bar of six pixels in the ball's colour."""
    data = rolling(9, 0)
    obs = data.obs.clone()  # type: ignore[union-attr]
    model = VideoModel(SPACE, ACTIONS, replace(SMALL, **change))
    model.before_fit(data)
    obs[..., 11, 0:6] = BALL
    state = model.believe(obs[:, :4], data.action[:, :4])
    after, _ = goes_nowhere(model).predict(state, data.action[:, 3], sample=False)
    drawn, screen = model.decode(after) == BALL, obs[:, 3] == BALL
    assert torch.equal(drawn[:, 5:7], screen[:, 5:7]) == ("largest" in change)
    assert torch.equal(drawn[:, 11], screen[:, 11]) == ("things" in change)


def test_the_draft_is_read_by_what_draws() -> None:
    data = rolling(9, 1)
    model = VideoModel(SPACE, ACTIONS, SMALL)
    model.before_fit(data)
    nets, state, action = model.networks, belief(model, data, 4), data.action[:, 3]
    nn.init.normal_(nets.decoder.head)
    levels, given = nets.levels(state, action)
    draft = state.newest(9)
    nothing = torch.zeros_like(draft, dtype=torch.bool)
    seen = nets._coloured(draft)
    one, other = (nets.decoder(levels, given, draft, nothing, read)[0] for read in (seen, torch.zeros_like(seen)))
    assert (one - other).abs().max() > 0.01


def test_nothing_is_drawn_anew_to_make_up_for_wrong_moves() -> None:
    """In training things come to where the next picture has them, whatever was said of them."""
    data = rolling(9, 1)
    model = VideoModel(SPACE, ACTIONS, SMALL)
    model.before_fit(data)
    terms = goes(model).loss(data).terms
    assert terms["wrong_pixels"] == 0
    assert terms["moves"] > 50


def test_moves_are_learned_from_the_rows_that_are_shown_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from each of them alone; what an episode's beginning lies in or before is left out."""
    monkeypatch.setattr(moves, "WRONG", 0.0)
    data, config = pushed(6, 9, seed=3), replace(SMALL, context=8, self_fed=0.0)
    model = VideoModel(SPACE, ACTIONS, config)
    model.before_fit(data)
    is_first = torch.zeros(6, 9, dtype=torch.bool)
    is_first[0, 0] = is_first[1, 2] = is_first[2, 7] = True
    data = replace(data, is_first=is_first)
    assert isinstance(data.obs, Tensor)
    pictures, single = model.encoded(data.obs), []
    for b in range(6):
        for t in range(3, 7):
            state = model.believe(data.obs[b : b + 1, : t + 1], data.action[b : b + 1, : t + 1])
            after = model.networks.things(pictures[b : b + 1, t + 1])
            scene = model.networks.scene(state)
            nats = model.networks.moves.loss(scene, data.action[b : b + 1, t], None, after)[0].sum()
            single.append(float(nats.detach()) * (not is_first[b, t - 2 : t + 2].any()))
    assert 0 < sum(n == 0 for n in single) < 8
    assert float(model._shown_moves(pictures[:, :8], data).detach()) == pytest.approx(sum(single) / 24, rel=1e-4)
    both = model.loss(data).terms["moves"]
    model._shown_moves = lambda *_: torch.zeros(())  # type: ignore[method-assign]
    assert float(both - model.loss(data).terms["moves"]) == pytest.approx(sum(single) / 24, rel=1e-3)
    model.networks.moves.requires_grad_(False)
    assert model.loss(data).terms["moves"] == 0


def test_what_is_open_of_a_move_is_learned_by_the_code() -> None:
    data = pushed(64, 6)
    model = trained(data, 30, replace(SMALL, self_fed=0.0))
    assert model.networks.moves.code.weight.abs().max() > 0


def test_rows_in_which_an_episode_begins_are_not_predicted() -> None:
    data = pushed(16, 6)
    model = VideoModel(SPACE, ACTIONS, replace(SMALL, self_fed=0.0, learn_termination=True))
    model.before_fit(data)
    is_first = torch.zeros(16, 6, dtype=torch.bool)
    is_first[:, 4:] = True
    terms = model.loss(replace(data, is_first=is_first)).terms
    assert all(not terms[name] for name in ("pixels", "moves", "latent", "reward", "termination", "wrong_pixels"))


@pytest.mark.parametrize(("self_fed", "own"), [(0.0, False), (1.0, True)])
def test_self_fed_windows_go_on_from_the_models_own_pictures(self_fed: float, own: bool) -> None:
    data = pushed(4, 7)
    model = VideoModel(SPACE, ACTIONS, replace(SMALL, self_fed=self_fed, largest=(1, 1)))
    model.before_fit(data)  # untrained, and the ball too large to be moved: in its own pictures there is none
    seen: list[VideoState] = []
    step = model.networks.step
    model.networks.step = lambda state, *rest, **more: (seen.append(state), step(state, *rest, **more))[1]  # type: ignore
    model.loss(data)
    shown = torch.stack([model.decode(state) for state in seen[1:]], 1)
    none = court(torch.full((4, 2), -1))
    assert torch.equal(shown, none if own else data.obs[:, 4:6])  # type: ignore[index]


def test_windows_that_begin_in_a_dream_go_on_in_it() -> None:
    data = pushed(4, 7)
    model = VideoModel(SPACE, ACTIONS, replace(SMALL, self_fed=0.0, largest=(1, 1)))
    model.before_fit(data)
    start = belief(model, data, 4)
    seen: list[tuple[VideoState, Tensor]] = []
    step = model.networks.step
    model.networks.step = lambda state, action, *rest, **more: (  # type: ignore[method-assign]
        seen.append((state, action)),
        step(state, action, *rest, **more),
    )[1]
    model.loss(data[:, 3:], start)
    assert seen[0][0] is start
    assert [action.tolist() for _, action in seen] == [data.action[:, t].tolist() for t in (3, 4, 5)]
    assert torch.equal(model.decode(seen[2][0]), court(torch.full((4,), -1)))  # untrained, the ball too large to move


def test_pictures_drawn_with_a_latent_from_the_prior_are_not_held_against_the_recording() -> None:
    data, losses = pushed(8, 6), []
    for share in (0.0, 1.0):
        model = VideoModel(SPACE, ACTIONS, replace(SMALL, self_fed=1.0, prior_share=share))
        model.before_fit(data)
        losses.append(model.loss(data).terms)
    assert losses[0]["pixels"] > 0
    assert losses[1]["pixels"] == losses[1]["moves"] == losses[1]["wrong_pixels"] == 0
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
        ({"reach": 0}, "reach must be at least 1, got 0"),
        ({"things": 0}, "things must be at least 1, got 0"),
        ({"parts": 0}, "parts must be at least 1, got 0"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"largest": (4, 0)}, r"largest must be a height and a width of at least 1, got \(4, 0\)"),
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
