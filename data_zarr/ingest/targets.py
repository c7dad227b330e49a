"""Target layers of a raster cube: which raster, and whether it may be warped."""

from __future__ import annotations

import dataclasses

from data_zarr.errors import CubeError
from data_zarr.format import TargetInfo
from data_zarr.grid import Grid
from data_zarr.ingest.native import grid_of, open_raster
from data_zarr.ingest.recipe import TargetRecipe
from data_zarr.ingest.scene import Layer
from data_zarr.ingest.warp import RESAMPLING, aligned, window_in


@dataclasses.dataclass(frozen=True)
class TargetPlan:
    """A target, as it will be read and as its raster is stored."""

    recipe: TargetRecipe
    info: TargetInfo
    layer: Layer


def plan_target(item: TargetRecipe, grid: Grid) -> TargetPlan:
    """Inspects the raster of a target.

    Raises:
      CubeError: no such channel, no overlap, or a warp without a stated resampling.
    """
    where = f"target {item.name!r}"
    with open_raster(item.path, where) as file:
        if not 1 <= item.index <= file.count:
            raise CubeError("no such channel", where=where, expected=f"1..{file.count}",
                            found=item.index)  # fmt: skip
        own = file.nodatavals[item.index - 1]
        layer = Layer(
            path=item.path,
            grid=grid_of(file, item.path),
            dtype=file.dtypes[item.index - 1],
            index=item.index,
            scale=item.scale,
            offset=item.offset,
            nodata=own if item.nodata is None else item.nodata,
        )
    if window_in(layer.grid, grid) is None:
        raise CubeError("target and grid do not overlap", where=where)
    if item.resampling is None and aligned(layer.grid, grid) is None:
        raise CubeError(
            "resampling is not stated",
            where=where,
            expected='"nearest"' if item.kind == "category" else "one of " + ", ".join(RESAMPLING),
            found=f"a raster of {layer.grid.gsd:.6g} m on another grid than the cube",
        )
    info = TargetInfo(
        name=item.name,
        long_name=item.long_name,
        unit=item.unit,
        bounds=item.bounds,
        kind=item.kind,
        description=item.description,
        categories=item.categories,
    )
    return TargetPlan(item, info, layer)
