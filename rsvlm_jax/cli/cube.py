"""`rsvlm cube make | build | info | validate | show | copy`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from .options import parse, say, unknown_word

HELP = """usage: rsvlm cube VERB CUBE [options]

  make      a synthetic world with known biomass law
  build     a cube from a recipe: Sentinel-1 and -2, Landsat, GeoTIFF, STAC, NetCDF, tables
  info      what a cube is: bands, dates, CRS, valid share, chunks
  validate  every rule of the format; exit code 3 when one is broken
  show      a picture of every pseudo-RGB frame, as the encoder sees it
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
    """Draw every date and every pseudo-RGB frame with its bands and wavelengths."""

    cube: Positional[str]
    """Path, sample:NAME or world:PRESET."""
    out: Path
    """PNG to write."""
    bandset: str | None = None
    """Band set; the first that can be shown by default."""
    plan: Literal["wavelength", "consecutive_drop", "consecutive_pad"] = "wavelength"
    sar_third: Literal["ratio_db", "mean_db", "diff_linear", "copy"] = "ratio_db"
    indices: tuple[str, ...] = ()
    """Spectral indices as one more frame, e.g. ndvi ndmi nbr."""
    dates: int = 8
    """At most so many dates, evenly chosen."""
    size: int = 256
    """At most so many pixels a side, from the upper left."""


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
    from rsvlm_jax.evaluate.cubeinfo import cube_facts, print_facts
    from rsvlm_jax.run.cubes import find_cube

    facts = cube_facts(find_cube(o.cube))
    print_facts(facts)
    return facts


def _validate(args: Sequence[str]) -> dict[str, object]:
    o = parse(Validate, args, prog="rsvlm cube validate")
    from data_zarr.schema import validate
    from rsvlm_jax.evaluate.cubeinfo import print_report
    from rsvlm_jax.run.cubes import find_cube

    report = validate(find_cube(o.cube), deep=o.deep)
    print_report(report)
    rows = [dataclasses.asdict(row) for row in report.rows]
    return {"ok": report.ok, "rows": rows, "exit_code": 0 if report.ok else 3}


def _show(args: Sequence[str]) -> dict[str, object]:
    o = parse(Show, args, prog="rsvlm cube show")
    from rsvlm_jax.config import SpectralConfig
    from rsvlm_jax.evaluate.cubeframes import show
    from rsvlm_jax.run.cubes import find_cube

    frames = show(
        find_cube(o.cube),
        o.out,
        bandset=o.bandset,
        spectral=SpectralConfig(o.plan, o.sar_third, o.indices),
        dates=o.dates,
        size=o.size,
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
