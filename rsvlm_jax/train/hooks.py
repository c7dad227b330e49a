"""What watches a run: told of rows, skipped steps and held-out scores; may end it.

    Hook            does nothing: the base
    Timing          a file of what was measured; `metrics.jsonl` holds what was computed
    Skipped         a file of the steps that were skipped, and of their samples
    EarlyStopping   ends a run whose held-out loss falls no more

A hook has no state of its own on disk: `start` is told the step that a run goes on from, and
`on_score` again every score up to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from .rows import Row, Rows


class Hook:
    """Each method does nothing here. An error in one ends the run, as one of the loop would."""

    def start(self, step: int) -> None:
        """The run begins at a step, or goes on from it: nothing is known of later ones."""

    def on_row(self, step: int, row: Row, times: Row) -> None:
        """The metrics of a step, read one step later.

        Args:
          row: as in `metrics.jsonl`: equal whenever the step is taken again.
          times: measured: `seconds` since the row before; `input_wait`, the share of them in which
            the loop waited for a batch; `NAME_per_second` of metrics that are counts.
        """

    def on_skip(self, step: int, row: Row, place: dict[str, Any]) -> None:
        """A step that changed no parameter.

        Args:
          place: state of the data before its batch was drawn.
        """

    def on_score(self, step: int, row: Row, *, again: bool = False) -> None:
        """A score of what is held out, as in `held_out.jsonl`.

        Args:
          again: it was told before the run was interrupted.
        """

    def ended(self) -> str | None:
        """Why the run is over before its last step; asked after every score."""
        return None

    def close(self) -> None:
        """The run is over, however it ended."""


class Timing(Hook):
    """A row for every step, of `times`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._rows = Rows(None, 0)

    def start(self, step: int) -> None:
        self._rows = Rows(self._path, step).__enter__()

    def on_row(self, step: int, row: Row, times: Row) -> None:
        self._rows.write(times)

    def close(self) -> None:
        self._rows.close(quiet=True)


class Skipped(Hook):
    """A row for every step that was skipped: why, its loss and gradient, its samples.

    Args:
      samples: JSON of the samples of the batch that was drawn at a place.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        samples: Callable[[dict[str, Any]], Sequence[Any]],
    ) -> None:
        self._path, self._samples = path, samples
        self._rows = Rows(None, 0)

    def start(self, step: int) -> None:
        self._rows = Rows(self._path, step).__enter__()

    def on_skip(self, step: int, row: Row, place: dict[str, Any]) -> None:
        why = "a spike" if is_spike(row) else "not finite"
        about = {name: row[name] for name in ("loss", "grad_norm") if name in row}
        self._rows.write({"step": step, "why": why, **about, "samples": [*self._samples(place)]})
        self._rows.sync()

    def close(self) -> None:
        self._rows.close(quiet=True)


class EarlyStopping(Hook):
    """Ends a run after so many scores in a row without a new lowest held-out loss.

    Attributes:
      best: step and loss of the lowest.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best: tuple[int, float] | None = None
        self._since = 0

    def start(self, step: int) -> None:
        self.best, self._since = None, 0

    def on_score(self, step: int, row: Row, *, again: bool = False) -> None:
        loss = row["loss"]  # None: it was not finite
        if loss is not None and (self.best is None or loss < self.best[1]):
            self.best, self._since = (step, loss), 0
        else:
            self._since += 1

    def ended(self) -> str | None:
        if self._since < self.patience:
            return None
        lowest = "none was finite" if self.best is None else "that of step {} is {:.6g}".format(
            *self.best
        )  # fmt: skip
        return f"{self.patience} scores without a new lowest held-out loss; {lowest}"


def is_spike(row: Row) -> bool:
    """Whether a skipped step had finite numbers that stood out, and not one that is none."""
    return bool(row.get("spiked")) and None not in (row["loss"], row.get("grad_norm", 0.0))
