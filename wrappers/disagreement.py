"""How sure a model is: measures of its hypotheses' moments, and the base of the wrappers that act on one.

Shapes: E hypotheses, B rows, D encoded observation dimensions; moments are [E, B, D + 1], the reward last.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import Prediction, State, WorldModel
from mbrl_gym.models.transition import LARGEST_UNCERTAINTY
from mbrl_gym.wrappers.calibrated import CalibratedWrapper, quantile, real_steps

Measure = Callable[[Tensor, Tensor, Tensor], Tensor]
SMALLEST_VARIANCE = 1e-30  # so that the ratio of two variances is a number


def ensemble_std(mean: Tensor, variance: Tensor, scale: Tensor) -> Tensor:
    """Return [B], the root of the mean over observation dimensions of the variance over hypotheses of their means.

    Source: OfflineRL-Kit ``dynamics/ensemble_dynamics.py``, mode "ensemble_std", which has raw units.
    """
    deviation = (from_mean(mean) / scale)[..., :-1]
    norm: Tensor = torch.linalg.vector_norm(deviation, dim=(0, 2))  # whose gradient at zero is finite
    return norm / math.sqrt(deviation.shape[0] * deviation.shape[2])


def pairwise(mean: Tensor, variance: Tensor, scale: Tensor) -> Tensor:
    """Return [B], the largest distance of a hypothesis' mean from the mean of all, over observation dimensions.

    Source: OfflineRL-Kit ``dynamics/ensemble_dynamics.py``, mode "pairwise-diff" (which, for all its name, compares
    with the mean).
    """
    deviation = (from_mean(mean) / scale)[..., :-1]
    distance: Tensor = torch.linalg.vector_norm(deviation, dim=2)
    return distance.amax(0)


def max_aleatoric(mean: Tensor, variance: Tensor, scale: Tensor) -> Tensor:
    """Return [B], the largest norm of a hypothesis' predicted deviations, over observation and reward dimensions.

    Source: Yu et al. 2020 (MOPO); OfflineRL-Kit ``dynamics/ensemble_dynamics.py``, mode "aleatoric".
    """
    norm: Tensor = torch.linalg.vector_norm(variance.sqrt() / scale, dim=2)
    return norm.amax(0)


def largest_gap(mean: Tensor, variance: Tensor, scale: Tensor) -> Tensor:
    """Return [B], the largest distance between the means of two hypotheses, over observation dimensions.

    Source: Kidambi et al. 2020 (MOReL), the discrepancy of its detector, as users of its code (mjrl) compute it.
    """
    first, second = _pairs(mean)
    distance: Tensor = torch.linalg.vector_norm(((mean[first] - mean[second]) / scale)[..., :-1], dim=2)
    return distance.amax(0)


def geometric_js(mean: Tensor, variance: Tensor, scale: Tensor) -> Tensor:
    """Return [B], the mean over pairs of hypotheses of their geometric Jensen-Shannon divergence, whatever the units.

    Of two Gaussians with equal weights it is, summed over all dimensions, a quarter of the squared difference of means
    over the sum of variances, plus half the log of their arithmetic over their geometric mean. Source: Frauenknecht et
    al. 2024 (MACURA); its code's ``mbrl/util/distance_measures.py``, which writes the same as a difference of squares.
    """
    first, second = _pairs(mean)
    variance = variance.clamp(min=SMALLEST_VARIANCE)
    a, b = variance[first], variance[second]
    distance = (mean[first] - mean[second]).square() / (4.0 * (a + b))
    spread = 0.5 * ((a + b) / 2.0).log() - 0.25 * (a.log() + b.log())
    return (distance + spread.clamp(min=0.0)).sum(-1).mean(0)  # rounding can bring the spread below zero


MEASURES: dict[str, Measure] = {
    "ensemble_std": ensemble_std,
    "pairwise": pairwise,
    "max_aleatoric": max_aleatoric,
    "largest_gap": largest_gap,
    "geometric_js": geometric_js,
}


class UncertaintyWrapper(CalibratedWrapper[State]):
    """A wrapper that acts on how unsure the inner model is of a step.

    "ensemble_std" in standard units is the model's own ``Prediction.uncertainty`` (of an ensemble, that includes the
    reward): no second pass through the networks, and any model that has one will do. The others need the moments, one
    more pass through all hypotheses a step.

    Args:
        inner: the model to wrap.
        measure: "ensemble_std", "pairwise", "max_aleatoric", "largest_gap" or "geometric_js".
        units: "standard" measures every dimension in units of the standard deviation of what the model learned to
            predict (``target_std``), so that no number of a task depends on the units of its observations; "raw" as the
            sources do.

    Raises:
        ValueError: the measure or the units are none of these, or the inner model lacks what they need.
    """

    def __init__(self, inner: WorldModel[State], measure: str, units: str) -> None:
        super().__init__(inner)
        if measure not in MEASURES:
            raise ValueError(f"measure must be one of {sorted(MEASURES)}, got {measure!r}")
        if units not in ("standard", "raw"):
            raise ValueError(f"units must be 'standard' or 'raw', got {units!r}")
        self.measure = measure
        self.units = units
        self._own = (measure, units) == ("ensemble_std", "standard")
        if not (self._own or callable(getattr(inner, "moments", None))):
            raise ValueError(
                f"inner must know the moments of its hypotheses (an ensemble does) for measure={measure!r} in {units} "
                f"units, got {_name(inner)}; use measure='ensemble_std' and units='standard', the model's own"
            )
        if units == "standard" and not (self._own or isinstance(getattr(inner, "target_std", None), Tensor)):
            raise ValueError(
                f"inner must have target_std, the scale of what it predicts, for units='standard', got {_name(inner)}; "
                "use units='raw'"
            )

    def predict(
        self,
        state: State,
        action: Tensor,
        generator: torch.Generator | None = None,
        sample: bool = True,
        uncertainty: bool = True,
    ) -> tuple[State, Prediction]:
        """Return the inner model's imagined step, changed by `change`, which may read its uncertainty."""
        return super().predict(state, action, generator, sample, uncertainty or self._own)

    def measured(self, state: State, action: Tensor, prediction: Prediction) -> Tensor:
        """Return [B] >= 0, how unsure the inner model is of a step; finite, at most ``LARGEST_UNCERTAINTY``."""
        if self._own:
            value = prediction.uncertainty
        else:
            inner: Any = self.inner
            mean, variance = inner.moments(state, action)
            scale = inner.target_std if self.units == "standard" else torch.ones_like(mean[0, 0])
            value = MEASURES[self.measure](mean, variance, scale)
        return capped(value)

    @torch.no_grad()
    def real_quantile(self, data: SequenceBatch, q: float) -> Tensor:
        """Return [], the ``q``-quantile of the measure on the transitions of real windows [W, T]."""
        values = [torch.zeros(0, device=data.reward.device)]
        for step in real_steps(self.inner, data):
            _, prediction = self.inner.predict(step.state, step.action, sample=False, uncertainty=self._own)
            values.append(self.measured(step.state, step.action, prediction))
        return quantile(torch.cat(values), q)


