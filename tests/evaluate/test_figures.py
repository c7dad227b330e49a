"""Figures: written whole, free of pyplot, nothing printed over anything else."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from data_zarr.grid import Grid
from rsvlm_jax.config import ConfigError, DataError
from rsvlm_jax.evaluate import cubeplots, figure, panels
from rsvlm_jax.evaluate.cubeplots import Panel, Slot, show_cube
from rsvlm_jax.evaluate.figure import decimals, demo_figure
from rsvlm_jax.evaluate.regression import regression_benchmark

UTM = Grid.from_bounds(32633, (465000.0, 5079000.0, 465300.0, 5079400.0), 40, 30)
WIDE = Grid.from_bounds(32633, (465000.0, 5079000.0, 467000.0, 5079400.0), 40, 30)
DEGREES = Grid.from_bounds(4326, (-3.01, 38.0, -3.0, 38.01), 40, 30)


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that a test saves."""
    found: list[Figure] = []

    def keep(figure, path, dpi=150):
        found.append(figure)
        return panels.save(figure, path, dpi)

    for module in (figure, cubeplots):
        monkeypatch.setattr(module, "save", keep)
    return found


def arguments(grid: Grid = UTM, unit: str = "1", top: float = 1.0, folds: int = 5) -> dict:
    rng = np.random.default_rng(0)
    y = rng.uniform(0, top, 60)
    fold = np.arange(60) % folds
    oof = np.clip(y + rng.normal(0, 0.1 * top, 60), 0, top)
    models = dict.fromkeys(("mean", "ridge", "random_forest", "rsvlm", "no_lm"), (oof, None, 1.0))
    bench = regression_benchmark(y, fold, models, bounds=(0.0, top))
    field = np.linspace(0, top, 1200).reshape(40, 30)
    field[:4] = np.nan
    best = bench.oof["rsvlm"]
    return {
        "rgb": rng.uniform(0, 0.3, (40, 30, 3)),
        "prediction": field,
        "lower": np.clip(field - 0.1 * top, 0, top),
        "upper": np.clip(field + 0.2 * top, 0, top),
        "reference": field,
        "y": y,
        "oof": best.mean,
        "lo": best.lo,
        "hi": best.hi,
        "fold": fold,
        "grid": grid,
        "title": "Tree cover from Sentinel-2",
        "label": "tree cover",
        "unit": unit,
        "fold_map": np.arange(1200).reshape(40, 30) // 300,
        "row": bench.rows[3],
        "table": bench.rows,
        "notes": ("Map: one model of all windows. " * 4, "Scatter: five models."),
    }


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes share more than a pixel each way, and texts cut by the edge."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = []
    for text in figure.findobj(Text):
        shown = text.get_visible() and text.get_text().strip()
        ax = text.axes
        if not shown or (ax is not None and not ax.get_visible()):
            continue
        boxes.append((text.get_text(), text.get_window_extent(renderer)))
    found = []
    for i, (a, p) in enumerate(boxes):
        if p.x0 < -1 or p.y0 < -1 or p.x1 > figure.bbox.x1 + 1 or p.y1 > figure.bbox.y1 + 1:
            found.append((a, "the edge of the figure"))
        for b, q in boxes[i + 1 :]:
            if min(p.x1, q.x1) - max(p.x0, q.x0) > 1 and min(p.y1, q.y1) - max(p.y0, q.y0) > 1:
                found.append((a, b))
    return found


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"grid": DEGREES},
        {"grid": WIDE},
        {"unit": "Mg/ha", "top": 412.0},
        {"folds": 12},
    ],
    ids=["utm", "degrees", "wide", "biomass", "many folds"],
)
def test_demo_figure_is_written_and_nothing_overlaps(tmp_path, drawn, kwargs):
    path = demo_figure(tmp_path / "deep" / "demo.png", **arguments(**kwargs))
    with Image.open(path) as image:
        assert image.size[0] == 2070
        assert np.asarray(image.convert("RGB")).std() > 20
    assert [p.name for p in path.parent.iterdir()] == ["demo.png"]
    assert overlaps(drawn[0]) == []


def test_demo_figure_names_what_it_shows(tmp_path, drawn):
    given = arguments(unit="Mg/ha", top=412.0)
    demo_figure(tmp_path / "a.png", **given, image_title="VV, VH, VV - VH (dB)")
    texts = "\n".join(t.get_text() for t in drawn[0].findobj(Text))
    for part in (
        "Tree cover from Sentinel-2",
        "VV, VH, VV - VH (dB)",
        "EPSG:32633",
        "tree cover (Mg/ha)",
        "Width of the 90 % interval",
        "random_forest",
        f"{given['row']['r2']:.3f}",
        "50 m",
        "E (km)",
    ):
        assert part in texts


