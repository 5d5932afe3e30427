"""What the tasks share: the type of their functions, the check of an observation's width, and the constant ones."""

from collections.abc import Callable

import torch
from torch import Tensor

TaskFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(obs [B, *obs], action [B, *act] in the environment's own units, next_obs [B, *obs]) -> reward [B] float32 or
terminated [B] bool. Any device; no step waits for it. A reward is computed in the observations' own precision."""


def check_width(task: str, remedy: str, widths: tuple[int, ...], *observations: Tensor) -> None:
    """Raise unless the last axis of every observation [..., D] has one of ``widths``.

    Raises:
        ValueError: an observation has another width. Shapes are known on the host, so that no device is waited for.
    """
    for obs in observations:
        width = obs.shape[-1] if obs.dim() else 0
        if width not in widths:
            rule = " or ".join(map(str, widths))
            raise ValueError(f"{task} needs observations of width {rule}, got {width} ({tuple(obs.shape)}); {remedy}")


def never(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Return [B] bool, all False: the task ends by its time limit alone, which is no termination."""
    return torch.zeros_like(next_obs[..., 0], dtype=torch.bool)


def always_one(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Return [B] float32, all 1: one for every step, the last one included."""
    return torch.ones_like(next_obs[..., 0], dtype=torch.float32)
