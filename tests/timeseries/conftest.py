"""Programs of the trend tests are compiled more often than they run long."""

from __future__ import annotations

import pytest

from rsvlm_jax.timeseries import pairs


@pytest.fixture(scope="package", autouse=True)
def _short_programs():
    """Passes over pairs are not unrolled: the same numbers from a shorter program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "UNROLL", 1)
        yield
