"""The towers of BLIP-2 and InstructBLIP: EVA-G, Q-Former, projection, and a Llama where it is one.

    vision_model.*          -> vision       without layer scales; the norm after it (`ln_vision`)
    query_tokens, qformer.* -> resampler    the half that queries go through
    language_projection     -> connector
    language_model.*        -> decoder      of InstructBLIP over Vicuna; OPT and T5 are ignored

For a model to start from (`rsvlm_jax.run.start`), no whole model: InstructBLIP gives its Q-Former
the instruction beside the image, and the half of it that reads text is not built here.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from flax import nnx

from rsvlm_jax.config import CheckpointError, ConnectorConfig, Dinov2Config, LlamaConfig
from rsvlm_jax.config.resampler import QFormerConfig
from rsvlm_jax.models.connector import Connector
from rsvlm_jax.models.dinov2 import Dinov2Tower
from rsvlm_jax.models.llama import Llama
from rsvlm_jax.models.resampler import QFormer

from .families import qformer
from .families.llama import LLAMA
from .families.vision import activation, linear, norm, real, squeezed, whole
from .family import Family, Json, only
from .files import open_checkpoint, read_json
from .huggingface import Imported, assemble, read_config
from .rows import Row, Table, patch_kernel, prefixed


@dataclasses.dataclass(frozen=True)
class BlipConfig:
    """The towers.

    Attributes:
      decoder: None: a language model that is not read.
      width: of the language model.
    """

    vision: Dinov2Config
    resampler: QFormerConfig
    connector: ConnectorConfig
    decoder: LlamaConfig | None
    width: int


class BlipTowers(nnx.Module):
    """Side by side; they are not run together."""

    def __init__(self, config: BlipConfig, *, rngs: nnx.Rngs) -> None:
        c = config
        self.vision = Dinov2Tower(c.vision, rngs=rngs)
        self.resampler = QFormer(c.resampler, c.vision.width, rngs=rngs)
        self.connector = Connector(c.connector, c.resampler.width, c.width, rngs=rngs)
        self.decoder = None if c.decoder is None else Llama(c.decoder, rngs=rngs)


def is_blip(raw: Json) -> bool:
    """Whether a config.json is that of BLIP-2 or InstructBLIP."""
    return raw.get("model_type") in {family.model_type for family in _FAMILIES}


def load_towers(folder: str | os.PathLike[str], *, allow_pickle: bool = False) -> Imported:
    """Read a directory of Hugging Face; `Imported.params` by tower, `Imported.config` a BlipConfig.

    Args:
      allow_pickle: see `rsvlm_jax.interop.files.open_checkpoint`.

    Raises:
      CheckpointError: another model, or anything that does not fit.
    """
    where = Path(folder) / "config.json"
    raw = read_json(where)
    family = next((f for f in _FAMILIES if f.model_type == raw.get("model_type")), None)
    if family is None:
        raise CheckpointError(
            "another model", where=where, expected=" or ".join(f.model_type for f in _FAMILIES),
            found=repr(raw.get("model_type")),
        )  # fmt: skip
    config = read_config(family, raw, where=where)
    return assemble(family, config, open_checkpoint(folder, allow_pickle=allow_pickle))


def _read(raw: Json) -> BlipConfig:
    vision, text = raw.get("vision_config") or {}, raw.get("text_config") or {}
    only(vision, "qkv_bias", (True,), "vision_config")
    size = whole(vision, "image_size", 224, "vision_config")
    tower = Dinov2Config(
        image_size=size,
        table_size=size,
        patch_size=whole(vision, "patch_size", 14, "vision_config"),
        width=whole(vision, "hidden_size", 1408, "vision_config"),
        layers=whole(vision, "num_hidden_layers", 39, "vision_config"),
        heads=whole(vision, "num_attention_heads", 16, "vision_config"),
        mlp_dim=whole(vision, "intermediate_size", 6144, "vision_config"),
        activation=activation(vision, "gelu", "vision_config"),
        layer_scale=None,
        keep_cls=True,
        norm_eps=real(vision, "layer_norm_eps", 1e-6, "vision_config"),
        final_norm=True,
    )
    former = qformer.read_config(raw.get("qformer_config") or {}).former
    llama = text.get("model_type") == LLAMA.model_type
    default = 4096 if llama else 2560 if text.get("model_type", "opt") == "opt" else 2048
    width = text.get("d_model", text.get("hidden_size", default))  # T5's name first
    return BlipConfig(
        vision=tower,
        resampler=dataclasses.replace(former, queries=whole(raw, "num_query_tokens", 32, "blip")),
        connector=ConnectorConfig("linear"),
        decoder=LLAMA.read_config(text) if llama else None,
        width=whole({"width": width}, "width", default, "text_config"),
    )


def _write(config: BlipConfig) -> Json:
    raise CheckpointError("towers of BLIP are read, not written")


def _vision(config: Dinov2Config) -> Table:
    layer, attention = "encoder.layers.{}", "layers/attention"
    fused = [
        row
        for i, name in enumerate("qkv")
        for row in linear(f"{layer}.self_attn.qkv", f"{attention}/{name}", part=(i, 3))
    ]
    return (
        Row("embeddings.class_embedding", "cls", squeezed(2)),
        Row("embeddings.patch_embedding.weight", "patch/kernel", patch_kernel(config.patch_size)),
        Row("embeddings.patch_embedding.bias", "patch/bias"),
        Row("embeddings.position_embedding", "position/embedding", squeezed(1)),
        *norm(f"{layer}.layer_norm1", "layers/norm1"),
        *fused,
        *linear(f"{layer}.self_attn.projection", f"{attention}/o"),
        *norm(f"{layer}.layer_norm2", "layers/norm2"),
        *linear(f"{layer}.mlp.fc1", "layers/mlp/fc1"),
        *linear(f"{layer}.mlp.fc2", "layers/mlp/fc2"),
        *norm("post_layernorm", "post_norm"),
    )


def _table(config: BlipConfig) -> Table:
    former = qformer.table(qformer.Blip2QFormerConfig(config.resampler, config.vision.width))
    text = () if config.decoder is None else LLAMA.table(config.decoder)
    return (
        *prefixed(_vision(config.vision), "vision_model.", "vision/"),
        Row("query_tokens", "resampler/query", squeezed(1)),
        *prefixed(former, "qformer.", "resampler/former/"),
        *linear("language_projection", "connector/fc1"),
        *prefixed(text, "language_model.", "decoder/"),
    )


def _canonical(name: str) -> str:
    """InstructBLIP's norm of the queries stands among the embeddings of its text half."""
    return name.replace("qformer.embeddings.layernorm.", "qformer.layernorm.")


_TEXT = (
    r"qformer\.embeddings\..*",
    r"qformer\.encoder\.layer\.\d+\.(intermediate|output)\..*",
    r"language_model\..*",
    r".*position_ids",
)


def _build(config: BlipConfig, rngs: nnx.Rngs) -> BlipTowers:
    return BlipTowers(config, rngs=rngs)


def _family(architecture: str, model_type: str) -> Family:
    return Family(
        architecture=architecture,
        model_type=model_type,
        read_config=_read,
        write_config=_write,
        build=_build,
        table=_table,
        canonical=_canonical,
        ignore=_TEXT,
    )


_FAMILIES = (
    _family("Blip2ForConditionalGeneration", "blip-2"),
    _family("InstructBlipForConditionalGeneration", "instructblip"),
)
