"""Infoprop: dreams without the spread that is the model's own ignorance, and how long they last."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import Prediction, WorldModel
from mbrl_gym.models.transition_state import TransitionState
from mbrl_gym.wrappers.calibrated import check_at_least, quantile, real_steps
from mbrl_gym.wrappers.disagreement import SMALLEST_VARIANCE, diverged
from mbrl_gym.wrappers.sampling import Moments, check_samples, doubts, drawn, selected
from mbrl_gym.wrappers.stateful import StatefulWrapper, WrappedState

MOST_LOST = 1e9  # bits a belief can have lost: a number, whatever happens to a dream that goes on


@dataclass(frozen=True)
class InfopropState(WrappedState[TransitionState]):
    """A belief that knows how much it has lost.

    Attributes:
        inner: the model's belief [B].
        information_lost: [B, D + 1] bits since the last real step, of each observation dimension and the reward.
    """

    information_lost: Tensor


class Infoprop(StatefulWrapper[InfopropState]):
    """A transition model whose dreams leave out what is the model's own ignorance, and stop where too much is lost.

    The hypotheses are fused, weighted by their precision, to a mean m and a variance V; the mean square e of their
    distances from m is epistemic. A value x that the model draws is replaced by one from the estimate of the
    environment's own step given x: with K = V / (V + e), a Gaussian of mean m + K (x - m) and variance (1 - K) V. The
    entropy of that Gaussian, above that of a bin of width ``resolution``, is the information that a step loses. A dream
    is truncated, with ``info["information_exhausted"]``, where a dimension loses more in one step than the
    ``step_quantile`` of real steps does, or since the last real step more than ``horizon`` times the
    ``total_quantile``. ``info["information_lost"]`` is the sum over dimensions since then.

    Source: Frauenknecht et al. 2025 (Infoprop), as coded in ``mbrl/models/gaussian_mlp.py`` (``info_sample_1d``) and
    ``mbrl/algorithms/infoprop_dyna.py``. Both draws there are Gaussian, so that they are one here: without epistemic
    variance a step is to the bit the model's own. What differs: dimensions are in units of ``target_std``, so that no
    limit depends on the units of an observation; only the elites are fused; x follows the model's ``propagation``
    (there: "ts1"); and the step that exhausts a dream is its last one, while there it is left out (leave it out of a
    buffer by that flag).

    Args:
        inner: a transition model (`Ensemble`), or a wrapper around one that leaves drawing to others
            (`RecalibrateVariance`, `ClampRange`). A known reward goes around this wrapper.
        horizon: steps that a dream at the total quantile's loss can have.
        step_quantile: of one step's loss on the real data.
        total_quantile: of one step's loss on the real data.
        resolution: what counts as no loss, in units of ``target_std``.

    Raises:
        ValueError: an argument is not as described, or the inner model does not leave the drawing to others.
    """

    innermost = True
    step_limit: Tensor  # [D + 1] bits, infinite before the first fit
    total_limit: Tensor

    def __init__(
        self,
        inner: WorldModel[Any],
        horizon: int = 100,
        step_quantile: float = 0.9999,
        total_quantile: float = 0.01,
        resolution: float = 1e-6,
    ) -> None:
        check_samples(type(self), inner)
        super().__init__(inner)
        check_at_least("horizon", horizon, 1)
        check_at_least("step_quantile", step_quantile, 0.0, 1.0)
        check_at_least("total_quantile", total_quantile, 0.0, 1.0)
        check_at_least("resolution", resolution, 0.0, above=True)
        self.horizon = horizon
        self.step_quantile = step_quantile
        self.total_quantile = total_quantile
        self.resolution = resolution
        size = tuple(self.target_std.shape)
        self.add_buffer("step_limit", size, float("inf"))
        self.add_buffer("total_limit", size, float("inf"))

    def around(self, inner: WorldModel[Any]) -> "Infoprop":
        """Return the same filter around another model."""
        return Infoprop(inner, **self.arguments())

    def arguments(self) -> dict[str, Any]:
        """Return what the limits are made of."""
        names = ("horizon", "step_quantile", "total_quantile", "resolution")
        return {name: getattr(self, name) for name in names}

    def begin(self, inner: TransitionState) -> InfopropState:
        """Return the belief that has lost nothing."""
        return InfopropState(inner, inner.obs.new_zeros(*inner.obs.shape[:-1], self.target_std.shape[0]))

    def predict(
        self,
        state: InfopropState,
        action: Tensor,
        generator: torch.Generator | None = None,
        sample: bool = True,
        uncertainty: bool = True,
    ) -> tuple[InfopropState, Prediction]:
        """Return one imagined step: a draw, or the mean, of the filtered Gaussian."""
        inner: Any = self.inner
        moments = self.moments(state, action)
        fused, epistemic = fuse(*(selected(inner, x) for x in moments))
        centre, spread = fused
        unsure = epistemic / (spread + epistemic)  # 1 - K

        def filtered(mean: Tensor, variance: Tensor) -> Moments:
            own = (1.0 - unsure).square() * variance
            return mean + unsure * (centre - mean), own + unsure * spread

        value = drawn(inner, state.inner, moments, generator, sample, filtered)
        disagreement, info = doubts(inner, moments) if uncertainty else (None, {})
        after, prediction = inner.complete(state.inner, action, value, disagreement, info)
        lost = self._loss_of(unsure * spread)
        total = (state.information_lost + lost).clamp(max=MOST_LOST)
        exhausted = ((lost > self.step_limit) | (total > self.total_limit)).any(-1) & ~diverged(prediction)
        info = {**prediction.info, "information_lost": total.sum(-1), "information_exhausted": exhausted}
        prediction = replace(prediction, truncated=prediction.truncated | exhausted, info=info)
        return InfopropState(after, total), prediction

    @torch.no_grad()
    def calibrate(self, data: SequenceBatch, holdout: SequenceBatch | None) -> None:
        """Set both limits by what the steps of the training windows [W, T] lose."""
        super().calibrate(data, holdout)
        losses = [self.step_limit.new_zeros(0, len(self.step_limit))]
        for step in real_steps(self, data):
            (_, spread), epistemic = fuse(*(selected(self.inner, x) for x in self.moments(step.state, step.action)))
            losses.append(self._loss_of(spread * epistemic / (spread + epistemic)))
        lost = torch.cat(losses)
        self.step_limit.copy_(quantile(lost, self.step_quantile))
        self.total_limit.copy_(self.horizon * quantile(lost, self.total_quantile))

    @torch.no_grad()
    def _loss_of(self, variance: Tensor) -> Tensor:
        """Return bits [B, D + 1]: the entropy of Gaussians of this variance above that of a bin, at least 0."""
        bins = variance / (self.resolution * self.target_std).square()
        return torch.nan_to_num(0.5 * torch.log2(2.0 * math.pi * math.e * bins), nan=MOST_LOST).clamp(0.0, MOST_LOST)


def fuse(mean: Tensor, variance: Tensor) -> tuple[Moments, Tensor]:
    """Return mean and variance [B, D + 1] of the fused hypotheses [K, B, D + 1], and the epistemic variance.

    Relative to the first hypothesis, so that rounding does not disagree where the hypotheses agree.
    """
    precision = variance.clamp(min=SMALLEST_VARIANCE).reciprocal()
    spread = precision.mean(0).reciprocal()
    offset = mean - mean[0]
    centre = spread * (precision * offset).mean(0)
    return (mean[0] + centre, spread), (offset - centre).square().mean(0)
