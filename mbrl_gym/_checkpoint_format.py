"""What is inside a checkpoint's files: values to bytes and back, every byte checked before it is parsed."""

import hashlib
import io
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

FORMAT = 1
JSON_LIMIT = 8 << 20  # bytes: hostile JSON takes some twenty times its size in memory
CONFIG_DEPTH = 64  # levels: stays clear of the interpreter's recursion limit, here and at load
MANIFEST, CONFIG = "manifest.json", "config.json"
REMEDY = "copy the checkpoint again, or save a new one"
CHUNK = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_-]{0,99})-[0-9]{8,18}-([0-9a-f]{32})\.npz")

_FILE = re.compile(r"config\.json|[A-Za-z0-9_][A-Za-z0-9_-]{0,99}\.(safetensors|npz)")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SEAL = re.compile(rb'\{\n "sha256": "([0-9a-f]{64})",')

Arrays = Mapping[str, npt.NDArray[Any]]
Entry = dict[str, Any]  # {"size": bytes, "sha256": digest}, a chunk's with its "name" too


class CheckpointError(RuntimeError):
    """A checkpoint cannot be saved or loaded; the message names the path, the rule, what was found and the remedy."""


class MissingCheckpoint(CheckpointError, FileNotFoundError):  # noqa: N818
    """There is no complete checkpoint at the path."""


class CorruptCheckpoint(CheckpointError):  # noqa: N818
    """A file of the checkpoint is absent, is not what its manifest says, or breaks the format's rules."""


class ForeignCheckpoint(CheckpointError):  # noqa: N818
    """The path holds something else: not a checkpoint, or one of another kind."""


class NewerCheckpoint(CheckpointError):  # noqa: N818
    """The checkpoint was written by a later version of the library."""


class UnsavableContent(CheckpointError, ValueError):  # noqa: N818
    """The caller asks to save a value that the format cannot hold."""


