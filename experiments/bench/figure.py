"""A figure with its goal."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Figure:
    """One line: `NAME value unit goal ok|short`. Without a goal the figure is for information."""

    name: str
    value: float
    unit: str = "-"
    at_least: float | None = None
    at_most: float | None = None

    @property
    def goal(self) -> str:
        parts = []
        if self.at_least is not None:
            parts.append(f">={self.at_least:.4g}")
        if self.at_most is not None:
            parts.append(f"<={self.at_most:.4g}")
        return ",".join(parts) or "none"

    @property
    def ok(self) -> bool:
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)

    def __str__(self) -> str:
        return (
            f"{self.name} {self.value:.6g} {self.unit} {self.goal} {'ok' if self.ok else 'short'}"
        )

    def as_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "goal": self.goal, "ok": self.ok}
