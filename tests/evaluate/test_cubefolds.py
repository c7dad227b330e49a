"""`rsvlm cube folds`: an experiment's folds, their leakage, a picture where nothing overlaps."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from rich.console import Console
from test_figures import overlaps

from data_zarr import open_cube, sample_path
from data_zarr.errors import CubeError
from data_zarr.sampling import window_table
from data_zarr.splits import split, tile_folds
from data_zarr.splits.tiles import NarrowBufferWarning
from rsvlm_jax.cli import main as cli
from rsvlm_jax.config import ConfigError, DataError
from rsvlm_jax.evaluate import foldsplot, panels
from rsvlm_jax.evaluate.cubefolds import FoldsRequest, cube_folds
from rsvlm_jax.evaluate.cubeframes import quicklook
from rsvlm_jax.evaluate.foldsreport import folds_facts, folds_page
from rsvlm_jax.evaluate.yearfolds import held_years, years_facts, years_page

SLOVENIA = "sample:slovenia_s2"


@pytest.fixture(scope="module")
def cube():
    return open_cube(sample_path("slovenia_s2"))


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    found: list[Figure] = []

    def keep(figure, path, dpi=150):
        found.append(figure)
        return panels.save(figure, path, dpi)

    monkeypatch.setattr(foldsplot, "save", keep)
    return found


def lines(facts, width=80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(folds_page(facts))
    return console.file.getvalue().splitlines()


def test_the_folds_of_an_experiment(cube):
    request = FoldsRequest(block=25, buffer=0, stride=2, narrow="accept")
    found = cube_folds(cube, request)
    fold_map = tile_folds(101, 100, block=25, folds=5)
    np.testing.assert_array_equal(found.fold_of, fold_map)
    train, test = window_table(101, 100, 8, 2), window_table(101, 100, 8, 8)
    for f, s in enumerate(found.splits):
        expected = split(train, test, fold_map, f)
        np.testing.assert_array_equal(s.train, expected.train)
        np.testing.assert_array_equal(s.test, expected.test)


def test_facts_are_json_and_the_page_fits_a_narrow_terminal(cube):
    facts = folds_facts(cube_folds(cube, FoldsRequest(stratify=4)))
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["ok"]
    assert all(r["distance_pixels"] == 9 for r in facts["folds"])
    assert all(80 < r["distance_metres"] < 91 for r in facts["folds"])
    assert 200 < facts["variogram"]["range_metres"] < 500
    page = lines(facts)
    assert max(map(len, page)) <= 80
    text = "\n".join(page)
    assert "5 folds: tiles of 32 pixels, windows of 8, 4 strata; buffer 8 pixels" in text
    assert "LEAK" not in text


def test_the_range_as_a_buffer_keeps_test_windows_out_of_it():
    cube = open_cube(sample_path("spain_s1s2"))
    found = cube_folds(cube, FoldsRequest(buffer="range", block=256, folds=4))
    assert found.variogram is not None
    # In degrees a pixel is narrower than it is tall: the buffer counts the narrower side.
    for r in found.reports:
        assert r.nearer_than_range == 0
        assert r.min_distance > found.buffer
        assert (r.min_distance_metres or 0) > found.variogram.range_metres


def test_classes_are_strata_and_have_no_mean(cube):
    facts = folds_facts(cube_folds(cube, FoldsRequest(target="land_cover", stratify=2)))
    assert all(r["target_mean"] is None and r["target_n"] > 0 for r in facts["folds"])


def test_strata_even_out_the_target(cube):
    def spread(stratify):
        request = FoldsRequest(block=10, stratify=stratify, target="tree_cover")
        rows = folds_facts(cube_folds(cube, request))["folds"]
        return np.std([r["target_mean"] for r in rows])

    assert spread(5) < spread(0) / 2


def test_a_narrow_buffer_warns_or_is_refused(cube):
    with pytest.warns(NarrowBufferWarning, match="2 of 8 pixels"):
        cube_folds(cube, FoldsRequest(buffer=0.25))
    with pytest.raises(CubeError, match="narrower than a window"):
        cube_folds(cube, FoldsRequest(buffer=0.25, narrow="refuse"))


def test_options_that_do_not_fit(cube):
    with pytest.raises(ConfigError, match="labels belong to cubes of places in --group"):
        cube_folds(cube, FoldsRequest(group="region"))
    with pytest.raises(CubeError, match="no such target"):
        cube_folds(cube, FoldsRequest(target="tree_cove"))
    with pytest.raises(CubeError, match="fewer tiles than folds"):
        cube_folds(cube, FoldsRequest(block=60))


@pytest.mark.parametrize("name", ["slovenia_s2", "spain_s1s2"])
def test_the_picture(tmp_path, drawn, name):
    cube = open_cube(sample_path(name))
    found = cube_folds(cube, FoldsRequest())
    image, caption = quicklook(cube, side=100)
    assert caption.startswith("s2_l1c, B04, B03, B02, 201")
    path = foldsplot.folds_figure(tmp_path / "f.png", found, image=image, caption=caption)
    with Image.open(path) as picture:
        assert 1200 <= picture.size[0] <= 1300
    assert overlaps(drawn[0]) == []
    texts = "\n".join(t.get_text() for t in drawn[0].findobj(Text))
    for part in ("fold 4", "test windows", "9 px", "range ", "Leakage", "under it: s2_l1c"):
        assert part in texts


def test_the_verb(tmp_path, capsys):
    out = tmp_path / "f.png"
    args = ["cube", "folds", "sample:spain_s1s2", "--buffer", "range", "--block", "256"]
    assert cli.main([*args, "--folds", "3", "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out.splitlines()[-1])
    assert (len(facts["folds"]), facts["figure"]) == (3, str(out))
    assert out.is_file()


def test_the_verb_refuses_in_one_line(capsys):
    assert cli.main(["cube", "folds", SLOVENIA, "--group", "region"]) == 2
    assert "labels belong to cubes of places" in capsys.readouterr().err
    assert cli.main(["cube", "folds", SLOVENIA, "--buffer", "wide"]) == 2
    assert cli.main(["cube", "folds", SLOVENIA, "--block", "60"]) == 3


def test_without_a_target(tmp_path, drawn):
    found = cube_folds(open_cube(sample_path("slovenia_s2")), FoldsRequest())
    bare = dataclasses.replace(found, target=None, values=None, variogram=None)
    foldsplot.folds_figure(tmp_path / "f.png", bare)
    assert overlaps(drawn[0]) == []


def test_a_slope_has_no_range(cube, monkeypatch):
    slope = np.add.outer(np.arange(101.0), np.zeros(100)).astype(np.float32)
    monkeypatch.setattr(type(cube), "target", lambda self, name: slope)
    with pytest.raises(DataError, match=r"the target has no range in --buffer range; .* no sill"):
        cube_folds(cube, FoldsRequest(buffer="range"))
    facts = folds_facts(cube_folds(cube, FoldsRequest()))
    assert facts["variogram"]["range_metres"] is None
    assert "no range" in "\n".join(lines(facts))


def test_dates_of_a_year_held_out(capsys):
    args = ["cube", "folds", SLOVENIA, "--year", "2017", "--gap-days", "40", "--json"]
    # Not every band set has dates in 2017: it is named, and nothing is split by halves.
    assert cli.main(args) == 3
    assert "a year has no date" in capsys.readouterr().err
    world = open_cube(sample_path("slovenia_s2"))
    world.bandsets.pop("s2_l1c")
    facts = years_facts(world, held_years(world, (2016,), 40), (2016,))
    (row,) = facts["bandsets"]
    assert (row["train"] + row["test"] + row["neither"], row["test"]) == (68, 21)
    assert row["gap_days"] > 40
    assert facts["ok"]
    console = Console(file=io.StringIO(), width=80)
    console.print(years_page(facts))
    assert "dates of 2016 held out" in console.file.getvalue()


def test_a_held_out_year_has_no_map(capsys, tmp_path):
    out = str(tmp_path / "f.png")
    assert cli.main(["cube", "folds", SLOVENIA, "--year", "2015", "--out", out]) == 2
    assert "held-out dates have no map" in capsys.readouterr().err
