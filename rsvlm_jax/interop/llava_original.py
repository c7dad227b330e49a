"""Checkpoints of LLaVA's own code: the tower may lie elsewhere, the projector may stand alone.

    folder    config.json with mm_... keys, weights of the language model and the projector
      + vision=folder of the tower, where the weights do not hold it  -->  one model
    folder    of a plain language model (Vicuna, Mistral)
      + release=folder with config.json and what was trained over it
      + vision=folder of the tower                                    -->  one model
    mm_projector.safetensors (or .bin)                                -->  a connector

The layout itself is data, in `rsvlm_jax.interop.families.llava_original`.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from rsvlm_jax.config import CheckpointError, ConnectorConfig
from rsvlm_jax.core import flat
from rsvlm_jax.models.connector import Connector

from . import rows
from .families.llama import MISTRAL
from .families.llava import TEXT
from .families.llava_original import (
    LLAVA_LLAMA,
    LLAVA_MISTRAL,
    ORIGINAL,
    PROJECTOR,
    TOWER,
    canonical,
    projector_table,
)
from .family import Family, Json
from .files import Checkpoint, open_checkpoint, read_json
from .huggingface import Imported, assemble, family_of, read_config
from .peft import adapter_tensors
from .peft.names import bare
from .rows import Lazy
from .tokens import check_tokenizer


def is_original(config: Json) -> bool:
    """Whether a config.json is of this layout; `model_type` does not say ("llava" is both)."""
    return _named(config) in {f.architecture for f in ORIGINAL} or "mm_vision_tower" in config


def _named(config: Json) -> str | None:
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else None


def load_llava(
    folder: str | os.PathLike[str],
    *,
    vision: str | os.PathLike[str] | None = None,
    release: str | os.PathLike[str] | None = None,
    allow_pickle: bool = False,
    adjust: Any = None,
    **options: Any,
) -> Imported:
    """Read a directory of LLaVA, GeoChat or RS-LLaVA.

    Args:
      vision: directory of the tower (a CLIP of Hugging Face), where the weights lack it, or where
        config.json names one that is not known. A tower among the weights goes before.
      release: where `folder` is a plain language model, what makes a LLaVA of it: the directory of
        an adapter with LLaVA's config.json, or a projector's file with that config.json beside it.
        Read here is all but the LoRA, in place of what `folder` has of the same name; the LoRA is
        a matter of `rsvlm_jax.interop.peft`.
      adjust, options: as `load_pretrained`.

    Raises:
      CheckpointError: as `load_pretrained`; no tower.
    """
    folder = Path(folder)
    where = folder / "config.json" if release is None else described_by(Path(release))
    raw = read_json(where)
    family = family_of(raw, _architecture(raw), where=where)
    if release is not None and family is LLAVA_LLAMA and _is_mistral(folder):
        # LLaVA's own code takes a Mistral for a Llama: its weights have the same names.
        family, raw = LLAVA_MISTRAL, {"sliding_window": None, **raw}
    checkpoint = open_checkpoint(folder, allow_pickle=allow_pickle)
    if release is not None:
        trained = _trained(Path(release), allow_pickle)
        checkpoint = Checkpoint(checkpoint.path, {**checkpoint, **trained})
        if not options.get("may_lack") and not any(n.startswith(PROJECTOR) for n in checkpoint):
            raise CheckpointError(
                "no projector was trained with it", where=release, expected=f"{PROJECTOR}.*",
                found=", ".join([*trained][:5]) or "LoRA alone",
            )  # fmt: skip
    holds = any(canonical(name).startswith(TOWER) for name in checkpoint)
    if vision is None and not holds:
        raise CheckpointError(
            "the checkpoint holds no vision tower", where=folder, expected=f"{TOWER}*",
            found=f"mm_vision_tower {raw.get('mm_vision_tower')!r}",
            remedy="give the directory of that tower as vision=",
        )  # fmt: skip
    if vision is not None:
        described, tower = _tower(Path(vision), allow_pickle)
        raw = {**raw, "mm_vision_config": described}
        if not holds:
            checkpoint = Checkpoint(checkpoint.path, {**checkpoint, **tower})
    config = read_config(family, raw, where=where)
    config = config if adjust is None else adjust(config)
    check_tokenizer(folder, config)
    return assemble(family, config, checkpoint, **options)


def _architecture(raw: Json) -> str | None:
    """The class of a config.json that names none, or an older one."""
    named = _named(raw)
    if named in {f.architecture for f in ORIGINAL}:
        return named
    kinds = {f.model_type: f.architecture for f in ORIGINAL}
    kinds["llava"] = kinds["llava_llama"]
    return kinds.get(str(raw.get("model_type")))


def is_plain(config: Json) -> bool:
    """Whether a config.json is of a language model over which a LLaVA can have been trained."""
    named = {family.architecture for family in TEXT.values()}
    kind = config.get("model_type")
    return _named(config) in named or ("architectures" not in config and kind in TEXT)


def described_by(release: Path) -> Path:
    """The config.json of a release."""
    return (release.parent if release.is_file() else release) / "config.json"


def _is_mistral(folder: Path) -> bool:
    where = folder / "config.json"
    return family_of(read_json(where), None, where=where) is MISTRAL


def _trained(release: Path, allow_pickle: bool) -> dict[str, Lazy]:
    """Whole tensors of a release, by the names used here."""
    if release.is_dir():
        tensors = adapter_tensors(release, allow_pickle=allow_pickle)
    else:
        tensors = list(open_checkpoint(release, allow_pickle=allow_pickle).items())
    named = ((bare(name), x) for name, x in tensors)
    return {canonical(name): x for name, x in named if ".lora_" not in name}


def _tower(vision: Path, allow_pickle: bool) -> tuple[Json, dict[str, Lazy]]:
    """The `vision_config` of a tower's directory, and its tensors under the names used here."""
    described = read_json(vision / "config.json")
    family = family_of(described, None, where=vision / "config.json")
    towers = ("CLIPVisionModel", "CLIPVisionModelWithProjection", "CLIPModel")
    if family.architecture not in towers:
        raise CheckpointError(
            "another tower than LLaVA's", where=vision, expected=" or ".join(towers),
            found=family.architecture,
        )  # fmt: skip
    names: dict[str, Lazy] = {}
    for name, array in open_checkpoint(vision, allow_pickle=allow_pickle).items():
        inner = family.canonical(name)
        if inner.startswith("vision_model."):
            names[TOWER + inner] = array
    return described.get("vision_config") or described, names


