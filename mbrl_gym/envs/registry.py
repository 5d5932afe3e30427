"""The ``Learned-*`` ids: what is shipped, what the user published, and how an id becomes an environment."""

import os
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import platformdirs
from gymnasium.envs.registration import EnvSpec, find_highest_version, get_env_id, parse_env_id, registry

from mbrl_gym import zoo
from mbrl_gym.envs.single import LearnedEnv
from mbrl_gym.envs.vector import LearnedVectorEnv
from mbrl_gym.envs.view import FrameStack
from mbrl_gym.model import WorldModel
from mbrl_gym.store import StoredModel, load_model, load_shared, save_model

PREFIX = "Learned-"
SINGLE = "mbrl_gym.envs.registry:make_single"
VECTOR = "mbrl_gym.envs.registry:make_vector"


class ModelNotAvailable(gym.error.Error):
    """An id is known, but no model of that environment is shipped, published or given."""


def home() -> Path:
    """Return the folder of published models: ``$MBRL_GYM_HOME``, or the platform's user data folder."""
    folder = os.environ.get("MBRL_GYM_HOME") or platformdirs.user_data_dir("mbrl_gym")
    return Path(os.path.expanduser(folder)) / "models"  # Path.expanduser fails where there is no such user


def published_models() -> dict[str, Path]:
    """Return the checkpoint folder of every model that was published on this machine, by id."""
    return zoo.models_in(home())


def available_models() -> dict[str, Path]:
    """Return the checkpoint folder of every shipped and published model, by id; a published one comes first."""
    return {**zoo.shipped_models(), **published_models()}


def find_model(env_id: str, checkpoint: str | os.PathLike[str] | None = None) -> Path:
    """Return the checkpoint folder that ``env_id`` stands for, or the given one.

    Raises:
        ModelNotAvailable: there is none; the message says what is available.
    """
    if checkpoint is not None:
        return Path(checkpoint)
    models = available_models()
    names = (env_id, _other_name(env_id))
    found = [known[name] for known in (published_models(), models) for name in names if name in known]
    if not found:
        raise ModelNotAvailable(
            f"no model of {env_id!r} is shipped or published; available: {', '.join(sorted(models)) or 'none'}. "
            f"Give one: mbrl_gym.make({env_id!r}, checkpoint=FOLDER), or train and publish one: "
            f"`mbrl-gym train dyna --env {_real_id(env_id)} --out runs/x --publish {env_id}`"
        )
    return found[0]  # what is published under either name comes before what is shipped


def _other_name(env_id: str) -> str:
    """Return the other one of a game's two names, Learned-Pong and Learned-ALE/Pong-v5; any other id as it is."""
    name = env_id.removeprefix(PREFIX)
    if name in zoo.atari_games():
        return f"{PREFIX}ALE/{name}-v5"
    return PREFIX + name.removeprefix("ALE/").removesuffix("-v5") if name in zoo.atari_ids() else env_id


def _real_id(env_id: str) -> str:
    name = env_id.removeprefix(PREFIX)
    return f"ALE/{name}-v5" if name in zoo.atari_games() else name


def make_single(
    env_id: str,
    checkpoint: str | os.PathLike[str] | None = None,
    horizon: int | None = None,
    render_mode: str | None = None,
    device: str = "auto",
    model_class: type[WorldModel[Any]] | None = None,
    stack: int | None = None,
) -> LearnedEnv:
    """Return the learned environment of an id (the entry point of ``gym.make``).

    Args:
        env_id: "Learned-" and the id of the real environment.
        checkpoint: a model's folder, in place of the shipped or published one.
        horizon: imagined steps an episode; default: the real environment's time limit.
        render_mode: None, "rgb_array" or "human".
        device: a torch device, or "auto".
        model_class: the class of a model that is not the library's.
        stack: pictures that an observation holds; default: as the model's card says.

    Raises:
        ModelNotAvailable: there is no model for the id.
        CheckpointError: the folder holds no model that can be read.
        ValueError: ``stack`` is given for a model that shows no stacks, or is out of its range.
    """
    stored = load_shared(find_model(env_id, checkpoint), device, model_class)
    steps = stored.horizon if horizon is None else horizon
    view, keys = _view(stored, stack), stored.card.get("keys")
    return LearnedEnv(stored.model, stored.starts, steps, render_mode, stored.real_id, view, keys)


def make_vector(
    env_id: str,
    num_envs: int = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    horizon: int | None = None,
    max_episode_steps: int | None = None,
    autoreset_mode: str = "SameStep",
    backend: str = "numpy",
    device: str = "auto",
    model_class: type[WorldModel[Any]] | None = None,
    stack: int | None = None,
) -> LearnedVectorEnv:
    """Return the learned vector environment of an id (the entry point of ``gym.make_vec``).

    Args:
        env_id: "Learned-" and the id of the real environment.
        num_envs: how many.
        checkpoint: a model's folder, in place of the shipped or published one.
        horizon: imagined steps an episode; default: the real environment's time limit.
        max_episode_steps: Gymnasium's name for ``horizon``.
        autoreset_mode: "SameStep", "NextStep" or "Disabled".
        backend: "numpy" or "torch".
        device: a torch device, or "auto".
        model_class: the class of a model that is not the library's.
        stack: pictures that an observation holds; default: as the model's card says.

    Raises:
        ModelNotAvailable: there is no model for the id.
        CheckpointError: the folder holds no model that can be read.
        ValueError: ``stack`` is given for a model that shows no stacks, or is out of its range.
    """
    stored = load_shared(find_model(env_id, checkpoint), device, model_class)
    steps = next(steps for steps in (horizon, max_episode_steps, stored.horizon) if steps is not None)
    view = _view(stored, stack)
    return LearnedVectorEnv(stored.model, stored.starts, num_envs, steps, autoreset_mode, backend, view)  # type: ignore[arg-type]


