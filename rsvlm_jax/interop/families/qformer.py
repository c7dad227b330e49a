"""BLIP-2's Q-Former by itself: Blip2QFormerModel. It holds no queries; those are BLIP-2's own.

Its config says what no config of a whole model here needs to: the width of the tokens that it
reads (`Blip2QFormerConfig.d_in`).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from flax import nnx

from rsvlm_jax.config import CheckpointError, QFormerConfig
from rsvlm_jax.config.check import positive
from rsvlm_jax.interop.family import Family, Json, only
from rsvlm_jax.interop.rows import Table
from rsvlm_jax.models.resampler import Blip2QFormer

from .vision import linear, norm, real, whole

WHERE = "blip_2_qformer"

_ACTIVATIONS: dict[str, Literal["gelu", "gelu_tanh", "relu"]] = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclasses.dataclass(frozen=True)
class Blip2QFormerConfig:
    """A Q-Former and the width of the tokens that it reads.

    Attributes:
      former: `queries` is not read from or written to a checkpoint, which has none.
    """

    former: QFormerConfig
    d_in: int

    def __post_init__(self) -> None:
        positive(self, "d_in")


def read_config(config: Json) -> Blip2QFormerConfig:
    only(config, "use_qformer_text_input", (False,), WHERE)
    only(config, "position_embedding_type", ("absolute",), WHERE)
    act = config.get("hidden_act", "gelu")
    if act not in _ACTIVATIONS:
        raise CheckpointError(
            "not supported",
            where=f"{WHERE}: hidden_act",
            expected=" or ".join(_ACTIVATIONS),
            found=repr(act),
        )
    former = QFormerConfig(
        width=whole(config, "hidden_size", 768, WHERE),
        layers=whole(config, "num_hidden_layers", 12, WHERE),
        heads=whole(config, "num_attention_heads", 12, WHERE),
        mlp_dim=whole(config, "intermediate_size", 3072, WHERE),
        cross_attention_frequency=whole(config, "cross_attention_frequency", 2, WHERE),
        activation=_ACTIVATIONS[act],
        norm_eps=real(config, "layer_norm_eps", 1e-12, WHERE),
    )
    return Blip2QFormerConfig(former, whole(config, "encoder_hidden_size", 1408, WHERE))


def write_config(config: Blip2QFormerConfig) -> Json:
    c = config.former
    return {
        "hidden_size": c.width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "intermediate_size": c.mlp_dim,
        "cross_attention_frequency": c.cross_attention_frequency,
        "encoder_hidden_size": config.d_in,
        "hidden_act": next(k for k, v in _ACTIVATIONS.items() if v == c.activation),
        "layer_norm_eps": c.norm_eps,
        "use_qformer_text_input": False,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def table(config: Blip2QFormerConfig) -> Table:
    """Names on disk, the same in transformers 4 and 5, on disk and in memory."""
    layer = "encoder.layer.{}"
    return (
        *norm("layernorm", "norm"),
        *_attention(f"{layer}.attention", "layers/attention", "layers/norm1"),
        *_attention(
            f"{layer}.crossattention",
            "cross/attention",
            "cross/norm",
            every=config.former.cross_attention_frequency,
        ),
        *linear(f"{layer}.intermediate_query.dense", "layers/mlp/fc1"),
        *linear(f"{layer}.output_query.dense", "layers/mlp/fc2"),
        *norm(f"{layer}.output_query.LayerNorm", "layers/norm2"),
    )


def _attention(theirs: str, ours: str, after: str, *, every: int = 1) -> Table:
    rows = (
        *linear(f"{theirs}.attention.query", f"{ours}/q"),
        *linear(f"{theirs}.attention.key", f"{ours}/k"),
        *linear(f"{theirs}.attention.value", f"{ours}/v"),
        *linear(f"{theirs}.output.dense", f"{ours}/o"),
        *norm(f"{theirs}.output.LayerNorm", after),
    )
    return tuple(dataclasses.replace(row, every=every) for row in rows)


def _build(config: Blip2QFormerConfig, rngs: nnx.Rngs) -> Blip2QFormer:
    return Blip2QFormer(config.former, config.d_in, rngs=rngs)


QFORMER = Family(
    architecture="Blip2QFormerModel",
    model_type="blip_2_qformer",
    read_config=read_config,
    write_config=write_config,
    build=_build,
    table=table,
)
