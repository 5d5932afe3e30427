"""Spaces as tensors: the action codec, the observation codec, and spaces as JSON."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

Observation = Tensor | dict[str, Tensor]
ArrayLike = Any


class ActionCodec:
    """Translates between an environment's actions and float tensors [..., A].

    A bounded ``Box`` of any shape and range becomes [-1, 1] per dimension, ``Discrete`` one-hot, ``MultiDiscrete`` the
    one-hots one after the other, ``MultiBinary`` zeros and ones.

    Attributes:
        space: the environment's action space.
        size: A, the length of an encoded action.
        groups: the sizes of the one-hot groups; empty for ``Box`` and ``MultiBinary``.

    Raises:
        ValueError: the space is unbounded or of another kind.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space
        self.groups: tuple[int, ...] = ()
        self.event_shape: tuple[int, ...] = tuple(space.shape or ())
        if isinstance(space, spaces.Box):
            low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
            with np.errstate(over="ignore", invalid="ignore"):
                bounded = np.isfinite(high - low).all()
            if not bounded:
                raise ValueError(
                    f"action_space must be bounded on both sides, got {space}; "
                    "give it finite bounds, for example with gymnasium.wrappers.TransformAction"
                )
            self.size = math.prod(self.event_shape)
            self._low, self._high = torch.as_tensor(low), torch.as_tensor(high)
        elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            self.groups = tuple(_groups(space))
            self.size = sum(self.groups)
            self._start = _start(space)
        elif isinstance(space, spaces.MultiBinary):
            self.size = math.prod(self.event_shape)
        else:
            raise ValueError(
                f"action_space must be a Box, Discrete, MultiDiscrete or MultiBinary, got {space}; "
                "wrap the environment so that its actions are one of these"
            )
        self._dtype = _torch_dtype(space.dtype)

    @property
    def continuous(self) -> bool:
        """Whether actions are real numbers in [-1, 1]."""
        return isinstance(self.space, spaces.Box)

    def encode(self, action: ArrayLike, device: torch.device | str | None = None) -> Tensor:
        """Return [..., A] float32 from environment actions [..., *action_shape] (array or tensor).

        Values beyond a Box's bounds are clipped, as environments clip them.

        Raises:
            ValueError: the trailing shape is not the space's, or a value is NaN or no member of a discrete space.
        """
        x = torch.as_tensor(action)
        n = len(self.event_shape)
        if tuple(x.shape[x.dim() - n :]) != self.event_shape:
            raise ValueError(f"action must end in the shape {self.event_shape} of {self.space}, got {tuple(x.shape)}")
        x = x.reshape(*x.shape[: x.dim() - n], math.prod(self.event_shape))  # [..., numbers]
        self._check_members(x)  # before the action moves to a device that would have to be waited for
        x = x.to(device)
        if self.continuous:
            low, high = self._bounds(x.device)
            span = high - low
            return ((x.double() - low) / torch.where(span > 0, span, 1.0) * 2 - 1).clamp(-1, 1).float()
        if isinstance(self.space, spaces.MultiBinary):
            return x.float()
        return _one_hots(x.long() - torch.as_tensor(self._start, device=x.device), self.groups)

    def _check_members(self, x: Tensor) -> None:
        """Raise unless the numbers ``x`` [..., n] are no NaN and, where the space is discrete, members of it."""
        if self.continuous:
            good = x == x
        elif isinstance(self.space, spaces.MultiBinary):
            good = (x == 0) | (x == 1)
        else:
            start = torch.as_tensor(self._start, device=x.device)
            good = (x >= start) & (x < start + torch.as_tensor(self.groups, device=x.device)) & (x.long() == x)
        if not bool(good.all()):
            rule = "no NaN" if self.continuous else f"a member of {self.space}"
            raise ValueError(f"action must be {rule}, got {x[~good.all(-1)][0].tolist()}; check what chose the action")

    def decode(self, action: Tensor) -> Tensor:
        """Return environment actions [..., *action_shape] in the space's dtype from encoded ones [..., A].

        One-hots are read by their largest entry; an integer ``Box`` takes the nearest integer.
        """
        shape = (*action.shape[:-1], *self.event_shape)
        if self.continuous:
            low, high = self._bounds(action.device)
            value = low + (action.double().clamp(-1, 1) + 1) / 2 * (high - low)
            value = torch.minimum(value, high)  # rounding may carry it beyond
            return (value if self._dtype.is_floating_point else value.round()).to(self._dtype).reshape(shape)
        if isinstance(self.space, spaces.MultiBinary):
            return (action > 0.5).to(self._dtype).reshape(shape)
        index = torch.stack([part.argmax(-1) for part in torch.split(action, list(self.groups), dim=-1)], dim=-1)
        return (index + torch.as_tensor(self._start, device=action.device)).to(self._dtype).reshape(shape)

    def _bounds(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return low and high on ``device``; they move there once."""
        if self._low.device != device:
            with torch.inference_mode(False):  # or no later gradient could pass through them
                self._low, self._high = self._low.to(device), self._high.to(device)
        return self._low, self._high

    def sample(self, batch_size: int, generator: torch.Generator | None = None, device: Any = None) -> Tensor:
        """Return [batch_size, A]: uniformly random encoded actions."""
        if generator is not None:
            device = generator.device
        if self.continuous:
            return torch.rand(batch_size, self.size, generator=generator, device=device) * 2 - 1
        if isinstance(self.space, spaces.MultiBinary):
            return (torch.rand(batch_size, self.size, generator=generator, device=device) < 0.5).float()
        drawn = [torch.randint(n, (batch_size,), generator=generator, device=device) for n in self.groups]
        return _one_hots(torch.stack(drawn, dim=-1), self.groups)


class ObservationCodec:
    """Translates between raw observations and flat float32 vectors [..., D].

    A ``Box`` is flattened, ``Discrete`` and ``MultiDiscrete`` become one-hot groups, ``MultiBinary`` zeros and ones,
    and a flat ``Dict`` of these is concatenated in the sorted order of its keys.

    Attributes:
        space: the observation space.
        size: D.

    Raises:
        ValueError: the space is an image or of another kind.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space
        leaves = sorted(space.spaces.items()) if isinstance(space, spaces.Dict) else [("", space)]
        self._leaves: list[tuple[str, spaces.Space[Any], int, int]] = []
        low: list[np.ndarray[Any, Any]] = []
        high: list[np.ndarray[Any, Any]] = []
        offset = 0
        for key, leaf in leaves:
            size, leaf_low, leaf_high = _leaf_layout(key, leaf)
            self._leaves.append((key, leaf, offset, size))
            low.append(leaf_low)
            high.append(leaf_high)
            offset += size
        self.size = offset
        self.low = torch.as_tensor(np.concatenate(low))
        self.high = torch.as_tensor(np.concatenate(high))
        self.bounded = bool(torch.isfinite(self.low).any() or torch.isfinite(self.high).any())
        self._real = all(isinstance(leaf, spaces.Box) and _is_float(leaf) for _, leaf, _, _ in self._leaves)

    def encode(self, observation: Observation) -> Tensor:
        """Return [..., D] float32 from raw observations [..., *obs_shape] (or a dictionary of such)."""
        parts = [self._encode_leaf(_pick(observation, key), leaf) for key, leaf, _, _ in self._leaves]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def decode(self, vector: Tensor) -> Observation:
        """Return raw observations of the space's dtype from vectors [..., D]."""
        parts = {key: self._decode_leaf(vector[..., o : o + n], leaf) for key, leaf, o, n in self._leaves}
        return parts if isinstance(self.space, spaces.Dict) else parts[""]

    def project(self, vector: Tensor) -> Tensor:
        """Return the nearest vector [..., D] that encodes a member of the space (bounds, integers, one-hots)."""
        if self.bounded:
            if self.low.device != vector.device:
                with torch.inference_mode(False):  # or no later gradient could pass through them
                    self.low, self.high = self.low.to(vector.device), self.high.to(vector.device)
            vector = torch.minimum(torch.maximum(vector, self.low), self.high)
        if self._real:
            return vector
        return torch.cat([_project_leaf(vector[..., o : o + n], leaf) for _, leaf, o, n in self._leaves], dim=-1)

    @staticmethod
    def _encode_leaf(x: Tensor, leaf: spaces.Space[Any]) -> Tensor:
        shape = leaf.shape or ()
        x = x.reshape(*x.shape[: x.dim() - len(shape)], math.prod(shape))  # [..., numbers]
        groups = _groups(leaf)
        if not groups:
            return x.float()
        return _one_hots(x.long() - torch.as_tensor(_start(leaf), device=x.device), groups)

    @staticmethod
    def _decode_leaf(x: Tensor, leaf: spaces.Space[Any]) -> Tensor:
        dtype = _torch_dtype(leaf.dtype)
        shape = (*x.shape[:-1], *(leaf.shape or ()))
        if groups := _groups(leaf):
            index = torch.stack([part.argmax(-1) for part in torch.split(x, groups, dim=-1)], dim=-1)
            return (index + torch.as_tensor(_start(leaf), device=x.device)).to(dtype).reshape(shape)
        if dtype == torch.float64 and isinstance(leaf, spaces.Box):  # no float32 may lie between two close bounds
            low, high = (torch.as_tensor(bound.ravel(), device=x.device) for bound in (leaf.low, leaf.high))
            x = torch.minimum(torch.maximum(x.double(), low), high)
        return (x if dtype.is_floating_point else x.round()).to(dtype).reshape(shape)


def _leaf_layout(key: str, leaf: spaces.Space[Any]) -> tuple[int, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return a leaf's vector size and float32 bounds, rounded inwards so that the space contains them."""
    if isinstance(leaf, spaces.Box) and not is_image(leaf):
        return math.prod(leaf.shape), _inwards(leaf.low, np.inf), _inwards(leaf.high, -np.inf)
    if isinstance(leaf, spaces.Discrete):
        size = int(leaf.n)
    elif isinstance(leaf, spaces.MultiDiscrete):
        size = int(leaf.nvec.sum())
    elif isinstance(leaf, spaces.MultiBinary):
        size = math.prod(leaf.shape)
    else:
        name = f"observation_space[{key!r}]" if key else "observation_space"
        raise ValueError(
            f"{name} must be a vector (Box, Discrete, MultiDiscrete, MultiBinary or a flat Dict of these), got {leaf}; "
            "images need a model made for them"
        )
    # A one-hot's real-valued prediction is not bounded before its largest entry is taken.
    free = isinstance(leaf, spaces.Discrete | spaces.MultiDiscrete)
    bounds = (-np.inf, np.inf) if free else (0.0, 1.0)
    return size, np.full(size, bounds[0], np.float32), np.full(size, bounds[1], np.float32)


def _inwards(bound: np.ndarray[Any, Any], direction: float) -> np.ndarray[Any, Any]:
    """Return the bounds as the nearest float32 that are not further out, exactly, whatever their dtype."""
    with np.errstate(over="ignore"):
        near = bound.astype(np.float32).ravel()
    beyond = [
        float(x) < y if direction > 0 else float(x) > y for x, y in zip(near, bound.ravel().tolist(), strict=True)
    ]
    return np.where(beyond, np.nextafter(near, np.float32(direction)), near)


def _groups(leaf: spaces.Space[Any]) -> list[int]:
    """Return the sizes of a space's one-hot groups, none if it is not discrete."""
    if isinstance(leaf, spaces.Discrete):
        return [int(leaf.n)]
    return [int(n) for n in leaf.nvec.ravel()] if isinstance(leaf, spaces.MultiDiscrete) else []


def _start(leaf: spaces.Space[Any]) -> np.ndarray[Any, Any]:
    """Return the smallest member of each one-hot group."""
    assert isinstance(leaf, spaces.Discrete | spaces.MultiDiscrete)
    return np.asarray(leaf.start, dtype=np.int64).ravel()


def _one_hots(index: Tensor, groups: Sequence[int]) -> Tensor:
    """Return [..., sum(groups)] float32 from the index [..., G] within each group."""
    parts = [torch.nn.functional.one_hot(index[..., i], n) for i, n in enumerate(groups)]
    return torch.cat(parts, dim=-1).float()


def _project_leaf(x: Tensor, leaf: spaces.Space[Any]) -> Tensor:
    if groups := _groups(leaf):
        index = torch.stack([part.argmax(-1) for part in torch.split(x, groups, dim=-1)], dim=-1)
        return _one_hots(index, groups)
    return x if _is_float(leaf) else x.round()


def _is_float(leaf: spaces.Space[Any]) -> bool:
    return leaf.dtype is not None and leaf.dtype.kind == "f"


def is_image(space: spaces.Space[Any]) -> bool:
    """Return whether ``space`` is a uint8 Box of three dimensions, as SB3 defines an image."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3


def observation_tensor(observation: Any, device: torch.device | str = "cpu") -> Observation:
    """Return numpy observations [B, *obs_shape] (or a dictionary of such) as tensors of equal dtype on ``device``."""
    if isinstance(observation, dict):
        return {key: torch.as_tensor(value, device=device) for key, value in observation.items()}
    return torch.as_tensor(observation, device=device)


def observation_array(observation: Observation) -> Any:
    """Return tensors as fresh numpy arrays that share no memory with them."""
    if isinstance(observation, dict):
        return {key: np.array(value.detach().cpu().numpy()) for key, value in observation.items()}
    return np.array(observation.detach().cpu().numpy())


def check_observation(observation: Any, space: spaces.Space[Any], name: str = "observation") -> None:
    """Raise unless ``observation`` [B, *obs_shape] fits ``space`` and is finite.

    Raises:
        ValueError: a key is missing, a shape is wrong, or a value is NaN or infinite.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(observation, dict) or set(observation) != set(space.spaces):
            got = sorted(observation) if isinstance(observation, dict) else type(observation).__name__
            raise ValueError(f"{name} must be a dictionary with the keys {sorted(space.spaces)}, got {got}")
        for key, leaf in space.spaces.items():
            check_observation(observation[key], leaf, f"{name}[{key!r}]")
        return
    shape = tuple(space.shape or ())
    array = np.asarray(observation)
    if array.ndim == 0 or array.shape[1:] != shape:
        wanted = ", ".join(map(str, ("batch", *shape)))
        raise ValueError(f"{name} must have the shape [{wanted}] of {space}, got {array.shape}")
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        low = np.asarray(space.start)
        high = low + (space.n if isinstance(space, spaces.Discrete) else space.nvec) - 1
        if ((array < low) | (array > high)).any():
            raise ValueError(f"{name} must be a member of {space}, got {array}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        rows = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in row {rows[0]} ({array[rows[0]]}); "
            "find the step of the environment that produced it"
        )


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """Return a JSON description of ``space`` from which `space_from_json` makes an equal one."""
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "shape": list(space.shape),
            "dtype": str(space.dtype),
            "low": _bounds_to_json(space.low),
            "high": _bounds_to_json(space.high),
        }
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), **_dtype_to_json(space)}
    if isinstance(space, spaces.MultiDiscrete):
        nvec, start = space.nvec.tolist(), space.start.tolist()
        return {"type": "MultiDiscrete", "nvec": nvec, "start": start, **_dtype_to_json(space)}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.n)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {key: space_to_json(leaf) for key, leaf in space.spaces.items()}}
    raise ValueError(f"space must be Box, Discrete, MultiDiscrete, MultiBinary or Dict, got {space}")


