"""A run of two targets by quantiles of a linear head: the verbs, statistics, refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import xarray

from data_zarr.format import TargetInfo
from data_zarr.grid import Grid
from data_zarr.sensors import BANDSETS
from data_zarr.write import BandSetData, create_cube
from rsvlm_jax.cli.main import main
from rsvlm_jax.cli.options import load_experiment
from rsvlm_jax.config import DataError, HeadConfig
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.prepare import prepare
from rsvlm_jax.run.trained import Loaded, load_run

SIZE = 32
LAYERS = {
    "agb": TargetInfo("agb", "above-ground biomass", "Mg/ha", (0.0, 400.0)),
    "height": TargetInfo("height", "canopy height", "m", (0.0, 60.0)),
    "change": TargetInfo("change", "change of biomass", "Mg/ha"),
    "flat": TargetInfo("flat", "flat", "m"),
}

PAGE = """
from rsvlm_jax.config import *

def experiment():
    return Experiment(
        name="two",
        data=DataConfig(
            cube={cube!r}, target=TargetConfig("agb", "biomass", also=("height",)),
            window=8, stride=4, split=SplitConfig(block=8, folds=2, fold=0, buffer=0.0),
        ),
        model=VLMConfig(
            vision=ViTConfig(image_size=8, patch_size=4, width=8, layers=1, heads=2, mlp_dim=8),
            temporal=TemporalConfig(layers=1, heads=2),
            decoder=None, head=HeadConfig(targets=2),
            inputs=(InputConfig("s2_l2a", front="pixel"),),
        ),
        train=TrainConfig(steps=4, batch_size=4, save_every=4, log_every=1),
    )
"""
WORDS = ["--model.head.kind", "linear", "--model.head.output", "quantiles"]
WORDS += ["--model.head.quantiles", "0.05", "0.25", "0.5", "0.75", "0.95"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment on a cube whose canopy height is not known in the upper left quarter."""
    folder = tmp_path_factory.mktemp("two")
    row = BANDSETS["s2_l2a"]
    bands = [b for b in row.bands if b.name in ("B04", "B08")]
    field = np.random.default_rng(0).uniform(0, 1, (2, SIZE, SIZE))
    field = np.kron(field[:, ::8, ::8], np.ones((8, 8)))
    height = 5 + 40 * field[1]
    height[:16, :16] = np.nan
    values = {
        "agb": 20 + 200 * field[0], "height": height, "change": 10 * field[0] - 5,
        "flat": np.full((SIZE, SIZE), 3.0),
    }  # fmt: skip
    cube = folder / "two.zarr"
    with create_cube(
        cube,
        grid=Grid.from_epsg(32633, (10.0, 0.0, 5e5, 0.0, -10.0, 5.1e6), SIZE, SIZE),
        bandsets=[
            BandSetData("s2_l2a", row.kind, bands, ["2020-06-01"], "sentinel-2a", scale=1e-4)
        ],
        targets=list(LAYERS.values()),
        title="Two",
        license="CC0-1.0",
        provenance="made by the tests",
    ) as writer:
        writer.write("s2_l2a", 0, 0, (300 + 3000 * field[None]).astype(np.int16))
        for name, x in values.items():
            writer.write_target(name, 0, 0, x.astype(np.float32))
    file = folder / "two.py"
    file.write_text(PAGE.format(cube=str(cube)))
    return file


@pytest.fixture(scope="module")
def run(page: Path) -> Path:
    assert main(["train", str(page), "--out", str(page.parent / "run"), *WORDS]) == 0
    return page.parent / "run"


@pytest.fixture(scope="module")
def loaded(run: Path) -> Loaded:
    return load_run(run)


def test_the_words_of_a_command_choose_the_head(loaded: Loaded):
    head = loaded.experiment.model.head
    assert head is not None
    assert (head.kind, head.output, len(head.quantiles)) == ("linear", "quantiles", 5)
    words = ["--model.head.kind", "experts", "--model.head.output", "histogram"]
    assert main(["train", "forkme", "--dry-run", "--out", "unused", *words]) == 0


