"""Which kernel computes an attention, and why; what is asked for and cannot be is refused."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from flax import nnx

from rsvlm_jax.config import ConfigError, TrainConfig
from rsvlm_jax.nn import Attention, Mask, attend, use_kernel
from rsvlm_jax.nn.kernels import Sizes, Target, choose, target

CPU, TPU, AMPERE, HOPPER = (
    Target("cpu"), Target("tpu"), Target("gpu", (8, 0)), Target("gpu", (9, 0))
)  # fmt: skip
LONG = Sizes(2048, 2048, 128, jnp.bfloat16)
SEGMENT = jnp.ones((1, 4), jnp.int32)
ROWS, PADDED = Mask.rows(SEGMENT), Mask.rows(SEGMENT, segments=1)
PACKED = Mask.rows(SEGMENT, segments=8)
HIDDEN = Mask.rows(SEGMENT, SEGMENT > 0)


@pytest.mark.parametrize(
    ("on", "sizes", "mask", "kernel", "word"),
    [
        (CPU, LONG, ROWS, "chunked", "no kernel of its own"),
        (CPU, Sizes(256, 256, 64, jnp.float32), ROWS, "plain", "few"),
        (CPU, Sizes(257, 257, 64, jnp.float32), ROWS, "chunked", ""),
        (CPU, Sizes(1, 4096, 64, jnp.float32), Mask(), "plain", "few"),
        (CPU, LONG, None, "plain", "table"),
        (TPU, LONG, HIDDEN, "splash", "the kernel of a tpu"),
        (TPU, Sizes(577, 577, 72, jnp.float32), Mask(), "splash", ""),
        (TPU, Sizes(64, 64, 64, jnp.bfloat16), ROWS, "plain", "few"),
        (TPU, LONG, None, "plain", "table"),
        (AMPERE, LONG, Mask(causal=True), "cudnn", "the kernel of a gpu"),
        (AMPERE, LONG, PADDED, "cudnn", ""),
        (AMPERE, LONG, PACKED, "chunked", "9.0"),
        (HOPPER, LONG, PACKED, "cudnn", ""),
        (HOPPER, LONG, ROWS, "chunked", "how many segments"),
        (HOPPER, LONG, Mask.rows(SEGMENT, segments=99), "chunked", "99 segments"),
        (HOPPER, LONG, PACKED.within(5), "chunked", "window"),
        (HOPPER, LONG, PADDED.within(5), "cudnn", ""),
        (HOPPER, LONG, HIDDEN, "chunked", "not read"),
        (HOPPER, LONG._replace(dtype=jnp.float32), PADDED, "chunked", "float32"),
        (HOPPER, LONG._replace(head=256), PADDED, "cudnn", ""),
        (AMPERE, LONG._replace(head=256), PADDED, "chunked", "128 wide"),
        (HOPPER, LONG._replace(head=20), PADDED, "chunked", "multiple of 8"),
        (HOPPER, LONG._replace(context=2), PADDED, "chunked", "part of the queries"),
        (Target("gpu", (7, 0)), LONG, PADDED, "chunked", "7.0"),
    ],
)
def test_the_rule(on: Target, sizes: Sizes, mask: Mask | None, kernel: str, word: str) -> None:
    made = choose(sizes, mask, on)
    assert made.kernel == kernel
    assert word in made.reason


@pytest.mark.parametrize("kernel", ["plain", "chunked"])
def test_a_kernel_that_is_asked_for_is_taken(kernel) -> None:
    assert choose(LONG, ROWS, TPU, kernel).kernel == kernel


@pytest.mark.parametrize(
    ("kernel", "mask", "found"),
    [
        ("cudnn", ROWS, "cuDNN is for NVIDIA GPUs, not cpu"),
        ("splash", ROWS, "splash is for TPUs, not cpu"),
        ("chunked", None, "a table"),
    ],
)
def test_a_kernel_that_cannot_is_refused(kernel, mask: Mask | None, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        choose(LONG, mask, CPU, kernel)


def test_the_target_is_the_default_backend_without_a_mesh() -> None:
    assert target() == CPU


def test_every_attention_of_a_model_is_told() -> None:
    model = nnx.List([Attention(8, 2, rngs=nnx.Rngs(0)), Attention(8, 2, rngs=nnx.Rngs(0))])
    use_kernel(model, "splash")
    x = jnp.ones((1, 3, 8))
    with pytest.raises(ConfigError, match="splash is for TPUs"):
        model[1](x)
    use_kernel(model, "plain")
    assert model[0](x).shape == (1, 3, 8)


def test_an_unknown_kernel_is_refused(untyped: None) -> None:
    with pytest.raises(ConfigError, match=r"TrainConfig\.attention"):
        TrainConfig(attention="flash")
    with pytest.raises(ConfigError, match=r"TrainConfig\.remat"):
        TrainConfig(remat="some")


def test_a_table_goes_with_any_length() -> None:
    x = jnp.ones((1, 300, 1, 4))
    table = jnp.tril(jnp.ones((300, 300), bool))[None, None]
    assert attend(x, x, x, table).shape == x.shape
