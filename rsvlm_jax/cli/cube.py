"""`rsvlm cube make | build | info | validate | show | folds | copy`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from . import folds
from .options import parse, say, unknown_word

HELP = """usage: rsvlm cube VERB CUBE [options]

  make      a synthetic world with known biomass law
  build     a cube from a recipe: Sentinel-1 and -2, Landsat, GeoTIFF, STAC, NetCDF, tables
  info      what a cube is: bands, dates, CRS, valid share, chunks
  validate  every rule of the format; exit code 3 when one is broken
  show      a picture of every pseudo-RGB frame, as the encoder sees it
  folds     honest folds: leakage report, range of the target, map
  copy      a copy in another layout or codec; a stopped copy goes on

CUBE is a path, sample:NAME or world:PRESET; `build` takes a recipe. `rsvlm cube VERB --help` shows
the options.
"""


@dataclasses.dataclass(frozen=True)
class Make:
    """Make a synthetic cube; the same seed gives the same bytes."""

    out: Positional[Path]
    """Path of the new store."""
    seed: int = 0
    preset: Literal["small", "full"] = "small"
    overwrite: bool = False
    """Replace a store that is there."""


@dataclasses.dataclass(frozen=True)
class Info:
    """Print what a cube is."""

    cube: Positional[str]
    """Path, sample:NAME or world:PRESET."""


@dataclasses.dataclass(frozen=True)
class Validate:
    """Check a cube by every rule of the format."""

    cube: Positional[str]
    """Path, sample:NAME or world:PRESET."""
    deep: bool = False
    """Read every chunk and compare its digest."""


@dataclasses.dataclass(frozen=True)
class Show:
    """Draw every date and every pseudo-RGB frame with its bands; of places, their series."""

    cube: Positional[str]
    """Path, sample:NAME or world:PRESET."""
    out: Path
    """PNG to write."""
    bandset: str | None = None
    """Band set; all that make frames by default."""
    plan: Literal["wavelength", "consecutive_drop", "consecutive_pad"] = "wavelength"
    sar_third: Literal["ratio_db", "mean_db", "diff_linear", "copy"] = "ratio_db"
    stretch: Literal["zscore", "minmax"] = "zscore"
    """Two standard deviations either way, or from the 2nd to the 98th percentile."""
    indices: tuple[str, ...] = ()
    """Spectral indices as one more frame, e.g. ndvi ndmi nbr."""
    dates: int = 8
    """At most so many dates, evenly chosen."""
    size: int = 256
    """Edge of the square that is shown, in pixels."""
    at: tuple[int, int] = (0, 0)
    """Row and column of its upper left pixel."""
    sites: int = 6
    """Of a cube of places: how many are drawn as series."""
    image_size: int | None = None
    """Edge of the encoder's images, e.g. 336; the pixels as they are by default."""


@dataclasses.dataclass(frozen=True)
class Copy:
    """Copy a cube, bit for bit in its numbers, into another layout or codec."""

    cube: Positional[str]
    """Path, URL, sample:NAME or world:PRESET."""
    out: Positional[Path]
    """Path of the copy; an unfinished one is resumed."""
    layout: Literal["series", "image", "balanced"] | None = None
    """How shards are cut into chunks; that of the source by default."""
    codec: Literal["zstd", "lz4"] | None = None
    """zstd to keep, lz4 for fast reading; that of the source by default."""
    overwrite: bool = False
    """Replace a store that is there."""


def run(args: Sequence[str]) -> dict[str, object]:
    verbs = {
        "make": _make,
        "build": _build,
        "info": _info,
        "validate": _validate,
        "show": _show,
        "folds": folds.run,
        "copy": _copy,
    }
    if not args or args[0] in ("-h", "--help"):
        print(HELP, end="")
        return {}
    if args[0] not in verbs:
        raise unknown_word("verb", f"cube {args[0]}", [f"cube {v}" for v in verbs])
    return verbs[args[0]](list(args[1:]))


def _make(args: Sequence[str]) -> dict[str, object]:
    o = parse(Make, args, prog="rsvlm cube make")
    from data_zarr.world import make_world

    cube = make_world(o.out, seed=o.seed, preset=o.preset, overwrite=o.overwrite)
    say(f"made: {cube}")
    return {"cube": str(o.out), "digest": cube.digest()}


def _build(args: Sequence[str]) -> dict[str, object]:
    from .cube_build import build

    return build(args)


def _info(args: Sequence[str]) -> dict[str, object]:
    o = parse(Info, args, prog="rsvlm cube info")
    from rsvlm_jax.evaluate.cubeinfo import cube_facts
    from rsvlm_jax.evaluate.cubepage import print_facts
    from rsvlm_jax.run.cubes import find_cube

    facts = cube_facts(find_cube(o.cube))
    print_facts(facts)
    return facts


def _validate(args: Sequence[str]) -> dict[str, object]:
    o = parse(Validate, args, prog="rsvlm cube validate")
    from data_zarr.schema import validate
    from rsvlm_jax.evaluate.cubepage import print_report
    from rsvlm_jax.run.cubes import find_cube

    report = validate(find_cube(o.cube), deep=o.deep)
    print_report(report)
    rows = [dataclasses.asdict(row) for row in report.rows]
    return {"ok": report.ok, "rows": rows, "exit_code": 0 if report.ok else 3}


def _show(args: Sequence[str]) -> dict[str, object]:
    o = parse(Show, args, prog="rsvlm cube show")
    from rsvlm_jax.run.cubes import find_cube

    cube = find_cube(o.cube)
    if cube.points:
        from rsvlm_jax.evaluate.cubeseries import show_series

        series = show_series(cube, o.out, bandset=o.bandset, sites=o.sites)
        say(f"picture: {o.out}")
        return {"figure": str(o.out), "series": series}
    from rsvlm_jax.config import ConfigError, SpectralConfig
    from rsvlm_jax.evaluate.cubeframes import show

    for option, value in (("dates", o.dates), ("size", o.size), ("image-size", o.image_size)):
        if value is not None and value < 1:
            raise ConfigError("nothing to draw", where=f"--{option}", expected=">= 1", found=value)
    height, width = cube.grid.height, cube.grid.width
    if not (0 <= o.at[0] < height and 0 <= o.at[1] < width):
        raise ConfigError(
            "outside the cube",
            where="--at",
            expected=f"a row below {height} and a column below {width}",
            found=f"{o.at[0]} {o.at[1]}",
        )
    frames = show(
        cube,
        o.out,
        bandset=o.bandset,
        spectral=SpectralConfig(o.plan, o.sar_third, o.indices, stretch=o.stretch),
        dates=o.dates,
        size=o.size,
        at=o.at,
        image_size=o.image_size,
    )
    say(f"picture: {o.out}")
    return {"figure": str(o.out), "frames": frames}


def _copy(args: Sequence[str]) -> dict[str, object]:
    o = parse(Copy, args, prog="rsvlm cube copy")
    from data_zarr.copy import copy_cube
    from rsvlm_jax.run.cubes import find_cube

    cube = copy_cube(find_cube(o.cube), o.out, o.layout, o.codec, overwrite=o.overwrite)
    say(f"copied: {cube}")
    return {"cube": str(o.out), "digest": cube.digest()}
