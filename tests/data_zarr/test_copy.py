"""Copies: other layouts and codecs, the same numbers to the bit, resumed where they stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_cube import Small, create
from small_points import write

from data_zarr.copy import codec_of, copy_cube, layout_of
from data_zarr.cube import Cube, open_cube
from data_zarr.errors import CubeError, OutputError
from data_zarr.format import TargetInfo
from data_zarr.samples import SAMPLES, sample_path
from data_zarr.schema import validate
from data_zarr.write import CubeWriter
from rsvlm_jax.cli.main import main


def same(a: Cube, b: Cube) -> None:
    assert list(a.bandsets) == list(b.bandsets)
    for name, info in a.bandsets.items():
        other = b.bandsets[name]
        assert (info.bands, info.kind, info.factor) == (other.bands, other.kind, other.factor)
        assert (info.year_known, info.source) == (other.year_known, other.source)
        np.testing.assert_array_equal(info.dates, other.dates)
        np.testing.assert_array_equal(info.platform, other.platform)
        whole = (0, 0, *info.shape[2:])
        for one, two in zip(a.reader(name).read(*whole), b.reader(name).read(*whole), strict=True):
            assert one.tobytes() == two.tobytes()
    assert a.targets == b.targets
    for name in a.targets:
        assert a.target(name).tobytes() == b.target(name).tobytes()
    assert a.grid == b.grid
    changed = {"provenance", "format_version"}
    for key in a.attrs.keys() - changed:
        assert a.attrs[key] == b.attrs[key]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_hot_copy_of_a_shipped_cube(name: str, tmp_path: Path) -> None:
    """Version 1 in, version 2 out."""
    source = open_cube(sample_path(name))
    copy = copy_cube(source, tmp_path / "hot.zarr", layout="series", codec="lz4")
    same(source, copy)
    assert (codec_of(copy), codec_of(source)) == ("lz4", "zstd")
    assert all(i.chunks[0] == min(i.shape[0], 64) for i in copy.bandsets.values())
    assert validate(copy, deep=True).ok
    added = copy.attrs["provenance"].splitlines()[-1]
    assert added.startswith(f"copied from {source.path} ({source.digest()[:16]}), layout series")


def test_points_with_labels(tmp_path: Path) -> None:
    write(tmp_path / "points.zarr")
    copy = copy_cube(tmp_path / "points.zarr", tmp_path / "copy.zarr", codec="lz4")
    same(open_cube(tmp_path / "points.zarr"), copy)
    assert copy.labels["region"][0] == "alps"


def test_without_words_it_keeps_layout_codec_and_shards(intact: Small, tmp_path: Path) -> None:
    source = open_cube(intact.path)
    copy = copy_cube(source, tmp_path / "copy.zarr")
    assert [i.chunks for i in copy.bandsets.values()] == [
        i.chunks for i in source.bandsets.values()
    ]
    assert codec_of(copy) == codec_of(source)
    assert layout_of(copy) == layout_of(source) == "balanced"


def test_a_stopped_copy_goes_on(
    intact: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Any] = []
    whole = CubeWriter.write

    def counted(self: CubeWriter, name: str, y: int, x: int, *arrays: Any) -> None:
        places.append((name, y, x))
        if len(places) == 4:
            raise OutputError("cannot write the cube", found="No space left on device")
        whole(self, name, y, x, *arrays)

    monkeypatch.setattr(CubeWriter, "write", counted)
    with pytest.raises(OutputError):
        copy_cube(intact.path, tmp_path / "copy.zarr", codec="lz4")
    copy = copy_cube(intact.path, tmp_path / "copy.zarr", codec="lz4")
    assert places.count(("s2_l1c", 0, 0)) == 1
    assert len(places) == 4 + 5
    same(open_cube(intact.path), copy)


def test_a_damaged_source_is_not_copied(small: Small, tmp_path: Path) -> None:
    file = small.file("s1_db/pixels/c/0/0/0/0")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CubeError, match=r"corrupt chunk in .*s1_db/pixels/c/0/0/0/0"):
        copy_cube(small.path, tmp_path / "copy.zarr")
    with pytest.raises(CubeError, match="incomplete cube"):
        open_cube(tmp_path / "copy.zarr")


def test_no_such_codec(tmp_path: Path) -> None:
    with pytest.raises(CubeError, match=r"no such codec in .* expected zstd or lz4; found 'gzip'"):
        create(tmp_path / "c.zarr", codec="gzip")


def test_a_band_set_and_a_target_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(CubeError, match=r"a band set and a target of one name in .* found s1_db"):
        create(tmp_path / "c.zarr", targets=[TargetInfo("s1_db")])


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "copy.zarr"
    args = ["cube", "copy", "sample:slovenia_s2", str(out), "--codec", "lz4", "--json"]
    assert main(args) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["digest"] == open_cube(out).digest()
    assert main(args) == 3
    assert "cube exists" in capsys.readouterr().err
