"""The shipped Galileo and Presto: arrays of the public checkpoints into parameters of ours.

    galileo(config) -> Galileo      rsvlm_jax/assets/galileo_nano/encoder.npz     106 arrays
    presto(config)  -> Presto       rsvlm_jax/assets/presto/default.npz           102 arrays

Tables are data (`GALILEO`, `PRESTO`); every array of a file is a parameter here, or one of the
fixed tables of months and steps, which we compute: they are compared, so that a checkpoint with
other ones is refused. Presto's decoder is left unread where its config has none. Not here: Hugging
Face formats; writing.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from rsvlm_jax.assets import GALILEO_NANO as GALILEO_FILE
from rsvlm_jax.assets import PRESTO as PRESTO_FILE
from rsvlm_jax.config import GALILEO_NANO, CheckpointError, GalileoConfig, PrestoConfig
from rsvlm_jax.config import PRESTO as DEFAULT_PRESTO
from rsvlm_jax.core import flat, map_with_path
from rsvlm_jax.models import galileo as galileo_model
from rsvlm_jax.models import presto as presto_model
from rsvlm_jax.models.galileo import Galileo
from rsvlm_jax.models.months import month_table
from rsvlm_jax.models.presto import Presto

from . import rows
from .rows import COPY, TRANSPOSE, Row, Table, patch_kernel

FIXED_TOLERANCE = 1e-5
"""Of the fixed tables: theirs were computed in float32."""


def _linear(theirs: str, ours: str) -> Table:
    return (
        Row(f"{theirs}.weight", f"{ours}/kernel", TRANSPOSE),
        Row(f"{theirs}.bias", f"{ours}/bias"),
    )


def _norm(theirs: str, ours: str) -> Table:
    return Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias")


def _block(theirs: str, ours: str, *, fused: bool) -> Table:
    """A stack of pre-norm blocks; `fused`: q, k and v are one map there."""
    attention = f"{ours}/attention"
    if fused:
        projections = tuple(
            Row(f"{theirs}.attn.qkv.{word}", f"{attention}/{name}/{leaf}", how, part=(i, 3))
            for i, name in enumerate("qkv")
            for word, leaf, how in (("weight", "kernel", TRANSPOSE), ("bias", "bias", COPY))
        )
    else:
        projections = tuple(
            row for n in "qkv" for row in _linear(f"{theirs}.attn.{n}", f"{attention}/{n}")
        )
    return (
        *projections,
        *_linear(f"{theirs}.attn.proj", f"{attention}/o"),
        *(r for n in ("fc1", "fc2") for r in _linear(f"{theirs}.mlp.{n}", f"{ours}/mlp/{n}")),
        *(r for n in ("norm1", "norm2") for r in _norm(f"{theirs}.{n}", f"{ours}/{n}")),
    )


_KINDS = {"space_time": "s_t", "space": "sp", "time": "t", "static": "st"}


def _patch(group: Any) -> Table:
    theirs, ours = f"{group.kind}_embed.{group.name}", f"maps/{group.kind}/{group.name}"
    if not group.spatial:
        return _linear(theirs, ours)
    how = patch_kernel(8, len(group.channels))
    return (
        Row(f"{theirs}.proj.weight", f"{ours}/kernel", how),
        Row(f"{theirs}.proj.bias", f"{ours}/bias"),
    )


GALILEO: Table = (
    *(row for group in galileo_model.GROUPS for row in _patch(group)),
    *(Row(f"{short}_channel_embed", f"channel/{kind}") for kind, short in _KINDS.items()),
    *_block("blocks.{}", "layers", fused=False),
    *_norm("norm", "norm"),
)
"""Every array of Galileo's encoder but the fixed tables."""

