"""A world model on disk: what a checkpoint of kind "model" holds, and how to read it back."""

import functools
import hashlib
import importlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from mbrl_gym.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from mbrl_gym.model import WorldModel
from mbrl_gym.spaces import space_from_json, space_to_json
from mbrl_gym.start_states import StartStates

# Models of the library, by the name that checkpoints carry. Only these are imported on a checkpoint's word.
MODELS = {
    "ensemble": "mbrl_gym.models.ensemble:Ensemble",
    "bayes_by_backprop": "mbrl_gym.models.bayes_by_backprop:BayesByBackprop",
    "mc_dropout": "mbrl_gym.models.mc_dropout:MCDropout",
    "swag": "mbrl_gym.models.swag:SWAG",
    "last_layer": "mbrl_gym.models.last_layer:LastLayer",
    "gaussian_process": "mbrl_gym.models.gaussian_process:GaussianProcess",
    "rssm": "mbrl_gym.models.rssm:RSSM",
    "video": "mbrl_gym.models.video:VideoModel",
    "stochastic_video": "mbrl_gym.models.stochastic_video:StochasticVideoModel",
}
WRAPPERS = {
    "clamp_range": "mbrl_gym.wrappers.clamp:ClampRange",
    "halt": "mbrl_gym.wrappers.halt:Halt",
    "infoprop": "mbrl_gym.wrappers.infoprop:Infoprop",
    "known_reward": "mbrl_gym.wrappers.known:KnownReward",
    "known_termination": "mbrl_gym.wrappers.known:KnownTermination",
    "recalibrate_variance": "mbrl_gym.wrappers.recalibrate:RecalibrateVariance",
    "truncate_uncertain": "mbrl_gym.wrappers.halt:TruncateUncertain",
    "uncertainty_penalty": "mbrl_gym.wrappers.penalty:UncertaintyPenalty",
}


@dataclass(frozen=True)
class StoredModel:
    """A model with everything that an environment needs.

    Attributes:
        model: the world model.
        starts: contexts that episodes begin from.
        real_id: the id of the real environment, or None.
        horizon: the real environment's time limit.
        card: facts about the data and the fidelity, JSON.
        view: how environments show pictures, the arguments of `mbrl_gym.envs.view.FrameStack`; None: as predicted.
    """

    model: WorldModel[Any]
    starts: StartStates
    real_id: str | None
    horizon: int
    card: dict[str, Any] = field(default_factory=dict)
    view: dict[str, int] | None = None


def model_to_json(model: WorldModel[Any]) -> dict[str, Any]:
    """Return what `model_from_json` needs to build an untrained twin of ``model``."""
    path = f"{type(model).__module__}:{type(model).__qualname__}"
    name = next((key for key, value in (MODELS | WRAPPERS).items() if value == path), path)
    wrapper: Any = model
    if name not in WRAPPERS and isinstance(getattr(model, "inner", None), WorldModel):
        raise ValueError(
            f"model must be wrapped by mbrl_gym's own wrappers ({', '.join(sorted(WRAPPERS))}) to be stored, got {name}"
            "; store its unwrapped model, and wrap that again after loading"
        )
    if name in WRAPPERS:
        return {"class": name, "inner": model_to_json(wrapper.inner), "arguments": wrapper.arguments()}
    return {
        "class": name,
        "observation_space": space_to_json(model.observation_space),
        "action_space": space_to_json(model.action_space),
        "config": asdict(model.config),
    }


def model_from_json(data: Mapping[str, Any], model_class: type[WorldModel[Any]] | None = None) -> WorldModel[Any]:
    """Return an untrained model as `model_to_json` described it.

    Args:
        data: the description.
        model_class: the class, where it is not one of the library's: nothing else is imported on a file's word.

    Raises:
        CheckpointError: the class is not the library's and was not given.
    """
    name = data["class"]
    if name in WRAPPERS:
        inner = model_from_json(data["inner"], model_class)
        wrapped: WorldModel[Any] = find_class(WRAPPERS[name])(inner, **data["arguments"])
        return wrapped
    if model_class is None:
        if name not in MODELS:
            raise CheckpointError(
                f"the model's class {name!r} is none of mbrl_gym's ({', '.join(sorted(MODELS))}), and a file may not "
                "name what is imported; pass the class as model_class="
            )
        model_class = find_class(MODELS[name])
    assert model_class is not None
    config = model_class.config_class(**data["config"])
    return model_class(space_from_json(data["observation_space"]), space_from_json(data["action_space"]), config)


