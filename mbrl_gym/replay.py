"""SequenceReplay: real experience as windows of rows, in the alignment of `mbrl_gym.batch`.

One legend of shapes: N rows, B windows, T rows of a window, C rows of a context, A encoded action, E ensemble members.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_gym._device_columns import DeviceColumns, sent
from mbrl_gym._hash import bootstrap_weight, row_hash
from mbrl_gym._ring import Array, Rings
from mbrl_gym._rows import ExtraColumns, RowFormat
from mbrl_gym.batch import SequenceBatch
from mbrl_gym.spaces import ActionCodec, Observation, space_from_json, space_to_json
from mbrl_gym.start_states import StartStates

__all__ = ["SequenceReplay", "row_hash"]

CHUNK_ROWS = 4096
_CHUNK_VERSION = 1


class SequenceReplay:
    """A replay of the newest rows of experience, from which windows are drawn.

    Each env has a ring of ``ceil(capacity / n_envs)`` rows. Observations are raw, never normalised: uint8 images stay
    uint8, while float64 is stored as float32 (half the memory), and so are float64 actions. Row ``c`` of env ``e`` has
    the absolute index ``c * n_envs + e``, which is never reused.

    Args:
        observation_space: of one env: Box, Discrete, MultiDiscrete, MultiBinary or a flat Dict of these.
        action_space: of one env, see `ActionCodec`.
        capacity: rows over all envs. An episode of L steps takes L + 1 of them.
        n_envs: the number of envs that `begin` and `add` are called with.
        extras: shape and dtype of named extra columns, zero until `write_back` fills them (a model's latents, say).
        directory: keep the columns in memory-mapped files here instead of in RAM. They are scratch space that the next
            replay of the same layout replaces; `chunks` is what survives.
        extras_device: keep the extras as tensors on this device, where neither `gather` nor `write_back` makes the host
            wait for it; None: with the other columns.

    Attributes:
        total_added: the transitions ever added.

    Raises:
        ValueError: less than two rows per env, a space of another kind, or ``directory`` holds something else.
        MemoryError: the columns would not fit into the available memory or disk space. Nothing is allocated then.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        capacity: int,
        n_envs: int = 1,
        *,
        extras: ExtraColumns | None = None,
        directory: str | Path | None = None,
        extras_device: torch.device | str | None = None,
    ) -> None:
        _check_at_least("n_envs", n_envs, 1)
        if capacity <= n_envs:
            raise ValueError(
                f"capacity must give each env at least 2 rows (n_envs = {n_envs}), got {capacity}; choose a larger one"
            )
        self.observation_space = observation_space
        self.action_space = action_space
        self.capacity = capacity
        self.n_envs = n_envs
        self.total_added = 0
        self._format = RowFormat(observation_space, action_space, n_envs, extras)
        rows = -(-capacity // n_envs)
        layout = {**self._format.fixed, **(self._format.extras if extras_device is None else {})}
        self._rings = Rings(layout, n_envs, rows, None if directory is None else Path(directory))
        self._on_device: DeviceColumns | None = None
        if extras_device is not None:
            self._on_device = DeviceColumns(self._format.extras, n_envs * rows, extras_device)
        self._every_env: int | Array = 0 if n_envs == 1 else np.arange(n_envs)
        self._window_cache: dict[tuple[int, bool], Array] = {}

    @property
    def codec(self) -> ActionCodec:
        """The codec that `gather` encodes actions with."""
        return self._format.codec

    def begin(self, obs: Any) -> None:
        """Start an episode in every env with the reset observations ``obs`` [n_envs, *obs].

        Episodes that are still open are cut: neither terminated nor truncated, their last action unused.

        Raises:
            ValueError: ``obs`` does not fit the space, or is not finite. Nothing is written then.
        """
        self._append(self._every_env, self._format.opening(obs))
        self._window_cache.clear()

    def _append(self, env: int | Array, values: Mapping[str, Array]) -> None:
        self._rings.append(env, values)
        if self._on_device is not None:
            self._on_device.clear(self._rings.positions(np.atleast_1d(self.newest_rows()[env])))

    def add(self, action: Any, obs: Any, reward: Any, terminated: Any, truncated: Any, final_obs: Any = None) -> None:
        """Add one step of every env, as a vector env with SAME_STEP autoreset reports it.

        Args:
            action: [n_envs, *action] environment actions, chosen after the last row of each env.
            obs: [n_envs, *obs]; the reset observation where an episode ended.
            reward: [n_envs].
            terminated: [n_envs].
            truncated: [n_envs].
            final_obs: the last observations of the episodes that ended: [n_envs, *obs], or a sequence or mapping that
                ``final_obs[env]`` can be read from (``infos["final_obs"]``). Only the rows that ended are read.

        Raises:
            RuntimeError: `begin` was not called.
            ValueError: a value has the wrong shape, is not finite or not in its space, or ``final_obs`` is missing.
                Nothing is written then.
        """
        if not self._rings.cursor[0]:
            raise RuntimeError(
                "add() must follow begin(), but no episode has begun; call begin(obs) with the reset obs"
            )
        chosen = self._format.chosen(action)
        opening = self._format.opening(obs)
        arriving, ended = self._format.arriving(opening, reward, terminated, truncated, final_obs)
        # Everything is checked: from here on, everything is written.
        self._rings.amend(self._every_env, chosen)
        self._append(self._every_env, arriving)
        if ended.size:
            self._append(0 if self.n_envs == 1 else ended, opening)
        self.total_added += self.n_envs
        self._window_cache.clear()

    def write_back(self, name: str, index: Any, values: Any) -> None:
        """Overwrite the extra ``name`` at absolute ``index`` [...] by ``values`` [..., *shape]; arrays or tensors.

        Rows that were overwritten meanwhile are ignored, so that a batch may be older than the replay.

        Raises:
            ValueError: the extra is unknown, ``values`` has the wrong shape, or ``index`` names rows that never were.
        """
        column = self._format.extras.get(f"extras/{name}")
        if column is None:
            known = sorted(k.removeprefix("extras/") for k in self._format.extras)
            raise ValueError(
                f"name must be one of the extras {known}, got {name!r}; declare it: SequenceReplay(extras=)"
            )
        rows, shape = _numpy(index), tuple(np.shape(values))
        if shape != (*rows.shape, *column.shape):
            wanted = (*rows.shape, *column.shape)
            raise ValueError(f"values must have the shape {wanted} (index, then {name!r}), got {shape}")
        if rows.size and not (rows.dtype.kind in "iu" and self._rings.written(rows).all()):
            raise ValueError("index must name rows that were written, got others; use SequenceBatch.index")
        kept = self._rings.stored(rows)
        position = self._rings.positions(rows[kept])
        if self._on_device is None:
            self._rings.put(f"extras/{name}", position, _numpy(values)[kept])
            return
        device = self._on_device.device
        flat = torch.as_tensor(values, device=device).detach().reshape(-1, *column.shape)
        chosen = sent(torch.from_numpy(np.flatnonzero(kept)), device)
        self._on_device.put(f"extras/{name}", position, flat.index_select(0, chosen))

    def __len__(self) -> int:
        return len(self._rings)

    @property
    def n_transitions(self) -> int:
        """The stored pairs of a row and the next row of the same episode."""
        if not len(self):
            return 0
        is_first = self._rings.columns["is_first"]
        oldest = is_first[np.arange(self.n_envs), self._rings.oldest % self._rings.rows]
        # Every row but a first one has its predecessor in the ring, unless it is the oldest of its env.
        return len(self) - int(np.count_nonzero(is_first)) - int(np.count_nonzero(~oldest))

    def windows(self, length: int, *, cross_episodes: bool = False) -> Array:
        """Return the absolute index of every window's first row: [W] int64, env by env, oldest first.

        Args:
            length: T.
            cross_episodes: whether a window may run on into the env's next episode.

        Raises:
            ValueError: ``length`` is below 1.
        """
        _check_at_least("length", length, 1)
        key = (length, cross_episodes)
        if key not in self._window_cache:
            found = np.concatenate([self._env_windows(env, length, cross_episodes) for env in range(self.n_envs)])
            found.flags.writeable = False
            self._window_cache[key] = found
        return self._window_cache[key]

    def _env_windows(self, env: int, length: int, cross_episodes: bool) -> Array:
        oldest, end = int(self._rings.oldest[env]), int(self._rings.cursor[env])
        count = max(0, end - oldest - length + 1)
        if cross_episodes or not count:
            offset = np.arange(count)
        else:
            episode = np.cumsum(self._rings.read("is_first", env, oldest, end), dtype=np.int32)
            offset = np.flatnonzero(episode[length - 1 :] == episode[:count])
        return np.asarray((oldest + offset) * self.n_envs + env)

    def gather(
        self, starts: Any, length: int, *, device: torch.device | str = "cpu", members: int = 0, bootstrap_seed: int = 0
    ) -> SequenceBatch:
        """Return the windows of ``length`` rows that begin at the absolute indices ``starts`` [B].

        Args:
            starts: [B], from `windows`.
            length: T.
            device: where the batch goes.
            members: E; above 0, ``weight`` [B, T, E] holds each row's Poisson(1) weight for each member: the online
                bootstrap of Oza and Russell (2001), drawn once per row for ever, whatever else is in the replay.
            bootstrap_seed: which bootstrap.

        Raises:
            ValueError: ``length`` is below 1, ``members`` is negative, or a window is not wholly in the replay.
        """
        _check_at_least("length", length, 1)
        _check_at_least("members", members, 0)
        begin = _numpy(starts)
        if begin.ndim != 1 or begin.dtype.kind not in "iu":
            raise ValueError(f"starts must be [B] integers, got {begin.dtype} of shape {begin.shape}; see windows()")
        index = begin.astype(np.int64)[:, None] + np.arange(length) * self.n_envs  # [B, T]
        inside = self._rings.stored(index[:, [0, -1]]).all(axis=1)
        if not inside.all():
            raise ValueError(
                f"starts must name windows of {length} rows that are in the replay, got {begin[~inside][0]}; "
                "take them from windows() after the last add()"
            )
        at = self._rings.positions(index)
        names = [name for name in self._rings.layout if name not in ("action", "has_action")]
        columns = {name: sent(torch.from_numpy(self._rings.take(name, at)), device) for name in names}
        if self._on_device is not None:
            columns.update((name, x.to(device)) for name, x in self._on_device.take(at).items())
        return SequenceBatch(
            obs=self._as_observation(columns),
            action=sent(self._encoded_actions(at), device),
            reward=columns["reward"],
            terminated=columns["terminated"],
            truncated=columns["truncated"],
            is_first=columns["is_first"],
            index=sent(torch.from_numpy(index), device),
            weight=torch.from_numpy(bootstrap_weight(bootstrap_seed, index, members)).to(device) if members else None,
            extras={name.removeprefix("extras/"): columns[name] for name in self._format.extras},
        )

    def sample(
        self,
        batch_size: int,
        length: int,
        rng: np.random.Generator,
        *,
        cross_episodes: bool = False,
        device: torch.device | str = "cpu",
        members: int = 0,
        bootstrap_seed: int = 0,
    ) -> SequenceBatch:
        """Return ``batch_size`` windows drawn uniformly with replacement, by ``rng`` alone.

        See `windows` and `gather` for the arguments.

        Raises:
            ValueError: there is no window to draw, or an argument is out of range.
        """
        _check_at_least("batch_size", batch_size, 1)
        starts = self.draw(batch_size, length, rng, cross_episodes=cross_episodes)
        return self.gather(starts, length, device=device, members=members, bootstrap_seed=bootstrap_seed)

    def draw(self, count: int, length: int, rng: np.random.Generator, *, cross_episodes: bool = False) -> Array:
        """Return the first rows of ``count`` windows, drawn uniformly with replacement by ``rng``: [count] int64.

        Raises:
            ValueError: there is no window to draw.
        """
        _check_at_least("length", length, 1)
        if not cross_episodes:
            windows = self.windows(length)
            if windows.size:
                return windows[rng.integers(len(windows), size=count)]
        else:  # all rows are windows but the last ones of each env: counting beats listing them after every step
            counts = np.maximum(self._rings.cursor - self._rings.oldest - length + 1, 0)
            ends = np.cumsum(counts)
            if ends[-1]:
                drawn = rng.integers(ends[-1], size=count)
                env = np.searchsorted(ends, drawn, side="right")
                row = self._rings.oldest[env] + drawn - (ends - counts)[env]
                return np.asarray(row * self.n_envs + env)
        episodes = len(self) - self.n_transitions
        needs = f"{length} rows in a row in one env" if cross_episodes else f"at least one episode of {length} rows"
        raise ValueError(
            f"sample(length={length}) needs {needs}; the replay holds {len(self)} rows in {episodes} episodes "
            f"(at most {self._rings.rows} rows per env); add more data or ask for a shorter window"
        )

    def newest_rows(self) -> Array:
        """Return the absolute index of the newest row of each env: [n_envs] int64; below 0 where there is none yet."""
        return np.asarray((self._rings.cursor - 1) * self.n_envs + np.arange(self.n_envs))

    def holds(self, starts: Any, length: int) -> Array:
        """Return which windows of ``length`` rows from the absolute indices ``starts`` [B] are all here: [B] bool."""
        index = _numpy(starts).astype(np.int64)
        return self._rings.stored(index) & self._rings.stored(index + (length - 1) * self.n_envs)

    def starts(
        self,
        context: int = 1,
        *,
        kind: Literal["visited", "resets"] = "visited",
        most: int | None = None,
        rng: np.random.Generator | None = None,
    ) -> StartStates:
        """Return all contexts of ``context`` rows within one episode whose last row did not end it, on the CPU.

        Args:
            context: C.
            kind: "visited" for all of them, "resets" for those that begin with their episode.
            most: draw so many without replacement where there are more: contexts of pictures are large.
            rng: what draws them; it has to be given with ``most``.

        Raises:
            ValueError: ``context`` or ``most`` is below 1, ``kind`` is neither, or ``rng`` is missing.
        """
        rows = self.start_rows(context, kind=kind)
        if most is not None:
            _check_at_least("most", most, 1)
            if rng is None:
                raise ValueError("rng must be given with most, as in rng=np.random.default_rng(0), got None")
            rows = rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))
        at = self._rings.positions(rows[:, None] + np.arange(1 - context, 1) * self.n_envs)  # [N, C]
        action = self._encoded_actions(at)
        action[:, -1] = 0
        columns = {name: torch.from_numpy(self._rings.take(name, at)) for name in self._format.observations}
        return StartStates(self._as_observation(columns), action)

    def start_rows(self, context: int = 1, *, kind: Literal["visited", "resets"] = "visited") -> Array:
        """Return the absolute index of the last row of each of the contexts that `starts` returns: [N] int64."""
        _check_at_least("context", context, 1)
        if kind not in ("visited", "resets"):
            raise ValueError(f"kind must be 'visited' or 'resets', got {kind!r}")
        begin = self.windows(context)
        end = begin + (context - 1) * self.n_envs
        last = self._rings.positions(end)
        usable = ~(self._rings.take("terminated", last) | self._rings.take("truncated", last))
        if kind == "resets":
            usable &= self._rings.take("is_first", self._rings.positions(begin))
        return np.asarray(end[usable])

    def _as_observation(self, columns: Mapping[str, Tensor]) -> Observation:
        if isinstance(self.observation_space, spaces.Dict):
            return {name.removeprefix("obs/"): columns[name] for name in self._format.observations}
        return columns["obs"]

    def _encoded_actions(self, position: Array) -> Tensor:
        """Return [..., A] float32 for rows at ``position`` [...], zeros where no action was taken."""
        used = torch.from_numpy(self._rings.take("has_action", position))
        return self.codec.encode(self._rings.take("action", position)) * used[..., None]

    def chunks(self) -> list[dict[str, Array]]:
        """Return everything as dictionaries of arrays that fit npz files, such that old ones never change.

        A chunk holds at most ``CHUNK_ROWS`` rows of one env, in fixed absolute ranges: as data is added, only the
        newest chunk of an env changes, and its oldest once the ring is full. Extras, which `write_back` changes, have
        chunks of their own. The last chunk is a small header.

        The arrays are read-only views of the replay wherever possible, as a copy might not fit into memory: write or
        copy them before more data is added.
        """
        chunks = self._rings.chunks(self._arrays(self._format.fixed), CHUNK_ROWS)
        if self._format.extras:
            chunks += self._rings.chunks(self._extra_arrays(), CHUNK_ROWS)
        return [*chunks, self._header()]

    def _arrays(self, names: Iterable[str]) -> dict[str, Array]:
        return {name: self._rings.columns[name] for name in names}

    def _extra_arrays(self) -> dict[str, Array]:
        return self._arrays(self._format.extras) if self._on_device is None else self._on_device.arrays(self.n_envs)

    def _header(self) -> dict[str, Array]:
        return {
            "version": np.array(_CHUNK_VERSION),
            "cursor": self._rings.cursor.copy(),
            "rows_per_env": np.array(self._rings.rows),
            "total_added": np.array(self.total_added),
            "observation_space": np.array(json.dumps(space_to_json(self.observation_space))),
            "action_space": np.array(json.dumps(space_to_json(self.action_space))),
        }

    @classmethod
    def from_chunks(
        cls,
        chunks: Sequence[Mapping[str, Array]],
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        capacity: int,
        n_envs: int = 1,
        *,
        extras: ExtraColumns | None = None,
        directory: str | Path | None = None,
        extras_device: torch.device | str | None = None,
    ) -> "SequenceReplay":
        """Return the replay that `chunks` described, exactly: indices, ring positions and open episodes included.

        Raises:
            ValueError: the chunks are incomplete or belong to other spaces, extras, sizes or another version.
        """
        replay = cls(
            observation_space,
            action_space,
            capacity,
            n_envs,
            extras=extras,
            directory=directory,
            extras_device=extras_device,
        )
        if not chunks or "version" not in chunks[-1]:
            raise ValueError(
                "chunks must end with the header that SequenceReplay.chunks() wrote, got none; save it again"
            )
        replay._restore_header(chunks[-1])
        late = [any(name.startswith("extras/") for name in chunk) for chunk in chunks[:-1]]
        extra_arrays = replay._extra_arrays()
        for into, of_extras in ((replay._arrays(replay._format.fixed), False), (extra_arrays, True)):
            mine = [chunk for chunk, is_late in zip(chunks, late, strict=False) if is_late == of_extras]
            if into or mine:
                replay._rings.restore(mine, into)
        if replay._on_device is not None:
            replay._on_device.load(extra_arrays)
        return replay

    def _restore_header(self, header: Mapping[str, Array]) -> None:
        mine = self._header()
        if set(header) != set(mine) or int(header["version"]) != _CHUNK_VERSION:
            raise ValueError(
                f"chunks must have a header of version {_CHUNK_VERSION} with {sorted(mine)}, got version "
                f"{header['version']} with {sorted(header)}; read them with the version of mbrl_gym that wrote them"
            )
        for name in ("observation_space", "action_space"):
            if str(header[name]) != str(mine[name]):
                saved = space_from_json(json.loads(str(header[name])))
                raise ValueError(
                    f"{name} must be the one the chunks were saved with, {saved}, got {getattr(self, name)}"
                )
        saved_layout = (len(header["cursor"]), int(header["rows_per_env"]))
        if saved_layout != (self.n_envs, self._rings.rows):
            raise ValueError(
                f"n_envs and capacity must be those the chunks were saved with, n_envs = {saved_layout[0]} and "
                f"{saved_layout[1]} rows per env, got {self.n_envs} and {self._rings.rows} (capacity = {self.capacity})"
            )
        self._rings.cursor[:] = header["cursor"]
        self.total_added = int(header["total_added"])


def _numpy(value: Any) -> Array:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        # numpy has no bfloat16, which is what autocast hands out.
        return np.asarray(value.float() if value.dtype == torch.bfloat16 else value)
    return np.asarray(value)


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
