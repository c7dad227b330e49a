"""LlavaForConditionalGeneration: a CLIP or SigLIP tower, a two-layer projector, a Llama.

The tables and configs of the towers are theirs; here stands how they are put together, and what
transformers' versions call the parts::

    on disk, 4.x (canonical)    language_model.model.layers   vision_tower.vision_model.encoder
    on disk, 5.x                language_model.model.layers   vision_tower.encoder
    in memory, 4.57             model.language_model.layers   model.vision_tower.vision_model...
    in memory, 5.x              model.language_model.layers   model.vision_tower.encoder
    head, in memory             lm_head (on disk language_model.lm_head)
"""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import nnx

from rsvlm_jax.config import (
    CheckpointError,
    ConnectorConfig,
    DecoderConfig,
    LlamaConfig,
    SiglipConfig,
    ViTConfig,
    VLMConfig,
)
from rsvlm_jax.interop.family import Family, Json, only
from rsvlm_jax.interop.rows import Table, prefixed
from rsvlm_jax.models.vlm import VisionLanguageModel

from . import clip, siglip
from .llama import LLAMA, MISTRAL, QWEN2, QWEN3
from .vision import linear, whole

TEXT = {family.model_type: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3)}
"""Language models by model_type."""

ACTIVATIONS: dict[str, Any] = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "relu": "relu",
}
"""Of the projector: theirs -> ours."""

_CLIP_L_336: Json = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
"""The tower of a config.json that names none."""

_BARE = ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.", "head.")


@dataclasses.dataclass(frozen=True)
class LlavaConfig:
    """A LLaVA checkpoint.

    Attributes:
      model: without inputs and head; its tower is built whole (`pool`), so that what was read can
        be written again.
      image_token: id of the placeholder; it may lie outside the vocabulary.
    """

    model: VLMConfig
    image_token: int

    @property
    def decoder(self) -> DecoderConfig | None:
        return self.model.decoder


def _read(config: Json) -> LlavaConfig:
    raw_vision = config.get("vision_config") or _CLIP_L_336
    raw_text = config.get("text_config") or {}
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise CheckpointError(
            "not supported", where="vision_feature_select_strategy",
            expected="default or full", found=repr(strategy),
        )  # fmt: skip
    layers = config.get("vision_feature_layer", -2)
    features = {
        "feature_layers": tuple(layers) if isinstance(layers, list) else (layers,),
        "feature_join": "channels" if isinstance(layers, list) else "tokens",
    }
    vision = read_tower(raw_vision, "vision_config")
    if isinstance(vision, ViTConfig):
        features["keep_cls"] = strategy == "full"
    elif strategy == "default":
        raise CheckpointError(
            "the tower has no class token to drop; a patch would go in its place",
            where="vision_feature_select_strategy", expected="full", found="default",
        )  # fmt: skip
    only(config, "multimodal_projector_bias", (True, False), "llava")
    tied = config.get("tie_word_embeddings", False) or raw_text.get("tie_word_embeddings", False)
    activation = config.get("projector_hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise CheckpointError(
            "not supported", where="projector_hidden_act", expected=" or ".join(ACTIVATIONS),
            found=repr(activation),
        )  # fmt: skip
    key = "image_token_index" if "image_token_index" in config else "image_token_id"
    return LlavaConfig(
        VLMConfig(
            vision=dataclasses.replace(vision, **features),
            connector=ConnectorConfig(
                activation=ACTIVATIONS[activation],
                bias=bool(config.get("multimodal_projector_bias", True)),
            ),
            decoder=read_text({**raw_text, "tie_word_embeddings": tied}, "text_config"),
            head=None,
        ),
        whole(config, key, 32000, "llava"),
    )


def read_tower(config: Json, where: str) -> ViTConfig | SiglipConfig:
    """A `vision_config`.

    Raises:
      CheckpointError: a tower of another kind.
    """
    kinds = {"clip_vision_model": clip.read_vision, "siglip_vision_model": siglip.read_vision}
    kind = config.get("model_type", "clip_vision_model")
    only({"model_type": kind}, "model_type", tuple(kinds), where)
    return kinds[kind](config, where)


def read_text(config: Json, where: str) -> LlamaConfig:
    """A `text_config`.

    Raises:
      CheckpointError: a language model of another kind.
    """
    kind = config.get("model_type", "llama")
    only({"model_type": kind}, "model_type", tuple(TEXT), where)
    return TEXT[kind].read_config(config)


