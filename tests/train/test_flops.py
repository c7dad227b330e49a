"""Operations of a step: against the arithmetic of `performance.md`'s floors, and by the letter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from rsvlm_jax.config import (
    ConversationConfig,
    Experiment,
    GroupConfig,
    LlamaConfig,
    LoraConfig,
    OptimizerConfig,
    ViTConfig,
    VLMConfig,
    llava15_7b,
)
from rsvlm_jax.data.batch import Batch, Images
from rsvlm_jax.models.vlm import VisionLanguageModel
from rsvlm_jax.nn import add_lora
from rsvlm_jax.train.flops import frame_count, step_flops, traced_flops
from rsvlm_jax.train.state import split_model


def shape(*dims: int, dtype: object = jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(dims, dtype)


def talk(b: int, length: int, images: int, size: int = 336) -> Batch:
    """The shapes of a batch of prompts."""

    def make() -> Batch:
        whole = jnp.zeros((b, length), jnp.int32)
        return Batch(
            obs={},
            **dict.fromkeys(("tokens", "segment", "position", "image_slot"), whole),
            weight=jnp.zeros((b, length)),
            target=jnp.zeros((b, 1)),
            target_valid=jnp.zeros((b, 1), bool),
            sample=jnp.zeros(b, jnp.int32),
            images=Images(
                jnp.zeros((b * images, size, size, 3)), jnp.zeros((b, images), jnp.int32)
            ),
        )

    return jax.eval_shape(make)


def flops(config: VLMConfig, batch: Batch, lora: LoraConfig | None, *groups: GroupConfig):
    experiment = Experiment(
        name="x",
        model=config,
        lora=lora,
        conversations=ConversationConfig(),
        optimizer=OptimizerConfig(groups=groups),
    )

    def make() -> VisionLanguageModel:
        model = VisionLanguageModel(config, image_token=5, rngs=nnx.Rngs(0))
        return model if lora is None else add_lora(model, lora, nnx.Rngs(0))

    graphdef, params, stats = split_model(nnx.eval_shape(make))
    assert frame_count(graphdef, params, stats, batch) == batch.images.pixels.shape[0]
    return step_flops(graphdef, experiment, params, stats, batch)


@pytest.mark.parametrize(
    ("b", "length", "images", "lora", "tera"),
    [
        (8, 2048, 1, True, 494),
        (8, 2048, 1, False, 679),
        (8, 2048, 3, True, 500),
        (8, 2048, 3, False, 685),
        (1, 5000, 8, True, 165),
        (1, 5000, 8, False, 221),
    ],
)
def test_a_llava_of_seven_billion(b: int, length: int, images: int, lora: bool, tera: int):
    """4 N a token under LoRA of rank 128, 6 N when all but the tower is trained, causal by half."""
    config = VLMConfig(**{f: getattr(llava15_7b(), f) for f in ("vision", "decoder")}, head=None)
    taken = LoraConfig(rank=128, alpha=256.0) if lora else None
    groups = () if lora else (GroupConfig("^vision/", 0.0),)
    found = flops(config, talk(b, length, images), taken, *groups)
    assert found.causal / 1e12 == pytest.approx(tera, rel=0.005)


D, F, V, B, LENGTH = 64, 96, 128, 2, 16
SMALL = VLMConfig(
    vision=ViTConfig(image_size=28, width=32, layers=2, heads=2, mlp_dim=64),
    decoder=LlamaConfig(
        vocab_size=V, width=D, layers=3, heads=4, kv_heads=2, mlp_dim=F, max_length=64
    ),
    head=None,
)


@pytest.mark.parametrize(
    ("trained", "passes"),
    [("norm/", 1), ("lm_head/", 1), ("(norm|lm_head)/", 1), ("layers/mlp/down/", 3), ("embed/", 3)],
)
def test_scores_are_counted_as_often_as_they_are_computed(trained: str, passes: int):
    """Against the step that is traced: a tenfold longer text is a hundredfold of scores."""
    groups = GroupConfig(f"^decoder/{trained}"), GroupConfig("", 0.0)
    short, long = (flops(SMALL, talk(B, n, 1, 28), None, *groups) for n in (LENGTH, 10 * LENGTH))
    assert short.attention == passes * 3 * B * LENGTH * 4 * LENGTH * D
    # The tower and the connector are the same, and all else but the scores is by the token.
    twice = flops(SMALL, talk(B, 2 * LENGTH, 1, 28), None, *groups)
    scores = (long.full - short.full - 9 * (twice.full - short.full)) / (99 - 9 * 3)
    assert scores == pytest.approx(short.attention, rel=1e-6)
    assert short.causal == short.full - short.attention / 2


def test_every_product_of_a_small_decoder():
    d, f, v, b, length, config = D, F, V, B, LENGTH, SMALL
    only_last = GroupConfig("^decoder/lm_head/"), GroupConfig(".", 0.0)
    found = flops(config, talk(b, length, 1, 28), None, *only_last)
    layer = 2 * (d * d + d * d + d * d) + 2 * 3 * d * f  # q, o; k and v together; the MLP
    decoder = 3 * b * length * (layer + 4 * length * d)  # three layers, forward alone
    tower = 2 * 5 * (2 * 4 * 32 * 32 + 2 * 2 * 32 * 64 + 4 * 5 * 32)
    # LLaVA reads the tower's last layer but one: the first of two.
    vision = b * (tower // 2 + 2 * 4 * 14 * 14 * 3 * 32)
    connector = b * 4 * (2 * 32 * d + 2 * d * d)
    head = 2 * 2 * b * length * d * v  # forward and its weight: nothing below it is trained
    assert found.full == decoder + vision + connector + head
    assert found.attention == 3 * b * length * 4 * length * d


def test_loops_branches_and_convolutions():
    x = shape(8, 8, dtype=jnp.float32)

    def loop(x: jax.Array) -> jax.Array:
        y, _ = jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=5)
        return jax.lax.cond(y[0, 0] > 0, lambda y: y @ y @ y, lambda y: y, y)

    assert traced_flops(loop, x) == (5 + 2) * 2 * 8**3
    image, kernel = shape(1, 8, 8, 4, dtype=jnp.float32), shape(3, 3, 2, 6, dtype=jnp.float32)

    def grouped(a: jax.Array, k: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            a, k, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=2
        )

    assert traced_flops(grouped, image, kernel) == 2 * 3 * 3 * 2 * 6 * 64
