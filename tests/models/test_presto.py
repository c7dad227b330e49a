"""Presto: the public model's numbers, what masks hide, gradients, LoRA, and where it is stored."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import FAST, shapes
from flax import nnx
from jax.sharding import PartitionSpec as P
from references import presto_arrays, presto_case

from rsvlm_jax.assets.make_encoders import EVERY
from rsvlm_jax.config import ConfigError, LoraConfig, MeshConfig, PrestoConfig
from rsvlm_jax.core import flat
from rsvlm_jax.interop import encoders
from rsvlm_jax.mesh import RULES, make_mesh, resolve
from rsvlm_jax.models.presto import GROUPS, MISSING, Presto, PrestoInputs
from rsvlm_jax.models.seen import run_seen
from rsvlm_jax.nn import add_lora
from rsvlm_jax.nn.stack import first_layers
from rsvlm_jax.train import split_model

TOLERANCE = 1e-4
WHOLE = PrestoConfig(decoder=True)


@pytest.fixture(scope="module")
def model() -> Presto:
    return encoders.presto(WHOLE)


@functools.partial(jax.jit, compiler_options=FAST)
def all_of(state, inputs: PrestoInputs) -> dict[str, jax.Array]:
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: Presto(WHOLE, rngs=nnx.Rngs(0))))
    model = nnx.merge(graphdef, state)
    decoder = model.decoder
    embedded, seen = model.embed_tokens(inputs)
    tokens, _ = model(inputs)
    entering = decoder.embed_tokens(tokens, seen, inputs.month, model.channel[...])
    everything = jnp.ones(seen.shape, bool)
    values, classes = model.reconstruct(inputs)
    return {
        "token_keep": seen,
        "embedded": embedded,
        "block0": run_seen(first_layers(model.layers, 1), embedded, seen, remat="none"),
        "block1": run_seen(model.layers, embedded, seen, remat="none"),
        "tokens": tokens,
        "pooled": model.pooled(inputs),
        "decoder_in": entering,
        "decoder_block0": run_seen(
            first_layers(decoder.layers, 1), entering, everything, remat="none"
        ),
        "recon_eo": values,
        "recon_dw": classes,
    }


@pytest.mark.parametrize("case", ["fuel", "rand"])
def test_numbers_are_those_of_the_public_model(model: Presto, case: str):
    made = jax.device_get(all_of(nnx.state(model), presto_case(case)))
    wanted, compared = presto_arrays(), 0
    for name, ours in made.items():
        theirs = wanted.get(f"{case}_{name}")
        if theirs is None:
            continue
        compared += 1
        if name == "token_keep":
            assert np.array_equal(ours, theirs)
            continue
        whole = name in ("pooled", "recon_eo", "recon_dw")
        ours = ours if whole else ours[:, ::EVERY]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE, err_msg=name)
    assert compared == {"fuel": 7, "rand": 10}[case]


def test_values_under_the_mask_change_no_bit(model: Presto):
    """Nor do the other features of a token that lacks one, nor terrain after the first step."""
    inputs = presto_case("rand")
    hidden = ~np.asarray(inputs.seen)
    for group in GROUPS:
        index = list(group.features)
        hidden[:, :, index] |= hidden[:, :, index].any(axis=2, keepdims=True)
    terrain = [14, 15]
    hidden[:, :, terrain] = hidden[:, :1, terrain]
    hidden[:, 1:, terrain] = True
    assert hidden.mean() > 0.2
    changed = dataclasses.replace(inputs, x=jnp.where(jnp.asarray(hidden), jnp.nan, inputs.x))
    state = nnx.state(model)
    a, b = all_of(state, inputs), all_of(state, changed)
    for name in a:
        assert np.array_equal(a[name], b[name]), name


def nothing_seen(inputs: PrestoInputs) -> PrestoInputs:
    """The first sample as it is; of the second nothing is seen, and its values are not numbers."""
    two = jax.tree.map(lambda a: a[:2], inputs)
    return dataclasses.replace(
        two,
        x=two.x.at[1].set(jnp.nan),
        seen=two.seen.at[1].set(False),
        dynamic_world=two.dynamic_world.at[1].set(MISSING),
        lonlat=two.lonlat.at[1].set(jnp.nan),
    )


def test_gradients_reach_every_parameter_and_are_finite(model: Presto):
    inputs = nothing_seen(presto_case("fuel"))
    graphdef, params, _ = split_model(model)

    @functools.partial(jax.jit, compiler_options=FAST)
    @jax.grad
    def gradient(params):
        made = nnx.merge(graphdef, params)
        masked = dataclasses.replace(inputs, seen=inputs.seen.at[:, 1].set(False))
        values, classes = made.reconstruct(masked)
        loss = jnp.square(values).mean() + jnp.square(classes).mean()
        return loss + jnp.square(made.pooled(inputs)).sum()

    for path, g in flat(gradient(params)).items():
        assert np.isfinite(g).all(), path
        if not path.endswith("attention/k/bias"):  # a softmax does not see what all keys share
            assert np.abs(g).max() > 0, path


def test_a_sample_of_which_nothing_is_known_gives_zeros(model: Presto):
    inputs = nothing_seen(presto_case("fuel"))
    made = jax.jit(lambda i: model.pooled(i))(inputs)
    np.testing.assert_allclose(made[0], presto_arrays()["fuel_pooled"][0], rtol=0, atol=TOLERANCE)
    assert (np.asarray(made[1]) == 0).all()


def test_lora_goes_beside_its_linear_layers(model: Presto):
    graphdef, state = nnx.split(model)
    adapted = add_lora(nnx.merge(graphdef, state), LoraConfig(rank=2, alpha=4.0), nnx.Rngs(1))
    factors = {p for p in flat(nnx.state(adapted)) if p.endswith(("_lora_a", "_lora_b"))}
    linears = [*(f"attention/{n}" for n in "qkvo"), "mlp/fc1", "mlp/fc2"]
    towers = ("layers", "decoder/layers")
    wanted = {f"{t}/{n}/kernel_lora_{x}" for t in towers for n in linears for x in "ab"}
    assert factors == wanted


def test_inputs_that_it_cannot_read(model: Presto):
    good = presto_case("rand")
    long = jax.tree.map(lambda a: jnp.repeat(a, 3, axis=1)[:, :25] if a.shape[1] == 12 else a, good)
    with pytest.raises(ConfigError, match=r"a series longer than Presto .* at most 24; found 25"):
        shapes(model, lambda m: m(long))
    encoder = nnx.eval_shape(lambda: Presto(PrestoConfig(), rngs=nnx.Rngs(0)))
    with pytest.raises(ConfigError, match=r"no decoder in PrestoConfig.decoder; expected True"):
        shapes(encoder, lambda m: m.reconstruct(good))


@pytest.mark.parametrize("plan", RULES)
def test_every_parameter_is_placed(plan: str):
    built = nnx.eval_shape(lambda: Presto(WHOLE, rngs=nnx.Rngs(0)))
    tree = {"encoders": {"presto": {"encoder": nnx.to_pure_dict(nnx.state(built))}}}
    placed = flat(resolve(tree, RULES[plan], make_mesh(MeshConfig(2, 2, 2))))
    split = {path for path, s in placed.items() if s.spec != P()}
    kernels = {path for path in placed if path.endswith("kernel")}
    assert split == (set() if plan in ("replicated", "lora_dp") else kernels)
