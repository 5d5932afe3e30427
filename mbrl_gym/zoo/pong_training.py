"""Training of Learned-Pong: recorded play, windows of it, and a fit that goes on where it was stopped."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import trange

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.checkpoint import Checkpoint, is_checkpoint, load_checkpoint, save_checkpoint
from mbrl_gym.fit import ModelTrainer, TrainerConfig
from mbrl_gym.models.video import VideoModel
from mbrl_gym.models.video_config import VideoConfig
from mbrl_gym.models.video_state import VideoState
from mbrl_gym.packing import pack, unpack
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.tensors import concatenate
from mbrl_gym.zoo.pong import PADDLES, ball, collect
from mbrl_gym.zoo.pong_moves import fit_moves, tabulate

Rows = np.ndarray[Any, np.dtype[np.int64]]

KIND = "pong_training"
# What the windows near an event are about: mostly what no thing on the screen moves to, and rewards are learned from.
NEAR = {"appearance": 0.4, "point": 0.25, "beginning": 0.15, "turn": 0.1, "end": 0.1}
BEGINNING = 40  # steps of a game, in which paddles and ball appear: there are few games, and all dreams begin so
DREAMT, BEFORE, AFTER = 22, 3, 3  # most steps of a dream, at most so many of them before the point, rows learned then
MOVES_PART, MORE_SEEDS = 50_000, 1_000  # real steps that are recorded at once for what moves, and their seeds
SKILL = 0.7  # the least of the players whose things alone are kept
MOVES_FASTER = 2.0  # of the learning rate, for what moves
SETTLED = 0.5  # of a fit: windows between dreams are as they were from there
AGAIN = 0.64  # where on its cosine the learning rate goes on: 0.3 of that at the start
# Five colours; ball, two paddles and what points differ by from the usual ones: at most 14 things in 52 cells.
PONG = VideoConfig(colours=5, parts=64, things=16, learn_termination=True)
SAVE_EVERY = 300.0  # seconds


@dataclass(frozen=True)
class Recipe:
    """How Learned-Pong is trained.

    Attributes:
        real_steps: of recorded play.
        moves_steps: more real steps, of which only the things on the screen are kept, by players that hit the ball more
            often (`SKILL`): how it comes off paddles takes many examples.
        moves_updates: gradient steps of what moves alone, which then stays as it is (`mbrl_gym.zoo.pong_moves`).
        moves_batch: steps of recorded play in each of these.
        updates: gradient steps.
        batch_size: windows of each.
        stages: share of the updates up to which; steps that windows predict; share of the windows in which something
            happens (`NEAR`). At first there is much of it, for there is little else to be learned; then about as much
            as in the game, or too much would be drawn of it. Drift is met once steps are right.
        learning_rate: Adam's at the start; it falls to a fiftieth along a cosine.
        dreamt_updates: more gradient steps, every other of which begins in the model's own dream of what follows a
            point: to serve at the right time it has to count on screens that it drew itself. No ball is on these, whose
            way in the dream would soon be another than the recorded one; paddles are where they were recorded for the
            same reason: asked to be elsewhere, they are soon drawn nowhere.
        model: hyperparameters.
        seed: of everything.
    """

    real_steps: int = 100_000
    moves_steps: int = 400_000
    moves_updates: int = 16_000
    moves_batch: int = 128
    updates: int = 8_500
    batch_size: int = 4
    stages: tuple[tuple[float, int, float], ...] = ((0.5, 3, 0.75), (0.75, 3, 0.25), (1.0, 4, 0.25))
    learning_rate: float = 1e-3
    dreamt_updates: int = 2_500
    model: VideoConfig = PONG
    seed: int = 0


class Windows:
    """Draws windows of recorded play.

    Args:
        replay: recorded play.
        recipe: how.
    """

    def __init__(self, replay: SequenceReplay, recipe: Recipe) -> None:
        self._replay, self._recipe = replay, recipe
        found = events(replay)
        there = [name for name in NEAR if len(found[name])]
        self._events = [found[name] for name in there]
        self._shares = np.array([NEAR[name] for name in there]) / sum(NEAR[name] for name in there)
        around = np.arange(-recipe.model.context - BEFORE, DREAMT + AFTER)
        first = found["beginning"][np.diff(found["beginning"], prepend=-2) > 1]
        self._points = found["point"][~np.isin(found["point"][:, None] + around, first).any(1)]

    def draw(self, progress: float, rng: np.random.Generator) -> SequenceBatch:
        """Return a batch for an update at ``progress`` in [0, 1) of the fit."""
        recipe, replay = self._recipe, self._replay
        steps, near = next((steps, near) for share, steps, near in recipe.stages if progress < share)
        length = recipe.model.context + steps
        starts = replay.draw(recipe.batch_size, length, rng, cross_episodes=True)
        for i in np.flatnonzero(rng.uniform(size=len(starts)) < near):
            event = rng.choice(self._events[rng.choice(len(self._events), p=self._shares)])
            start = event - recipe.model.context - rng.integers(steps)  # the event is among what is predicted
            if start >= 0 and replay.holds(np.array([start]), length)[0]:
                starts[i] = start
        return replay.gather(starts, length)

    def after_points(self, rng: np.random.Generator) -> tuple[SequenceBatch, int]:
        """Return windows in which somebody scores, and how many rows behind their context are to be dreamt."""
        recipe, dreamt = self._recipe, int(rng.integers(DREAMT + 1))
        length = recipe.model.context + dreamt + AFTER
        starts = rng.choice(self._points, recipe.batch_size) - rng.integers(1, BEFORE + 1, recipe.batch_size)
        starts -= recipe.model.context - 1
        held = (starts >= 0) & self._replay.holds(np.maximum(starts, 0), length)
        starts[~held] = self._replay.draw(int((~held).sum()), length, rng)
        return self._replay.gather(starts, length), dreamt


def events(replay: SequenceReplay, part: int = 1024) -> dict[str, Rows]:
    """Return the rows of one environment's play in which something happens, by what it is."""
    rows = replay.windows(1)
    pieces = [replay.gather(rows[i : i + part], 1) for i in range(0, len(rows), part)]
    place = np.concatenate([ball(b.obs[:, 0, 0].numpy()) for b in pieces])  # type: ignore[index]
    speed = np.diff(place, axis=0, prepend=np.nan)
    with np.errstate(invalid="ignore"):
        turns = np.abs(np.diff(speed, axis=0, prepend=np.nan)).max(1) > 1.5
    first = np.concatenate([b.is_first[:, 0].numpy() for b in pieces])
    there = ~np.isnan(place[:, 0])
    found = {
        "beginning": np.convolve(first, np.ones(BEGINNING))[: len(first)] > 0,
        "point": np.concatenate([b.reward[:, 0].numpy() != 0 for b in pieces]),
        "end": np.concatenate([b.terminated[:, 0].numpy() for b in pieces]),
        "turn": turns,
        "appearance": there & ~np.roll(there, 1),
    }
    return {name: rows[mask] for name, mask in found.items()}


