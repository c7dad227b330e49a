"""Checkpoint files: what is read is what was written; what is damaged is refused in one line."""

from __future__ import annotations

import builtins
import importlib.util
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rsvlm_jax.config import CheckpointError
from rsvlm_jax.interop.files import Checkpoint, open_checkpoint, write_checkpoint

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)

X = np.arange(24, dtype=np.float32).reshape(4, 6)


def everything(x: Any) -> np.ndarray:
    return x[(slice(None),) * len(x.shape)]


def refused(path: Path, *words: str, **options: Any) -> str:
    """The one line with which it is refused; it names `path` and says all the words."""
    with pytest.raises(CheckpointError) as e:
        open_checkpoint(path, **options)
    line = str(e.value)
    assert "\n" not in line
    for word in (path.name, *words):
        assert word in line, line
    return line


def raw(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file written by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(start: int, stop: int, shape: Any = None, dtype: str = "F32") -> dict[str, Any]:
    shape = [(stop - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


# ---- reading -----------------------------------------------------------------------------------


def test_weights_that_are_a_directory(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"not a checkpoint in .*; found a directory"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "dtype", ["f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1", "?", jnp.bfloat16], ids=str
)
def test_dtypes(tmp_path: Path, dtype: Any) -> None:
    x = X.astype(dtype)
    save_file({"x": x}, tmp_path / "model.safetensors")
    found = open_checkpoint(tmp_path)["x"]
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
    np.testing.assert_array_equal(everything(found), x)


def test_slices_are_views_of_the_file(tmp_path: Path) -> None:
    save_file({"x": X, "y": X + 1}, tmp_path / "model.safetensors")
    found = open_checkpoint(tmp_path)
    assert isinstance(found, Checkpoint)
    assert sorted(found) == ["x", "y"]
    part = found["y"][1:3, ::2]
    np.testing.assert_array_equal(part, (X + 1)[1:3, ::2])
    assert not part.flags.owndata
    assert not part.flags.writeable


def test_a_file_by_name_scalars_and_empty_tensors(tmp_path: Path) -> None:
    file = tmp_path / "adapter_model.safetensors"
    save_file({"x": np.array(3, np.float32), "y": np.zeros((0, 4), np.float32)}, file)
    found = open_checkpoint(file)
    assert everything(found["x"]) == 3
    assert everything(found["y"]).shape == (0, 4)


def test_a_file_of_nothing(tmp_path: Path) -> None:
    save_file({}, tmp_path / "model.safetensors")
    assert len(open_checkpoint(tmp_path)) == 0


def test_data_that_is_not_aligned(tmp_path: Path) -> None:
    """Older writers pad no header."""
    header = {"a": entry(0, 1, [1], "U8"), "b": entry(1, 97, [4, 6])}
    raw(tmp_path / "model.safetensors", header, b"\1" + X.tobytes())
    np.testing.assert_array_equal(everything(open_checkpoint(tmp_path)["b"]), X)


def shards(folder: Path) -> Path:
    """Two files and their index."""
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    where = {}
    for file, tensors in zip(names, ({"a": X}, {"b": X + 1, "c": X + 2}), strict=True):
        save_file(tensors, folder / file)
        where |= dict.fromkeys(tensors, file)
    index = {"metadata": {"total_size": 3 * X.nbytes}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder / "model.safetensors.index.json"


def test_several_files(tmp_path: Path) -> None:
    shards(tmp_path)
    found = open_checkpoint(tmp_path)
    assert sorted(found) == ["a", "b", "c"]
    np.testing.assert_array_equal(everything(found["c"]), X + 2)


def test_files_behind_links(tmp_path: Path) -> None:
    """The cache of the Hub keeps its files elsewhere."""
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    folder.mkdir()
    shards(blobs)
    for file in blobs.iterdir():
        (folder / file.name).symlink_to(Path("..") / "blobs" / file.name)
    assert len(open_checkpoint(folder)) == 3


# ---- writing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("limit", "files"), [(10**9, 1), (100, 3), (1, 3)])
def test_written_files_are_read_by_the_reference(
    tmp_path: Path, dtype: str, limit: int, files: int
) -> None:
    arrays = {"a": X, "b": X + 0.125, "c": np.array(5, np.float32)}
    limit = limit if limit != 100 else arrays["a"].size * np.dtype(jnp.dtype(dtype)).itemsize
    shapes = {name: x.shape for name, x in arrays.items()}
    write_checkpoint(tmp_path, shapes, arrays.items(), jnp.dtype(dtype), shard_bytes=limit)
    there = sorted(tmp_path.glob("*.safetensors"))
    assert len(there) == files
    found = {name: x for file in there for name, x in load_file(file).items()}
    assert found.keys() == arrays.keys()
    ours = open_checkpoint(tmp_path)
    for name, x in arrays.items():
        np.testing.assert_array_equal(found[name], x.astype(jnp.dtype(dtype)))
        np.testing.assert_array_equal(everything(ours[name]), x.astype(jnp.dtype(dtype)))
    assert not list(tmp_path.glob("*.partial"))
    index = tmp_path / "model.safetensors.index.json"
    assert index.exists() == (files > 1)
    if files > 1:
        total = sum(x.size for x in arrays.values()) * jnp.dtype(dtype).itemsize
        assert json.loads(index.read_text())["metadata"] == {"total_size": total}


def test_a_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    save_file({"x": X}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds a checkpoint.*found model\.safetensors"):
        write_checkpoint(tmp_path, {"x": X.shape}, [("x", X + 1)], np.float32, shard_bytes=10**9)
    np.testing.assert_array_equal(everything(open_checkpoint(tmp_path)["x"]), X)


def test_a_write_that_fails_leaves_no_checkpoint(tmp_path: Path) -> None:
    def arrays():
        yield "a", X
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_checkpoint(
            tmp_path, {"a": X.shape, "b": X.shape}, arrays(), np.float32, shard_bytes=1
        )
    assert not list(tmp_path.iterdir()), "the folder can be taken again"
    refused(tmp_path, "no weights")


# ---- files that are not there, or not what they are called -------------------------------------


def test_nothing_there(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no such checkpoint")
    refused(tmp_path, "no weights", "model.safetensors", "an empty folder")


def test_git_lfs_pointer(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    refused(tmp_path, "model.safetensors", "Git LFS pointer", "git lfs pull")
    pointer = tmp_path / "model.pt"
    file.rename(pointer)
    refused(pointer, "Git LFS pointer")
    refused(pointer, "Git LFS pointer", allow_pickle=True)


@pytest.mark.parametrize("page", ["<!DOCTYPE html>\n<html>", "<html>", "\n  <!doctype HTML>"])
def test_web_page(tmp_path: Path, page: str) -> None:
    (tmp_path / "model.safetensors").write_text(page + "<body>404</body></html>" * 20)
    refused(tmp_path, "model.safetensors", "a web page")


def test_a_pickle_named_safetensors(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(pickle.dumps({"x": [1, 2, 3]}, protocol=2))
    refused(tmp_path, "model.safetensors", "expected a safetensors file", "found a pickle")
    file.write_bytes(b"PK\x03\x04" + b"\0" * 100)
    refused(tmp_path, "found a zip archive", allow_pickle=True)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.999])
def test_truncated(tmp_path: Path, share: float) -> None:
    """Cut in the length, in the header, in the data, and by the last byte."""
    file = tmp_path / "model.safetensors"
    save_file({"a": X, "b": X, "c": X}, file)
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    line = refused(tmp_path, "model.safetensors", "expected", "found")
    assert "truncated" in line or "damaged" in line


def test_bytes_after_the_end(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": X}, file)
    with open(file, "ab") as f:
        f.write(b"x")
    refused(tmp_path, "bytes after the last tensor", f"found {file.stat().st_size} bytes")


def test_a_header_longer_than_the_file(tmp_path: Path) -> None:
    raw(tmp_path / "model.safetensors", {}, length=2**63)
    refused(tmp_path, f"a safetensors header of {2**63} bytes")


@pytest.mark.parametrize(
    "header", [b"[1, 2]", b"not json", b"\xff\xfe\x00", b'{"a": 1', b"[" * 100_000]
)
def test_a_header_that_is_no_object(tmp_path: Path, header: bytes) -> None:
    raw(tmp_path / "model.safetensors", header)
    refused(tmp_path, "damaged safetensors header")


def test_a_name_that_stands_twice(tmp_path: Path) -> None:
    one = json.dumps({"a": entry(0, 8)})[1:-1]
    raw(tmp_path / "model.safetensors", f"{{{one}, {one}}}".encode(), b"\0" * 8)
    refused(tmp_path, "'a' stands twice")


ABSURD: dict[str, tuple[dict[str, Any], int, str]] = {
    "negative offset": ({"a": entry(-8, 0, [2])}, 8, "none negative"),
    "backward offsets": ({"a": entry(8, 0, [2])}, 8, "not that of its shape"),
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "tensors overlap"),
    "the same twice": ({"a": entry(0, 8), "b": entry(0, 8)}, 8, "tensors overlap"),
    "gap": ({"a": entry(0, 8), "b": entry(12, 20)}, 20, "a gap between tensors"),
    "gap at the start": ({"a": entry(4, 12)}, 12, "a gap between tensors"),
    "beyond the end": ({"a": entry(0, 800)}, 8, "a truncated checkpoint"),
    "negative size": ({"a": entry(0, 8, [-2])}, 8, "none negative"),
    "two negative sizes": ({"a": entry(0, 8, [-1, -2])}, 8, "none negative"),
    "absurd size": ({"a": entry(0, 8, [2**62])}, 8, "not that of its shape"),
    "size beyond 64 bits": ({"a": entry(0, 8, [2**40, 2**40])}, 8, "not that of its shape"),
    "size that is no integer": ({"a": entry(0, 8, [2.0])}, 8, "impossible sizes"),
    "size that is true": ({"a": entry(0, 4, [True])}, 4, "impossible sizes"),
    "shape that is no list": ({"a": entry(0, 8, "2")}, 8, "impossible sizes"),
    "one offset": ({"a": {**entry(0, 8), "data_offsets": [8]}}, 8, "impossible sizes"),
    "unknown dtype": ({"a": entry(0, 8, [8], "F8_E4M3")}, 8, "found F8_E4M3"),
    "dtype that is no name": ({"a": {**entry(0, 8), "dtype": ["F32"]}}, 8, "not read"),
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, 8, "expected dtype"),
    "entry that is no object": ({"a": 5}, 8, "expected dtype, shape"),
}


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_headers(tmp_path: Path, case: str) -> None:
    header, size, words = ABSURD[case]
    raw(tmp_path / "model.safetensors", header, b"\0" * size)
    refused(tmp_path, "model.safetensors", words)


# ---- indexes -----------------------------------------------------------------------------------


def change_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = shards(folder)
    index = json.loads(path.read_text())
    changed = change(index)
    path.write_text(json.dumps(index if changed is None else changed))


def test_a_missing_shard(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    refused(tmp_path, "index.json", "missing", "expected model-00002-of-00002.safetensors")


@pytest.mark.parametrize(
    "name",
    ["../{}", "../other/model.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "", ".",
     "a\\..\\b"],
)  # fmt: skip
def test_an_index_that_leaves_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": X}, tmp_path / "outside.safetensors")
    name = name.format("outside.safetensors")
    change_index(folder, lambda index: index["weight_map"].update(a=name))
    refused(folder, "index.json", "outside its folder", repr(name))


def test_an_index_and_files_of_other_tensors(tmp_path: Path) -> None:
    change_index(tmp_path, lambda i: i["weight_map"].update(z="model-00002-of-00002.safetensors"))
    refused(tmp_path, "model-00002-of-00002.safetensors", "expected also z")
    change_index(tmp_path, lambda i: i["weight_map"].pop("c") and None)
    refused(tmp_path, "model-00002-of-00002.safetensors", "found also c")


@pytest.mark.parametrize("value", [{}, {"weight_map": []}, {"weight_map": {"a": 1}}])
def test_a_damaged_index(tmp_path: Path, value: dict[str, Any]) -> None:
    change_index(tmp_path, lambda _: value)
    refused(tmp_path, "a damaged index", "index.json")


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, "version https://git-lfs.x/spec"])
def test_an_index_that_is_no_json(tmp_path: Path, text: str) -> None:
    shards(tmp_path).write_text(text)
    assert "JSON" in refused(tmp_path, "index.json")


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    shards(tmp_path)
    file = tmp_path / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    refused(tmp_path, "model-00002-of-00002.safetensors", "truncated")


# ---- pickles -----------------------------------------------------------------------------------


class Bomb:
    """A pickle of it runs a command when it is opened."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self):
        return os.system, (f"touch {self.sentinel}",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickles_are_refused_without_the_flag(tmp_path: Path, name: str) -> None:
    """By their name, whatever they hold: nothing is opened to find out."""
    for data in (pickle.dumps({}), b"PK\x03\x04" + b"\0" * 90, b"anything"):
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, "a pickle can run any program", "weights-only")
    if name == "pytorch_model.bin":
        refused(tmp_path, name, "a pickle can run any program")


@needs_torch
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", [None, "state_dict"])
def test_pickles_with_the_flag(tmp_path: Path, key: str | None, zipped: bool) -> None:
    import torch

    tensors = {
        "a": torch.from_numpy(X),
        "b": torch.from_numpy(X).to(torch.bfloat16),
        "c": torch.from_numpy(X.T.copy()).T,
        "d": torch.tensor(3),
    }
    made = tensors if key is None else {key: tensors, "epoch": 3}
    torch.save(made, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    found = open_checkpoint(tmp_path, allow_pickle=True)
    assert sorted(found) == ["a", "b", "c", "d"]
    for name, dtype in (("a", np.float32), ("b", jnp.bfloat16), ("c", np.float32)):
        assert found[name].dtype == dtype
        np.testing.assert_array_equal(everything(found[name]), X.astype(dtype))
    assert found["d"].shape == ()


@needs_torch
def test_pickles_in_several_files(tmp_path: Path) -> None:
    import torch

    where = {}
    for i, name in enumerate("ab"):
        torch.save({name: torch.from_numpy(X + i)}, tmp_path / f"pytorch_model-{i}.bin")
        where[name] = f"pytorch_model-{i}.bin"
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    refused(tmp_path, "pytorch_model-0.bin", "a pickle can run any program")
    found = open_checkpoint(tmp_path, allow_pickle=True)
    np.testing.assert_array_equal(everything(found["b"]), X + 1)


@needs_torch
@pytest.mark.parametrize("zipped", [True, False, None])
def test_a_pickle_that_would_run_code(tmp_path: Path, zipped: bool | None) -> None:
    """With and without the flag its command is not run."""
    import torch

    sentinel, file = tmp_path / "sentinel", tmp_path / "pytorch_model.bin"
    if zipped is None:
        file.write_bytes(pickle.dumps(Bomb(sentinel), protocol=2))
    else:
        made = {"a": torch.zeros(2), "b": Bomb(sentinel)}
        torch.save(made, file, _use_new_zipfile_serialization=zipped)
    refused(tmp_path, "pytorch_model.bin", "a pickle can run any program")
    refused(tmp_path, "pytorch_model.bin", "weights-only loader refuses", allow_pickle=True)
    assert not sentinel.exists()
    with open(file, "rb") as f:  # it is a real one: without care it would have run
        (torch.load(f, weights_only=False) if zipped is not None else pickle.load(f))
    assert sentinel.exists()


@needs_torch
@pytest.mark.parametrize("value", [[1, 2], {"a": 3, "b": "text"}, 5])
def test_a_pickle_of_something_else(tmp_path: Path, value: Any) -> None:
    import torch

    torch.save(value, tmp_path / "model.pt")
    line = refused(tmp_path / "model.pt", "expected tensors", allow_pickle=True)
    assert "not a state dict" in line or "found a, b" in line


@needs_torch
@pytest.mark.parametrize("kind", ["sparse", "float8", "meta"])
def test_a_pickle_of_tensors_that_numpy_does_not_know(tmp_path: Path, kind: str) -> None:
    import torch

    tensor = {
        "sparse": lambda: torch.eye(3).to_sparse(),
        "float8": lambda: torch.zeros(3).to(torch.float8_e4m3fn),
        "meta": lambda: torch.zeros(3, device="meta"),
    }[kind]()
    torch.save({"a.weight": tensor}, tmp_path / "model.pt")
    line = refused(tmp_path / "model.pt", "a tensor that is not read", allow_pickle=True)
    assert "model.pt: a.weight" in line
    assert kind in line


@needs_torch
def test_a_damaged_pickle(tmp_path: Path) -> None:
    import torch

    file = tmp_path / "model.pt"
    torch.save({"a": torch.from_numpy(X)}, file)
    file.write_bytes(file.read_bytes()[:-100])
    refused(file, "weights-only loader refuses", allow_pickle=True)


def test_pickles_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "torch":
            raise ImportError("No module named 'torch'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "model.pt").write_bytes(pickle.dumps({}))
    refused(tmp_path / "model.pt", "torch is needed", allow_pickle=True)


def test_a_safetensors_file_wins_over_a_pickle(tmp_path: Path) -> None:
    save_file({"x": X}, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "sentinel")))
    assert list(open_checkpoint(tmp_path, allow_pickle=True)) == ["x"]
    assert not (tmp_path / "sentinel").exists()
