"""DataAsDemonstrator: refits of a model on its own rollouts, with the recorded next observations as corrections.

One legend of shapes: W segments, K = ``horizon`` imagined steps, D encoded observation dimensions.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.fit_report import FitReport
from mbrl_gym.horizon_error import deviation, seeded
from mbrl_gym.model import WorldModel
from mbrl_gym.spaces import ObservationCodec
from mbrl_gym.tensors import concatenate

__all__ = ["DataAsDemonstrator"]

Array = np.ndarray[Any, np.dtype[Any]]
Refit = Callable[[SequenceBatch, SequenceBatch | None], FitReport]


@dataclass(frozen=True)
class DataAsDemonstrator:
    """Correction of compounding errors by more data: where the model goes astray, it is shown the way back.

    After a fit the model is rolled from recorded observations along the recorded actions. Wherever it comes to, the
    pair of (what it predicted, the recorded action) and the recorded next observation, reward and end is a new
    transition to learn; with all those of earlier rounds, they join the data of the next fit. Of all fits the one with
    the smallest error over ``horizon`` steps is kept, also if that is the first.

    Source: Venkatraman et al. 2015 ("Improving multi-step prediction of learned time series models"; with actions 2016)
    in arunvenk/DaD's ``DaDControl``: 20 rounds, aggregation, and the choice of the model are as there. Different here:
    trajectories are cut into segments of ``horizon`` steps; a fit begins where the one before ended; and what is
    dropped is measured from the observation itself, in standard deviations (there: from the next one, in units of the
    trajectories' root mean square, at most 1 of them, and 1.5 of the mean error).

    A fit costs ``iterations`` + 1 times as much as a plain one.

    Attributes:
        iterations: N, refits after the first fit.
        horizon: steps of a rollout. Segments are whole parts of episodes: shorter episodes are not rolled, and where no
            segment is left nothing is corrected.
        cap: predictions further than this from the recorded observation are not learned from: root mean square over
            dimensions, in standard deviations of the data; None: all are that did not diverge.

    Raises:
        ValueError: a value is out of its range.
    """

    iterations: int = 5
    horizon: int = 10
    cap: float | None = 1.0

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1 refit, got {self.iterations}; for none: correction=None")
        if self.horizon < 2:
            raise ValueError(f"horizon must be at least 2 steps, or nothing goes astray, got {self.horizon}")
        if self.cap is not None and not self.cap > 0:
            raise ValueError(f"cap must be positive or None, got {self.cap}")


class Rollouts(NamedTuple):
    """Where a model comes to: obs [W, K, D] encoded after 1, ..., K steps; error, usable, diverged [W, K].

    ``error`` is the distance from the recorded observations in standard deviations (root mean square over dimensions),
    ``usable`` whether the rollout had not been cut by then, ``diverged`` whether it had broken.
    """

    obs: Tensor
    error: Tensor
    usable: Tensor
    diverged: Tensor

    def mean_error(self) -> float:
        """Return the error after k steps, root mean square over segments, averaged over k; infinite if any diverged."""
        error = self.error.double().square().mean(0).sqrt().mean()
        return float(torch.where(self.diverged.any(), torch.inf, error))


@torch.no_grad()
def roll(model: WorldModel[Any], segments: SequenceBatch, unit: Tensor, seed: int) -> Rollouts:
    """Roll the model's mean from the first row of each segment [W, K + 1] along its actions.

    Args:
        model: one that needs one real step of context.
        segments: within an episode each.
        unit: [D], what errors are measured in.
        seed: of the hypotheses that segments are bound to.
    """
    codec = ObservationCodec(model.observation_space)
    generator, real = seeded(model, seed), codec.encode(segments.obs)  # [W, K + 1, D]
    first = segments[:, :1]
    state = model.believe(first.obs, first.action, generator)
    usable = torch.ones_like(segments.is_first[:, 0])
    diverged = ~usable
    steps = []
    for t in range(segments.length - 1):
        state, prediction = model.predict(state, segments.action[:, t], generator, sample=False, uncertainty=False)
        usable = usable & ~prediction.truncated
        diverged = diverged | prediction.info.get("diverged", torch.zeros_like(diverged))
        obs = codec.encode(model.decode(state))
        error = ((obs - real[:, t + 1]) / unit).square().mean(-1).sqrt()
        steps.append((obs, error, usable, diverged))
    return Rollouts(*(torch.stack(parts, dim=1) for parts in zip(*steps, strict=True)))


def corrections(
    model: WorldModel[Any], segments: SequenceBatch, rollouts: Rollouts, cap: float | None
) -> SequenceBatch:
    """Return windows of two rows: a predicted observation with the action taken then, and the recorded row after it.

    Weights, indices and extras are those of the recorded rows. The last predictions have no row after them.
    """
    codec = ObservationCodec(model.observation_space)
    usable = rollouts.usable & (rollouts.error <= (math.inf if cap is None else cap))  # of NaN, false
    pairs = []
    for t in range(1, segments.length - 1):
        kept = usable[:, t - 1]
        pair = segments[:, t : t + 2][kept]
        predicted = codec.decode(rollouts.obs[kept, t - 1])
        pairs.append(replace(pair, obs=_with_first(pair.obs, predicted)))
    return concatenate(pairs)


def tiles(starts: Array, steps: int, n_envs: int) -> Array:
    """Return of the segments' first rows those from which segments of ``steps`` steps lie end to end.

    Args:
        starts: absolute indices, env by env, in order: all that a segment can begin at.
        steps: K; neighbours share a row, but no transition.
        n_envs: distance of an environment's rows.
    """
    if not len(starts):
        return starts
    opens = np.diff(starts, prepend=starts[0] - 2 * n_envs) != n_envs  # a run of neighbours begins
    begin = np.maximum.accumulate(np.where(opens, np.arange(len(starts)), 0))
    return np.asarray(starts[(np.arange(len(starts)) - begin) % steps == 0])


def correct(
    model: WorldModel[Any],
    config: DataAsDemonstrator,
    sides: tuple[SequenceBatch, SequenceBatch | None],
    segments: tuple[SequenceBatch | None, SequenceBatch | None],
    refit: Refit,
    report: FitReport,
) -> FitReport:
    """Correct a fitted model and leave it with the weights of its best fit.

    Held-out rollouts give pairs too, for the selection of weights within a refit, and errors to choose the fit by;
    where there are none, training segments give the errors.

    Args:
        model: fitted.
        config: the hyperparameters.
        sides: training and held-out windows of two rows.
        segments: training and held-out windows of ``config.horizon`` + 1 rows.
        refit: trains the model further on both sides of the data.
        report: of the first fit.

    Returns:
        What was done in all fits, and the loss of the one that was kept. ``terms`` has its number ("corrections", 0:
        the first) and its error after 1 to ``horizon`` steps in standard deviations, averaged ("multi_step_error").
    """
    (data, holdout), (train, held) = sides, segments
    if train is None:
        return report
    judge = train if held is None else held
    unit = deviation(ObservationCodec(model.observation_space).encode(data.obs).flatten(0, 1))
    judged = roll(model, judge, unit, seed=0)
    best = judged.mean_error(), 0, report, copy.deepcopy(model.state_dict())
    epochs, updates = report.epochs, report.updates
    try:
        for n in range(1, config.iterations + 1):
            data = concatenate([data, corrections(model, train, roll(model, train, unit, seed=n), config.cap)])
            if held is not None and holdout is not None:
                holdout = concatenate([holdout, corrections(model, held, judged, config.cap)])
            report = refit(data, holdout)
            epochs, updates = epochs + report.epochs, updates + report.updates
            judged = roll(model, judge, unit, seed=0)
            error = judged.mean_error()
            if error < best[0]:
                best = error, n, report, copy.deepcopy(model.state_dict())
    finally:
        model.load_state_dict(best[3])
    error, n, report, _ = best
    terms = {**report.terms, "multi_step_error": error, "corrections": float(n)}
    return replace(report, epochs=epochs, updates=updates, windows=sides[0].batch_size, terms=terms)


def _with_first(obs: Any, first: Any) -> Any:
    """Return observations [N, 2, ...] with ``first`` [N, ...] in the first row."""
    if isinstance(obs, dict):
        return {key: _with_first(value, first[key]) for key, value in obs.items()}
    return torch.stack([first.to(obs.dtype), obs[:, 1]], dim=1)