PRESTO: Table = (
    *(
        row
        for group in presto_model.GROUPS
        for row in (
            *_linear(f"encoder.eo_patch_embed.{group.name}", f"maps/{group.name}"),
            *_linear(f"decoder.eo_decoder_pred.{group.name}", f"decoder/maps/{group.name}"),
        )
    ),
    *_linear("encoder.latlon_embed", "latlon"),
    Row("encoder.dw_embed.weight", "dynamic_world/embedding"),
    # The decoder holds the same once more.
    Row("encoder.channel_embed.weight", "channel", copies=("decoder.channel_embeddings.weight",)),
    *_block("encoder.blocks.{}", "layers", fused=True),
    *_norm("encoder.norm", "norm"),
    *_linear("decoder.decoder_embed", "decoder/embed"),
    Row("decoder.mask_token", "decoder/mask_token"),
    *_block("decoder.decoder_blocks.{}", "decoder/layers", fused=True),
    *_norm("decoder.decoder_norm", "decoder/norm"),
    *_linear("decoder.dw_decoder_pred", "decoder/dynamic_world"),
)
"""Every array of Presto but the fixed tables."""


def galileo(config: GalileoConfig | None = None, path: Path = GALILEO_FILE) -> Galileo:
    """Galileo with the weights of a checkpoint.

    Raises:
      CheckpointError: no file, a damaged or foreign one, or a model of another shape.
    """
    c = GALILEO_NANO if config is None else config
    _same_heads(c, GALILEO_NANO, path, GALILEO_FILE)
    quarter = c.width // 4
    fixed = {
        "pos_embed": galileo_model.step_table(c.max_steps, quarter),
        "month_embed.weight": month_table(quarter),
    }
    return _loaded(lambda: Galileo(c, rngs=nnx.Rngs(0)), GALILEO, fixed, path)


def presto(config: PrestoConfig | None = None, path: Path = PRESTO_FILE) -> Presto:
    """Presto with the weights of a checkpoint.

    Raises:
      CheckpointError: no file, a damaged or foreign one, or a model of another shape.
    """
    c = DEFAULT_PRESTO if config is None else config
    _same_heads(c, DEFAULT_PRESTO, path, PRESTO_FILE)
    quarter = c.width // 4
    of_decoder = (c.decoder_width - quarter) // 2
    fixed = {
        "encoder.pos_embed": presto_model.step_table(c.max_steps, c.width - 2 * quarter)[None],
        "encoder.month_embed.weight": month_table(quarter),
        "decoder.pos_embed": presto_model.step_table(c.max_steps, of_decoder)[None],
        "decoder.month_embed.weight": month_table(of_decoder),
    }
    return _loaded(lambda: Presto(c, rngs=nnx.Rngs(0)), PRESTO, fixed, path)


def _same_heads(config: Any, shipped: Any, path: Path, of: Path) -> None:
    """Numbers that no shape tells, of a shipped file."""
    names = [f for f in ("heads", "norm_eps", "decoder_heads") if hasattr(shipped, f)]
    wrong = [f for f in names if getattr(config, f) != getattr(shipped, f)]
    if path == of and wrong:
        raise CheckpointError(
            "the encoder of the model and of the checkpoint differ",
            where=path,
            expected=", ".join(f"{f}={getattr(shipped, f)}" for f in wrong),
            found=", ".join(f"{f}={getattr(config, f)}" for f in wrong),
        )


def _loaded(make: Any, table: Table, fixed: dict[str, np.ndarray], path: Path) -> Any:
    arrays = _read(path)
    for name, ours in fixed.items():
        theirs = arrays.pop(name, None)
        same = theirs is not None and theirs.shape == ours.shape
        if not same or np.abs(theirs - ours).max() > FIXED_TOLERANCE:
            raise CheckpointError(
                "another table of months or steps",
                where=f"{path}: {name}",
                expected=f"{ours.shape}, as computed here",
                found="none" if theirs is None else theirs.shape,
            )
    graphdef, state = nnx.split(nnx.eval_shape(make))
    ours = flat(state)
    shapes = {name: tuple(x.shape) for name, x in ours.items()}
    found = rows.match(table, {n: x.shape for n, x in arrays.items()}, shapes, where=str(path))
    for copy, name in found.copies:
        if not np.array_equal(arrays[copy], arrays[name]):
            raise CheckpointError("two copies of an array differ", where=f"{path}: {copy}, {name}")
    wanted = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in ours.items()}
    read = dict(rows.read(found, arrays, wanted))
    return nnx.merge(graphdef, map_with_path(lambda name, _: read[name], state))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError("no such checkpoint", where=str(path))
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as e:
        raise CheckpointError(
            "a damaged checkpoint", where=str(path), expected="an npz file of arrays", found=e
        ) from e