@dataclasses.dataclass(frozen=True)
class ProjectorConfig:
    """A connector and the widths between which it stands."""

    connector: ConnectorConfig
    d_in: int
    d_out: int


def load_projector(
    file: str | os.PathLike[str], *, allow_pickle: bool = False, **options: Any
) -> Imported:
    """Read a stand-alone mm_projector; its numbers of layers and widths follow from its tensors.

    Raises:
      CheckpointError: no projector of linear layers.
    """
    checkpoint = open_checkpoint(file, allow_pickle=allow_pickle)
    shapes = {canonical(n): tuple(x.shape) for n, x in checkpoint.items()}
    layers = len([n for n in shapes if n.endswith(".weight")])
    alone = f"{PROJECTOR}.weight" in shapes
    connector = ConnectorConfig("linear" if alone else f"mlp{max(layers, 1)}x_gelu")
    first = shapes.get(f"{PROJECTOR}.weight" if alone else f"{PROJECTOR}.0.weight")
    if first is None or len(first) != 2:
        raise CheckpointError(
            "not a projector", where=checkpoint.path, expected=f"{PROJECTOR}.0.weight",
            found=", ".join(sorted(shapes)[:5]) or "no tensor",
        )  # fmt: skip
    config = ProjectorConfig(connector, first[1], first[0])
    return assemble(_PROJECTOR, config, checkpoint, **options)


def is_projector(checkpoint: Checkpoint) -> bool:
    """Whether all of its tensors are those of a stand-alone mm_projector."""
    return bool(checkpoint) and all(canonical(name).startswith(PROJECTOR) for name in checkpoint)


def save_projector(
    file: str | os.PathLike[str], config: ProjectorConfig, params: Any, *, dtype: str
) -> Path:
    """Write a stand-alone mm_projector as safetensors.

    Args:
      dtype: of the tensors, "float32" or "bfloat16".
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    stored = np.dtype(jnp.dtype(dtype))
    arrays = {n: x.astype(stored) for n, x in rows.write(_table(config), flat(params))}
    partial = file.with_name(f"{file.name}.partial")
    try:
        save_file(arrays, partial, metadata={"format": "pt"})
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return file


def _refuse(config: Any) -> Json:
    raise CheckpointError("a projector is written as part of a LLaVA", found=config)


def _build(config: ProjectorConfig, rngs: nnx.Rngs) -> nnx.Module:
    return Connector(config.connector, config.d_in, config.d_out, rngs=rngs)


def _table(config: ProjectorConfig) -> Any:
    rows = projector_table(config.connector)
    return tuple(dataclasses.replace(r, ours=r.ours.removeprefix("connector/")) for r in rows)


_PROJECTOR = Family(
    architecture="mm_projector",
    model_type="mm_projector",
    read_config=_refuse,
    write_config=_refuse,
    build=_build,
    table=_table,
    canonical=canonical,
)
