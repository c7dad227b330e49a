"""The empty cube: groups, coordinates and attributes, written before any pixel.

Not a writer of pixels: `data_zarr.write` fills what this lays out. Chunks are compressed by
blosc (zstd or lz4, byte shuffle) and then carry a CRC32C, inside shards whose index carries
another: default Zarr codecs have none around the data, and let a flipped bit through.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import shutil
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.format import (
    FORMAT,
    FORMAT_VERSION,
    JOURNAL,
    LABELS,
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
from data_zarr.layout import fitting
from data_zarr.manifest import write_atomic
from data_zarr.sensors import PLATFORMS
from data_zarr.sites import Sites

Codec = Literal["zstd", "lz4"]
CODECS: tuple[Codec, ...] = ("zstd", "lz4")
NO_DATE = np.iinfo(np.int64).min
"""NaT as it is stored: xarray decodes it to NaT."""
TEMPLATE = f"{JOURNAL}/template.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Everything that is known of a cube before its pixels."""

    grid: Grid | Sites
    bandsets: tuple[BandSetInfo, ...]
    targets: tuple[TargetInfo, ...]
    shard: int
    level: int
    attrs: dict[str, Any]
    codec: Codec = "zstd"

    def to_json(self) -> dict[str, Any]:
        sites = self.grid.to_json() if isinstance(self.grid, Sites) else None
        return {
            "sites": sites,
            "grid": None if sites else dataclasses.asdict(self.grid),
            "bandsets": [_record(b) for b in self.bandsets],
            "targets": [dataclasses.asdict(t) for t in self.targets],
            "shard": self.shard,
            "level": self.level,
            "attrs": self.attrs,
            "codec": self.codec,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Plan:
        if content["sites"] is not None:
            grid = Sites(**content["sites"])
        else:
            grid = Grid(**{**content["grid"], "transform": tuple(content["grid"]["transform"])})
        return cls(
            grid,
            tuple(_band_set(b) for b in content["bandsets"]),
            tuple(_target(t) for t in content["targets"]),
            content["shard"],
            content["level"],
            content["attrs"],
            content["codec"],
        )

    def fingerprint(self) -> str:
        """SHA-256 of the plan: a resumed run must bring the same."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def _record(info: BandSetInfo) -> dict[str, Any]:
    record = {f.name: getattr(info, f.name) for f in dataclasses.fields(info)}
    record.update(band_set_attributes(info))
    record["dates"] = _pack(info.dates.astype("int64"))
    record["platform"] = _pack(info.platform)
    record["dtype"] = info.dtype.str
    return record


def _band_set(record: dict[str, Any]) -> BandSetInfo:
    tuples = {k: tuple(record[k]) for k in ("shape", "chunks", "shards")}
    return BandSetInfo(
        **{
            **record,
            **tuples,
            "bands": tuple(BandInfo.from_attributes(b) for b in record["bands"]),
            "dates": _unpack(record["dates"]).astype("datetime64[s]"),
            "platform": _unpack(record["platform"]),
            "dtype": np.dtype(record["dtype"]),
            "nodata": decode_number(record["nodata"]),
        }
    )


def _pack(array: np.ndarray) -> list[Any]:
    """An array as JSON: dates of each of many sites would be megabytes of digits."""
    content = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 1)).decode()
    return [array.dtype.str, list(array.shape), content]


def _unpack(packed: list[Any]) -> np.ndarray:
    dtype, shape, content = packed
    flat = np.frombuffer(zlib.decompress(base64.b64decode(content)), dtype)
    return flat.reshape(shape).copy()


def _target(record: dict[str, Any]) -> TargetInfo:
    bounds, codes = record["bounds"], record["categories"]
    return TargetInfo(
        **{
            **record,
            "bounds": None if bounds is None else tuple(bounds),
            "categories": tuple((int(code), meaning) for code, meaning in codes),
        }
    )


def codecs(dtype: np.dtype, level: int = 3, codec: Codec = "zstd") -> list[Any]:
    """Compression and checksum of a chunk. The checksum is last: it covers what lies on disk."""
    from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec

    shuffle = BloscShuffle.shuffle if dtype.itemsize > 1 else BloscShuffle.noshuffle
    blosc = BloscCodec(cname=codec, clevel=level, shuffle=shuffle, typesize=dtype.itemsize)
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
    dims = ("site",) if isinstance(plan.grid, Sites) else ("y", "x")
    if plan.targets:
        group = store.create_group(TARGETS, attributes=plan.grid.attributes())
        write_axes(group, plan.grid)
        shard = (fitting(plan.shard, plan.grid),) * len(dims)
        for target in plan.targets:
            group.create_array(
                target.name,
                shape=(plan.grid.height, plan.grid.width)[: len(dims)],
                dtype="float32",
                chunks=tuple(min(64, n) for n in shard),
                shards=shard,
                fill_value=np.nan,
                compressors=codecs(np.dtype("float32"), plan.level, plan.codec),
                dimension_names=dims,
                attributes={**target.to_attributes(), **placed(plan.grid)},
            )
    if isinstance(plan.grid, Sites):
        group = store.create_group(LABELS, attributes=plan.grid.attributes())
        write_axes(group, plan.grid)
        for name, values in plan.grid.labels.items():
            kind = "str" if values.dtype == object else None
            coordinate(group, name, values, ("site",), placed(plan.grid), dtype=kind)


def _write_band_set(store: Any, info: BandSetInfo, plan: Plan) -> None:
    grid = plan.grid if isinstance(plan.grid, Sites) else plan.grid.coarse(info.factor)
    group = store.create_group(
        info.name, attributes={**band_set_attributes(info), **grid.attributes()}
    )
    write_axes(group, grid)
    names = np.asarray(info.band_names, object)
    coordinate(group, "band", names, ("band",), {"long_name": "band"}, dtype="str")
    coordinates = ["band", *(("site", "lon", "lat") if info.points else ())]
    if not info.static:
        own = info.dates.ndim == 2
        dims = ("time", "site") if own else ("time",)
        attrs: dict[str, Any] = {
            "standard_name": "time",
            "units": TIME_UNITS,
            "calendar": "proleptic_gregorian",
        }
        if own:
            attrs["_FillValue"] = NO_DATE
            coordinates.append("time")
        coordinate(group, "time", info.dates.astype("int64"), dims, attrs)
        flags = {
            "long_name": "platform",
            "flag_values": list(range(len(PLATFORMS))),
            "flag_meanings": " ".join(PLATFORMS),
        }
        coordinate(group, "platform", info.platform, dims, flags)
        coordinates.append("platform")
    scales = {(b.scale, b.offset) for b in info.bands}
    packing: dict[str, Any] = {}
    if len(scales) == 1 and scales != {(1.0, 0.0)}:
        packing = {"scale_factor": info.bands[0].scale, "add_offset": info.bands[0].offset}
    if info.nodata is not None and info.dtype.kind != "f":
        packing["_FillValue"] = int(info.nodata)
    units = {b.unit for b in info.bands}
    mapping = {} if info.points else {"grid_mapping": "spatial_ref"}
    group.create_array(
        PIXELS,
        shape=info.stored(info.shape),
        dtype=info.dtype,
        chunks=info.stored(info.chunks),
        shards=info.stored(info.shards),
        fill_value=info.dtype.type(info.nodata),
        compressors=codecs(info.dtype, plan.level, plan.codec),
        dimension_names=info.dims,
        attributes={
            **packing,
            **({"units": units.pop()} if len(units) == 1 else {}),
            **mapping,
            "coordinates": " ".join(coordinates),
            "ancillary_variables": VALID,
        },
    )
    group.create_array(
        VALID,
        shape=info.stored(info.shape, mask=True),
        dtype="bool",
        chunks=info.stored(info.chunks, mask=True),
        shards=info.stored(info.shards, mask=True),
        fill_value=False,
        compressors=codecs(np.dtype("bool"), plan.level, plan.codec),
        dimension_names=[d for d in info.dims if d != "band" or info.valid_per_band],
        attributes={"long_name": "value may be used", **mapping},
    )


def placed(grid: Grid | Sites) -> dict[str, str]:
    """The attribute by which CF says where a variable lies."""
    return (
        {"coordinates": "lon lat"} if isinstance(grid, Sites) else {"grid_mapping": "spatial_ref"}
    )


def write_axes(group: Any, grid: Grid | Sites) -> None:
    """Coordinates: y, x (pixel centres) and the CF grid mapping, or site, lon and lat."""
    if isinstance(grid, Sites):
        names = {"cf_role": "timeseries_id", "long_name": "site"}
        coordinate(group, "site", grid.ids, ("site",), names, dtype="str")
        for name, unit in (("lon", "degrees_east"), ("lat", "degrees_north")):
            attrs = {"standard_name": {"lon": "longitude", "lat": "latitude"}[name], "units": unit}
            coordinate(group, name, getattr(grid, name), ("site",), attrs)
        return
    coordinate(group, "y", grid.y, ("y",), grid.axis_attributes("y"))
    coordinate(group, "x", grid.x, ("x",), grid.axis_attributes("x"))
    group.create_array(
        "spatial_ref", shape=(), dtype="int64", fill_value=0, attributes=grid.cf_attributes()
    )


def coordinate(
    group: Any,
    name: str,
    values: np.ndarray,
    dims: tuple[str, ...],
    attrs: dict[str, Any],
    *,
    dtype: Any = None,
) -> None:
    """A small array in one checksummed chunk."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    array = group.create_array(
        name,
        shape=values.shape,
        dtype=dtype or values.dtype,
        chunks=values.shape,
        fill_value="" if values.dtype == object else 0,
        compressors=[ZstdCodec(), Crc32cCodec()],
        dimension_names=dims,
        attributes=attrs,
        config={"write_empty_chunks": True},
    )
    array[...] = values
