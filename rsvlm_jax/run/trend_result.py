"""What `trend` leaves in OUT, and how it is read again.

    OUT/trend.zarr     one layer a variable, [y, x] or [site], CF and GeoZarr, code table in `code`
    OUT/trend.tif      the same as float32 bands (not of sites)
    OUT/code.tif       the codes as bytes
    OUT/trend.csv      a row a site (of sites)
    OUT/trend.json     what was computed, how many pixels have which code, the digests of the other
                       files; written last

Layers are copied by strips of rows. `p_corrected` looks at every p of the map; it and the codes are
the only layers that are in memory as a whole. A result is believed when its files are those of its
trend.json; what is made from the Zarr store (`trend_files.py`) is made again where it is not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from data_zarr.maps import write_map
from rsvlm_jax.config import ConfigError

from .blocks import Blocks
from .rundir import write_atomic
from .series import EPOCH, Source
from .trend_files import FILES, STORE, beside, digests, intact, write_beside
from .trend_methods import CODES, METHODS, OUTSIDE, attributes_of
from .trend_options import WORDS, Options

if TYPE_CHECKING:
    import xarray

STRIP = 2**20
"""Numbers of which float64 are made at a time."""


@dataclasses.dataclass(frozen=True)
class TrendReport:
    """What a call did, and what it found.

    Attributes:
      pixels: that were asked for;  seconds, pixels_per_second: of what this call computed.
      blocks, computed: in all, and by this call.
      significant: share of the tested pixels with `p_corrected` <= alpha; NaN where none was.
      codes: pixels by the name of their code.
    """

    pixels: int
    seconds: float
    pixels_per_second: float
    blocks: int
    computed: int
    significant: float
    codes: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Trends:
    """What was written, and what it is of."""

    out: Path
    source: Source
    options: Options
    report: TrendReport

    @property
    def zarr(self) -> Path:
        return self.out / STORE

    def files(self) -> list[Path]:
        """Those that there are."""
        return [self.out / name for name in FILES if (self.out / name).exists()]

    def open(self) -> xarray.Dataset:
        """The variables, read when they are used."""
        import xarray as xr

        found = xr.open_zarr(self.zarr, consolidated=False, chunks=None, decode_coords="all")
        return decoded(found[list(METHODS[self.options.method].variables)])


def finished(out: Path, key: str) -> dict[str, Any] | None:
    """What a finished `out` says of itself; None where its Zarr store is not there or not whole.

    Raises:
      ConfigError: the result of something else.
    """
    try:
        there = sorted(p.name for p in out.iterdir())
        known = json.loads((out / "trend.json").read_text()) if "trend.json" in there else {}
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError("cannot read the output", where=out, found=error) from error
    if known.get("key") == key:
        return known if STORE in intact(out, {STORE: known.get("files", {}).get(STORE)}) else None
    if known or (there and "blocks" not in there):
        raise ConfigError(
            "the output directory holds something else",
            where=out,
            expected=f"nothing, or this trend ({key[:12]})",
            found=f"a trend of other data or options ({known.get('key', '')[:12]})"
            if known
            else ", ".join(there[:4]),
            remedy="delete it, or choose another --out",
        )
    return None


def complete(known: dict[str, Any], source: Source, out: Path, geotiff: bool) -> None:
    """Makes what a finished `out` lacks beside its Zarr store; ConfigError where it cannot."""
    names = beside(source.grid, geotiff)
    files = {k: v for k, v in known["files"].items() if k == STORE or k in names}
    lacking = [name for name in names if name not in intact(out, files)]
    if lacking:
        with _written(out):
            write_beside(out, source.grid, known["variables"], known["described"], lacking)
            known["files"].update(digests(out, lacking))
            write_atomic(out / "trend.json", json.dumps(known, indent=1))


def write_result(
    store: Blocks, source: Source, options: Options, out: Path, geotiff: bool, command: str,
    what: dict[str, Any], key: str, computed: int,
) -> TrendReport:  # fmt: skip
    """Writes everything of finished blocks; ConfigError where it cannot be written."""
    row = METHODS[options.method]
    layers: dict[str, Any] = {v: store.layer(v) for v in row.variables if v != "p_corrected"}
    code = layers["code"][:]
    if "p_corrected" in row.variables:
        layers["p_corrected"] = corrected(layers["p"][:])
    asked = code != OUTSIDE
    numbers, counts = np.unique(code, return_counts=True)
    tested = layers["p_corrected"][:] if "p_corrected" in layers else np.full(1, np.nan)
    tested = tested[np.isfinite(tested)]
    report = TrendReport(
        int(asked.sum()), 0.0, 0.0, len(store.boxes), computed,
        float((tested <= options.alpha).mean()) if tested.size else float("nan"),
        {CODES[int(c)]: int(k) for c, k in zip(numbers, counts, strict=True)},
    )  # fmt: skip
    variables = {
        v: (layers[v], attributes_of(v, source.name, source.unit, options)) for v in row.variables
    }
    described = {
        "title": f"{WORDS[options.method]}: {source.name} of {source.cube.title}",
        "source": source.cube.title,
        "source_license": str(source.cube.attrs.get("license", "not stated")),
        "input_digest": source.cube.digest(),
        "command": command,
        **{k: v for k, v in options.describe().items() if v is not None},
        "series": source.name,
        "bands": " ".join(source.bands),
        "first_date": str(source.dates[0]),
        "last_date": str(source.dates[-1]),
        "platforms": " ".join(source.platforms),
        "harmonize": source.harmonize,
        "epoch": f"{EPOCH}-01-01",
        "software": f"rsvlm-jax {what['version']}, jax {jax.__version__}",
        "key": key,
    }
    attributes = {v: a for v, (_, a) in variables.items()}
    names = beside(source.grid, geotiff)
    with _written(out):
        write_map(out / STORE, source.grid, variables, described)
        write_beside(out, source.grid, attributes, described, names)
        facts = {
            "key": key,
            **{k: getattr(report, k) for k in ("pixels", "blocks", "codes")},
            "significant": report.significant if tested.size else None,
            "described": described,
            "variables": attributes,
            "files": digests(out, (STORE, *names)),
        }
        write_atomic(out / "trend.json", json.dumps(facts, indent=1))
    return report


@contextlib.contextmanager
def _written(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise ConfigError(
            f"cannot write the result ({e.strerror})", where=out, remedy="choose another --out"
        ) from e


def corrected(p: np.ndarray) -> np.ndarray:
    """p corrected for all of it after Benjamini and Hochberg, float32; NaN where p is.

    The numbers of `rsvlm_jax.timeseries.false_discovery`, of a map that is large: beside p and the
    result there are the sorted p and theirs, float32; ranks and products are float64.
    """
    known = np.sort(p[np.isfinite(p)])
    adjusted, least = np.empty_like(known), 1.0
    for stop in range(len(known), 0, -STRIP):
        start = max(stop - STRIP, 0)
        share = known[start:stop].astype(np.float64) * len(known) / np.arange(start + 1, stop + 1)
        share[-1] = min(share[-1], least)
        least = (share := np.minimum.accumulate(share[::-1])[::-1])[0]
        adjusted[start:stop] = share
    flat = p.reshape(-1)
    found = np.full(flat.shape, np.nan, np.float32)
    for start in range(0, len(flat), STRIP):
        part = flat[start : start + STRIP]
        there = np.isfinite(part)
        # Equal p have one q: the place of any of them will do.
        found[start : start + STRIP][there] = adjusted[np.searchsorted(known, part[there])]
    return found.reshape(p.shape)


def decoded(data: xarray.Dataset) -> xarray.Dataset:
    """Dates as datetime64, and the table of codes in the type of the codes."""
    import xarray as xr

    if "break_date" in data and data["break_date"].dtype.kind != "M":
        data["break_date"] = xr.decode_cf(data[["break_date"]].drop_vars(data.coords))["break_date"]
    code = data["code"]
    code.attrs["flag_values"] = np.asarray(code.attrs["flag_values"], code.dtype)
    return data
