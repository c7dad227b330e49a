"""What the backward pass keeps, by policy: the same numbers, less memory, in the order stated."""

from __future__ import annotations

import dataclasses
import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rsvlm_jax.config import HeadConfig, LlamaConfig, QFormerConfig, TemporalConfig, ViTConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core import flat
from rsvlm_jax.mesh.hlo_work import works
from rsvlm_jax.models.encoded import Encoded
from rsvlm_jax.models.heads import MixerHead
from rsvlm_jax.models.language import language_model
from rsvlm_jax.models.resampler.qformer import QFormer
from rsvlm_jax.models.temporal import TemporalFusion
from rsvlm_jax.models.towers import vision_tower
from rsvlm_jax.nn import Mask, use_kernel
from rsvlm_jax.train.flops import again

POLICIES = get_args(Remat)
LLAMA = LlamaConfig(
    vocab_size=32, width=32, layers=4, heads=4, kv_heads=2, mlp_dim=96, max_length=256
)
VIT = ViTConfig(image_size=32, patch_size=4, width=32, layers=5, heads=2, mlp_dim=128)
QFORMER = QFormerConfig(queries=8, width=32, layers=4, heads=2, mlp_dim=128)
RNG = np.random.default_rng(0)


def values(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def filled(build, remat: Remat):
    graphdef, state = nnx.split(nnx.eval_shape(lambda: build(remat)))
    rng = np.random.default_rng(1)
    draw = lambda leaf: jnp.asarray(0.2 * rng.standard_normal(leaf.shape), leaf.dtype)  # noqa: E731
    return graphdef, jax.tree.map(draw, state)


TEXT, FRAMES, TOKENS = values(4, 128, 32), values(8, 32, 32, 3), values(8, 64, 32)
SEGMENT = jnp.ones((4, 128), jnp.int32).at[:, 100:].set(2)
POSITION = jnp.broadcast_to(jnp.arange(128, dtype=jnp.int32), (4, 128))


def llama(kernel: str, remat: Remat):
    model = language_model(LLAMA, remat=remat, rngs=nnx.Rngs(0))
    use_kernel(model, kernel)
    return model


MODELS = {
    "decoder": (
        functools.partial(llama, "plain"), lambda m: m(TEXT, Mask.rows(SEGMENT), POSITION)
    ),
    "chunked decoder": (
        functools.partial(llama, "chunked"), lambda m: m(TEXT, Mask.rows(SEGMENT), POSITION)
    ),
    "tower": (
        lambda remat: vision_tower(VIT, remat=remat, rngs=nnx.Rngs(0)), lambda m: m(FRAMES)
    ),
    "resampler": (
        lambda remat: QFormer(QFORMER, 32, remat=remat, rngs=nnx.Rngs(0)), lambda m: m(TOKENS)
    ),
}  # fmt: skip


GIVEN, VISUAL = jnp.ones((4, 64), jnp.int32), values(4, 64, 32)
DATES = values(4, 64)
UNREAD = dataclasses.replace(QFORMER, layers=3, cross_attention_frequency=4)
FUSION = TemporalConfig(budget=8, layers=3, heads=2)


def mixed(head: MixerHead) -> jax.Array:
    nothing = jnp.zeros((4, 0, 0))
    found = head(Encoded(nothing, VISUAL, GIVEN > 0, nothing, jnp.zeros(4, bool)))
    return found.loc + found.scale


SHALLOW = {
    "resampler without a whole group": (
        lambda remat: QFormer(UNREAD, 32, remat=remat, rngs=nnx.Rngs(0)), lambda m: m(TOKENS)
    ),
    "fusion": (
        lambda remat: TemporalFusion(FUSION, 32, 2, remat=remat, rngs=nnx.Rngs(0)),
        lambda m: m(VISUAL, GIVEN > 0, DATES, GIVEN, GIVEN, year_known=GIVEN > 0)[0],
    ),
    "mixer head": (
        lambda remat: MixerHead(HeadConfig(), 64, 32, None, remat=remat, rngs=nnx.Rngs(0)), mixed
    ),
}  # fmt: skip
"""What comes before and after the deep stacks."""
MODELS |= SHALLOW


@functools.cache
def compiled(name: str, remat: Remat):
    build, run = MODELS[name]
    graphdef, state = filled(build, remat)

    def loss(state):
        return jnp.square(run(nnx.merge(graphdef, state)).astype(jnp.float32)).mean()

    traced = jax.jit(jax.value_and_grad(loss)).trace(state)
    return traced.jaxpr, traced.lower().compile(), state


@pytest.mark.parametrize(
    ("name", "remat"),
    [(m, r) for m in MODELS for r in (("full",) if m in SHALLOW else POLICIES[1:])],
)
def test_a_policy_changes_no_number(name: str, remat: Remat) -> None:
    (_, plain, state), (_, again, _) = compiled(name, "none"), compiled(name, remat)
    (a, wanted), (b, found) = plain(state), again(state)
    np.testing.assert_allclose(b, a, rtol=1e-6)
    wanted, found = flat(wanted), flat(found)
    largest = max(np.abs(g).max() for g in wanted.values())
    for path, gradient in wanted.items():
        np.testing.assert_allclose(
            found[path], gradient, rtol=1e-4, atol=1e-6 * largest, err_msg=path
        )


def bytes_of(name: str, remat: Remat) -> int:
    return compiled(name, remat)[1].memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("name", [m for m in MODELS if m not in SHALLOW])
def test_memory_falls_in_the_order_of_the_policies(name: str) -> None:
    none, mlp, context, full, offload = (
        bytes_of(name, r) for r in ("none", "save_qkv_mlp", "save_context", "full", "offload")
    )
    assert none > mlp > context > full
    assert none > offload


@pytest.mark.parametrize("name", SHALLOW)
def test_memory_falls_outside_the_deep_stacks(name: str) -> None:
    assert bytes_of(name, "none") > bytes_of(name, "full")


def primitives(jaxpr, name: str) -> list:
    """Equations of a primitive, those of inner programs too."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == name:
            found.append(eqn)
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += primitives(inner, name)
    return found


def loops(remat: Remat) -> int:
    return len(primitives(compiled("chunked decoder", remat)[0].jaxpr, "while"))


def products(remat: Remat) -> float:
    made = works(compiled("chunked decoder", remat)[1])
    return sum(w.count * w.product.flops for w in made if w.product is not None)


@pytest.mark.parametrize("remat", POLICIES)
def test_what_is_computed_again_is_what_the_formula_says(remat: Remat) -> None:
    """Of the compiled programs, product by product."""
    assert again(LLAMA, TEXT.shape[0] * 128, 128, remat) == products(remat) - products("none")


def test_attention_that_is_kept_is_not_computed_again() -> None:
    """A block-wise attention is a loop forward and a loop backward."""
    assert loops("none") == loops("save_context") == loops("save_qkv_mlp") == 2
    assert loops("full") == 3


def test_offloading_moves_what_attention_reads_and_gives_to_the_host() -> None:
    puts = primitives(compiled("decoder", "offload")[0].jaxpr, "device_put")
    moved = [str(place) for eqn in puts for place in eqn.params["devices"]]
    assert sum("Host" in m for m in moved) == 4
    assert not primitives(compiled("decoder", "save_context")[0].jaxpr, "device_put")
