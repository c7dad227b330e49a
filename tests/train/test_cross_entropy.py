"""Cross-entropy by chunks is the definition, and multiplies only what is supervised."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rsvlm_jax.config import MeshConfig
from rsvlm_jax.mesh import collectives, make_mesh
from rsvlm_jax.train import text_loss

B, L, D, V = 3, 7, 4, 11


@dataclasses.dataclass
class Vocabulary:
    vocab_size: int = V


class Decoder:
    """A language head, and a record of how many positions it multiplied, chunk by chunk."""

    config = Vocabulary()

    def __init__(self, kernel=None) -> None:
        self.kernel = jax.random.normal(jax.random.key(0), (D, V)) if kernel is None else kernel
        self.seen: list[int] = []

    def logits(self, hidden):
        positions = hidden.shape[0] * hidden.shape[1]
        jax.debug.callback(lambda: self.seen.append(positions))
        return hidden @ self.kernel


def text(seed: int = 0):
    rng = np.random.default_rng(seed)
    hidden = jnp.asarray(rng.normal(size=(B, L, D)), jnp.float32)
    tokens = jnp.asarray(rng.integers(0, V, (B, L)), jnp.int32)
    weight = jnp.asarray(rng.random((B, L)) * (rng.random((B, L)) < 0.6), jnp.float32)
    return hidden, tokens, weight.at[:, 0].set(0)


def naive(decoder, hidden, tokens, weight):
    """Position by position, as the definition reads."""
    result = 0.0
    for b in range(B):
        for i in range(1, L):
            scores = np.asarray(hidden[b, i - 1] @ decoder.kernel, np.float64)
            nll = np.log(np.exp(scores).sum()) - scores[tokens[b, i]]
            result += float(weight[b, i]) * nll
    return result


def slopes(args, chunk):
    """Loss and its slopes for the head and the hidden states."""
    hidden, tokens, weight = args

    def loss(kernel, hidden):
        return text_loss(Decoder(kernel), hidden, tokens, weight, chunk=chunk)[0]

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(Decoder().kernel, hidden)


@pytest.mark.parametrize("positions", [1, 2, 4, 100])
def test_text_loss_is_the_definition_whatever_the_chunk(positions):
    decoder, args = Decoder(), text()
    sums, weight = text_loss(decoder, *args, chunk=positions * V)
    jax.effects_barrier()
    assert float(sums) == pytest.approx(naive(decoder, *args), rel=1e-5)
    assert float(weight) == pytest.approx(float(args[2].sum()), rel=1e-6)
    whole = positions >= B * L
    supervised = int((args[2] > 0).sum())
    chunks = 1 if whole else -(-supervised // positions)
    assert decoder.seen == [B * L if whole else positions] * chunks


@pytest.mark.parametrize("positions", [1, 2, 5])
def test_chunks_do_not_change_the_gradient(positions):
    whole, parts = slopes(text(), 10**9), slopes(text(), positions * V)
    for want, got in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_without_a_supervised_position_nothing_is_multiplied():
    hidden, tokens, weight = text()
    decoder = Decoder()
    sums, total = text_loss(decoder, hidden, tokens, jnp.zeros_like(weight), chunk=V)
    jax.effects_barrier()
    assert (float(sums), float(total), decoder.seen) == (0, 0, [])
    loss, found = slopes((hidden, tokens, jnp.zeros_like(weight)), V)
    assert float(loss) == 0
    assert not any(np.asarray(x).any() for x in found)


@pytest.mark.parametrize("chunk", [2 * V, 10**9])
def test_labels_without_weight_may_be_anything(chunk):
    hidden, tokens, weight = text()
    odd = jnp.where(weight > 0, tokens, -100)
    want, got = slopes((hidden, tokens, weight), chunk), slopes((hidden, odd, weight), chunk)
    jax.tree.map(np.testing.assert_array_equal, want, got)


def test_a_head_that_is_not_trained_has_no_gradient_product():
    """Scores, and the slope of the states; with the head's, one product more."""
    hidden, tokens, weight = text()

    def products(argnums):
        def loss(kernel, hidden):
            return text_loss(Decoder(kernel), hidden, tokens, weight, chunk=2 * V)[0]

        made = jax.make_jaxpr(jax.grad(loss, argnums))(Decoder().kernel, hidden)
        return str(made).count("dot_general")

    assert products((0, 1)) == products(1) + 1


@pytest.mark.parametrize("chunk", [V, 3 * V])
def test_eight_devices_agree_and_keep_their_states(chunk):
    """Rows 0 to 3 have all the supervised positions: devices that have none wait."""
    rng = np.random.default_rng(1)
    hidden = jnp.asarray(rng.normal(size=(8, 16, 64)), jnp.float32)
    tokens = jnp.asarray(rng.integers(0, V, (8, 16)), jnp.int32)
    weight = jnp.asarray((rng.random((8, 16)) < 0.4) * rng.random((8, 16)), jnp.float32)
    weight = weight.at[4:].set(0)
    kernel = jnp.asarray(rng.normal(size=(64, V)), jnp.float32)

    def loss(kernel, hidden):
        decoder = Plain(kernel)
        return text_loss(decoder, hidden, tokens, weight, chunk=chunk)[0]

    slope = jax.value_and_grad(loss, (0, 1))
    want = jax.jit(slope)(kernel, hidden)
    mesh = make_mesh(MeshConfig(4, 2, 1))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    split = NamedSharding(mesh, PartitionSpec("fsdp"))
    with jax.set_mesh(mesh):
        program = jax.jit(slope, in_shardings=(split, rows), out_shardings=(None, (split, rows)))
        got = program(kernel, hidden)
        moved = collectives(program.lower(kernel, hidden).compile())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), want, got)
    assert max(c.bytes for c in moved) <= kernel.nbytes < hidden.nbytes / 8


class Plain(Decoder):
    def logits(self, hidden):
        return hidden @ self.kernel
