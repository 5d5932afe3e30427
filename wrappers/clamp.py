"""ClampRange: a dream stays within the range of what was ever observed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import Prediction, WorldModel
from mbrl_gym.models.transition_state import TransitionState
from mbrl_gym.wrappers.calibrated import check_at_least, real_steps
from mbrl_gym.wrappers.sampling import SamplingWrapper


class ClampRange(SamplingWrapper[TransitionState]):
    """A transition model whose next observations and rewards are clamped to the data's range, or to given bounds.

    It is clamped what is drawn, so that the end of the episode is predicted of what will be seen. A value that is not
    finite stays so: the row diverged. ``info["clamped"]`` are the rows [B] that the bounds changed. An ensemble has a
    clamp of its own (``clamp_margin``, a quarter of the range by default): this one is for tighter bounds, for bounds
    that are known, and for models that were trained without.

    Args:
        inner: a transition model (`Ensemble`), or a wrapper around one that leaves drawing to others.
        margin: the bounds are the data's range, widened by this fraction of it at both ends at each fit; None: there
            are only the given ones.
        low: lower bounds of (encoded next observation, reward), D + 1 numbers, in place of the data's; None in a place
            leaves that one to the data.
        high: upper bounds likewise.

    Raises:
        ValueError: an argument is not as described, or the inner model does not leave the drawing to others.
    """

    least: Tensor  # [D + 1], infinite before the first fit where no bound is given
    most: Tensor

    def __init__(
        self,
        inner: WorldModel[TransitionState],
        margin: float | None = 0.0,
        low: Sequence[float | None] | None = None,
        high: Sequence[float | None] | None = None,
    ) -> None:
        super().__init__(inner)
        if margin is not None:
            check_at_least("margin", margin, 0.0)
        size = self.target_std.shape[0]
        self.margin = margin
        self._low = _bounds("low", low, size)
        self._high = _bounds("high", high, size)
        for at, (a, b) in enumerate(zip(self._low, self._high, strict=True)):
            if a is not None and b is not None and not a <= b:
                raise ValueError(f"low must be at most high, got {a} and {b} for dimension {at}")
        self.add_buffer("least", (size,), -torch.inf)
        self.add_buffer("most", (size,), torch.inf)
        self._put_given()

    def around(self, inner: WorldModel[TransitionState]) -> "ClampRange":
        """Return the same clamp around another model."""
        return ClampRange(inner, **self.arguments())

    def arguments(self) -> dict[str, Any]:
        """Return margin and given bounds."""
        return {"margin": self.margin, "low": list(self._low), "high": list(self._high)}

    def complete(
        self,
        state: TransitionState,
        action: Tensor,
        value: Tensor,
        disagreement: Tensor | None = None,
        info: dict[str, Tensor] | None = None,
    ) -> tuple[TransitionState, Prediction]:
        """Return belief and prediction of a step whose next values [B, D + 1] were drawn elsewhere, clamped."""
        inside = torch.where(value.isfinite(), torch.clamp(value, self.least, self.most), value)
        after, prediction = super().complete(state, action, inside, disagreement, info)
        clamped = (inside.detach() != value.detach()).any(-1) & ~prediction.truncated
        return after, replace(prediction, info={**prediction.info, "clamped": clamped})

    @torch.no_grad()
    def calibrate(self, data: SequenceBatch, holdout: SequenceBatch | None) -> None:
        """Set the bounds that are not given by the training windows [W, T]."""
        super().calibrate(data, holdout)
        if self.margin is None:
            return
        low, high = torch.full_like(self.least, torch.inf), torch.full_like(self.most, -torch.inf)
        for step in real_steps(self, data):
            after = self.codec.encode(step.next_obs)
            for obs in (step.state.obs, after):
                values = torch.cat([obs, step.reward[:, None]], dim=-1)
                low, high = torch.minimum(low, values.amin(0)), torch.maximum(high, values.amax(0))
        extra = self.margin * (high - low)
        self.least.copy_(low - extra)
        self.most.copy_(high + extra)
        self._put_given()

    def _put_given(self) -> None:
        for buffer, given in ((self.least, self._low), (self.most, self._high)):
            for at, bound in enumerate(given):
                if bound is not None:
                    buffer[at] = bound


def _bounds(name: str, given: Sequence[float | None] | None, size: int) -> tuple[float | None, ...]:
    bounds = (None,) * size if given is None else tuple(given)
    if len(bounds) != size or not all(b is None or abs(b) < float("inf") for b in bounds):
        raise ValueError(
            f"{name} must have {size} finite numbers, one for each encoded observation dimension and the reward, or "
            f"None in their place, got {given!r}"
        )
    return bounds
