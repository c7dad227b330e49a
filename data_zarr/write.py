"""Writing cubes: sharded, checksummed, restartable.

    with create_cube(path, grid=..., bandsets=[...], ...) as writer:     template: metadata only
        for y, x in writer.regions():                                    one idempotent task a shard
            writer.write("s2_l2a", y, x, pixels, valid)
        writer.write_target("agb", 0, 0, values)
                                                                         close(): manifest.json

A region begins on a multiple of the band set's shard and ends on one or at the edge, so two tasks
never share a file: that is how concurrent Zarr writers lose data. Every file is replaced
atomically and journalled with its SHA-256; a killed run is run again and only misses what it had
not finished. A writer pickles as its path, so the regions may be written by many processes; one
of them closes.

How a shard is cut into chunks: `data_zarr.layout`; the empty cube: `data_zarr.template`; maps:
`data_zarr.maps`. Their public names are exported here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_zarr import journal, template
from data_zarr.errors import CubeError, OutputError
from data_zarr.format import LABELS, TARGETS, TargetInfo
from data_zarr.grid import Grid
from data_zarr.layout import CHUNK, SITES_A_SHARD, BandSetData, Layout, fitting
from data_zarr.manifest import seal
from data_zarr.maps import write_geotiff, write_map
from data_zarr.sites import Sites
from data_zarr.writer import CubeWriter

__all__ = ["BandSetData", "CubeWriter", "create_cube", "seal", "write_geotiff", "write_map"]


def create_cube(
    path: str | os.PathLike[str],
    *,
    grid: Grid | Sites,
    bandsets: Sequence[BandSetData],
    targets: Sequence[TargetInfo] = (),
    layout: Layout = "balanced",
    shard: int | None = None,
    title: str,
    license: str,
    provenance: str,
    attrs: dict[str, Any] | None = None,
    codec: journal.Codec | str = "zstd",
    level: int = journal.LEVEL,
    overwrite: bool = False,
) -> CubeWriter:
    """Writes the template of a cube (metadata and coordinates) and returns its writer.

    Called again on a cube that was not finished, with the same arguments, it resumes.

    Args:
      grid: of the finest pixels; or the sites of a point cube.
      shard: pixels a side of one file, or sites in it; brought down to the cube where that is
        smaller. None: 256 pixels, `SITES_A_SHARD` sites.
      provenance: where the numbers come from and how they were made.
      attrs: more root attributes, JSON values.
      codec: "zstd" to keep, "lz4" for a hot copy: larger files, faster reads.
      level: of the codec. zstd 3 writes twice as fast as 5, 9 takes 15 times as long for 4 %.
      overwrite: delete a cube that is already there.

    Raises:
      OutputError: not writable.
      CubeError: something else lies there; an unfinished cube of other arguments; what
        `BandSetData` refuses.
    """
    root = Path(path).absolute()
    grid.check(root)
    if codec not in journal.CODECS:
        raise CubeError(
            "no such codec", where=root, expected=" or ".join(journal.CODECS), found=repr(codec)
        )
    if not 0 <= level <= 9:
        raise CubeError("level of the codec", where=root, expected="0 to 9", found=level)
    shard = shard or (SITES_A_SHARD if isinstance(grid, Sites) else 256)
    if shard < 1 or (shard > CHUNK and shard % CHUNK):
        raise CubeError("shard", where=root, expected=f"a multiple of {CHUNK}", found=shard)
    shard = fitting(shard, grid)
    infos = [b.info(grid, layout, shard) for b in bandsets]
    names = [i.name for i in infos]
    if not names or len(set(names)) != len(names) or {TARGETS, LABELS} & {*names}:
        raise CubeError("band sets repeated, none, or named as a group", found=", ".join(names))
    if both := sorted({t.name for t in targets} & {*names}):
        raise CubeError("a band set and a target of one name", where=root, found=both[0])
    plan = journal.Plan(
        grid,
        tuple(infos),
        tuple(targets),
        shard,
        level,
        {"title": title, "license": license, "provenance": provenance, **(attrs or {})},
        codec,  # type: ignore[arg-type]
    )
    try:
        if journal.claim(root, plan, overwrite):
            template.write(root, plan)
            journal.mark(root, plan, written=True)
    except OSError as error:
        raise OutputError(
            "cannot write the cube",
            where=root,
            expected="a writable directory",
            found=error.strerror or str(error),
            remedy="choose another output path, or free space and rights",
        ) from error
    return CubeWriter(root)
