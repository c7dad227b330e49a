"""A small family of its own for the tests of what all families share."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from rsvlm_jax.config.check import positive
from rsvlm_jax.interop.family import Family, Json, need
from rsvlm_jax.interop.rows import TRANSPOSE, Row, Table, patch_kernel
from rsvlm_jax.nn import Embed, LayerNorm, Linear, PatchEmbed, stack

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    vocab_size: int = 24
    width: int = 16
    hidden: int = 32
    layers: int = 3
    bias: bool = True
    tied: bool = False
    pool: bool = True

    def __post_init__(self) -> None:
        positive(self, "vocab_size", "width", "hidden", "layers")


class ToyBlock(nnx.Module):
    def __init__(self, c: ToyConfig, rngs: nnx.Rngs) -> None:
        self.norm = LayerNorm(c.width, rngs=rngs)
        self.q = Linear(c.width, c.width, bias=c.bias, rngs=rngs)
        self.k = Linear(c.width, c.width, bias=c.bias, rngs=rngs)
        self.v = Linear(c.width, c.width, bias=c.bias, rngs=rngs)
        self.up = Linear(c.width, c.hidden, bias=False, rngs=rngs)
        self.down = Linear(c.hidden, c.width, bias=False, rngs=rngs)


class Toy(nnx.Module):
    def __init__(self, c: ToyConfig, rngs: nnx.Rngs) -> None:
        self.patch = PatchEmbed(2, c.width, rngs=rngs)
        self.embed = Embed(c.vocab_size, c.width, rngs=rngs)
        self.layers = stack(lambda r: ToyBlock(c, r), c.layers, rngs)
        self.norm = LayerNorm(c.width, rngs=rngs) if c.pool else None
        self.head = None if c.tied else Linear(c.width, c.vocab_size, bias=False, rngs=rngs)


def table(c: ToyConfig) -> Table:
    block = "model.layers.{}."
    rows = [
        Row("model.patch.weight", "patch/kernel", patch_kernel(2)),
        Row(
            "model.embed.weight",
            "embed/embedding",
            copies=("head.weight",) if c.tied else (),
        ),
        Row(block + "norm.weight", "layers/norm/scale"),
        Row(block + "norm.bias", "layers/norm/bias"),
        Row(block + "up.weight", "layers/up/kernel", TRANSPOSE),
        Row(block + "down.weight", "layers/down/kernel", TRANSPOSE),
        Row("model.norm.weight", "norm/scale"),
        Row("model.norm.bias", "norm/bias"),
    ]
    for i, part in enumerate("qkv"):
        rows += [
            Row(block + "qkv.weight", f"layers/{part}/kernel", TRANSPOSE, part=(i, 3)),
            Row(block + "qkv.bias", f"layers/{part}/bias", part=(i, 3), optional=True),
        ]
    return (*rows, *(() if c.tied else (Row("head.weight", "head/kernel", TRANSPOSE),)))


def read_config(raw: Json) -> ToyConfig:
    return ToyConfig(
        vocab_size=need(raw, "vocab_size", "config.json"),
        width=need(raw, "hidden_size", "config.json"),
        hidden=need(raw, "intermediate_size", "config.json"),
        layers=need(raw, "num_hidden_layers", "config.json"),
        bias=raw.get("bias", True),
        tied=raw.get("tie_word_embeddings", False),
    )


def write_config(c: ToyConfig) -> Json:
    return {
        "vocab_size": c.vocab_size,
        "hidden_size": c.width,
        "intermediate_size": c.hidden,
        "num_hidden_layers": c.layers,
        "bias": c.bias,
        "tie_word_embeddings": c.tied,
    }


TOY = Family(
    architecture="ToyForCausalLM",
    model_type="toy",
    read_config=read_config,
    write_config=write_config,
    build=lambda c, rngs: Toy(c, rngs),
    table=table,
    canonical=lambda name: name.removeprefix("wrapped."),
    ignore=(r"model\.buffer",),
)


def weights(c: ToyConfig, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    d, h = c.width, c.hidden
    made = {
        "model.patch.weight": draw(d, 3, 2, 2),
        "model.embed.weight": draw(c.vocab_size, d),
        "model.norm.weight": draw(d),
        "model.norm.bias": draw(d),
    }
    for i in range(c.layers):
        block = f"model.layers.{i}."
        made |= {
            block + "norm.weight": draw(d),
            block + "norm.bias": draw(d),
            block + "up.weight": draw(h, d),
            block + "down.weight": draw(d, h),
            block + "qkv.weight": draw(3 * d, d),
        }
        if c.bias:
            made[block + "qkv.bias"] = draw(3 * d)
    return made if c.tied else made | {"head.weight": draw(c.vocab_size, d)}


def params(c: ToyConfig, w: Arrays) -> dict[str, np.ndarray]:
    """What the importer must make of them, by our paths; written without its tables."""

    def stacked(name: str) -> np.ndarray:
        return np.stack([w[f"model.layers.{i}.{name}"].T for i in range(c.layers)])

    made = {
        "patch/kernel": w["model.patch.weight"].transpose(2, 3, 1, 0).reshape(12, -1),
        "embed/embedding": w["model.embed.weight"],
        "layers/norm/scale": stacked("norm.weight"),
        "layers/norm/bias": stacked("norm.bias"),
        "layers/up/kernel": stacked("up.weight"),
        "layers/down/kernel": stacked("down.weight"),
    }
    for i, part in enumerate("qkv"):
        kernel = slice(i * c.width, (i + 1) * c.width)
        made[f"layers/{part}/kernel"] = stacked("qkv.weight")[:, :, kernel]
        if c.bias:
            made[f"layers/{part}/bias"] = stacked("qkv.bias")[:, kernel]
    if c.pool:
        made |= {"norm/scale": w["model.norm.weight"], "norm/bias": w["model.norm.bias"]}
    return made if c.tied else made | {"head/kernel": w["head.weight"].T}


def save(folder: Path, c: ToyConfig | None = None, w: Arrays | None = None, **changes: Any) -> Path:
    """A directory of it; `changes` of config.json, None removes a key."""
    c = ToyConfig() if c is None else c
    folder.mkdir(parents=True, exist_ok=True)
    raw = {**write_config(c), "architectures": ["ToyForCausalLM"], "model_type": "toy"} | changes
    raw = {key: value for key, value in raw.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(raw))
    w = weights(c) if w is None else w
    save_file({k: np.ascontiguousarray(v) for k, v in w.items()}, folder / "model.safetensors")
    return folder


def bfloat16(w: Arrays) -> Arrays:
    return {k: v.astype(jnp.bfloat16) for k, v in w.items()}
