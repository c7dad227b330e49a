"""The second story: greenness from radar alone."""

from __future__ import annotations

from collections.abc import Iterator

from . import demo
from .figure import Figure


def figures() -> Iterator[Figure]:
    yield from demo.figures("radar", "radar")
