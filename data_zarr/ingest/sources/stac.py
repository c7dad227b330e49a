"""STAC items, from local JSON files: an item, an item collection, a catalogue or collection.

pystac reads and migrates the documents; assets are rasters that GDAL opens, on disk or remote.
Bands are found by common name or name in `bands` (STAC 1.1), `eo:bands` or the asset's key; scale,
offset and nodata in `bands` or `raster:bands`. Catalogues contradict themselves: what they say of
the Sentinel-2 offset is taken only where it is whole and coherent, and refused otherwise.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from data_zarr.errors import CubeError
from data_zarr.ingest.native import grid_of, open_raster
from data_zarr.ingest.scene import Found, Layer, Scene, Units, Wanted
from data_zarr.ingest.sources.files import channel, files, layer, missing_band, quality
from data_zarr.ingest.times import utc
from data_zarr.sensors import Number

BASELINE = "s2:processing_baseline"
APPLIED = "earthsearch:boa_offset_applied"
STEP = 0.1
"""Reflectance that baseline 04.00 added to the numbers, to be taken off."""


@dataclasses.dataclass(frozen=True)
class Stac:
    """STAC items.

    Attributes:
      path: glob of JSON files; catalogues and collections are followed.
      quality: key of the quality asset (SCL, qa_pixel), read as the sensor's table says.
      reject: its flags that make a pixel invalid; the sensor's usual ones by default.
      scale: where the items do not say it.
      offset: of all bands, in place of what the items say.
      units: "db" or "linear" for backscatter.
    """

    path: str
    quality: str = ""
    reject: tuple[str, ...] | None = None
    scale: Number | None = None
    offset: Number | None = None
    units: Units = ""

    def inspect(self, wanted: Wanted) -> Found:
        scenes = []
        for path in files(self.path, wanted.where):
            scenes.extend(self._scene(item, wanted, path) for item in _items(path))
        return Found(tuple(scenes))

    def _scene(self, item: Any, wanted: Wanted, path: str) -> Scene:
        where = f"{wanted.where}: {item.id}"
        moment = item.datetime or item.properties.get("start_datetime")
        date = utc([moment.isoformat() if hasattr(moment, "isoformat") else moment], where)[0]
        platform = str(item.properties.get("platform") or "unknown").lower()
        found = _bands(item)
        names = [name for name, _, _, _ in found]
        layers = []
        for band in wanted.bands:
            at = channel(band, names)
            if at is None:
                raise missing_band(band, names, where)
            _, asset, index, meta = found[at]
            layers.append(self._layer(item, asset, index, meta, wanted, where))
        masks = []
        if self.quality:
            if self.quality not in item.assets:
                raise CubeError("quality asset is missing", where=where, expected=self.quality,
                                found=", ".join(item.assets))  # fmt: skip
            href = _href(item.assets[self.quality], where)
            with open_raster(href, where) as file:
                flags = Layer(path=href, grid=grid_of(file, href), dtype=file.dtypes[0])
            masks.append(quality(flags, wanted.row, self.reject, where))
        return Scene(item.id, date, platform, tuple(layers), tuple(masks))

    def _layer(
        self, item: Any, asset: Any, index: int, meta: dict[str, Any], wanted: Wanted, where: str
    ) -> Layer:
        href = _href(asset, where)
        scale = meta.get("raster:scale", meta.get("scale", self.scale))
        offset = meta.get("raster:offset", meta.get("offset"))
        if self.offset is not None:  # the recipe is believed over a catalogue
            offset = self.offset
        elif wanted.reflectance and wanted.row.name.startswith("s2_"):
            offset = _sentinel2_offset(item, offset, where)
        nodata = meta.get("nodata")
        with open_raster(href, where) as file:
            if not 1 <= index <= file.count:
                raise CubeError("asset without that channel", where=href,
                                expected=f"channel {index}", found=file.count)  # fmt: skip
            out = layer(
                file,
                index,
                wanted,
                path=href,
                scale=scale,
                offset=offset,
                nodata=None if nodata in (None, "nan") else float(nodata),
                units=self.units,
            )
        _check_position(item, asset, out, where)
        return out


def _items(path: str) -> list[Any]:
    """The items of a JSON file."""
    try:
        import pystac
    except ImportError as error:
        raise CubeError(
            "cannot read STAC without pystac", where=path, remedy="pip install 'rsvlm-jax[geo]'"
        ) from error
    unreadable = (pystac.STACError, pystac.STACTypeError)
    try:
        content = json.loads(Path(path).read_text())
        if (kind := content.get("type")) in ("Catalog", "Collection"):
            folder = pystac.Catalog if kind == "Catalog" else pystac.Collection
            return list(folder.from_file(path).get_items(recursive=True))
        rows = content["features"] if content.get("type") == "FeatureCollection" else [content]
        items = [pystac.Item.from_dict(row) for row in rows]
    except (OSError, ValueError, KeyError, AttributeError, *unreadable) as error:
        raise CubeError(
            "not a STAC item",
            where=path,
            expected="an item, an item collection, a catalogue or a collection",
            found=f"{type(error).__name__}: {error}"[:120],
        ) from error  # fmt: skip
    for item in items:
        if item.get_self_href() is None:
            item.set_self_href(str(Path(path).absolute()))
    return items


def _bands(item: Any) -> list[tuple[str, Any, int, dict[str, Any]]]:
    """(name, asset, channel, metadata) by common name and by own name of every data band."""
    out = []
    for key, asset in item.assets.items():
        fields = asset.to_dict()
        bands = fields.get("bands") or fields.get("eo:bands") or []
        raster = fields.get("raster:bands") or []
        for i in range(max(len(bands), len(raster), 1)):
            own = bands[i] if i < len(bands) else {}
            packed = raster[i] if i < len(raster) else {}
            asset_wide = {k: fields[k] for k in ("raster:scale", "raster:offset", "nodata")
                          if k in fields}  # fmt: skip
            meta = {**asset_wide, **packed, **own}
            labels = [own.get("name"), own.get("eo:common_name"), own.get("common_name")]
            if len(bands) <= 1:
                labels.append(key)
            out.extend((str(n), asset, i + 1, meta) for n in dict.fromkeys(labels) if n)
    seen: dict[str, tuple[str, Any, int, dict[str, Any]]] = {}
    for row in out:
        seen.setdefault(row[0], row)
    return list(seen.values())


def _href(asset: Any, where: str) -> str:
    href = asset.get_absolute_href()
    if href is None:
        raise CubeError("asset without a place", where=where, expected="href", found=asset.href)
    return href.removeprefix("file://")


def _sentinel2_offset(item: Any, offset: Any, where: str) -> Any:
    """The offset of a Sentinel-2 band, if the item says one thing of it.

    From baseline 04.00 on the distributed numbers carry -0.1; a catalogue may have applied it, and
    then states so, and 0.

    Raises:
      CubeError: no baseline, no offset where one is due, or contradiction.
    """
    baseline = item.properties.get(BASELINE)
    applied = item.properties.get(APPLIED)
    if baseline is None:
        raise CubeError("no processing baseline", where=where, expected=BASELINE, found="none",
                        remedy="the offset cannot be told from the date")  # fmt: skip
    late = float(baseline) >= 4.0
    if late and offset is None:
        raise CubeError(
            "offset missing in the metadata",
            where=where,
            expected=f"an explicit offset of each band at baseline {baseline}",
            found="none",
            remedy="state `offset` in the recipe if the provider documents it",
        )
    stated = 0.0 if offset is None else float(offset)
    due = -STEP if late and applied is not True else 0.0
    if abs(stated - due) > 1e-9:
        raise CubeError(
            "contradictory offset",
            where=where,
            expected=f"{due:g} at baseline {baseline}"
            + ("" if applied is None else f" with {APPLIED} = {applied}"),
            found=f"{stated:g}",
            remedy="the catalogue contradicts itself: look at a dark lake, then state the offset",
        )
    return stated


def _check_position(item: Any, asset: Any, found: Layer, where: str) -> None:
    """The item's projection must be that of its raster."""
    fields = {**item.properties, **asset.to_dict()}
    code = fields.get("proj:code") or (
        f"EPSG:{fields['proj:epsg']}" if fields.get("proj:epsg") else None
    )
    if code and found.grid.epsg is not None and code != f"EPSG:{found.grid.epsg}":
        raise CubeError(
            "item and raster differ", where=f"{where}: {found.path}", expected=code,
            found=f"EPSG:{found.grid.epsg}", remedy="wrong zone in one of the two",
        )  # fmt: skip
    shape = fields.get("proj:shape")
    if shape and tuple(shape) != (found.grid.height, found.grid.width):
        raise CubeError(
            "item and raster differ", where=f"{where}: {found.path}",
            expected=f"proj:shape {list(shape)}", found=[found.grid.height, found.grid.width],
        )  # fmt: skip
