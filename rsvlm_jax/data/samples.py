"""Samples as dicts of arrays: put together, filled up, merged, and made a `Batch`.

    assemble(reads, processor) -> Batch     from what `CubeSource.read` gives
    collate(samples, processor) -> Batch    from a list of samples
    merged(parts, places) -> reads          from several sources (mixtures)

The keys of a sample are those of `source`. Not here: reading.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_zarr.read import allocate

from .batch import Batch, Observation
from .processor import Processor
from .text import Text

Sample = dict[str, Any]

MAP = "target_map"
"""Key of the targets of pixels, which only samples for dense heads have."""


@dataclasses.dataclass(frozen=True)
class BadSample:
    """A window that could not be read: its row, where it lies, and why (one line).

    Of a conversation: its number, its file, and None.
    """

    sample: int
    cube: str
    window: tuple[int, int, int] | None
    reason: str


def filled(reads: Sample, short: int) -> Sample:
    """`short` more samples, -1 and without a target: the first repeated, so that no value in them
    is out of the way."""

    def more(a: np.ndarray) -> np.ndarray:
        return np.concatenate([a, np.repeat(a[:1], short, axis=0)])

    obs = {name: {k: more(v) for k, v in entry.items()} for name, entry in reads["obs"].items()}
    rest = {k: more(v) for k, v in reads.items() if k not in ("obs", "unread")}
    out = {**reads, "obs": obs, **rest}
    out["sample"][-short:] = -1
    out["target_valid"][-short:] = False
    return out


def merged(
    parts: Sequence[Sample], places: Sequence[np.ndarray], masks: Mapping[str, int]
) -> Sample:
    """Samples of several sources, with as many dates each, in one batch.

    Args:
      places: where the samples of each part go; together 0 .. B-1.
      masks: channels of `valid` by input, 1 or C.
    """
    b = sum(len(p) for p in places)

    def whole(values: Sequence[np.ndarray], channels: int | None = None) -> np.ndarray:
        shape = [b, *values[0].shape[1:]]
        if channels is not None:
            shape[2] = channels
        out = allocate(shape, values[0].dtype)
        for value, place in zip(values, places, strict=True):
            out[place] = value
        return out

    obs = {
        name: {
            k: whole([p["obs"][name][k] for p in parts], masks[name] if k == "valid" else None)
            for k in entry
        }
        for name, entry in parts[0]["obs"].items()
    }
    return {
        "obs": obs,
        **{k: whole([p[k] for p in parts]) for k in ("target", "target_valid", "sample")},
        **({MAP: whole([p[MAP] for p in parts])} if MAP in parts[0] else {}),
        "unread": [bad for p in parts for bad in p["unread"]],
    }


def assemble(
    reads: Mapping[str, Any],
    processor: Processor,
    text: Text | None = None,
    *,
    teach: bool = False,
) -> Batch:
    """What `CubeSource.read` gives, with prompts ([B,L] or one [L]), as a `Batch`."""
    obs = {name: Observation(**entry, bandset=name) for name, entry in reads["obs"].items()}
    return processor.batch(
        obs,
        text,
        sample=reads["sample"],
        target=reads["target"],
        target_valid=reads["target_valid"],
        target_map=reads.get(MAP),
        teach=teach,
    )


def collate(samples: Sequence[Sample], processor: Processor, text: Text | None = None) -> Batch:
    """A list of samples as a `Batch`; `text` as in `assemble`."""
    obs = {
        name: {k: np.stack([s["obs"][name][k] for s in samples]) for k in entry}
        for name, entry in samples[0]["obs"].items()
    }
    keys = ("target", "target_valid", "sample", *([MAP] if MAP in samples[0] else ()))
    rest = {k: np.stack([s[k] for s in samples]) for k in keys}
    return assemble({"obs": obs, **rest}, processor, text)