class Training:
    """A fit of a VideoModel to recorded play that is saved in a folder and goes on from there, bit for bit.

    Args:
        folder: where it is saved.
        recipe: how it goes.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe
        self.replay = collect(recipe.real_steps, recipe.seed)  # faster than to read it from a disk
        with torch.random.fork_rng([]):
            torch.manual_seed(recipe.seed)
            self.model = VideoModel(self.replay.observation_space, self.replay.action_space, recipe.model)
        config = TrainerConfig(learning_rate=recipe.learning_rate, length=recipe.model.context + 1)
        self.trainer = ModelTrainer(self.model, config, seed=recipe.seed)
        self.windows = Windows(self.replay, recipe)
        self.moves = 0  # updates made of what moves; stopped among them, they begin again
        self.model.networks.moves.requires_grad_(False)
        if is_checkpoint(folder):
            self._load()
        else:
            self.model.before_fit(self.replay.sample(4096, 1, np.random.default_rng(recipe.seed)))

    @property
    def total(self) -> int:
        """Updates of the recipe."""
        return self.recipe.moves_updates + self.recipe.updates + self.recipe.dreamt_updates

    @property
    def done(self) -> int:
        """Updates made."""
        return self.moves + self.trainer.updates

    def run(self, seconds: float, on_update: Callable[[int, dict[str, Tensor]], None] | None = None) -> bool:
        """Train until the fit is complete or ``seconds`` are over; save; return whether it is complete.

        Args:
            seconds: of the clock on the wall.
            on_update: called after each update with its number and the terms of its loss.
        """
        begun = saved = time.monotonic()
        if seconds > 0 and self.moves < self.recipe.moves_updates:
            self._fit_moves(on_update)
            self.save()
        while self.done < self.total and time.monotonic() - begun < seconds:
            terms = self._update()
            if on_update is not None:
                on_update(self.done, terms)
            if time.monotonic() - saved > SAVE_EVERY:
                self.save()
                saved = time.monotonic()
        self.save()
        return self.done >= self.total

    def _fit_moves(self, on_update: Callable[[int, dict[str, Tensor]], None] | None) -> None:
        """Fit what moves, all of it at once: stopped, it is as it was before."""
        recipe, moves = self.recipe, self.model.networks.moves.requires_grad_(True)
        before = {name: value.clone() for name, value in moves.state_dict().items()}
        more, tables = recipe.moves_steps, [tabulate(self.model, self.replay)]
        for part in trange(0, more, MOVES_PART, desc="play", unit="part", disable=on_update is None):
            seed = MORE_SEEDS + recipe.seed + part // MOVES_PART
            replay = collect(min(MOVES_PART, more - part), seed, SKILL)
            tables.append(tabulate(self.model, replay))
        rate = MOVES_FASTER * recipe.learning_rate
        try:
            fit_moves(
                self.model, concatenate(tables), recipe.moves_updates, recipe.moves_batch, rate, recipe.seed, on_update
            )
        except BaseException:
            moves.load_state_dict(before)
            raise
        finally:
            moves.requires_grad_(False)
        self.moves = recipe.moves_updates

    def _update(self) -> dict[str, Tensor]:
        recipe, rng, done = self.recipe, self.trainer.rng, self.trainer.updates
        progress = done / recipe.updates
        if progress < 1:
            return self.trainer.update(self.windows.draw(progress, rng), progress)
        share = (done - recipe.updates) / recipe.dreamt_updates
        progress = AGAIN + (1 - AGAIN) * share
        if done % 2:
            return self.trainer.update(self.windows.draw(SETTLED, rng), progress)
        batch, dreamt = self.windows.after_points(rng)
        start = self._dream(batch, dreamt)
        return self.trainer.update(batch[:, self.model.context + dreamt - 1 :], progress, start)

    @torch.no_grad()
    def _dream(self, batch: SequenceBatch, steps: int) -> VideoState:
        """Return the beliefs after so many dreamt steps behind the context of windows, with the recorded paddles."""
        assert isinstance(batch.obs, Tensor)
        context, generator = self.model.context, torch.Generator().manual_seed(self.trainer.updates)
        state = self.model.believe(batch.obs[:, :context], batch.action[:, :context], generator)
        for t in range(context, context + steps):
            state, _ = self.model.predict(state, batch.action[:, t - 1], generator)
        real = self.model.believe(batch.obs[:, : context + steps], batch.action[:, : context + steps])
        columns = list({column // self.recipe.model.patch[1] for column in PADDLES})
        state.frames[:, :, columns], state.still[:, :, columns] = real.frames[:, :, columns], real.still[:, :, columns]
        return state

    def save(self) -> None:
        """Write everything that going on needs, but the recorded play, which the seed makes anew."""
        tensors: dict[str, Tensor] = {}
        config = {"trainer": pack(self.trainer.state_dict(), tensors), "recipe": repr(self.recipe), "moves": self.moves}
        groups = {"model": dict(self.model.state_dict()), "trainer": tensors}
        save_checkpoint(self.folder, Checkpoint(KIND, config, groups))

    def _load(self) -> None:
        stored = load_checkpoint(self.folder, kind=KIND)
        if stored.config["recipe"] != repr(self.recipe):
            raise ValueError(
                f"folder must hold a training by the same recipe, got {self.folder} with {stored.config['recipe']}; "
                "remove it, or name another"
            )
        self.moves = stored.config["moves"]
        self.model.load_state_dict(dict(stored.tensors["model"]))
        self.trainer.load_state_dict(unpack(stored.config["trainer"], dict(stored.tensors["trainer"])))
