"""Where bfloat16 products pay."""

import torch
from torch import Tensor

# From which they do on a CPU: imagination and its losses are 1.0, 1.3 and 1.5 times as fast at 64, 256 and 1,024 rows
# (Zen 4, DreamerV3 of size "1m"). Frozen networks, whose weights are rounded once, win from fewer (frozen_mlp.py).
ROWS = 256


def multiplies_in_bfloat16(device: torch.device) -> bool:
    """Return whether ``device`` has fast bfloat16 products."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def mixed_precision(device: torch.device, rows: int) -> torch.autocast:
    """Return a context in which products of ``rows`` rows are taken in bfloat16, where that is faster."""
    pays = (device.type == "cuda" or rows >= ROWS) and multiplies_in_bfloat16(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=pays)


def rounded(x: Tensor) -> Tensor:
    """Return ``x`` as products in the current precision read it: once, where several of them do."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
