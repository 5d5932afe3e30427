"""Spaces as tensors: both codecs, the checks at the boundary, and the JSON description."""

import json
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrl_gym.spaces import (
    ActionCodec,
    ObservationCodec,
    check_observation,
    is_image,
    observation_array,
    observation_tensor,
    space_from_json,
    space_to_json,
)

INF = np.inf
NARROW = spaces.Box(np.array([-0.1, 0.1, 0.1]), np.array([0.3, 0.1, INF]), dtype=np.float64)  # 0.1 is no float32
ACTION_SPACES = {
    "box": spaces.Box(np.float32([-2, 0.5]), np.float32([1, 7]), dtype=np.float32),
    "box float64": spaces.Box(np.array([-0.1, -3.0]), np.array([0.3, 1e6]), dtype=np.float64),
    "box of a matrix": spaces.Box(-2, 5, (2, 3), np.float32),
    "box of a scalar": spaces.Box(-2, 5, (), np.float32),
    "box of integers": spaces.Box(np.array([0, -7]), np.array([255, 3]), dtype=np.int64),
    "box with a fixed dimension": spaces.Box(np.array([1.0, -1.0]), np.array([1.0, 1.0]), dtype=np.float64),
    "box of uint8": spaces.Box(3, 200, (4,), np.uint8),
    "discrete": spaces.Discrete(4),
    "discrete with start": spaces.Discrete(3, start=-1),
    "multi discrete": spaces.MultiDiscrete([3, 2]),
    "multi discrete matrix": spaces.MultiDiscrete(np.array([[3, 2], [4, 5]]), start=np.array([[1, -2], [0, 3]])),
    "multi discrete int32": spaces.MultiDiscrete([3, 2], dtype=np.int32),
    "multi binary": spaces.MultiBinary(3),
    "multi binary matrix": spaces.MultiBinary((2, 2)),
}
OBSERVATION_SPACES = {
    "box": spaces.Box(np.float32([-2, -INF, 0.5]), np.float32([1, 3, INF]), dtype=np.float32),
    "unbounded": spaces.Box(-INF, INF, (2,), np.float32),
    "matrix": spaces.Box(-1, 1, (2, 2), np.float32),
    "scalar": spaces.Box(-1, 1, (), np.float32),
    "float16": spaces.Box(-1, 1, (2,), np.float16),
    "float64 between float32": NARROW,
    "float64 huge": spaces.Box(-1e300, 1e300, (2,), np.float64),
    "integers": spaces.Box(-3, 8, (3,), np.int32),
    "all integers": spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
    "odd integers": spaces.Box(-(2**24) - 1, 2**24 + 1, (2,), np.int64),
    "bytes": spaces.Box(0, 255, (128,), np.uint8),
    "discrete": spaces.Discrete(5, start=2),
    "multi discrete": spaces.MultiDiscrete([[3, 2], [4, 5]], start=[[1, -2], [0, 3]]),
    "multi binary": spaces.MultiBinary(3),
    "dict": spaces.Dict(b=spaces.Discrete(3), a=NARROW, c=spaces.MultiBinary((2, 2)), d=spaces.MultiDiscrete([2, 3])),
}


@pytest.fixture(params=sorted(ACTION_SPACES))
def action_space(request: pytest.FixtureRequest) -> spaces.Space[Any]:
    space = ACTION_SPACES[request.param]
    space.seed(0)
    return space


@pytest.fixture(params=sorted(OBSERVATION_SPACES))
def observation_space(request: pytest.FixtureRequest) -> spaces.Space[Any]:
    space = OBSERVATION_SPACES[request.param]
    space.seed(0)
    return space


def batch_of(space: spaces.Space[Any], n: int = 16) -> Any:
    samples = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return observation_tensor({key: np.stack([s[key] for s in samples]) for key in space.spaces})
    return observation_tensor(np.stack(samples))


def rows_of(obs: Any, n: int) -> list[Any]:
    arrays = observation_array(obs)
    return [{k: v[i] for k, v in arrays.items()} if isinstance(arrays, dict) else arrays[i] for i in range(n)]


