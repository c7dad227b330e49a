"""DINOv2: Dinov2Model, with GELU or the gated MLP.

All versions write the same names on disk; in memory transformers 5 calls the projections of the
attention `attention.q_proj` and so on, and keeps the two halves of `mlp.weights_in` apart.
"""

from __future__ import annotations

from flax import nnx

from rsvlm_jax.config import CheckpointError, Dinov2Config
from rsvlm_jax.interop.family import Family, Json, only
from rsvlm_jax.interop.rows import Row, Table, patch_kernel
from rsvlm_jax.models.dinov2 import Dinov2Tower

from .vision import activation, hidden_act, linear, norm, real, squeezed, whole

WHERE = "dinov2"


def read_vision(config: Json, where: str = WHERE) -> Dinov2Config:
    """Dinov2Config -> ours; feature layer -1, which ends before the final norm."""
    only(config, "num_channels", (3,), where)
    only(config, "qkv_bias", (True,), where)
    only(config, "hidden_dropout_prob", (0.0,), where)
    only(config, "attention_probs_dropout_prob", (0.0,), where)
    only(config, "drop_path_rate", (0.0,), where)
    only(config, "use_swiglu_ffn", (False, True), where)
    only(config, "use_mask_token", (True, False), where)
    size = whole(config, "image_size", 224, where)
    width = whole(config, "hidden_size", 768, where)
    swiglu = bool(config.get("use_swiglu_ffn", False))
    return Dinov2Config(
        image_size=size,
        table_size=size,
        patch_size=whole(config, "patch_size", 14, where),
        width=width,
        layers=whole(config, "num_hidden_layers", 12, where),
        heads=whole(config, "num_attention_heads", 12, where),
        mlp_dim=_hidden(width, real(config, "mlp_ratio", 4.0, where), swiglu),
        activation=activation(config, "gelu", where),
        swiglu=swiglu,
        layer_scale=real(config, "layerscale_value", 1.0, where),
        norm_eps=real(config, "layer_norm_eps", 1e-6, where),
        feature_layers=(-1,),
        keep_cls=True,
        pool=True,
        mask_token=bool(config.get("use_mask_token", True)),
    )


def write_vision(config: Dinov2Config) -> Json:
    """Its config.json.

    Raises:
      CheckpointError: an MLP whose width no whole ratio gives, or a model without layer scales.
    """
    if config.layer_scale is None:
        raise CheckpointError(
            "Dinov2Model has layer scales", where="Dinov2Config.layer_scale", found=None
        )
    return {
        "model_type": "dinov2",
        "image_size": config.table_size,
        "patch_size": config.patch_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "mlp_ratio": _ratio(config),
        "hidden_act": hidden_act(config.activation),
        "use_swiglu_ffn": config.swiglu,
        "layerscale_value": config.layer_scale,
        "layer_norm_eps": config.norm_eps,
        "use_mask_token": config.mask_token,
        "qkv_bias": True,
        "num_channels": 3,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
    }


def table(config: Dinov2Config) -> Table:
    """Names on disk."""
    layer = "encoder.layer.{}"
    patch = "embeddings.patch_embeddings.projection"
    attention = f"{layer}.attention.attention"
    mlp = (
        (
            *linear(f"{layer}.mlp.weights_in", "layers/mlp/gate", part=(0, 2)),
            *linear(f"{layer}.mlp.weights_in", "layers/mlp/up", part=(1, 2)),
            *linear(f"{layer}.mlp.weights_out", "layers/mlp/down"),
        )
        if config.swiglu
        else (
            *linear(f"{layer}.mlp.fc1", "layers/mlp/fc1"),
            *linear(f"{layer}.mlp.fc2", "layers/mlp/fc2"),
        )
    )
    masks = (Row("embeddings.mask_token", "mask_token", squeezed(1)),) if config.mask_token else ()
    return (
        Row("embeddings.cls_token", "cls", squeezed(2)),
        *masks,
        Row(f"{patch}.weight", "patch/kernel", patch_kernel(config.patch_size)),
        Row(f"{patch}.bias", "patch/bias"),
        Row("embeddings.position_embeddings", "position/embedding", squeezed(1)),
        *norm(f"{layer}.norm1", "layers/norm1"),
        *linear(f"{attention}.query", "layers/attention/q"),
        *linear(f"{attention}.key", "layers/attention/k"),
        *linear(f"{attention}.value", "layers/attention/v"),
        *linear(f"{layer}.attention.output.dense", "layers/attention/o"),
        Row(f"{layer}.layer_scale1.lambda1", "layers/scale1"),
        *norm(f"{layer}.norm2", "layers/norm2"),
        *mlp,
        Row(f"{layer}.layer_scale2.lambda1", "layers/scale2"),
        *norm("layernorm", "post_norm"),
    )


_MEMORY = {
    ".attention.q_proj.": ".attention.attention.query.",
    ".attention.k_proj.": ".attention.attention.key.",
    ".attention.v_proj.": ".attention.attention.value.",
    ".attention.o_proj.": ".attention.output.dense.",
    ".mlp.down_proj.": ".mlp.weights_out.",
}


def canonical(name: str) -> str:
    """Names in the memory of transformers 5 as on disk."""
    for memory, disk in _MEMORY.items():
        name = name.replace(memory, disk)
    return name


def _hidden(width: int, ratio: float, swiglu: bool) -> int:
    hidden = int(width * ratio)
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if swiglu else hidden


def _ratio(config: Dinov2Config) -> int:
    for ratio in range(1, 65):
        if _hidden(config.width, float(ratio), config.swiglu) == config.mlp_dim:
            return ratio
    raise CheckpointError(
        "an MLP that Dinov2Model cannot have",
        where="Dinov2Config.mlp_dim",
        expected="a whole multiple of the width"
        + (", two thirds of it rounded up to 8" if config.swiglu else ""),
        found=config.mlp_dim,
    )


def _build(config: Dinov2Config, rngs: nnx.Rngs) -> Dinov2Tower:
    return Dinov2Tower(config, rngs=rngs)


DINOV2 = Family(
    architecture="Dinov2Model",
    model_type="dinov2",
    read_config=read_vision,
    write_config=write_vision,
    build=_build,
    table=table,
    canonical=canonical,
    ignore=(r"embeddings\.mask_token",),  # where the config was adjusted to leave it out
)
