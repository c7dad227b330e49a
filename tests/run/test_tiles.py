"""The whole-cube engine: exact blending, restart, refusals."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from rsvlm_jax.config import ConfigError, DataError
from rsvlm_jax.run.tiles import blend_weights, tiles, window_starts


def centre(y: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
    return {"value": 10.0 * y + x, "one": np.ones(len(y))}


@pytest.mark.parametrize(
    ("extent", "tile", "step"), [(101, 8, 4), (100, 8, 8), (8, 8, 1), (9, 8, 5)]
)
def test_windows_cover_every_pixel(extent: int, tile: int, step: int):
    covered = np.zeros(extent, int)
    for s in window_starts(extent, tile, step):
        covered[s : s + tile] += 1
    assert covered.min() >= 1


@pytest.mark.parametrize("blend", ["linear", "flat"])
def test_equals_the_plain_sum_over_all_windows(tmp_path, blend):
    shape, tile, overlap = (23, 17), 8, 5
    result, report = tiles(
        shape, centre, tmp_path, key="k", tile=tile, overlap=overlap, blend=blend, block=9
    )
    total, value = np.zeros(shape), np.zeros(shape)
    w = blend_weights(tile, blend)
    for y in window_starts(shape[0], tile, tile - overlap):
        for x in window_starts(shape[1], tile, tile - overlap):
            total[y : y + tile, x : x + tile] += w
            value[y : y + tile, x : x + tile] += w * (10 * y + x)
    np.testing.assert_allclose(result["value"], value / total, rtol=1e-6)
    np.testing.assert_array_equal(result["one"], 1)
    assert report.blocks == report.computed == 6


def test_block_size_changes_nothing(tmp_path):
    a, _ = tiles((40, 40), centre, tmp_path / "a", key="k", tile=8, overlap=4, block=7)
    b, _ = tiles((40, 40), centre, tmp_path / "b", key="k", tile=8, overlap=4, block=64)
    np.testing.assert_array_equal(a["value"], b["value"])


def test_restart_computes_only_what_is_missing_and_gives_the_same_bytes(tmp_path):
    args = {"key": "k", "tile": 8, "overlap": 4, "block": 16}
    whole, _ = tiles((40, 40), centre, tmp_path / "whole", **args)

    calls = 0

    def dies(y, x):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("power cut")
        return centre(y, x)

    with pytest.raises(RuntimeError):
        tiles((40, 40), dies, tmp_path / "cut", **args)
    again, report = tiles((40, 40), centre, tmp_path / "cut", **args)
    assert (report.blocks, report.computed) == (9, 6)
    assert again["value"].tobytes() == whole["value"].tobytes()


def test_a_torn_block_is_computed_again(tmp_path):
    args = {"key": "k", "tile": 8, "overlap": 4, "block": 16}
    whole, _ = tiles((40, 40), centre, tmp_path, **args)
    file = tmp_path / "block_0_0.npz"
    file.write_bytes(file.read_bytes()[:-40])
    again, report = tiles((40, 40), centre, tmp_path, **args)
    assert report.computed == 1
    assert again["value"].tobytes() == whole["value"].tobytes()


def test_blocks_of_another_model_are_refused(tmp_path):
    tiles((16, 16), centre, tmp_path, key="one", tile=8, overlap=4)
    with pytest.raises(ConfigError, match="another computation"):
        tiles((16, 16), centre, tmp_path, key="two", tile=8, overlap=4)


def test_window_larger_than_the_cube(tmp_path):
    with pytest.raises(DataError, match=r"larger than the cube.*expected <= 16 pixels; found 32"):
        tiles((16, 64), centre, tmp_path, key="k", tile=32, overlap=4)


def test_unwritable_output(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write the output"):
        tiles((16, 16), centre, tmp_path / "file" / "out", key="k", tile=8, overlap=4)


def test_an_impossible_block(tmp_path):
    with pytest.raises(ConfigError, match="impossible block in tiles; expected >= 1"):
        tiles((16, 16), centre, tmp_path / "out", key="k", tile=8, overlap=4, block=0)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_loses_no_finished_block(tmp_path, monkeypatch):
    args = {"key": "k", "tile": 8, "overlap": 4, "block": 16}
    whole, _ = tiles((40, 40), centre, tmp_path / "whole", **args)
    save = np.savez

    def full(file, **values):
        if len(list((tmp_path / "out").glob("block_*"))) == 3:
            file.write_bytes(b"half a blo")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, **values)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(ConfigError, match=r"cannot write the output \(No space .* are kept"):
            tiles((40, 40), centre, tmp_path / "out", **args)
    assert len(list((tmp_path / "out").iterdir())) == 4, "three blocks and their description"
    again, report = tiles((40, 40), centre, tmp_path / "out", **args)
    assert report.computed == report.blocks - 3
    assert again["value"].tobytes() == whole["value"].tobytes()


def test_a_mismatch_names_only_what_differs_and_digests_by_their_first_digits(tmp_path):
    tiles((16, 16), centre, tmp_path, key="a" * 64, tile=8, overlap=4)
    with pytest.raises(ConfigError) as e:
        tiles((16, 16), centre, tmp_path, key="b" * 64, tile=8, overlap=2)
    assert str(e.value) == (
        f"the output directory holds blocks of another computation in {tmp_path}; "
        "expected key bbbbbbbbbbbb, overlap 2; found aaaaaaaaaaaa, 4; "
        "delete it, or choose another --out"
    )


def test_a_directory_without_blocks_is_anybodys(tmp_path):
    def dies(y, x):
        raise RuntimeError("before the first block")

    with pytest.raises(RuntimeError):
        tiles((16, 16), dies, tmp_path, key="one", tile=8, overlap=4)
    made, _ = tiles((16, 16), centre, tmp_path, key="two", tile=8, overlap=4)
    assert np.isfinite(made["value"]).all()
