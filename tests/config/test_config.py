"""Configuration: the JSON round trip, refusals, and sizes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import typing

import pytest

import rsvlm_jax.config as everything
from rsvlm_jax.config import (
    PRESETS,
    BandSetSpec,
    ConfigError,
    DataConfig,
    Experiment,
    HeadConfig,
    InputConfig,
    LossConfig,
    RopeScaling,
    SelectionConfig,
    SpectralConfig,
    SplitConfig,
    TargetConfig,
    TemporalConfig,
    TrainConfig,
    ViTConfig,
    VLMConfig,
    from_dict,
    from_json,
    llava15_7b,
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
        lambda: TrainConfig(seed=-1),
        lambda: TrainConfig(seed=2**31),
        lambda: HeadConfig(dropout=1.0),
        lambda: HeadConfig(dropout=-0.1),
        lambda: TemporalConfig(date_dropout=1.1),
        lambda: TemporalConfig(date_dropout=float("nan")),
        lambda: TargetConfig(min_valid=1.5),
        lambda: LossConfig(huber=0.0, scale=0.0),
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


def test_a_large_model_that_selects_still_selects_when_tiny():
    model = dataclasses.replace(llava15_7b((InputConfig("s2_l2a"),)), selection=SelectionConfig())
    tiny = Experiment("large", model=model).tiny()
    assert tiny.model.selection == SelectionConfig(keep=16)


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


MADE = {
    BandSetSpec: BandSetSpec("s2", "optical", ()),
    Experiment: an_experiment(),
    InputConfig: InputConfig("s2"),
    RopeScaling: RopeScaling("linear", 2.0),
}
"""Of those that do not make themselves."""


def fields_of_words():
    """Every field of every configuration that is one word of several, or some of them."""
    for name in everything.__all__:
        cls = getattr(everything, name)
        if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
            continue
        for field, hint in typing.get_type_hints(cls).items():
            if "Literal" in str(hint) and "config." not in str(hint):
                yield pytest.param(cls, field, hint, id=f"{name}.{field}")


@pytest.mark.parametrize(("cls", "field", "hint"), list(fields_of_words()))
def test_a_misspelt_word_is_refused_where_the_config_is_made(
    untyped: None, cls: type, field: str, hint: object
):
    several = typing.get_origin(hint) is tuple
    known = typing.get_args(typing.get_args(hint)[0] if several else hint)
    wrong = f"{known[-1]}s"
    made = MADE.get(cls) or cls()
    with pytest.raises(ConfigError) as e:
        dataclasses.replace(made, **{field: (wrong,) if several else wrong})
    where = f"{cls.__name__}.{field}" + ("[0]" if several else "")
    assert str(e.value).startswith(f"unknown choice in {where}; expected {known[0]}")
    assert f"found {wrong!r}; did you mean {known[-1]!r}?" in str(e.value)
    assert "\n" not in str(e.value)


def test_every_word_of_a_config_has_been_tried():
    tried = {param.id for param in fields_of_words()}
    assert {
        "InputConfig.front", "HeadConfig.kind", "HeadConfig.transform", "VLMConfig.dtype",
        "SpectralConfig.stretch", "DataConfig.templates", "TrainConfig.sinks", "Experiment.base",
    } <= tried  # fmt: skip


def test_one_word_in_the_place_of_several(untyped: None):
    with pytest.raises(ConfigError, match=r"^not a tuple in TrainConfig.sinks; .* found 'wandb'$"):
        TrainConfig(sinks="wandb")  # type: ignore[arg-type]


def test_text_without_a_decoder():
    model = dataclasses.replace(an_experiment().model, decoder=None)
    with pytest.raises(ConfigError, match=r"without a decoder .* expected text=0.* found text=1$"):
        Experiment("x", model=model, loss=LossConfig(text=1.0))


@pytest.mark.parametrize("loss", [{"scale": 0.1}, {"huber": 1.0}])
def test_numbers_without_a_head(loss: dict[str, float]):
    model = dataclasses.replace(an_experiment().model, head=None)
    with pytest.raises(ConfigError, match=r"without a head has no numbers .* a HeadConfig"):
        Experiment("x", model=model, loss=LossConfig(text=1.0, **loss))


def test_a_model_without_a_head_learns_text_unless_told_otherwise():
    model = dataclasses.replace(an_experiment().model, head=None)
    assert Experiment("x", model=model).loss == LossConfig(text=1.0, huber=0.0, scale=0.0)


def test_what_is_left_open_is_learned_by_the_score_of_the_output():
    asked = an_experiment()

    def learned(output: str, **stated: float) -> tuple[float | None, float | None]:
        head = dataclasses.replace(asked.model.head, output=output)
        model, loss = dataclasses.replace(asked.model, head=head), LossConfig(**stated)
        found = dataclasses.replace(asked, model=model, loss=loss).losses
        return found.huber, found.scale

    assert learned("gaussian") == learned("laplace") == (1.0, 0.1)
    assert {learned(o) for o in ("quantiles", "histogram", "ordinal")} == {(0.0, 1.0)}
    assert learned("quantiles", huber=0.5) == (0.5, 1.0)
    assert learned("gaussian", scale=0.0) == (1.0, 0.0)
    with pytest.raises(ConfigError, match=r"^nothing to learn in LossConfig; .* found 0, 0 and 0"):
        learned("ordinal", scale=0.0)


def test_losses_of_nothing():
    with pytest.raises(ConfigError, match=r"^nothing to learn in LossConfig; .* found 0, 0 and 0$"):
        LossConfig(huber=0.0, scale=0.0)
