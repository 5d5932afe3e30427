import dataclasses
import hashlib
import io
import json
import math
import os
import pickle
import random
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mbrl_gym import checkpoint as module
from mbrl_gym.checkpoint import (
    Checkpoint,
    CheckpointError,
    CorruptCheckpoint,
    ForeignCheckpoint,
    MissingCheckpoint,
    NewerCheckpoint,
    UnsavableContent,
    is_checkpoint,
    load_checkpoint,
    save_checkpoint,
)


def content(step: int) -> Checkpoint:
    """A small checkpoint that says `step` everywhere, with a replay that grows by a chunk a step."""
    return Checkpoint(
        kind="model",
        config={"step": step, "name": "é", "nested": {"list": [1, 0.1, None, True]}},
        tensors={"model": {"w": torch.full((3, 4), float(step))}, "optimizer": {"w": torch.full((3, 4), -float(step))}},
        arrays={"starts": {"obs": np.full((2, 3), step, np.uint8)}},
        chunks={"replay": [{"obs": np.full((4, 2), i), "reward": np.full(4, i / 3)} for i in range(step + 1)]},
    )


def assert_same(found: Checkpoint, wanted: Checkpoint) -> None:
    assert found.kind == wanted.kind
    assert found.config == wanted.config
    assert set(found.tensors) == set(wanted.tensors)
    for group, tensors in wanted.tensors.items():
        assert set(found.tensors[group]) == set(tensors)
        for name, tensor in tensors.items():
            assert found.tensors[group][name].dtype == tensor.dtype
            assert torch.equal(found.tensors[group][name], tensor.detach())
    assert set(found.arrays) == set(wanted.arrays)
    assert {stream: len(pieces) for stream, pieces in found.chunks.items()} == {
        stream: len(pieces) for stream, pieces in wanted.chunks.items()
    }
    pairs = [(found.arrays[group], arrays) for group, arrays in wanted.arrays.items()]
    for stream, pieces in wanted.chunks.items():
        pairs += zip(found.chunks[stream], pieces, strict=True)
    for got, arrays in pairs:
        assert set(got) == set(arrays)
        for name, array in arrays.items():
            assert got[name].dtype == array.dtype
            np.testing.assert_array_equal(got[name], array, strict=True)


def files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def version_folder(path: Path) -> Path:
    return path / (path / "CURRENT").read_text()


def assert_clean(path: Path, chunks: int, versions: int = 1) -> None:
    entries = sorted(entry.name for entry in path.iterdir())
    assert [name for name in entries if not re.fullmatch(r"v\d{8}", name)] == ["CURRENT", "chunks"]
    assert len(entries) == 2 + versions
    assert len(list((path / "chunks").iterdir())) == chunks


def reseal(path: Path, edit) -> None:
    """Rewrites the manifest with its hash made right, as an attacker would."""
    file = version_folder(path) / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["sha256"]
    edit(manifest)
    file.write_bytes(module.seal(manifest))


def plant(path: Path, name: str, data: bytes) -> None:
    """Replaces a file of the version and makes all hashes right."""
    (version_folder(path) / name).write_bytes(data)
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    reseal(path, lambda manifest: manifest["files"].update({name: entry}))


def npz(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    return buffer.getvalue()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "c", content(1))
    return tmp_path / "c"


# round trips


