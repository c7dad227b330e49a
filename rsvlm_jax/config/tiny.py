"""A recipe of conversations shrunk to seconds on a CPU, part by part; `Experiment.tiny` puts it on.

    CLIP-L/14-336, layers (8, 16, 24) of 24   ->   a CLIP of 4 layers, layers (2, 3, 4), 16 tokens
    Q-Former, perceiver, pixel shuffle        ->   the same with few queries, or as it is
    Vicuna-7B                                 ->   the shipped decoder of 260k parameters
    LoRA of rank 128, scale 2                 ->   LoRA of rank 4, scale 2
    your files and tokenizer                  ->   the shipped sample and tokenizer
    batches of up to four lengths             ->   of one

What decides how a model is built and trained stays: the kinds of its towers, how feature layers are
joined, the connector, the template, LoRA's targets, parameter groups, packing, the base. So every
regular expression of a recipe is tried on paths that have the same names as in the real model,
with one exception: the shipped decoder ties its embeddings, so there is no `decoder/lm_head`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from .conversation import ConversationConfig
from .language import DecoderConfig, GPT2Config
from .lora import LoraConfig
from .model import HeadConfig, TemporalConfig, VLMConfig
from .optimizer import GroupConfig, OptimizerConfig
from .presets import STORIES260K
from .resampler import PerceiverConfig, PixelShuffleConfig, QFormerConfig, ResamplerConfig
from .vision import ConvNextConfig, Dinov2Config, MixedConfig, SiglipConfig, VisionConfig, ViTConfig

Base = Literal["float", "bfloat16", "int8", "nf4"]

_LAYERS = 4
_LARGE = 256
_PATCH = 8
_WIDTH, _BLOCK = 32, 64
_RANK = 4


def tiny_model(model: VLMConfig, base: Base = "float") -> VLMConfig:
    """A model of the same kind, of less than a million parameters, in float32.

    Args:
      base: `Experiment.base`; nf4 cuts the inputs of kernels into blocks of 64, which the MLP of
        the shipped decoder does not allow: then all widths are multiples of it.
    """
    unit = _BLOCK if base == "nf4" else _WIDTH
    resampler = None if model.resampler is None else _resampler(model.resampler, unit)
    side = 2 * resampler.factor if isinstance(resampler, PixelShuffleConfig) else 4
    return dataclasses.replace(
        model,
        vision=_vision(model.vision, side, unit),
        resampler=resampler,
        temporal=_temporal(model) if model.inputs else model.temporal,
        decoder=None if model.decoder is None else _decoder(model.decoder, base),
        head=None if model.head is None else _head(model.head),
        dtype="float32",
    )


def is_large(model: VLMConfig) -> bool:
    """Whether its steps take more than moments on a CPU: by the widths of tower and decoder."""
    decoder = 0 if model.decoder is None else model.decoder.width
    return max(model.vision.out_width, decoder) > _LARGE


def tiny_start(model: VLMConfig) -> str | None:
    """`Experiment.init_from` of a tiny model: the shipped decoder, where it is one."""
    decoder = model.decoder
    if decoder is None or decoder.kind != "llama":
        return None
    shipped = dataclasses.replace(STORIES260K, family=decoder.family)
    return "decoder=asset:stories260k" if decoder == shipped else None


def tiny_conversations(config: ConversationConfig, model: VLMConfig) -> ConversationConfig:
    """The shipped sample in the template of `config`, its images as `model` reads them.

    Args:
      model: the tiny one.
    """
    image = config.image
    return dataclasses.replace(
        config,
        files=(("sample:rsvqa_lr", 1.0),),
        images=None,
        tokenizer="asset:stories260k",
        template="vicuna_v1" if config.template == "tokenizer" else config.template,
        image=image and dataclasses.replace(image, size=model.vision.image_size),
        length=min(config.length, 512 if model.decoder is None else model.decoder.positions),
        buckets=1,  # each length is a program of its own to compile
        features=None,
        workers=0,
    )


def tiny_lora(lora: LoraConfig) -> LoraConfig:
    """Few columns, the same scale and targets."""

    def ranks(old: int, alpha: float) -> tuple[int, float]:
        new = min(old, _RANK)
        shrunk = (new / old) ** (0.5 if lora.rslora else 1)
        return new, alpha * shrunk

    overrides = []
    for override in lora.overrides:
        rank, alpha = ranks(override.rank, override.alpha)
        overrides.append(dataclasses.replace(override, rank=rank, alpha=alpha))
    rank, alpha = ranks(lora.rank, lora.alpha)
    return dataclasses.replace(lora, rank=rank, alpha=alpha, overrides=tuple(overrides))


def tiny_optimizer(optimizer: OptimizerConfig, model: VLMConfig) -> OptimizerConfig:
    """The same, but that `GroupConfig.from_layer` is at the same share of the tiny tower's layers.

    Args:
      model: the whole one, whose towers the patterns name.
    """
    small = tiny_model(model)
    groups = (
        dataclasses.replace(g, from_layer=g.from_layer and _first_layer(g, model, small))
        for g in optimizer.groups
    )
    return dataclasses.replace(optimizer, groups=tuple(groups))


def _first_layer(group: GroupConfig, model: VLMConfig, small: VLMConfig) -> int:
    whole: Any = model
    part: Any = small
    for word in group.pattern.removeprefix("^").split("/"):
        if not dataclasses.is_dataclass(getattr(whole, word, None)):
            break
        whole, part = getattr(whole, word), getattr(part, word)
    layers = getattr(whole, "layers", None)
    return 1 if layers is None else max(1, group.from_layer * part.layers // layers)


def layer_of(index: int, layers: int) -> int:
    """Where a hidden state of a model of `layers` lies in one of `_LAYERS`.

    From the end as far from the end, where there is room; from the start at the same share, rounded
    up, so that (8, 16, 24) of 24 are (2, 3, 4) of 4.
    """
    few = min(layers, _LAYERS)
    if -few <= index < 0:
        return index
    return -(-(index % (layers + 1)) * few // layers)


def _vision(vision: VisionConfig, side: int, unit: int) -> VisionConfig:
    match vision:
        case MixedConfig():
            two = [_tower(tower, side, unit) for tower in (vision.first, vision.second)]
            return dataclasses.replace(vision, first=two[0], second=two[1])
        case _:
            return _tower(vision, side, unit)


def _tower(
    vision: ViTConfig | SiglipConfig | Dinov2Config | ConvNextConfig, side: int, unit: int
) -> ViTConfig | SiglipConfig | Dinov2Config | ConvNextConfig:
    """A tower that gives `side` x `side` tokens a layer; a ConvNeXt, whose steps cost most, half of
    that at the first stage that it returns."""
    if isinstance(vision, ConvNextConfig):
        stages = len(vision.widths)
        halvings = max(vision.stage_of(vision.feature_stages[0]) - 1, 0)
        return dataclasses.replace(
            vision,
            image_size=vision.patch_size * max(side // 2 << halvings, 1 << (stages - 1)),
            widths=tuple((_BLOCK if unit == _BLOCK else 8) << i for i in range(stages)),
            depths=(1,) * stages,
        )
    edge, layers = side * _PATCH, min(vision.layers, _LAYERS)
    small = dataclasses.replace(
        vision,
        image_size=edge,
        patch_size=_PATCH,
        width=unit,
        layers=layers,
        heads=2,
        mlp_dim=2 * unit,
        feature_layers=tuple(layer_of(i, vision.layers) for i in vision.feature_layers),
        **_table(vision, edge),
    )
    if isinstance(small, ViTConfig) and small.projection_dim is not None:
        return dataclasses.replace(small, projection_dim=16)
    return small


def _table(vision: ViTConfig | SiglipConfig | Dinov2Config, edge: int) -> dict[str, int]:
    """DINOv2's table: that of the images, or of larger ones where it is interpolated."""
    if not isinstance(vision, Dinov2Config):
        return {}
    return {"table_size": edge + _PATCH * (vision.table_size != vision.image_size)}


