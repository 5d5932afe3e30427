"""A checkpoint is a directory: JSON, safetensors and npz, written atomically, hashed, and never unpickled.

```
<path>/CURRENT                             the name of the current version folder
<path>/v00000001/manifest.json             format, kind, and the size and SHA-256 of everything below
<path>/v00000001/config.json               what the caller wants to remember
<path>/v00000001/<group>.safetensors       one per group of tensors
<path>/v00000001/<group>.npz               one per group of arrays
<path>/chunks/<stream>-<number>-<sha>.npz  append-only pieces of a replay, shared by the versions
```

A version becomes current by one `os.replace` of CURRENT, after everything that it needs is on the disk: a process
killed at any moment leaves the previous version. Any number of processes may read a checkpoint while one writes it.
"""

import errno
import importlib.metadata
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from mbrl_gym._checkpoint_format import (
    CHUNK,
    CONFIG,
    FORMAT,
    MANIFEST,
    Arrays,
    CheckpointError,
    CorruptCheckpoint,
    Entry,
    ForeignCheckpoint,
    MissingCheckpoint,
    NewerCheckpoint,
    UnsavableContent,
    check_json,
    corrupt,
    dump,
    entry_of,
    load_arrays,
    load_manifest,
    load_tensors,
    pack_arrays,
    pack_tensors,
    parse_json,
    read,
    read_verified,
    seal,
)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CorruptCheckpoint",
    "ForeignCheckpoint",
    "MissingCheckpoint",
    "NewerCheckpoint",
    "UnsavableContent",
    "is_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
]

CURRENT, CHUNKS, TEMPORARY = "CURRENT", "chunks", ".tmp-"

_VERSION = re.compile(r"v[0-9]{8,18}")
_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Everything that is saved together.

    `tensors` and `arrays` map a group to names to values, one file per group. `chunks` maps a stream to its pieces in
    order: a piece that is on the disk already is not written again, so a growing replay costs what it grew by.

    Attributes:
        kind: What it is a checkpoint of, such as "model" or "dyna"; `load_checkpoint` can insist on it.
        config: A JSON object. Floats come back bit for bit, tuples as lists; NaN and infinity are refused.
        tensors: Any strided tensors; they come back contiguous and apart from each other.
        arrays: NumPy arrays of numbers, booleans, strings, bytes or dates.
        chunks: Arrays likewise. A lazy sequence works: one piece is held at a time.
    """

    kind: str
    config: dict[str, Any]
    tensors: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)
    arrays: Mapping[str, Arrays] = field(default_factory=dict)
    chunks: Mapping[str, Sequence[Arrays]] = field(default_factory=dict)


def save_checkpoint(path: str | os.PathLike[str], checkpoint: Checkpoint, *, keep: int = 1) -> Path:
    """The folder of the version that was written; it is current, complete and on the disk on return.

    Until then, and after any failure, the previous version stays the current one. One process may save at a time.

    Args:
        path: The checkpoint's directory: absent, empty, or a checkpoint already.
        checkpoint: What to save.
        keep: How many of the newest versions stay. To go back to one, write its name into CURRENT.

    Raises:
        UnsavableContent: A value that the format cannot hold; a ValueError too.
        ForeignCheckpoint: `path` is a file or somebody else's directory.
        OSError: The disk is full, read-only or not ours to write.
    """
    if keep < 1:
        raise ValueError(f"keep: must be at least 1, the version being saved; got {keep}")
    root = Path(path)
    _check_target(root)
    config = _config_bytes(checkpoint)
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    temporary, final = _temporary(root), root / f"v{max([_committed(root), *_versions(root)]) + 1:08d}"
    written: list[Path] = []
    try:
        root.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            _sync_folder(folder.parent)
        chunks = {name: _write_chunks(root, name, pieces, written) for name, pieces in checkpoint.chunks.items()}
        _write_version(temporary, checkpoint, config, chunks)
        os.rename(temporary, final)
        _sync_folder(root)
        _write_atomically(root / CURRENT, final.name.encode())
        _sync_folder(root)
    except BaseException as error:
        with suppress(OSError):
            _roll_back(root, final, written, missing)
        if isinstance(error, OSError):
            rule = "the folder must be writable and its disk have room; what was saved before is untouched"
            raise OSError(error.errno, f"{root}: cannot save the checkpoint ({error}); {rule}") from error
        raise
    with suppress(OSError, CheckpointError):  # the version is safe; what cannot be removed now, the next save removes
        _clean(root, keep)
    return final


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    kind: str | None = None,
    groups: Collection[str] | None = None,
    device: str | torch.device = "cpu",
) -> Checkpoint:
    """The current version at `path`; each file that is read is checked against its SHA-256 before it is parsed.

    Args:
        path: The checkpoint's directory.
        kind: Refuse a checkpoint of another kind. None takes any.
        groups: The groups and streams to read; the others are left out. None reads all.
        device: Where the tensors go.

    Raises:
        MissingCheckpoint: There is none.
        CorruptCheckpoint: A file is damaged, absent, or no plain file.
        ForeignCheckpoint: `path` is not a checkpoint, or one of another kind.
        NewerCheckpoint: A later version of the library wrote it.
        CheckpointError: It has no such group.
    """
    root = Path(path)
    version = _current(root)
    while True:
        try:
            return _load_version(root, version, kind, groups, device)
        except CheckpointError:
            newer = _current(root)
            if newer == version:
                raise
            version = newer  # somebody saved, and removed the version that we were reading


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether `path` looks like a checkpoint: its CURRENT names a version that has a manifest. Verifies no content."""
    try:
        return (Path(path) / _current(Path(path)) / MANIFEST).is_file()
    except (CheckpointError, OSError):
        return False


