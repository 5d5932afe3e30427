"""Single predicted steps beside what was recorded: uncertainty against error, rewards, ends.

One legend of shapes: N transitions.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl_gym.horizon_error import deviation, seeded
from mbrl_gym.model import WorldModel
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.report.open_loop import _array
from mbrl_gym.report.pictures import pictures, sees
from mbrl_gym.report.predictions import segments
from mbrl_gym.report.scores import auroc, sparsification_curves, spearman
from mbrl_gym.report.section import PICTURES_ONLY, Section
from mbrl_gym.spaces import Observation, ObservationCodec

Array = np.ndarray[Any, np.dtype[Any]]

LARGE_ERRORS = 0.1  # the share of transitions whose errors count as large
POINTS = 100  # of a sparsification curve
NO_REWARD = 0.01  # of the largest recorded reward: smaller ones count as zero where signs are compared
BATCH = 64  # of pictures at a time


@dataclass(frozen=True)
class Predicted:
    """N single steps of the mean prediction.

    Attributes:
        error: [N] root mean square over the observation, in standard deviations of its change (of pixels: 0 to 1).
        uncertainty: [N].
        reward: [N] predicted.
        real_reward: [N].
        ending: [N] the predicted probability that the episode terminates.
        terminated: [N] bool, predicted.
        ended: [N] bool, recorded.
    """

    error: Array
    uncertainty: Array
    reward: Array
    real_reward: Array
    ending: Array
    terminated: Array
    ended: Array


@torch.inference_mode()
def predicted_steps(model: WorldModel[Any], data: SequenceReplay, windows: int = 2000, seed: int = 0) -> Predicted:
    """Return single steps of recorded contexts: vectors or pictures.

    Raises:
        ValueError: nothing in the data is long enough, or ``windows`` is below 1.
    """
    batch, generator = segments(model, data, 1, windows, seed), seeded(model, seed)
    unit = _unit(model, batch.obs)
    found: list[list[Tensor]] = []
    for begin in range(0, batch.batch_size, BATCH):
        part = batch[begin : begin + BATCH]
        seen = part[:, : model.context]
        state = model.believe(seen.obs, seen.action, generator)
        after, step = model.predict(state, seen.action[:, -1], generator, sample=False)
        numbers = [_numbers(model, obs) for obs in (model.decode(after), part[:, -1].obs)]
        error = ((numbers[0] - numbers[1]) / unit).square().mean(-1).sqrt()
        uncertain = step.uncertainty
        ending = 1.0 - step.continuation
        rows = (error, uncertain, step.reward, part.reward[:, -1], ending, step.terminated, part.terminated[:, -1])
        found.append(list(rows))
    return Predicted(*(_array(torch.cat(column)) for column in zip(*found, strict=True)))


def _unit(model: WorldModel[Any], obs: Observation) -> Tensor | float:
    if sees(model):
        return 1.0
    rows = ObservationCodec(model.observation_space).encode(obs)[:, -2:]
    return deviation(rows[:, 1] - rows[:, 0])


def _numbers(model: WorldModel[Any], obs: Observation) -> Tensor:
    """Return [N, D]: the encoded observation; of pictures all pixels from 0 to 1."""
    if sees(model):
        return pictures(model, obs).float().flatten(1) / 255
    return ObservationCodec(model.observation_space).encode(obs)


# ---- uncertainty ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UncertaintyScores(Section):
    """Whether the model is unsure where it errs.

    Attributes:
        spearman: rank correlation of ``Prediction.uncertainty`` with the error.
        large_error_auroc: how well it tells the tenth with the largest errors: 1 perfectly, 0.5 not.
        kept: [100] shares of the transitions that are kept, the least uncertain ones.
        kept_error: [100] their mean error, in units of that of all: the sparsification curve.
        best_error: [100] the same where the order is that of the errors themselves.
        sparsification_error: the area between the two curves (AUSE): 0 is the best possible order.
        transitions: N.
        uncertainty: [N].
        error: [N].
    """

    spearman: float
    large_error_auroc: float
    kept: Array
    kept_error: Array
    best_error: Array
    sparsification_error: float
    transitions: int
    uncertainty: Array = field(metadata=PICTURES_ONLY)
    error: Array = field(metadata=PICTURES_ONLY)


def uncertainty_scores(steps: Predicted) -> UncertaintyScores:
    """Return the scores of single steps.

    Raises:
        ValueError: the model is equally uncertain of all of them.
    """
    uncertainty, error = steps.uncertainty, steps.error
    if not np.ptp(uncertainty) > 0:
        raise ValueError("Prediction.uncertainty must differ between transitions to be judged, but all are equally so")
    by_uncertainty, best = sparsification_curves(uncertainty, error)
    last = np.unique(np.linspace(0, len(error) - 1, POINTS).round().astype(np.int64))
    return UncertaintyScores(
        spearman=spearman(uncertainty, error),
        large_error_auroc=auroc(uncertainty, error > np.quantile(error, 1 - LARGE_ERRORS)),
        kept=(last + 1) / len(error),
        kept_error=by_uncertainty[last],
        best_error=best[last],
        sparsification_error=float((by_uncertainty - best).mean()),
        transitions=len(error),
        uncertainty=uncertainty,
        error=error,
    )


# ---- rewards and ends -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RewardScores(Section):
    """Predicted rewards of single steps against the recorded ones.

    Attributes:
        mae: mean absolute error, in units of the reward.
        r2: share of the reward's variance that is explained; NaN where it does not vary.
        deviation: standard deviation of the recorded reward.
        signs: [3, 3] counts: rows recorded, columns predicted; negative, zero, positive. Rewards below a hundredth of
            the largest recorded one count as zero.
        wrong_signs: the share of rewards that are not zero whose prediction has the opposite sign; NaN without such.
        transitions: N.
        predicted: [N].
        real: [N].
    """

    mae: float
    r2: float
    deviation: float
    signs: Array
    wrong_signs: float
    transitions: int
    predicted: Array = field(metadata=PICTURES_ONLY)
    real: Array = field(metadata=PICTURES_ONLY)


def reward_scores(steps: Predicted) -> RewardScores:
    """Return how right the rewards of single steps are."""
    real, predicted = steps.real_reward.astype(np.float64), steps.reward.astype(np.float64)
    spread = float(real.var())
    zero = NO_REWARD * float(np.abs(real).max())
    rows, columns = (np.where(np.abs(x) <= zero, 0, np.sign(x)).astype(np.int64) + 1 for x in (real, predicted))
    signs = np.zeros((3, 3), dtype=np.int64)
    np.add.at(signs, (rows, columns), 1)
    earned = int(signs[[0, 2]].sum())
    return RewardScores(
        mae=float(np.abs(predicted - real).mean()),
        r2=1.0 - float(np.square(predicted - real).mean()) / spread if spread > 1e-12 else math.nan,
        deviation=math.sqrt(spread),
        signs=signs,
        wrong_signs=float(signs[0, 2] + signs[2, 0]) / earned if earned else math.nan,
        transitions=len(real),
        predicted=predicted,
        real=real,
    )


@dataclass(frozen=True)
class TerminationScores(Section):
    """Predicted ends of single steps against the recorded ones.

    Attributes:
        precision: of the predicted ends, the share that came; NaN where none was predicted.
        recall: of the ends that came, the share that was predicted; NaN where none came.
        brier: mean square of the predicted probability's distance from what came.
        reference: the same of always predicting the share of ends: what a model has to beat.
        ends: how many came.
        predicted: how many were predicted.
        transitions: N.
    """

    precision: float
    recall: float
    brier: float
    reference: float
    ends: int
    predicted: int
    transitions: int


def termination_scores(steps: Predicted) -> TerminationScores:
    """Return how right the ends of single steps are."""
    hits, ends, predicted = (int(x.sum()) for x in (steps.ended & steps.terminated, steps.ended, steps.terminated))
    share = float(steps.ended.mean())
    return TerminationScores(
        precision=hits / predicted if predicted else math.nan,
        recall=hits / ends if ends else math.nan,
        brier=float(np.square(steps.ending.astype(np.float64) - steps.ended).mean()),
        reference=share * (1.0 - share),
        ends=ends,
        predicted=predicted,
        transitions=len(steps.ended),
    )