# ---- actions --------------------------------------------------------------------------------------------------------


def test_actions_survive_the_round_trip(action_space: spaces.Space[Any]) -> None:
    codec = ActionCodec(action_space)
    actions = np.stack([action_space.sample() for _ in range(32)])
    encoded = codec.encode(actions)
    assert encoded.shape == (32, codec.size)
    assert encoded.dtype == torch.float32
    decoded = codec.decode(encoded).numpy()
    assert decoded.dtype == action_space.dtype
    assert all(row in action_space for row in decoded)
    if action_space.dtype is not None and action_space.dtype.kind == "f":
        np.testing.assert_allclose(decoded, actions, rtol=1e-6, atol=2e-7 * float(np.ptp(actions)))
    else:
        np.testing.assert_array_equal(decoded, actions)


def test_random_actions_are_members(action_space: spaces.Space[Any]) -> None:
    codec = ActionCodec(action_space)
    drawn = codec.sample(64, torch.Generator().manual_seed(0))
    assert drawn.shape == (64, codec.size)
    assert torch.equal(drawn, codec.sample(64, torch.Generator().manual_seed(0)))
    assert drawn.abs().amax() <= 1
    decoded = codec.decode(drawn)
    assert all(row in action_space for row in decoded.numpy())
    back = codec.encode(decoded)
    if not isinstance(action_space, spaces.Box):
        assert torch.equal(back, drawn)
        assert len(torch.unique(drawn, dim=0)) > 2
    elif action_space.dtype is not None and action_space.dtype.kind == "f":
        free = torch.as_tensor((action_space.high > action_space.low).ravel())
        assert torch.allclose(back[:, free], drawn[:, free], atol=1e-5)


def test_leading_axes_are_free(action_space: spaces.Space[Any]) -> None:
    codec = ActionCodec(action_space)
    actions = np.stack([action_space.sample() for _ in range(6)])
    flat = codec.encode(actions)
    grid = codec.encode(actions.reshape(2, 3, *actions.shape[1:]))
    assert torch.equal(grid, flat.reshape(2, 3, -1))
    assert torch.equal(codec.encode(actions[0]), flat[0])
    assert codec.encode(actions[:0]).shape == (0, codec.size)
    assert torch.equal(codec.decode(grid), codec.decode(flat).reshape(2, 3, *codec.event_shape))


def test_box_values_by_hand() -> None:
    codec = ActionCodec(spaces.Box(np.float32([-2, 0]), np.float32([2, 10]), dtype=np.float32))
    assert codec.continuous
    assert codec.encode([[1.0, 2.5], [9.0, -INF]]).tolist() == [[0.5, -0.5], [1.0, -1.0]]  # clipped, as an env does
    assert codec.decode(torch.tensor([[0.5, -0.5], [7.0, -7.0]])).tolist() == [[1.0, 2.5], [2.0, 0.0]]


def test_discrete_values_by_hand() -> None:
    codec = ActionCodec(spaces.Discrete(3, start=-1))
    assert (codec.groups, codec.continuous) == ((3,), False)
    assert codec.encode([-1, 1]).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert codec.decode(torch.tensor([[0.2, 0.7, 0.1]])).tolist() == [0]
    codec = ActionCodec(spaces.MultiDiscrete([2, 3], start=[0, 5]))
    assert codec.groups == (2, 3)
    assert codec.encode([1, 6]).tolist() == [0, 1, 0, 1, 0]


def test_decoding_never_leaves_a_float64_box() -> None:
    space = ACTION_SPACES["box float64"]
    assert -0.1 + (0.3 - -0.1) > 0.3  # what rounding does to low + span
    assert ActionCodec(space).decode(torch.ones(2)).numpy() in space


