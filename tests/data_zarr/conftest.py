"""Fixtures: the small cube, intact or as a private copy."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_cube import HEIGHT, WIDTH, Small, create


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Small:
    rng = np.random.default_rng(0)
    pixels = rng.integers(200, 5000, (3, 13, HEIGHT, WIDTH)).astype(np.int16)
    pixels[0, 3, 0, 0] = -9999
    valid = rng.random((3, HEIGHT, WIDTH)) < 0.7
    valid[0, 0, 0] = True
    backscatter = rng.normal(-12, 3, (1, 2, HEIGHT, WIDTH)).astype(np.float32)
    backscatter[0, 1, 5, 6] = np.nan
    target = rng.random((HEIGHT, WIDTH)).astype(np.float32) * 300
    target[0, 0] = np.nan
    path = tmp_path_factory.mktemp("cube") / "small.zarr"
    with create(path) as writer:
        writer.write("s2_l1c", 0, 0, pixels, valid)
        writer.write("s1_db", 0, 0, backscatter)
        writer.write_target("agb", 0, 0, target)
    return Small(path, pixels, valid, backscatter, target)


@pytest.fixture
def small(_template: Small, tmp_path: Path) -> Small:
    """A private copy, free to be damaged."""
    path = tmp_path / "small.zarr"
    shutil.copytree(_template.path, path)
    return dataclasses.replace(_template, path=path)


@pytest.fixture(scope="session")
def intact(_template: Small) -> Small:
    """The shared cube, for tests that only read."""
    return _template
