"""What a cube must be: the rules, checked one by one into a `Report`.

`open_cube` stops at the first thing that makes a cube unusable; `validate` goes on where it can,
looks at the numbers too, and says for each rule whether it holds. Not a repair tool.
`check_inputs` is the part of it that training and prediction can afford before they begin.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from data_zarr import rules
from data_zarr.cube import Cube, open_cube
from data_zarr.errors import CubeError
from data_zarr.format import FORMAT, FORMAT_VERSION, TARGETS, BandSetInfo, TargetInfo
from data_zarr.rules import Row
from data_zarr.suspect import suspicions

__all__ = ["FORMAT", "FORMAT_VERSION", "Report", "Row", "check_inputs", "validate"]

REFLECTANCE = (-0.2, 1.6)
"""Reflectances outside this are no surface: snow and cloud reach 1.3, sun glint a little more."""
OUTSIDE_SHARE, NEGATIVE_SHARE = 0.3, 0.3
DARKEST = 1e-3
"""No scene is so dark in all bands: the 99th percentile of clear water is above it."""
BACKSCATTER_DB = (-60.0, 40.0)
SAMPLES_A_SET = 16
"""Windows looked at in each band set: enough for a wrong scale, quick on any cube."""
SAMPLE, LEAST_DATES = 2**22, 4
"""Stored numbers of a window that are looked at, about, and dates at least."""
QUICK_SAMPLES, QUICK_FILES, QUICK_REMOTE = 4, 10_000, 256
"""Chunks read and files looked for in each band set by `check_inputs`, on a disk or elsewhere."""


@dataclasses.dataclass(frozen=True)
class Report:
    """All rows of one validation."""

    path: str
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """No errors; warnings are allowed."""
        return not any(r.level == "error" for r in self.rows)

    def raise_if_bad(self) -> None:
        """CubeError of the first error, with the number of all."""
        bad = [r for r in self.rows if r.level == "error"]
        if bad:
            more = f"and {len(bad) - 1} more: see `rsvlm cube validate`" if len(bad) > 1 else None
            first = bad[0]
            raise CubeError(
                first.rule,
                where=f"{self.path}: {first.where}",
                expected=first.expected or None,
                found=first.found or None,
                remedy=more,
            )

    def __str__(self) -> str:
        return "\n".join(map(str, self.rows))


def validate(path_or_cube: str | os.PathLike[str] | Cube, deep: bool = False) -> Report:
    """Checks a cube.

    Args:
      deep: also compare every file with its SHA-256 in the manifest (reads the whole cube).

    Returns:
      A report; what stops the cube from opening at all is its only row.
    """
    if isinstance(path_or_cube, Cube):
        cube = path_or_cube
    else:
        try:
            cube = open_cube(path_or_cube)
        except CubeError as error:
            row = Row(error.what, "error", str(error.where), str(error.expected), str(error.found))
            return Report(str(path_or_cube), (row,))
    files = [*_files(cube, deep)]
    rows = [*rules.opening(cube), *files, *rules.metadata(cube)]
    damaged = any(r.level == "error" for r in files)
    for info in cube.bandsets.values():
        # Numbers of a damaged cube would only repeat what its files have said.
        rows += [] if damaged else _numbers(cube, info)
    for name in cube.targets:
        rows += [] if damaged else _target(cube, name)
    rows += [
        Row(s.rule, "warn", s.where, s.rule, s.found)
        for s in (() if damaged else suspicions(cube))
        if s.rule.startswith("no step")
    ]
    return Report(str(cube.path), tuple(rows))


def check_inputs(cube: Cube, names: Iterable[str]) -> None:
    """A quick look at the band sets that are about to be read: files there, numbers possible.

    Files are compared by size, numbers in a few chunks, so that the time does not grow with the
    cube. A sampled chunk that is corrupt is left to the reader, which names it when it matters.

    Raises:
      CubeError: a missing or truncated chunk; impossible reflectances or backscatter.
    """
    for name in names:
        info = cube.bandset(name)
        files = cube.manifest.under(name)
        step = len(files) // (QUICK_FILES if isinstance(cube.path, Path) else QUICK_REMOTE) + 1
        for problem in cube.manifest.problems(files[::step], deep=False):
            raise problem
        try:
            values, _ = _sample(cube, info, QUICK_SAMPLES)
        except CubeError:
            continue
        rows = tuple(_possible(info, values[np.isfinite(values)]))
        Report(str(cube.path), rows).raise_if_bad()


def _files(cube: Cube, deep: bool) -> Iterator[Row]:
    rule = "every file matches its SHA-256" if deep else "every file is there, of the right size"
    problems = list(cube.manifest.problems(sorted(cube.manifest.files), deep=deep))
    for p in problems:
        yield Row(p.what, "error", str(p.where), str(p.expected), str(p.found))
    if not problems:
        yield Row(rule, "ok", f"{len(cube.manifest.files)} files")


def _sample(cube: Cube, info: BandSetInfo, samples: int) -> tuple[np.ndarray, float]:
    """(physical values [C, n] with NaN where not valid, share of valid pixels).

    Args:
      samples: chunks to look at, spread evenly over the cube; of large ones at some dates only.
    """
    reader, edge = cube.reader(info.name), info.chunks[2]
    height, width = info.shape[2:]
    starts = [(y, x) for y in range(0, height, edge) for x in range(0, width, edge)]
    step = max(1, -(-len(starts) // samples))
    values, valids = [], []
    for y, x in starts[::step]:
        h, w = min(edge, height - y), min(edge, width - x)
        dates = max(SAMPLE // (len(info.bands) * h * w), LEAST_DATES)
        rows = np.unique(np.linspace(0, info.shape[0] - 1, min(dates, info.shape[0])).astype(int))
        pixels, valid = reader.read(y, x, h, w, None if len(rows) == info.shape[0] else rows)
        scale = np.asarray([b.scale for b in info.bands], np.float32)[:, None, None]
        offset = np.asarray([b.offset for b in info.bands], np.float32)[:, None, None]
        physical = np.where(valid, pixels.astype(np.float32) * scale + offset, np.nan)
        values.append(physical.transpose(1, 0, 2, 3).reshape(len(info.bands), -1))
        valids.append(valid.ravel())
    return np.concatenate(values, axis=1), float(np.concatenate(valids).mean())


def _numbers(cube: Cube, info: BandSetInfo) -> Iterator[Row]:
    """Physical values in a window sample: a wrong scale, offset or unit shows here."""
    try:
        values, share = _sample(cube, info, SAMPLES_A_SET)
    except CubeError as error:
        yield Row(error.what, "error", str(error.where), str(error.expected), str(error.found))
        return
    if share == 0:
        yield Row("some pixels are valid", "error", info.name, "> 0 %", "0 % in the sample")
        return
    yield Row(f"{share:.0%} of the pixels are valid", "ok", info.name)
    if info.dates.ndim == 2:
        _, valid = cube.reader(info.name).read(0, 0, info.shape[2], 1)
        undated = int((valid[..., 0].any(axis=1) & np.isnat(info.dates)).sum())
        rule = "no value is valid without a date"
        yield Row(rule, "error" if undated else "ok", info.name, "0", f"{undated} values")
    yield from _possible(info, values[np.isfinite(values)])


def _possible(info: BandSetInfo, known: np.ndarray) -> Iterator[Row]:
    """Valid physical values [n] against what the kind of band set can be."""
    if not known.size:
        return
    reflectance = info.kind == "optical" and all(b.unit == "1" for b in info.bands)
    if reflectance:
        low, high = REFLECTANCE
        outside = float(((known < low) | (known > high)).mean())
        negative = float((known < 0).mean())
        median = float(np.median(known))
        seen = f"{outside:.0%} outside, {negative:.0%} negative, median {median:.4g}"
        if float(np.percentile(known, 99)) < DARKEST and negative < NEGATIVE_SHARE:
            yield Row(
                "impossible reflectances",
                "error",
                info.name,
                f"99th percentile above {DARKEST}; the scale was applied twice",
                f"{np.percentile(known, 99):.3g}",
            )
        elif outside > OUTSIDE_SHARE or median > high or negative >= NEGATIVE_SHARE:
            expected = (
                f"reflectances in {low}..{high}: at most {OUTSIDE_SHARE:.0%} outside and "
                f"less than {NEGATIVE_SHARE:.0%} negative; scale or offset is wrong"
            )
            yield Row("impossible reflectances", "error", info.name, expected, seen)
        else:
            yield Row(f"reflectances are possible: {seen}", "ok", info.name)
    elif info.kind == "sar":
        low, high = BACKSCATTER_DB
        inside = float(((known >= low) & (known <= high)).mean())
        if inside < 1 - OUTSIDE_SHARE or np.quantile(known, 0.05) >= 0:
            expected = f"dB in {low:.0f}..{high:.0f}, mostly negative; linear power is not dB"
            seen = f"{inside:.0%} inside, lowest {known.min():.4g}"
            yield Row("impossible backscatter", "error", info.name, expected, seen)
        else:
            yield Row("backscatter is possible", "ok", info.name)


def _target(cube: Cube, name: str) -> Iterator[Row]:
    info, where = cube.targets[name], f"{TARGETS}/{name}"
    try:
        values = cube.target(name)
    except CubeError as error:
        yield Row(error.what, "error", where, str(error.expected), str(error.found))
        return
    finite = values[np.isfinite(values)]
    if not finite.size:
        yield Row("target is known somewhere", "error", where, "a finite value", "only NaN")
    elif info.bounds and (finite.min() < info.bounds[0] or finite.max() > info.bounds[1]):
        found = f"{finite.min():.6g}..{finite.max():.6g}"
        yield Row("target is in its bounds", "error", where, str(info.bounds), found)
    elif strange := sorted(_codes(info, finite)):
        found = ", ".join(f"{c:g}" for c in strange[:5])
        known = ", ".join(str(c) for c, _ in info.categories)
        yield Row("classes have a name", "error", where, known, found)
    else:
        yield Row(f"target: {finite.size / values.size:.0%} known", "ok", where)


def _codes(info: TargetInfo, values: np.ndarray) -> set[float]:
    """Classes that occur and are not declared."""
    if not info.categories:
        return set()
    return set(np.unique(values).tolist()) - {float(code) for code, _ in info.categories}