def _config_bytes(checkpoint: Checkpoint) -> bytes:
    names = (checkpoint.kind, *checkpoint.tensors, *checkpoint.arrays, *checkpoint.chunks)
    for name in names:
        if not isinstance(name, str) or not _GROUP.fullmatch(name):
            raise UnsavableContent(f"a kind, group or stream must be a plain word ({_GROUP.pattern}); got {name!r}")
    if not isinstance(checkpoint.config, dict):
        raise UnsavableContent(f"config: must be a dict; got {type(checkpoint.config).__name__}")
    check_json(checkpoint.config, "config")
    return dump(CONFIG, checkpoint.config)


def _write_version(folder: Path, checkpoint: Checkpoint, config: bytes, chunks: Mapping[str, Sequence[Entry]]) -> None:
    os.mkdir(folder)
    files = {CONFIG: _write(folder / CONFIG, config)}
    for group, tensors in checkpoint.tensors.items():
        name = f"{group}.safetensors"
        files[name] = _write(folder / name, pack_tensors(group, tensors))
    for group, arrays in checkpoint.arrays.items():
        name = f"{group}.npz"
        files[name] = _write(folder / name, pack_arrays(f"arrays.{group}", arrays))
    try:
        library = importlib.metadata.version("mbrl-gym")
    except importlib.metadata.PackageNotFoundError:
        library = "unknown"
    created = datetime.now(UTC).isoformat(timespec="seconds")
    head = {"format": FORMAT, "kind": checkpoint.kind, "library": library, "created": created}
    _write(folder / MANIFEST, seal({**head, "files": files, "chunks": chunks}))
    _sync_folder(folder)


def _write_chunks(root: Path, stream: str, pieces: Sequence[Arrays], written: list[Path]) -> list[Entry]:
    """The manifest's entries for `pieces`; writes those that are not on the disk and adds them to `written`."""
    folder = root / CHUNKS
    folder.mkdir(exist_ok=True)
    # by content, not by number: a replay that drops its oldest pieces renumbers the rest
    found = [match for entry in folder.iterdir() if (match := CHUNK.fullmatch(entry.name)) and match[1] == stream]
    known = {match[2]: match[0] for match in found}
    entries = []
    for number, piece in enumerate(pieces):
        data = pack_arrays(f"chunks.{stream}[{number}]", piece)
        entry = entry_of(data)
        digest = entry["sha256"][:32]
        file = folder / known.setdefault(digest, f"{stream}-{number:08d}-{digest}.npz")
        if not file.exists():
            written.append(file)
            _write_atomically(file, data)
        elif file.stat().st_size != len(data):  # damaged
            _write_atomically(file, data)
        entries.append({"name": file.name, **entry})
    _sync_folder(folder)
    return entries


def _temporary(folder: Path) -> Path:
    return folder / f"{TEMPORARY}{uuid.uuid4().hex}"