def test_every_dtype_and_shape_comes_back(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    dtypes = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
    dtypes += [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
    tensors = {str(dtype): torch.tensor([[0, 1, 2]]).to(dtype) for dtype in dtypes}
    tensors |= {"zero-size": torch.zeros(0, 3), "0-d": torch.tensor(math.pi), "parameter": torch.nn.Parameter(base)}
    tensors |= {
        "transposed": base.T,
        "row": base[1],
        "shared": base,
        "shared again": base,
        "expanded": base[:1].expand(5, 4),
    }
    tensors |= {"conjugate": torch.tensor([1 + 2j]).conj(), "../odd name\0": torch.ones(1)}
    numbers = ["?", "i1", "u2", "i4", "i8", ">i4", "f2", "f4", "f8", "c16", "U3", "S2", "M8[s]", "m8[us]"]
    arrays = {dtype: np.array([[0, 1, 0]]).astype(dtype) for dtype in numbers}
    arrays |= {"zero-size": np.zeros((0, 3)), "0-d": np.array(2.5), "scalar": np.float32(3), "fortran": np.eye(3, 4).T}
    arrays |= {
        "strided": np.arange(10)[::3],
        "file": np.ones(1),
        "a": np.zeros(1),
        "a.npy": np.ones(1),
        "../x": np.ones(2),
    }
    wanted = Checkpoint(
        "dyna", {}, {"model": tensors, "empty": {}}, {"all": arrays, "empty": {}}, {"s": [arrays, {}], "e": []}
    )
    save_checkpoint(tmp_path, wanted)
    found = load_checkpoint(tmp_path)
    assert_same(found, wanted)
    assert found.tensors["model"]["shared"].data_ptr() != found.tensors["model"]["shared again"].data_ptr()
    assert found.arrays["all"]["fortran"].flags.f_contiguous
    found.arrays["all"]["0-d"][...] = 1  # writable
    found.tensors["model"]["shared"].zero_()


def test_nan_payloads_and_signed_zeros_in_tensors_and_arrays_are_bit_exact(tmp_path):
    bits = np.array([0x7FC00001, 0xFFC00000, 0x80000000, 0x7F800000], np.uint32)
    numbers = bits.view(np.float32)
    save_checkpoint(
        tmp_path, Checkpoint("k", {}, {"t": {"x": torch.from_numpy(numbers.copy())}}, {"a": {"x": numbers}})
    )
    found = load_checkpoint(tmp_path)
    assert found.tensors["t"]["x"].numpy().tobytes() == bits.tobytes()
    assert found.arrays["a"]["x"].tobytes() == bits.tobytes()


def test_config_floats_and_big_integers_are_exact(tmp_path):
    draws = np.random.default_rng(0)
    floats = [float(x) for x in draws.integers(0, 2**63, 500).view(np.float64) if math.isfinite(x)]
    generator = np.random.PCG64(3).state  # 128-bit integers
    config = {
        "floats": [*floats, -0.0, 5e-324, 1e308],
        "generator": generator,
        "text": 'é\ud800\0"',
        "deep": {"": [[]]},
    }
    save_checkpoint(tmp_path, Checkpoint("k", config))
    found = load_checkpoint(tmp_path).config
    assert found == config
    assert math.copysign(1, found["floats"][-3]) == -1
    save_checkpoint(tmp_path, Checkpoint("k", {"pair": (1, 2)}))
    assert load_checkpoint(tmp_path).config == {"pair": [1, 2]}


def test_only_the_groups_that_are_asked_for_are_read(saved):
    (version_folder(saved) / "optimizer.safetensors").write_bytes(b"damaged")
    found = load_checkpoint(saved, groups=["model", "replay"])
    assert set(found.tensors) == {"model"}
    assert set(found.chunks) == {"replay"}
    assert not found.arrays
    with pytest.raises(CheckpointError, match=r"groups.*'starts'.*not \['polcy'\]"):
        load_checkpoint(saved, groups={"polcy"})


def test_tensors_go_to_the_device(saved):
    assert load_checkpoint(saved, device=torch.device("meta")).tensors["model"]["w"].device.type == "meta"
    assert load_checkpoint(saved).tensors["model"]["w"].device.type == "cpu"


def test_the_manifest_says_what_is_there(saved):
    manifest = json.loads((saved / "v00000001" / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert manifest["kind"] == "model"
    assert set(manifest["files"]) == {"config.json", "model.safetensors", "optimizer.safetensors", "starts.npz"}
    for name, entry in manifest["files"].items():
        data = (saved / "v00000001" / name).read_bytes()
        assert entry == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert [entry["name"] for entry in manifest["chunks"]["replay"]] == sorted(
        p.name for p in (saved / "chunks").iterdir()
    )
    with np.load(saved / "v00000001" / "starts.npz") as archive:  # a plain npz for anybody
        assert archive["obs"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_versions_grow_and_keep_is_kept(tmp_path):
    for step in range(5):
        folder = save_checkpoint(tmp_path, content(step), keep=3)
        assert folder == tmp_path / f"v{step + 1:08d}"
    assert_clean(tmp_path, chunks=5, versions=3)
    (tmp_path / "CURRENT").write_text("v00000003\n")  # by hand, back to an older one
    assert_same(load_checkpoint(tmp_path), content(2))
    assert save_checkpoint(tmp_path, content(0)).name == "v00000006"
    assert_clean(tmp_path, chunks=1)
    with pytest.raises(ValueError, match=r"keep: must be at least 1.*got 0"):
        save_checkpoint(tmp_path, content(0), keep=0)


def test_is_checkpoint(saved, tmp_path):
    assert is_checkpoint(saved)
    assert not is_checkpoint(tmp_path)
    assert not is_checkpoint(tmp_path / "absent")
    assert not is_checkpoint(saved / "CURRENT")


def test_a_reader_follows_a_writer(saved, monkeypatch):
    load_version, calls = module._load_version, []

    def overtaken(root, version, *rest):
        calls.append(version)
        if len(calls) == 1:
            save_checkpoint(saved, content(2))  # removes the version that is about to be read
        return load_version(root, version, *rest)

    monkeypatch.setattr(module, "_load_version", overtaken)
    assert_same(load_checkpoint(saved), content(2))
    assert calls == ["v00000001", "v00000002"]


# append-only chunks


def test_a_growing_replay_writes_only_its_new_chunks(tmp_path):
    save_checkpoint(tmp_path, content(2))
    before = {file: file.stat() for file in (tmp_path / "chunks").iterdir()}
    assert len(before) == 3
    save_checkpoint(tmp_path, content(4))
    for file, old in before.items():
        assert (file.stat().st_ino, file.stat().st_mtime_ns) == (old.st_ino, old.st_mtime_ns)
    assert_clean(tmp_path, chunks=5)
    assert_same(load_checkpoint(tmp_path), content(4))


def test_chunks_are_recognised_after_the_oldest_is_dropped_and_the_unneeded_go(tmp_path):
    save_checkpoint(tmp_path, content(3))
    before = {file.name: file.stat().st_ino for file in (tmp_path / "chunks").iterdir()}
    dropped = dataclasses.replace(content(3), chunks={"replay": content(3).chunks["replay"][1:]})
    save_checkpoint(tmp_path, dropped)
    after = {file.name: file.stat().st_ino for file in (tmp_path / "chunks").iterdir()}
    assert len(after) == 3
    assert after.items() <= before.items()
    assert_same(load_checkpoint(tmp_path), dropped)
    save_checkpoint(tmp_path, Checkpoint("model", {}))
    assert not list((tmp_path / "chunks").iterdir())


def test_a_changed_chunk_is_written_and_older_versions_keep_theirs(tmp_path):
    save_checkpoint(tmp_path, content(2), keep=2)
    pieces = list(content(2).chunks["replay"])
    changed = dataclasses.replace(content(2), chunks={"replay": [pieces[0], {"obs": np.zeros(2)}, pieces[2]]})
    save_checkpoint(tmp_path, changed, keep=2)
    assert_clean(tmp_path, chunks=4, versions=2)
    assert_same(load_checkpoint(tmp_path), changed)
    (tmp_path / "CURRENT").write_text("v00000001")
    assert_same(load_checkpoint(tmp_path), content(2))


def test_a_truncated_chunk_is_written_again(saved):
    chunk = next((saved / "chunks").iterdir())
    chunk.write_bytes(b"")
    save_checkpoint(saved, content(1))
    assert_same(load_checkpoint(saved), content(1))


def test_equal_arrays_are_equal_bytes():
    a = {"x": np.arange(3), "y": np.ones(2)}
    assert module.pack_arrays("a", a) == module.pack_arrays("b", dict(reversed(a.items())))
    assert module.pack_arrays("a", a) != module.pack_arrays("a", {**a, "y": np.zeros(2)})


def test_a_lazy_stream_is_held_one_piece_at_a_time(tmp_path):
    class Pieces(list):
        def __iter__(self):
            return ({"x": np.full(3, i)} for i in range(4))

    save_checkpoint(tmp_path, Checkpoint("k", {}, chunks={"s": Pieces()}))
    assert [piece["x"][0] for piece in load_checkpoint(tmp_path).chunks["s"]] == [0, 1, 2, 3]


# crashes


class Killed(BaseException):
    """Like SIGKILL: nothing that runs afterwards may touch the disk."""


STEPS = ["replace", "rename", "fsync", "mkdir", "unlink", "rmdir"]


def interrupt(monkeypatch, at: int, once: Exception | None) -> list[str]:
    """Lets the `at`-th change of the disk raise `once`, or it and all later ones. Returns the calls as they come."""
    calls: list[str] = []

    def guarded(name, real):
        def call(*args, **kwargs):
            calls.append(name)
            if len(calls) == at + 1 or (len(calls) > at and once is None):
                if name == "fsync" and stat.S_ISREG(os.fstat(args[0]).st_mode):
                    os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)  # what was not synced is lost
                raise once or Killed
            return None if name == "fsync" else real(*args, **kwargs)

        return call

    for name in STEPS:
        monkeypatch.setattr(os, name, guarded(name, getattr(os, name)))
    return calls


@pytest.mark.parametrize("once", [None, OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("before", [True, False], ids=["overwrite", "first"])
def test_a_crash_at_every_step_leaves_the_old_or_the_new(tmp_path, monkeypatch, before, once):
    outcomes, at, died = set(), 0, True
    while died:
        path, message = tmp_path / f"{at}" / "c", ""
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda handle: None)  # quick
            if before:
                save_checkpoint(path, content(1))
            calls = interrupt(patch, at, once)
            try:
                save_checkpoint(path, content(3))
                died = len(calls) > at  # a failure while cleaning up is no failure of the save
            except (Killed, KeyboardInterrupt, OSError) as error:
                message = str(error)
        if isinstance(once, OSError) and message:
            assert message.startswith(f"[Errno 28] {path}: cannot save the checkpoint")
        if is_checkpoint(path):
            found = load_checkpoint(path)
            outcomes.add(found.config["step"])
            assert_same(found, content(found.config["step"]))
        else:
            outcomes.add(None)
            with pytest.raises(MissingCheckpoint):
                load_checkpoint(path)
        for folder in path.glob("v*"):  # a version is whole or gone
            names = json.loads((folder / "manifest.json").read_text())["files"]
            assert set(names) < {file.name for file in folder.iterdir()}
        if isinstance(once, OSError) and message:  # rolled back: nothing half-written stays
            if not is_checkpoint(path):
                assert not path.exists()
            elif before and load_checkpoint(path).config["step"] == 1:
                assert_clean(path, chunks=2)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda handle: None)
            old = int((path / "CURRENT").read_text()[1:]) if is_checkpoint(path) else 0
            assert int(save_checkpoint(path, content(2)).name[1:]) > old
        assert_same(load_checkpoint(path), content(2))
        assert_clean(path, chunks=3)
        shutil.rmtree(path)
        at += 1
    assert at > 20
    assert outcomes == {1 if before else None, 3}


KILLS = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[2])
from test_checkpoint import assert_same, content
from mbrl_gym.checkpoint import load_checkpoint, save_checkpoint
path, draw, last = sys.argv[1], random.Random(0), 0
current = lambda: open(os.path.join(path, "CURRENT")).read()
save_checkpoint(path, content(0))
start = time.perf_counter()
save_checkpoint(path, content(0))
duration = time.perf_counter() - start
for kill in range(16):
    before, child = current(), os.fork()
    if child == 0:
        try:
            for step in range(last + 1, last + 10_000):
                save_checkpoint(path, content(step % 30))
        finally:
            os._exit(1)
    while current() == before:  # it is at work
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the child failed"
        time.sleep(0.001)
    time.sleep(draw.uniform(0.0, 2 * duration))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = load_checkpoint(path)
    assert_same(found, content(found.config["step"]))
    last = found.config["step"]
save_checkpoint(path, content(7))
print("survived", sorted(os.listdir(path)))
"""


def test_kill_9_at_random_moments(tmp_path):
    here = str(Path(__file__).parent)
    run = subprocess.run([sys.executable, "-c", KILLS, str(tmp_path / "c"), here], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "survived ['CURRENT', 'chunks', 'v" in run.stdout
    assert_clean(tmp_path / "c", chunks=8)


def test_debris_of_killed_saves_is_ignored_and_cleaned(saved):
    (saved / ".tmp-dead").mkdir()
    (saved / ".tmp-dead" / "model.safetensors").write_bytes(b"half")
    (saved / ".tmp-current").write_bytes(b"v0")
    (saved / "chunks" / ".tmp-dead").write_bytes(b"half")
    (saved / "chunks" / f"replay-00000009-{'0' * 32}.npz").write_bytes(b"whole but unneeded")
    shutil.copytree(saved / "v00000001", saved / "v00000007")  # renamed, but never made current
    (saved / "notes.md").write_text("mine")
    (saved / "chunks" / "notes.npz").write_text("mine")
    assert_same(load_checkpoint(saved), content(1))
    assert save_checkpoint(saved, content(2)).name == "v00000008"
    assert (saved / "notes.md").exists()  # what a user added is not debris
    assert (saved / "chunks" / "notes.npz").exists()
    os.remove(saved / "notes.md")
    os.remove(saved / "chunks" / "notes.npz")
    assert_clean(saved, chunks=3)


def test_a_failing_save_leaves_nothing_and_no_empty_parents(tmp_path):
    with pytest.raises(UnsavableContent):
        save_checkpoint(tmp_path / "a" / "b", Checkpoint("k", {}, arrays={"x": {"o": np.array([None])}}))
    assert not list(tmp_path.iterdir())


def test_a_read_only_folder_is_an_os_error_and_the_previous_version_stays(saved, monkeypatch):
    files = {file: file.read_bytes() for file in files_of(saved)}

    def refuse(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", refuse)  # root, who may run the tests, writes where the mode forbids it
        with pytest.raises(PermissionError, match=rf"{saved}: cannot save .*must be writable"):
            save_checkpoint(saved, content(2))
    assert files == {file: file.read_bytes() for file in files_of(saved)}
    assert_same(load_checkpoint(saved), content(1))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_mode_is_respected(saved):
    os.chmod(saved, 0o500)
    try:
        with pytest.raises(PermissionError, match=rf"{saved}: cannot save"):
            save_checkpoint(saved, content(2))
    finally:
        os.chmod(saved, 0o700)
    assert_same(load_checkpoint(saved), content(1))


# damage


def names_of_all_files() -> list[str]:
    chunk = ["chunks/0", "chunks/1"]
    return [
        "CURRENT",
        *chunk,
        *(f"v00000001/{n}" for n in ["manifest.json", "config.json", "model.safetensors", "starts.npz"]),
    ]


def resolve(path: Path, name: str) -> Path:
    return sorted((path / "chunks").iterdir())[int(name[-1])] if name.startswith("chunks/") else path / name


@pytest.mark.parametrize("name", names_of_all_files())
def test_truncation_is_refused(saved, name):
    file = resolve(saved, name)
    data = file.read_bytes()
    for size in {0, 1, 8, len(data) // 2, len(data) - 1}:
        file.write_bytes(data[:size])
        with pytest.raises(CorruptCheckpoint, match=re.escape(str(file))):
            load_checkpoint(saved)
    file.write_bytes(data + b"\0")
    with pytest.raises(CorruptCheckpoint, match=re.escape(str(file))):
        load_checkpoint(saved)
    os.remove(file)
    with pytest.raises(MissingCheckpoint if name == "CURRENT" else CorruptCheckpoint, match=re.escape(str(saved))):
        load_checkpoint(saved)


@pytest.mark.parametrize("name", names_of_all_files())
def test_flipped_bits_are_refused(saved, name):
    file, draw = resolve(saved, name), random.Random(name)
    data = file.read_bytes()
    for bit in draw.sample(range(8 * len(data)), 72):  # all of CURRENT
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        with pytest.raises(CorruptCheckpoint, match=re.escape(str(file))):
            load_checkpoint(saved)
    file.write_bytes(data)
    assert_same(load_checkpoint(saved), content(1))


@pytest.mark.parametrize(
    "pair", [("v00000001/model.safetensors", "v00000001/optimizer.safetensors"), ("chunks/0", "chunks/1")]
)
def test_swapped_files_are_refused(saved, pair):
    one, two = (resolve(saved, name) for name in pair)
    first, second = one.read_bytes(), two.read_bytes()
    assert len(first) == len(second)
    one.write_bytes(second)
    two.write_bytes(first)
    with pytest.raises(
        CorruptCheckpoint, match=rf"{one.name}: must have the SHA-256.*found.*; copy the checkpoint again"
    ):
        load_checkpoint(saved)


def test_missing_parts_are_named(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent: there is no complete checkpoint"):
        load_checkpoint(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingCheckpoint, match="empty: there is no complete checkpoint"):
        load_checkpoint(tmp_path / "empty")
    shutil.rmtree(saved / "v00000001")
    with pytest.raises(
        CorruptCheckpoint, match="CURRENT: must name a version folder that is there, and names v00000001"
    ):
        load_checkpoint(saved)


def test_a_damaged_checkpoint_can_be_saved_over(saved):
    (saved / "CURRENT").write_text("")
    assert save_checkpoint(saved, content(2)).name == "v00000002"
    assert_same(load_checkpoint(saved), content(2))


# foreign, newer, other kinds


def test_a_foreign_directory_is_neither_loaded_nor_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("ten years")
    with pytest.raises(ForeignCheckpoint, match=rf"{tmp_path}: must be a checkpoint's directory; it has no CURRENT"):
        load_checkpoint(tmp_path)
    with pytest.raises(ForeignCheckpoint, match=r"found \['thesis.tex'\]; nothing was written"):
        save_checkpoint(tmp_path, content(1))
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_somebody_elses_chunks_are_not_ours(tmp_path):
    (tmp_path / "chunks").mkdir()
    (tmp_path / "chunks" / "audio.npz").write_text("mine")
    with pytest.raises(ForeignCheckpoint, match="chunks"):
        save_checkpoint(tmp_path, content(1))
    assert (tmp_path / "chunks" / "audio.npz").read_text() == "mine"


def test_a_file_at_the_path_is_neither_loaded_nor_touched(tmp_path):
    file = tmp_path / "best_model"
    file.write_text("mine")
    with pytest.raises(ForeignCheckpoint, match="best_model: a checkpoint is a directory, and this is a file"):
        save_checkpoint(file, content(1))
    with pytest.raises(ForeignCheckpoint, match="best_model: must be a checkpoint's directory"):
        load_checkpoint(file)
    assert file.read_text() == "mine"


def test_another_kind_is_refused(saved):
    assert load_checkpoint(saved, kind="model").kind == "model"
    with pytest.raises(ForeignCheckpoint, match="must be a checkpoint of kind 'dyna', is 'model'"):
        load_checkpoint(saved, kind="dyna")


def test_a_newer_format_asks_for_an_upgrade(saved):
    reseal(saved, lambda manifest: manifest.update(format=7, library="9.9", files="in another shape"))
    with pytest.raises(NewerCheckpoint, match=r"reads format 1, the checkpoint has 7, written by 9.9; upgrade"):
        load_checkpoint(saved)


# hostile files, with all hashes right


class Attack:
    def __reduce__(self):
        return (os.mkdir, ("canary",))


@pytest.fixture
def canary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "canary").exists(), "the pickle ran"


def bomb() -> bytes:
    return npz(("x.npy", npy(np.zeros(1 << 20))), compression=zipfile.ZIP_DEFLATED)


def overlapping() -> bytes:
    """Two directory entries that read the same bytes."""
    data = bytearray(npz(("a.npy", npy(np.zeros(1 << 12))), ("b.npy", b"")))
    start = data.index(b"PK\x01\x02")
    entry = data[start : data.index(b"PK\x01\x02", start + 1)]
    return bytes(data[:start] + entry + entry + data[-22:])


def promising(shape: str) -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


HOSTILE = {
    "pickle as safetensors": ("model.safetensors", pickle.dumps(Attack()), "safetensors"),
    "zip as safetensors": ("model.safetensors", npz(("data.pkl", pickle.dumps(Attack()))), "safetensors"),
    "huge safetensors header": ("model.safetensors", (1 << 63).to_bytes(8, "little") + b"{}", "safetensors"),
    "pickle as npz": ("starts.npz", pickle.dumps(Attack()), "npz"),
    "pickle in npz": ("starts.npz", npz(("x.npy", pickle.dumps(Attack()))), "npz"),
    "object array": ("starts.npz", npz(("x.npy", npy(np.array([Attack()], object)))), "Object arrays"),
    "compressed npz": ("starts.npz", bomb(), "compressed"),
    "compressed to no gain": ("starts.npz", npz(("x.npy", b"\0"), compression=zipfile.ZIP_DEFLATED), "is compressed"),
    "overlapping members": ("starts.npz", overlapping(), "over each other|[Oo]verlap"),
    "no npy": ("starts.npz", npz(("../../x.txt", b"")), r"\.\./x\.txt"),
    "promises 8 PB": ("starts.npz", npz(("x.npy", promising("(1000000000000000,)"))), "npz"),
    "promises beyond integers": ("starts.npz", npz(("x.npy", promising(f"({2**40}, {2**40})"))), "npz"),
    "negative shape": ("starts.npz", npz(("x.npy", promising("(-1,)"))), "npz"),
    "JSON that is none": ("config.json", b"{'a': 1}", "valid JSON"),
    "JSON of no text": ("config.json", b"\xff{}", "valid JSON"),
    "JSON 100,000 deep": ("config.json", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "valid JSON"),
    "JSON list": ("config.json", b"[]", "JSON object; found list"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_content_is_refused(saved, canary, name):
    file, data, match = HOSTILE[name]
    plant(saved, file, data)
    with pytest.raises(CorruptCheckpoint, match=rf"(?s){re.escape(str(saved / 'v00000001' / file))}.*({match})"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "text", ["", "../x", "/etc", "v1", "v00000001/..", "v0000000\u0661", "v00000001 ", "\n", "x" * 10_000]
)
def test_current_must_be_a_plain_version(saved, text):
    (saved / "CURRENT").write_text(text)
    with pytest.raises(CorruptCheckpoint, match=rf"{saved}/CURRENT: must .*; found "):
        load_checkpoint(saved)


ENTRY = {"size": 1, "sha256": "0" * 64}
ABSURD = {
    "escape": lambda m: m["files"].update({"../../etc/passwd": ENTRY}),
    "absolute": lambda m: m["files"].update({"/etc/passwd": ENTRY}),
    "another suffix": lambda m: m["files"].update({"x.pkl": ENTRY}),
    "negative size": lambda m: m["files"].update({"x.npz": {**ENTRY, "size": -1}}),
    "size of text": lambda m: m["files"].update({"x.npz": {**ENTRY, "size": "1"}}),
    "no digest": lambda m: m["files"].update({"x.npz": {"size": 1}}),
    "no entry": lambda m: m["files"].update({"x.npz": None}),
    "chunk escape": lambda m: m["chunks"].update(x=[{"name": "../../x.npz", **ENTRY}]),
    "chunk of another stream": lambda m: m["chunks"].update(x=m["chunks"]["replay"]),
    "chunk with another digest": lambda m: m["chunks"]["replay"][0].update(sha256="0" * 64),
    "chunks in no list": lambda m: m["chunks"].update(x={"name": "x", **ENTRY}),
    "no config": lambda m: m["files"].pop("config.json"),
    "no files": lambda m: m.pop("files"),
    "chunks list": lambda m: m.update(chunks=[]),
    "no kind": lambda m: m.pop("kind"),
    "format of text": lambda m: m.update(format="1"),
    "format zero": lambda m: m.update(format=0),
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_manifests_are_refused(saved, name):
    reseal(saved, ABSURD[name])
    with pytest.raises(CorruptCheckpoint, match=r"manifest\.json: must .*; found "):
        load_checkpoint(saved)


def test_a_manifest_that_is_too_large_is_not_read(saved):
    with open(saved / "v00000001" / "manifest.json", "r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(
        CorruptCheckpoint, match=r"manifest\.json: must have at most 8,388,608 bytes; found 1,099,511,627,776"
    ):
        load_checkpoint(saved)


@pytest.mark.parametrize("name", [*names_of_all_files(), "v00000001", "chunks"])
def test_symlinks_are_refused(saved, tmp_path, name):
    link = resolve(saved, name) if "/" in name else saved / name
    os.rename(link, tmp_path / "elsewhere")
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptCheckpoint, match=rf"{link}: must be a plain"):
        load_checkpoint(saved)


def test_a_pipe_is_refused_instead_of_waited_for(saved):
    os.remove(saved / "v00000001" / "config.json")
    os.mkfifo(saved / "v00000001" / "config.json")
    with pytest.raises(CorruptCheckpoint, match=r"config\.json: must be a plain file; found prw"):
        load_checkpoint(saved)


def test_the_checkpoint_itself_may_be_reached_by_a_symlink(saved, tmp_path):
    (tmp_path / "link").symlink_to(saved)
    save_checkpoint(tmp_path / "link", content(2))
    assert_same(load_checkpoint(tmp_path / "link"), content(2))


# values that cannot be saved


loop: dict = {}
loop["self"] = loop
UNSAVABLE = {
    "NaN": ({"a": {"b": [0.0, math.nan]}}, r"config\.a\.b\[1\]: JSON has no nan; save None"),
    "infinity": ({"a": -math.inf}, r"config\.a: JSON has no -inf"),
    "NumPy NaN": ({"a": np.float64("nan")}, r"config\.a: JSON has no nan"),
    "NumPy number": ({"a": [np.float32(1)]}, r"config\.a\[0\]: not a JSON value: float32; convert it"),
    "tensor": ({"a": torch.ones(1)}, r"config\.a: not a JSON value: Tensor"),
    "set": ({"a": {1}}, r"config\.a: not a JSON value: set"),
    "integer key": ({"a": {1: 2}}, r"config\.a: the keys .* got 1"),
    "a loop": (loop, r"config\.self\.self.*contain itself"),
    "huge integer": ({"a": 1 << 20_000}, r"config\.a: an integer may have 4096 bits, this one has 20001"),
    "list": ([1], "config: must be a dict; got list"),
    "too much": ({"a": "x" * (8 << 20)}, r"config\.json: must be at most 8,388,608 bytes"),
}


@pytest.mark.parametrize("name", UNSAVABLE)
def test_config_that_json_cannot_hold_is_refused(saved, name):
    config, match = UNSAVABLE[name]
    with pytest.raises(UnsavableContent, match=match):
        save_checkpoint(saved, Checkpoint("model", config))
    assert_same(load_checkpoint(saved), content(1))
    assert_clean(saved, chunks=2)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.array([{}], object), r"only pickle could hold dtype\('O'\)"),
        (np.zeros(2, [("x", "f4")]), "only pickle could hold"),
        (np.ma.masked_array([1, 2], [0, 1]), "must be a NumPy array; got MaskedArray"),
        ([1, 2], "must be a NumPy array; got list"),
        (torch.ones(2), "must be a NumPy array; got Tensor"),
    ],
)
def test_arrays_that_only_pickle_could_hold_are_refused(saved, array, match):
    with pytest.raises(UnsavableContent, match=rf"arrays\.starts\.obs: {match}"):
        save_checkpoint(saved, Checkpoint("model", {}, arrays={"starts": {"obs": array}}))
    with pytest.raises(ValueError, match=rf"chunks\.replay\[1\]\.obs: {match}"):
        save_checkpoint(saved, Checkpoint("model", {}, chunks={"replay": [{}, {"obs": array}]}))
    assert_same(load_checkpoint(saved), content(1))
    assert_clean(saved, chunks=2)


@pytest.mark.parametrize(
    ("name", "tensor", "match"),
    [
        ("w", np.ones(2), r"tensors\.model\.w: must be a strided tensor; got ndarray"),
        ("w", torch.eye(2).to_sparse(), r"tensors\.model\.w: must be a strided tensor"),
        ("w", torch.zeros(1, dtype=torch.complex128), r"tensors\.model: safetensors cannot hold.*complex128"),
        ("__metadata__", torch.ones(1), r"tensors\.model\.__metadata__"),
    ],
)
def test_tensors_that_safetensors_cannot_hold_are_refused(saved, name, tensor, match):
    with pytest.raises(UnsavableContent, match=match):
        save_checkpoint(saved, Checkpoint("model", {}, {"model": {name: tensor}}))
    assert_clean(saved, chunks=2)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a.b", "-a", "é", "x" * 101, 3])
def test_groups_and_kinds_are_plain_words(tmp_path, name):
    value = {name: {}}
    for bad in (Checkpoint("k", {}, value), Checkpoint("k", {}, {}, value), Checkpoint("k", {}, chunks={name: []})):
        with pytest.raises(UnsavableContent, match=re.escape(repr(name))):
            save_checkpoint(tmp_path / "c", bad)
    with pytest.raises(UnsavableContent, match=re.escape(repr(name))):
        save_checkpoint(tmp_path / "c", Checkpoint(name, {}))
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("name", ["a\0b", "a\\b", "\ud800", 3])
def test_array_names_are_what_a_zip_can_hold(tmp_path, name):
    with pytest.raises(
        UnsavableContent,
        match=re.escape(f"arrays.g: an array's name must be printable without backslash; got {name!r}"),
    ):
        save_checkpoint(tmp_path / "c", Checkpoint("k", {}, arrays={"g": {name: np.ones(1)}}))


def test_nothing_in_the_library_unpickles():
    root = Path(module.__file__).parent.parent
    sources = [file for folder in ("mbrl_gym", "agents", "wrappers") for file in (root / folder).rglob("*.py")]
    assert len(sources) > 20
    for file in sources:
        pattern = r"(?<!safetensors\.)torch\.load\(|import c?l?o?u?d?pickle|allow_pickle=True|pickle\.load"
        assert not re.search(pattern, file.read_text()), file
