"""Recipes made tiny: the same kinds, joins and names; nothing of the user's is read."""

from __future__ import annotations

import dataclasses

import pytest
from flax import nnx

from rsvlm_jax.config import (
    EVA_G,
    STORIES260K,
    ConfigError,
    ConversationConfig,
    ConvNextConfig,
    DataConfig,
    Dinov2Config,
    Experiment,
    GPT2Config,
    GroupConfig,
    ImageConfig,
    InputConfig,
    LlamaConfig,
    LoraConfig,
    LoraOverride,
    MeshConfig,
    MixedConfig,
    OptimizerConfig,
    PerceiverConfig,
    PixelShuffleConfig,
    QFormerConfig,
    SiglipConfig,
    TrainConfig,
    ViTConfig,
    VLMConfig,
    from_json,
    llava15_7b,
    nano,
    to_json,
)
from rsvlm_jax.config.tiny import layer_of, tiny_lora, tiny_model
from rsvlm_jax.models.vlm import VisionLanguageModel
from rsvlm_jax.nn.quantize import quantize

TOWERS = {
    "clip": ViTConfig(),
    "clip by channels": ViTConfig(feature_layers=(8, 16, 24), feature_join="channels"),
    "clip pooled": ViTConfig(pool=True, projection_dim=768, keep_cls=True),
    "siglip": SiglipConfig(),
    "dinov2": Dinov2Config(image_size=224, swiglu=True, feature_layers=(-4, -1)),
    "eva": EVA_G,
    "convnext": ConvNextConfig(feature_stages=(-2, -1)),
    "mixed": MixedConfig(),
}
RESAMPLERS = {
    "qformer": QFormerConfig(),
    "perceiver": PerceiverConfig(queries=(32,)),
    "shuffle by 3": PixelShuffleConfig(factor=3),
}


def recipe(**changes) -> Experiment:
    base = Experiment(
        "recipe",
        model=VLMConfig(head=None, dtype="bfloat16"),
        conversations=ConversationConfig(
            files=(("path/to/a.json", 1.0), ("path/to/b.json", 2.0)),
            images="path/to/images",
            tokenizer="path/to/vicuna",
            template="llama_2",
            image=ImageConfig(size=336, fit="crop"),
            pack=True,
            features="path/to/features",
        ),
        lora=LoraConfig(),
        base="int8",
        train=TrainConfig(steps=5000, batch_size=128),
        mesh=MeshConfig(fsdp=-1),
        init_from="vision=path/to/clip,decoder=path/to/vicuna",
        init_missing="error",
    )
    return dataclasses.replace(base, **changes)


@pytest.mark.parametrize("tower", TOWERS)
def test_a_tower_keeps_its_kind_and_its_joins(tower: str):
    whole = VLMConfig(vision=TOWERS[tower], head=None, dtype="bfloat16")
    small = tiny_model(whole)
    assert small.vision.kind == whole.vision.kind
    for field in ("feature_join", "keep_cls", "activation", "swiglu", "pool", "mean", "std"):
        assert getattr(small.vision, field, 0) == getattr(whole.vision, field, 0), field
    assert small.frame_tokens <= 36
    assert small.connector == whole.connector
    assert small.decoder == STORIES260K
    assert small.dtype == "float32"


@pytest.mark.parametrize("resampler", RESAMPLERS)
def test_a_resampler_keeps_its_kind(resampler: str):
    whole = VLMConfig(resampler=RESAMPLERS[resampler], head=None)
    small = tiny_model(whole)
    assert type(small.resampler) is type(whole.resampler)
    assert 1 <= small.frame_tokens <= 4


def test_levels_of_a_perceiver_keep_their_order():
    vision = ViTConfig(feature_layers=(7, 15, 22))
    perceiver = PerceiverConfig(heads=16, share_layers=True)
    small = tiny_model(VLMConfig(vision=vision, resampler=perceiver, head=None))
    assert small.vision.feature_layers == (2, 3, 4)
    assert small.resampler == PerceiverConfig(
        queries=(4, 3, 2), layers=2, heads=2, mlp_dim=64, share_layers=True
    )


@pytest.mark.parametrize(
    ("index", "layers", "found"),
    [
        *((8, 24, 2), (16, 24, 3), (24, 24, 4), (0, 24, 0)),
        *((-1, 24, -1), (-2, 24, -2), (-12, 24, 3)),
        *((-3, 2, 0), (1, 2, 1)),
    ],
)
def test_hidden_states(index: int, layers: int, found: int):
    assert layer_of(index, layers) == found


def test_mixed_towers_are_both_shrunk():
    first, second = Dinov2Config(image_size=336), ConvNextConfig(feature_stages=(-2, -1))
    small = tiny_model(VLMConfig(vision=MixedConfig(first=first, second=second), head=None)).vision
    assert isinstance(small, MixedConfig)
    assert small.first.table_size != small.first.image_size  # positions are interpolated still
    assert small.second.feature_stages == (-2, -1)
    assert small.second.depths == (1, 1, 1, 1)


