"""One band set's raw reads, checked and dated, as an `Observation`."""

from __future__ import annotations

import numpy as np

from data_zarr.sensors import PLATFORMS
from rsvlm_jax.config import BandSetSpec, DataError

from .batch import Observation, to_days


def observation(
    spec: BandSetSpec,
    pixels: np.ndarray,
    valid: np.ndarray | None = None,
    *,
    date: np.ndarray | None = None,
    platform: np.ndarray | int = 0,
    lonlat: np.ndarray | None = None,
    gsd: float | None = None,
    year_known: bool = True,
) -> Observation:
    """Raw reads of one band set as an `Observation`.

    Args:
      spec: of the model: what the channels of `pixels` are.
      pixels: [B,T,C,H,W], stored numbers.
      valid: bool [B,T,1 or C,H,W]; None: wherever `pixels` is finite.
      date: datetime64 or days since 2000-01-01, [T] or [B,T], in time order; None: undated.
      platform: rows of the platform table: one number, [T] or [B,T].
      lonlat: degrees, [2] or [B,2]; None: unknown.
      gsd: metres; None: that of `spec`.
      year_known: False where only the day of the year of `date` is real.

    Raises:
      DataError: wrong number of channels, masks or dates; dates out of order; a platform that is
        not in the table.
    """
    if pixels.ndim != 5 or pixels.shape[2] != len(spec.bands):
        raise DataError(
            "wrong shape of pixels",
            where=spec.name,
            expected=f"[B,T,{len(spec.bands)},H,W], bands {', '.join(spec.band_names)}",
            found=list(pixels.shape),
        )
    b, t, _, h, w = pixels.shape
    if valid is None:
        valid = np.isfinite(pixels)
    if valid.shape not in (pixels.shape, (b, t, 1, h, w)):
        raise DataError(
            "wrong shape of valid",
            where=spec.name,
            expected=[b, t, 1, h, w],
            found=list(valid.shape),
        )
    days = np.full(t, np.nan, np.float32) if date is None else np.asarray(date)
    days = to_days(days) if days.dtype.kind == "M" else days.astype(np.float32)
    if days.shape not in ((t,), (b, t)):
        raise DataError(
            "wrong number of dates",
            where=spec.name,
            expected=f"[{t}] or [{b}, {t}]",
            found=list(days.shape),
        )
    if (np.diff(days, axis=-1) < 0).any():
        raise DataError("dates out of order", where=spec.name, expected="ascending dates")
    rows = np.asarray(platform, np.int32)
    if rows.size and not 0 <= rows.min() <= rows.max() < len(PLATFORMS):
        raise DataError(
            "no such platform",
            where=spec.name,
            expected=f"rows 0 .. {len(PLATFORMS) - 1} of data_zarr.sensors.PLATFORMS",
            found=f"{rows.min()} .. {rows.max()}",
        )
    size = spec.gsd if gsd is None else gsd
    place = np.full(2, np.nan) if lonlat is None else np.asarray(lonlat)
    return Observation(
        pixels=pixels,
        valid=valid.astype(bool, copy=False),
        date=np.array(np.broadcast_to(days, (b, t))),
        year_known=np.full(b, year_known),
        platform=np.array(np.broadcast_to(rows, (b, t))),
        lonlat=np.array(np.broadcast_to(place, (b, 2)), np.float32),
        gsd=np.full(b, np.nan if size is None else size, np.float32),
        bandset=spec.name,
    )