def check_json(value: object, key: str, depth: int = 0) -> None:
    if depth > CONFIG_DEPTH:
        raise UnsavableContent(f"{key[:200]}: config may be nested {CONFIG_DEPTH} deep; does it contain itself?")
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise UnsavableContent(f"{key}: the keys of a JSON object must be strings; got {name!r}")
            check_json(item, f"{key}.{name}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_json(item, f"{key}[{index}]", depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UnsavableContent(f"{key}: JSON has no {value}; save None, or put it into an array")
    elif isinstance(value, int) and value.bit_length() > 4096:  # the interpreter refuses to parse some 14,000 bits
        raise UnsavableContent(f"{key}: an integer may have 4096 bits, this one has {value.bit_length()}")
    elif not (value is None or isinstance(value, str | int | float)):
        raise UnsavableContent(f"{key}: not a JSON value: {type(value).__name__}; convert it, such as by .item()")


def pack_tensors(group: str, tensors: Mapping[str, torch.Tensor]) -> bytes:
    copies: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or name == "__metadata__":
            raise UnsavableContent(f"tensors.{group}.{name}: must be a strided tensor; got {type(tensor).__name__}")
        plain = tensor.detach().resolve_conj().resolve_neg()
        # safetensors refuses tensors that share memory, so each is copied
        copies[name] = plain.to("cpu", copy=True, memory_format=torch.contiguous_format)
    try:
        data: bytes = safetensors.torch.save(copies)
    except (KeyError, ValueError, TypeError, safetensors.SafetensorError) as error:
        dtypes = sorted({str(tensor.dtype) for tensor in copies.values()})
        raise UnsavableContent(f"tensors.{group}: safetensors cannot hold it: {error!r}; dtypes {dtypes}") from error
    return data


def pack_arrays(where: str, arrays: Arrays) -> bytes:
    """An uncompressed npz, the same bytes for the same arrays: members are sorted and dated 1980."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays.items(), key=lambda item: str(item[0])):
            if not isinstance(name, str) or not name.isprintable() or "\\" in name:  # zipfile would rewrite it
                raise UnsavableContent(f"{where}: an array's name must be printable without backslash; got {name!r}")
            if not isinstance(array, np.ndarray | np.generic) or isinstance(array, np.ma.MaskedArray):
                raise UnsavableContent(f"{where}.{name}: must be a NumPy array; got {type(array).__name__}")
            if array.dtype.kind not in "biufcSUmM":
                raise UnsavableContent(f"{where}.{name}: only pickle could hold {array.dtype!r}; convert it to numbers")
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    return buffer.getvalue()


def dump(name: str, value: dict[str, Any]) -> bytes:
    data = json.dumps(value, indent=1, allow_nan=False).encode()
    if len(data) > JSON_LIMIT:  # what is saved must load
        raise UnsavableContent(f"{name}: must be at most {JSON_LIMIT:,} bytes, is {len(data):,}; use arrays or less")
    return data


def seal(manifest: dict[str, Any]) -> bytes:
    """The manifest as JSON that begins with the hash of itself, taken while that hash reads as zeros."""
    blank = dump(MANIFEST, {"sha256": "0" * 64, **manifest})
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1)


def entry_of(data: bytes) -> Entry:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def load_manifest(file: Path) -> dict[str, Any]:
    """The manifest, with its own hash, its format and all names, sizes and digests checked."""
    raw = read(file, JSON_LIMIT)
    seal = _SEAL.match(raw)
    digest = hashlib.sha256(raw[: seal.start(1)] + b"0" * 64 + raw[seal.end(1) :]).hexdigest() if seal else None
    if seal is None or digest != seal[1].decode():
        raise corrupt(file, "must begin with the SHA-256 of itself", repr(raw[:80]))
    manifest = parse_json(file, raw)
    found = manifest.get("format")
    if isinstance(found, int) and found > FORMAT:
        rule = f"this version of mbrl-gym reads format {FORMAT}, the checkpoint has {found}"
        raise NewerCheckpoint(f"{file}: {rule}, written by {manifest.get('library')}; upgrade mbrl-gym")
    files, chunks = manifest.get("files"), manifest.get("chunks")
    if found != FORMAT or not isinstance(manifest.get("kind"), str):
        raise corrupt(file, f"must have format {FORMAT} and a kind", f"{found!r} and {manifest.get('kind')!r}")
    if not isinstance(files, dict) or not isinstance(chunks, dict) or CONFIG not in files:
        raise corrupt(file, f"must list files with {CONFIG}, and chunks", f"keys {sorted(manifest)[:10]}")
    for name, entry in files.items():
        if not _FILE.fullmatch(name) or not _is_entry(entry):
            raise corrupt(file, "must list plain files with size and sha256", f"{name!r}: {entry!r}")
    for stream, entries in chunks.items():
        for entry in entries if isinstance(entries, list) else [{}]:
            match = CHUNK.fullmatch(str(entry.get("name"))) if _is_entry(entry) else None
            if match is None or match[1] != stream or not entry["sha256"].startswith(match[2]):
                raise corrupt(file, "must list plain chunks with name, size and sha256", f"{stream!r}: {entry!r}")
    return manifest


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("size"), int) or entry["size"] < 0:
        return False
    return bool(_DIGEST.fullmatch(str(entry.get("sha256"))))


def parse_json(file: Path, raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise corrupt(file, "must be valid JSON", str(error)) from error
    if not isinstance(value, dict):
        raise corrupt(file, "must be a JSON object", type(value).__name__)
    return value


def load_tensors(file: Path, entry: Entry, device: str | torch.device) -> dict[str, torch.Tensor]:
    data = read_verified(file, entry)
    try:
        tensors: dict[str, torch.Tensor] = safetensors.torch.load(data)
    except Exception as error:  # the file can be hostile: its hash only says that it is what was published
        raise corrupt(file, "must be a safetensors file", repr(error)) from error
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def load_arrays(file: Path, entry: Entry) -> Arrays:
    data = read_verified(file, entry)
    arrays: dict[str, npt.NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(info.file_size for info in archive.infolist()) > len(data):
                raise ValueError("members that are larger than the file: compressed, or over each other")
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED or not info.filename.endswith(".npy"):
                    raise ValueError(f"the member {info.filename!r}, which is compressed, or no .npy")
                member = io.BytesIO(archive.read(info))
                arrays[info.filename.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
    except Exception as error:  # as above
        raise corrupt(file, "must be an uncompressed npz of plain arrays", repr(error)) from error
    return arrays


def read(file: Path, limit: int) -> bytes:
    try:
        status = os.lstat(file)
        if not stat.S_ISREG(status.st_mode):  # a symlink could lead anywhere, a pipe never end
            raise corrupt(file, "must be a plain file", stat.filemode(status.st_mode))
        if status.st_size > limit:
            raise corrupt(file, f"must have at most {limit:,} bytes", f"{status.st_size:,}")
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise corrupt(file, "must be there", "nothing") from error


def read_verified(file: Path, entry: Entry) -> bytes:
    data = read(file, entry["size"])
    if len(data) != entry["size"]:
        raise corrupt(file, f"must have {entry['size']:,} bytes", f"{len(data):,}")
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry["sha256"]:
        raise corrupt(file, f"must have the SHA-256 {entry['sha256']}", digest)
    return data


def corrupt(file: Path, rule: str, found: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(f"{file}: {rule}; found {found[:500]}; {REMEDY}")
