"""StartStates: the contexts that imagined episodes start from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl_gym._changes import PARTS, pack_changes, unpack_changes
from mbrl_gym.spaces import Observation, observation_array
from mbrl_gym.tensors import TensorStruct

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class StartStates(TensorStruct):
    """Contexts that imagined episodes start from. N: contexts, C: rows of a context, A: encoded action.

    Attributes:
        obs: [N, C, *obs] raw observations, or a dictionary of such.
        action: [N, C, A] encoded actions; the last of a context is unused and zero.
    """

    obs: Observation
    action: Tensor

    def __len__(self) -> int:
        return int(self.action.shape[0])

    @property
    def context(self) -> int:
        """C, the number of rows of a context."""
        return int(self.action.shape[1])

    def sample(self, n: int, generator: torch.Generator | None = None) -> "StartStates":
        """Return ``n`` contexts drawn with replacement, on the device of these.

        Raises:
            ValueError: there are no contexts to draw from.
        """
        if len(self) == 0:
            raise ValueError("start states must hold at least one context to sample from, got none; collect more data")
        device = self.action.device if generator is None else generator.device
        index = torch.randint(len(self), (n,), generator=generator, device=device).to(self.action.device)
        # index_select: advanced indexing of uint8 rows is six times as slow.
        return self.map(lambda x: x.index_select(0, index))

    def to_arrays(self) -> dict[str, Array]:
        """Return ``obs`` (or ``obs/<key>`` for each key) and ``action`` as arrays for an npz file.

        Of pictures that follow each other what changes is kept, as ``changes:obs:<part>`` (`mbrl_gym._changes`).
        """
        obs = observation_array(self.obs)
        named = {f"obs/{key}": value for key, value in obs.items()} if isinstance(obs, dict) else {"obs": obs}
        arrays = {"action": observation_array(self.action)}
        for name, value in named.items():
            if value.dtype == np.uint8 and self.context > 1:
                arrays.update({f"changes:{name}:{part}": x for part, x in pack_changes(value).items()})
            else:
                arrays[name] = value
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> "StartStates":
        """Return the start states that `to_arrays` described.

        Raises:
            ValueError: an array is missing or unknown, or their leading axes [N, C] differ.
        """
        arrays = _unpacked(arrays)
        names = set(arrays) - {"action"}
        if "action" not in arrays or not (names == {"obs"} or (names and all(n.startswith("obs/") for n in names))):
            raise ValueError(f"arrays must be 'action' and 'obs' (or 'obs/<key>' for each key), got {sorted(arrays)}")
        tensors = {name: torch.tensor(arrays[name]) for name in arrays}
        action = tensors.pop("action")
        shapes = {name: tuple(x.shape) for name, x in tensors.items()}
        if action.dim() != 3 or any(shape[:2] != action.shape[:2] for shape in shapes.values()):
            raise ValueError(
                f"arrays must share the axes [N, C] of action [N, C, A] {tuple(action.shape)}, got {shapes}"
            )
        obs = tensors["obs"] if "obs" in tensors else {n.removeprefix("obs/"): x for n, x in tensors.items()}
        return cls(obs, action)


def _unpacked(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return ``arrays`` with pictures in place of their changes."""
    found = {name: x for name, x in arrays.items() if not name.startswith("changes:")}
    packed = (name.removeprefix("changes:").rpartition(":")[0] for name in arrays if name.startswith("changes:"))
    for name in dict.fromkeys(packed):
        found[name] = unpack_changes({part: arrays[f"changes:{name}:{part}"] for part in PARTS})
    return found
