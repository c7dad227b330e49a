"""QLoRA on one device and on eight: the same losses, codes untouched, saved and read again."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest
from flax import nnx

from rsvlm_jax.config import LORA_ONLY, LlamaConfig, LoraConfig, MeshConfig
from rsvlm_jax.core import flat, is_lora, is_quantized
from rsvlm_jax.mesh import RULES, make_mesh, resolve
from rsvlm_jax.models.llama import Llama
from rsvlm_jax.nn import add_lora, causal_segment_mask, quantize
from rsvlm_jax.train import create, init_state, make_optimizer, make_train_step
from rsvlm_jax.train.checkpoint import Checkpoints
from rsvlm_jax.train.state import abstract

LORA = LoraConfig(rank=3, alpha=6.0)


def model(rngs: nnx.Rngs):
    return add_lora(quantize(nano.model(rngs), "int8"), LORA, rngs)


@pytest.fixture(scope="module")
def runs():
    exp = nano.experiment("adamw", groups=LORA_ONLY, learning_rate=0.01)
    graphdef, params, stats = create(model, seed=0)
    made = []
    for config in (MeshConfig(), MeshConfig(2, 2, 2)):
        mesh = make_mesh(config)
        optimizer = make_optimizer(exp.optimizer, 5, params)
        state = init_state(params, stats, optimizer, mesh, config=exp.optimizer)
        step = make_train_step(graphdef, exp, optimizer, mesh, state)
        made.append(nano.steps(state, step, 2))
    return params, *made


def test_losses_and_factors_agree(runs):
    _, (one, rows_one), (eight, rows_eight) = runs
    for a, b in zip(rows_one, rows_eight, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert a["skipped"] == b["skipped"] == 0
    other = flat(jax.device_get(eight.params))
    for path, x in flat(jax.device_get(one.params)).items():
        if not is_quantized(path):
            assert np.abs(other[path] - x).max() <= 1e-4, path


def test_codes_are_split_and_only_factors_moved(runs):
    before, _, (eight, _) = runs
    codes = [path for path in flat(before) if path.endswith("_int8")]
    assert len(codes) == 7
    for path in codes:
        assert not flat(eight.params)[path].sharding.is_fully_replicated, path
    for path, x in flat(jax.device_get(eight.params)).items():
        assert np.array_equal(x, flat(before)[path]) != is_lora(path), path
    assert not [path for path in flat(eight.opt_state) if is_quantized(path)]


def test_a_checkpoint_holds_codes(runs, tmp_path: Path):
    _, _, (eight, _) = runs
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, eight, {})
        back, _ = checkpoints.restore(abstract(eight))
    for path, x in flat(eight).items():
        found = flat(back)[path]
        assert (found.dtype, found.sharding) == (x.dtype, x.sharding), path
        np.testing.assert_array_equal(found, x, err_msg=path)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_logits_of_codes_on_a_mesh(kind):
    config = LlamaConfig(
        vocab_size=32, width=128, layers=2, heads=4, kv_heads=2, mlp_dim=256, max_length=16
    )
    graphdef, state = nnx.split(quantize(Llama(config, rngs=nnx.Rngs(0)), kind))
    params = {"decoder": nnx.to_pure_dict(state)}
    mesh = make_mesh(MeshConfig(2, 2, 2))
    placed = jax.device_put(params, resolve(params, RULES["fsdp_tensor"], mesh))
    assert not flat(placed)[f"decoder/layers/mlp/down/kernel_{kind}"].is_fully_replicated

    @jax.jit
    def logits(params):
        decoder = nnx.merge(graphdef, params["decoder"])
        tokens = jnp.arange(12, dtype=jnp.int32).reshape(4, 3)
        position = jnp.broadcast_to(jnp.arange(3, dtype=jnp.int32), (4, 3))
        mask = causal_segment_mask(jnp.ones((4, 3), jnp.int32), position)
        return decoder.logits(decoder(decoder.embed(tokens), mask, position))

    want = logits(params)
    with jax.set_mesh(mesh):
        got = logits(placed)
    assert np.abs(np.asarray(got) - np.asarray(want)).max() <= 1e-5 * float(jnp.abs(want).max())
