"""Rings: the storage under `SequenceReplay`, one ring of rows per environment, in RAM or in memory-mapped files."""

import math
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Column:
    """The shape and dtype of one row's entry in a column."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * self.dtype.itemsize


class NoRoomError(MemoryError):
    """Columns that do not fit.

    Attributes:
        facts: what they need and what there is.
    """

    def __init__(self, where: str, facts: str, remedy: str) -> None:
        super().__init__(f"capacity must fit into the {where}: {facts}; {remedy}")
        self.facts = facts


class Rings:
    """Named columns [n_envs, rows, ...] that are written in a circle, env by env.

    ``cursor[env]`` counts the rows ever written for an env and never wraps. Row ``c`` of an env has the absolute index
    ``c * n_envs + env``, which is never reused, and lies in slot ``c % rows``.

    Attributes:
        layout: the columns by name.
        columns: the arrays [n_envs, rows, *shape] by name. What was never written is zero.
        cursor: [n_envs] int64.
    """

    def __init__(self, layout: Mapping[str, Column], n_envs: int, rows: int, directory: Path | None = None) -> None:
        self.layout = dict(layout)
        self.n_envs = n_envs
        self.rows = rows
        self.columns = _allocate(self.layout, n_envs, rows, directory)
        self.cursor = np.zeros(n_envs, np.int64)

    @property
    def oldest(self) -> Array:
        """[n_envs] int64, the first row of each env that is still here."""
        return np.maximum(self.cursor - self.rows, 0)

    def __len__(self) -> int:
        return int(np.minimum(self.cursor, self.rows).sum())

    def append(self, env: int | Array, values: Mapping[str, Array]) -> None:
        """Write a new row for each env of ``env`` [K], from ``values`` [n_envs, ...] of every column.

        An int instead of an array makes these scalar assignments, which are ten times as fast for one env.
        """
        slot = self.cursor[env] % self.rows
        for name, column in self.columns.items():
            column[env, slot] = values[name][env]
        self.cursor[env] += 1

    def amend(self, env: int | Array, values: Mapping[str, Array]) -> None:
        """Overwrite the given columns of the newest row of each env of ``env`` [K], from ``values`` [n_envs, ...]."""
        slot = (self.cursor[env] - 1) % self.rows
        for name, value in values.items():
            self.columns[name][env, slot] = value[env]

    def written(self, index: Array) -> Array:
        """Return whether the rows of absolute ``index`` [...] were ever written: [...] bool."""
        row, env = np.divmod(index, self.n_envs)
        return np.asarray((row >= 0) & (row < self.cursor[env]))

    def stored(self, index: Array) -> Array:
        """Return whether the rows of absolute ``index`` [...] are here now: [...] bool."""
        row, env = np.divmod(index, self.n_envs)
        return np.asarray((row >= self.oldest[env]) & (row < self.cursor[env]))

    def positions(self, index: Array) -> Array:
        """Return where the stored rows of absolute ``index`` [...] lie, for `take` and `put`: [...] int64."""
        row, env = np.divmod(index, self.n_envs)
        return np.asarray(env * self.rows + row % self.rows)

    def take(self, name: str, position: Array) -> Array:
        """Return a copy of one column's rows at ``position`` [...]: [..., *shape]."""
        # numpy on purpose: torch's advanced indexing of uint8 rows is ten times as slow (5.1 against 0.5 ms for 12 MB).
        return np.asarray(self._flat(name).take(position, axis=0))

    def put(self, name: str, position: Array, values: Array) -> None:
        """Overwrite one column's rows at ``position`` [K] by ``values`` [K, *shape]."""
        self._flat(name)[position] = values

    def _flat(self, name: str) -> Array:
        """Return a view [n_envs * rows, ...] of a column: gathering along one axis is what numpy does fastest.

        Made anew each time, so that a deep copy of the ring never reads from the columns of its original.
        """
        return self.columns[name].reshape(-1, *self.layout[name].shape)

    def read(self, name: str, env: int, begin: int, end: int) -> Array:
        """Return the rows ``begin`` to ``end`` of an env: a read-only view where they lie in one piece, else a copy."""
        return self._read(self.columns[name][env], begin, end)

    def _read(self, column: Array, begin: int, end: int) -> Array:
        first = begin % self.rows
        wrapped = first + end - begin - self.rows
        piece = column[first : first + end - begin]
        if wrapped > 0:
            piece = np.concatenate([piece, column[:wrapped]])
        piece.flags.writeable = False
        return np.asarray(piece)

    def chunks(self, columns: Mapping[str, Array], size: int) -> list[dict[str, Array]]:
        """Return all stored rows of ``columns`` [n_envs, rows, ...], each env cut at the multiples of ``size``."""
        found: list[dict[str, Array]] = []
        for env, (oldest, end) in enumerate(zip(self.oldest.tolist(), self.cursor.tolist(), strict=True)):
            for first in range(oldest - oldest % size, end, size):
                begin = max(first, oldest)
                cut = {name: self._read(column[env], begin, min(first + size, end)) for name, column in columns.items()}
                found.append({"env": np.array(env), "begin": np.array(begin), **cut})
        return found

    def restore(self, chunks: Iterable[Mapping[str, Array]], into: Mapping[str, Array]) -> None:
        """Write what `chunks` returned into the columns ``into`` [n_envs, rows, ...], after ``cursor`` was set.

        Raises:
            ValueError: the chunks have another layout, or are not all rows that ``cursor`` says are stored, once each.
        """
        wanted = {name: (column.shape[2:], column.dtype) for name, column in into.items()}
        rows: dict[tuple[int, int], int] = {}
        for chunk in chunks:
            columns = {name: array for name, array in chunk.items() if name not in ("env", "begin")}
            found = {name: (array.shape[1:], array.dtype) for name, array in columns.items()}
            if found != wanted or "env" not in chunk or "begin" not in chunk:
                raise ValueError(
                    f"chunks must hold {wanted}, got {found}; pass the spaces and extras they were saved with"
                )
            env, begin, sizes = int(chunk["env"]), int(chunk["begin"]), {len(array) for array in columns.values()}
            end = begin + max(sizes)
            known = 0 <= env < self.n_envs and self.oldest[env] <= begin and end <= self.cursor[env]
            if len(sizes) != 1 or not known:
                raise ValueError(f"chunks must lie within the header's rows, got rows {begin} to {end} of env {env}")
            rows[env, begin] = end - begin
            for name, array in columns.items():
                into[name][env, np.arange(begin, end) % self.rows] = array
        if sum(rows.values()) != len(self):
            raise ValueError(
                f"chunks must hold each of the {len(self)} rows of {sorted(wanted)} once, got {sum(rows.values())}; "
                "pass all chunks of one save"
            )


