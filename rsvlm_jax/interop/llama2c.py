"""llama2.c checkpoints into parameters of `rsvlm_jax.models.llama.Llama`.

The arrays are those of llama2.c's legacy format, by name, in a safetensors file:

    tok_embeddings [V,D]   rms_att, rms_ffn [layers,D]   rms_final [D]
    wq [layers,D,D]  wk, wv [layers,Dkv,D]  wo [layers,D,D]  w1, w3 [layers,M,D]  w2 [layers,D,M]

Two differences of layout are undone here. Kernels are (out, in) there and (in, out) here. And the
rotary embedding turns adjacent features there, halves of a head here (`rsvlm_jax.nn.rope`), so the
outputs of q and k are permuted within each head, which leaves their products alone:

    there   a0 b0 a1 b1 a2 b2      here   a0 a1 a2 b0 b1 b2
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from rsvlm_jax.assets import STORIES260K_DIR
from rsvlm_jax.config import CheckpointError, LlamaConfig

WEIGHTS = STORIES260K_DIR / "model.safetensors"

TABLE: dict[str, tuple[str, str]] = {
    "tok_embeddings": ("embed/embedding", "rows"),
    "rms_att": ("layers/norm1/scale", "copy"),
    "wq": ("layers/attention/q/kernel", "rotary"),
    "wk": ("layers/attention/k/kernel", "rotary"),
    "wv": ("layers/attention/v/kernel", "transpose"),
    "wo": ("layers/attention/o/kernel", "transpose"),
    "rms_ffn": ("layers/norm2/scale", "copy"),
    "w1": ("layers/mlp/gate/kernel", "transpose"),
    "w2": ("layers/mlp/down/kernel", "transpose"),
    "w3": ("layers/mlp/up/kernel", "transpose"),
    "rms_final": ("norm/scale", "copy"),
}
"""Name there: path here, and what is done on the way."""


def load_llama2c(config: LlamaConfig, path: Path = WEIGHTS) -> dict[str, Any]:
    """Parameters of `Llama(config)` as a nested dict of float32 NumPy arrays.

    A `config.vocab_size` above the checkpoint's adds rows, each the mean of all rows: a token that
    was never seen starts where no known token is preferred to it or it to them.

    Raises:
      CheckpointError: no file, a truncated or foreign file, or a model of another shape.
    """
    if not config.tie_embeddings:
        raise CheckpointError(
            "the embeddings are tied in llama2.c's format",
            where="LlamaConfig.tie_embeddings",
            expected=True,
            found=False,
        )
    arrays = _read(path)
    wanted = _shapes(config)
    if sorted(arrays) != sorted(wanted):
        raise CheckpointError(
            "not a llama2.c checkpoint",
            where=str(path),
            expected=sorted(wanted),
            found=sorted(arrays),
        )
    params: dict[str, Any] = {}
    for name, (target, how) in TABLE.items():
        array, shape = arrays[name], wanted[name]
        fits = array.shape[1:] == shape[1:] and array.shape[0] <= shape[0]
        if not fits or (how != "rows" and array.shape != shape):
            raise CheckpointError(
                "a checkpoint of another shape",
                where=f"{path}: {name}",
                expected=f"{shape} by LlamaConfig",
                found=array.shape,
            )
        *parents, leaf = target.split("/")
        node = params
        for word in parents:
            node = node.setdefault(word, {})
        node[leaf] = _convert(array.astype(np.float32), how, shape, config.head_width)
    return params


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


def _shapes(c: LlamaConfig) -> dict[str, tuple[int, ...]]:
    n, d, m, d_kv = c.layers, c.width, c.mlp_dim, c.head_width * c.kv_heads
    return {
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
    }


def _convert(x: np.ndarray, how: str, shape: tuple[int, ...], head_dim: int) -> np.ndarray:
    if how == "rows":
        mean = x.mean(0, keepdims=True)
        return np.concatenate([x, np.repeat(mean, shape[0] - x.shape[0], axis=0)])
    if how == "rotary":
        x = halves_from_pairs(x, head_dim)
    return x if how == "copy" else np.ascontiguousarray(np.swapaxes(x, 1, 2))


def halves_from_pairs(x: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows [layers, heads * Dh, D] of q or k from adjacent rotary pairs to half-split order."""
    n, rows, d = x.shape
    x = x.reshape(n, rows // head_dim, head_dim // 2, 2, d)
    return np.swapaxes(x, 2, 3).reshape(n, rows, d)
