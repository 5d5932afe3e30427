"""StatefulWrapper: a model wrapper that remembers something of a dream, in a belief around the inner one."""

from abc import abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import ModelLoss, State
from mbrl_gym.spaces import Observation
from mbrl_gym.tensors import TensorStruct
from mbrl_gym.wrappers.calibrated import CalibratedWrapper

Around = TypeVar("Around", bound="WrappedState[Any]")


@dataclass(frozen=True)
class WrappedState(TensorStruct, Generic[State]):
    """A belief around another one; subclasses add accumulators, tensors [B, ...].

    Attributes:
        inner: the inner model's belief [B].
    """

    inner: State

    # Not by `map`, as other structs: the inner belief may have its own way (groups of particles).

    def __getitem__(self: Around, index: Any) -> Around:
        """Return the selected rows."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def repeat(self: Around, n: int) -> Around:
        """Return every row ``n`` times in a row."""
        return replace(super().repeat(n), inner=self.inner.repeat(n))


class StatefulWrapper(CalibratedWrapper[Around]):
    """A wrapper whose belief is a `WrappedState`: a real step clears what was accumulated, reality ends hypotheses.

    A subclass says what a belief without a past is (`begin`) and what an imagined step adds (`predict`).
    """

    @abstractmethod
    def begin(self, inner: Any) -> Around:
        """Return the belief around the inner one [B] with blank accumulators."""

    def initial(self, batch_size: int) -> Around:
        """Return a blank belief [B]."""
        return self.begin(self.inner.initial(batch_size))

    def observe(
        self,
        state: Around,
        action: Tensor,
        obs: Observation,
        is_first: Tensor,
        generator: torch.Generator | None = None,
    ) -> Around:
        """Return the belief after one real step: the inner model's, with blank accumulators."""
        return self.begin(self.inner.observe(state.inner, action, obs, is_first, generator))

    def features(self, state: Around) -> Tensor:
        """Return the inner model's features [B, F]."""
        return self.inner.features(state.inner)

    def decode(self, state: Around) -> Observation:
        """Return the inner model's observation [B, *obs]."""
        return self.inner.decode(state.inner)

    def branch(self, state: Around, n: int) -> Around:
        """Return the inner model's hypotheses [B * n], each with its belief's accumulators."""
        return replace(state.repeat(n), inner=self.inner.branch(state.inner, n))

    def moments(self, state: Around, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inner model's moments, each [E, B, D + 1]."""
        inner: Any = self.inner
        mean, variance = inner.moments(state.inner, action)
        return mean, variance

    def loss(self, batch: SequenceBatch, start: Around | None = None) -> ModelLoss[Around]:
        """Return the inner model's loss; its beliefs [B, T] with blank accumulators."""
        result = self.inner.loss(batch, None if start is None else start.inner)
        states = None if result.states is None else self.begin(result.states)
        return ModelLoss(result.total, result.terms, states)