def available_memory() -> int | None:
    """Return the bytes of memory that can be had without swapping, or None where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _allocate(layout: dict[str, Column], n_envs: int, rows: int, directory: Path | None) -> dict[str, Array]:
    need = {name: n_envs * rows * column.row_bytes for name, column in layout.items()}
    shapes = {name: (n_envs, rows, *column.shape) for name, column in layout.items()}
    if directory is None:
        _check_room(need, available_memory(), "memory", "choose a smaller capacity, or give directory= to use the disk")
        # zeros() maps pages that the system hands out on the first write, so an empty replay costs nothing.
        return {name: np.zeros(shapes[name], column.dtype) for name, column in layout.items()}
    directory.mkdir(parents=True, exist_ok=True)
    paths = {name: directory / f"{quote(name, safe='')}.npy" for name in layout}
    replaced = _check_files(directory, {path: (shapes[name], layout[name].dtype) for name, path in paths.items()})
    _check_room(
        need,
        shutil.disk_usage(directory).free + replaced,
        f"disk space in {directory}",
        "choose a smaller capacity, or another directory",
    )
    columns: dict[str, Array] = {}
    for name, path in paths.items():
        # A new file, not the old one cut to length: another replay that still maps the old one keeps its data.
        path.unlink(missing_ok=True)
        memmap = np.lib.format.open_memmap(path, mode="w+", dtype=layout[name].dtype, shape=shapes[name])
        columns[name] = np.asarray(memmap)
    return columns


def _check_room(need: dict[str, int], available: int | None, what: str, remedy: str) -> None:
    """Raise NoRoomError unless all columns together fit."""
    total = sum(need.values())
    if available is None or total <= available:
        return
    largest = sorted(need.items(), key=lambda item: -item[1])[:3]
    columns = ", ".join(f"{name} {_gigabytes(size)}" for name, size in largest)
    facts = f"{_gigabytes(total)} are needed (largest columns: {columns}), {_gigabytes(available)} are available"
    raise NoRoomError(what, facts, remedy)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


def _check_files(directory: Path, expected: dict[Path, tuple[tuple[int, ...], np.dtype[Any]]]) -> int:
    """Return the bytes on disk of the files to be replaced; raise ValueError where the directory holds other arrays."""
    size = 0
    for path in sorted(directory.glob("*.npy")):
        found, wanted = _layout_of(path), expected.get(path)
        if found is None or found != wanted:
            raise ValueError(
                f"directory must be empty or hold a replay of the same layout, but {path} is {_describe(found)} "
                f"where {_describe(wanted)} is expected; give another directory or delete the files in it"
            )
        size += getattr(path.stat(), "st_blocks", 0) * 512
    return size


def _layout_of(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array.shape, array.dtype


def _describe(layout: tuple[tuple[int, ...], np.dtype[Any]] | None) -> str:
    return "no array of a replay" if layout is None else f"{layout[1]} of shape {layout[0]}"
