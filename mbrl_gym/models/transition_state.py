"""TransitionState, the belief of a model of single transitions; and Transitions, its data."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor

from mbrl_gym.tensors import TensorStruct


@dataclass(frozen=True)
class TransitionState(TensorStruct):
    """A belief: the observation itself, and which hypothesis about the dynamics it follows.

    Attributes:
        obs: [B, D] encoded observation, a member of the space.
        member: [B] int64, the hypothesis that a row is bound to under TS-infinity.
        particles: how many consecutive rows are particles of one belief; above 1 they are as `TransitionModel.branch`
            made them, the first ones bound to the first hypothesis and so on.
    """

    obs: Tensor
    member: Tensor
    particles: int = 1

    def __getitem__(self, index: Any) -> "TransitionState":
        """Return the selected rows; unless the index keeps all of them, they are no groups of particles any more."""
        rows = super().__getitem__(index)
        whole = isinstance(index, tuple) and isinstance(index[0], slice) and index[0] == slice(None)
        return rows if whole else replace(rows, particles=1)

    def repeat(self, n: int) -> "TransitionState":
        """Return every row ``n`` times in a row; they are no groups of particles any more."""
        return replace(super().repeat(n), particles=1)


class Transitions(NamedTuple):
    """N transitions: x [N, in], obs [N, D], target [N, D + 1], next_obs [N, D], terminated [N], weight [E, N]."""

    x: Tensor
    obs: Tensor
    target: Tensor
    next_obs: Tensor
    terminated: Tensor
    weight: Tensor
