"""Experience on disk: a replay as a checkpoint of kind "experience"."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbrl_gym.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.spaces import space_from_json, space_to_json

KIND = "experience"


def save_experience(
    path: str | os.PathLike[str], replay: SequenceReplay, facts: Mapping[str, Any] | None = None
) -> Path:
    """Write ``replay`` as a checkpoint directory and return its version folder; an older version is replaced safely.

    Saving a replay that grew costs what it grew by. Extra columns, which models add, are left out.

    Args:
        path: the directory: absent, empty, or a checkpoint already.
        replay: the experience.
        facts: what to remember of it, JSON. `mbrl-gym train model` reads ``real_id`` and ``time_limit``.

    Raises:
        UnsavableContent: ``facts`` is not JSON.
        ForeignCheckpoint: the path is taken by something that is no checkpoint.
    """
    config = {
        "observation_space": space_to_json(replay.observation_space),
        "action_space": space_to_json(replay.action_space),
        "capacity": replay.capacity,
        "n_envs": replay.n_envs,
        "facts": dict(facts or {}),
    }
    chunks = [chunk for chunk in replay.chunks() if not any(name.startswith("extras/") for name in chunk)]
    return save_checkpoint(path, Checkpoint(KIND, config, chunks={"replay": chunks}))


def load_experience(path: str | os.PathLike[str]) -> SequenceReplay:
    """Return the replay that `save_experience` wrote, exactly: indices and open episodes included.

    Raises:
        CheckpointError: there is no checkpoint, or it is corrupt, newer, or of another kind.
    """
    checkpoint = load_checkpoint(path, kind=KIND)
    config = checkpoint.config
    try:
        observation_space = space_from_json(config["observation_space"])
        action_space = space_from_json(config["action_space"])
        chunks, sizes = checkpoint.chunks["replay"], (config["capacity"], config["n_envs"])
        return SequenceReplay.from_chunks(chunks, observation_space, action_space, *sizes)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: the experience does not fit its own description ({type(error).__name__}: {error}); "
            "save it again, or load it with the version of mbrl_gym that wrote it"
        ) from error


def experience_facts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the facts that `save_experience` wrote, without reading the experience.

    Raises:
        CheckpointError: there is no checkpoint, or it is corrupt, newer, or of another kind.
    """
    facts = load_checkpoint(path, kind=KIND, groups=()).config.get("facts")
    return dict(facts) if isinstance(facts, dict) else {}
