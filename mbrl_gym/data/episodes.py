"""Episodes: experience as arrays of one episode each, out of a `SequenceReplay` and into one. L: an episode's steps."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from mbrl_gym._rows import RowFormat
from mbrl_gym.replay import SequenceReplay

Array = np.ndarray[Any, Any]
Columns = dict[str, Array]


@dataclass(frozen=True)
class Episode:
    """One episode, ``obs[t + 1]`` and ``reward[t]`` being what ``action[t]`` led to.

    Attributes:
        obs: [L + 1, *obs] raw observations, the last one included, or a dictionary of such.
        action: [L, *action] environment actions.
        reward: [L].
        terminated: the last step ended it.
        truncated: a time limit did; neither: it was cut, and its end is not known.
    """

    obs: Any
    action: Array
    reward: Array
    terminated: bool
    truncated: bool

    def __len__(self) -> int:
        """Return L."""
        return len(self.reward)


def episodes(replay: SequenceReplay) -> Iterator[Episode]:
    """Yield a copy of every episode in ``replay``, env by env, oldest first.

    Left out are episodes without a step, and those whose beginning was overwritten: what is left of them begins
    nowhere where the environment begins.
    """
    pieces: list[Columns] = []  # of the episode that is being read
    env = -1
    for chunk in replay.chunks():
        if "is_first" not in chunk:  # extras, or the header
            continue
        columns = {name: column for name, column in chunk.items() if name not in ("env", "begin")}
        begins = np.flatnonzero(columns["is_first"]).tolist()
        for begin, end in zip([0, *begins], [*begins, len(columns["is_first"])], strict=True):
            if begin == end:
                continue
            if int(chunk["env"]) != env or columns["is_first"][begin]:
                yield from _joined(pieces)
                pieces, env = [], int(chunk["env"])
            pieces.append({name: column[begin:end] for name, column in columns.items()})
    yield from _joined(pieces)


def _joined(pieces: list[Columns]) -> Iterator[Episode]:
    """Yield the episode that ``pieces`` are, if it is one."""
    if not pieces or not pieces[0]["is_first"][0] or sum(len(piece["reward"]) for piece in pieces) < 2:
        return
    rows = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    obs = rows["obs"] if "obs" in rows else _without_prefix(rows)
    ends = bool(rows["terminated"][-1]), bool(rows["truncated"][-1])
    yield Episode(obs, rows["action"][:-1], rows["reward"][1:], *ends)


def _without_prefix(rows: Mapping[str, Array]) -> dict[str, Array]:
    return {name.removeprefix("obs/"): column for name, column in rows.items() if name.startswith("obs/")}


def replay_of(
    found: Iterable[Episode],
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    capacity: int | None = None,
) -> SequenceReplay:
    """Return a replay of one environment that holds the episodes ``found``, in their order.

    Args:
        found: the episodes.
        observation_space: theirs; see `SequenceReplay`.
        action_space: theirs.
        capacity: rows, an episode taking L + 1 of them; None: just enough.

    Raises:
        ValueError: there is no episode, one has no step or does not fit the spaces or its own length, or ``capacity``
            is too small.
    """
    chunks, rows, steps = [], 0, 0
    for number, episode in enumerate(found):
        try:
            columns = _rows(episode, observation_space, action_space)
        except ValueError as error:
            raise ValueError(f"episode {number}: {error}") from None
        chunks.append({"env": np.array(0), "begin": np.array(rows), **columns})
        rows, steps = rows + len(episode) + 1, steps + len(episode)
    if not chunks:
        raise ValueError("found must hold at least one episode, got none; record some first")
    capacity = rows if capacity is None else capacity
    if capacity < rows:
        raise ValueError(f"capacity must be at least the {rows} rows of all episodes, got {capacity}")
    header = SequenceReplay(observation_space, action_space, capacity).chunks()[-1]
    header = {**header, "cursor": np.array([rows]), "total_added": np.array(steps)}
    return SequenceReplay.from_chunks([*chunks, header], observation_space, action_space, capacity)


def _rows(episode: Episode, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> Columns:
    """Return an episode as the checked columns [L + 1, ...] of a replay."""
    steps = len(episode)
    if steps < 1:
        raise ValueError("it must have at least one step, got none; leave it out")
    _check_length("action", episode.action, steps)
    leaves = episode.obs if isinstance(episode.obs, dict) else {"obs": episode.obs}
    for name, leaf in leaves.items():
        _check_length(name, leaf, steps + 1)
    # The rows are checked as a replay checks one step of L + 1 environments.
    row_format, no = RowFormat(observation_space, action_space, steps + 1, None), np.zeros(steps + 1, bool)
    reward = np.concatenate([[0.0], episode.reward])
    rows, _ = row_format.arriving(row_format.opening(episode.obs), reward, no, no, None)
    rows |= row_format.chosen(np.concatenate([episode.action, episode.action[-1:]]))
    last = np.arange(steps + 1) == steps
    unused = last.reshape(-1, *[1] * (rows["action"].ndim - 1))
    rows["action"] = np.where(unused, row_format.blank["action"], rows["action"])
    rows["has_action"], rows["is_first"] = ~last, np.arange(steps + 1) == 0
    rows["terminated"], rows["truncated"] = last & bool(episode.terminated), last & bool(episode.truncated)
    return {name: rows[name] for name in row_format.fixed}


def _check_length(name: str, column: Any, length: int) -> None:
    if len(column) != length:
        raise ValueError(
            f"{name} must have {length} entries, got {len(column)}; an episode of L rewards has L actions and L + 1 "
            "observations, the last one included"
        )