def wrapper_name(wrapper: type) -> str | None:
    """Return the name by which checkpoints know a wrapper class of the library; None for another one."""
    path = f"{wrapper.__module__}:{wrapper.__qualname__}"
    return next((name for name, known in WRAPPERS.items() if known == path), None)


def find_class(path: str) -> Any:
    """Return the class at ``module:name``; the path has to be one of `MODELS` or `WRAPPERS`, never a file's own."""
    module, attribute = path.split(":")
    return getattr(importlib.import_module(module), attribute)


def save_model(path: str | os.PathLike[str], stored: StoredModel, dtype: torch.dtype | None = None) -> Path:
    """Write ``stored`` as a checkpoint directory and return its version folder; an older version is replaced safely.

    Args:
        path: the directory.
        stored: what to write.
        dtype: of the floating-point numbers in the file, which are those of the model again when they are read; None:
            as they are.
    """
    config = {
        "model": model_to_json(stored.model),
        "real_id": stored.real_id,
        "horizon": stored.horizon,
        "card": stored.card,
        **({} if stored.view is None else {"view": stored.view}),
    }
    state = stored.model.state_dict()
    if dtype is not None:
        state = {name: x.to(dtype) if x.is_floating_point() else x for name, x in state.items()}
    tensors = {"model": dict(state)}
    return save_checkpoint(path, Checkpoint("model", config, tensors, {"starts": stored.starts.to_arrays()}))


def load_model(
    path: str | os.PathLike[str], device: torch.device | str = "auto", model_class: type[WorldModel[Any]] | None = None
) -> StoredModel:
    """Return the model that `save_model` wrote, ready to predict.

    Args:
        path: the checkpoint directory.
        device: a torch device; "auto" takes a GPU where there is one.
        model_class: the class of a model that is not the library's.

    Raises:
        CheckpointError: there is no checkpoint, or it is corrupt, newer, or of another kind.
    """
    target = pick_device(device)
    checkpoint = load_checkpoint(path, kind="model", device=target)
    config = checkpoint.config
    try:
        model = model_from_json(config["model"], model_class)
        model.load_state_dict(dict(checkpoint.tensors["model"]))
        starts = StartStates.from_arrays(checkpoint.arrays["starts"]).to(target)
        stored = StoredModel(model, starts, config["real_id"], config["horizon"], config["card"], config.get("view"))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: the model cannot be rebuilt, because its parts do not fit this version's {_name(config)}: "
            f"{type(error).__name__}: {error}; save it again with this version, or load it with the one that wrote it"
        ) from error
    model.to(target).eval().requires_grad_(False)
    return stored


def _name(config: Mapping[str, Any]) -> str:
    model = config.get("model")
    return repr(model.get("class")) if isinstance(model, Mapping) else "models"


@functools.lru_cache(maxsize=8)
def _cached(path: str, seal: str, device: str, model_class: type[WorldModel[Any]] | None) -> StoredModel:
    return load_model(path, device, model_class)


def load_shared(
    path: str | os.PathLike[str], device: torch.device | str = "auto", model_class: type[WorldModel[Any]] | None = None
) -> StoredModel:
    """Return the model like `load_model`, but one object a process for each content on disk: environments share it.

    A folder that was saved anew, or removed and made again, is read anew: its manifest holds the hashes of all files.
    """
    folder = Path(path).resolve()
    return _cached(str(folder), _seal(folder), str(pick_device(device)), model_class)


def _seal(folder: Path) -> str:
    """Return a hash of the current version's manifest; empty where there is none, which `load_model` will explain."""
    try:
        manifest = (folder / (folder / "CURRENT").read_text().strip() / "manifest.json").read_bytes()
    except (OSError, ValueError):
        return ""
    return hashlib.sha256(manifest).hexdigest()


def pick_device(device: torch.device | str) -> torch.device:
    """Return the torch device that ``device`` names; "auto" is a GPU where there is one, else the CPU."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)
