"""TensorStruct: a frozen record of tensors that share their leading batch axis."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Struct = TypeVar("Struct", bound="TensorStruct")


@dataclass(frozen=True)
class TensorStruct:
    """A frozen dataclass whose fields are tensors, dictionaries of tensors, other structs, None, or static values.

    Every tensor has the batch as its leading axis. Static values (an int, a string) are carried along unchanged and
    have to agree where several structs meet. Subclass it with ``@dataclass(frozen=True)``.
    """

    def map(self: Struct, fn: Callable[[Tensor], Tensor]) -> Struct:
        """Return a struct with ``fn`` applied to every tensor."""
        return replace(self, **{f.name: _map(getattr(self, f.name), fn) for f in fields(self)})

    def __getitem__(self: Struct, index: Any) -> Struct:
        """Return the rows that ``index`` selects from every tensor's leading axes."""
        return self.map(lambda x: x[index])

    def set(self: Struct, index: Tensor, other: Struct) -> Struct:
        """Return a copy whose rows ``index`` [K] (int64) are those of ``other`` [K, ...]."""
        return _merge([self, other], lambda pair: pair[0].index_copy(0, index, pair[1]))

    def where(self: Struct, mask: Tensor, other: Struct) -> Struct:
        """Return a struct that has this one's rows where ``mask`` [B] is true and ``other``'s elsewhere."""
        return _merge([self, other], lambda pair: torch.where(_expand(mask, pair[0]), pair[0], pair[1]))

    def repeat(self: Struct, n: int) -> Struct:
        """Return [B * n]: every row ``n`` times in a row (b0, b0, ..., b1, b1, ...)."""
        return self.map(lambda x: x.repeat_interleave(n, dim=0))

    def to(self: Struct, device: torch.device | str) -> Struct:
        """Return the struct on ``device``."""
        return self.map(lambda x: x.to(device))

    def detach(self: Struct) -> Struct:
        """Return the struct cut from the autograd graph."""
        return self.map(Tensor.detach)

    def tensors(self) -> list[Tensor]:
        """Return every tensor, in field order."""
        return [x for f in fields(self) for x in _tensors(getattr(self, f.name))]

    @property
    def batch_size(self) -> int:
        """The length of the leading axis.

        Raises:
            ValueError: the struct holds no tensor.
        """
        found = self.tensors()
        if not found:
            raise ValueError(f"{type(self).__name__} must hold at least one tensor to have a batch axis, got none")
        return int(found[0].shape[0])


def stack(structs: Sequence[Struct], dim: int = 0) -> Struct:
    """Return one struct with a new axis ``dim`` that runs over ``structs``."""
    return _merge(structs, lambda xs: torch.stack(xs, dim))


def concatenate(structs: Sequence[Struct], dim: int = 0) -> Struct:
    """Return one struct with ``structs`` joined along the existing axis ``dim``."""
    return _merge(structs, lambda xs: torch.cat(xs, dim))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, TensorStruct):
        return value.tensors()
    if isinstance(value, dict):
        return [x for item in value.values() for x in _tensors(item)]
    return []


def _map(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, TensorStruct):
        return value.map(fn)
    if isinstance(value, dict):
        return {key: _map(item, fn) for key, item in value.items()}
    return value


def _merge(structs: Sequence[Struct], fn: Callable[[list[Tensor]], Tensor]) -> Struct:
    if not structs:
        raise ValueError("structs must hold at least one TensorStruct, got none")
    names = [f.name for f in fields(structs[0])]
    return replace(structs[0], **{n: _merge_values(n, [getattr(s, n) for s in structs], fn) for n in names})


def _merge_values(name: str, values: list[Any], fn: Callable[[list[Tensor]], Tensor]) -> Any:
    first = values[0]
    if len({_kind(value) for value in values}) > 1:
        raise ValueError(
            f"the field {name!r} has to be of one kind where structs meet, got {[type(v).__name__ for v in values]}"
        )
    if isinstance(first, Tensor):
        return fn(values)
    if isinstance(first, TensorStruct):
        return _merge(values, fn)
    if isinstance(first, dict):
        if any(value.keys() != first.keys() for value in values):
            raise ValueError(
                f"the field {name!r} has to have the same keys where structs meet, got {[sorted(v) for v in values]}"
            )
        return {key: _merge_values(f"{name}.{key}", [v[key] for v in values], fn) for key in first}
    if any(value != first for value in values):
        raise ValueError(f"the static field {name!r} has to agree where structs meet, got {values}")
    return first


def _kind(value: Any) -> type:
    return next((kind for kind in (Tensor, TensorStruct, dict) if isinstance(value, kind)), object)


def _expand(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(mask.shape + (1,) * (like.dim() - mask.dim()))
