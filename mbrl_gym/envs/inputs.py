"""What callers hand to a learned environment, checked and turned into tensors: actions and reset options."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_gym.model import WorldModel
from mbrl_gym.spaces import check_observation, observation_tensor
from mbrl_gym.start_states import StartStates

Mask = np.ndarray[Any, np.dtype[np.bool_]]


def encode_actions(model: WorldModel[Any], actions: Any, n: int) -> Tensor:
    """Return environment actions [n, *act] (arrays, nested lists or a tensor) as [n, A] on the model's device.

    Raises:
        ValueError: the shape or kind is wrong, a value is not finite, or it is no member of a discrete space.
    """
    if not isinstance(actions, Tensor):
        actions = np.asarray(actions)
    space, shape = model.action_space, (n, *model.action_codec.event_shape)
    if tuple(actions.shape) != shape:
        raise ValueError(f"actions must have the shape {shape}, a batch of {n} of {space}, got {tuple(actions.shape)}")
    real = actions.is_floating_point() if isinstance(actions, Tensor) else actions.dtype.kind == "f"
    if real and not isinstance(space, spaces.Box):
        raise ValueError(f"actions must be integers, members of {space}, got {actions.dtype}: {actions}")
    finite = torch.isfinite(actions) if isinstance(actions, Tensor) else np.isfinite(actions)
    if not bool(finite.all()):
        raise ValueError(f"actions must be finite, got {actions[~finite][0]}; check the policy's output")
    return model.action_codec.encode(actions, device=model.device)


def split_options(
    options: Mapping[str, Any] | None, n: int, allowed: tuple[str, ...]
) -> tuple[dict[str, Any], Mask | None]:
    """Return ``options`` without "reset_mask", and that mask [n].

    Raises:
        ValueError: a key is not one of ``allowed``, or the mask is not n booleans of which one is true.
    """
    rest = dict(options or {})
    unknown = sorted(set(rest) - set(allowed))
    if unknown:
        raise ValueError(f"options may have the keys {list(allowed)}, got {unknown}")
    if "reset_mask" not in rest:
        return rest, None
    given = rest.pop("reset_mask")
    mask = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
    if mask.shape != (n,) or mask.dtype != np.bool_ or not mask.any():
        raise ValueError(f"options['reset_mask'] must be {n} booleans, at least one of them true, got {given!r}")
    return rest, mask


def parse_start(model: WorldModel[Any], options: Mapping[str, Any], n: int) -> StartStates | None:
    """Return the starts [n, C, ...] that ``options["start"]`` (and ``["action"]``) ask for, or None.

    Raises:
        ValueError: a shape is wrong, a value is not finite, the context is too short, or actions come without a start.
    """
    start, actions = options.get("start"), options.get("action")
    if start is None:
        if actions is not None:
            raise ValueError("options['action'] must come with options['start'], the observations between the actions")
        return None
    obs = _with_batch_axes(start, model.observation_space, n, "options['start']")
    leaves = list(obs.values()) if isinstance(obs, dict) else [obs]
    context = leaves[0].shape[1]
    if any(leaf.shape[1] != context for leaf in leaves):
        raise ValueError(
            f"options['start'] must be of one length for all keys, got {[x.shape[1] for x in leaves]} steps"
        )
    flat = _map_arrays(obs, lambda x: x.reshape(-1, *x.shape[2:]))
    check_observation(flat, model.observation_space, "options['start']")
    if context < model.context:
        raise ValueError(
            f"options['start'] must hold contexts [n, {model.context}, *obs] for this model, got {context} step(s)"
        )
    return StartStates(observation_tensor(obs, model.device), _encode_context(model, actions, n, context))


def _encode_context(model: WorldModel[Any], actions: Any, n: int, context: int) -> Tensor:
    """Return the actions [n, C, *act] between the observations of a context as [n, C, A]; zeros if none were given."""
    if actions is None:
        if model.context > 1:
            raise ValueError(
                f"options['action'] must hold the actions [n, {context}, *act] taken after each observation of "
                "options['start'], the last of which is unused, got none"
            )
        return torch.zeros(n, context, model.action_codec.size, device=model.device)
    array = _array(actions)
    shape = (n, context, *model.action_codec.event_shape)
    if array.shape != shape:
        raise ValueError(f"options['action'] must have the shape {shape}, like options['start'], got {array.shape}")
    return encode_actions(model, array.reshape(n * context, *shape[2:]), n * context).reshape(n, context, -1)


def _with_batch_axes(start: Any, space: spaces.Space[Any], n: int, name: str) -> Any:
    """Return the observation(s) ``start`` as arrays [n, C, *obs]."""
    if isinstance(space, spaces.Dict):
        if not isinstance(start, Mapping) or set(start) != set(space.spaces):
            got = sorted(start) if isinstance(start, Mapping) else type(start).__name__
            raise ValueError(f"{name} must be a dictionary with the keys {sorted(space.spaces)}, got {got}")
        return {key: _with_batch_axes(start[key], leaf, n, f"{name}[{key!r}]") for key, leaf in space.spaces.items()}
    x, shape = _array(start), tuple(space.shape or ())
    extra = x.ndim - len(shape)
    if x.dtype.kind not in "biuf" or extra not in (0, 1, 2) or x.shape[extra:] != shape:
        raise ValueError(f"{name} must have the shape {shape} of {space}, or [n, *obs], or [n, C, *obs], got {x.shape}")
    x = x[(None,) * (2 - extra)] if extra == 0 else x[:, None] if extra == 1 else x
    if x.shape[0] not in (1, n):
        raise ValueError(f"{name} must hold 1 or {n} observations, got {x.shape[0]}")
    if not np.issubdtype(np.dtype(space.dtype), np.floating) and not _exact(x, space.dtype):
        raise ValueError(f"{name} must hold integers that {space.dtype} has, got {x.dtype}: {x}")
    return np.ascontiguousarray(np.broadcast_to(x, (n, *x.shape[1:])).astype(space.dtype))


def _exact(x: np.ndarray[Any, Any], dtype: Any) -> bool:
    with np.errstate(invalid="ignore"):
        return np.array_equal(x.astype(dtype), x)


def _array(value: Any) -> np.ndarray[Any, Any]:
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)


def _map_arrays(obs: Any, fn: Any) -> Any:
    return {key: fn(value) for key, value in obs.items()} if isinstance(obs, dict) else fn(obs)
