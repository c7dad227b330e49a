"""What "the same numbers" means, in one place; what is found is kept with the test's report.

    states      largest difference <= 1e-5, relative to the spread where that is above 1
    logits      largest difference <= 1e-4 of their standard deviation
    gradients   of every tensor: L2 of the difference <= 1e-4 of the L2 of the reference

`python -m experiments.bench parity` runs the tests and prints the largest of each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

STATES, LOGITS, GRADIENTS = 1e-5, 1e-4, 1e-4

Record = Callable[[str, object], None]
"""pytest's `record_property`."""


def same_states(record: Record, ours: Any, theirs: np.ndarray, key: str = "") -> None:
    """One hidden state, or any other activations."""
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape, key
    off = float(np.abs(ours - theirs).max()) / max(1.0, float(theirs.std()))
    record("states", off)
    assert off <= STATES, f"{key}: {off}"


def same_logits(record: Record, ours: Any, theirs: np.ndarray) -> None:
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    off = float(np.abs(ours - theirs).max() / theirs.std())
    record("logits", off)
    assert off <= LOGITS, off


def same_gradients(
    record: Record, ours: Mapping[str, Any], theirs: Mapping[str, np.ndarray]
) -> None:
    """By their names.

    A shift of all keys of a head changes no softmax, so the gradient of a key's bias is rounding
    (unless RoPE turns the shift). Where it is, in the reference, it is held against the gradient
    of the key's weight.
    """
    assert sorted(ours) == sorted(theirs)
    worst = 0.0
    for key, wanted in theirs.items():
        difference, size = np.linalg.norm(ours[key] - wanted), np.linalg.norm(wanted)
        if key.endswith(("k_proj.bias", "key.bias")):
            weight = np.linalg.norm(theirs[key[:-4] + "weight"])
            size = weight if size < GRADIENTS * weight else size
        assert difference <= GRADIENTS * size, (key, difference / size)
        worst = max(worst, float(difference / size))
    record("gradients", worst)
