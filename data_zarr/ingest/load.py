"""Recipes from files: TOML, or Python that defines `recipe() -> Recipe`.

TOML names the fields of the dataclasses, with the singular for tables that repeat, and the kind of
a source by its key in `data_zarr.ingest.sources.KINDS`:

    title = "..."
    [grid]
    resolution = 10
    [[bandset]]
    name = "s2_l2a"
    [[bandset.source]]
    kind = "sentinel2"
    path = "*.SAFE"

A key that no field bears is refused with the nearest one that does.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.util
import tomllib
import traceback
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from data_zarr.errors import CubeError
from data_zarr.format import near_miss
from data_zarr.ingest.points import PointBandSet, PointRecipe, PointTarget
from data_zarr.ingest.recipe import BandSetRecipe, GridSpec, Recipe, TargetRecipe
from data_zarr.ingest.table import Table

T = TypeVar("T")
_PLURAL = {"bandset": "bandsets", "target": "targets", "source": "sources"}


def load_recipe(path: str | Path, root: str | Path | None = None) -> Recipe | PointRecipe:
    """A recipe from a .toml or .py file; relative paths in it start at `root`, or at its folder.

    Raises:
      CubeError: no such file, unreadable, an unknown key, a value of another type, or a Python
        file that fails or defines no recipe.
    """
    file = Path(path)
    if not file.is_file():
        raise CubeError("no such recipe", where=file, expected="a .toml or .py file")
    if file.suffix == ".toml":
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CubeError("unreadable TOML", where=file, found=str(error)) from error
        recipe = from_toml(text, file)
    elif file.suffix == ".py":
        recipe = _from_python(file)
    else:
        raise CubeError("not a recipe", where=file, expected="a .toml or .py file")
    return recipe.at(file.absolute().parent if root is None else Path(root).absolute())


def from_toml(text: str, where: object = "recipe") -> Recipe | PointRecipe:
    """A recipe from TOML text."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CubeError("unreadable TOML", where=where, found=str(error)) from error
    return _recipe(content, where)


def _recipe(content: dict[str, Any], where: object) -> Recipe | PointRecipe:
    from data_zarr.ingest.sources import KINDS, source_class

    content = _plural(content)
    if "table" in content:
        return _point_recipe(content, where)
    bandsets = []
    for i, table in enumerate(content.pop("bandsets", [])):
        place = f"{where}: bandset {table.get('name', i)}"
        table, sources = _plural(table), []
        for entry in table.pop("sources", []):
            kind = entry.pop("kind", None)
            if kind not in KINDS:
                raise CubeError(
                    "no such kind of source",
                    where=place,
                    expected="one of " + ", ".join(KINDS),
                    found=repr(kind),
                    remedy=near_miss(str(kind), KINDS),
                )
            sources.append(_fill(source_class(kind), entry, f"{place}, source {kind}"))
        _fields(BandSetRecipe, table, place)
        bandsets.append(_fill(BandSetRecipe, {**table, "sources": sources}, place))
    targets = [
        _fill(TargetRecipe, t, f"{where}: target {t.get('name', i)}")
        for i, t in enumerate(content.pop("targets", []))
    ]
    grid = _fill(GridSpec, content.pop("grid", {}), f"{where}: grid")
    _fields(Recipe, content, where)
    return _fill(Recipe, {**content, "bandsets": bandsets, "targets": targets, "grid": grid}, where)


def _point_recipe(content: dict[str, Any], where: object) -> PointRecipe:
    """The recipe of a point cube: the same, with one [table] and columns in place of sources."""
    rows = {
        "table": _fill(Table, content.pop("table"), f"{where}: table"),
        "bandsets": [
            _fill(PointBandSet, b, f"{where}: bandset {b.get('name', i)}")
            for i, b in enumerate(content.pop("bandsets", []))
        ],
        "targets": [
            _fill(PointTarget, t, f"{where}: target {t.get('name', i)}")
            for i, t in enumerate(content.pop("targets", []))
        ],
    }
    return _fill(PointRecipe, {**content, **rows}, where)


def _plural(table: dict[str, Any]) -> dict[str, Any]:
    return {_PLURAL.get(k, k): v for k, v in table.items()}


def _fields(cls: type, table: dict[str, Any], where: object) -> None:
    known = [f.name for f in dataclasses.fields(cls)]
    for key in table:
        if key not in known:
            raise CubeError(
                f"unknown key {key!r}",
                where=where,
                expected="one of " + ", ".join(known),
                remedy=near_miss(key, known),
            )


def _fill(cls: type[T], table: dict[str, Any], where: object) -> T:
    """A dataclass from a table: every key known, every value of its field's type."""
    _fields(cls, table, where)
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        missing = field.default is dataclasses.MISSING
        if missing and field.default_factory is dataclasses.MISSING and field.name not in table:
            raise CubeError(f"no {field.name!r}", where=where, expected="a value", found="none")
    return cls(**{k: _value(v, hints[k], f"{where}, key {k!r}") for k, v in table.items()})


def _value(value: Any, hint: Any, where: str) -> Any:
    """A TOML value as the type of its field; CubeError where it is of another."""
    if isinstance(value, datetime.datetime | datetime.date):
        value = value.isoformat()
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        options = [a for a in args if a is not type(None)]
        if len(options) == 1:
            return _value(value, options[0], where)
        for option in options:
            try:
                return _value(value, option, where)
            except CubeError:
                continue
    elif origin is typing.Literal:
        if value in args:
            return value
        remedy = near_miss(str(value), [str(a) for a in args])
        expected = "one of " + ", ".join(map(repr, args))
        raise CubeError("no such choice", where=where, expected=expected, found=repr(value),
                        remedy=remedy)  # fmt: skip
    elif origin is tuple and isinstance(value, list | tuple):
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_value(v, args[0], where) for v in value)
        if len(args) == len(value):
            return tuple(_value(v, a, where) for v, a in zip(value, args, strict=True))
    elif origin is dict and isinstance(value, dict):
        return {k: _value(v, args[1], where) for k, v in value.items()}
    elif hint is Any or getattr(hint, "_is_protocol", False):
        return value
    elif isinstance(value, bool) and hint is not bool:
        pass
    elif hint is float and isinstance(value, int):
        return float(value)
    elif isinstance(hint, type) and isinstance(value, hint):
        return value
    raise CubeError(
        "value of another type",
        where=where,
        expected=getattr(hint, "__name__", None) or str(hint).replace("typing.", ""),
        found=repr(value)[:80],
    )


def _from_python(file: Path) -> Recipe | PointRecipe:
    spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise CubeError("not a Python file", where=file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        make = getattr(module, "recipe", None)
        recipe = make() if callable(make) else None
    except CubeError:
        raise
    except Exception as error:
        frames = [f.lineno for f in traceback.extract_tb(error.__traceback__)
                  if f.filename == spec.origin]  # fmt: skip
        if isinstance(error, SyntaxError):
            frames.append(error.lineno)
        line = f", line {frames[-1]}" if frames else ""
        raise CubeError(
            f"the recipe fails ({type(error).__name__}: {error})", where=f"{file}{line}"
        ) from error
    if not isinstance(recipe, Recipe | PointRecipe):
        raise CubeError(
            "the file defines no recipe", where=file, expected="recipe() -> Recipe", found=recipe
        )
    return recipe