def test_encoding_is_differentiable_for_a_box() -> None:
    action = torch.tensor([[1.0]], requires_grad=True)
    ActionCodec(spaces.Box(-2, 2, (1,), np.float32)).encode(action).sum().backward()
    assert action.grad is not None
    assert action.grad.tolist() == [[0.5]]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-INF, 1, (1,)), r"action_space must be bounded on both sides, got Box\(-inf.*TransformAction"),
        (spaces.Box(-1.7e308, 1.7e308, (1,), np.float64), "action_space must be bounded on both sides"),
        (spaces.Tuple([spaces.Discrete(2)]), r"action_space must be a Box, Discrete.* got Tuple\(Discrete\(2\)\)"),
        (spaces.Dict(a=spaces.Discrete(2)), "action_space must be a Box, Discrete"),
        (spaces.Text(3), "action_space must be a Box, Discrete"),
    ],
)
def test_refused_action_spaces(space: spaces.Space[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActionCodec(space)


@pytest.mark.parametrize(
    ("name", "action", "message"),
    [
        ("box", [[0.0, 1.0, 2.0]], r"action must end in the shape \(2,\) of Box.*got \(1, 3\)"),
        ("box", 0.0, r"action must end in the shape \(2,\) of Box.*got \(\)"),
        ("box of a matrix", np.zeros(3), r"action must end in the shape \(2, 3\)"),
        ("box", [[0.0, 1.0], [float("nan"), 1.0]], r"action must be no NaN, got \[nan, 1.0\]; check what chose"),
        ("discrete", [0, 4], r"action must be a member of Discrete\(4\), got \[4\]"),
        ("discrete", [-1], r"action must be a member of Discrete\(4\), got \[-1\]"),
        ("discrete", [0.5], r"action must be a member of Discrete\(4\), got \[0.5\]"),
        ("discrete", [float("nan")], r"action must be a member of Discrete\(4\), got \[nan\]"),
        ("discrete with start", [2], r"action must be a member of Discrete\(3, start=-1\), got \[2\]"),
        ("multi discrete", [[0, 1], [0, 2]], r"action must be a member of MultiDiscrete\(\[3 2\]\), got \[0, 2\]"),
        ("multi binary", [[0, 1, 2]], r"action must be a member of MultiBinary\(3\), got \[0, 1, 2\]"),
        ("multi binary", [[0, 1, float("nan")]], "action must be a member of MultiBinary"),
    ],
)
def test_refused_actions(name: str, action: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActionCodec(ACTION_SPACES[name]).encode(action)


# ---- observations ---------------------------------------------------------------------------------------------------


def test_observations_survive_the_round_trip(observation_space: spaces.Space[Any]) -> None:
    codec = ObservationCodec(observation_space)
    obs = batch_of(observation_space)
    vector = codec.encode(obs)
    assert vector.shape == (16, codec.size)
    assert vector.dtype == torch.float32
    decoded = codec.decode(codec.project(vector))
    assert all(row in observation_space for row in rows_of(decoded, 16))
    for got, wanted in zip(rows_of(decoded, 16), rows_of(obs, 16), strict=True):
        pairs = [(got[k], wanted[k]) for k in wanted] if isinstance(wanted, dict) else [(got, wanted)]
        for x, y in pairs:
            assert x.dtype == y.dtype
            if float(np.abs(y).max()) < 1e38 or y.dtype.kind != "f":  # a float32 holds no more
                np.testing.assert_allclose(x, y, rtol=1e-6)


def test_anything_is_projected_into_the_space(observation_space: spaces.Space[Any]) -> None:
    codec = ObservationCodec(observation_space)
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-2, 1.0, 1e3, 1e30):
        vector = torch.randn(64, codec.size, generator=generator) * scale
        projected = codec.project(vector)
        assert torch.equal(codec.project(projected), projected)  # idempotent
        assert all(row in observation_space for row in rows_of(codec.decode(projected), 64))
        again = codec.encode(codec.decode(projected))
        half = observation_space.dtype == np.float16
        assert torch.allclose(again, projected, rtol=1e-3 if half else 1e-6, atol=1e-7 if half else 1e-8)


def test_projection_by_hand() -> None:
    box = ObservationCodec(OBSERVATION_SPACES["box"])
    assert box.project(torch.tensor([[-9.0, -9.0, -9.0], [9, 9, 9]])).tolist() == [[-2, -9, 0.5], [1, 3, 9]]
    assert ObservationCodec(spaces.Box(-3, 8, (2,), np.int32)).project(torch.tensor([1.6, 9.2])).tolist() == [2, 8]
    assert ObservationCodec(spaces.Discrete(3)).project(torch.tensor([-5.0, 4.0, 9.0])).tolist() == [0, 0, 1]
    assert ObservationCodec(spaces.MultiDiscrete([2, 2])).project(torch.tensor([0.1, 0.2, 3, 1])).tolist() == [
        0,
        1,
        1,
        0,
    ]
    assert ObservationCodec(spaces.MultiBinary(3)).project(torch.tensor([0.2, 0.7, 9])).tolist() == [0, 1, 1]


def test_a_dictionary_is_laid_out_by_sorted_keys_whatever_its_order() -> None:
    leaves = [("b", spaces.Discrete(3)), ("a", spaces.Box(-1, 1, (2,), np.float32))]
    codec = ObservationCodec(spaces.Dict(OrderedDict(leaves)))
    obs = {"b": torch.tensor([2]), "a": torch.tensor([[0.5, -0.5]])}
    assert codec.encode(obs).tolist() == [[0.5, -0.5, 0, 0, 1]]
    decoded = codec.decode(torch.tensor([[0.5, -0.5, 0, 0, 1]]))
    assert isinstance(decoded, dict)
    assert decoded["b"].tolist() == [2]


def test_projection_lets_gradients_through_inside_the_bounds() -> None:
    vector = torch.tensor([[0.0, 0.0, 9.0], [5.0, 0.0, 9.0]], requires_grad=True)
    ObservationCodec(OBSERVATION_SPACES["box"]).project(vector).sum().backward()
    assert vector.grad is not None
    assert vector.grad.tolist() == [[1, 1, 1], [0, 1, 1]]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(0, 255, (8, 8, 3), np.uint8), r"observation_space must be a vector .*images need a model made for"),
        (spaces.Dict(cam=spaces.Box(0, 255, (8, 8, 3), np.uint8)), r"observation_space\['cam'\] must be a vector"),
        (spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2))), r"observation_space\['a'\] must be a vector .*flat Dict"),
        (spaces.Tuple([spaces.Discrete(2)]), "observation_space must be a vector"),
    ],
)
def test_refused_observation_spaces(space: spaces.Space[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObservationCodec(space)


def test_what_an_image_is() -> None:
    assert is_image(spaces.Box(0, 255, (8, 8, 3), np.uint8))
    assert not is_image(spaces.Box(0, 255, (8, 8), np.uint8))
    assert not is_image(spaces.Box(0, 255, (8, 8, 3), np.float32))
    assert not is_image(spaces.Discrete(3))


def test_arrays_share_no_memory_with_the_tensors() -> None:
    tensors = {"a": torch.zeros(2), "b": torch.zeros(1, requires_grad=True)}
    arrays = observation_array(tensors)
    arrays["a"][0] = 9.0
    assert tensors["a"].tolist() == [0, 0]
    single = observation_array(tensors["a"])
    single[0] = 9.0
    assert tensors["a"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("space", "obs", "message"),
    [
        (spaces.Box(-1, 1, (2,)), np.zeros((3, 3)), r"o must have the shape \[batch, 2\] of Box.*got \(3, 3\)"),
        (spaces.Discrete(2), np.int64(1), r"o must have the shape \[batch\] of Discrete\(2\), got \(\)"),
        (spaces.Discrete(2, start=1), np.array([1, 3]), r"o must be a member of Discrete\(2, start=1\), got \[1 3\]"),
        (spaces.MultiDiscrete([2, 3]), np.array([[0, 3]]), "o must be a member of MultiDiscrete"),
        (spaces.Box(-1, 1, (2,)), np.array([[0, 0], [0, np.nan]]), r"o must be finite, got NaN .* in row 1 .*find the"),
        (spaces.Box(-1, 1, (2,)), np.array([[INF, 0]]), "o must be finite, got NaN or infinity in row 0"),
        (spaces.Dict(a=spaces.Discrete(2)), np.zeros(2), r"o must be a dictionary with the keys \['a'\], got ndarray"),
        (spaces.Dict(a=spaces.Discrete(2)), {"b": 0}, r"o must be a dictionary with the keys \['a'\], got \['b'\]"),
        (spaces.Dict(a=spaces.Box(-1, 1, (1,))), {"a": np.zeros((1, 2))}, r"o\['a'\] must have the shape \[batch, 1\]"),
    ],
)
def test_bad_observations_are_refused_by_name(space: spaces.Space[Any], obs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_observation(obs, space, "o")


def test_good_observations_pass(observation_space: spaces.Space[Any]) -> None:
    check_observation(observation_array(batch_of(observation_space)), observation_space)


# ---- JSON -----------------------------------------------------------------------------------------------------------


def exactly_equal(a: spaces.Space[Any], b: spaces.Space[Any]) -> bool:
    if isinstance(a, spaces.Box) and isinstance(b, spaces.Box):  # Box's own equality is np.allclose
        return a == b and a.low.tobytes() == b.low.tobytes() and a.high.tobytes() == b.high.tobytes()
    if isinstance(a, spaces.Dict) and isinstance(b, spaces.Dict):
        pairs = zip(a.spaces.values(), b.spaces.values(), strict=True)
        return list(a.spaces) == list(b.spaces) and all(exactly_equal(x, y) for x, y in pairs)
    return a == b


def through_json(space: spaces.Space[Any]) -> spaces.Space[Any]:
    return space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False)))


