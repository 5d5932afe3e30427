"""TensorStruct: map, indexing, set, where, repeat, stack, concatenate, and what it refuses."""

from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest
import torch
from torch import Tensor

from mbrl_gym.tensors import TensorStruct, concatenate, stack


@dataclass(frozen=True)
class Inner(TensorStruct):
    y: Tensor


@dataclass(frozen=True)
class Outer(TensorStruct):
    x: Tensor
    named: dict[str, Tensor]
    inner: Inner
    missing: Tensor | None = None
    size: int = 1


@dataclass(frozen=True)
class Static(TensorStruct):
    size: int = 1
    extras: dict[str, Tensor] = field(default_factory=dict)


def outer(offset: float = 0.0, size: int = 1) -> Outer:
    rows = torch.arange(3.0) + offset
    return Outer(rows, {"a": rows[:, None] * torch.ones(2)}, Inner((rows * 10).long()), size=size)


def equal(a: TensorStruct, b: TensorStruct) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))


def test_map_reaches_every_tensor_and_carries_static_fields() -> None:
    doubled = outer(size=7).map(lambda x: x * 2)
    assert doubled.x.tolist() == [0, 2, 4]
    assert doubled.named["a"].tolist() == [[0, 0], [2, 2], [4, 4]]
    assert doubled.inner.y.tolist() == [0, 20, 40]
    assert doubled.missing is None
    assert doubled.size == 7


def test_tensors_come_in_field_order() -> None:
    struct = outer()
    found = struct.tensors()
    assert [id(x) for x in found] == [id(struct.x), id(struct.named["a"]), id(struct.inner.y)]


def test_index_by_slice_mask_integers_and_tuple() -> None:
    struct = outer()
    assert struct[1:].x.tolist() == [1, 2]
    assert struct[torch.tensor([True, False, True])].inner.y.tolist() == [0, 20]
    assert struct[torch.tensor([2, 0])].named["a"].tolist() == [[2, 2], [0, 0]]
    assert stack([struct, outer(5)], dim=1)[:, 1].x.tolist() == [5, 6, 7]


def test_set_copies_rows_and_leaves_the_original() -> None:
    struct = outer()
    changed = struct.set(torch.tensor([2, 0]), outer(100)[:2])
    assert changed.x.tolist() == [101, 1, 100]
    assert changed.inner.y.tolist() == [1010, 10, 1000]
    assert struct.x.tolist() == [0, 1, 2]


def test_where_takes_own_rows_where_the_mask_is_true() -> None:
    chosen = outer().where(torch.tensor([True, False, True]), outer(100))
    assert chosen.x.tolist() == [0, 101, 2]
    assert chosen.named["a"].tolist() == [[0, 0], [101, 101], [2, 2]]


def test_repeat_keeps_copies_of_a_row_together() -> None:
    assert outer().repeat(2).x.tolist() == [0, 0, 1, 1, 2, 2]


def test_stack_and_concatenate() -> None:
    pair = [outer(), outer(3)]
    assert stack(pair).x.shape == (2, 3)
    assert stack(pair, dim=1).named["a"].shape == (3, 2, 2)
    assert stack(pair, dim=1).x.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert concatenate(pair).x.tolist() == [0, 1, 2, 3, 4, 5]
    assert concatenate([x.map(lambda t: t[:, None]) for x in pair], dim=1).x.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_to_and_detach() -> None:
    struct = replace(outer(), x=torch.ones(3, requires_grad=True) * 2)
    assert not struct.detach().x.requires_grad
    assert struct.x.requires_grad
    assert struct.to("meta").x.device.type == "meta"


def test_batch_size() -> None:
    assert outer().batch_size == 3
    with pytest.raises(ValueError, match="Static must hold at least one tensor to have a batch axis, got none"):
        _ = Static().batch_size


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        outer().size = 3


def test_structs_that_meet_must_agree() -> None:
    with pytest.raises(ValueError, match="structs must hold at least one TensorStruct, got none"):
        stack([])
    with pytest.raises(ValueError, match=r"static field 'size' has to agree where structs meet, got \[1, 2\]"):
        stack([outer(), outer(size=2)])
    with pytest.raises(ValueError, match=r"field 'missing' has to be of one kind .* got \['NoneType', 'Tensor'\]"):
        concatenate([outer(), replace(outer(), missing=torch.ones(3))])
    with pytest.raises(ValueError, match=r"field 'extras' has to have the same keys .* got \[\[\], \['a'\]\]"):
        stack([Static(), Static(extras={"a": torch.ones(2)})])
    with pytest.raises(ValueError, match=r"static field 'named.a' has to agree"):
        stack([replace(outer(), named={"a": 1}), replace(outer(), named={"a": 2})])


def test_gradients_pass_through_every_operation() -> None:
    x = torch.ones(3, requires_grad=True)
    struct = replace(outer(), x=x)
    made = concatenate([struct.repeat(2), struct.where(torch.tensor([True, False, True]), outer())])
    made = made.set(torch.tensor([0]), outer()[:1])
    made.x.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 2.0, 3.0]
