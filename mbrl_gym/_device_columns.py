"""DeviceColumns: extra columns of a replay on a device, which the host reads and writes without waiting for it."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mbrl_gym._ring import Array, Column

LARGEST_PINNED = 2**26  # bytes: torch keeps pinned memory for good, and a whole data set is no batch


class DeviceColumns:
    """Columns [rows, ...] as tensors, by the positions of `Rings`; zero until they are written.

    Args:
        layout: the columns by name.
        rows: over all envs.
        device: where they live.
    """

    def __init__(self, layout: Mapping[str, Column], rows: int, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._columns = {
            name: torch.zeros(rows, *column.shape, dtype=_torch_dtype(column.dtype), device=self.device)
            for name, column in layout.items()
        }

    def take(self, position: Array) -> dict[str, Tensor]:
        """Return copies of all columns' rows at ``position`` [...]: [..., *shape]."""
        at = sent(torch.from_numpy(position.ravel()), self.device)
        return {name: x.index_select(0, at).view(*position.shape, *x.shape[1:]) for name, x in self._columns.items()}

    def put(self, name: str, position: Array, values: Tensor) -> None:
        """Overwrite one column's rows at ``position`` [K] by ``values`` [K, *shape]; of twice the same, any one."""
        column = self._columns[name]
        column.index_copy_(0, sent(torch.from_numpy(position), self.device), values.to(column.dtype))

    def clear(self, position: Array) -> None:
        """Set all columns' rows at ``position`` [K] to zero."""
        at = sent(torch.from_numpy(position), self.device)
        for column in self._columns.values():
            column.index_fill_(0, at, 0)

    def arrays(self, n_envs: int) -> dict[str, Array]:
        """Return copies on the host, [n_envs, rows of each, *shape], as `Rings` has its columns."""
        return {name: np.array(x.view(n_envs, -1, *x.shape[1:]).cpu().numpy()) for name, x in self._columns.items()}

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Take up what `arrays` returned."""
        for name, x in self._columns.items():
            x.copy_(torch.from_numpy(arrays[name]).flatten(0, 1))


def sent(x: Tensor, device: torch.device | str) -> Tensor:
    """Return ``x`` of the host on ``device``. CUDA copies it when its turn comes: the host waits for nothing."""
    if torch.device(device).type != "cuda" or x.numel() * x.element_size() > LARGEST_PINNED:
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)  # from pageable memory it would be waited for


def _torch_dtype(dtype: np.dtype[np.generic]) -> torch.dtype:
    return torch.from_numpy(np.zeros(0, dtype)).dtype
