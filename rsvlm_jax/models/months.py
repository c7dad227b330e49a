"""Where dates stand in the calendar, months on their circle and places on the globe."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from rsvlm_jax.core.shapes import Array, Float, Int

_SHIFT = 730_425
"""Days from 1 March of the year 0 to 2000-01-01: years that begin in March end with leap days."""


def month_count(date: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Calendar months since January 2000, of days since 2000-01-01 UTC; 0 for NaN.

    1999-12-31 is of month -1, 2001-02-28 of month 13. Integers of the proleptic Gregorian calendar
    (H. Hinnant, chrono-compatible low-level date algorithms), so exact.
    """
    day = jnp.floor(jnp.where(jnp.isfinite(date), date, 0.0)).astype(jnp.int32) + _SHIFT
    era = day // 146_097
    of_era = day - era * 146_097
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    since_march = (5 * of_year + 2) // 153
    return (year + 400 * era - 2000) * 12 + since_march + 2


def month_table(width: int) -> np.ndarray:
    """[12, width]: the sine of a month's angle, then its cosine, each in half of the columns."""
    angle = 2 * np.pi * np.arange(12)[:, None] / 12
    halves = [np.repeat(f(angle), width // 2, axis=1) for f in (np.sin, np.cos)]
    return np.concatenate(halves, axis=1).astype(np.float32)


def unit_vector(lonlat: Float[Array, "B 2"]) -> Float[Array, "B 3"]:
    """(cos lat cos lon, cos lat sin lon, sin lat) of degrees."""
    lon, lat = jnp.radians(lonlat[:, 0]), jnp.radians(lonlat[:, 1])
    return jnp.stack([jnp.cos(lat) * jnp.cos(lon), jnp.cos(lat) * jnp.sin(lon), jnp.sin(lat)], 1)
