"""Random numbers by position: what a training sample draws depends on (seed, position) alone.

No generator is carried from sample to sample, so a resumed run, another batch size or another
number of read threads draws the same. The bits are NumPy's counter-based Philox 4x64, whose
counter is the position (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
"""

from __future__ import annotations

import numpy as np

AUGMENT, QUESTION = 1, 2
"""Streams: draws for one purpose do not move those for another."""


def uniforms(seed: int, stream: int, first: int, count: int) -> np.ndarray:
    """f64 [count, 4] in [0, 1): four numbers for each position `first .. first + count - 1`."""
    key = np.array([seed, stream], np.uint64)
    bits = np.random.Philox(key=key, counter=first).random_raw(4 * count)
    return (bits >> np.uint64(11)).reshape(count, 4) * 2.0**-53
