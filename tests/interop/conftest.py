"""The toy family stands among the real ones while these tests run."""

from __future__ import annotations

import pytest
from toy import TOY

from rsvlm_jax.interop.families import FAMILIES


@pytest.fixture(autouse=True)
def _toy_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, TOY.architecture, TOY)