def test_each_target_has_statistics_of_where_it_is_known(loaded: Loaded):
    source = prepare(loaded.experiment).train
    assert source.has_targets[:, 0].all()
    assert 0 < source.has_targets[:, 1].mean() < 1
    expected = [source.targets[source.has_targets[:, k], k].mean() for k in range(2)]
    np.testing.assert_allclose(loaded.stats["head"]["target_mean"], expected, rtol=1e-5)
    np.testing.assert_array_equal(loaded.stats["head"]["target_high"], [400.0, 60.0])


def test_numbers_are_those_of_the_quantiles_and_calibration_is_of_the_first(loaded: Loaded):
    source = prepare(loaded.experiment).test
    found = loaded.regress_targets(source)
    assert list(found) == ["agb", "height"]
    for numbers in found.values():
        assert len(numbers.mean) == len(source)
        assert (numbers.scale > 0).all()
        assert (numbers.lo < numbers.hi).all()
    assert found["height"].hi.max() <= 60
    scores = [1.5] * 40
    one = dataclasses.replace(loaded, processor=loaded.processor.calibrated(scores))
    again = one.regress_targets(source)
    first = again["agb"]
    np.testing.assert_allclose(first.hi - first.mean, 1.5 * first.scale, rtol=1e-5)
    np.testing.assert_array_equal(again["height"].hi, found["height"].hi)


def test_predict_and_evaluate_read_quantiles(run: Path, page: Path, loaded: Loaded, capsys):
    out = page.parent / "map"
    cube = str(page.parent / "two.zarr")
    assert main(["predict", str(run), "--cube", cube, "--out", str(out)]) == 0
    made = xarray.open_zarr(next(out.glob("*.zarr")), consolidated=False)
    assert (made["agb_lower"] < made["agb_upper"]).all()
    assert (made["height_lower"] < made["height_upper"]).all()
    assert np.isfinite(made["agb"]).all()
    capsys.readouterr()
    assert main(["evaluate", str(run), "--baselines", "mean", "--json"]) == 0
    table = json.loads(capsys.readouterr().out.splitlines()[-1])["table"]
    assert [row["model"] for row in table] == ["mean", "no_lm"]
    assert np.isfinite(table[1]["rmse"])
    source = prepare(loaded.experiment).test
    found = loaded.regress_targets(source)
    assert table[1]["crps"] == pytest.approx(found["agb"].crps.mean(), rel=1e-5)
    np.testing.assert_array_equal(np.isfinite(found["height"].crps), source.has_targets[:, 1])


@pytest.mark.parametrize(
    ("name", "transform", "error"),
    [
        ("change", "log1p", r"^log1p of a target with values below 0 .*: target 'change'; .*asinh"),
        ("change", "sqrt", r"^sqrt of a target with values below 0 .* expected >= 0; found -"),
        ("flat", "asinh", r"^the target is constant over the training split .* found 3.0$"),
    ],
)
def test_bad_input_a_target_that_a_transform_does_not_take(
    page: Path, tmp_path: Path, name, transform, error
):
    base = load_experiment(str(page))
    data = dataclasses.replace(
        base.data, target=dataclasses.replace(base.data.target, also=(name,))
    )
    head = HeadConfig(kind="linear", transform=transform, targets=2)
    asked = dataclasses.replace(base, data=data, model=dataclasses.replace(base.model, head=head))
    with pytest.raises(DataError, match=error):
        fit(asked, out=tmp_path / "run")


def test_what_is_predicted_beside_it_has_to_be_there(page: Path):
    base = load_experiment(str(page))
    target = dataclasses.replace(base.data.target, also=("hight",))
    with pytest.raises(DataError, match=r"^no target 'hight' in .*did you mean 'height'"):
        prepare(dataclasses.replace(base, data=dataclasses.replace(base.data, target=target)))
