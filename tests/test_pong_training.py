"""The training of Learned-Pong: what it sees, and that it goes on where it was stopped."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mbrl_gym.models.video import VideoModel
from mbrl_gym.models.video_config import VideoConfig
from mbrl_gym.zoo import pong, pong_training
from mbrl_gym.zoo.pong_moves import fit_moves, tabulate
from mbrl_gym.zoo.pong_training import PONG, Recipe, Training, Windows, events

MODEL = VideoConfig(
    colours=5, patch=(14, 16), channels=(8, 8), blocks=1, embedding=8, codes=2, context=4, learn_termination=True
)
SMALL = Recipe(
    real_steps=400,
    moves_steps=200,
    moves_updates=3,
    moves_batch=4,
    updates=4,
    dreamt_updates=2,
    batch_size=2,
    stages=((0.5, 1, 0.6), (1.0, 3, 0.2)),
    model=MODEL,
)


@pytest.fixture(scope="module")
def replay() -> "pong.SequenceReplay":
    """Some hundred real steps."""
    return pong.collect(1200, seed=0)


def test_something_happens_where_it_is_said_to(replay: "pong.SequenceReplay") -> None:
    found = events(replay)
    data = replay.gather(replay.windows(1), 1)
    place = pong.ball(data.obs[:, 0, 0].numpy())  # type: ignore[index]
    assert found["point"].tolist() == np.flatnonzero(data.reward[:, 0] != 0).tolist()
    assert len(found["point"]) > 10
    assert found["end"].tolist() == np.flatnonzero(data.terminated[:, 0]).tolist()
    assert found["beginning"].tolist() == list(range(40))  # of the only game
    assert not np.isnan(place[found["appearance"], 0]).any()
    assert np.isnan(place[found["appearance"] - 1, 0]).all()
    assert len(found["turn"]) > 10
    for row in found["turn"]:
        before, after = place[row - 1] - place[row - 2], place[row] - place[row - 1]
        assert np.abs(after - before).max() > 1.5


def test_windows_are_near_what_happens_and_grow(replay: "pong.SequenceReplay") -> None:
    draws = {}
    for near in (0.0, 1.0):
        stages = ((0.5, 1, near), (1.0, 3, near))
        recipe, rng = replace(SMALL, stages=stages, batch_size=200), np.random.default_rng(0)
        batch = Windows(replay, recipe).draw(0.0, rng)
        assert batch.length == 4 + 1
        assert Windows(replay, recipe).draw(0.5, rng).length == 4 + 3
        draws[near] = float((batch.reward[:, -1] != 0).float().mean())
    assert draws[1.0] > 0.15 > 0.1 > draws[0.0]


@pytest.mark.parametrize(("event", "least", "most"), [("point", 0.95, 1.0), ("turn", 0.0, 0.3)])
def test_windows_are_near_each_kind_of_event_as_often_as_asked_for(
    replay: "pong.SequenceReplay", monkeypatch: pytest.MonkeyPatch, event: str, least: float, most: float
) -> None:
    monkeypatch.setattr(pong_training, "NEAR", {event: 1.0})
    recipe = replace(SMALL, stages=((1.0, 1, 1.0),), batch_size=200)
    batch = Windows(replay, recipe).draw(0.0, np.random.default_rng(0))
    assert least <= (batch.reward[:, -1] != 0).float().mean() <= most


def test_what_moves_is_learned_from_other_play_by_better_players_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[tuple[int, int, float]] = []
    fitted: list[Any] = []

    def collect(steps: int, seed: int, least_skill: float = 0.0) -> "pong.SequenceReplay":
        played.append((steps, seed, least_skill))
        return pong.collect(steps, seed, least_skill)

    monkeypatch.setattr(pong_training, "collect", collect)
    monkeypatch.setattr(pong_training, "MOVES_PART", 150)
    monkeypatch.setattr(pong_training, "fit_moves", lambda *arguments: fitted.append(arguments))
    Training(tmp_path, SMALL)._fit_moves(None)
    assert played == [(400, 0, 0.0), (150, 1000, 0.7), (50, 1001, 0.7)]
    ((_, table, updates, batch_size, rate, *_),) = fitted
    assert int(table.first.sum()) >= 3
    assert len(table.first) == table.things.batch_size >= 600
    assert (updates, batch_size, rate) == (3, 4, 2e-3)


def test_the_rate_for_moves_falls_and_what_is_not_finite_is_an_error(replay: "pong.SequenceReplay") -> None:
    model = VideoModel(replay.observation_space, replay.action_space, PONG)
    model.before_fit(replay.sample(64, 1, np.random.default_rng(0)))
    table, moves, steps = tabulate(model, replay), model.networks.moves, []

    def note(done: int, terms: dict[str, torch.Tensor]) -> None:
        steps.append(moves.place.weight.detach().clone())

    fit_moves(model, table, 30, 8, 1e-3, 0, note)
    sizes = [float((b - a).abs().mean()) for a, b in pairwise(steps)]
    assert sum(sizes[-3:]) < 0.2 * sum(sizes[:3])
    with torch.no_grad():
        moves.place.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="the moves are not finite after 1 updates"):
        fit_moves(model, table, 1, 8, 1e-3, 0)


def test_dreams_follow_points(replay: "pong.SequenceReplay") -> None:
    windows, rng = Windows(replay, replace(SMALL, batch_size=50)), np.random.default_rng(0)
    lengths = set()
    for _ in range(100):
        batch, dreamt = windows.after_points(rng)
        lengths.add(dreamt)
        assert batch.length == 4 + dreamt + 3
        assert not batch.is_first.any()
        assert (batch.reward[:, 4:7] != 0).any(1).all()
        assert not (batch.reward[:, 4:7] == 0).all()
    assert lengths == set(range(23))


def test_the_last_updates_begin_in_dreams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(tmp_path, replace(SMALL, updates=1, dreamt_updates=3))
    begun = []
    update = training.trainer.update

    def note(batch: Any, progress: float, start: Any = None) -> Any:
        begun.append((progress, batch.length, start))
        return update(batch, progress, start)

    monkeypatch.setattr(training.trainer, "update", note)
    assert training.run(1e9)
    assert [start is not None for _, _, start in begun] == [False, False, True, False]
    assert [round(progress, 2) for progress, *_ in begun] == [0.0, 0.64, 0.76, 0.88]
    assert [length for _, length, _ in begun] == [5, 7, 4, 7]


def test_dreams_have_the_recorded_paddles(tmp_path: Path) -> None:
    training = Training(tmp_path, SMALL)
    batch, _ = training.windows.after_points(np.random.default_rng(0))
    dreamt = training._dream(batch, 3)
    real = training.model.believe(batch.obs[:, :7], batch.action[:, :7])
    same = (dreamt.frames == real.frames).all(1).all(-1).all(0)  # [10] columns of 16 pixels
    assert same[[1, 8]].all()
    assert not same.all()
    screens = batch.obs[:, :, 0, pong.COURT].numpy()  # type: ignore[index]
    paddles = (screens == pong.PADDLE) | (screens == 148)
    assert set(np.flatnonzero(paddles.any((0, 1, 2)))) == set(pong.PADDLES)


def test_it_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    whole = Training(tmp_path / "whole", SMALL)
    assert whole.run(1e9)
    part = Training(tmp_path / "part", SMALL)
    seen: list[int] = []

    def stop(done: int, terms: dict[str, torch.Tensor]) -> None:
        seen.append(done)
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        part.run(1e9, stop)
    part.save()
    assert not Training(tmp_path / "part", SMALL).run(0.0)
    again = Training(tmp_path / "part", SMALL)
    assert again.done == 7
    assert again.run(1e9, lambda done, terms: seen.append(done))
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    pairs = zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    rates = [t.trainer.optimizer.param_groups[0]["lr"] for t in (whole, again)]
    assert rates[0] == rates[1] < SMALL.learning_rate / 2


def test_stopped_among_the_moves_it_begins_again_and_comes_to_the_same(tmp_path: Path) -> None:
    recipe = replace(SMALL, updates=1, dreamt_updates=0)
    whole = Training(tmp_path / "whole", recipe)
    assert whole.run(1e9)
    part = Training(tmp_path / "part", recipe)

    def stop(done: int, terms: dict[str, torch.Tensor]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        part.run(1e9, stop)
    assert part.done == 0
    assert part.run(1e9)
    pairs = zip(whole.model.state_dict().values(), part.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_what_moves_is_learned_first_and_then_stays(tmp_path: Path) -> None:
    training = Training(tmp_path, SMALL)
    moves = training.model.networks.moves
    before = [p.clone() for p in moves.parameters()]
    states: list[list[torch.Tensor]] = []
    terms: list[set[str]] = []

    def note(done: int, found: dict[str, torch.Tensor]) -> None:
        states.append([p.detach().clone() for p in moves.parameters()])
        terms.append(set(found))

    assert training.run(1e9, note)
    assert terms[:3] == [{"moves", "wrong_moves"}] * 3
    assert all("pixels" in found for found in terms[3:])
    assert any(not torch.equal(a, b) for a, b in zip(before, states[2], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(states[2], states[-1], strict=True))
    assert not moves.code.weight.any()  # it has no say in them


def test_the_table_has_the_things_of_each_screen_and_of_those_before(replay: "pong.SequenceReplay") -> None:
    model = VideoModel(replay.observation_space, replay.action_space, PONG)
    model.before_fit(replay.sample(512, 1, np.random.default_rng(0)))
    table = tabulate(model, replay, part=100)
    data = replay.gather(replay.windows(1), 1)
    assert torch.equal(table.action, data.action[:, 0])
    assert torch.equal(table.first, data.is_first[:, 0])
    assert len(table.steps) == len(replay) - int(table.first.sum())
    place = pong.ball(data.obs[:, 0, 0].numpy())  # type: ignore[index]
    colour = model.palette.colours[:, 0].tolist().index(pong.BALL)
    balls = table.things.there & (table.things.colour == colour) & (table.things.box[..., 0] >= pong.COURT.start)
    one = balls.sum(1) == 1
    assert one.float().mean() > 0.5
    middle = (table.things.box[..., 0] + table.things.box[..., 1] - 1) / 2
    off = (middle * balls).sum(1)[one] - torch.from_numpy(place[:, 0])[one]
    assert off.abs().max() < 1
    rows = torch.tensor([0, 1, 700])
    past = table.past(rows, 3)
    for then, expected in zip(past, ([0, 1, 700], [0, 0, 699], [0, 0, 698]), strict=True):
        assert torch.equal(then.box, table.things.box[expected])


def test_another_recipe_does_not_go_on_there(tmp_path: Path) -> None:
    Training(tmp_path / "run", SMALL).run(0.0)
    with pytest.raises(ValueError, match="folder must hold a training by the same recipe"):
        Training(tmp_path / "run", replace(SMALL, updates=7))
