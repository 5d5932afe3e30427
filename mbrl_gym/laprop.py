"""LaProp: Adam with the momentum behind the scaling, and gradients clipped by each tensor's own size."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LaProp(Optimizer):
    """The optimiser of DreamerV3: adaptive gradient clipping, scaling by the root of mean squares, then momentum.

    g is shortened to ``clip`` times max(1e-3, |p|), of each tensor p. v averages g^2, m averages g / (sqrt(v) + eps),
    both corrected for their start at zero, and p falls by the learning rate times m. The learning rate rises linearly
    from 0 over the first ``warmup`` steps: the first step changes nothing but the averages. A parameter without a
    gradient has a gradient of zero, and moves on with its momentum. Source: danijar/dreamerv3 ``embodied/jax/opt.py``
    and ``dreamerv3/agent.py`` (_make_opt); Ziyin et al. 2020 (LaProp), Brock et al. 2021 (AGC).

    Args:
        params: as in every torch optimiser.
        lr: learning rate.
        betas: averaging of the momentum and of the squares.
        eps: added to the root.
        clip: largest gradient relative to its parameter; None: no clipping.
        warmup: steps until the full learning rate; 0: at once.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 4e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
        clip: float | None = 0.3,
        warmup: int = 1000,
    ) -> None:
        if not lr > 0:
            raise ValueError(f"lr must be positive, got {lr}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be at least 0 and below 1, got {betas}")
        if not eps > 0:
            raise ValueError(f"eps must be positive, or a gradient that was always 0 makes NaN, got {eps}")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be positive, or None, got {clip}")
        if warmup < 0:
            raise ValueError(f"warmup must be at least 0 steps, got {warmup}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "clip": clip, "warmup": warmup})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; step counts are tensors on the parameters' device, so that nothing waits for it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group, group["params"])
        return loss

    def _step_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        states = [self._state(p) for p in parameters]
        step = states[0]["count"]  # all of a group are as old
        rate = group["lr"] * (step / group["warmup"]).clamp(max=1.0) if group["warmup"] else group["lr"]
        torch._foreach_add_([state["count"] for state in states], 1.0)
        first, second = group["betas"]
        squares, momenta = [s["square"] for s in states], [s["momentum"] for s in states]
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        gradients = _clipped(found, parameters, group["clip"])
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1 - second)
        scale = torch._foreach_div(squares, 1 - second**step)
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, group["eps"])
        torch._foreach_lerp_(momenta, torch._foreach_div(gradients, scale), 1 - first)
        change = torch._foreach_mul(momenta, rate / (1 - first**step))
        torch._foreach_sub_(parameters, change)

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:  # "count", because torch leaves a "step" on the device that it was loaded from
            state["count"] = torch.zeros((), device=parameter.device)
            state["square"] = torch.zeros_like(parameter)
            state["momentum"] = torch.zeros_like(parameter)
        return state


def _clipped(gradients: list[Tensor], parameters: list[Tensor], clip: float | None) -> list[Tensor]:
    """Return the gradients, each no longer than ``clip`` times its parameter (at least 1e-3)."""
    if clip is None:
        return gradients
    limits = [norm.clamp(min=1e-3) * clip for norm in torch._foreach_norm(parameters)]
    lengths = torch._foreach_norm(gradients)
    factors = [1.0 / (length / limit).clamp(min=1.0) for length, limit in zip(lengths, limits, strict=True)]
    return list(torch._foreach_mul(gradients, factors))
