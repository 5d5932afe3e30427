"""Minari datasets (Farama Foundation, https://minari.farama.org) as replays, and replays as Minari datasets.

`minari`, the extra ``[data]``, is imported only when it is used. What it needs jax for is not used.
"""

import importlib
import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from mbrl_gym.data.episodes import Array, Episode, episodes, replay_of
from mbrl_gym.replay import SequenceReplay


def from_minari(dataset: Any, capacity: int | None = None, download: bool = False) -> SequenceReplay:
    """Return the episodes of a Minari dataset as a replay of one environment; float64 becomes float32.

    Args:
        dataset: a ``minari.MinariDataset`` or the id of one, as in "D4RL/pointmaze/umaze-v2".
        capacity: rows, an episode of L steps taking L + 1 of them; None: just enough.
        download: fetch a dataset that is not on this machine.

    Raises:
        ImportError: Minari is not installed.
        FileNotFoundError: the dataset is not on this machine.
        ValueError: the id is none, a space is not supported (`SequenceReplay`), or an episode goes on after its end.
    """
    dataset = _dataset(dataset, download)
    return replay_of(_read(dataset), dataset.observation_space, dataset.action_space, capacity)


def minari_facts(dataset: Any, download: bool = False) -> dict[str, Any]:
    """Return ``real_id``, the environment's id or None, and its ``time_limit`` or None; see `from_minari`."""
    spec = _dataset(dataset, download).env_spec
    return {
        "real_id": None if spec is None else spec.id,
        "time_limit": None if spec is None else spec.max_episode_steps,
    }


def to_minari(replay: SequenceReplay, dataset_id: str, env_id: str | None = None, **metadata: Any) -> Any:
    """Write the episodes of ``replay`` as a Minari dataset, without loss, and return it.

    Episodes of several environments follow each other. Minari knows no open episodes: one that is neither terminated
    nor truncated is written as truncated, as Minari's own collector does. What `episodes` leaves out is left out.

    Args:
        replay: the experience.
        dataset_id: a name with a version, as in "my-pendulum-v0" or "group/my-pendulum-v0", that is not taken yet.
        env_id: the real environment's id; with one, Minari can recover the environment.
        **metadata: of ``minari.create_dataset_from_buffers``: author, description, algorithm_name, ...

    Raises:
        ImportError: Minari is not installed.
        ValueError: the id is malformed or taken, or there is no whole episode. Nothing is written then.
    """
    minari = _minari()
    _check_id(dataset_id)
    folder = _folder(dataset_id)
    if folder.exists():
        raise ValueError(
            f"dataset_id must be a new one, got {dataset_id!r}, which is in {folder}; count its version up"
        )
    buffers = [_buffer(episode, replay) for episode in episodes(replay)]
    if not buffers:
        raise ValueError("replay must hold at least one episode with its beginning, got none; record more first")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="minari")  # of metadata that is not given
            return minari.create_dataset_from_buffers(
                dataset_id,
                buffers,
                env=env_id,
                observation_space=replay.observation_space,
                action_space=replay.action_space,
                jpeg_encoding=False,
                **metadata,
            )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _read(dataset: Any) -> Iterator[Episode]:
    for number, data in enumerate(dataset.iterate_episodes()):
        terminated, truncated = np.asarray(data.terminations, bool), np.asarray(data.truncations, bool)
        early = np.flatnonzero((terminated | truncated)[:-1])
        if early.size:
            raise ValueError(
                f"dataset must end an episode where it is terminated or truncated, got episode {number}, which goes on "
                f"after step {early[0]}; leave it out with filter_episodes, or split it"
            )
        if not len(data):
            raise ValueError(f"dataset must have steps in every episode, got none in episode {number}; leave it out")
        action = np.asarray(data.actions)
        yield Episode(data.observations, action, np.asarray(data.rewards), bool(terminated[-1]), bool(truncated[-1]))


def _buffer(episode: Episode, replay: SequenceReplay) -> Any:
    """Return an episode as Minari's buffer, in the dtypes of the spaces."""
    buffer = _minari("data_collector.episode_buffer").EpisodeBuffer
    last = np.arange(len(episode)) == len(episode) - 1
    return buffer(
        observations=_as_space(episode.obs, replay.observation_space),
        actions=_as_space(episode.action, replay.action_space),
        rewards=episode.reward,
        terminations=last & episode.terminated,
        truncations=last & (episode.truncated or not episode.terminated),
        infos={},
    )


def _as_space(value: Any, space: spaces.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _as_space(value[key], leaf) for key, leaf in space.spaces.items()}
    array: Array = np.asarray(value, dtype=space.dtype)
    return array


def _dataset(dataset: Any, download: bool) -> Any:
    if not isinstance(dataset, str):
        return dataset
    minari = _minari()
    _check_id(dataset)
    try:
        return minari.load_dataset(dataset, download=download)
    except FileNotFoundError:
        known = ", ".join(sorted(minari.list_local_datasets())) or "none"
        raise FileNotFoundError(
            f"dataset must be on this machine, got {dataset!r}; there are: {known}. "
            f"Fetch it with: minari download {dataset}"
        ) from None


def _check_id(dataset_id: str) -> None:
    parse = _minari("dataset.minari_dataset").parse_dataset_id
    try:
        parse(dataset_id)
    except (ValueError, TypeError):  # TypeError: it has no version
        raise ValueError(
            f"a Minari dataset's id must be a name with a version, as in 'my-data-v0' or 'group/my-data-v0', got "
            f"{dataset_id!r}"
        ) from None


def _folder(dataset_id: str) -> Any:
    return _minari("storage.datasets_root_dir").get_dataset_path(dataset_id)


def _minari(module: str = "") -> Any:
    try:
        return importlib.import_module(f"minari.{module}".removesuffix("."))
    except ImportError as error:
        raise ImportError(
            f"Minari cannot be imported ({error}); install it with: pip install 'mbrl-gym[data]'"
        ) from error
