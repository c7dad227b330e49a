"""Cubes that do not fit, or are damaged, at every verb: refused in one line, nothing lost."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from data_zarr.cube import open_cube
from data_zarr.samples import sample_path
from data_zarr.sensors import BANDSETS
from data_zarr.write import BandSetData, create_cube, seal
from rsvlm_jax.cli.main import main
from rsvlm_jax.config import Experiment
from rsvlm_jax.data.badlog import read_bad
from rsvlm_jax.data.source import CubeSource
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.prepare import prepare
from rsvlm_jax.run.trained import load_run as load

SETS = ("s2_l1c", "dem")


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """A private copy of the shipped cube, free to be damaged."""
    return lambda name: Path(shutil.copytree(sample_path("slovenia_s2"), tmp_path / name))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped cube four times, 202 x 200 pixels, in 64-pixel shards: read only."""
    cube = open_cube(sample_path("slovenia_s2"))
    path = tmp_path_factory.mktemp("wide") / "wide.zarr"
    h, w = cube.grid.height, cube.grid.width
    sets = []
    for name in SETS:
        info = cube.bandsets[name]
        rows = {b.name: b for b in BANDSETS[name].bands}
        times = {} if info.static else {"dates": info.dates, "platform": info.platform.tolist()}
        sets.append(
            BandSetData(
                name,
                info.kind,
                [rows[b.name] for b in info.bands],
                scale=[b.scale for b in info.bands],
                offset=[b.offset for b in info.bands],
                nodata=info.nodata,
                static=info.static,
                dtype=info.dtype,
                **times,
            )
        )
    grid = dataclasses.replace(cube.grid, height=2 * h, width=2 * w)
    with create_cube(
        path, grid=grid, bandsets=sets, targets=[cube.targets["tree_cover"]], shard=64,
        title="wide", license="CC0-1.0", provenance="tests",
    ) as writer:  # fmt: skip
        for name in SETS:
            pixels, valid = cube.reader(name).read(0, 0, h, w)
            writer.write(name, 0, 0, *(np.tile(a, (1, 1, 2, 2)) for a in (pixels, valid)))
        writer.write_target("tree_cover", 0, 0, np.tile(cube.target("tree_cover"), (2, 2)))
    return path


def edit(path: Path, node: str, change: Callable[[dict], object]) -> None:
    file = path / node / "zarr.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    seal(path)


def scaled(path: Path, factor: float) -> Path:
    def change(document: dict) -> None:
        for band in document["attributes"]["bands"]:
            band["raster:scale"] *= factor

    edit(path, "s2_l1c", change)
    return path


