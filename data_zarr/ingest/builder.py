"""`build(recipe, out)`: the template first, then one idempotent task a shard, then the manifest.

A task writes one shard of one band set (all its dates and bands) or target, so no two tasks meet
in a file. What a task needs lies beside the cube while it is built (`.writing/ingest.json`), so it
travels as (path, name, row, column): a worker that dies loses its shard of work and nothing else,
and a run that is killed is run again and does what is missing. Nothing of the machine, the clock
or the order of the tasks goes into the cube: equal sources give equal bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.cube import open_cube
from data_zarr.errors import CubeError, CubeWarning
from data_zarr.format import JOURNAL
from data_zarr.grid import Grid
from data_zarr.ingest import checks
from data_zarr.ingest.dark import resolved
from data_zarr.ingest.encode import Encoding, encode, physical
from data_zarr.ingest.load import load_recipe
from data_zarr.ingest.plan import BuildPlan, plan_raster
from data_zarr.ingest.points import PointPlan, PointRecipe, plan_points, write_points
from data_zarr.ingest.recipe import Recipe
from data_zarr.ingest.scene import Scene, from_json, to_json
from data_zarr.ingest.schedule import alone, run
from data_zarr.ingest.warp import fetch, fetch_mask
from data_zarr.manifest import write_atomic
from data_zarr.write import CubeWriter, create_cube

STATE = f"{JOURNAL}/ingest.json"
Task = tuple[str, str, int, int]
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Built:
    """What a build made. `written` counts the shards that this run wrote; the rest were there."""

    path: Path
    digest: str
    tasks: int
    written: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def build(
    recipe: Recipe | PointRecipe | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    scheduler: str = "threads",
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Built:
    """Builds a cube, or goes on with one that was not finished.

    Args:
      recipe: or the path of a .toml or .py file.
      scheduler: "threads", "processes" (a local dask cluster: in a script, call this below
        `if __name__ == "__main__"`), or the address of a cluster whose workers see the same files.
      workers: threads or processes; the number of cores by default.
      progress: called with shards done and in all.

    Raises:
      CubeError: what the recipe or the sources refuse, before the output is touched.
      OutputError: an output that cannot be written.
    """
    loaded = load_recipe(Path(recipe)) if isinstance(recipe, str | os.PathLike) else recipe
    return build_plan(make_plan(loaded), out, scheduler=scheduler, workers=workers,
                      overwrite=overwrite, progress=progress)  # fmt: skip


def make_plan(recipe: Recipe | PointRecipe) -> BuildPlan | PointPlan:
    """All that a build will do, checked: of rasters without a pixel, of points with the table."""
    return plan_points(recipe) if isinstance(recipe, PointRecipe) else plan_raster(recipe)


def build_plan(
    plan: BuildPlan | PointPlan,
    out: str | os.PathLike[str],
    *,
    scheduler: str = "threads",
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Built:
    """`build` for a plan that is already made."""
    if isinstance(plan, PointPlan):
        checks.probe_points(plan)
        with alone(Path(out)):
            digest = write_points(plan, out, overwrite=overwrite)
        return Built(Path(out), digest, plan.tasks, plan.tasks, (), ())
    checks.probe(plan)
    with alone(Path(out)):
        return _build(plan, out, scheduler, workers, overwrite, progress)


def _build(
    plan: BuildPlan,
    out: str | os.PathLike[str],
    scheduler: str,
    workers: int | None,
    overwrite: bool,
    progress: Progress | None,
) -> Built:
    recipe = plan.recipe
    state = _state(plan)
    writer = create_cube(
        out,
        grid=plan.grid,
        bandsets=[b.data for b in plan.bandsets],
        targets=[t.info for t in plan.targets],
        layout=recipe.layout,
        shard=recipe.shard,
        title=recipe.title,
        license=recipe.license,
        provenance=recipe.provenance,
        attrs={**recipe.attrs, **_history(plan, state)},
        codec=recipe.codec,
        level=recipe.level,
        overwrite=overwrite,
    )
    write_atomic(writer.path / STATE, json.dumps(state))
    tasks = [
        (str(writer.path), key, y, x)
        for key, name in ((k, k.removeprefix("targets/")) for k in state)
        for y, x in writer.regions(name)
        if not writer.done(name, y, x)
    ]
    run(write_shard, tasks, scheduler=scheduler, workers=workers, progress=progress)
    writer.close()
    cube = open_cube(out)
    doubts = (*plan.warnings, *checks.doubts(cube))
    for doubt in doubts:
        warnings.warn(doubt, CubeWarning, stacklevel=4)
    return Built(Path(out).absolute(), cube.digest(), plan.tasks, len(tasks), plan.notes, doubts)


def _history(plan: BuildPlan, state: dict[str, Any]) -> dict[str, Any]:
    """Root attributes that say where the numbers come from, and tell two recipes apart.

    Products by name and without folders: equal sources give equal bytes wherever they lie. A run
    goes on with an unfinished cube only where all of this is the same.
    """
    plain = json.loads(json.dumps(state))
    for entry in plain.values():
        for scene in entry["scenes"]["scenes"]:
            for layer in [*scene["layers"], *(m["layer"] for m in scene["masks"])]:
                layer["path"] = layer["path"].rstrip("/").rpartition("/")[2]
    return {
        "scenes": {b.data.name: [s.name for s in b.scenes] for b in plan.bandsets},
        "resampling": {k: v["resampling"] for k, v in state.items() if v["resampling"]},
        "ingest_sha256": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest(),
    }


def _state(plan: BuildPlan) -> dict[str, Any]:
    """What the tasks need, by band set and "targets/NAME", as JSON values."""
    state: dict[str, Any] = {
        b.data.name: {
            "scenes": to_json([resolved(s) for s in b.scenes]),
            "groups": b.groups,
            "encodings": [dataclasses.asdict(e) for e in b.encodings],
            "resampling": b.recipe.resampling,
        }
        for b in plan.bandsets
    }
    for target in plan.targets:
        scene = Scene(target.info.name, np.datetime64("NaT"), "unknown", (target.layer,))
        state[f"targets/{target.info.name}"] = {
            "scenes": to_json([scene]),
            "resampling": target.recipe.resampling,
        }
    return state


@functools.lru_cache(maxsize=4)
def _load(path: str, stamp: int) -> dict[str, Any]:
    """The state of a build; `stamp` changes when it is written anew."""
    content = json.loads(Path(path, STATE).read_text())
    for entry in content.values():
        entry["scenes"] = from_json(entry["scenes"])
        entry["encodings"] = [Encoding(**e) for e in entry.get("encodings", ())]
    return content


def write_shard(task: Task) -> str:
    """Reads and writes one shard; done twice, it writes the same bytes."""
    path, key, y, x = task
    writer = CubeWriter(Path(path))
    entry = _load(path, os.stat(Path(path, STATE)).st_mtime_ns)[key]
    name = key.removeprefix("targets/")
    whole, edge = _grid_of(writer, name), writer.shard_of(name)
    h, w = min(edge, whole.height - y), min(edge, whole.width - x)
    window = whole.window(y, x, h, w)
    if name != key:
        layer = entry["scenes"][0].layers[0]
        [(numbers, valid)] = fetch([layer], window, entry["resampling"], whole)
        values = np.where(valid, physical(numbers, layer), np.nan)
        writer.write_target(name, y, x, values.astype(np.float32))
        return key
    scenes, encodings = entry["scenes"], entry["encodings"]
    shape = (len(entry["groups"]), len(encodings), h, w)
    pixels = np.full(shape, encodings[0].nodata, encodings[0].dtype)
    valid = np.zeros(shape, bool)
    for t, group in enumerate(entry["groups"]):
        for member in group:
            _lay(scenes[member], encodings, entry["resampling"], window, whole, pixels[t], valid[t])
    writer.write(name, y, x, pixels, valid)
    return key


def _grid_of(writer: CubeWriter, name: str) -> Grid:
    """The pixels of a band set or target."""
    if not isinstance(writer.grid, Grid):
        raise CubeError("points have no shards of pixels", where=writer.path)
    info = writer.bandsets.get(name)
    return writer.grid if info is None else writer.grid.coarse(info.factor)


def _lay(
    scene: Scene,
    encodings: list[Encoding],
    resampling: Any,
    window: Grid,
    whole: Grid,
    pixels: np.ndarray,
    valid: np.ndarray,
) -> None:
    """Lays a scene below what is there: it fills pixels that have no value yet, or no valid one."""
    below, good = np.empty_like(pixels), np.empty_like(valid)
    found = fetch(scene.layers, window, resampling, whole)
    for c, (layer, to) in enumerate(zip(scene.layers, encodings, strict=True)):
        numbers, ok = found[c]
        below[c], good[c] = encode(numbers, ok, layer, to, f"{scene.name}, band {c}")
    holds = good.any(axis=0)
    for mask in scene.masks:
        good &= ~fetch_mask(mask, window, whole)
    empty = np.isnan(pixels) if pixels.dtype.kind == "f" else pixels == encodings[0].nodata
    take = (empty.all(axis=0) & holds) | (~valid.any(axis=0) & good.any(axis=0))
    pixels[:, take], valid[:, take] = below[:, take], good[:, take]
