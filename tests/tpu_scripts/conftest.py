"""A stage for each test, empty, and nothing left running on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_stage import FAKES, Stage

TOOLS = "bash cat cut dirname env git grep mktemp rm sed sleep sort tail timeout"
"""On a PATH that has none of gcloud, kubectl and srun, which this machine may have."""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    (tmp_path / "shared").mkdir()
    (tmp_path / "tools").mkdir()
    for tool in TOOLS.split():
        (tmp_path / "tools" / tool).symlink_to(str(shutil.which(tool)))
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