def capped(x: Tensor) -> Tensor:
    """Return ``x``, with ``LARGEST_UNCERTAINTY`` for what is larger or not a number."""
    return torch.nan_to_num(x, nan=LARGEST_UNCERTAINTY).clamp(max=LARGEST_UNCERTAINTY)


def from_mean(x: Tensor) -> Tensor:
    """Return how far the hypotheses' ``x`` [E, ...] is from their mean; exactly zero where they are equal."""
    offset = x - x[0]
    return offset - offset.mean(0)


def diverged(prediction: Prediction) -> Tensor:
    """Return [B] bool, the rows that the model itself could not predict."""
    return prediction.info.get("diverged", torch.zeros_like(prediction.truncated))


def penalised(prediction: Prediction, penalty: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the reward [B] less ``penalty`` [B], and an info whose "raw_reward" less "penalty" it is.

    Several wrappers' penalties add up; the raw reward stays the innermost one.
    """
    total = prediction.info.get("penalty", 0.0) + penalty
    raw = prediction.info.get("raw_reward", prediction.reward)
    return prediction.reward - penalty, {**prediction.info, "raw_reward": raw, "penalty": total}


def _pairs(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of all pairs of the E hypotheses in ``mean`` [E, ...]; of one alone, the pair with itself."""
    count = mean.shape[0]
    pairs = torch.triu_indices(count, count, 1 if count > 1 else 0, device=mean.device)
    return pairs[0], pairs[1]


def _name(model: Any) -> str:
    return type(getattr(model, "unwrapped", model)).__name__