def space_from_json(data: dict[str, Any]) -> spaces.Space[Any]:
    """Return the space that `space_to_json` described."""
    kind = data["type"]
    if kind == "Box":
        dtype, shape = np.dtype(data["dtype"]), tuple(data["shape"])
        low, high = (_bounds_from_json(data[side], shape, dtype) for side in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return _discrete_from_json(data)
    if kind == "MultiDiscrete":
        nvec, start = np.array(data["nvec"]), np.array(data["start"])
        return spaces.MultiDiscrete(nvec, dtype=_dtype_from_json(data), start=start)
    if kind == "MultiBinary":
        return spaces.MultiBinary(data["n"])
    if kind == "Dict":  # ordered, or gymnasium sorts the keys
        return spaces.Dict(OrderedDict((key, space_from_json(leaf)) for key, leaf in data["spaces"].items()))
    raise ValueError(f"space type must be Box, Discrete, MultiDiscrete, MultiBinary or Dict, got {kind!r}")


def _discrete_from_json(data: dict[str, Any]) -> spaces.Discrete:
    if "dtype" not in data:
        return spaces.Discrete(data["n"], start=data["start"])
    return spaces.Discrete(data["n"], start=data["start"], dtype=_dtype_from_json(data))  # not in Gymnasium 1.1


def _dtype_to_json(space: spaces.Space[Any]) -> dict[str, str]:
    return {} if space.dtype == np.int64 else {"dtype": str(space.dtype)}


def _dtype_from_json(data: dict[str, Any]) -> Any:
    return np.dtype(data.get("dtype", "int64")).type


def _bounds_to_json(bounds: np.ndarray[Any, Any]) -> Any:
    # JSON has no infinity, so bounds travel as text; repr() of a Python float is exact.
    flat = [repr(float(x)) if bounds.dtype.kind == "f" else int(x) for x in bounds.ravel()]
    return flat[0] if flat and all(x == flat[0] for x in flat) else flat


def _bounds_from_json(data: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    convert = float if dtype.kind == "f" else int
    if isinstance(data, list):
        return np.array([convert(x) for x in data], dtype=dtype).reshape(shape)
    return np.full(shape, convert(data), dtype=dtype)


def _pick(observation: Observation, key: str) -> Tensor:
    return observation[key] if isinstance(observation, dict) else observation


def _torch_dtype(dtype: Any) -> torch.dtype:
    return torch.from_numpy(np.zeros(1, dtype=dtype)).dtype
