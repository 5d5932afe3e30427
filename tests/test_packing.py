"""pack, unpack and same_numbers: nested values as JSON beside tensors, kept apart exactly."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mbrl_gym.packing import pack, same_numbers, unpack

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
NESTED = st.recursive(
    PLAIN | st.lists(st.floats(width=32), max_size=3).map(torch.tensor),
    lambda item: (
        st.lists(item, max_size=3)
        | st.lists(item, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), item, max_size=3)
    ),
    max_leaves=8,
)


def through_json(value: Any, name: str = "") -> Any:
    tensors: dict[str, Tensor] = {}
    return unpack(json.loads(json.dumps(pack(value, tensors, name))), tensors)


@settings(max_examples=150, deadline=None)
@given(NESTED)
def test_round_trip_keeps_values_and_kinds_apart(value: Any) -> None:
    again = through_json(value)
    assert same_numbers(value, again)
    assert type(again) is type(value)


def test_kinds_that_json_confuses() -> None:
    value = {1: (1, 2), "1": [1, 2], "tensor": {"tensor": "x"}, "none": None, "flag": True, "number": 1.0}
    again = through_json(value)
    assert again == value
    assert isinstance(again[1], tuple)
    assert isinstance(again["1"], list)
    assert again["flag"] is True


def test_tensor_names_begin_with_the_name_and_never_collide() -> None:
    tensors: dict[str, Tensor] = {}
    value = {"a.b": torch.tensor(1.0), "a": {"b": torch.tensor(2.0)}, 1: torch.tensor(3.0), "1": torch.tensor(4.0)}
    data = pack(value, tensors, "model")
    assert len(tensors) == 4
    assert all(name.startswith("model.") for name in tensors)
    assert same_numbers(unpack(data, tensors), value)


def test_tensors_are_detached() -> None:
    tensors: dict[str, Tensor] = {}
    pack([torch.ones(2, requires_grad=True)], tensors, "x")
    assert list(tensors) == ["x.0"]
    assert not tensors["x.0"].requires_grad


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {"b": np.ones(2)}}, r"^a\.b must be a tensor or plain data to be stored, got ndarray"),
        (object(), "^value must be a tensor or plain data to be stored, got object"),
        ({"a": {(1, 2): 3}}, r"^the keys of a must be strings or integers to be stored, got \(1, 2\)"),
        ({True: 1}, "^the keys of value must be strings or integers to be stored, got True"),
    ],
)
def test_what_cannot_be_stored_is_named(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        pack(value, {})


def test_same_numbers_compares_bits() -> None:
    nan = torch.tensor([float("nan"), 1.0])
    assert same_numbers({"a": nan}, {"a": nan.clone()})
    assert not same_numbers(torch.tensor(0.0), torch.tensor(-0.0))
    assert not same_numbers(torch.ones(2), torch.ones(2, dtype=torch.float64))
    assert not same_numbers(torch.zeros(2), torch.zeros(2, dtype=torch.int32))  # the same bits
    assert not same_numbers(torch.ones(2), torch.ones(1, 2))
    assert not same_numbers(torch.ones(2), torch.tensor([1.0, 1.0 + 1e-7]))
    assert not same_numbers([1, 2], (1, 2))
    assert not same_numbers({"a": torch.ones(1)}, {"b": torch.ones(1)})
    assert same_numbers(torch.ones(2, 3)[:, :2], torch.ones(2, 2))
    assert same_numbers(torch.tensor(True), torch.tensor(True))


def test_an_optimizers_state_survives() -> None:
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    assert same_numbers(through_json(state, "optimizer"), state)
