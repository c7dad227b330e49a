"""Hugging Face directories into models, and back.

    config.json --family--> our config --build, abstractly--> shapes, shardings
    safetensors --canonical names--> table.match --> read, tensor by tensor --> placed parameters

What is generic stands here; what a checkpoint looks like is data in `rsvlm_jax.interop.families`.
Code that comes with a checkpoint is never run, and nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rsvlm_jax.config import CheckpointError, ConfigError
from rsvlm_jax.core import flat, is_quantized, map_with_path
from rsvlm_jax.nn import plain_shapes, quantize

from . import rows
from .family import Family
from .files import Checkpoint, open_checkpoint, read_json, write_checkpoint
from .identify import family_of, known_family, read_config
from .quantized import Codes, read
from .tokens import check_tokenizer

__all__ = [
    "Codes",
    "Imported",
    "Report",
    "assemble",
    "config_text",
    "family_of",
    "load_pretrained",
    "read_config",
    "save_pretrained",
]

Tree = Any
"""A nested dict of arrays (or of shapes, or of shardings)."""

DTYPES = ("float32", "bfloat16")
"""In which parameters are stored."""

_COMPARE = 1 << 26
"""Bytes of two tensors that are compared at once."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of a checkpoint.

    Attributes:
      read: tensors there that were read.
      ignored: names there that carry nothing for this model.
      missing: our paths that the checkpoint lacks and that were initialised.
    """

    read: int
    ignored: tuple[str, ...]
    missing: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Imported:
    """A model that was read.

    Attributes:
      family: what it was read as; `save_pretrained(folder, family.architecture, config, params)`
        writes it back.
      config: ours.
      graphdef: of the model.
      params: nested dict of arrays, by the paths of `rsvlm_jax.core.flat`.
    """

    family: Family
    config: Any
    graphdef: nnx.GraphDef
    params: Tree
    report: Report

    @property
    def model(self) -> Any:
        return nnx.merge(self.graphdef, self.params)


def load_pretrained(
    folder: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    dtype: Any = None,
    place: Callable[[Tree], Tree] | None = None,
    may_lack: Iterable[str] = (),
    adjust: Callable[[Any], Any] | None = None,
    allow_pickle: bool = False,
    codes: Codes | None = None,
    seed: int = 0,
) -> Imported:
    """Read a directory with config.json and weights.

    Args:
      architecture: class to read it as; None: the one that config.json names.
      dtype: in which the parameters are stored, "float32" (None) or "bfloat16".
      place: tree of `jax.ShapeDtypeStruct` -> tree of shardings, e.g.
        `lambda params: resolve(params, RULES["fsdp_tensor"], mesh)`; None: the default device.
      may_lack: patterns (`re.match`) of our paths that may be missing; they are initialised.
      adjust: the config that was read -> the one that is built (other feature layers, no pooler).
        Tensors of parts that it switches off are ignored, and listed.
      allow_pickle: see `rsvlm_jax.interop.files.open_checkpoint`.
      codes: quantise while reading, layer by layer.
      seed: of what is initialised.

    Raises:
      CheckpointError: one line with the file, what was expected and what was found.
      ConfigError: weights that cannot be quantised so.
    """
    folder = Path(folder)
    if folder.is_file():
        raise CheckpointError(
            "a file where a directory was expected", where=folder,
            expected="a directory with config.json", found="a file",
        )  # fmt: skip
    if not folder.is_dir():
        raise CheckpointError("no such directory", where=folder, expected="config.json in it")
    raw = read_json(folder / "config.json")
    family = family_of(raw, architecture, where=folder / "config.json")
    config = read_config(family, raw, where=folder / "config.json")
    if adjust is not None:
        config = adjust(config)
    check_tokenizer(folder, config)
    checkpoint = open_checkpoint(folder, allow_pickle=allow_pickle)
    return assemble(
        family, config, checkpoint,
        dtype=dtype, place=place, may_lack=may_lack, codes=codes, seed=seed,
    )  # fmt: skip


def assemble(
    family: Family,
    config: Any,
    checkpoint: Checkpoint,
    *,
    dtype: Any = None,
    place: Callable[[Tree], Tree] | None = None,
    may_lack: Iterable[str] = (),
    codes: Codes | None = None,
    seed: int = 0,
) -> Imported:
    """The model of a config with the numbers of a checkpoint; arguments as in `load_pretrained`.

    Raises:
      CheckpointError: they do not fit: everything that is missing, unused or misshapen.
    """
    stored = _dtype(dtype)

    def build(seed: Any) -> nnx.Module:
        model = family.build(config, nnx.Rngs(jax.random.key(seed)))
        return model if codes is None else quantize(model, codes.kind, targets=codes.targets)

    try:
        graphdef, state = nnx.split(nnx.eval_shape(lambda: build(0)), nnx.Param)
    except (ValueError, TypeError, OverflowError, MemoryError) as e:
        raise CheckpointError(
            "no model can be built of this config", where=checkpoint.path,
            expected="sizes of a model", found=f"{type(e).__name__}: {e}",
        ) from e  # fmt: skip

    def shape(path: str, x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype if is_quantized(path) else stored)

    shapes = map_with_path(shape, nnx.to_pure_dict(state))
    theirs = _canonical(family, checkpoint)
    ours = flat(shapes)
    found = rows.match(
        family.table(config),
        {name: tuple(x.shape) for name, x in theirs.items()},
        {path: tuple(x.shape) for path, x in plain_shapes(ours).items()},
        where=str(checkpoint.path),
        ignore=family.ignore,
        may_lack=may_lack,
    )
    _check_floats(checkpoint, theirs, found.names)
    for copy, original in found.copies:
        _check_same(checkpoint, theirs, copy, original)
    if place is not None:
        shardings = flat(place(shapes))
        ours = {
            path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=shardings[path])
            for path, x in ours.items()
        }
    made = dict(read(found, theirs, ours))
    if found.missing:
        made |= _initialise(build, {p: ours[p] for p in ours.keys() - made.keys()}, seed)
    ignored = (*found.ignored, *(copy for copy, _ in found.copies))
    report = Report(len(found.names), ignored, found.missing)
    params = map_with_path(lambda path, _: made[path], shapes)
    return Imported(family, config, graphdef, params, report)


def save_pretrained(
    folder: str | os.PathLike[str],
    architecture: str,
    config: Any,
    params: Tree,
    *,
    dtype: Any = None,
    shard_bytes: int = 5 * 10**9,
) -> Path:
    """Write a directory that transformers 4.x and 5.x both read, one tensor in memory at a time.

    Args:
      architecture: class that it is written as.
      config: ours.
      params: nested dict of arrays, sharded or not.
      dtype: of the tensors, "float32" or "bfloat16"; None: as they are stored.
      shard_bytes: of one file at most.

    Raises:
      CheckpointError: an unknown class, a model that it cannot hold, quantised weights, or a folder
        that holds a checkpoint already.
    """
    folder = Path(folder)
    family = known_family(architecture)
    table = family.table(config)
    arrays = flat(params)
    coded = next(filter(is_quantized, arrays), None)
    if coded is not None:
        raise CheckpointError(
            "quantised weights cannot be written in this format", where=coded,
            remedy="write dequantize_params(params)",
        )  # fmt: skip
    if dtype is None:
        kinds = {np.dtype(x.dtype) for x in arrays.values()}
        dtype = np.dtype(jnp.float32) if len(kinds) > 1 else kinds.pop()
    stored = _dtype(dtype)
    shapes = rows.written_shapes(table, {path: tuple(x.shape) for path, x in arrays.items()})
    text = config_text(family, config, stored.name)
    write_checkpoint(folder, shapes, rows.write(table, arrays), stored, shard_bytes=shard_bytes)
    (folder / "config.json").write_text(text)
    return folder


def config_text(family: Family, config: Any, dtype: str) -> str:
    """A config.json."""
    raw = {
        **family.write_config(config),
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "torch_dtype": dtype,
    }
    return json.dumps(raw, indent=2, sort_keys=True) + "\n"


def _dtype(dtype: Any) -> np.dtype:
    stored = np.dtype(jnp.float32 if dtype is None else jnp.dtype(dtype))
    if stored.name not in DTYPES:
        raise ConfigError(
            "not a dtype of parameters", where="dtype", expected=" or ".join(DTYPES),
            found=stored.name,
        )  # fmt: skip
    return stored


def _canonical(family: Family, checkpoint: Checkpoint) -> dict[str, rows.Lazy]:
    theirs: dict[str, rows.Lazy] = {}
    for name, array in checkpoint.items():
        new = family.canonical(name)
        if new in theirs:
            raise CheckpointError(
                "two tensors of one name", where=checkpoint.path, expected=f"one {new}",
                found=f"{name} as well",
            )  # fmt: skip
        theirs[new] = array
    return theirs


def _check_floats(
    checkpoint: Checkpoint, theirs: Mapping[str, rows.Lazy], names: Iterable[str]
) -> None:
    strange = [
        f"{n} ({theirs[n].dtype})"
        for n in sorted(names)
        if not jnp.issubdtype(theirs[n].dtype, jnp.floating)
    ]
    if strange:
        raise CheckpointError(
            "weights that are no floating-point numbers", where=checkpoint.path,
            expected="float32, float16 or bfloat16", found=", ".join(strange[:10]),
        )  # fmt: skip


def _check_same(
    checkpoint: Checkpoint, theirs: Mapping[str, rows.Lazy], copy: str, original: str
) -> None:
    """Refuse a second copy of a tied array that says something else, bit by bit."""
    a, b = theirs[copy], theirs[original]
    same = a.shape == b.shape and a.dtype == b.dtype
    if same and a.shape:
        rest = int(np.prod(a.shape[1:], dtype=np.int64)) * a.dtype.itemsize
        step = max(1, _COMPARE // max(1, rest))
        for start in range(0, a.shape[0], step):
            part = (slice(start, start + step), *[slice(None)] * (len(a.shape) - 1))
            x, y = (np.ascontiguousarray(z[part]).reshape(-1).view(np.uint8) for z in (a, b))
            same = same and np.array_equal(x, y)
    if not same:
        raise CheckpointError(
            "tied in config.json, different in the weights", where=f"{checkpoint.path}: {copy}",
            expected=f"the same as {original}", found=f"{a.dtype} {a.shape} of other numbers",
            remedy="set tie_word_embeddings to false if the second one is meant",
        )  # fmt: skip


def _initialise(
    build: Callable[[Any], nnx.Module], wanted: Mapping[str, jax.ShapeDtypeStruct], seed: int
) -> dict[str, jax.Array]:
    """The wanted paths of a new model; the program makes nothing else."""

    def arrays(seed: Any) -> dict[str, jax.Array]:
        new = flat(nnx.to_pure_dict(nnx.state(build(seed), nnx.Param)))
        return {path: new[path].astype(x.dtype) for path, x in wanted.items()}

    out = {path: x.sharding for path, x in wanted.items()}
    return jax.jit(arrays, out_shardings=out)(jnp.int32(seed))