@pytest.mark.parametrize("space", [*ACTION_SPACES.values(), *OBSERVATION_SPACES.values()], ids=str)
def test_spaces_survive_json(space: spaces.Space[Any]) -> None:
    again = through_json(space)
    assert exactly_equal(again, space)
    assert again.dtype == space.dtype


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (84, 84, 4), np.uint8),
        spaces.Box(np.array([0.1, -INF, 1 / 3]), np.array([0.2, INF, INF]), dtype=np.float64),
        spaces.Box(-1, 1, (0,), np.float32),
        spaces.MultiBinary([3]),
        spaces.Dict(OrderedDict(z=spaces.Discrete(2), a=spaces.Dict(b=spaces.MultiBinary(2)))),
    ],
    ids=str,
)
def test_unusual_spaces_survive_json(space: spaces.Space[Any]) -> None:
    assert exactly_equal(through_json(space), space)


def test_equal_bounds_are_written_once() -> None:
    assert len(json.dumps(space_to_json(spaces.Box(0, 255, (84, 84, 4), np.uint8)))) < 120


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(width=32, allow_nan=False), st.floats(width=32, allow_nan=False)), min_size=1),
    st.sampled_from([np.float32, np.float64]),
)
def test_any_bounds_survive_json_exactly(pairs: list[tuple[float, float]], dtype: type) -> None:
    low, high = (np.array([f(p) for p in pairs], dtype) for f in (min, max))
    with np.errstate(all="ignore"):
        try:
            space = spaces.Box(low, high, dtype=dtype)
        except ValueError:  # low = inf or high = -inf, which Gymnasium refuses
            return
    assert exactly_equal(through_json(space), space)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.floats(-1e9, 1e9)), min_size=1, max_size=4))
def test_any_float64_box_is_projected_into(rows: list[tuple[float, float, float]]) -> None:
    low, high = np.array([r[0] for r in rows]), np.array([r[0] + r[1] for r in rows])
    space = spaces.Box(low, high, dtype=np.float64)
    codec = ObservationCodec(space)
    vector = torch.tensor([r[2] for r in rows], dtype=torch.float32)
    assert observation_array(codec.decode(codec.project(vector))) in space
    assert observation_array(ActionCodec(space).decode(vector.sign())) in space


def test_json_names_what_it_cannot_describe() -> None:
    with pytest.raises(ValueError, match=r"space must be Box, .* got Tuple"):
        space_to_json(spaces.Tuple([spaces.Discrete(2)]))
    with pytest.raises(ValueError, match=r"space type must be Box, .* got 'Tuple'"):
        space_from_json({"type": "Tuple"})
