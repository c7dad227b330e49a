"""Configuration: the JSON round trip, refusals, and sizes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from rsvlm_jax.config import (
    PRESETS,
    ConfigError,
    DataConfig,
    Experiment,
    HeadConfig,
    InputConfig,
    SpectralConfig,
    SplitConfig,
    TrainConfig,
    ViTConfig,
    VLMConfig,
    from_dict,
    from_json,
    nano,
    to_dict,
    to_json,
)


def an_experiment() -> Experiment:
    inputs = (
        InputConfig("s2_l1c", spectral=SpectralConfig(indices=("ndvi", "nbr"))),
        InputConfig("dem", front="pixel", bands=("dem",)),
    )
    return Experiment("an experiment", model=nano(inputs), init_from="asset:stories260k")


@pytest.mark.parametrize("preset", PRESETS)
def test_json_round_trip(preset: str):
    experiment = dataclasses.replace(an_experiment(), model=PRESETS[preset](()))
    assert from_json(Experiment, to_json(experiment)) == experiment


def test_round_trip_keeps_none_and_nested_tuples():
    experiment = dataclasses.replace(
        an_experiment(), model=dataclasses.replace(an_experiment().model, decoder=None)
    )
    again = from_json(Experiment, to_json(experiment))
    assert again == experiment
    assert hash(again) == hash(experiment)


def test_unknown_key_names_the_nearest():
    data = to_dict(an_experiment())
    data["optimizer"]["learning_rat"] = 1.0
    with pytest.raises(ConfigError) as e:
        from_dict(Experiment, data)
    assert "Experiment.optimizer.learning_rat" in str(e.value)
    assert "did you mean 'learning_rate'" in str(e.value)
    assert "\n" not in str(e.value)
    assert e.value.exit_code == 2


def test_a_missing_key_is_named():
    data = to_dict(Experiment("x", model=nano((InputConfig("s2_l2a"),))))
    del data["model"]["inputs"][0]["bandset"]
    with pytest.raises(ConfigError, match=r"a key is missing in .*inputs\[0\]; expected bandset"):
        from_dict(Experiment, data)


def test_unknown_choice_names_the_choices():
    data = to_dict(an_experiment())
    data["model"]["inputs"][0]["spectral"]["plan"] = "wavelengths"
    with pytest.raises(ConfigError, match=r"inputs\[0\].spectral.plan.*did you mean 'wavelength'"):
        from_dict(Experiment, data)


def test_wrong_type_is_refused():
    data = to_dict(an_experiment())
    data["train"]["steps"] = "many"
    with pytest.raises(ConfigError, match=r"train\.steps; expected int"):
        from_dict(Experiment, data)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ViTConfig(image_size=10, patch_size=4),
        lambda: ViTConfig(width=10, heads=4),
        lambda: ViTConfig(layers=2, feature_layers=(-4,)),
        lambda: HeadConfig(reg_tokens=0),
        lambda: SplitConfig(folds=5, fold=5),
        lambda: TrainConfig(steps=0),
        lambda: TrainConfig(patience=3),  # nothing is scored on the way
        lambda: TrainConfig(keep_best=1),
        lambda: VLMConfig(decoder=None, head=None),
        lambda: VLMConfig(inputs=(InputConfig("a"), InputConfig("a"))),
    ],
)
def test_impossible_values_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_tiny_is_small_and_keeps_the_model():
    experiment = an_experiment()
    tiny = experiment.tiny()
    assert tiny.train.steps <= 10
    assert tiny.model == experiment.model


@pytest.mark.parametrize("heavy", ["jax", "numpy", "flax"])
def test_config_imports_nothing_heavy(heavy: str):
    code = f"import sys, rsvlm_jax.config; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"buckets": (4, 2)}, r"impossible lengths in DataConfig.buckets; .* found \(4, 2\)"),
        ({"buckets": (0,)}, r"impossible lengths"),
        ({"workers": -1}, r"impossible pipeline in DataConfig.workers"),
        ({"blocks": 0, "crops": -2}, r"in DataConfig.crops, DataConfig.blocks; .* found -2, 0"),
        ({"mixture": (("a.zarr", 0.0),)}, r"impossible weight in DataConfig.mixture"),
    ],
)
def test_impossible_ways_to_read(changes: dict, match: str):
    with pytest.raises(ConfigError, match=match):
        DataConfig(**changes)


def test_mixtures_and_buckets_survive_json():
    data = DataConfig(mixture=(("a.zarr", 2.0), ("b.zarr", 0.5)), buckets=(4, 8))
    assert from_json(DataConfig, to_json(data)) == data
