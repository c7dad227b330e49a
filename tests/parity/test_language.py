"""Decoders against transformers: states, logits, gradients, texts; and the way back, bit by bit."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_language import CASES, EOS, LENGTHS, NEW_TOKENS
from compare import Record, same_gradients, same_logits, same_states
from flax import nnx
from reference import HAS_TORCH, Reference, reference
from safetensors.numpy import load_file

from rsvlm_jax.config import CheckpointError, GenerationConfig, GPT2Config, LlamaConfig, MeshConfig
from rsvlm_jax.core import flat
from rsvlm_jax.generate import generate
from rsvlm_jax.interop import rows
from rsvlm_jax.interop.families import FAMILIES
from rsvlm_jax.interop.huggingface import Imported, load_pretrained, save_pretrained
from rsvlm_jax.mesh import RULES, make_mesh, resolve
from rsvlm_jax.models.language import language_model
from rsvlm_jax.nn import causal_segment_mask

BY_NAME = {case.name: case for case in CASES}
NAMES = list(BY_NAME)


@functools.cache
def read(name: str) -> Reference:
    return reference(BY_NAME[name])


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @functools.cache
    def one(name: str) -> Imported:
        return load_pretrained(read(name).save(tmp_path_factory.mktemp(name) / "theirs"))

    return one


@functools.partial(jax.jit, static_argnums=0)
def forward(graphdef: Any, params: Any, tokens: jax.Array, x: jax.Array | None = None) -> Any:
    model = nnx.merge(graphdef, params)
    x = model.embed(tokens) if x is None else x
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
    hidden = model(x, causal_segment_mask(jnp.ones_like(tokens), position), position)
    return hidden, model.logits(hidden)


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradients(graphdef: Any, params: Any, tokens: jax.Array) -> Any:
    def loss(params: Any) -> Any:
        hidden, logits = forward(graphdef, params, tokens)
        said = jax.nn.log_softmax(logits[:, :-1])
        chosen = jnp.take_along_axis(said, tokens[:, 1:, None], axis=2)
        return -chosen.mean(), (hidden, logits)

    return jax.value_and_grad(loss, has_aux=True)(params)


@pytest.mark.parametrize("name", NAMES)
def test_states_logits_and_gradients(name: str, imported: Any, record_property: Record) -> None:
    wanted, ours = read(name), imported(name)
    tokens = jnp.asarray(wanted.inputs["tokens"], jnp.int32)
    (loss, (hidden, logits)), grads = loss_and_gradients(ours.graphdef, ours.params, tokens)
    out = wanted.outputs
    same_states(record_property, hidden, out["hidden"])
    same_logits(record_property, logits, out["logits"])
    np.testing.assert_allclose(loss, out["loss"], rtol=1e-5)
    theirs = dict(rows.write(ours.family.table(ours.config), flat(grads)))
    expected = {k.removeprefix("grad:"): v for k, v in out.items() if k.startswith("grad:")}
    same_gradients(record_property, theirs, expected)


@pytest.mark.parametrize("name", NAMES)
def test_64_greedy_tokens_in_a_padded_batch(name: str, imported: Any) -> None:
    """The short prompt with padding on the left, on the right and within; the long one has none."""
    wanted, model = read(name), imported(name).model
    short, long = LENGTHS
    gap = long - short
    layouts = [range(gap, long), range(short), [0, 1, 2, 7, long - 1], range(long)]
    ids = np.full((4, long), EOS)
    valid = np.zeros((4, long), bool)
    for row, slots in enumerate(layouts):
        valid[row, list(slots)] = True
        ids[row, list(slots)] = wanted.inputs["prompts"][int(row == 3), : len(slots)]
    prefix = model.embed(jnp.asarray(ids, jnp.int32))
    config = GenerationConfig(max_new_tokens=NEW_TOKENS)
    out = generate(model, prefix, jnp.asarray(valid), config=config, eos=EOS, banned=(EOS,))
    for row, slots in enumerate(layouts):
        said = wanted.outputs[f"greedy{len(slots)}"]
        assert len(said) == NEW_TOKENS
        assert out.tokens[row].tolist() == said.tolist(), row


@pytest.mark.parametrize("name", ["llama_odd", "llama_dynamic_rope", "qwen3", "gpt2"])
def test_bfloat16_is_finite_and_near(name: str, imported: Any) -> None:
    ours = imported(name)
    tokens = jnp.asarray(read(name).inputs["tokens"][:1], jnp.int32)
    x = ours.model.embed(tokens).astype(jnp.bfloat16)
    hidden, logits = forward(ours.graphdef, ours.params, tokens, x)
    assert hidden.dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    exact = read(name).outputs["logits"][:1]
    off = np.asarray(logits) - exact
    assert np.isfinite(off).all()
    assert np.sqrt(np.square(off).mean()) < 0.05 * exact.std()


@pytest.mark.parametrize("name", NAMES)
def test_import_export_import_is_the_identity(name: str, imported: Any, tmp_path: Path) -> None:
    ours = imported(name)
    folder = save_pretrained(tmp_path / "a", ours.family.architecture, ours.config, ours.params)
    weights = load_file(folder / "model.safetensors")
    original = read(name).weights
    assert sorted(weights) == sorted(original)
    for key, value in original.items():
        np.testing.assert_array_equal(weights[key], value, err_msg=key)
    again = load_pretrained(folder)
    assert again.config == ours.config
    assert not again.report.ignored
    for path, value in flat(again.params).items():
        np.testing.assert_array_equal(value, flat(ours.params)[path], err_msg=path)


@pytest.mark.parametrize("name", ["llama_biases", "qwen2", "gpt2"])
def test_an_import_onto_eight_devices_is_the_same(name: str, imported: Any, tmp_path: Path) -> None:
    mesh = make_mesh(MeshConfig(2, 2, 2))

    def place(params: Any) -> Any:
        return resolve({"decoder": params}, RULES["fsdp_tensor"], mesh)["decoder"]

    sharded = flat(load_pretrained(read(name).save(tmp_path / "a"), place=place).params)
    kernel = sharded["layers/attention/q/kernel"]
    assert {s.data.shape[1:] for s in kernel.addressable_shards} == {
        (kernel.shape[1] // 2, kernel.shape[2] // 2)
    }
    for path, value in flat(imported(name).params).items():
        np.testing.assert_array_equal(sharded[path], value, err_msg=path)


@pytest.mark.skipif(not HAS_TORCH, reason="needs torch")
@pytest.mark.parametrize("name", NAMES)
def test_torch_reads_the_export_to_the_same_bits(name: str, imported: Any, tmp_path: Path) -> None:
    import torch
    import transformers

    ours, case = imported(name), BY_NAME[name]
    save_pretrained(tmp_path / "a", case.architecture, ours.config, ours.params)
    model, info = getattr(transformers, case.architecture).from_pretrained(
        tmp_path / "a", output_loading_info=True
    )
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.float32
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(read(name).inputs["tokens"])).logits
    np.testing.assert_array_equal(logits.numpy(), read(name).outputs["logits"])


@pytest.mark.parametrize("name", NAMES)
def test_both_spellings_of_config_json(name: str) -> None:
    """Their file is of transformers 5, ours of 4: the same config, in words of their own."""
    case, family = BY_NAME[name], FAMILIES[BY_NAME[name].architecture]
    theirs = read(name).config
    ours = family.write_config(family.read_config(theirs))
    if case.architecture != "GPT2LMHeadModel":
        assert "rope_parameters" in theirs
        assert "rope_theta" not in theirs
        assert "rope_parameters" not in ours
        assert ours["rope_theta"] == theirs["rope_parameters"]["rope_theta"]
    assert family.read_config(json.loads(json.dumps(ours))) == family.read_config(theirs)


PUBLISHED = {
    "Qwen2-0.5B": (
        "Qwen2ForCausalLM",
        {
            "vocab_size": 151936, "hidden_size": 896, "num_hidden_layers": 24,
            "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864,
            "max_position_embeddings": 131072, "rope_theta": 1e6, "tie_word_embeddings": True,
            "use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 24,
        },
        494_032_768,
    ),
    "Qwen3-0.6B": (
        "Qwen3ForCausalLM",
        {
            "vocab_size": 151936, "hidden_size": 1024, "num_hidden_layers": 28, "head_dim": 128,
            "num_attention_heads": 16, "num_key_value_heads": 8, "intermediate_size": 3072,
            "max_position_embeddings": 40960, "rope_theta": 1e6, "tie_word_embeddings": True,
        },
        596_049_920,
    ),
    "Llama-2-7b": ("LlamaForCausalLM", {"max_position_embeddings": 4096}, 6_738_415_616),
    "vicuna-13b-v1.5": (
        "LlamaForCausalLM",
        {
            "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
            "num_attention_heads": 40, "max_position_embeddings": 4096,
        },
        13_015_864_320,
    ),
    "Mistral-7B-v0.1": (
        "MistralForCausalLM", {"max_position_embeddings": 32768}, 7_241_732_096,
    ),
    "gpt2": ("GPT2LMHeadModel", {"n_ctx": 1024, "n_head": 12}, 124_439_808),
}  # fmt: skip
"""config.json without what the class sets by itself, and the published number of parameters."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_of_parameters(name: str) -> None:
    architecture, config, count = PUBLISHED[name]
    config = FAMILIES[architecture].read_config(config)
    model = nnx.eval_shape(lambda: language_model(config, rngs=nnx.Rngs(0)))
    shapes = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(int(np.prod(x.shape)) for x in shapes) == count


ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("architecture", "config", "line"),
    [
        ("LlamaForCausalLM", {"hidden_act": "gelu"}, r"hidden_act; expected 'silu'; found 'gelu'"),
        ("LlamaForCausalLM", {"sliding_window": 8}, r"sliding_window; expected None; found 8"),
        ("MistralForCausalLM", {"attn_temperature_tuning": True}, r"attn_temperature_tuning"),
        (
            "LlamaForCausalLM",
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            r"rope_scaling.rope_type; expected default or linear or dynamic or llama3; found yarn",
        ),
        (
            "LlamaForCausalLM",
            {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}},
            r"rope_parameters.rope_type; .* found longrope",
        ),
        (
            "Qwen3ForCausalLM",
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            r"rope_parameters; expected rope_theta; found full_attention",
        ),
        (
            "LlamaForCausalLM",
            {"rope_scaling": {**ROPE, "attention_factor": 1.2}},
            r"rope_scaling; .* found attention_factor",
        ),
        (
            "LlamaForCausalLM",
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            r"a key is missing in .*rope_scaling; expected high_freq_factor, low_freq_factor",
        ),
        ("LlamaForCausalLM", {"partial_rotary_factor": 0.5}, r"partial_rotary_factor; .* 0\.5"),
        (
            "Qwen2ForCausalLM",
            {"use_sliding_window": True, "max_window_layers": 30},
            r"full_attention in every layer; found 2 of 32 with a sliding window",
        ),
        (
            "Qwen3ForCausalLM",
            {"num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"]},
            r"found 1 of 2 with a sliding window",
        ),
        ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True}, r"inverse_layer_idx"),
        ("GPT2LMHeadModel", {"reorder_and_upcast_attn": True}, r"reorder_and_upcast_attn"),
        ("GPT2LMHeadModel", {"add_cross_attention": True}, r"add_cross_attention"),
        ("GPT2LMHeadModel", {"scale_attn_weights": False}, r"scale_attn_weights"),
        ("GPT2LMHeadModel", {"tie_word_embeddings": False}, r"tie_word_embeddings"),
        ("GPT2LMHeadModel", {"activation_function": "tanh"}, r"activation_function; .* 'tanh'"),
    ],
)
def test_what_would_be_computed_differently_is_refused(
    architecture: str, config: dict[str, Any], line: str
) -> None:
    with pytest.raises(CheckpointError, match=line) as error:
        FAMILIES[architecture].read_config(config)
    assert "\n" not in str(error.value)


