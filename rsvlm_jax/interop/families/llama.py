"""LlamaForCausalLM (Vicuna too), MistralForCausalLM, Qwen2ForCausalLM (2.5 too), Qwen3ForCausalLM.

One table for all: what one class lacks is an optional row. A config.json may leave out what its
class sets by default (the `text_config` of a LLaVA does), so the defaults stand here, by class.
"""

from __future__ import annotations

import functools
from typing import Any

from flax import nnx

from rsvlm_jax.config import CheckpointError, LlamaConfig, RopeScaling
from rsvlm_jax.interop.family import Family, Json, only
from rsvlm_jax.interop.rows import TRANSPOSE, Row, Table
from rsvlm_jax.models.llama import Llama

_SIZES: dict[str, dict[str, Any]] = {
    "llama": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "max_position_embeddings": 2048,
        "head_dim": None,
    },
    "mistral": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096 * 32,
        "head_dim": None,
    },
    "qwen2": {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "head_dim": None,
    },
}
_SIZES["qwen3"] = {**_SIZES["qwen2"], "head_dim": 128}
"""Defaults of the classes in `transformers`, by model_type."""

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

_ELSEWHERE = (
    "attn_logit_softcapping",
    "attn_temperature_tuning",
    "final_logit_softcapping",
    "no_rope_layers",
)
"""Keys of neighbouring architectures that change the numbers; refused unless unset."""

_ROPE_KEYS: dict[str, tuple[str, ...]] = {
    "default": (),
    # `transformers` reads no length of pretraining here, but some files name one.
    "linear": ("factor", "original_max_position_embeddings"),
    "dynamic": ("factor", "original_max_position_embeddings"),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}


def _read_config(model_type: str, config: Json) -> LlamaConfig:
    where = model_type
    only(config, "hidden_act", ("silu",), where)
    for key in _ELSEWHERE:
        only(config, key, (None, False), where)
    size = {k: config.get(k, default) for k, default in _SIZES[model_type].items()}
    heads = size["num_attention_heads"]
    theta, scaling = _read_rope(config, size["max_position_embeddings"], where)
    attention_bias = False
    if model_type in ("llama", "qwen3"):
        attention_bias = bool(config.get("attention_bias", False))
    return LlamaConfig(
        family=model_type,  # type: ignore[arg-type]  # one of _SIZES
        vocab_size=size["vocab_size"],
        width=size["hidden_size"],
        layers=size["num_hidden_layers"],
        heads=heads,
        kv_heads=heads if size["num_key_value_heads"] is None else size["num_key_value_heads"],
        head_dim=size["head_dim"],
        mlp_dim=size["intermediate_size"],
        max_length=size["max_position_embeddings"],
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        qkv_bias=attention_bias or model_type == "qwen2",
        o_bias=attention_bias,
        mlp_bias=model_type == "llama" and bool(config.get("mlp_bias", False)),
        qk_norm=model_type == "qwen3",
        sliding_window=_read_window(model_type, config, size["num_hidden_layers"], where),
        tie_embeddings=bool(config.get("tie_word_embeddings", False)),
    )


def _read_window(model_type: str, config: Json, layers: int, where: str) -> int | None:
    """Of all layers alike.

    Raises:
      CheckpointError: a window in some layers only.
    """
    if model_type == "mistral":
        return config.get("sliding_window", 4096)
    if model_type == "llama":
        only(config, "sliding_window", (None,), where)
        return None
    kinds = config.get("layer_types")
    if kinds is None:
        full = config.get("max_window_layers", 28)
        if not config.get("use_sliding_window", False) or config.get("sliding_window", 1) is None:
            full = layers
        kinds = ["full_attention"] * min(full, layers)
        kinds += ["sliding_attention"] * (layers - len(kinds))
    if len(kinds) != layers or set(kinds) != {"full_attention"}:
        raise CheckpointError(
            "not supported",
            where=f"{where}: use_sliding_window, layer_types",
            expected="full_attention in every layer",
            found=f"{kinds.count('sliding_attention')} of {len(kinds)} with a sliding window",
        )
    return None


def _read_rope(config: Json, max_length: int, where: str) -> tuple[float, RopeScaling | None]:
    """Theta and scaling from `rope_theta` and `rope_scaling` (4.x) or `rope_parameters` (5.x).

    Raises:
      CheckpointError: a scaling that the model does not compute, or keys that it does not read.
    """
    only(config, "partial_rotary_factor", (None, 1.0), where)
    name = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    found = {k: v for k, v in (config.get(name) or {}).items() if v is not None}
    where = f"{where}: {name}"
    theta = found.pop("rope_theta", None) or config.get("rope_theta") or 10000.0
    kind, kind_v3 = found.pop("rope_type", None), found.pop("type", None)
    kind = kind or kind_v3 or "default"
    if kind not in _ROPE_KEYS:
        raise CheckpointError(
            "not supported", where=f"{where}.rope_type", expected=" or ".join(_ROPE_KEYS),
            found=kind,
        )  # fmt: skip
    if found.get("partial_rotary_factor") == 1:
        del found["partial_rotary_factor"]
    strange = sorted(found.keys() - set(_ROPE_KEYS[kind]))
    if strange:
        raise CheckpointError(
            "not supported", where=where, expected=", ".join(_ROPE_KEYS[kind]) or "rope_theta",
            found=", ".join(strange),
        )  # fmt: skip
    if kind == "default":
        return float(theta), None
    original = config.get("original_max_position_embeddings")
    if kind == "llama3":
        found.setdefault("original_max_position_embeddings", max_length)
        if original is not None:  # this one has the last word in `transformers`
            found["original_max_position_embeddings"] = original
    else:
        found.pop("original_max_position_embeddings", None)
    lacking = sorted(set(_ROPE_KEYS[kind]) - found.keys() - {"original_max_position_embeddings"})
    if lacking:
        raise CheckpointError("a key is missing", where=where, expected=", ".join(lacking))
    for key in found.keys() - {"original_max_position_embeddings"}:
        found[key] = float(found[key])
    return float(theta), RopeScaling(kind, **found)


