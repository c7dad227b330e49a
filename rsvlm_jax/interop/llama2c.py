"""llama2.c checkpoints into parameters of `rsvlm_jax.models.llama.Llama`.

The arrays of llama2.c's legacy format, by name in a safetensors file or one after the other in a
`.bin` file behind a header of seven int32 (`_HEADER`):

    tok_embeddings [V,D]   rms_att, rms_ffn [layers,D]   rms_final [D]   wcls [V,D], if untied
    wq [layers,D,D]  wk, wv [layers,Dkv,D]  wo [layers,D,D]  w1, w3 [layers,M,D]  w2 [layers,D,M]

Two differences of layout are undone here. Kernels are (out, in) there and (in, out) here. And the
rotary embedding turns adjacent features there, halves of a head here (`rsvlm_jax.nn.rope`), so the
outputs of q and k are permuted within each head, which leaves their products alone:

    there   a0 b0 a1 b1 a2 b2      here   a0 a1 a2 b0 b1 b2

What is read is a Llama like any other: `save_pretrained` writes it as `LlamaForCausalLM`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open

from rsvlm_jax.assets import STORIES260K_DIR
from rsvlm_jax.config import CheckpointError, ConfigError, LlamaConfig
from rsvlm_jax.core import flat
from rsvlm_jax.models.llama import Llama

from . import rows
from .rows import Row, Table
from .transforms import Shape, Transform

WEIGHTS = STORIES260K_DIR / "model.safetensors"

_HEADER = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
"""Of a `.bin` file; a negative vocabulary says that the classifier is not tied."""

_MAGIC = b"24ka"
"""Which the later formats of llama2.c, quantised ones too, begin with."""


def load_llama2c(config: LlamaConfig, path: Path = WEIGHTS) -> dict[str, Any]:
    """Parameters of `Llama(config)` as a nested dict of float32 NumPy arrays.

    A `config.vocab_size` above the checkpoint's adds rows, each the mean of all rows: a token that
    was never seen starts where no known token is preferred to it or it to them.

    Args:
      path: a safetensors file, or a legacy `.bin` file, whose own config is `config_of_bin(path)`.

    Raises:
      CheckpointError: no file, a truncated or foreign file, or a model of another shape.
    """
    arrays = _read_bin(path, config) if path.suffix == ".bin" else _read(path)
    for name in ("tok_embeddings", "wcls"):
        if name in arrays:
            arrays[name] = _with_mean_rows(arrays[name], config.vocab_size)
    model = nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
    shapes = {k: tuple(x.shape) for k, x in flat(nnx.state(model)).items()}
    theirs = {name: x.shape for name, x in arrays.items()}
    found = rows.match(_table(config), theirs, shapes, where=str(path))
    params: dict[str, Any] = {}
    for ours, (row, (name,)) in found.sources.items():
        *parents, leaf = ours.split("/")
        node = params
        for word in parents:
            node = node.setdefault(word, {})
        node[leaf] = np.ascontiguousarray(row.how.read(arrays[name].astype(np.float32)))
    return params


def config_of_bin(path: Path) -> LlamaConfig:
    """The config in the header of a legacy `.bin` file.

    Raises:
      CheckpointError: no file, another format, impossible numbers, or a file of another size.
    """
    if not path.is_file():
        raise CheckpointError("no such checkpoint", where=str(path))
    with path.open("rb") as file:
        head = file.read(4 * len(_HEADER))
    if head[:4] == _MAGIC:
        raise CheckpointError(
            "a later format of llama2.c", where=path, expected="the legacy format (version 0)",
            found=f"version {int.from_bytes(head[4:8], 'little')}",
        )  # fmt: skip
    if len(head) < 4 * len(_HEADER):
        raise CheckpointError("not a llama2.c checkpoint", where=path, found=f"{len(head)} bytes")
    numbers = dict(zip(_HEADER, map(int, np.frombuffer(head, "<i4")), strict=True))
    try:
        config = LlamaConfig(
            vocab_size=abs(numbers["vocab_size"]),
            width=numbers["dim"],
            layers=numbers["n_layers"],
            heads=numbers["n_heads"],
            kv_heads=numbers["n_kv_heads"],
            mlp_dim=numbers["hidden_dim"],
            max_length=numbers["seq_len"],
            tie_embeddings=numbers["vocab_size"] > 0,
        )
    except ConfigError as e:
        raise CheckpointError("not a llama2.c checkpoint", where=path, found=e) from e
    size = len(head) + 4 * sum(math.prod(shape) for shape in _layout(config).values())
    if path.stat().st_size != size:
        raise CheckpointError(
            "a damaged checkpoint", where=path, expected=f"{size} bytes by its header {numbers}",
            found=path.stat().st_size,
        )  # fmt: skip
    return config


def _layout(c: LlamaConfig) -> dict[str, Shape]:
    """What follows the header, in order; the tables of angles (`freq_*`) are not read."""
    n, d, m, d_kv = c.layers, c.width, c.mlp_dim, c.head_width * c.kv_heads
    shapes: dict[str, Shape] = {
        "tok_embeddings": (c.vocab_size, d),
        "rms_att": (n, d),
        "wq": (n, d, d),
        "wk": (n, d_kv, d),
        "wv": (n, d_kv, d),
        "wo": (n, d, d),
        "rms_ffn": (n, d),
        "w1": (n, m, d),
        "w2": (n, d, m),
        "w3": (n, m, d),
        "rms_final": (d,),
        "freq_real": (c.max_length, c.head_width // 2),
        "freq_imag": (c.max_length, c.head_width // 2),
    }
    return shapes if c.tie_embeddings else {**shapes, "wcls": (c.vocab_size, d)}


def _read_bin(path: Path, config: LlamaConfig) -> dict[str, np.ndarray]:
    own = config_of_bin(path)
    if (own.heads, own.kv_heads) != (config.heads, config.kv_heads):
        raise CheckpointError(  # of equal shapes, so that nothing else would tell
            "a checkpoint of other heads", where=path,
            expected=f"{config.heads} heads, {config.kv_heads} of keys, by LlamaConfig",
            found=f"{own.heads}, {own.kv_heads}",
        )  # fmt: skip
    whole = np.memmap(path, "<f4", "r", offset=4 * len(_HEADER))
    arrays, at = {}, 0
    for name, shape in _layout(own).items():
        size = math.prod(shape)
        if not name.startswith("freq_"):
            arrays[name] = whole[at : at + size].reshape(shape)
        at += size
    return arrays


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise CheckpointError("no such checkpoint", where=str(path))
    try:
        with safe_open(path, "np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as e:
        raise CheckpointError(
            "a damaged checkpoint", where=str(path), expected="a safetensors file", found=e
        ) from e


def _with_mean_rows(x: np.ndarray, count: int) -> np.ndarray:
    more = max(count - x.shape[0], 0)
    return np.concatenate([x, np.repeat(x.mean(0, keepdims=True), more, axis=0)]) if more else x


def _table(config: LlamaConfig) -> Table:
    """The layers are stacked there already, so no row has a layer number."""
    swap, rotary = _swapped(None), _swapped(config.head_width)
    return (
        Row("tok_embeddings", "embed/embedding"),
        Row("rms_att", "layers/norm1/scale"),
        Row("wq", "layers/attention/q/kernel", rotary),
        Row("wk", "layers/attention/k/kernel", rotary),
        Row("wv", "layers/attention/v/kernel", swap),
        Row("wo", "layers/attention/o/kernel", swap),
        Row("rms_ffn", "layers/norm2/scale"),
        Row("w1", "layers/mlp/gate/kernel", swap),
        Row("w2", "layers/mlp/down/kernel", swap),
        Row("w3", "layers/mlp/up/kernel", swap),
        Row("rms_final", "norm/scale"),
        Row("wcls", "lm_head/kernel", rows.TRANSPOSE, optional=True),
    )


def _swapped(head_dim: int | None) -> Transform:
    """Stacked kernels (out, in) to (in, out), their outputs permuted if they are turned."""

    def shape(s: Shape) -> Shape:
        return (s[0], s[2], s[1])

    def read(x: np.ndarray) -> np.ndarray:
        return np.swapaxes(x if head_dim is None else halves_from_pairs(x, head_dim), 1, 2)

    def write(x: np.ndarray) -> np.ndarray:
        x = np.swapaxes(x, 1, 2)
        return x if head_dim is None else _pairs_from_halves(x, head_dim)

    return Transform("swap" if head_dim is None else "rotary", shape, read, write)


def halves_from_pairs(x: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows [layers, heads * Dh, D] of q or k from adjacent rotary pairs to half-split order."""
    n, width, d = x.shape
    x = x.reshape(n, width // head_dim, head_dim // 2, 2, d)
    return np.swapaxes(x, 2, 3).reshape(n, width, d)


def _pairs_from_halves(x: np.ndarray, head_dim: int) -> np.ndarray:
    n, width, d = x.shape
    x = x.reshape(n, width // head_dim, 2, head_dim // 2, d)
    return np.swapaxes(x, 2, 3).reshape(n, width, d)
