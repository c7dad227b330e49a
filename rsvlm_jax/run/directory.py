"""A directory of Hugging Face, LLaVA or GeoChat: whether it is one, what it holds, where it ends.

read_directory(PATH)  -> Imported, Adapter | None    is_pretrained(PATH)        end_tokens(PATH)
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax

from rsvlm_jax.config import CheckpointError
from rsvlm_jax.interop.blip import is_blip
from rsvlm_jax.interop.files import read_json
from rsvlm_jax.interop.huggingface import Imported, load_pretrained
from rsvlm_jax.interop.llava_original import described_by, is_original, is_plain, load_llava
from rsvlm_jax.interop.peft import Adapter, read_adapter, with_adapter
from rsvlm_jax.mesh.rules import RULES, resolve

_ENDS = {"llama": 2, "mistral": 2, "gpt2": 50256}
"""The end token of a config.json that says nothing: the default of its class."""


def is_pretrained(path: Path) -> bool:
    """Whether a directory has a config.json of Hugging Face's kind (a run's has none of these)."""
    if not (path / "config.json").is_file():
        return False
    raw = read_json(path / "config.json")
    return not raw.keys().isdisjoint({"architectures", "model_type", "auto_map"})


def release_over(
    path: Path,
    adapter: str | os.PathLike[str] | None,
    projector: str | os.PathLike[str] | None,
) -> Path | None:
    """What makes a LLaVA of a plain language model, by a config.json of LLaVA in or beside it.

    Raises:
      CheckpointError: a projector for another base, without that config.json, or beside an adapter
        that has one.
    """
    plain = path.is_dir() and is_plain(read_json(path / "config.json"))
    made = None
    if adapter is not None and plain and described_by(Path(adapter)).is_file():
        made = Path(adapter) if is_original(read_json(described_by(Path(adapter)))) else None
    if projector is None:
        return made
    projector = Path(projector)
    if made is not None or not plain or not projector.is_file():
        raise CheckpointError(
            "the checkpoint takes no projector from elsewhere", where=path,
            expected="a plain language model, no adapter with LLaVA's config.json, and a file",
            found=f"projector={projector}",
        )  # fmt: skip
    if not is_original(read_json(described_by(projector))):
        raise CheckpointError(
            "another config.json than LLaVA's", where=described_by(projector),
            expected="mm_vision_tower", found="none",
        )  # fmt: skip
    return projector


def read_directory(
    path: Path,
    *,
    vision: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    projector: str | os.PathLike[str] | None = None,
    merge: bool = True,
    allow_pickle: bool = False,
    **options: Any,
) -> tuple[Imported, Adapter | None]:
    """Read a directory of any family; `options` as `load_pretrained`.

    Args:
      adapter: directory of a PEFT adapter; one that LLaVA's own code wrote makes a LLaVA of a plain
        language model.
      projector: file of one that was trained over a plain language model, beside LLaVA's
        config.json.
      merge: the adapter into the kernels.

    Returns:
      The model, and the adapter that was not merged.

    Raises:
      CheckpointError: as the readers; a tower given where there is no place for it.
    """
    options["allow_pickle"] = allow_pickle
    if path.is_dir() and is_blip(read_json(path / "config.json")):
        raise CheckpointError(
            "a BLIP is no model of ours: its Q-Former reads the question too", where=path,
            remedy="its towers are read as Experiment.init_from",
        )  # fmt: skip
    release = release_over(path, adapter, projector)
    if release is not None:
        found = load_llava(path, vision=vision, release=release, **options)
    elif path.is_dir() and is_original(read_json(path / "config.json")):
        found = load_llava(path, vision=vision, **options)
    elif vision is None:
        found = load_pretrained(path, **options)
    else:
        raise CheckpointError(
            "the checkpoint takes no tower from elsewhere", where=path,
            expected="a LLaVA in its original layout, or an adapter with the config.json of one",
            found=f"vision={vision}",
        )  # fmt: skip
    if adapter is None:
        return found, None
    read = read_adapter(adapter, found, allow_pickle=allow_pickle)
    return with_adapter(found, read, merge=merge), None if merge else read


def place_parts(params: Any, *, plan: str, mesh: jax.sharding.Mesh) -> Any:
    """Of a whole model, or of one tower by the rules of its place in a whole model."""
    if "decoder" in params:
        return resolve(params, RULES[plan], mesh)
    tower = "decoder" if "embed" in params else "vision"
    return resolve({tower: params}, RULES[plan], mesh)[tower]


def end_tokens(path: Path) -> tuple[int, ...]:
    """The end tokens by generation_config.json, config.json, or the class.

    Raises:
      CheckpointError: something else than ids.
    """
    raw = read_json(path / "config.json")
    text = raw.get("text_config") or raw
    places = [raw, text]
    if (path / "generation_config.json").is_file():
        places.insert(0, read_json(path / "generation_config.json"))
    for place in places:
        found = place.get("eos_token_id")
        if found is not None:
            ids = tuple(found) if isinstance(found, list) else (found,)
            if not all(type(i) is int for i in ids):
                raise CheckpointError(
                    "not the ids of tokens", where=f"{path}: eos_token_id",
                    expected="a whole number, or several", found=repr(found),
                )  # fmt: skip
            return ids
    default = _ENDS.get(str(text.get("model_type", "llama" if "text_config" in raw else None)))
    said = any("eos_token_id" in place for place in places)
    return () if said or default is None else (default,)
