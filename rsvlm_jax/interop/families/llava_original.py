"""The layout of LLaVA's own code, which GeoChat and RS-LLaVA share: a Llama with two additions.

    model.embed_tokens, model.layers, model.norm, lm_head        the language model, as it always is
    model.mm_projector.0, .2 ...                                 linear layers; GELUs between
    model.vision_tower.vision_tower.vision_model                 the tower, where it was saved

config.json is that of the language model with `mm_...` keys. It names the tower and does not
describe it: three names are known, another tower is described by our own key `mm_vision_config`, or
by the directory that the reader is given (`rsvlm_jax.interop.llava_original`). Images stand at the
id -200 there, which their code splices out; here at an id beyond the vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from rsvlm_jax.config import CheckpointError, ConfigError, ConnectorConfig, ViTConfig, VLMConfig
from rsvlm_jax.interop.family import Family, Json, only
from rsvlm_jax.interop.rows import COPY, Shape, Table, Transform
from rsvlm_jax.nn.position import resize_stored

from . import clip
from .llama import LLAMA, MISTRAL, QWEN2
from .llava import BUFFERS, TEXT, LlavaConfig, build, text_table, tower_table, whole_model
from .vision import linear, whole

TOWER = "model.vision_tower.vision_tower."
PROJECTOR = "model.mm_projector"

TOWERS: dict[str, ViTConfig] = {
    "clip-vit-large-patch14-336": ViTConfig(pool=True),
    "clip-vit-large-patch14": ViTConfig(image_size=224, pool=True),
    "clip-vit-base-patch16": ViTConfig(
        image_size=224, patch_size=16, width=768, layers=12, heads=12, mlp_dim=3072, pool=True
    ),
}
"""OpenAI's towers, by the end of `mm_vision_tower` (a hub name or a path)."""

_FEATURES = {"patch": False, "cls_patch": True}
"""`mm_vision_select_feature` -> keep_cls."""


