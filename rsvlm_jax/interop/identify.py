"""config.json -> the family that reads it, and our config.

Read as JSON, never as code: a config that wants its own classes to be run is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsvlm_jax.config import CheckpointError, ConfigError

from .families import FAMILIES
from .family import Family, Json


def family_of(config: Json, architecture: str | None, *, where: Path) -> Family:
    """The family of a config.json.

    Args:
      architecture: class to read it as; None: the one that it names.

    Raises:
      CheckpointError: an unknown class, code of its own (`auto_map`), or quantised weights.
    """
    for part, value in [("", config), *config.items()]:
        if not isinstance(value, Mapping):
            continue
        at = f"{where}: {part}" if part else where
        if "auto_map" in value:
            raise CheckpointError(
                "the model comes with code of its own, which is never run", where=at,
                expected="a class of transformers", found="auto_map",
                remedy="remove auto_map if the class is a standard one",
            )  # fmt: skip
        if value.get("quantization_config"):
            how = value["quantization_config"]
            how = how.get("quant_method", "unnamed") if isinstance(how, Mapping) else how
            raise CheckpointError(
                "quantised weights are not read", where=at, expected="no quantization_config",
                found=f"quant_method {how}", remedy="take the unquantised checkpoint",
            )  # fmt: skip
    if architecture is not None:
        return known_family(architecture)
    named = config.get("architectures")
    named = str(named[0]) if isinstance(named, list) and named else None
    types: dict[str, Family] = {}
    for family in FAMILIES.values():
        types.setdefault(family.model_type, family)
    kind = config.get("model_type")
    if str(kind) not in types and (named is None or kind is not None):
        raise _unknown(str(kind), list(types), f"{where}: model_type")
    if named is not None:
        return known_family(named, f"{where}: architectures")
    return types[str(kind)]


def known_family(name: str, where: str = "architecture") -> Family:
    """The family of a class name.

    Raises:
      CheckpointError: an unknown one; names the nearest.
    """
    if name not in FAMILIES:
        raise _unknown(name, list(FAMILIES), where)
    return FAMILIES[name]


def _unknown(name: str, known: list[str], where: str) -> CheckpointError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return CheckpointError(
        "an unknown model", where=where, expected=f"one of {', '.join(known)}", found=repr(name),
        remedy=f"did you mean {near[0]!r}?" if near else None,
    )  # fmt: skip


def read_config(family: Family, config: Json, *, where: Path) -> Any:
    """Our config.

    Raises:
      CheckpointError: a key that is missing, of another type, or not supported.
    """
    try:
        return family.read_config(config)
    except ConfigError as e:
        inner = f"{where}: {e.where}"
        raise CheckpointError(
            e.what, where=inner, expected=e.expected, found=e.found, remedy=e.remedy
        ) from e
    except CheckpointError as e:
        if str(where) in str(e):
            raise
        inner = where if e.where is None else f"{where}: {e.where}"
        raise CheckpointError(
            e.what, where=inner, expected=e.expected, found=e.found, remedy=e.remedy
        ) from e
    except (TypeError, ValueError, AttributeError, KeyError, ArithmeticError) as e:
        raise CheckpointError(
            "a value of another type", where=where, expected=f"the config of {family.architecture}",
            found=f"{type(e).__name__}: {e}",
        ) from e  # fmt: skip
