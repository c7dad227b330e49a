"""GPT2LMHeadModel. Its linear layers are (in, out) already; q, k and v are one array there."""

from __future__ import annotations

from flax import nnx

from rsvlm_jax.config import GPT2Config
from rsvlm_jax.interop.family import Family, Json, only
from rsvlm_jax.interop.rows import Row, Table
from rsvlm_jax.models.gpt2 import GPT2

_ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
}
"""Theirs and ours; the first of ours is what is written."""

_WHERE = "gpt2"


def _read_config(config: Json) -> GPT2Config:
    only(config, "activation_function", tuple(_ACTIVATIONS), _WHERE)
    only(config, "scale_attn_weights", (True,), _WHERE)
    only(config, "tie_word_embeddings", (True,), _WHERE)
    for key in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        only(config, key, (False,), _WHERE)
    # The same numbers in float32, another order of rounding below it.
    only(config, "reorder_and_upcast_attn", (False,), _WHERE)
    width = config.get("n_embd", 768)
    inner = config.get("n_inner")
    return GPT2Config(
        vocab_size=config.get("vocab_size", 50257),
        width=width,
        layers=config.get("n_layer", 12),
        heads=config.get("n_head", 12),
        mlp_dim=4 * width if inner is None else inner,
        max_length=config.get("n_positions", 1024),
        activation=_ACTIVATIONS[config.get("activation_function", "gelu_new")],  # type: ignore[arg-type]
        norm_eps=float(config.get("layer_norm_epsilon", 1e-5)),
    )


def _write_config(config: GPT2Config) -> Json:
    c = config
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": c.vocab_size,
        "n_positions": c.max_length,
        "n_ctx": c.max_length,
        "n_embd": c.width,
        "n_layer": c.layers,
        "n_head": c.heads,
        "n_inner": c.mlp_dim,
        "activation_function": next(k for k, v in _ACTIVATIONS.items() if v == c.activation),
        "layer_norm_epsilon": c.norm_eps,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": None,  # the tokenizer's matter, as in the Llama family
        "eos_token_id": None,
        "pad_token_id": None,
    }


def _table(config: GPT2Config) -> Table:
    del config  # every GPT-2 has the same parts
    layer, ours = "transformer.h.{}.", "layers/"
    kinds = {"weight": "kernel", "bias": "bias"}
    norms = {"weight": "scale", "bias": "bias"}
    return (
        Row("transformer.wte.weight", "embed/embedding", copies=("lm_head.weight",)),
        Row("transformer.wpe.weight", "position/embedding"),
        *(
            Row(f"{layer}ln_{i}.{a}", f"{ours}norm{i}/{b}")
            for i in (1, 2)
            for a, b in norms.items()
        ),
        *(
            Row(
                f"{layer}attn.c_attn.{a}",
                f"{ours}attention/{n}/{b}",
                part=(i, 3),
                axis=1 if a == "weight" else 0,
            )
            for i, n in enumerate("qkv")
            for a, b in kinds.items()
        ),
        *(
            Row(f"{layer}{theirs}.{a}", f"{ours}{path}/{b}")
            for theirs, path in (
                ("attn.c_proj", "attention/o"),
                ("mlp.c_fc", "mlp/fc1"),
                ("mlp.c_proj", "mlp/fc2"),
            )
            for a, b in kinds.items()
        ),
        *(Row(f"transformer.ln_f.{a}", f"norm/{b}") for a, b in norms.items()),
    )


def _canonical(name: str) -> str:
    """OpenAI's own files name the arrays from inside `transformer`."""
    inside = name.startswith(("h.", "wte.", "wpe.", "ln_f."))
    return f"transformer.{name}" if inside else name


def _build(config: GPT2Config, rngs: nnx.Rngs) -> GPT2:
    return GPT2(config, rngs=rngs)


GPT2_LM = Family(
    architecture="GPT2LMHeadModel",
    model_type="gpt2",
    read_config=_read_config,
    write_config=_write_config,
    build=_build,
    table=_table,
    canonical=_canonical,
    ignore=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),  # causal masks of old files
)