@pytest.mark.parametrize(
    "decoder",
    [
        LlamaConfig(family="qwen2", qkv_bias=True),
        LlamaConfig(family="qwen3", qk_norm=True, head_dim=128),
        LlamaConfig(family="mistral", kv_heads=8, sliding_window=4096),
        GPT2Config(),
    ],
    ids=lambda d: getattr(d, "family", d.kind),
)
def test_what_the_shipped_decoder_has_not_is_kept_and_starts_at_random(decoder):
    small = recipe(model=VLMConfig(decoder=decoder, head=None), lora=None, base="float").tiny()
    assert small.init_from is None
    assert type(small.model.decoder) is type(decoder)
    for field in ("qkv_bias", "qk_norm", "family"):
        assert getattr(small.model.decoder, field, 0) == getattr(decoder, field, 0)
    assert small.model.decoder.vocab_size == 514


def test_a_recipe():
    whole = recipe()
    small = whole.tiny()
    assert small.init_from == "decoder=asset:stories260k"
    assert small.init_missing == "init"
    assert small.mesh == MeshConfig()
    assert (small.train.steps, small.train.batch_size) == (4, 2)
    talk = small.conversations
    assert talk == ConversationConfig(
        template="llama_2",
        image=ImageConfig(size=32, fit="crop"),
        length=512,
        pack=True,
        buckets=1,
    )
    assert (small.base, small.optimizer, small.loss) == (whole.base, whole.optimizer, whole.loss)
    assert "path/to" not in to_json(small)
    assert from_json(Experiment, to_json(small)) == small


def test_tiny_of_tiny_is_the_same():
    small = recipe().tiny()
    assert small.tiny() == small


def test_the_template_of_a_tokenizer_that_is_not_there():
    config = ConversationConfig(template="tokenizer")
    assert recipe(conversations=config).tiny().conversations.template == "vicuna_v1"


def test_lora_keeps_its_scale_and_targets():
    override = LoraOverride("mlp", 256, 16.0)
    for rslora in (False, True):
        lora = LoraConfig(64, 16.0, targets="[qv]/kernel$", rslora=rslora, overrides=(override,))
        small = tiny_lora(lora)
        assert (small.rank, small.targets) == (4, lora.targets)
        for path in ("q/kernel", "mlp/q/kernel"):
            assert small.scale_of(path) == pytest.approx(lora.scale_of(path))
    assert tiny_lora(LoraConfig(2, 1.0)) == LoraConfig(2, 1.0)


@pytest.mark.parametrize(
    ("pattern", "first", "found"),
    [("^vision/layers/", 12, 2), ("^vision/layers/", 1, 1), ("^decoder/layers/", 16, 2)],
)
def test_a_half_is_a_half_still(pattern: str, first: int, found: int):
    groups = (GroupConfig(pattern, from_layer=first), GroupConfig("^vision/", 0.0))
    small = recipe(optimizer=OptimizerConfig(groups=groups)).tiny()
    assert small.optimizer.groups == (GroupConfig(pattern, from_layer=found), groups[1])


def test_an_experiment_of_a_cube_keeps_its_model():
    whole = Experiment("cube", model=nano(()), train=TrainConfig(steps=900, batch_size=64))
    small = whole.tiny()
    assert small.model == whole.model
    assert (small.train.steps, small.train.batch_size) == (6, 8)
    assert small.data == whole.data


def test_a_large_model_of_a_cube_becomes_small_and_its_cube_the_shipped_world():
    inputs = (InputConfig("s2_l2a"),)
    whole = Experiment(
        "cube",
        data=DataConfig(cube="path/to/cube", tokenizer="path/to/tokenizer"),
        model=llava15_7b(inputs),
        mesh=MeshConfig(fsdp=-1),
        init_from="path/to/llava",
    )
    small = whole.tiny()
    assert (small.data.cube, small.data.tokenizer) == ("world:small", "asset:stories260k")
    assert small.model.inputs == inputs
    assert small.model.decoder == STORIES260K
    assert small.model.temporal.budget == 8
    assert small.model.head.reg_tokens == whole.model.head.reg_tokens
    assert (small.mesh, small.init_from) == (MeshConfig(), "decoder=asset:stories260k")


def test_nf4_has_whole_blocks():
    small = recipe(base="nf4").tiny()
    assert small.model.decoder.mlp_dim % 64 == 0
    assert (small.base, small.init_from) == ("nf4", None)
    assert recipe(base="int8").tiny().init_from == "decoder=asset:stories260k"


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("resampler", [None, *RESAMPLERS])
def test_all_of_a_tiny_model_can_be_cut_into_blocks_of_nf4(tower: str, resampler: str | None):
    """Whatever LoRA takes: inputs of Linears of tower, resampler and decoder."""
    chosen = None if resampler is None else RESAMPLERS[resampler]
    try:
        whole = VLMConfig(vision=TOWERS[tower], resampler=chosen, head=None)
    except ConfigError:
        return  # no grid of squares, or tokens of several levels
    model = tiny_model(whole, "nf4")

    def build() -> VisionLanguageModel:
        made = VisionLanguageModel(model, image_token=1, rngs=nnx.Rngs(0))
        return quantize(made, "nf4", targets=r"^(vision|resampler|decoder)/.*kernel$")

    assert nnx.eval_shape(build)
