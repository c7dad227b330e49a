"""The families that are read and written, by Hugging Face class name."""

from __future__ import annotations

from rsvlm_jax.interop.family import Family

_ALL: tuple[Family, ...] = ()

FAMILIES: dict[str, Family] = {family.architecture: family for family in _ALL}
"""By `architectures[0]` of a config.json."""
