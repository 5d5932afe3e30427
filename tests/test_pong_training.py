"""The training of Learned-Pong: what it sees, and that it goes on where it was stopped."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mbrl_gym.models.video_config import VideoConfig
from mbrl_gym.zoo import pong
from mbrl_gym.zoo.pong_training import Recipe, Training, Windows, events

MODEL = VideoConfig(
    colours=5, patch=(14, 16), channels=(8, 8), blocks=1, embedding=8, codes=2, context=4, learn_termination=True
)
SMALL = Recipe(real_steps=400, updates=4, dreamt_updates=2, batch_size=2, stages=((0.5, 1), (1.0, 3)), model=MODEL)


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
        recipe, rng = replace(SMALL, near=near, batch_size=200), np.random.default_rng(0)
        batch = Windows(replay, recipe).draw(0.0, rng)
        assert batch.length == 4 + 1
        assert Windows(replay, recipe).draw(0.5, rng).length == 4 + 3
        draws[near] = float((batch.reward[:, -1] != 0).float().mean())
    assert draws[1.0] > 0.15 > 0.1 > draws[0.0]


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
    assert [length for _, length, _ in begun] == [5, 5, 4, 5]


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
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        part.run(1e9, stop)
    part.save()
    assert not Training(tmp_path / "part", SMALL).run(0.0)
    again = Training(tmp_path / "part", SMALL)
    assert again.done == 4
    assert again.run(1e9, lambda done, terms: seen.append(done))
    assert seen == [1, 2, 3, 4, 5, 6]
    pairs = zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    rates = [t.trainer.optimizer.param_groups[0]["lr"] for t in (whole, again)]
    assert rates[0] == rates[1] < SMALL.learning_rate / 2


def test_another_recipe_does_not_go_on_there(tmp_path: Path) -> None:
    Training(tmp_path / "run", SMALL).run(0.0)
    with pytest.raises(ValueError, match="folder must hold a training by the same recipe"):
        Training(tmp_path / "run", replace(SMALL, updates=7))
