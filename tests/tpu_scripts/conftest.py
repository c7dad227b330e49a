"""A stage for each test, empty, and nothing left running on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_stage import FAKES, Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    (tmp_path / "shared").mkdir()
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("CLOUDSDK_", "SLURM_"))},
        "PATH": f"{FAKES}:{os.environ['PATH']}",
        "FAKE": str(tmp_path),
        "CLOUDSDK_COMPUTE_ZONE": "us-central1-a",
        "RSVLM_BACKOFF": "0",
        "RSVLM_POLL": "0.02",
    }
    made = Stage(tmp_path, environment)
    yield made
    if (tmp_path / "state").exists():
        made.run("delete.sh", "mine", "--typed", "mine")  # and what runs there
