"""SamplingWrapper: a wrapper that draws the next values itself, from what a transition model says about them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mbrl_gym.model import Prediction, State, WorldModel
from mbrl_gym.models.transition_state import TransitionState
from mbrl_gym.wrappers.calibrated import CalibratedWrapper
from mbrl_gym.wrappers.disagreement import capped, from_mean

Moments = tuple[Tensor, Tensor]


def check_samples(wrapper: type, inner: WorldModel[Any]) -> None:
    """Raise ValueError unless the values of ``inner``'s steps can be drawn elsewhere (`moments`, then `complete`).

    A wrapper that only hands these two on from the model in it would be left out of the step: it does not count.
    """
    if all(callable(getattr(type(inner), verb, None)) for verb in ("moments", "complete")):
        return
    name, kind = wrapper.__name__, type(inner).__name__
    if kind == name:
        remedy = f"one {name} is enough"
    elif hasattr(inner, "inner"):
        remedy = f"wrap the other way round, {kind}({name}(model), ...)"
    else:
        remedy = "use a TransitionModel, such as Ensemble"
    raise ValueError(
        f"inner must leave the drawing of its next values to {name} (have moments() and complete()), "
        f"{kind} does not: {remedy}"
    )


def drawn(
    model: Any,
    state: TransitionState,
    moments: Moments,
    generator: torch.Generator | None,
    sample: bool,
    change: Callable[[Tensor, Tensor], Moments] | None = None,
) -> Tensor:
    """Return next values [B, D + 1] as a transition model draws them, from moments [E, B, D + 1] of all hypotheses.

    Args:
        model: knows its ``propagation`` and which ``hypotheses`` are selected.
        state: the belief before [B].
        moments: mean and variance.
        generator: source of randomness.
        sample: False: the mean.
        change: what to make of each row's mean and variance [B, D + 1] before the draw.
    """
    member = model.propagation.assign(state.member, state.particles, model.hypotheses, generator, sample)
    mean, variance = model.propagation.mix(*(selected(model, x) for x in moments), member)
    if change is not None:
        mean, variance = change(mean, variance)
    value: Tensor = model.propagation.draw(mean, variance, state.particles, generator, sample)
    return value


def selected(model: Any, x: Tensor) -> Tensor:
    """Return the part [K, ...] of what all hypotheses say [E, ...] that predictions are made of."""
    elites = getattr(model, "elites", None)
    return x if elites is None or len(elites) == len(x) else x[elites]


def doubts(model: Any, moments: Moments) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what a transition model says of its own doubts: ``uncertainty`` [B], and an info with ``aleatoric``."""
    mean, variance = moments
    deviation = from_mean(mean) / model.target_std
    norm = torch.linalg.vector_norm(deviation, dim=(0, 2)) / math.sqrt(deviation.shape[0] * deviation.shape[2])
    return capped(norm), {"aleatoric": capped((variance / model.target_std.square()).mean((0, -1)).sqrt())}


class SamplingWrapper(CalibratedWrapper[State]):
    """A wrapper around a transition model that predicts by `moments`, a draw, and `complete`, which it may change.

    All hypotheses are asked, also where the model alone asks of a group of particles only each one's own. Wrappers of
    this kind go next to the model; among themselves they may be in any order.

    Raises:
        ValueError: the inner model does not leave the drawing to others.
    """

    innermost = True

    def __init__(self, inner: WorldModel[State]) -> None:
        check_samples(type(self), inner)
        super().__init__(inner)

    def moments(self, state: State, action: Tensor) -> Moments:
        """Return mean and variance [E, B, D + 1] of (encoded next observation, reward), all hypotheses'."""
        inner: Any = self.inner
        mean, variance = inner.moments(state, action)
        return mean, variance

    def complete(
        self,
        state: State,
        action: Tensor,
        value: Tensor,
        disagreement: Tensor | None = None,
        info: dict[str, Tensor] | None = None,
    ) -> tuple[State, Prediction]:
        """Return belief and prediction of a step whose next values [B, D + 1] were drawn elsewhere."""
        inner: Any = self.inner
        after, prediction = inner.complete(state, action, value, disagreement, info)
        return after, prediction

    def predict(
        self,
        state: State,
        action: Tensor,
        generator: torch.Generator | None = None,
        sample: bool = True,
        uncertainty: bool = True,
    ) -> tuple[State, Prediction]:
        """Return one imagined step."""
        moments = self.moments(state, action)
        disagreement, info = doubts(self, moments) if uncertainty else (None, {})
        belief: Any = state
        value = drawn(self, belief, moments, generator, sample)
        return self.complete(state, action, value, disagreement, info)