def test_the_same_data_give_the_same_bytes(tmp_path):
    first, second = (demo_figure(tmp_path / f"{k}.png", **arguments()) for k in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_a_map_without_values_is_drawn(tmp_path):
    given = arguments()
    empty = np.full((40, 30), np.nan)
    given |= {"prediction": empty, "lower": empty, "upper": empty, "reference": empty}
    given |= {"rgb": np.full((40, 30, 3), np.nan), "row": None, "table": (), "notes": ()}
    assert demo_figure(tmp_path / "a.png", **given).exists()


@pytest.mark.parametrize(
    ("error", "places"), [(0.128, 3), (23.9, 1), (412.0, 0), (0.0, 3), (0.004, 5)]
)
def test_decimals_show_three_digits(error, places):
    assert decimals(error) == places


def test_bad_input_unwritable_figure(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write the figure in .*file/a.png; found "):
        demo_figure(tmp_path / "file" / "a.png", **arguments())


def test_stretch_takes_percentiles_of_valid_pixels():
    rgb = np.linspace(0, 1, 101)[:, None, None] * np.ones(3)
    valid = np.ones((101, 1), bool)
    rgb[0], valid[0] = 1e6, False
    found = panels.stretch(rgb, valid)
    np.testing.assert_array_equal(found[0], panels.GREY)
    assert found[1:].min() == 0.0
    assert found[1:].max() == 1.0
    assert (np.diff(found[1:, 0, 0]) >= 0).all()


def test_a_flat_channel_is_no_division_by_zero():
    found = panels.stretch(np.ones((4, 4, 3)))
    assert np.isfinite(found).all()
    assert np.ptp(found) == 0


def frames(dates: int = 3, shape: tuple[int, int] = (20, 30)) -> list[Panel]:
    rng = np.random.default_rng(0)
    out = []
    for t in range(dates):
        valid = rng.random(shape) > 0.2
        valid = valid & (t != 1)
        optical = rng.uniform(0, 0.4, (*shape, 3))
        slots = (Slot("B12", 2.202), Slot("B11", 1.614), Slot("B8A", 0.865))
        out.append(Panel(f"2015-07-{t + 1:02d}", "SWIR", slots, optical, valid))
        radar = np.where(valid[..., None], rng.normal(-12, 3, (*shape, 3)), np.nan)
        slots = (Slot("VV", unit="dB"), Slot("VH", unit="dB"), Slot("VV - VH", unit="dB"))
        if t != 2:
            out.append(Panel(f"2015-07-{t + 1:02d}", "radar", slots, radar, valid))
    return out


def test_show_cube_names_bands_wavelengths_stretch_and_gaps(tmp_path, drawn):
    path = show_cube(tmp_path / "cube.png", frames(), title="slovenia_s2")
    texts = "\n".join(t.get_text() for t in drawn[0].findobj(Text))
    for part in ("B12 2.202 µm", "VV - VH", "dB", "2015-07-02", "0% valid", "not valid", "SWIR"):
        assert part in texts
    assert overlaps(drawn[0]) == []
    with Image.open(path) as image:
        assert np.asarray(image.convert("RGB")).std() > 20


def test_values_behind_the_mask_change_no_pixel_of_the_picture(tmp_path):
    clean = frames(1)[:1]
    dirty = [
        Panel(p.date, p.group, p.slots, np.where(p.valid[..., None], p.pixels, 1e9), p.valid)
        for p in clean
    ]
    first = show_cube(tmp_path / "a.png", clean, title="t")
    second = show_cube(tmp_path / "b.png", dirty, title="t")
    assert first.read_bytes() == second.read_bytes()


def test_a_long_series_is_thinned_and_says_so(tmp_path, drawn):
    show_cube(tmp_path / "a.png", frames(30, (6, 6)), title="ndvi", max_dates=4)
    texts = [t.get_text() for t in drawn[0].findobj(Text)]
    assert "ndvi (4 of 30 dates)" in texts
    assert {"2015-07-01", "2015-07-30"} <= set(texts)
    assert sum(t.startswith("2015-") for t in texts) == 4


def test_bad_input_nothing_to_show(tmp_path):
    with pytest.raises(DataError, match="nothing to show in empty"):
        show_cube(tmp_path / "a.png", [], title="empty")


def test_bad_input_not_a_three_channel_frame(tmp_path):
    slot = Slot("B02")
    panel = Panel("d", "g", (slot,) * 3, np.zeros((4, 4, 2)), np.ones((4, 4), bool))
    with pytest.raises(DataError, match=r"not a three-channel frame in d, g; .*\(4, 4, 2\)"):
        show_cube(tmp_path / "a.png", [panel], title="t")


def test_pyplot_is_never_imported():
    code = (
        "import sys; import rsvlm_jax.evaluate.figure, rsvlm_jax.evaluate.cubeplots;"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
