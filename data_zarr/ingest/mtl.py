"""Landsat's MTL document in its three spellings (.json, .txt, .xml): groups of keys and texts.

mtl["IMAGE_ATTRIBUTES"]["SUN_ELEVATION"] == "45.1"
"""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath

from data_zarr.errors import CubeError
from data_zarr.ingest.bundle import Bundle

Mtl = dict[str, dict[str, str]]


def read_mtl(bundle: Bundle) -> Mtl:
    """The MTL of a bundle; JSON is preferred, then text, then XML.

    Raises:
      CubeError: none in it, several products in it, or unreadable.
    """
    found = bundle.find(lambda n: re.search(r"_MTL\.(json|txt|xml)$", n, re.I) is not None)
    products = {re.sub(r"_MTL\.\w+$", "", PurePosixPath(m).name, flags=re.I) for m in found}
    if len(products) != 1:
        raise CubeError(
            "not a Landsat product",
            where=bundle.path,
            expected="the MTL of one product (*_MTL.json, .txt or .xml)",
            found=", ".join(sorted(products)) or "none",
        )
    kinds = {PurePosixPath(m).suffix.lower(): m for m in found}
    member = next(kinds[s] for s in (".json", ".txt", ".xml") if s in kinds)
    where = f"{bundle.path}: {member}"
    try:
        if member.lower().endswith(".json"):
            content = json.loads(bundle.read(member))["LANDSAT_METADATA_FILE"]
            groups = {g: {k: str(v) for k, v in rows.items()} for g, rows in content.items()}
        elif member.lower().endswith(".txt"):
            groups = _from_text(bundle.read(member).decode())
        else:
            groups = {g.tag: {e.tag: (e.text or "") for e in g} for g in bundle.xml(member)}
    except (ValueError, KeyError, AttributeError) as error:
        raise CubeError("unreadable MTL", where=where, found=str(error)[:120]) from error
    if "PRODUCT_CONTENTS" not in groups:
        raise CubeError(
            "MTL of another collection",
            where=where,
            expected="Collection 2: a group PRODUCT_CONTENTS",
            found=", ".join(groups)[:120],
        )
    return groups


def _from_text(text: str) -> Mtl:
    """GROUP = NAME ... KEY = VALUE ... END_GROUP; the outermost group is left out."""
    groups: Mtl = {}
    inside: list[str] = []
    for line in text.splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            continue
        if key == "GROUP":
            inside.append(value)
        elif key == "END_GROUP":
            inside.pop()
        elif inside:
            groups.setdefault(inside[-1], {})[key] = value.strip('"')
    return groups


def field(mtl: Mtl, group: str, key: str, where: object) -> str:
    """A value; CubeError where the document has it not."""
    try:
        return mtl[group][key]
    except KeyError:
        raise CubeError(
            "metadata without a field", where=where, expected=f"{group}/{key}", found="nothing"
        ) from None


def number(mtl: Mtl, group: str, key: str, where: object) -> float:
    """A value as a number."""
    text = field(mtl, group, key, where)
    try:
        return float(text)
    except ValueError:
        raise CubeError("not a number", where=where, expected=f"{group}/{key}", found=repr(text)
                        ) from None  # fmt: skip
