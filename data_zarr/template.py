"""The empty cube: groups, coordinates and attributes, written before any pixel.

Not a writer of pixels: `data_zarr.write` fills what this lays out. Chunks are compressed by
blosc (zstd, byte shuffle) and then carry a CRC32C, inside shards whose index carries another:
default Zarr codecs have none around the data, and let a flipped bit through.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.format import (
    FORMAT,
    FORMAT_VERSION,
    JOURNAL,
    MANIFEST,
    PIXELS,
    TARGETS,
    TIME_UNITS,
    VALID,
    BandInfo,
    BandSetInfo,
    TargetInfo,
    band_set_attributes,
    decode_number,
)
from data_zarr.grid import Grid
from data_zarr.manifest import write_atomic
from data_zarr.sensors import PLATFORMS

TEMPLATE = f"{JOURNAL}/template.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Everything that is known of a cube before its pixels."""

    grid: Grid
    bandsets: tuple[BandSetInfo, ...]
    targets: tuple[TargetInfo, ...]
    shard: int
    level: int
    attrs: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "grid": dataclasses.asdict(self.grid),
            "bandsets": [_record(b) for b in self.bandsets],
            "targets": [dataclasses.asdict(t) for t in self.targets],
            "shard": self.shard,
            "level": self.level,
            "attrs": self.attrs,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Plan:
        grid = Grid(**{**content["grid"], "transform": tuple(content["grid"]["transform"])})
        targets = tuple(_target(t) for t in content["targets"])
        bandsets = tuple(_band_set(b) for b in content["bandsets"])
        shard, level = content["shard"], content["level"]
        return cls(grid, bandsets, targets, shard, level, content["attrs"])

    def fingerprint(self) -> str:
        """SHA-256 of the plan: a resumed run must bring the same."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def _record(info: BandSetInfo) -> dict[str, Any]:
    record = {f.name: getattr(info, f.name) for f in dataclasses.fields(info)}
    record.update(band_set_attributes(info))
    record["dates"] = info.dates.astype("int64").tolist()
    record["platform"] = info.platform.tolist()
    record["dtype"] = info.dtype.str
    return record


def _band_set(record: dict[str, Any]) -> BandSetInfo:
    tuples = {k: tuple(record[k]) for k in ("shape", "chunks", "shards")}
    return BandSetInfo(
        **{
            **record,
            **tuples,
            "bands": tuple(BandInfo.from_attributes(b) for b in record["bands"]),
            "dates": np.asarray(record["dates"], "int64").astype("datetime64[s]"),
            "platform": np.asarray(record["platform"], np.int32),
            "dtype": np.dtype(record["dtype"]),
            "nodata": decode_number(record["nodata"]),
        }
    )


def _target(record: dict[str, Any]) -> TargetInfo:
    bounds, codes = record["bounds"], record["categories"]
    return TargetInfo(
        **{
            **record,
            "bounds": None if bounds is None else tuple(bounds),
            "categories": tuple((int(code), meaning) for code, meaning in codes),
        }
    )


def codecs(dtype: np.dtype, level: int = 3) -> list[Any]:
    """Compression and checksum of a chunk. The checksum is last: it covers what lies on disk."""
    from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec

    shuffle = BloscShuffle.shuffle if dtype.itemsize > 1 else BloscShuffle.noshuffle
    blosc = BloscCodec(cname="zstd", clevel=level, shuffle=shuffle, typesize=dtype.itemsize)
    return [blosc, Crc32cCodec()]


def claim(root: Path, plan: Plan, overwrite: bool) -> bool:
    """Makes `root` ours. True when the template is to be written, False to resume."""
    journal = root / TEMPLATE
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        complete = (root / MANIFEST).is_file()
        ours = complete or journal.is_file()
        if not ours:
            raise CubeError(
                "something else lies at the output",
                where=root,
                expected="nothing, or a cube",
                found="a file" if root.is_file() else "files that are no cube",
                remedy="choose another path",
            )
        if overwrite:
            shutil.rmtree(root)
        elif complete:
            raise CubeError(
                "cube exists", where=root, remedy="pass overwrite=True or choose another path"
            )
        else:
            state = json.loads(journal.read_text())
            if (found := Plan.from_json(state["plan"]).fingerprint()) != (
                fingerprint := plan.fingerprint()
            ):
                raise CubeError(
                    "an unfinished cube of other arguments",
                    where=root,
                    expected=f"template {fingerprint[:12]}",
                    found=found[:12],
                    remedy="pass overwrite=True to begin again",
                )
            if state["written"]:
                return False
            shutil.rmtree(root)  # killed while the template was laid out: no pixels yet
    mark(root, plan, written=False)
    return True


def mark(root: Path, plan: Plan, *, written: bool) -> None:
    """Journals the plan, and whether the template has been laid out."""
    (root / JOURNAL).mkdir(parents=True, exist_ok=True)
    write_atomic(root / TEMPLATE, json.dumps({"plan": plan.to_json(), "written": written}))


def read(root: Path) -> Plan:
    """The plan of a cube that is being written."""
    try:
        return Plan.from_json(json.loads((root / TEMPLATE).read_text())["plan"])
    except FileNotFoundError as error:
        raise CubeError("no cube is being written", where=root, found="no journal") from error


def write(root: Path, plan: Plan) -> None:
    """Lays out the groups, coordinates and empty arrays of a cube below `root`."""
    import zarr

    store: Any = zarr.create_group(
        root,
        zarr_format=3,
        overwrite=False,
        attributes={
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **plan.attrs,
            "bandsets": [b.name for b in plan.bandsets],
            "targets": [t.name for t in plan.targets],
            **plan.grid.attributes(),
        },
    )
    for info in plan.bandsets:
        _write_band_set(store, info, plan)
    if plan.targets:
        group = store.create_group(TARGETS, attributes=plan.grid.attributes())
        write_axes(group, plan.grid)
        edge = (min(64, plan.shard),) * 2
        for target in plan.targets:
            group.create_array(
                target.name,
                shape=(plan.grid.height, plan.grid.width),
                dtype="float32",
                chunks=edge,
                shards=(plan.shard, plan.shard),
                fill_value=np.nan,
                compressors=codecs(np.dtype("float32"), plan.level),
                dimension_names=("y", "x"),
                attributes={**target.to_attributes(), "grid_mapping": "spatial_ref"},
            )


def _write_band_set(store: Any, info: BandSetInfo, plan: Plan) -> None:
    group = store.create_group(
        info.name, attributes={**band_set_attributes(info), **plan.grid.attributes()}
    )
    write_axes(group, plan.grid)
    names = np.asarray(info.band_names, object)
    coordinate(group, "band", names, "band", {"long_name": "band"}, dtype="str")
    coordinates = ["band"]
    if not info.static:
        time = info.dates.astype("int64")
        attrs = {"standard_name": "time", "units": TIME_UNITS, "calendar": "proleptic_gregorian"}
        coordinate(group, "time", time, "time", attrs)
        flags = {
            "long_name": "platform",
            "flag_values": list(range(len(PLATFORMS))),
            "flag_meanings": " ".join(PLATFORMS),
        }
        coordinate(group, "platform", info.platform, "time", flags)
        coordinates.append("platform")
    scales = {(b.scale, b.offset) for b in info.bands}
    packing: dict[str, Any] = {}
    if len(scales) == 1 and scales != {(1.0, 0.0)}:
        packing = {"scale_factor": info.bands[0].scale, "add_offset": info.bands[0].offset}
    if info.nodata is not None and info.dtype.kind != "f":
        packing["_FillValue"] = int(info.nodata)
    units = {b.unit for b in info.bands}
    group.create_array(
        PIXELS,
        shape=info.shape,
        dtype=info.dtype,
        chunks=info.chunks,
        shards=info.shards,
        fill_value=info.dtype.type(info.nodata),
        compressors=codecs(info.dtype, plan.level),
        dimension_names=("time", "band", "y", "x"),
        attributes={
            **packing,
            **({"units": units.pop()} if len(units) == 1 else {}),
            "grid_mapping": "spatial_ref",
            "coordinates": " ".join(coordinates),
            "ancillary_variables": VALID,
        },
    )
    axes = ("time", "band", "y", "x") if info.valid_per_band else ("time", "y", "x")
    keep = [i for i, a in enumerate(("time", "band", "y", "x")) if a in axes]
    group.create_array(
        VALID,
        shape=tuple(info.shape[i] for i in keep),
        dtype="bool",
        chunks=tuple(info.chunks[i] for i in keep),
        shards=tuple(info.shards[i] for i in keep),
        fill_value=False,
        compressors=codecs(np.dtype("bool"), plan.level),
        dimension_names=axes,
        attributes={"long_name": "value may be used", "grid_mapping": "spatial_ref"},
    )


def write_axes(group: Any, grid: Grid) -> None:
    """The coordinates y and x (pixel centres) and the CF grid mapping `spatial_ref`."""
    coordinate(group, "y", grid.y, "y", grid.axis_attributes("y"))
    coordinate(group, "x", grid.x, "x", grid.axis_attributes("x"))
    group.create_array(
        "spatial_ref", shape=(), dtype="int64", fill_value=0, attributes=grid.cf_attributes()
    )


def coordinate(
    group: Any,
    name: str,
    values: np.ndarray,
    dim: str,
    attrs: dict[str, Any],
    *,
    dtype: Any = None,
) -> None:
    """A small one-dimensional array in one checksummed chunk."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    array = group.create_array(
        name,
        shape=values.shape,
        dtype=dtype or values.dtype,
        chunks=values.shape,
        fill_value="" if values.dtype == object else 0,
        compressors=[ZstdCodec(), Crc32cCodec()],
        dimension_names=(dim,),
        attributes=attrs,
        config={"write_empty_chunks": True},
    )
    array[...] = values
