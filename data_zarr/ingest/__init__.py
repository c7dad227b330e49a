"""From archives to cubes: a recipe says what, `build` does it. README.md shows how.

    recipe.py     Recipe, BandSetRecipe, TargetRecipe, GridSpec      load.py: from TOML and Python
    sources/      what the scenes of an archive are, from metadata alone
    scene.py      Scene, Layer, Mask: plain data, all that a task needs
    plan.py       plan_raster: everything that can be refused before a pixel is read
    grids.py      the one grid, and what overlaps it
    native.py     windows of source pixels          warp.py: on the cube's grid, with validity
    encode.py     source numbers to cube numbers    dark.py: haze of level-1 scenes
    builder.py    build: template, one task a shard, manifest      schedule.py: threads, dask
    checks.py     what only the numbers can tell
    table.py      tables of plots: columns, sites, dates     points.py: point cubes of them

In order: recipe -> plan -> template -> shard tasks -> manifest -> warnings.
"""

from data_zarr.ingest.builder import Built, build, build_plan, make_plan
from data_zarr.ingest.load import from_toml, load_recipe
from data_zarr.ingest.plan import BuildPlan
from data_zarr.ingest.points import PointBandSet, PointPlan, PointRecipe, PointTarget
from data_zarr.ingest.recipe import BandSetRecipe, GridSpec, Recipe, TargetRecipe
from data_zarr.ingest.table import Table

__all__ = [
    "BandSetRecipe",
    "BuildPlan",
    "Built",
    "GridSpec",
    "PointBandSet",
    "PointPlan",
    "PointRecipe",
    "PointTarget",
    "Recipe",
    "Table",
    "TargetRecipe",
    "build",
    "build_plan",
    "from_toml",
    "load_recipe",
    "make_plan",
]