_FIXED: dict[str, dict[str, Any]] = {
    "llama": {"qk_norm": False, "sliding_window": None},
    "mistral": {"qkv_bias": False, "o_bias": False, "mlp_bias": False, "qk_norm": False},
    "qwen2": {
        "qkv_bias": True,
        "o_bias": False,
        "mlp_bias": False,
        "qk_norm": False,
        "sliding_window": None,
    },
    "qwen3": {"mlp_bias": False, "qk_norm": True, "sliding_window": None},
}
"""What each class computes and has no key for."""


def _write_config(model_type: str, config: LlamaConfig) -> Json:
    c = config
    fixed = dict(_FIXED[model_type])
    if model_type in ("llama", "qwen3"):
        fixed["o_bias"] = c.qkv_bias  # one key for the four
    for field, value in fixed.items():
        if getattr(c, field) != value:
            raise CheckpointError(
                f"{_CLASSES[model_type]} does not compute this",
                where=f"LlamaConfig.{field}",
                expected=value,
                found=getattr(c, field),
                remedy="write it as another architecture",
            )
    if model_type == "llama" and c.width % c.heads:
        raise CheckpointError(
            "LlamaForCausalLM does not load this",
            where="LlamaConfig.width",
            expected="a multiple of heads, even with a head_dim of its own",
            found=f"{c.width}, {c.heads} heads",
        )
    written: Json = {
        "architectures": [_CLASSES[model_type]],
        "model_type": model_type,
        "vocab_size": c.vocab_size,
        "hidden_size": c.width,
        "intermediate_size": c.mlp_dim,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": c.max_length,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "rope_scaling": _write_rope(c.rope_scaling),
        "tie_word_embeddings": c.tie_embeddings,
        "use_cache": True,
        # Which ids begin and end a text is the tokenizer's matter: a class default would end it
        # at another model's id.
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if model_type in ("llama", "qwen3"):
        written["attention_bias"] = c.qkv_bias
    if model_type == "llama":
        written["mlp_bias"] = c.mlp_bias
    if model_type == "mistral":
        written["sliding_window"] = c.sliding_window
    if model_type in ("qwen2", "qwen3"):
        written |= {"use_sliding_window": False, "sliding_window": None}
    if c.head_dim is not None or model_type == "qwen3":  # whose default is 128
        written["head_dim"] = c.head_width
    return written


def _write_rope(scaling: RopeScaling | None) -> Json | None:
    if scaling is None:
        return None
    written: Json = {"rope_type": scaling.rope_type, "factor": scaling.factor}
    if scaling.rope_type == "llama3":
        written |= {k: getattr(scaling, k) for k in _ROPE_KEYS["llama3"]}
    return written


def _table(config: LlamaConfig) -> Table:
    layer = "model.layers.{}."
    linears = {f"self_attn.{n}_proj": f"attention/{n}" for n in "qkvo"}
    linears |= {f"mlp.{n}_proj": f"mlp/{n}" for n in ("gate", "up", "down")}
    tied = ("lm_head.weight",) if config.tie_embeddings else ()
    return (
        Row("model.embed_tokens.weight", "embed/embedding", copies=tied),
        Row(layer + "input_layernorm.weight", "layers/norm1/scale"),
        *(Row(f"{layer}{a}.weight", f"layers/{b}/kernel", TRANSPOSE) for a, b in linears.items()),
        *(Row(f"{layer}{a}.bias", f"layers/{b}/bias", optional=True) for a, b in linears.items()),
        *(
            Row(
                f"{layer}self_attn.{n}_norm.weight",
                f"layers/attention/{n}_norm/scale",
                optional=True,
            )
            for n in "qk"
        ),
        Row(layer + "post_attention_layernorm.weight", "layers/norm2/scale"),
        Row("model.norm.weight", "norm/scale"),
        *(() if tied else (Row("lm_head.weight", "lm_head/kernel", TRANSPOSE),)),
    )


def _build(config: LlamaConfig, rngs: nnx.Rngs) -> Llama:
    return Llama(config, rngs=rngs)


LLAMA, MISTRAL, QWEN2, QWEN3 = (
    Family(
        architecture=architecture,
        model_type=model_type,
        read_config=functools.partial(_read_config, model_type),
        write_config=functools.partial(_write_config, model_type),
        build=_build,
        table=_table,
        ignore=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),  # buffers of old files
    )
    for model_type, architecture in _CLASSES.items()
)
