"""SequenceBatch: windows of experience, and the one alignment that everything here follows.

``reward[t]``, ``terminated[t]`` and ``truncated[t]`` **arrive with** ``obs[t]``; ``action[t]`` is chosen **after** it::

    is_first    1     0     0     0     1
    obs         o0    o1    o2    o3    o0'
    reward      0     r1    r2    r3    0
    terminated  0     0     0     1     0
    action      a0    a1    a2    -     a0'      (- : unused, zeros)

The final observation of an episode has a row of its own (o3 above), and the next row starts the next episode.
"""

from dataclasses import dataclass, field

from torch import Tensor

from mbrl_gym.spaces import Observation
from mbrl_gym.tensors import TensorStruct


@dataclass(frozen=True)
class SequenceBatch(TensorStruct):
    """A batch of windows. B: windows, T: rows of a window, A: encoded action, E: ensemble members.

    Attributes:
        obs: [B, T, *obs] raw observations in the space's dtype (float64 as float32), or a dictionary of such.
        action: [B, T, A] encoded actions (see `ActionCodec`).
        reward: [B, T] float32, arriving with ``obs``.
        terminated: [B, T] bool, arriving with ``obs``.
        truncated: [B, T] bool, arriving with ``obs``.
        is_first: [B, T] bool, true on the first row of an episode.
        index: [B, T] int64, each row's absolute number in its replay, never reused (for write-back and for weights).
        weight: [B, T, E] bootstrap weights where asked for, otherwise None.
        extras: named extra arrays [B, T, ...] of the replay.
    """

    obs: Observation
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    is_first: Tensor
    index: Tensor
    weight: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """T, the number of rows of a window."""
        return int(self.reward.shape[1])