def flip(file: Path) -> None:
    """A bit of every date: of the dates that a window does not use nothing is read."""
    content = bytearray(file.read_bytes())
    for i in range(1, 32, 2):
        content[i * len(content) // 32] ^= 1
    file.write_bytes(content)


def refused(args: list[str], capsys, code: int = 3) -> str:
    assert main(args) == code
    err = capsys.readouterr().err
    assert err.strip().count("\n") == 0, err
    return err


# ---- another cube for `evaluate` -----------------------------------------------------------------


def test_evaluate_reads_a_cube_with_reversed_bands_by_name(
    finished: Path, copied: Callable, tmp_path: Path, capsys
):
    run = shutil.copytree(finished, tmp_path / "run")
    other = copied("reversed.zarr")
    for array in ("pixels", "band"):
        stored = zarr.open_array(other / "s2_l1c" / array, mode="r+")
        axis = 1 if array == "pixels" else 0
        stored[...] = np.flip(stored[...], axis)
    edit(other, "s2_l1c", lambda d: d["attributes"]["bands"].reverse())
    results = []
    for words in ([], ["--cube", str(other)]):
        args = ["evaluate", str(run), "--baselines", "mean", "--answers", "0", "--json"]
        assert main([*args, *words]) == 0
        results.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    own, theirs = (r["table"][-1] for r in results)
    for key in ("n", "rmse", "mae", "bias", "picp90", "width90", "crps"):
        assert theirs[key] == pytest.approx(own[key], rel=1e-5, abs=1e-7), key
    assert Path(results[0]["report"]).parent == run / "report"
    assert Path(results[1]["report"]).parent == run / "report_reversed"
    assert f"--cube {other}" in Path(results[1]["report"]).read_text()


def test_evaluate_refuses_a_cube_of_another_scale(finished: Path, copied: Callable, capsys):
    other = scaled(copied("other.zarr"), 0.5)
    err = refused(["evaluate", str(finished), "--cube", str(other)], capsys)
    assert "another scale than the model was trained on" in err


# ---- numbers and files, before anything compiles -------------------------------------------------


@pytest.mark.parametrize("words", [["--dry-run"], ["--out", "{}/run"]])
def test_train_refuses_impossible_reflectances(copied: Callable, tmp_path: Path, words, capsys):
    cube = scaled(copied("scaled.zarr"), 100)
    words = [w.format(tmp_path) for w in words]
    err = refused(["train", "forkme", "--data.cube", str(cube), *words], capsys)
    assert "impossible reflectances" in err
    assert not (tmp_path / "run").exists()


def test_predict_refuses_impossible_reflectances_and_leaves_out_free(
    finished: Path, copied: Callable, tmp_path: Path, capsys
):
    cube, out = copied("bright.zarr"), tmp_path / "map"
    zarr.open_array(cube / "s2_l1c" / "pixels", mode="r+")[...] = 30000
    seal(cube)
    err = refused(["predict", str(finished), "--cube", str(cube), "--out", str(out)], capsys)
    assert "impossible reflectances" in err
    assert not out.exists()
    assert main(["predict", str(finished), "--cube", "sample:slovenia_s2", "--out", str(out)]) == 0


def test_a_missing_chunk_is_seen_by_a_dry_run(copied: Callable, capsys):
    cube = copied("missing.zarr")
    (cube / "s2_l1c/pixels/c/0/0/0/0").unlink()
    err = refused(["train", "forkme", "--data.cube", str(cube), "--dry-run"], capsys)
    assert "missing chunk" in err
    assert "s2_l1c/pixels/c/0/0/0/0" in err


def test_a_band_set_that_is_not_read_may_be_damaged(copied: Callable, capsys):
    cube = copied("missing.zarr")
    (cube / "ndvi/pixels/c/0/0/0/0").unlink()
    assert main(["train", "forkme", "--data.cube", str(cube), "--dry-run"]) == 0


# ---- a few windows that cannot be read -----------------------------------------------------------


@pytest.fixture
def hurt(wide: Path, tmp_path: Path) -> Path:
    """For damage in one shard: at the lower edge, with few windows of which some are held out."""
    return Path(shutil.copytree(wide, tmp_path / "hurt.zarr"))


def test_predict_names_the_corrupt_chunk(finished: Path, hurt: Path, tmp_path: Path, capsys):
    key, out = "s2_l1c/pixels/c/0/0/3/3", tmp_path / "map"
    whole = (hurt / key).read_bytes()
    flip(hurt / key)
    args = ["predict", str(finished), "--cube", str(hurt), "--out", str(out), "--block", "512"]
    err = refused(args, capsys)
    assert f"corrupt chunk in {hurt}: {key}" in err
    (hurt / key).write_bytes(whole)
    assert main(args) == 0, "once the chunk is restored the same command goes on"


def test_unreadable_windows_keep_their_slots_and_are_reported(
    finished: Path, experiment: Experiment, hurt: Path, tmp_path: Path, capsys
):
    data = dataclasses.replace(experiment.data, cube=str(hurt))
    train = dataclasses.replace(experiment.train, steps=1)
    wide_experiment = dataclasses.replace(experiment, data=data, train=train)
    prepared = prepare(wide_experiment)
    table, test = prepared.eval_table, prepared.split.test
    at = [(int(table.y[r]) // 64, int(table.x[r]) // 64) for r in test]
    column = next(x for y, x in at if y == 3)
    key = f"s2_l1c/pixels/c/0/0/3/{column}"
    flip(hurt / key)

    loaded = load(finished)
    source = CubeSource.of(loaded.processor, open_cube(hurt), table, rows=test)
    numbers = loaded.regress_source(source, batch_size=32)
    assert len(numbers.mean) == len(test)
    lost = np.isnan(numbers.mean)
    assert 0 < lost.sum() == len(source.bad) < 0.1 * len(test)
    assert sorted(source.bad) == test[lost].tolist()

    args = ["evaluate", str(finished), "--cube", str(hurt), "--baselines", "--answers", "0"]
    assert main([*args, "--json"]) == 0
    said = capsys.readouterr()
    assert f"{lost.sum()} windows could not be read; the first: corrupt chunk" in said.err
    result = json.loads(said.out.splitlines()[-1])
    assert result["unreadable"]["windows"] == lost.sum()
    assert result["table"][-1]["n"] == len(prepared.test) - lost.sum()

    run = fit(wide_experiment, out=tmp_path / "run")
    found = run.unreadable_windows()
    assert found["windows"] == len(prepared.train.bad) > 0 or found["windows"] > 0
    assert key in found["first"]
    listed = read_bad(run.bad_samples)
    assert len(listed) == found["windows"]
    assert all(bad.cube == str(hurt) and key in bad.reason for bad in listed)


def test_generate_outside_the_cube_says_where(finished: Path, capsys):
    args = ["generate", str(finished), "--cube", "sample:slovenia_s2", "--at", "-3", "20"]
    err = refused([*args, "--ask", "What is the tree cover?"], capsys)
    assert "expected windows inside 101 x 100 pixels; found 8 x 8 at -3, 20" in err


def test_no_such_cube_tells_what_there_is(finished: Path, tmp_path: Path, capsys):
    args = ["predict", str(finished), "--out", str(tmp_path / "o"), "--cube"]
    assert "did you mean sample:slovenia_s2?" in refused([*args, "slovenia_s2"], capsys)
    err = refused([*args, "no/where.zarr"], capsys)
    assert "expected the path of a cube, sample:slovenia_s2" in err
