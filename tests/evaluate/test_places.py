"""The verbs on a cube of places and on band sets of two resolutions."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from places import S, T, places, two_resolutions
from rich.console import Console
from test_figures import overlaps

from data_zarr.schema import validate
from data_zarr.suspect import suspicions
from rsvlm_jax.cli import main as cli
from rsvlm_jax.config import DataError
from rsvlm_jax.evaluate import cubeplots, cubeseries, foldsplot, panels
from rsvlm_jax.evaluate.cubefolds import FoldsRequest, cube_folds
from rsvlm_jax.evaluate.cubeinfo import clear_share, cube_facts
from rsvlm_jax.evaluate.cubepage import facts_page
from rsvlm_jax.evaluate.foldsreport import folds_facts, folds_page


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    return places(tmp_path_factory.mktemp("places") / "places.zarr")


@pytest.fixture(scope="module")
def fine_and_coarse(tmp_path_factory):
    return two_resolutions(tmp_path_factory.mktemp("two") / "two.zarr")


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    found: list[Figure] = []

    def keep(figure, path, dpi=150):
        found.append(figure)
        return panels.save(figure, path, dpi)

    for module in (foldsplot, cubeseries, cubeplots):
        monkeypatch.setattr(module, "save", keep)
    return found


def page(what) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(what)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    return text


def test_info_of_places(cube):
    facts = cube_facts(cube)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    text = page(facts_page(facts))
    for part in (
        "region (6), year (4)",
        "up to 8 dates a place, 4 bands, 60 places",
        "nominal year",
        "JFMAMJJASOND",
        "any   ████████████    12 dates  100 %",
    ):
        assert part in text
    assert facts["warnings"] == []


def test_clear_months_of_dates_of_their_own(cube):
    _, valid = cube.reader("s2_l2a").read(0, 0, S, 1)
    info = cube.bandsets["s2_l2a"]
    times, share, exact = clear_share(cube, "s2_l2a")
    months = info.dates.astype("M8[M]")
    assert exact
    for time, found in zip(times, share, strict=True):
        assert found == valid[:, 0, :, 0][months == time].mean()


def test_every_rule_of_places_has_a_row(cube):
    report = validate(cube, deep=True)
    assert report.ok
    rules = {r.rule for r in report.rows if r.level == "ok"}
    assert "each site has one id and a position on the earth" in rules
    assert "no value is valid without a date" in rules
    assert not any("CRS" in r for r in rules)


def test_blocks_of_places_and_a_buffer_in_km(cube):
    found = cube_folds(cube, FoldsRequest(folds=3, block=50.0, buffer=30.0))
    facts = folds_facts(found)
    assert facts["ok"]
    assert all(r["distance_metres"] > 30_000 for r in facts["folds"])
    assert sum(r["test"] for r in facts["folds"]) == S
    text = page(folds_page(facts))
    assert "3 folds: blocks of 50 km; buffer 30 km" in text
    assert "px" not in text


def test_a_label_left_out_value_by_value(cube):
    found = cube_folds(cube, FoldsRequest(group="year", folds=0))
    assert found.names == ("2016", "2017", "2018", "2019")
    years = cube.labels["year"]
    for name, s in zip(found.names, found.splits, strict=True):
        assert set(years[s.test]) == {int(name)}
        assert int(name) not in years[s.train]
    assert all(r.shared_places == 0 for r in found.reports)
    whole = cube_folds(cube, FoldsRequest(group="region", folds=3, stratify=3))
    assert folds_facts(whole)["ok"]
    with pytest.raises(DataError, match=r"no such label in .*expected one of .*region"):
        cube_folds(cube, FoldsRequest(group="regions"))


@pytest.mark.parametrize(
    "request_",
    [
        FoldsRequest(folds=3),
        FoldsRequest(group="year", folds=0),
        FoldsRequest(folds=12, block=10.0),
    ],
)
def test_the_map_of_places(tmp_path, drawn, request_):
    found = cube_folds(cube := places(tmp_path / "p.zarr"), request_)
    foldsplot.folds_figure(tmp_path / "f.png", found)
    assert overlaps(drawn[0]) == []
    texts = "\n".join(t.get_text() for t in drawn[0].findobj(Text))
    assert "longitude (°)" in texts
    assert cube.title in texts


def test_series_of_places(tmp_path, drawn, cube):
    (first, second) = cubeseries.show_series(cube, tmp_path / "s.png", bandset=None, sites=4)
    assert first["sites"] == ["plot-0", "plot-20", "plot-39", "plot-59"]
    assert second["bands"] == ["VV", "VH"]
    assert overlaps(drawn[0]) == []
    axes = [ax for ax in drawn[0].axes if ax.lines]
    # Every date is drawn: valid ones on the lines, the others as crosses.
    dates = int((~np.isnat(cube.bandsets["s2_l2a"].dates[:, 0])).sum())
    lines = axes[0].lines
    assert len(lines) == 4 + 1
    assert len(lines[0].get_xdata()) + len(lines[-1].get_xdata()) == dates <= T
    texts = "\n".join(t.get_text() for t in drawn[0].findobj(Text))
    for part in ("moisture unknown", "B04 0.665", "s1_db (dB)", "not valid", "year is not known"):
        assert part in texts


def test_the_verbs(tmp_path, capsys, cube):
    name, out = str(cube.path), str(tmp_path / "a.png")
    assert cli.main(["cube", "show", name, "--out", out, "--sites", "2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown["series"][0]["sites"] == ["plot-0", "plot-59"]
    assert cli.main(["cube", "validate", name, "--deep"]) == 0
    assert cli.main(["cube", "info", name]) == 0
    args = ["cube", "folds", name, "--group", "region", "--folds", "0", "--out", out, "--json"]
    assert cli.main(args) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [r["name"] for r in facts["folds"]] == [f"region {k}" for k in range(6)]


def test_two_resolutions(tmp_path, drawn, capsys, fine_and_coarse):
    facts = cube_facts(fine_and_coarse)
    assert facts["bandsets"]["s2_20m"]["factor"] == 2
    assert "2 dates, 6 bands, 24 x 20, pixels x2" in page(facts_page(facts))
    assert validate(fine_and_coarse, deep=True).ok
    assert suspicions(fine_and_coarse) == []
    found = cube_folds(fine_and_coarse, FoldsRequest(window=4, block=12, folds=3))
    assert folds_facts(found)["ok"]
    name, out = str(fine_and_coarse.path), str(tmp_path / "a.png")
    args = ["cube", "show", name, "--out", out, "--size", "16", "--image-size", "32"]
    assert cli.main([*args, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["frames"]
    assert {r["bandset"] for r in rows} == {"s2_l2a", "s2_20m"}
    texts = "\n".join(t.get_text() for t in drawn[-1].findobj(Text))
    assert "16 to 32 pixels" in texts  # of its own grid each
    assert "8 to 32 pixels" in texts
    assert overlaps(drawn[-1]) == []
