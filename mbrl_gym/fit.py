"""ModelTrainer: the optimiser of a model, its fit to a replay, and single updates."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl_gym._best_weights import BestWeights
from mbrl_gym.batch import SequenceBatch
from mbrl_gym.data_as_demonstrator import DataAsDemonstrator, correct, tiles
from mbrl_gym.fit_report import FitReport
from mbrl_gym.model import WorldModel
from mbrl_gym.replay import SequenceReplay, row_hash
from mbrl_gym.tensors import TensorStruct

__all__ = ["FitReport", "ModelTrainer", "TrainerConfig"]

LOOKED_AT = 4096  # rows that a model of pictures looks at before it is trained
OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], float], torch.optim.Optimizer]] = {
    "adam": lambda groups, rate: torch.optim.Adam(groups, lr=rate, fused=True),
    # Steps as large as the weights they change; its rate is at most 1 / sqrt(updates), whatever is asked for.
    "adafactor": lambda groups, rate: torch.optim.Adafactor(groups, lr=rate),
}


@dataclass(frozen=True)
class TrainerConfig:
    """How a model is trained.

    Attributes:
        learning_rate: the optimiser's, at the start of a fit.
        final_learning_rate: fraction of it that is left at the end of a fit, after a cosine; 1: constant.
        batch_size: windows a gradient step.
        length: rows a window (2: single transitions).
        max_epochs: passes over the training windows in one fit.
        max_updates: gradient steps in one fit, whatever the epochs; None: no limit.
        patience: epochs without an improvement of any member's held-out error before a fit ends.
        improvement: the relative fall of a held-out error that counts as one.
        holdout: fraction of the windows that is never trained on; 0: no selection, the last weights stay.
        bootstrap: weigh rows by each member's own Poisson(1) draw.
        grad_clip: limit of the gradient's norm; None: no limit.
        optimizer: "adam" or "adafactor".
        warmup: first updates of all, over which the learning rate grows from zero.
        correction: refits on the model's own rollouts; None: no refits. It needs ``length`` 2. What is held out is then
            whole blocks of twice its horizon, so that there are held-out segments to roll: other rows than without.
    """

    learning_rate: float = 2e-3
    final_learning_rate: float = 0.02
    batch_size: int = 64
    length: int = 2
    max_epochs: int = 200
    max_updates: int | None = 2000
    patience: int = 25
    improvement: float = 0.01
    holdout: float = 0.1
    bootstrap: bool = True
    grad_clip: float | None = 100.0
    optimizer: str = "adam"
    warmup: int = 0
    correction: DataAsDemonstrator | None = None

    def __post_init__(self) -> None:
        positive = ("learning_rate", "batch_size", "max_epochs", "patience")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("max_updates", "grad_clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, or None, got {value}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if self.warmup < 0:
            raise ValueError(f"warmup must be at least 0 updates, got {self.warmup}")
        if self.length < 2:
            raise ValueError(f"length must be at least 2 rows, one transition, got {self.length}")
        if not 0 < self.final_learning_rate <= 1:
            raise ValueError(f"final_learning_rate must be above 0 and at most 1, got {self.final_learning_rate}")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout must be at least 0 and below 1, got {self.holdout}")
        if not 0 <= self.improvement < 1:
            raise ValueError(f"improvement must be at least 0 and below 1, got {self.improvement}")
        if isinstance(self.correction, dict):  # JSON brings these
            object.__setattr__(self, "correction", DataAsDemonstrator(**self.correction))
        if self.correction is not None and self.length != 2:
            raise ValueError(f"length must be 2 with a correction, whose data are single steps, got {self.length}")


class ModelTrainer:
    """Owns what training needs beside the model: optimiser, batches, clipping, early stopping, selection.

    A model with a method ``fit(data, holdout) -> FitReport`` (windows [W, T]) fits itself and is only handed the data.
    One with a method ``collector()`` is trained on after the selection, at a constant rate, and its collector sees
    the weights at regular distances (`mbrl_gym.models.swag.SWAGCollector`).

    What a model draws from torch's global generator in training is a function of ``seed`` and the updates made, and
    leaves no trace there.

    Args:
        model: the model to train.
        config: hyperparameters.
        seed: of the holdout, the bootstrap and the batches.
    """

    def __init__(self, model: WorldModel[Any], config: TrainerConfig | None = None, seed: int = 0) -> None:
        self.model = model
        self.config = config or TrainerConfig()
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = OPTIMIZERS[self.config.optimizer](_groups(model), self.config.learning_rate)
        self.updates = 0

    def fit(self, replay: SequenceReplay, on_epoch: Callable[[int, float, Tensor], None] | None = None) -> FitReport:
        """Train on everything in ``replay`` until the held-out error stops falling.

        Each member keeps the weights of its own best epoch. A transition is held out, or not, for ever: its absolute
        index decides, so that no later fit is selected on what an earlier one was trained on.

        Args:
            replay: real experience.
            on_epoch: called after each epoch with its number, its training loss and the members' best held-out errors
                so far [E] (NaN without a holdout).

        Raises:
            ValueError: the replay has no window of ``config.length`` rows, or the model cannot be corrected.
            FloatingPointError: the loss is not finite; the model keeps its best weights so far, the optimiser nothing.
        """
        data, holdout = self._split(replay)
        own_fit = getattr(self.model, "fit", None)
        if self.config.correction is not None and (own_fit is not None or self.model.context > 1):
            kind = "that fits itself" if own_fit is not None else f"with a context of {self.model.context} rows"
            raise ValueError(f"correction must be None for a model {kind}, got {self.config.correction}")
        if own_fit is not None:
            report: FitReport = own_fit(data, holdout)
            self.model.calibrate(data, holdout)
            return report
        self.model.before_fit(data)
        report = self._train(data, holdout, on_epoch)
        if self.config.correction is not None:
            report = self._correct(replay, data, holdout, report, on_epoch)
        self.model.calibrate(data, holdout)
        return report

    def _train(
        self, data: SequenceBatch, holdout: SequenceBatch | None, on_epoch: Callable[[int, float, Tensor], None] | None
    ) -> FitReport:
        """Train until the held-out error stops falling; the model's normalisers stay as they are."""
        best = BestWeights(self.model)
        plan = self._plan(data.batch_size)
        stale = epochs = updates = 0
        loss, terms = float("nan"), dict[str, float]()
        while updates < plan and stale < self.config.patience:
            with self._or_restored(best):
                steps, loss, terms = self._epoch(data, updates, plan)
            epochs, updates = epochs + 1, updates + steps
            if holdout is not None:
                improved = best.update(self._holdout_error(holdout), self.config.improvement)
                stale = 0 if improved else stale + 1
            if on_epoch is not None:
                on_epoch(epochs, loss, best.error)
        error = best.error
        if holdout is not None:
            best.restore()
        make_collector = getattr(self.model, "collector", None)
        if make_collector is not None:
            with self._or_restored(best):
                updates += self._collect(data, make_collector())
            error = error if holdout is None else self._holdout_error(holdout)
        self._set_learning_rate(0.0)  # single updates after this go on at full rate
        if holdout is not None:
            self.model.after_fit(error)
        return FitReport(epochs, updates, data.batch_size, loss, terms, error.tolist() if holdout is not None else [])

    def _correct(
        self,
        replay: SequenceReplay,
        data: SequenceBatch,
        holdout: SequenceBatch | None,
        report: FitReport,
        on_epoch: Callable[[int, float, Tensor], None] | None,
    ) -> FitReport:
        """Refit as `DataAsDemonstrator` has it; held-out errors are reported on the recorded data alone."""
        correction, done = self.config.correction, [report.epochs]
        assert correction is not None

        def refit(data: SequenceBatch, holdout: SequenceBatch | None) -> FitReport:
            before = sum(done)
            count = on_epoch and (lambda epoch, loss, error: on_epoch(before + epoch, loss, error))
            report = self._train(data, holdout, count)
            done.append(report.epochs)
            return report

        segments = self._segments(replay, correction.horizon, holdout is not None)
        report = correct(self.model, correction, (data, holdout), segments, refit, report)
        return report if holdout is None else replace(report, holdout_error=self._holdout_error(holdout).tolist())

    def _segments(
        self, replay: SequenceReplay, steps: int, split: bool
    ) -> tuple[SequenceBatch | None, SequenceBatch | None]:
        """Return training and held-out segments of ``steps`` transitions, end to end, within the sides' blocks."""
        starts = replay.windows(steps + 1)
        held, train = self._sides(starts, replay.n_envs, steps) if split else (starts < 0, starts >= 0)
        found = []
        for side, members in ((train, self._weights), (held, 0)):
            at = tiles(starts[side], steps, replay.n_envs)
            gathered = replay.gather(at, steps + 1, device=self.model.device, members=members, bootstrap_seed=self.seed)
            found.append(gathered if len(at) else None)
        return found[0], found[1]

    def fit_to_draws(
        self,
        replay: SequenceReplay,
        updates: int,
        on_epoch: Callable[[int, float, Tensor], None] | None = None,
        part: range | None = None,
    ) -> FitReport:
        """Train on batches of windows that are drawn from ``replay`` one by one, without a holdout.

        For pictures, of which all windows at once would not fit into the memory.

        Args:
            replay: real experience.
            updates: gradient steps.
            part: which of them are made now, the others before or after by other calls; None: all.
            on_epoch: called after each hundredth of them with its number, its mean loss, and NaN [1].

        Raises:
            ValueError: the replay has no window of ``config.length`` rows, or ``updates`` is below 1.
            FloatingPointError: the loss is not finite; the model is as it was then.
        """
        if updates < 1:
            raise ValueError(f"updates must be at least 1, got {updates}")
        length, now = self.config.length, range(updates) if part is None else part
        if now.start == 0:
            self.model.before_fit(replay.sample(min(LOOKED_AT, len(replay)), 1, self.rng, device=self.model.device))
        every = max(1, updates // 100)
        for done in range(now.start, now.stop, every):
            some = range(done, min(done + every, now.stop))
            draws = (replay.sample(self.config.batch_size, length, self.rng, device=self.model.device) for _ in some)
            _, loss, means = self._pass(draws, done, updates)
            if on_epoch is not None:
                on_epoch(done // every + 1, loss, torch.full((1,), math.nan))
        self._set_learning_rate(0.0)  # single updates after this go on at full rate
        return FitReport(0, len(now), len(now) * self.config.batch_size, loss, means)

    def update(
        self, batch: SequenceBatch, progress: float | None = None, start: TensorStruct | None = None
    ) -> dict[str, Tensor]:
        """Return the loss terms [] after one gradient step on a batch of windows [B, T]; no wait for the device.

        Args:
            batch: the windows.
            progress: how much of a fit is behind, from 0 to 1, which the learning rate follows; None: it stays.
            start: beliefs [B] of the first rows, which are then not learned from; None: windows begin without.
        """
        if progress is not None:
            self._set_learning_rate(progress)
        with self._own_randomness():
            return self._step(batch, start)

    def _step(self, batch: SequenceBatch, start: TensorStruct | None = None) -> dict[str, Tensor]:
        loss = self.model.loss(batch, start)
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]
        if self.config.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.config.grad_clip, foreach=True)
        self.optimizer.step()
        self.updates += 1
        self.model.after_update()
        return {"loss": loss.total.detach(), **loss.terms}

    def _split(self, replay: SequenceReplay) -> tuple[SequenceBatch, SequenceBatch | None]:
        """Return training and held-out windows, on the model's device."""
        starts = replay.windows(self.config.length)
        if len(starts) == 0:
            raise ValueError(
                f"replay must hold at least one window of {self.config.length} rows to fit a model, got {len(replay)} "
                "rows; collect more steps first"
            )
        held, train = self._sides(starts, replay.n_envs, self.config.length - 1)
        if not (held.any() and train.any()):  # too few windows to hold any out
            held, train = np.zeros_like(held), np.ones_like(train)
        length, device = self.config.length, self.model.device
        data = replay.gather(starts[train], length, device=device, members=self._weights, bootstrap_seed=self.seed)
        return data, replay.gather(starts[held], length, device=device) if held.any() else None

    @property
    def _weights(self) -> int:
        """How many members' bootstrap weights the training windows have."""
        return self.model.members if self.config.bootstrap and self.model.members > 1 else 0

    def _sides(
        self, starts: np.ndarray[Any, Any], n_envs: int, transitions: int
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return which windows [W] of so many transitions are held out and which are trained on.

        Transitions of the held-out share are never trained on. Longer windows overlap, so that whole blocks of rows are
        held out and windows across their borders belong to neither side.
        """
        row, env = np.divmod(starts, n_envs)
        block = 1 if self.config.length == 2 else 10 * (self.config.length - 1)
        if self.config.correction is not None:
            block = 2 * self.config.correction.horizon  # a segment meets two of them at most
        first, last = (
            row_hash(self.seed, at // block * n_envs + env) < self.config.holdout for at in (row, row + transitions - 1)
        )
        return first & last, ~first & ~last

    def _plan(self, windows: int) -> int:
        """Return the gradient steps of a fit that is not stopped early."""
        steps = self.config.max_epochs * math.ceil(windows / self.config.batch_size)
        return steps if self.config.max_updates is None else min(steps, self.config.max_updates)

    @contextmanager
    def _or_restored(self, best: "BestWeights") -> Iterator[None]:
        """Train; where that fails, put the best weights back."""
        try:
            yield
        except FloatingPointError:
            best.restore()
            self.optimizer.state.clear()  # its moments are not finite either
            raise

    def _collect(self, data: SequenceBatch, collector: Any) -> int:
        """Train on at a constant rate, with stops for the model's collector; return the gradient steps made."""
        for _ in range(collector.collections):
            done = 0
            while done < collector.interval:
                done += self._epoch(data, done, collector.interval, constant=collector.rate)[0]
            collector.collect()
        with self._own_randomness():
            collector.finish()
        return int(collector.collections * collector.interval)

    def _epoch(
        self, data: SequenceBatch, done: int, plan: int, constant: float | None = None
    ) -> tuple[int, float, dict[str, float]]:
        """Return (steps, mean loss, mean terms) of one pass over the windows in a random order.

        Args:
            data: the windows.
            done: steps before this pass.
            plan: steps after which it ends, wherever it is; the learning rate's schedule goes from 0 to there.
            constant: a fraction of the learning rate in place of the schedule.
        """
        batches = (data[index] for index in itertools.islice(self._batches(data.batch_size), plan - done))
        return self._pass(batches, done, plan, constant)

    def _pass(
        self, batches: Iterable[SequenceBatch], done: int, plan: int, constant: float | None = None
    ) -> tuple[int, float, dict[str, float]]:
        """Return (steps, mean loss, mean terms) of a gradient step on each of the ``batches``; see `_epoch`."""
        sums: dict[str, Tensor] = {}
        steps = 0
        with self._own_randomness():
            for batch in batches:
                self._set_learning_rate((done + steps) / plan, constant)
                for name, value in self._step(batch).items():
                    sums[name] = sums[name] + value if name in sums else value
                steps += 1
        means = {name: float(value) / steps for name, value in sums.items()}  # one wait
        if not np.isfinite(means["loss"]):
            raise FloatingPointError(
                f"the model's loss became {means['loss']} ({means}); lower learning_rate (now "
                f"{self.config.learning_rate}) or look for extreme values in the data"
            )
        return steps, means.pop("loss"), means

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Seed torch's global generator by the seed and the updates made, and put it back afterwards."""
        device = self.model.device
        seed = int(np.random.SeedSequence([self.seed, self.updates]).generate_state(1, np.uint64)[0])
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield

    def _set_learning_rate(self, progress: float, constant: float | None = None) -> None:
        final = self.config.final_learning_rate
        fraction = final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
        fraction = fraction if constant is None else constant
        fraction *= min(1.0, (self.updates + 1) / max(self.config.warmup, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * fraction

    def _batches(self, n: int) -> Iterator[Tensor]:
        order = torch.as_tensor(self.rng.permutation(n), device=self.model.device)
        return iter(torch.split(order, self.config.batch_size))

    @torch.no_grad()
    def _holdout_error(self, holdout: SequenceBatch) -> Tensor:
        """Return [E], over all held-out windows, some thousand at a time."""
        total = torch.zeros(self.model.members, device=self.model.device)
        for begin in range(0, holdout.batch_size, 4096):
            part = holdout[begin : begin + 4096]
            total = total + self.model.holdout_error(part) * part.batch_size
        return total / holdout.batch_size

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs beside the model's weights: plain data and tensors, nested."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.bit_generator.state,
            "updates": self.updates,
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():  # the fused step reads memory, whatever the strides
            moments.update({k: _laid_out(v, parameter) for k, v in moments.items() if v.shape == parameter.shape})
        self.rng.bit_generator.state = state["rng"]
        self.updates, self.seed = state["updates"], state["seed"]


def _groups(model: WorldModel[Any]) -> list[dict[str, Any]]:
    """Return the parameters to train in groups of equal weight decay (Adam's is the gradient of half the squares)."""
    decay = model.weight_decay()
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            groups.setdefault(decay.get(name, 0.0), []).append(p)
    return [{"params": params, "weight_decay": amount} for amount, params in groups.items()]


def _laid_out(x: Tensor, like: Tensor) -> Tensor:
    """Return ``x`` in the memory format of ``like``."""
    return x if x.stride() == like.stride() else torch.empty_like(like, dtype=x.dtype).copy_(x)
