"""A family of checkpoints: its config, its table, its spellings.

Every file in `rsvlm_jax/interop/families/` defines one or more `Family` values, and
`families/__init__.py` lists them in `FAMILIES` by Hugging Face class name. Reading a directory is
then: config.json -> family -> our config -> table -> stream; writing is the same backwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from flax import nnx

from rsvlm_jax.config import CheckpointError

from .rows import Table

Json = dict[str, Any]


def _same(key: str) -> str:
    return key


@dataclasses.dataclass(frozen=True)
class Family:
    """One Hugging Face class and the model that it becomes.

    Attributes:
      architecture: its class ("LlamaForCausalLM"), as in config.json's `architectures`.
      model_type: as in config.json.
      read_config: config.json -> one of our configs (`rsvlm_jax.config`). Reads both spellings of
        transformers 4 and 5; refuses by name what the model would compute differently.
      write_config: our config -> config.json in the spelling of transformers 4.x, which 5.x reads.
      build: (our config, rngs) -> the model, e.g. `lambda c, rngs: Llama(c, rngs=rngs)`; run
        abstractly when a checkpoint is read.
      table: of a config, in 4.x names on disk.
      canonical: a name as any version writes it (on disk or in memory) -> the 4.x name on disk.
      ignore: patterns of names that hold nothing to read (buffers, the text tower of CLIP).
    """

    architecture: str
    model_type: str
    read_config: Callable[[Json], Any]
    write_config: Callable[[Any], Json]
    build: Callable[[Any, nnx.Rngs], nnx.Module]
    table: Callable[[Any], Table]
    canonical: Callable[[str], str] = _same
    ignore: tuple[str, ...] = ()


def need(config: Json, key: str, where: str) -> Any:
    """A key that has no default.

    Raises:
      CheckpointError: it is not there.
    """
    if key not in config:
        raise CheckpointError("a key is missing", where=where, expected=key)
    return config[key]


def only(config: Json, key: str, allowed: tuple[Any, ...], where: str) -> None:
    """Refuse a value that this project would compute differently; absent means the first.

    Raises:
      CheckpointError: another value.
    """
    value = config.get(key, allowed[0])
    if value not in allowed:
        raise CheckpointError(
            "not supported", where=f"{where}: {key}", expected=" or ".join(map(repr, allowed)),
            found=repr(value),
        )  # fmt: skip