def _view(stored: StoredModel, stack: int | None) -> FrameStack | None:
    """Return how environments of a stored model show its pictures; None: as they are predicted."""
    if stored.view is not None:
        return FrameStack(**{**stored.view, **({} if stack is None else {"stack": stack})})
    if stack is not None:
        raise ValueError(
            f"stack must be left out for a {type(stored.model).__name__} that shows what it predicts, got {stack}; "
            "stacks are of models that were stored with a view"
        )
    return None


def spec(env_id: str, **kwargs: Any) -> EnvSpec:
    """Return the spec of any learned id, registered or not, as in ``gym.make(mbrl_gym.spec("Learned-My-v0"))``.

    Args:
        env_id: "Learned-" and a name.
        **kwargs: as in `make_single`.

    Raises:
        ValueError: the id does not begin with "Learned-".
        gymnasium.error.Error: Gymnasium cannot parse it.
    """
    if not env_id.startswith(PREFIX):
        raise ValueError(f"env_id must begin with {PREFIX!r}, as in 'Learned-Pendulum-v1', got {env_id!r}")
    parse_env_id(env_id)
    return EnvSpec(env_id, entry_point=SINGLE, vector_entry_point=VECTOR, kwargs={"env_id": env_id, **kwargs})


def make(env_id: str, **kwargs: Any) -> gym.Env[Any, Any]:
    """Return ``gym.make`` of any learned id, registered with Gymnasium or not; keywords as in `make_single`.

    Raises:
        ModelNotAvailable: there is no model for the id; the message says what is available.
        ValueError: the id does not begin with "Learned-".
    """
    return gym.make(_found_spec(env_id, kwargs), **kwargs)


def make_vec(env_id: str, num_envs: int = 1, **kwargs: Any) -> Any:
    """Return ``gym.make_vec`` of any learned id, registered with Gymnasium or not; keywords as in `make_vector`.

    Raises:
        ModelNotAvailable: there is no model for the id; the message says what is available.
        ValueError: the id does not begin with "Learned-".
    """
    return gym.make_vec(_found_spec(env_id, kwargs), num_envs, **kwargs)


def _found_spec(env_id: str, kwargs: dict[str, Any]) -> EnvSpec:
    """Return the spec of an id, of the latest version if it has none, once it is sure that there is a model."""
    namespace, name, version = parse_env_id(spec(env_id).id)
    if version is None and env_id not in registry:
        env_id = get_env_id(namespace, name, find_highest_version(namespace, name))
    find_model(env_id, kwargs.get("checkpoint"))
    return registry.get(env_id) or spec(env_id)


def publish(
    source: StoredModel | str | os.PathLike[str], env_id: str, model_class: type[WorldModel[Any]] | None = None
) -> Path:
    """Put a model under ``env_id`` for every later process on this machine, and for this one; return its folder.

    Args:
        source: the model, or the folder of one.
        env_id: "Learned-" and a name of your choice, as in "Learned-MyPendulum-v0".
        model_class: the class of a model that is not the library's; ``gym.make`` of the id needs it too.

    Raises:
        ValueError: the id does not begin with "Learned-".
        gymnasium.error.Error: Gymnasium cannot parse or register the id.
        CheckpointError: the folder holds no model.
    """
    entry = spec(env_id)
    stored = source if isinstance(source, StoredModel) else load_model(source, "cpu", model_class)
    if env_id not in registry:
        _register(entry)  # before anything is written: Gymnasium may refuse the id
    folder = home() / env_id
    save_model(folder, stored)
    return folder


def register_all() -> None:
    """Register a learned id for every id of Gymnasium and ALE, and for every published model.

    ALE's games have the ids Learned-ALE/Pong-v5 and Learned-Pong, whether ale-py has been imported or not. Its older
    ids (Pong-v4, ...) are left out: Gymnasium allows no Learned-Pong-v4 beside Learned-Pong.
    """
    real = [entry.id for entry in registry.values() if not _is_learned_or_atari(entry)]
    names = {parse_env_id(env_id)[1] for env_id in real}
    # Blackjack is a game of both; the plain name stays Gymnasium's.
    plain = [game for game in zoo.atari_games() if game not in names]
    for env_id in [*real, *zoo.atari_ids(), *plain]:
        if PREFIX + env_id not in registry:
            _register(spec(PREFIX + env_id))
    for env_id, folder in available_models().items():
        if env_id in registry:
            continue
        try:
            _register(spec(env_id))
        except gym.error.Error as error:  # a stray folder must not stop the import
            warnings.warn(f"the published model in {folder} has no usable id and is left out: {error}", stacklevel=2)


def _is_learned_or_atari(entry: EnvSpec) -> bool:
    return entry.id.startswith(PREFIX) or str(entry.entry_point).startswith("ale_py")


def _register(entry: EnvSpec) -> None:
    gym.register(entry.id, entry_point=SINGLE, vector_entry_point=VECTOR, kwargs=entry.kwargs)
