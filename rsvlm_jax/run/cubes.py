"""Cubes by name: a path, a URL, "sample:NAME" (shipped) or "world:PRESET[:SEED]" (synthetic)."""

from __future__ import annotations

import os
from pathlib import Path

from data_zarr.cube import Cube, open_cube
from data_zarr.errors import CubeError
from data_zarr.format import MANIFEST
from data_zarr.samples import SAMPLES, sample_path
from rsvlm_jax.config import ConfigError


def cache_folder() -> Path:
    """Where synthetic worlds are kept: $RSVLM_CACHE, else ~/.cache/rsvlm_jax."""
    return Path(os.environ.get("RSVLM_CACHE") or Path.home() / ".cache" / "rsvlm_jax")


def find_cube(name: str | os.PathLike[str]) -> Cube:
    """Open a cube by name; a synthetic world is made on first use.

    Raises:
      ConfigError: no such sample or preset. CubeError: nothing there, or it cannot be opened.
    """
    kind, _, rest = str(name).partition(":")
    if kind == "sample":
        if rest not in SAMPLES:
            raise ConfigError(
                "no such shipped cube", where=f"{name}", expected=" | ".join(SAMPLES), found=rest
            )
        return open_cube(sample_path(rest))
    if kind == "world":
        from data_zarr.world import make_world

        preset, _, seed = rest.partition(":")
        if not (seed or "0").isdigit():
            raise ConfigError("not a seed", where=str(name), expected="world:NAME:SEED", found=seed)
        path = cache_folder() / f"world_{preset}_{seed or 0}.zarr"
        if (path / MANIFEST).is_file():
            return open_cube(path)
        return make_world(path, seed=int(seed or 0), preset=preset)
    if "://" not in str(name) and not Path(name).exists():
        shipped = ", ".join(f"sample:{s}" for s in SAMPLES)
        raise CubeError(
            "no such cube",
            where=Path(name).absolute(),
            expected=f"the path of a cube, {shipped} or world:PRESET",
            found="nothing at this path",
            remedy=f"did you mean sample:{name}?" if str(name) in SAMPLES else "check the path",
        )
    return open_cube(name)
