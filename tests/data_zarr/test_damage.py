"""Sixty random flips of one bit, and every lost or shortened file: each is named on reading."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_cube import HEIGHT, WIDTH, Small, create, optical, radar

from data_zarr.arrays import Backend
from data_zarr.cube import open_cube
from data_zarr.errors import CubeError
from data_zarr.format import MANIFEST
from data_zarr.journal import Codec
from data_zarr.read import Reader

FLIPS = 60


@pytest.fixture(scope="module", params=["zstd", "lz4"])
def cube(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _template: Small
) -> Path:
    codec: Codec = request.param
    path = tmp_path_factory.mktemp(codec) / "cube.zarr"
    with create(path, bandsets=[optical(valid_per_band=True), radar()], codec=codec) as writer:
        writer.write("s2_l1c", 0, 0, _template.pixels, _template.valid)
        writer.write("s1_db", 0, 0, _template.radar)
        writer.write_target("agb", 0, 0, _template.target)
    return path


def read_all(path: Path, backend: Backend) -> None:
    """What a training run does: opens the cube, reads targets and every pixel."""
    cube = open_cube(path)
    for name in cube.targets:
        cube.target(name)
    for info in cube.bandsets.values():
        Reader(cube.path, info, None, backend=backend).read(0, 0, HEIGHT, WIDTH)


def files(path: Path) -> list[str]:
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())


def noticed(path: Path, key: str, backend: Backend, change: Callable[[Path], Any]) -> str:
    """The error of reading the cube with one file changed; the file is put back."""
    file = path / key
    whole = file.read_bytes()
    change(file)
    try:
        with pytest.raises(CubeError) as caught:
            read_all(path, backend)
    finally:
        file.write_bytes(whole)
    return str(caught.value)


def names(line: str, path: Path, key: str) -> bool:
    """The array, the chunk and the file: for metadata that stops an opening, its node."""
    node = key.removesuffix("zarr.json").rstrip("/")
    if key in (MANIFEST, "zarr.json"):
        return str(path) in line
    place = rf"{re.escape(str(path))}(: |/){re.escape(node)}"
    group = rf"{re.escape(str(path))}(: |/){re.escape(node.split('/')[0])}"
    return bool(re.search(place if "/c" in key else group, line))


@pytest.mark.parametrize("backend", ["shards", "tensorstore", "zarr"])
def test_sixty_random_flips(cube: Path, backend: Backend) -> None:
    """Three quarters in shards of data and of masks, the rest in coordinates and metadata."""
    read_all(cube, backend)
    rng = np.random.default_rng(11)
    every = files(cube)
    shards = [k for k in every if re.search("(pixels|valid|agb)/c", k)]
    small = [k for k in every if k not in shards]
    lines = []
    for i in range(FLIPS):
        pool = small if i % 4 == 3 else shards
        key = pool[rng.integers(len(pool))]
        bit = int(rng.integers(8 * (cube / key).stat().st_size))

        def flip(file: Path, bit: int = bit) -> None:
            content = bytearray(file.read_bytes())
            content[bit // 8] ^= 1 << bit % 8
            file.write_bytes(content)

        line = noticed(cube, key, backend, flip)
        assert names(line, cube, key), (key, line)
        lines.append(line)
    assert len(lines) == FLIPS
    read_all(cube, backend)


@pytest.mark.parametrize("backend", ["shards", "tensorstore", "zarr"])
@pytest.mark.parametrize("how", ["missing", "empty", "truncated"])
def test_every_lost_file(cube: Path, backend: Backend, how: str) -> None:
    change: dict[str, Callable[[Path], Any]] = {
        "missing": lambda file: file.unlink(),
        "empty": lambda file: file.write_bytes(b""),
        "truncated": lambda file: os.truncate(file, file.stat().st_size // 2),
    }
    chunks = [k for k in files(cube) if "/c" in k]
    assert len(chunks) > 30
    for key in chunks:
        line = noticed(cube, key, backend, change[how])
        word = "missing chunk" if how == "missing" else "truncated chunk"
        assert line.startswith(f"{word} in {cube}: {key};"), line


@pytest.mark.parametrize("word", ["chunk_shape", "separator", "level", "shape", "endian"])
@pytest.mark.parametrize("node", ["s2_l1c/time", "targets/agb", "s1_db/valid"])
def test_a_flipped_letter_of_metadata(cube: Path, node: str, word: str) -> None:
    """zarr itself stumbles over such a document in ways of its own."""
    key = f"{node}/zarr.json"
    text = (cube / key).read_bytes()
    changed = text.replace(word.encode(), word.capitalize().encode())
    if changed != text:  # not every array names every word
        line = noticed(cube, key, "tensorstore", lambda file: file.write_bytes(changed))
        assert names(line, cube, key), line


def test_a_manifest_that_lost_a_line(cube: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(cube, tmp_path / "copy.zarr"))
    lines = (copy / MANIFEST).read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if "s2_l1c/pixels/c" in line)
    (copy / MANIFEST).write_text("\n".join(lines[:at] + lines[at + 4 :]))
    with pytest.raises(CubeError, match=r"(corrupt|unreadable) manifest in .*manifest\.json"):
        open_cube(copy)


def test_the_labelled_view_names_a_missing_chunk(small: Small) -> None:
    """Plain xarray reads NaN there."""
    view = open_cube(small.path).to_xarray("s2_l1c")
    small.file("s2_l1c/pixels/c/0/0/0/0").unlink()
    with pytest.raises(CubeError, match=r"missing chunk in .*s2_l1c/pixels/c/0/0/0/0"):
        view["pixels"].isel(y=0, x=0).values  # noqa: B018
