"""RecalibrateVariance: predicted variances that are as large as the errors on data that was not trained on."""

import warnings
from typing import Any

import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import WorldModel
from mbrl_gym.models.transition_state import TransitionState
from mbrl_gym.wrappers.calibrated import check_at_least, real_steps
from mbrl_gym.wrappers.sampling import Moments, SamplingWrapper, selected


class RecalibrateVariance(SamplingWrapper[TransitionState]):
    """A transition model whose predicted variances are multiplied by one factor for each dimension.

    At the end of each fit the factor becomes the mean, over held-out steps and elites, of the squared error over the
    predicted variance: then standardised errors have unit variance, and among all factors this one makes the held-out
    data likeliest under the hypotheses' Gaussians. `moments`, what is drawn, and ``info["aleatoric"]`` have it;
    ``Prediction.uncertainty``, the disagreement of the means, has not. An error beyond a bound of the observation
    space, onto which predictions are projected, is none.

    Source: Levi et al. 2019 (recalled: scaling of the deviation by one factor, by the likelihood); uncertainty-toolbox
    ``get_std_recalibrator`` chooses its one factor by a miscalibration instead.

    Args:
        inner: a transition model (`Ensemble`), or a wrapper around one that leaves drawing to others.
        largest: the factor stays within [1 / largest, largest], whatever a few held-out steps say.

    Raises:
        ValueError: an argument is not as described, or the inner model does not leave the drawing to others.
    """

    variance_scale: Tensor  # [D + 1], one before the first fit

    def __init__(self, inner: WorldModel[TransitionState], largest: float = 1e3) -> None:
        super().__init__(inner)
        check_at_least("largest", largest, 1.0)
        self.largest = largest
        self.add_buffer("variance_scale", tuple(self.target_std.shape), 1.0)

    def around(self, inner: WorldModel[TransitionState]) -> "RecalibrateVariance":
        """Return a model that is recalibrated likewise."""
        return RecalibrateVariance(inner, self.largest)

    def arguments(self) -> dict[str, Any]:
        """Return the largest factor."""
        return {"largest": self.largest}

    def moments(self, state: TransitionState, action: Tensor) -> Moments:
        """Return mean and recalibrated variance [E, B, D + 1] of (encoded next observation, reward)."""
        mean, variance = super().moments(state, action)
        return mean, variance * self.variance_scale

    @torch.no_grad()
    def calibrate(self, data: SequenceBatch, holdout: SequenceBatch | None) -> None:
        """Set the factors by the held-out windows [W, T], by the training windows where there are none (it warns)."""
        super().calibrate(data, holdout)
        if holdout is None:
            warnings.warn(
                "RecalibrateVariance has no held-out windows and measures errors on what the model was trained on, "
                "where they are smaller: train with TrainerConfig(holdout=0.1) or more data",
                stacklevel=2,
            )
        total, count = torch.zeros_like(self.variance_scale, dtype=torch.float64), 0
        for step in real_steps(self.inner, data if holdout is None else holdout):
            mean, variance = (selected(self.inner, x) for x in super().moments(step.state, step.action))
            mean = torch.cat([self._within(mean[..., :-1]), mean[..., -1:]], dim=-1)
            target = torch.cat([self.codec.encode(step.next_obs), step.reward[:, None]], dim=-1)
            total += ((target - mean).square() / variance).double().mean(0).sum(0)
            count += len(target)
        if count:
            self.variance_scale.copy_((total / count).clamp(1.0 / self.largest, self.largest))

    def _within(self, obs: Tensor) -> Tensor:
        """Return encoded observations [..., D] within the bounds of the space."""
        low, high = self.codec.low.to(obs.device), self.codec.high.to(obs.device)
        return torch.minimum(torch.maximum(obs, low), high)
