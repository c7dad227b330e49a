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
    dates = check_dates(data["time"].values, _platforms(data))
    if len(dates) < LEAST_DATES:
        raise DataError(
            "too few dates for a trend", where=data.name, expected=f"{LEAST_DATES} or more",
            found=len(dates),
        )  # fmt: skip
    order = np.argsort(dates, kind="stable")
    several = "multivariate" in options.test
    if several and "band" not in data.dims:
        raise DataError(
            "no axis of bands",
            where=data.name,
            expected="band",
            found=", ".join(map(str, data.dims)),
        )
    rest = [d for d in data.dims if d != "time" and not (several and d == "band")]
    options = settled(options, dates)
    first = ("band",) if several else ()
    stored = data.transpose(*first, *rest, "time").values[..., order]
    missing = ~np.isfinite(stored) | np.isin(stored, _missing(data))
    values = np.where(missing, np.float32(np.nan), stored.astype(np.float32))
    shape = values.shape[len(first) : -1]
    flat = values.reshape(len(values) if several else 1, -1, len(dates))
    series = Series(flat, dates[order].astype("datetime64[s]"), np.ones(flat.shape[1], bool))
    found = run_method(series, options, spread)
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


def _missing(data: Any) -> list[float]:
    """Stored numbers that are no value, by the attributes that say so: CF, rioxarray, GDAL."""
    found = []
    for word in MISSING:
        for one in np.ravel(np.asarray(data.attrs.get(word, ()), object)):
            try:
                found.append(float(one))
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
