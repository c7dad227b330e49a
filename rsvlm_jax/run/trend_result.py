"""What `trend` leaves in OUT, and how it is read again.

    OUT/trend.zarr     one layer a variable, [y, x] or [site], CF and GeoZarr, code table in `code`
    OUT/trend.tif      the same as float32 bands (not of sites)
    OUT/code.tif       the codes as bytes
    OUT/trend.csv      a row a site (of sites)
    OUT/trend.json     what was computed, how many pixels have which code; written last

Layers are copied by strips of rows. `p_corrected` looks at every p of the map; it and the codes are
the only layers that are in memory as a whole.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from data_zarr.maps import write_geotiff, write_map
from data_zarr.sites import Sites
from rsvlm_jax.config import ConfigError
from rsvlm_jax.timeseries import false_discovery

from .blocks import Blocks, Layer
from .rundir import write_atomic
from .series import EPOCH, Source
from .trend_methods import CODES, METHODS, OUTSIDE, attributes_of
from .trend_options import WORDS, Options
from .trend_table import write_table

if TYPE_CHECKING:
    import xarray

FILES = ("trend.zarr", "trend.tif", "code.tif", "trend.csv", "trend.json")


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
        return self.out / "trend.zarr"

    def files(self) -> list[Path]:
        """Those that there are."""
        return [self.out / name for name in FILES if (self.out / name).exists()]

    def open(self) -> xarray.Dataset:
        """The variables, read when they are used."""
        import xarray as xr

        found = xr.open_zarr(self.zarr, consolidated=False, chunks=None, decode_coords="all")
        return found[list(METHODS[self.options.method].variables)]


def finished(out: Path, key: str) -> dict[str, Any] | None:
    """What a finished `out` says of itself; None where there is work to do.

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
        return known
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


def write_result(
    store: Blocks, source: Source, options: Options, out: Path, geotiff: bool, command: str,
    what: dict[str, Any], key: str, computed: int,
) -> TrendReport:  # fmt: skip
    """Writes everything of finished blocks; ConfigError where it cannot be written."""
    row = METHODS[options.method]
    layers: dict[str, Any] = {v: store.layer(v) for v in row.variables if v != "p_corrected"}
    code = layers["code"][:]
    if "p_corrected" in row.variables:
        layers["p_corrected"] = corrected(layers["p"][:], options.alpha)
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
        "epoch": f"{EPOCH}-01-01",
        "software": f"rsvlm-jax {what['version']}, jax {jax.__version__}",
        "key": key,
    }
    try:
        write_map(out / "trend.zarr", source.grid, variables, described)
        if isinstance(source.grid, Sites):
            write_table(out / "trend.csv", source.grid, layers, row.variables)
        elif geotiff:
            _write_geotiffs(source, out, variables, described)
        facts = {
            "key": key,
            **{k: getattr(report, k) for k in ("pixels", "blocks", "codes")},
            "significant": report.significant if tested.size else None,
            "described": described,
            "variables": {v: a for v, (_, a) in variables.items()},
        }
        write_atomic(out / "trend.json", json.dumps(facts, indent=1))
    except OSError as e:
        raise ConfigError(
            f"cannot write the result ({e.strerror})", where=out, remedy="choose another --out"
        ) from e
    return report


def corrected(p: np.ndarray, alpha: float) -> np.ndarray:
    """p corrected over all of it, float32; NaN where p is."""
    known = np.isfinite(p)
    result = np.full(p.shape, np.nan, np.float32)
    if known.any():
        with jax.enable_x64(True):  # the rank of a pixel among millions
            result[known] = np.asarray(false_discovery(p[known].astype(np.float64), alpha).q)
    return result


def _write_geotiffs(
    source: Source, out: Path, variables: dict[str, Any], described: dict[str, Any]
) -> None:
    """All but the codes as float32 bands, and the codes."""
    tags = {k: str(v) for k, v in described.items()}
    layers = {k: v for k, (v, _) in variables.items() if k != "code"}
    floats = {
        k: dataclasses.replace(v, dtype=np.dtype(np.float32)) if isinstance(v, Layer) else v
        for k, v in layers.items()
    }
    units = {k: str(a["units"]) for k, (_, a) in variables.items()}
    write_geotiff(
        out / "trend.tif", source.grid, floats, unit=units, tags=tags,
        description=str(described["title"]),
    )  # fmt: skip
    code, attrs = variables["code"]
    table = {k: str(attrs[k]) for k in ("flag_values", "flag_meanings")}
    write_geotiff(
        out / "code.tif", source.grid, {"code": code}, nodata=OUTSIDE, tags={**tags, **table}
    )
