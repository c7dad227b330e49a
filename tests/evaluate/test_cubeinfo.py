"""`rsvlm cube info`: a page of 80 columns, facts that equal the store, JSON."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from data_zarr import open_cube, sample_path
from rsvlm_jax.cli import main as cli
from rsvlm_jax.evaluate import cubeinfo
from rsvlm_jax.evaluate.cubeinfo import clear_share, cube_facts
from rsvlm_jax.evaluate.cubepage import facts_page


@pytest.fixture(scope="module")
def cube():
    return open_cube(sample_path("slovenia_s2"))


@pytest.fixture(scope="module")
def facts(cube):
    return cube_facts(cube)


def lines(facts, width=80, unicode=True) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(facts_page(facts, unicode=unicode))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def series(facts, dates, share=None):
    """Facts of a band set with other dates."""
    b = {**facts["bandsets"]["ndvi"], "dates": dates}
    b["valid_percent"] = share or [50.0] * len(dates)
    b["shape"] = [len(dates), *b["shape"][1:]]
    return {**facts, "bandsets": {"ndvi": b}}


@pytest.mark.parametrize("name", ["slovenia_s2", "spain_s1s2"])
def test_one_page_of_eighty_columns(name):
    page = lines(cube_facts(open_cube(sample_path(name))))
    assert max(map(len, page)) <= 80
    assert len(page) <= 60
    text = "\n".join(page)
    for part in ("EPSG:", "B8A nir08 0.865", "MB in", "licence", "crc32c", "shards of"):
        assert part in text


def test_every_date_has_a_bar(facts):
    text = "\n".join(lines(facts))
    assert "2015-07-11  ████████████████████████   100 %" in text
    assert "2015-07-31  ························     0 %" in text
    assert "5 of sentinel-2a" in text
    assert "2017  █▇▃▇▅▅▇▇▃█▃▄    36 dates   65 %" in text
    assert "stored x 0.0001, nodata -9999" in text


def test_forty_years_are_a_line_a_decade(facts):
    dates = [f"{y}-{m:02d}-15" for y in range(1984, 2024) for m in (1, 4, 7, 10)]
    page = lines(series(facts, dates))
    text = "\n".join(page)
    assert "1980s  ····▅▅▅▅▅▅    24 dates   50 %" in text
    assert "2020s  ▅▅▅▅······    16 dates   50 %" in text
    assert len(page) < 30


def test_a_pipe_without_unicode_gets_ascii(facts):
    page = lines(facts, unicode=False)
    text = "\n".join(line for line in page if "µm" not in line)
    assert text.isascii()
    assert "2015-07-31  ........................     0 %" in text


def test_a_piped_command_is_eighty_columns_wide():
    command = [sys.executable, "-m", "rsvlm_jax.cli.main", "cube", "info", "sample:spain_s1s2"]
    done = subprocess.run(command, capture_output=True, check=True, encoding="utf-8")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout


def test_facts_are_those_of_the_store(cube, facts):
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    b = facts["bandsets"]["s2_l1c"]
    files = [p for p in (cube.path / "s2_l1c").rglob("*") if p.is_file()]
    assert b["stored_bytes"] == sum(p.stat().st_size for p in files)
    assert b["raw_bytes"] == 5 * 101 * 100 * (13 * 2 + 1)
    assert b["valid_percent"] == [100.0, 0.0, 0.0, 100.0, 100.0]
    assert b["codec"] == "blosc/zstd 9, crc32c"
    assert b["layout"] == "balanced"
    assert facts["bounds"] == list(cube.grid.bounds)
    known = np.isfinite(cube.target("tree_cover"))
    assert facts["targets"]["tree_cover"]["known_percent"] == round(100 * known.mean(), 1)
    assert facts["warnings"][0]["where"] == "ndvi"


def test_clear_share_is_exact_or_says_that_it_is_not(cube, monkeypatch):
    reader = cube.reader("ndvi")
    _, valid = reader.read(0, 0, 101, 100)
    days, share, exact = clear_share(cube, "ndvi")
    assert str(days[0]) == "2015-07-11"
    np.testing.assert_allclose(share, valid.mean(axis=(1, 2, 3)), rtol=1e-12)
    assert exact
    monkeypatch.setattr(cubeinfo, "EXACT", 0)
    monkeypatch.setattr(cubeinfo, "STRIP", 10)
    monkeypatch.setattr(cubeinfo, "SAMPLE", 20)
    _, sampled, exact = clear_share(cube, "ndvi")
    assert not exact
    assert np.abs(sampled - share).mean() < 0.1
    assert "clear (est.)" in "\n".join(lines(cube_facts(cube)))


def test_the_verb(capsys):
    assert cli.main(["cube", "info", "sample:spain_s1s2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["title"].startswith("Sentinel-1 and Sentinel-2")
    assert found["gsd_metres"] == pytest.approx(8.9, abs=0.1)


def test_no_such_cube(capsys):
    assert cli.main(["cube", "info", "nowhere.zarr"]) == 3
    assert "no such cube in" in capsys.readouterr().err


def test_places_of_unknown_position(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cube", "info", "sample:landsat_wa_pixel", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["bounds"] is None
    assert facts["lonlat_bounds"] is None