def _write(file: Path, data: bytes) -> Entry:
    with open(file, "xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return entry_of(data)


def _write_atomically(file: Path, data: bytes) -> None:
    temporary = _temporary(file.parent)
    _write(temporary, data)
    os.replace(temporary, file)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


def _is_ours(entry: Path) -> bool:
    """Whether a save may have left `entry` in a checkpoint's directory, even one that was killed."""
    if entry.name == CHUNKS and entry.is_dir():
        return all(CHUNK.fullmatch(e.name) or e.name.startswith(TEMPORARY) for e in entry.iterdir())
    return entry.name == CURRENT or entry.name.startswith(TEMPORARY) or bool(_VERSION.fullmatch(entry.name))


def _check_target(root: Path) -> None:
    if not os.path.lexists(root) or is_checkpoint(root):
        return
    remedy = "nothing was written; choose another path, or move it away"
    if not root.is_dir():
        raise ForeignCheckpoint(f"{root}: a checkpoint is a directory, and this is a file; {remedy}")
    foreign = sorted(entry.name for entry in root.iterdir() if not _is_ours(entry))
    if foreign:
        raise ForeignCheckpoint(f"{root}: must be empty or a checkpoint; found {foreign[:5]}; {remedy}")


def _versions(root: Path) -> list[int]:
    found = root.iterdir() if root.is_dir() else ()
    return sorted(int(entry.name[1:]) for entry in found if _VERSION.fullmatch(entry.name))


def _committed(root: Path) -> int:
    """The number that CURRENT names, 0 without."""
    try:
        return int(_current(root)[1:])
    except CheckpointError:
        return 0


def _roll_back(root: Path, final: Path, written: Iterable[Path], missing: Iterable[Path]) -> None:
    """Removes what a failed save wrote, unless it got as far as becoming current."""
    _sweep(root)
    if f"v{_committed(root):08d}" != final.name:
        for entry in (final, *written):
            _discard(entry)
    for folder in (root / CHUNKS, *missing):
        with suppress(OSError):  # it is in use
            folder.rmdir()


def _clean(root: Path, keep: int) -> None:
    """Removes all but the newest `keep` versions, what killed saves left, and the chunks that no version needs."""
    _sweep(root)
    versions = _versions(root)
    for number in versions[:-keep]:
        trash = _temporary(root)
        os.rename(root / f"v{number:08d}", trash)  # killed here, a version is whole or gone
        _discard(trash)
    needed: set[str] = set()
    for number in versions[-keep:]:
        manifest = load_manifest(root / f"v{number:08d}" / MANIFEST)
        needed.update(entry["name"] for entries in manifest["chunks"].values() for entry in entries)
    for file in (root / CHUNKS).glob("*.npz"):
        if CHUNK.fullmatch(file.name) and file.name not in needed:
            _discard(file)


def _sweep(root: Path) -> None:
    for entry in (*root.glob(f"{TEMPORARY}*"), *root.glob(f"{CHUNKS}/{TEMPORARY}*")):
        _discard(entry)


def _discard(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


def _current(root: Path) -> str:
    file = root / CURRENT
    if not os.path.lexists(file):
        if root.exists() and not (root.is_dir() and all(map(_is_ours, root.iterdir()))):
            raise ForeignCheckpoint(f"{root}: must be a checkpoint's directory; it has no {CURRENT}; check the path")
        raise MissingCheckpoint(f"{root}: there is no complete checkpoint here; check the path, or save one")
    name = read(file, limit=64).decode("ascii", "replace").removesuffix("\n")
    if not _VERSION.fullmatch(name):
        raise corrupt(file, "must name a version folder, such as v00000001", repr(name))
    return name


def _load_version(
    root: Path, version: str, kind: str | None, groups: Collection[str] | None, device: str | torch.device
) -> Checkpoint:
    folder = root / version
    for plain in (folder, root / CHUNKS):
        if plain.is_symlink():
            raise corrupt(plain, "must be a plain folder", "a symlink")
    if not folder.is_dir():
        raise corrupt(root / CURRENT, f"must name a version folder that is there, and names {version}", "none")
    manifest = load_manifest(folder / MANIFEST)
    if kind is not None and manifest["kind"] != kind:
        rule = f"must be a checkpoint of kind {kind!r}, is {manifest['kind']!r}"
        raise ForeignCheckpoint(f"{root}: {rule}; load it as that, or check the path")
    files = dict(manifest["files"])
    config = parse_json(folder / CONFIG, read_verified(folder / CONFIG, files.pop(CONFIG)))
    known = {Path(name).stem for name in files} | set(manifest["chunks"])
    wanted = known if groups is None else set(groups)
    if not wanted <= known:
        raise CheckpointError(f"{root}: groups: it has {sorted(known)}, not {sorted(wanted - known)}; ask for those")
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    arrays: dict[str, Arrays] = {}
    for file in (folder / name for name in files):
        if file.stem in wanted and file.suffix == ".npz":
            arrays[file.stem] = load_arrays(file, files[file.name])
        elif file.stem in wanted:
            tensors[file.stem] = load_tensors(file, files[file.name], device)
    chunks: dict[str, list[Arrays]] = {}
    for stream, entries in manifest["chunks"].items():
        if stream in wanted:
            chunks[stream] = [load_arrays(root / CHUNKS / entry["name"], entry) for entry in entries]
    return Checkpoint(manifest["kind"], config, tensors, arrays, chunks)
