"""Pretrained encoders as numbers: the JSON round trip, and sizes that no encoder has."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from rsvlm_jax.config import (
    GALILEO_NANO,
    PRESTO,
    ConfigError,
    EncoderConfig,
    PrestoConfig,
    from_json,
    to_json,
)


@pytest.mark.parametrize("config", [GALILEO_NANO, PRESTO, PrestoConfig(by="date", cell=4)])
def test_json_round_trip(config: EncoderConfig):
    assert from_json(type(config), to_json(config)) == config


@pytest.mark.parametrize(
    ("config", "changes", "line"),
    [
        (GALILEO_NANO, {"patch_size": 9}, "GalileoConfig.patch_size; expected 1 .. 8; found 9"),
        (GALILEO_NANO, {"patch_size": 0}, "not a size in GalileoConfig.patch_size"),
        (GALILEO_NANO, {"steps": 25}, "GalileoConfig.steps; expected 1 .. 24; found 25"),
        (GALILEO_NANO, {"width": 72}, "expected a multiple of 16; found 72"),
        (GALILEO_NANO, {"heads": 7}, "width is not a multiple of heads"),
        (GALILEO_NANO, {"least_valid": 1.5}, "impossible number in GalileoConfig.least_valid"),
        (PRESTO, {"steps": 25}, "PrestoConfig.steps; expected 1 .. 24; found 25"),
        (PRESTO, {"by": "week"}, "unknown choice in PrestoConfig.by; expected month | date"),
        (PRESTO, {"cell": 0}, "not a size in PrestoConfig.cell"),
        (PRESTO, {"decoder_width": 32}, "no room for months and positions"),
    ],
)
def test_sizes_that_no_encoder_has(
    config: EncoderConfig, changes: dict[str, Any], line: str, untyped: None
):
    with pytest.raises(ConfigError) as e:
        dataclasses.replace(config, **changes)
    assert line in str(e.value)
