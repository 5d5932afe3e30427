"""Halt and TruncateUncertain: a dream ends where the model does not know; at a cost, or as if time were up."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import Prediction, State, WorldModel
from mbrl_gym.wrappers.calibrated import check_at_least
from mbrl_gym.wrappers.disagreement import UncertaintyWrapper, diverged, penalised


class _Detector(UncertaintyWrapper[State]):
    """Knows the steps that are less sure than the real data: beyond ``scale`` times a quantile of the measure there."""

    threshold: Tensor  # [], infinite before the first fit

    def __init__(self, inner: WorldModel[State], quantile: float, scale: float, measure: str, units: str) -> None:
        super().__init__(inner, measure, units)
        check_at_least("quantile", quantile, 0.0, 1.0)
        check_at_least("scale", scale, 0.0, above=True)
        self.quantile = quantile
        self.scale = scale
        self.add_buffer("threshold", (), float("inf"))

    def arguments(self) -> dict[str, Any]:
        """Return what the threshold is made of."""
        return {"quantile": self.quantile, "scale": self.scale, "measure": self.measure, "units": self.units}

    @torch.no_grad()
    def calibrate(self, data: SequenceBatch, holdout: SequenceBatch | None) -> None:
        """Set the threshold by the training windows [W, T]."""
        super().calibrate(data, holdout)
        self.threshold.copy_(self.scale * self.real_quantile(data, self.quantile))

    def unknown(self, state: State, action: Tensor, prediction: Prediction) -> tuple[Tensor, dict[str, Tensor]]:
        """Return which rows [B] are beyond the threshold, and an info with the measure; none of those that diverged."""
        value = self.measured(state, action, prediction)
        beyond = (value > self.threshold) & ~diverged(prediction)
        return beyond, {**prediction.info, self.measure: value.detach()}


class Halt(_Detector[State]):
    """A model whose episodes end, at a cost, where its hypotheses disagree more than on real data (MOReL).

    The step that is unknown ends the episode as ``terminated``, so that nothing is bootstrapped, and its reward is less
    by ``cost``; ``info["halted"]`` says so, ``info["raw_reward"]`` less ``info["penalty"]`` is the reward. That is how
    MOReL's code ends a rollout (mjrl ``mjrl/algos/model_accel/model_accel_npg.py``: the negative reward is added to
    that of the step, and the path counts as terminated); in the paper the halt is a state that pays -cost for ever.
    A cost below what an episode can lose otherwise makes a halt a way out: choose it above -(worst reward) / (1 -
    discount), or (worst reward) x horizon.

    The threshold is the largest disagreement on the data, times ``scale`` (mjrl's users divide by a pessimism
    coefficient of 0.2 to 5).

    Args:
        inner: the model to wrap.
        cost: what a halt takes from the reward, at least 0, in units of the reward.
        quantile: of the measure on the real data.
        scale: the threshold in units of that quantile.
        measure: see `mbrl_gym.wrappers.disagreement.MEASURES`.
        units: "standard" or "raw" (see `UncertaintyWrapper`).

    Raises:
        ValueError: an argument is not as described, or the inner model lacks what the measure needs.
    """

    changes_reward = True
    changes_termination = True

    def __init__(
        self,
        inner: WorldModel[State],
        cost: float,
        quantile: float = 1.0,
        scale: float = 1.0,
        measure: str = "largest_gap",
        units: str = "standard",
    ) -> None:
        super().__init__(inner, quantile, scale, measure, units)
        check_at_least("cost", cost, 0.0)
        self.cost = cost

    def around(self, inner: WorldModel[State]) -> "Halt[State]":
        """Return the same halt around another model."""
        return Halt(inner, **self.arguments())

    def arguments(self) -> dict[str, Any]:
        """Return cost, and what the threshold is made of."""
        return {"cost": self.cost, **super().arguments()}

    def change(self, state: State, action: Tensor, after: State, prediction: Prediction) -> Prediction:
        """Return the prediction, terminated and at a cost where the step is unknown."""
        halted, info = self.unknown(state, action, prediction)
        reward, info = penalised(replace(prediction, info=info), halted * self.cost)
        return replace(
            prediction,
            reward=reward,
            terminated=prediction.terminated | halted,
            continuation=prediction.continuation.masked_fill(halted, 0.0),
            info={**info, "halted": halted},
        )


class TruncateUncertain(_Detector[State]):
    """A model whose dreams are cut where its hypotheses disagree more than on most of the real data (MACURA).

    The step that is too unsure is ``truncated``: values are bootstrapped there, and ``info["uncertain"]`` says so, so
    that a buffer can leave the step out, as MACURA does. Source: Frauenknecht et al. 2024; their code's
    ``mbrl/algorithms/macura.py`` (quantile 0.9 or 0.95; scale 0.3 for Walker2d, 2 HalfCheetah, 5 Ant and Humanoid, 30
    Hopper). It averages the threshold over fits and takes the quantile over the first steps of the policy's imagined
    rollouts; here each fit sets it anew, on the real steps themselves.

    Args:
        inner: the model to wrap.
        quantile: zeta, of the measure on the real data.
        scale: xi, the threshold in units of that quantile.
        measure: see `mbrl_gym.wrappers.disagreement.MEASURES`.
        units: "standard" or "raw" (see `UncertaintyWrapper`).

    Raises:
        ValueError: an argument is not as described, or the inner model lacks what the measure needs.
    """

    def __init__(
        self,
        inner: WorldModel[State],
        quantile: float = 0.95,
        scale: float = 2.0,
        measure: str = "geometric_js",
        units: str = "standard",
    ) -> None:
        super().__init__(inner, quantile, scale, measure, units)

    def around(self, inner: WorldModel[State]) -> "TruncateUncertain[State]":
        """Return the same threshold rule around another model."""
        return TruncateUncertain(inner, **self.arguments())

    def change(self, state: State, action: Tensor, after: State, prediction: Prediction) -> Prediction:
        """Return the prediction, truncated where the step is too unsure."""
        uncertain, info = self.unknown(state, action, prediction)
        return replace(prediction, truncated=prediction.truncated | uncertain, info={**info, "uncertain": uncertain})