def test_what_other_readers_pass_over_is_read_as_they_do() -> None:
    qwen = FAMILIES["Qwen2ForCausalLM"].read_config
    full = qwen({"use_sliding_window": True, "max_window_layers": 32, "sliding_window": 8})
    assert full.sliding_window is None
    assert qwen({"use_sliding_window": False, "sliding_window": 8}).sliding_window is None
    mistral = FAMILIES["MistralForCausalLM"].read_config
    assert mistral({}).sliding_window == 4096
    assert mistral({"sliding_window": None}).sliding_window is None
    llama = FAMILIES["LlamaForCausalLM"].read_config
    old = llama({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}})
    new = llama(
        {"rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 5e5}, "dtype": "x"}
    )
    assert old == new
    length = llama({"rope_scaling": ROPE, "max_position_embeddings": 99}).rope_scaling
    assert length.original_max_position_embeddings == 99
    length = llama({"rope_scaling": ROPE, "original_max_position_embeddings": 7}).rope_scaling
    assert length.original_max_position_embeddings == 7


@pytest.mark.parametrize(
    ("architecture", "config", "line"),
    [
        ("LlamaForCausalLM", LlamaConfig(qk_norm=True), r"LlamaForCausalLM .* LlamaConfig.qk_norm"),
        ("LlamaForCausalLM", LlamaConfig(qkv_bias=True), r"o_bias; expected True; found False"),
        ("LlamaForCausalLM", LlamaConfig(sliding_window=8), r"sliding_window"),
        ("LlamaForCausalLM", LlamaConfig(width=60, heads=7, kv_heads=1, head_dim=8), r"a multiple"),
        ("MistralForCausalLM", LlamaConfig(mlp_bias=True), r"mlp_bias"),
        ("Qwen2ForCausalLM", LlamaConfig(), r"qkv_bias; expected True"),
        ("Qwen3ForCausalLM", LlamaConfig(), r"qk_norm; expected True"),
    ],
)
def test_what_a_class_does_not_compute_is_not_written_as_it(
    architecture: str, config: LlamaConfig, line: str
) -> None:
    with pytest.raises(CheckpointError, match=line):
        FAMILIES[architecture].write_config(config)


@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu", "relu"])
def test_activations_of_gpt2_go_both_ways(activation: Any) -> None:
    config = GPT2Config(activation=activation)
    family = FAMILIES["GPT2LMHeadModel"]
    assert family.read_config(family.write_config(config)) == config


def test_names_of_openais_own_file(tmp_path: Path) -> None:
    def rename(name: str) -> str:
        return name.removeprefix("transformer.")

    folder = read("gpt2").save(tmp_path / "theirs", rename)
    weights = load_file(folder / "model.safetensors")
    assert "h.0.attn.c_attn.weight" in weights
    again = load_pretrained(folder)
    assert again.report.read == len(weights)
