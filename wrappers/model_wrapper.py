"""ModelWrapper: a world model around another one. What it does not change, it passes on."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import ModelLoss, Prediction, State, WorldModel
from mbrl_gym.spaces import Observation


class ModelWrapper(WorldModel[State]):
    """Changes what an inner model predicts; planners, imagination and learned environments then see the same world.

    Learning passes through: the loss, the parameters (under the prefix "inner.") and every hook of a fit are the inner
    model's, and so is any attribute that a wrapper lacks.

    Args:
        inner: the model to wrap; its spaces, configuration and state are those of the wrapper.

    Attributes:
        innermost: whether it changes how the model is sampled, so that it has to be inside of what is known.
    """

    innermost: ClassVar[bool] = False

    def __init__(self, inner: WorldModel[State]) -> None:
        super().__init__(inner.observation_space, inner.action_space, inner.config)
        self.inner = inner
        self.context = inner.context
        self.members = inner.members

    @abstractmethod
    def around(self, inner: WorldModel[State]) -> "ModelWrapper[State]":
        """Return this wrapper around another model."""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments beside ``inner`` as JSON, for a checkpoint.

        Raises:
            ValueError: one of them cannot be stored.
        """

    def __getattr__(self, name: str) -> Any:
        """Return the inner model's attribute where the wrapper has none of that name."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "inner":  # not set yet
                raise
            return getattr(super().__getattr__("inner"), name)

    @property
    def unwrapped(self) -> WorldModel[Any]:
        """The innermost model."""
        inner = self.inner
        return inner.unwrapped if isinstance(inner, ModelWrapper) else inner

    @property
    def hypotheses(self) -> int:
        """The inner model's."""
        return self.inner.hypotheses

    def initial(self, batch_size: int) -> State:
        """Return the inner model's blank belief [B]."""
        return self.inner.initial(batch_size)

    def observe(
        self,
        state: State,
        action: Tensor,
        obs: Observation,
        is_first: Tensor,
        generator: torch.Generator | None = None,
    ) -> State:
        """Return the inner model's belief after one real step."""
        return self.inner.observe(state, action, obs, is_first, generator)

    def predict(
        self,
        state: State,
        action: Tensor,
        generator: torch.Generator | None = None,
        sample: bool = True,
        uncertainty: bool = True,
    ) -> tuple[State, Prediction]:
        """Return the inner model's imagined step, changed by `change`."""
        after, prediction = self.inner.predict(state, action, generator, sample, uncertainty)
        return after, self.change(state, action, after, prediction)

    @abstractmethod
    def change(self, state: State, action: Tensor, after: State, prediction: Prediction) -> Prediction:
        """Return the prediction of one imagined step as the wrapper has it.

        Args:
            state: the belief before [B].
            action: [B, A] encoded.
            after: the belief after the step [B].
            prediction: what the inner model said.
        """

    def features(self, state: State) -> Tensor:
        """Return the inner model's features [B, F]."""
        return self.inner.features(state)

    def decode(self, state: State) -> Observation:
        """Return the inner model's observation [B, *obs]."""
        return self.inner.decode(state)

    def branch(self, state: State, n: int) -> State:
        """Return the inner model's hypotheses [B * n]."""
        return self.inner.branch(state, n)

    def loss(self, batch: SequenceBatch, start: State | None = None) -> ModelLoss[State]:
        """Return the inner model's loss."""
        return self.inner.loss(batch, start)

    def holdout_error(self, batch: SequenceBatch) -> Tensor:
        """Return the inner model's held-out errors [E]."""
        return self.inner.holdout_error(batch)

    def member_parameters(self) -> frozenset[str]:
        """Return the inner model's member parameters, by the names that they have here."""
        return frozenset(f"inner.{name}" for name in self.inner.member_parameters())

    def weight_decay(self) -> dict[str, float]:
        """Return the inner model's weight decay, by the names that its parameters have here."""
        return {f"inner.{name}": decay for name, decay in self.inner.weight_decay().items()}

    def before_fit(self, data: SequenceBatch) -> None:
        """Let the inner model adapt to its data."""
        self.inner.before_fit(data)

    def after_update(self) -> None:
        """Let the inner model take note of a gradient step."""
        self.inner.after_update()

    def after_fit(self, error: Tensor) -> None:
        """Let the inner model take note of its errors [E]."""
        self.inner.after_fit(error)

    def calibrate(self, data: SequenceBatch, holdout: SequenceBatch | None) -> None:
        """Let the inner model adapt to how well it predicts."""
        self.inner.calibrate(data, holdout)

    def frozen(self) -> "ModelWrapper[State]":
        """Return the wrapper around the frozen inner model."""
        return self.around(self.inner.frozen())

    def twin(self) -> "ModelWrapper[State]":
        """Return the wrapper around an untrained twin of the inner model."""
        return self.around(self.inner.twin())
