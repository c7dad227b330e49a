"""A dense head from a cube to a map: it is sharper than any answer by window, in every verb."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from data_zarr.cube import open_cube
from data_zarr.format import TargetInfo
from data_zarr.grid import Grid
from data_zarr.sensors import BANDSETS
from data_zarr.write import BandSetData, create_cube
from rsvlm_jax.cli.main import main
from rsvlm_jax.cli.options import load_experiment
from rsvlm_jax.config import (
    ConfigError,
    DataError,
    Experiment,
    InputConfig,
    TargetConfig,
    VLMConfig,
)
from rsvlm_jax.data.maps import target_maps
from rsvlm_jax.evaluate.pixels import thinned
from rsvlm_jax.generate import Generated
from rsvlm_jax.run import trained
from rsvlm_jax.run.cubes import find_cube
from rsvlm_jax.run.predict import predict
from rsvlm_jax.run.prepare import prepare
from rsvlm_jax.run.trained import Loaded, load_run

SIZE, WINDOW = 48, 8

PAGE = """
from rsvlm_jax.config import *

def experiment():
    return Experiment(
        name="dense",
        data=DataConfig(
            cube={cube!r}, target=TargetConfig("cover", "cover", also=("height",)),
            window=8, stride=4, templates="questions", split=SplitConfig(block=16, folds=3, fold=0),
        ),
        model=VLMConfig(
            vision=ViTConfig(image_size=8, patch_size=8, width=16, layers=1, heads=2, mlp_dim=16),
            temporal=TemporalConfig(budget=2, layers=1, heads=2),
            decoder=LlamaConfig(
                vocab_size=514, width=16, layers=1, heads=2, kv_heads=1, mlp_dim=16, max_length=128
            ),
            head=HeadConfig(
                kind="linear", targets=2, reg_tokens=1, output="laplace", dense="places"
            ),
            inputs=(InputConfig("s2_l2a", front="pixel"),),
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2, ema=0.9),
        train=TrainConfig(steps=80, batch_size=16, save_every=80, log_every=40),
    )
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cover differs from pixel to pixel; a tenth of it, and all height of a corner, is unknown."""
    folder = tmp_path_factory.mktemp("dense")
    row = BANDSETS["s2_l2a"]
    bands = [b for b in row.bands if b.name in ("B04", "B08")]
    rng = np.random.default_rng(0)
    field = rng.uniform(0, 1, (2, SIZE, SIZE))
    cover = np.where(rng.random((SIZE, SIZE)) < 0.1, np.nan, field[0] * field[1])
    height = 30 * field[0]
    height[:16, :16] = np.nan
    cube = folder / "cube.zarr"
    with create_cube(
        cube,
        grid=Grid.from_epsg(32633, (10.0, 0.0, 5e5, 0.0, -10.0, 5.1e6), SIZE, SIZE),
        bandsets=[
            BandSetData("s2_l2a", row.kind, bands, ["2020-06-01"], "sentinel-2a", scale=1e-4)
        ],
        targets=[
            TargetInfo("cover", "cover", "1", (0.0, 1.0)), TargetInfo("height", "height", "m"),
        ],
        title="Dense",
        license="CC0-1.0",
        provenance="made by the tests",
    ) as writer:  # fmt: skip
        writer.write("s2_l2a", 0, 0, (300 + 3000 * field[None]).astype(np.int16))
        writer.write_target("cover", 0, 0, cover.astype(np.float32))
        writer.write_target("height", 0, 0, height.astype(np.float32))
    file = folder / "dense.py"
    file.write_text(PAGE.format(cube=str(cube)))
    return file


@pytest.fixture(scope="module")
def run(page: Path) -> Path:
    assert main(["train", str(page), "--out", str(page.parent / "run")]) == 0
    return page.parent / "run"


@pytest.fixture(scope="module")
def scores(run: Path) -> dict:
    """Of `rsvlm evaluate`, which calibrates the run."""
    assert main(["evaluate", str(run), "--baselines", "mean", "--calibrate"]) == 0
    return {r["model"]: r for r in json.loads((run / "report" / "pixels.json").read_text())}


@pytest.fixture(scope="module")
def loaded(run: Path, scores: dict) -> Loaded:
    return load_run(run)


def test_the_map_is_sharper_than_any_answer_by_window(scores: dict):
    assert list(scores) == ["rsvlm_pixels", "rsvlm_means", "true_means"]
    assert scores["true_means"]["r2"] < 0.2
    assert scores["rsvlm_means"]["r2"] <= scores["true_means"]["r2"]
    assert scores["rsvlm_pixels"]["r2"] > 0.8
    assert scores["rsvlm_pixels"]["n"] < SIZE**2 / 3  # what is not known is not counted
    assert abs(scores["rsvlm_pixels"]["picp90"] - 0.9) < 0.05


def test_statistics_are_of_pixels(loaded: Loaded):
    cube = open_cube(loaded.experiment.data.cube)
    known = cube.target("cover")[np.isfinite(cube.target("cover"))]
    np.testing.assert_allclose(loaded.stats["head"]["target_std"][0], known.std(), rtol=0.1)


def test_windows_have_the_means_of_their_maps_and_words_say_them(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
):
    source = prepare(loaded.experiment).test
    maps, means = loaded.regress_maps(source), loaded.regress_targets(source)
    assert list(maps) == ["cover", "height"]
    for name, found in maps.items():
        assert found.mean.shape == (len(source), WINDOW, WINDOW)
        np.testing.assert_allclose(found.mean.mean(axis=(1, 2)), means[name].mean)
        np.testing.assert_allclose(found.hi.mean(axis=(1, 2)), means[name].hi)
    row = source.rows[0]
    at = int(source.table.y[row]), int(source.table.x[row])
    batch = loaded.window(open_cube(loaded.experiment.data.cube), *at)
    np.testing.assert_allclose(loaded.regress(batch).mean, means["cover"].mean[:1], rtol=1e-5)
    # The answer that was trained, as if the decoder had said it by itself.
    encoded = trained._encoded(loaded.graphdef, loaded.params, loaded.stats, batch)
    reg = loaded.processor.tokenizer.reg
    hidden = encoded.hidden[:, np.flatnonzero(batch.tokens[0] == reg)]
    said = Generated(jnp.full((1, 1), reg), jnp.ones(1, jnp.int32), jnp.zeros(1), hidden)
    spoken = said, encoded.visual, encoded.visual_valid
    monkeypatch.setattr(Loaded, "_speak", lambda self, question, batch: spoken)
    (answer,) = loaded.chat(loaded.processor.questions.pairs[0].question, batch)
    assert answer.value == pytest.approx(means["cover"].mean[0], rel=1e-5)
    assert answer.hi == pytest.approx(means["cover"].hi[0], rel=1e-5)


def test_a_map_is_blended_pixel_by_pixel(run: Path, loaded: Loaded, tmp_path: Path):
    cube = open_cube(loaded.experiment.data.cube)
    predict(loaded, cube, tmp_path / "map", overlap=0, block=32, geotiff=False)
    made = xarray.open_zarr(tmp_path / "map" / "map.zarr", consolidated=False)
    assert made.attrs["interval"] == "90 %, conformal, of a single pixel"
    found, target = made["cover"].values, cube.target("cover")
    ok = np.isfinite(target)
    assert np.corrcoef(found[ok], target[ok])[0, 1] > 0.9
    inside = (made["cover_lower"].values <= target) & (target <= made["cover_upper"].values)
    assert 0.8 < inside[ok].mean() < 0.98
    source = prepare(loaded.experiment).test
    row = source.rows[0]
    y, x = int(source.table.y[row]), int(source.table.x[row])
    alone = loaded.regress_maps(source)["cover"].mean[0]
    np.testing.assert_allclose(found[y : y + WINDOW, x : x + WINDOW], alone, rtol=1e-4, atol=1e-5)
    assert np.isfinite(made["height"]).all()


def test_a_turned_window_has_its_map_turned(loaded: Loaded):
    source = prepare(loaded.experiment).train
    turn = np.array([3, 0])
    plain, turned = source.read(np.array([0, 1])), source.read(np.array([0, 1]), turn)
    for name in ("target_map", "pixels"):
        a, b = (
            s["target_map"] if name == "target_map" else s["obs"]["s2_l2a"]["pixels"]
            for s in (plain, turned)
        )
        np.testing.assert_array_equal(a[0].swapaxes(-1, -2)[..., ::-1, :], b[0])
        np.testing.assert_array_equal(a[1], b[1])


def test_few_order_statistics_stand_for_many_scores():
    many = np.random.default_rng(0).exponential(size=50_001)
    few = thinned(many)
    assert len(few) == 2_000
    assert (np.diff(few) >= 0).all()
    assert abs(np.mean(many <= np.quantile(few, 0.9)) - 0.9) < 1e-3


def test_bad_input_a_dense_head_on_sites():
    with pytest.raises(DataError, match=r"^a site is no map"):
        target_maps(find_cube("sample:fuel_moisture"), TargetConfig("lfmc"))


def test_bad_input_a_calibration_on_another_cube(run: Path, page: Path, capsys):
    words = ["--cube", str(page.parent / "other.zarr"), "--calibrate"]
    assert main(["evaluate", str(run), *words]) == 2
    assert "a run is calibrated on what it held out" in capsys.readouterr().err


def _head(base: Experiment, **change: object) -> VLMConfig:
    return dataclasses.replace(base.model, head=dataclasses.replace(base.model.head, **change))


MAPLESS = {
    "readout": (
        lambda base: _head(base, readout=1.0),
        "^a readout is fitted to the means of windows",
    ),
    "decoder": (
        lambda base: dataclasses.replace(base.model, decoder=None),
        "^without a decoder there are no places",
    ),
    "front": (
        lambda base: dataclasses.replace(base.model, inputs=(InputConfig("s2", front="galileo"),)),
        "^a dense head draws its map from pixels",
    ),
    "number": (
        lambda base: dataclasses.replace(
            base,
            data=dataclasses.replace(base.data, number="digits", target=TargetConfig("cover")),
            model=_head(base, targets=1),
        ),
        "^a text of one number is no map",
    ),
}


@pytest.mark.parametrize("name", MAPLESS)
def test_bad_input_what_makes_no_map(page: Path, name: str):
    change, error = MAPLESS[name]
    base = load_experiment(str(page))
    with pytest.raises(ConfigError, match=error):
        change(base)