def _read(model_type: str, geochat: bool, config: Json) -> LlavaConfig:
    where = "llava"
    only(config, "mm_patch_merge_type", ("flat", None), where)
    only(config, "mm_resampler_type", (None,), where)
    only(config, "s2", (False, None), where)
    feature = config.get("mm_vision_select_feature", "patch")
    only({"mm_vision_select_feature": feature}, "mm_vision_select_feature", (*_FEATURES,), where)
    tower = dataclasses.replace(
        _tower(config),
        feature_layers=(whole(config, "mm_vision_select_layer", -2, where),),
        keep_cls=_FEATURES[feature],
    )
    if geochat:
        # Their code reads 504 pixels with the tower for 336, whatever config.json says.
        tower = dataclasses.replace(tower, image_size=tower.image_size * 3 // 2)
    if whole(config, "mm_hidden_size", tower.width, where) != tower.width:
        raise CheckpointError(
            "the projector reads another tower",
            where=f"{where}: mm_hidden_size",
            expected=f"{tower.width}, the width of {config.get('mm_vision_tower')}",
            found=config["mm_hidden_size"],
        )
    kind = config.get("mm_projector_type", "linear")
    try:
        connector = ConnectorConfig(kind)
    except ConfigError as e:
        raise CheckpointError(
            "not supported", where=f"{where}: mm_projector_type", expected=e.expected, found=kind
        ) from e
    text = TEXT[model_type].read_config(config)
    model = VLMConfig(vision=tower, connector=connector, decoder=text, head=None)
    return LlavaConfig(model, whole(config, "image_token_index", text.vocab_size, where))


def _tower(config: Json) -> ViTConfig:
    described = config.get("mm_vision_config")
    if described:
        only({"model_type": "clip_vision_model", **described}, "model_type",
             ("clip_vision_model", "clip"), "mm_vision_config")  # fmt: skip
        return clip.read_vision(described, "mm_vision_config")
    name = str(config.get("mm_vision_tower", config.get("vision_tower")))
    known = TOWERS.get(name.rstrip("/").rsplit("/", 1)[-1])
    if known is None:
        raise CheckpointError(
            "an unknown vision tower",
            where="mm_vision_tower",
            expected=" or ".join(TOWERS),
            found=repr(name),
            remedy="give its directory as vision=",
        )
    return known


def _write(architecture: str, geochat: bool, config: LlavaConfig) -> Json:
    vision, text = whole_model(config, architecture)
    if not isinstance(vision, ViTConfig) or len(vision.feature_layers) != 1:
        raise CheckpointError(
            f"{architecture} has no place for this",
            where="VLMConfig.vision",
            expected="clip, one feature layer",
            found=f"{vision.kind}, feature layers {vision.feature_layers}",
        )
    connector = config.model.connector
    if connector.activation != "gelu" or not connector.bias:
        raise CheckpointError(
            f"{architecture} has no place for this",
            where="VLMConfig.connector",
            expected="gelu, with biases",
            found=f"{connector.activation}, bias {connector.bias}",
        )
    size = vision.image_size
    if geochat:
        if size % 3:
            raise CheckpointError(
                "GeoChat reads images of one and a half times the tower's size",
                where="VLMConfig.vision.image_size", expected="a multiple of 3", found=size,
            )  # fmt: skip
        size = size // 3 * 2
    plain = dataclasses.replace(
        vision, image_size=size, feature_layers=(-2,), keep_cls=False, projection_dim=None
    )
    name = next((n for n, known in TOWERS.items() if known == plain), None)
    written = {
        **TEXT[text.family].write_config(text),
        "mm_projector_type": connector.kind,
        "mm_hidden_size": vision.width,
        "mm_vision_tower": "vision_tower" if name is None else f"openai/{name}",
        "mm_vision_select_layer": vision.feature_layers[0],
        "mm_vision_select_feature": "cls_patch" if vision.keep_cls else "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_mm_proj": True,
        "image_aspect_ratio": "pad",
        "image_token_index": config.image_token,
    }
    if name is None:
        written["mm_vision_config"] = clip.write_vision(plain)
    return written


def projector_table(connector: ConnectorConfig) -> Table:
    """One linear layer stands by itself, several in a row with the activations between."""
    if connector.kind == "linear":
        return linear(PROJECTOR, "connector/fc1")
    layers = range(connector.layers)
    return tuple(r for i in layers for r in linear(f"{PROJECTOR}.{2 * i}", f"connector/fc{i + 1}"))


def _table(geochat: bool, config: LlavaConfig) -> Table:
    tower = tower_table(config, TOWER)
    if geochat:
        resized = _resized(config.model.vision.grid)
        tower = tuple(
            dataclasses.replace(r, how=resized) if r.ours == "vision/position/embedding" else r
            for r in tower
        )
    return (*tower, *projector_table(config.model.connector), *text_table(config, ""))


def _resized(grid: tuple[int, int]) -> Transform:
    """GeoChat's table: 36 x 36 places, kept as they are, or made of the 24 x 24 of CLIP."""
    places = grid[0] * grid[1]

    def shape(s: Shape) -> Shape | None:
        smaller = (grid[0] * 2 // 3) * (grid[1] * 2 // 3)
        return (1 + places, s[1]) if s[0] in (1 + places, 1 + smaller) else None

    def read(x: Any) -> Any:
        return resize_stored(x, grid, "bicubic_align_corners")

    return Transform(f"resized{grid}", shape, read, COPY.write)


def canonical(name: str) -> str:
    """Stand-alone projectors leave out "model."; newer towers leave out "vision_model."."""
    if name.startswith("mm_projector."):
        return f"model.{name}"
    if name.startswith(TOWER):
        return TOWER + clip.canonical(name.removeprefix(TOWER))
    return name


def _family(architecture: str, model_type: str, text: Any, *, geochat: bool = False) -> Family:
    return Family(
        architecture=architecture,
        model_type=model_type,
        read_config=functools.partial(_read, text.model_type, geochat),
        write_config=functools.partial(_write, architecture, geochat),
        build=build,
        table=functools.partial(_table, geochat),
        canonical=canonical,
        ignore=BUFFERS,
    )


LLAVA_LLAMA = _family("LlavaLlamaForCausalLM", "llava_llama", LLAMA)
LLAVA_MISTRAL = _family("LlavaMistralForCausalLM", "llava_mistral", MISTRAL)
LLAVA_QWEN = _family("LlavaQwenForCausalLM", "llava_qwen", QWEN2)
GEOCHAT = _family("GeoChatLlamaForCausalLM", "geochat", LLAMA, geochat=True)

ORIGINAL = (LLAVA_LLAMA, LLAVA_MISTRAL, LLAVA_QWEN, GEOCHAT)
