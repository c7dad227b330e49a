"""What is known of a cube before its pixels (`Plan`), journalled so that a killed run resumes.

The journal lies in the folder `.writing` of an unfinished cube: the plan, and a mark for each
finished shard. Not the layout of the store (`template`) nor its pixels (`writer`).
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
    JOURNAL,
    MANIFEST,
    BandInfo,
    BandSetInfo,
    TargetInfo,
    band_set_attributes,
    decode_number,
)
from data_zarr.grid import Grid
from data_zarr.manifest import write_atomic
from data_zarr.sites import Sites

Codec = Literal["zstd", "lz4"]
CODECS: tuple[Codec, ...] = ("zstd", "lz4")
LEVEL = 5
"""From here on blosc cuts chunks into larger blocks: a third faster to decode, and 5 % smaller."""
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
                "cube exists",
                where=root,
                remedy="pass overwrite=True (--overwrite) or choose another path",
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
                    remedy="pass overwrite=True (--overwrite) to begin again",
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
