"""Trends of an `xarray.DataArray`: what `trend` does with numbers that are in memory.

Not for what is larger: a cube goes block by block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rsvlm_jax.config import DataError
from rsvlm_jax.timeseries import check_dates

from .series import EPOCH, LEAST_DATES, Series
from .spread import Spread
from .trend_fits import settled
from .trend_methods import METHODS, attributes_of, run_method
from .trend_options import Options
from .trend_result import corrected, decoded

if TYPE_CHECKING:
    import xarray


MISSING = ("_FillValue", "missing_value", "nodata", "nodatavals")

LEVELLED = ("intercept", "forecast", "forecast_lo", "forecast_hi")
"""Variables that move with the level of a series."""

ROUNDING = 1e-6
"""Of the range of a series: what float32 may take from its values."""


def trend_array(data: Any, options: Options, spread: Spread) -> xarray.Dataset:
    """The variables of a method on the axes of `data` but "time".

    Raises:
      DataError: no axis of dates; dates that are missing, with a time zone, too few, or twice of
        one platform (a coordinate "platform" of dates says whose); numbers that nobody has scaled.
    """
    import xarray as xr

    if isinstance(data, xr.Dataset):
        raise DataError(
            "several arrays", expected="one DataArray", found=", ".join(map(str, data.data_vars)),
            remedy="select one: dataset[NAME]",
        )  # fmt: skip
    if "time" not in data.dims or "time" not in data.coords:
        found = ", ".join(map(str, data.dims))
        raise DataError("no axis of dates", where=data.name, expected="time", found=found)
    if {"scale_factor", "add_offset"} & set(data.attrs):
        raise DataError(
            "stored numbers that are not scaled", where=data.name, expected="physical values",
            found={k: data.attrs[k] for k in ("scale_factor", "add_offset") if k in data.attrs},
            remedy="decode by xarray.decode_cf, or scale and drop these attributes",
        )  # fmt: skip
    if data.dtype.kind not in "fiu":
        raise DataError("no numbers", where=data.name, found=data.dtype)
    platforms = _platforms(data)
    dates = check_dates(data["time"].values, platforms)
    if len(dates) < LEAST_DATES:
        raise DataError(
            "too few dates for a trend", where=data.name, expected=f"{LEAST_DATES} or more",
            found=len(dates),
        )  # fmt: skip
    whose = np.unique(platforms or [""] * len(dates), return_inverse=True)[1]
    order = np.lexsort(np.stack([whose, dates.astype(np.int64)]))
    if "multivariate" in options.test and "band" not in data.dims:
        raise DataError(
            "no axis of bands",
            where=data.name,
            expected="band",
            found=", ".join(map(str, data.dims)),
        )
    several = options.several and "band" in data.dims
    rest = [d for d in data.dims if d != "time" and not (several and d == "band")]
    options = settled(options, dates)
    first = ("band",) if several else ()
    stored = data.transpose(*first, *rest, "time").values[..., order]
    missing = ~np.isfinite(stored) | np.isin(stored, _missing(data))
    shape = stored.shape[len(first) : -1]
    wide = (len(stored) if several else 1, -1, len(dates))
    axes = (0, 1, 2) if options.whole else (0, 2)
    flat, level = _near_zero(stored.reshape(wide), missing.reshape(wide), axes)
    bands = tuple(map(str, data["band"].values)) if several and "band" in data.coords else ()
    every = np.ones(flat.shape[1], bool)
    series = Series(flat, dates[order].astype("datetime64[s]"), every, bands)
    found = run_method(series, options, spread)
    for name in LEVELLED:
        if name in found:
            found[name] = (found[name] + level).astype(found[name].dtype)
    if "p_corrected" in METHODS[options.method].variables:
        found["p_corrected"] = corrected(found["p"])
    unit = str(data.attrs.get("units", ""))
    variables = {}
    for name in METHODS[options.method].variables:
        attrs = attributes_of(name, str(data.name or ""), unit, options)
        variables[name] = (rest, found[name].reshape(shape), attrs)
    gone = {"time", *first}
    kept = {k: v for k, v in data.coords.items() if not gone & set(v.dims)}
    known = {k: v for k, v in options.describe().items() if v is not None}
    described = {**known, "epoch": f"{EPOCH}-01-01", "series": str(data.name or "")}
    return decoded(xr.Dataset(variables, coords=kept, attrs=described))


def _near_zero(
    stored: np.ndarray, missing: np.ndarray, axes: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray | float]:
    """float32 [K, P, T], NaN where missing, and float64 [P], what was taken out of a series: the
    middle of its range along some axes where float32 would round its values away, else 0.
    """
    if np.can_cast(stored.dtype, np.float32):
        return np.where(missing, np.float32(np.nan), stored.astype(np.float32)), 0.0
    exact = np.where(missing, 0, stored).astype(np.float64)
    with np.errstate(over="ignore"):  # of what float32 does not hold all is lost
        lost = np.abs(exact - exact.astype(np.float32)).max(axes, keepdims=True, initial=0)
    low = np.min(exact, axes, keepdims=True, initial=np.inf, where=~missing)
    high = np.max(exact, axes, keepdims=True, initial=-np.inf, where=~missing)
    some = (low < high) & (lost > ROUNDING * np.where(low < high, high - low, 1))
    level = np.where(some, 0.5 * low + 0.5 * np.where(some, high, 0), 0)
    values = np.where(missing, np.nan, exact - level).astype(np.float32)
    return values, np.broadcast_to(level, (1, stored.shape[1], 1))[0, :, 0]


def _missing(data: Any) -> list[float]:
    """Stored numbers that are no value, by the attributes that say so: CF, rioxarray, GDAL.

    Also as an array of this type holds them: 1e20 in float32 is another number.
    """
    found = []
    for word in MISSING:
        for one in np.ravel(np.asarray(data.attrs.get(word, ()), object)):
            try:
                found.append(float(one))
                if data.dtype.kind == "f" and abs(found[-1]) <= np.finfo(data.dtype).max:
                    found.append(float(data.dtype.type(found[-1])))
            except (TypeError, ValueError) as error:
                raise DataError(
                    "no number for what is missing", where=f"{data.name}.{word}",
                    expected="numbers", found=repr(one),
                ) from error  # fmt: skip
    return found


def _platforms(data: Any) -> list[str] | None:
    """Who took each date, where a coordinate says it: two may share an instant."""
    coordinate = data.coords.get("platform")
    if coordinate is None or coordinate.dims not in (("time",), ()):
        return None
    return [str(p) for p in np.broadcast_to(coordinate.values, data.sizes["time"])]
