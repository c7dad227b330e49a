"""Which checkpoints stay: the newest, every so many steps, the best. Not here: deleting them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping


@dataclasses.dataclass(frozen=True)
class Keep:
    """A checkpoint stays that any of three rules names.

    Attributes:
      newest: so many of the newest steps.
      every: multiples of this step, for good; 0: none.
      best: so many steps of the lowest held-out losses.
    """

    newest: int = 2
    every: int = 0
    best: int = 0

    def of(self, steps: Collection[int], scores: Mapping[int, float]) -> set[int]:
        """The steps that stay, of those that there are."""
        kept = {*sorted(steps)[-self.newest :]}
        kept |= {step for step in steps if self.every and step % self.every == 0}
        there = {step: loss for step, loss in scores.items() if step in steps}
        return kept | self.best_of(there)

    def best_of(self, scores: Mapping[int, float]) -> set[int]:
        """The steps of the lowest losses; of equal ones the earlier."""
        return {*sorted(scores, key=lambda step: (scores[step], step))[: self.best]}