def _resampler(resampler: ResamplerConfig, unit: int) -> ResamplerConfig:
    match resampler:
        case QFormerConfig():
            return dataclasses.replace(
                resampler,
                queries=min(resampler.queries, 4),
                width=unit,
                layers=min(resampler.layers, 2),
                heads=2,
                mlp_dim=2 * unit,
            )
        case PerceiverConfig():
            # As many more for the shallower levels.
            queries = tuple(-(-n // 16) for n in resampler.queries)
            layers = min(resampler.layers, 2)
            return dataclasses.replace(
                resampler, queries=queries, layers=layers, heads=2, mlp_dim=64
            )
        case PixelShuffleConfig():
            return resampler


def _temporal(model: VLMConfig) -> TemporalConfig:
    budget = model.temporal.budget
    return dataclasses.replace(
        model.temporal, budget=None if budget is None else min(budget, 8), layers=1, heads=2
    )


def _head(head: HeadConfig) -> HeadConfig:
    return dataclasses.replace(
        head,
        token_dim=min(head.token_dim, 32),
        channel_dim=min(head.channel_dim, 128),
        bins=min(head.bins, 32),
        experts=min(head.experts, 4),
    )


def _decoder(decoder: DecoderConfig, base: Base) -> DecoderConfig:
    """The shipped one, with the parts that `decoder` has beyond it."""
    vocab = STORIES260K.vocab_size
    if isinstance(decoder, GPT2Config):
        return dataclasses.replace(
            decoder, vocab_size=vocab, width=64, layers=2, heads=4, mlp_dim=128, max_length=512
        )
    window = decoder.sliding_window
    return dataclasses.replace(
        STORIES260K,
        family=decoder.family,
        mlp_dim=3 * _BLOCK if base == "nf4" else STORIES260K.mlp_dim,
        qkv_bias=decoder.qkv_bias,
        o_bias=decoder.o_bias,
        mlp_bias=decoder.mlp_bias,
        qk_norm=decoder.qk_norm,
        sliding_window=None if window is None else min(window, STORIES260K.max_length // 2),
    )
