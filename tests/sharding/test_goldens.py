"""Where every parameter of the presets and recipes is stored has not changed unseen."""

from __future__ import annotations

import goldens
import pytest


@pytest.fixture(scope="module")
def models():
    return goldens.models()


def test_every_golden_has_a_model(models):
    assert {file.stem for file in goldens.FOLDER.glob("*.json")} == set(models)


@pytest.mark.parametrize(
    "name",
    [
        "nano",
        "nano_galileo",
        "nano_experts",
        "nano_selection",
        "llava15_7b",
        "llava15_13b",
        *goldens.recipes(),
    ],
)
def test_placement_is_golden(models, name):
    kept = (goldens.FOLDER / f"{name}.json").read_text()
    assert goldens.text(models[name]) == kept, "python tests/sharding/goldens.py, and look at it"
