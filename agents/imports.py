"""Classes in checkpoints: stored by import path, and imported again only where that can do no harm."""

import importlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from mbrl_gym.checkpoint import CheckpointError

# A file may name classes of these packages only, and only of these kinds: neither runs code of the file's choosing.
OWN = ("sac", "double_dqn", "simple_policy")
PACKAGES = ("torch.", "stable_baselines3.", "sb3_contrib.", *(f"mbrl_gym.agents.{name}." for name in OWN))
KINDS = (nn.Module, torch.optim.Optimizer, BaseAlgorithm)


def encode(value: Any) -> Any:
    """Return ``value`` as JSON; classes by import path, anything else that JSON lacks as a note of what it was."""
    if isinstance(value, dict):
        return {"dict": {str(key): encode(item) for key, item in value.items()}}
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}  # SB3 tells train_freq=(2, "step") from a list
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, type):
        return {"class": f"{value.__module__}:{value.__qualname__}"}
    return {"omitted": repr(value)}


def decode(data: Any, name: str) -> Any:
    """Return the value that `encode` took apart; ``name`` is the argument it belongs to.

    Raises:
        CheckpointError: a class may not be imported on a file's word, or the value could not be stored.
    """
    if isinstance(data, list):
        return [decode(item, name) for item in data]
    if not isinstance(data, dict):
        return data
    if "dict" in data:
        return {key: decode(item, f"{name}[{key!r}]") for key, item in data["dict"].items()}
    if "tuple" in data:
        return tuple(decode(item, name) for item in data["tuple"])
    if "class" in data:
        return import_class(data["class"], name)
    raise CheckpointError(
        f"{name} was {data.get('omitted')}, which a file cannot hold; pass {name.split('[')[0]}= to load()"
    )


def encode_choice(kinds: Mapping[str, type[Any]], choice: Any) -> Any:
    """Return a dataclass of one of the library's ``kinds`` as JSON with its name; of others a note of what it was."""
    name = next((name for name, kind in kinds.items() if type(choice) is kind), None)
    return encode(choice) if name is None else {"kind": name, **asdict(choice)}


def decode_choice(kinds: Mapping[str, type[Any]], data: Any, name: str) -> Any:
    """Return what `encode_choice` described; ``name`` is the argument it belongs to.

    Raises:
        CheckpointError: it is of a class that is not the library's.
    """
    if not (isinstance(data, dict) and "kind" in data):
        return decode(data, name)
    return kinds[data["kind"]](**{key: value for key, value in data.items() if key != "kind"})


def import_class(path: str, name: str) -> type:
    """Return the class at ``module:qualname`` if it is a network, an optimiser or an algorithm of torch or SB3.

    Raises:
        CheckpointError: it is something else; the message says how to pass it.
    """
    module, _, qualname = path.partition(":")
    remedy = f"pass {name.split('[')[0]}= to load()"
    if not f"{module}.".startswith(PACKAGES) or "." in qualname:
        raise CheckpointError(
            f"{name} is {path!r}, which is not of torch, stable_baselines3, sb3_contrib or this library; {remedy}"
        )
    try:
        found = getattr(importlib.import_module(module), qualname)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{name} is {path!r}, which cannot be imported ({error}); install its package or {remedy}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, KINDS)):
        raise CheckpointError(f"{name} is {path!r}, which is no network, optimiser or algorithm; {remedy}")
    return found
