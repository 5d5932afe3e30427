"""Agents on disk: everything that resuming needs, and nothing that has to be unpickled."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from mbrl_gym.agents.imports import encode
from mbrl_gym.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from mbrl_gym.packing import pack, unpack
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.spaces import space_from_json, space_to_json
from mbrl_gym.store import pick_device

if TYPE_CHECKING:
    from mbrl_gym.agents.base import ModelBasedAlgorithm

Agent = TypeVar("Agent", bound="ModelBasedAlgorithm")


def save_agent(agent: "ModelBasedAlgorithm", path: str | Path, with_replay: bool) -> None:
    """Write ``agent`` as a checkpoint directory."""
    tensors: dict[str, Tensor] = {}
    config = {
        "policy": encode(agent._policy_argument),
        "arguments": agent._arguments(),
        "observation_space": space_to_json(agent.observation_space),
        "action_space": space_to_json(agent.action_space),
        "n_envs": agent.n_envs,
        "real_id": agent.real_id,
        "time_limit": agent.time_limit,
        "replay": with_replay,
        "state": pack(agent._state(), tensors),
    }
    chunks = {"replay": agent.replay.chunks()} if with_replay else {}
    save_checkpoint(agent_folder(path), Checkpoint(agent.kind, config, {"agent": tensors}, {}, chunks))


def load_agent(cls: type[Agent], path: str | Path, env: Any, device: Any, given: dict[str, Any]) -> Agent:
    """Return the agent of class ``cls`` that `save_agent` wrote."""
    target = pick_device(device)
    checkpoint = load_checkpoint(agent_folder(path), kind=cls.kind, device=target)
    config = checkpoint.config
    agent = cls._from_arguments({**config["arguments"], "policy": config["policy"]}, {**given, "device": target})
    agent.observation_space = space_from_json(config["observation_space"])
    agent.action_space = space_from_json(config["action_space"])
    agent.n_envs = config["n_envs"]
    if env is not None:
        _take_env(agent, env, stored_replay=config["replay"])
    if env is None or agent.real_id is None:
        agent.real_id, agent.time_limit = config["real_id"], config["time_limit"]
    agent._setup_model()
    stored_replay = config["replay"] and given.get("replay") is None
    if stored_replay:
        agent.replay = SequenceReplay.from_chunks(
            checkpoint.chunks["replay"],
            agent.observation_space,
            agent.action_space,
            agent.buffer_size,
            agent.n_envs,
            extras=agent._replay_extras(),
            extras_device=agent._extras_device(),
        )
    try:
        agent._load_state(unpack(config["state"], dict(checkpoint.tensors["agent"])))
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: what was learned does not fit the agent that the arguments describe ({error}); load it without "
            f"changing {sorted(given) or 'the library version'}, or train anew"
        ) from error
    agent._check_normalization(agent.env)
    if not stored_replay:
        agent._wait_for_experience()
    return agent


def agent_folder(path: str | Path) -> Path:
    """Return the directory that ``path`` stands for: SB3's callbacks add ".zip", which is dropped."""
    path = Path(path)
    return path.with_suffix("") if path.suffix == ".zip" else path


def _take_env(agent: "ModelBasedAlgorithm", env: Any, stored_replay: bool) -> None:
    wrapped = agent._wrap_env(maybe_make_env(env, agent.verbose), agent.verbose)
    if wrapped.num_envs != agent.n_envs:
        if stored_replay:
            raise ValueError(
                f"env must have {agent.n_envs} environments, as the stored replay does, got {wrapped.num_envs}; "
                "save with exclude=['replay'] to change the number"
            )
        agent.n_envs = wrapped.num_envs
    agent.set_env(wrapped)


def running_moments(normalize: VecNormalize) -> dict[str, dict[str, Tensor]]:
    """Return the running moments of a VecNormalize as tensors; the return's under "/return"."""
    return {
        key: {name: torch.as_tensor(getattr(rms, name), dtype=torch.float64) for name in ("mean", "var", "count")}
        for key, rms in _moment_holders(normalize).items()
    }


def load_running_moments(normalize: VecNormalize, stored: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Take up what `running_moments` returned."""
    for key, rms in _moment_holders(normalize).items():
        if key in stored:
            rms.mean, rms.var = stored[key]["mean"].cpu().numpy(), stored[key]["var"].cpu().numpy()
            rms.count = float(stored[key]["count"])


def _moment_holders(normalize: VecNormalize) -> dict[str, Any]:
    obs = getattr(normalize, "obs_rms", None)
    holders = dict(obs) if isinstance(obs, dict) else {"": obs}
    return {key: rms for key, rms in {**holders, "/return": normalize.ret_rms}.items() if rms is not None}
