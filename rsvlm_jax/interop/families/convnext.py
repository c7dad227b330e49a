"""ConvNeXt: ConvNextModel, and ConvNextForImageClassification to read."""

from __future__ import annotations

import numpy as np
from flax import nnx

from rsvlm_jax.config import CheckpointError, ConvNextConfig
from rsvlm_jax.interop.family import Family, Json, only
from rsvlm_jax.interop.rows import Index, Row, Shape, Table, Transform, patch_kernel
from rsvlm_jax.models.convnext import KERNEL, ConvNextTower

from .vision import activation, hidden_act, linear, norm, real, whole

WHERE = "convnext"


def read_vision(config: Json) -> ConvNextConfig:
    """ConvNextConfig of transformers -> what gives its `last_hidden_state` and `pooler_output`."""
    only(config, "num_channels", (3,), WHERE)
    widths = _wholes(config, "hidden_sizes", (96, 192, 384, 768))
    depths = _wholes(config, "depths", (3, 3, 9, 3))
    stages = whole(config, "num_stages", 4, WHERE)
    if not len(widths) == len(depths) == stages:
        raise CheckpointError(
            "a width and a depth for each stage",
            where=f"{WHERE}: num_stages",
            expected=f"{stages} hidden_sizes and depths",
            found=f"{list(widths)} and {list(depths)}",
        )
    return ConvNextConfig(
        image_size=whole(config, "image_size", 224, WHERE),
        patch_size=whole(config, "patch_size", 4, WHERE),
        widths=widths,
        depths=depths,
        activation=activation(config, "gelu", WHERE),
        layer_scale=real(config, "layer_scale_init_value", 1e-6, WHERE),
        norm_eps=real(config, "layer_norm_eps", 1e-12, WHERE),
        feature_stages=(-1,),
        pool=True,
    )


def write_vision(config: ConvNextConfig) -> Json:
    return {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_sizes": list(config.widths),
        "depths": list(config.depths),
        "num_stages": len(config.depths),
        "hidden_act": hidden_act(config.activation),
        "layer_scale_init_value": config.layer_scale,
        "layer_norm_eps": config.norm_eps,
        "num_channels": 3,
        "drop_path_rate": 0.0,
    }


def table(config: ConvNextConfig) -> Table:
    """Names on disk, the same in transformers 4 and 5, on disk and in memory."""
    rows: list[Row] = [
        Row("embeddings.patch_embeddings.weight", "patch/kernel", patch_kernel(config.patch_size)),
        Row("embeddings.patch_embeddings.bias", "patch/bias"),
        *norm("embeddings.layernorm", "patch_norm"),
        *norm("layernorm", "post_norm"),
    ]
    for i in range(len(config.depths)):
        theirs, ours = f"encoder.stages.{i}", f"stages/{i}"
        layer, blocks = f"{theirs}.layers.{{}}", f"{ours}/blocks"
        if i > 0:
            down = patch_kernel(2, config.widths[i - 1])
            rows += [
                *norm(f"{theirs}.downsampling_layer.0", f"{ours}/down_norm"),
                Row(f"{theirs}.downsampling_layer.1.weight", f"{ours}/down/kernel", down),
                Row(f"{theirs}.downsampling_layer.1.bias", f"{ours}/down/bias"),
            ]
        rows += [
            Row(f"{layer}.dwconv.weight", f"{blocks}/depthwise/kernel", depthwise_kernel(KERNEL)),
            Row(f"{layer}.dwconv.bias", f"{blocks}/depthwise/bias"),
            *norm(f"{layer}.layernorm", f"{blocks}/norm"),
            *linear(f"{layer}.pwconv1", f"{blocks}/mlp/fc1"),
            *linear(f"{layer}.pwconv2", f"{blocks}/mlp/fc2"),
        ]
        if config.layer_scale > 0:
            rows.append(Row(f"{layer}.layer_scale_parameter", f"{blocks}/layer_scale"))
    return tuple(rows)


def depthwise_kernel(size: int) -> Transform:
    """A convolution of one filter a channel [C, 1, row, column] as a matrix [(row, column), C]."""
    rows = size * size

    def shape(s: Shape) -> Shape | None:
        return (rows, s[0]) if s[1:] == (1, size, size) else None

    def read(x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, rows).T

    def write(x: np.ndarray) -> np.ndarray:
        return x.T.reshape(-1, 1, size, size)

    def index(i: Index) -> Index | None:
        whole = i[0] == slice(0, rows, 1)
        return (i[1], slice(None), slice(None), slice(None)) if whole else None

    return Transform(f"depthwise_kernel({size})", shape, read, write, index)


def canonical(name: str) -> str:
    """The backbone of a classifier."""
    return name.removeprefix("convnext.")


def _wholes(config: Json, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    values = config.get(key) or default
    if not isinstance(values, list | tuple):
        raise CheckpointError(
            "not a list", where=f"{WHERE}: {key}", expected="whole numbers", found=repr(values)
        )
    return tuple(whole({key: v}, key, 0, WHERE) for v in values)


def _write_classifier(config: ConvNextConfig) -> Json:
    raise CheckpointError(
        "ConvNextForImageClassification has a classifier, which is not kept here",
        remedy="write it as ConvNextModel",
    )


def _build(config: ConvNextConfig, rngs: nnx.Rngs) -> ConvNextTower:
    return ConvNextTower(config, rngs=rngs)


_CLASSIFIER = (r"classifier\.(weight|bias)",)

CONVNEXT = Family(
    architecture="ConvNextModel",
    model_type="convnext",
    read_config=read_vision,
    write_config=write_vision,
    build=_build,
    table=table,
    canonical=canonical,
    ignore=_CLASSIFIER,
)

CONVNEXT_CLASSIFIER = Family(
    architecture="ConvNextForImageClassification",
    model_type="convnext",
    read_config=read_vision,
    write_config=_write_classifier,
    build=_build,
    table=table,
    canonical=canonical,
    ignore=_CLASSIFIER,
)
