"""The decoder against transformers' LlamaForCausalLM: states and logits within 1e-4, text equal."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import NEW_TOKENS, Reference, reference

from rsvlm_jax.config import LlamaConfig
from rsvlm_jax.generate import generate
from rsvlm_jax.models.llama import Llama
from rsvlm_jax.nn import causal_segment_mask

CASES = ["llama_gqa_untied", "llama_mqa_tied", "llama_mha_tied"]


def decoder(ref: Reference) -> Llama:
    """The same model in this project's layout."""
    o, w = ref.options, ref.weights
    config = LlamaConfig(
        vocab_size=o["vocab_size"],
        width=o["hidden_size"],
        layers=o["num_hidden_layers"],
        heads=o["num_attention_heads"],
        kv_heads=o["num_key_value_heads"],
        mlp_dim=o["intermediate_size"],
        max_length=32,
        rope_theta=o["theta"],
        tie_embeddings=bool(o.get("tie", 0)),
    )

    def stacked(name: str) -> jnp.ndarray:
        arrays = [w[f"model.layers.{i}.{name}.weight"] for i in range(config.layers)]
        return jnp.asarray(np.stack([a.T for a in arrays]))  # .T leaves norms as they are

    params = {
        "embed": {"embedding": jnp.asarray(w["model.embed_tokens.weight"])},
        "norm": {"scale": jnp.asarray(w["model.norm.weight"])},
        "layers": {
            "norm1": {"scale": stacked("input_layernorm")},
            "norm2": {"scale": stacked("post_attention_layernorm")},
            "attention": {n: {"kernel": stacked(f"self_attn.{n}_proj")} for n in "qkvo"},
            "mlp": {n: {"kernel": stacked(f"mlp.{n}_proj")} for n in ("gate", "up", "down")},
        },
    }
    if not config.tie_embeddings:
        params["lm_head"] = {"kernel": jnp.asarray(w["lm_head.weight"].T)}
    model = nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
    nnx.update(model, params)
    return model


@pytest.mark.parametrize("case", CASES)
def test_states_and_logits(case: str) -> None:
    ref = reference(case)
    model = decoder(ref)
    tokens = jnp.asarray(ref.inputs["tokens"], jnp.int32)
    valid = ref.inputs["valid"].astype(bool)
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
    mask = causal_segment_mask(jnp.asarray(valid, jnp.int32), position)
    hidden = nnx.jit(lambda m: m(m.embed(tokens), mask, position))(model)
    logits = model.logits(hidden)
    np.testing.assert_allclose(hidden[valid], ref.outputs["hidden"][valid], rtol=0, atol=1e-4)
    np.testing.assert_allclose(logits[valid], ref.outputs["logits"][valid], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", CASES[:2])
def test_greedy_text(case: str) -> None:
    ref = reference(case)
    model = decoder(ref)
    tokens = jnp.asarray(ref.inputs["tokens"][:1], jnp.int32)
    out = generate(
        model, model.embed(tokens), jnp.ones(tokens.shape, bool), max_new=NEW_TOKENS, eos=2
    )
    wanted = ref.outputs["greedy"].tolist()
    assert out.tokens[0, : len(wanted)].tolist() == wanted
