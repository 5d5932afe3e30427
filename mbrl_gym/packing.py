"""Nested Python values with tensors in them, as JSON beside a flat dictionary of tensors."""

from typing import Any

import torch
from torch import Tensor


def pack(value: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """Return ``value`` as JSON; its tensors go into ``tensors`` under names that begin with ``name``.

    Dictionaries (with string or integer keys), lists, tuples, numbers, strings and None are kept apart exactly.

    Raises:
        TypeError: something else is inside; the message says where.
    """
    if isinstance(value, Tensor):
        free = _free_name(name, tensors)
        tensors[free] = value.detach()
        return {"tensor": free}
    if isinstance(value, dict):
        return {"dict": [_pack_item(key, item, tensors, name) for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [pack(item, tensors, f"{name}.{i}") for i, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name or 'value'} must be a tensor or plain data to be stored, got {type(value).__name__}")


def unpack(data: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the value that `pack` took apart."""
    if not isinstance(data, dict):
        return data
    ((kind, content),) = data.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unpack(item, tensors) for key, item in content}
    items = [unpack(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)


def same_numbers(a: Any, b: Any) -> bool:
    """Return whether two packable values are equal, tensors bit for bit (so that NaN equals itself)."""
    first: dict[str, Tensor] = {}
    second: dict[str, Tensor] = {}
    return pack(a, first) == pack(b, second) and all(_same_bits(x, second[name]) for name, x in first.items())


def _pack_item(key: Any, item: Any, tensors: dict[str, Tensor], name: str) -> list[Any]:
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise TypeError(f"the keys of {name or 'value'} must be strings or integers to be stored, got {key!r}")
    return [key, pack(item, tensors, f"{name}.{key}" if name else str(key))]


def _free_name(name: str, tensors: dict[str, Tensor]) -> str:
    """Return ``name``, made longer where another path spells the same: {"a.b": x} and {"a": {"b": y}}."""
    while name in tensors:
        name += "_"
    return name


def _same_bits(x: Tensor, y: Tensor) -> bool:
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    return torch.equal(*(z.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for z in (x, y)))
