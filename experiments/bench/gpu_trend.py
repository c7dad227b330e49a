"""Trends on a GPU: Mann-Kendall and the Theil-Sen slope of 240 dates with gaps, pixels a second.

    trend.t240.mann_kendall    from series on the host to the answers there, in pieces
    trend.t240.on_device       the same of a piece that lies on the device, without the transfers

float32, a quarter of the dates missing, without the interval; compilation is not counted. The goal,
on the device, is 10^6 pixels a second.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator

import numpy as np

from .figure import Figure
from .trend import _series

LENGTH = 240
PIECE, PIECES, ROUNDS = 65_536, 8, 3


def figures(tiny: bool, goals: bool) -> Iterator[Figure]:
    """Of the first device."""
    import jax

    from rsvlm_jax.timeseries import in_pieces, mann_kendall

    piece, length = (8, 12) if tiny else (PIECE, LENGTH)
    pixels, goal = piece * PIECES, 1e6 if goals else None
    compute = functools.partial(mann_kendall, interval=False)
    times = np.arange(length, dtype=np.float32)
    run = functools.partial(in_pieces, compute, times=times, pixels=piece, threads=2)
    run(values=_series(piece, length, 0))
    x = _series(pixels, length, 1)
    begun = time.perf_counter()
    run(values=x)
    yield Figure(f"trend.t{length}.mann_kendall", pixels / (time.perf_counter() - begun),
                 "pixels/s")  # fmt: skip
    there, when = jax.device_put((x[:piece], times))
    jax.block_until_ready(compute(there, when))
    begun = time.perf_counter()
    for _ in range(ROUNDS):
        jax.block_until_ready(compute(there, when))
    rate = ROUNDS * piece / (time.perf_counter() - begun)
    yield Figure(f"trend.t{length}.on_device", rate, "pixels/s", at_least=goal)