def _write(config: LlavaConfig) -> Json:
    model = config.model
    vision, text = whole_model(config, "LlavaForConditionalGeneration")
    only({"layers": model.connector.layers}, "layers", (2,), "ConnectorConfig")
    several = vision.feature_join == "channels"
    full = not isinstance(vision, ViTConfig) or vision.keep_cls
    return {
        "vision_config": write_tower(vision),
        "text_config": TEXT[text.family].write_config(text),
        "image_token_index": config.image_token,
        "image_seq_length": model.frame_tokens,
        "ignore_index": -100,
        "projector_hidden_act": _theirs(model.connector.activation),
        "multimodal_projector_bias": model.connector.bias,
        "vision_feature_layer": list(vision.feature_layers)
        if several
        else vision.feature_layers[0],
        "vision_feature_select_strategy": "full" if full else "default",
        "tie_word_embeddings": text.tie_embeddings,
    }


def write_tower(config: ViTConfig | SiglipConfig) -> Json:
    """A `vision_config`."""
    if isinstance(config, ViTConfig):
        return clip.write_vision(dataclasses.replace(config, projection_dim=None))
    return siglip.write_vision(config)


def check_parts(model: VLMConfig, architecture: str) -> None:
    """Refuse a model with parts that a LLaVA class has no place for.

    Raises:
      CheckpointError: the first of them.
    """

    def refuse(field: str, expected: str, found: object) -> CheckpointError:
        return CheckpointError(
            f"{architecture} has no place for this", where=f"VLMConfig.{field}",
            expected=expected, found=found, remedy="a tower by itself may have a class",
        )  # fmt: skip

    if model.inputs:
        raise refuse("inputs", "none", ", ".join(i.bandset for i in model.inputs))
    if model.resampler is not None:
        raise refuse("resampler", "none", model.resampler.kind)
    if model.head is not None:
        raise refuse("head", "none", model.head.kind)
    vision, text = model.vision, model.decoder
    if not isinstance(vision, ViTConfig | SiglipConfig):
        raise refuse("vision", "clip or siglip", vision.kind)
    if len(vision.feature_layers) > 1 and vision.feature_join == "tokens":
        raise refuse("vision.feature_join", "channels", "tokens")
    if not isinstance(text, LlamaConfig):
        raise refuse("decoder", "a Llama, Mistral, Qwen2 or Qwen3", text and text.kind)


def whole_model(
    config: LlavaConfig, architecture: str
) -> tuple[ViTConfig | SiglipConfig, LlamaConfig]:
    """Tower and language model of what a LLaVA class can hold.

    Raises:
      CheckpointError: parts that it has no place for.
    """
    check_parts(config.model, architecture)
    vision, text = config.model.vision, config.model.decoder
    assert isinstance(vision, ViTConfig | SiglipConfig)
    assert isinstance(text, LlamaConfig)
    if not vision.pool:
        raise CheckpointError(
            f"{architecture} has no place for this", where="VLMConfig.vision.pool",
            expected="True: the class loads all of its tower", found=False,
        )  # fmt: skip
    return vision, text


def tower_table(config: LlavaConfig, theirs: str) -> Table:
    """The rows of the vision tower, `theirs` in front of "vision_model."."""
    vision = config.model.vision
    if isinstance(vision, SiglipConfig):
        return prefixed(siglip.table(vision), theirs, "vision/")
    assert isinstance(vision, ViTConfig)
    plain = dataclasses.replace(vision, projection_dim=None)
    return prefixed(clip.table(plain), theirs, "vision/")


def text_table(config: LlavaConfig, theirs: str) -> Table:
    """The rows of the language model."""
    text = config.model.decoder
    assert isinstance(text, LlamaConfig)
    return prefixed(TEXT[text.family].table(text), theirs, "decoder/")


def _table(config: LlavaConfig) -> Table:
    bias = config.model.connector.bias
    return (
        *tower_table(config, "vision_tower."),
        *linear("multi_modal_projector.linear_1", "connector/fc1", bias=bias),
        *linear("multi_modal_projector.linear_2", "connector/fc2", bias=bias),
        *text_table(config, "language_model."),
    )


def canonical(name: str) -> str:
    """As on disk in 4.x; see the table on top of this file."""
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    inner = name.removeprefix("model.")
    tower, _, rest = inner.partition(".")
    if tower == "vision_tower" and rest.startswith(_BARE):
        return f"vision_tower.vision_model.{rest}"
    if tower == "language_model" and not rest.startswith(("model.", "lm_head.")):
        return f"language_model.model.{rest}"
    return inner if tower in ("vision_tower", "language_model", "multi_modal_projector") else name


def build(config: LlavaConfig, rngs: nnx.Rngs) -> VisionLanguageModel:
    return VisionLanguageModel(config.model, image_token=config.image_token, rngs=rngs)


def _theirs(activation: str) -> str:
    return next(theirs for theirs, ours in ACTIVATIONS.items() if ours == activation)


BUFFERS = (
    r"(.*\.)?embeddings\.position_ids",
    r"(.*\.)?rotary_emb\.inv_freq",
)

LLAVA = Family(
    architecture="LlavaForConditionalGeneration",
    model_type="llava",
    read_config=_read,
    write_config=_write,
    build=build,
    table=_table,
    canonical=canonical,
    ignore=BUFFERS,
)
