"""LLaVA against transformers: logits, gradients, greedy text, both layouts, masks, round trips."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import cases_llava
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compare import Record, same_gradients, same_logits
from flax import nnx
from reference import HAS_TORCH, Reference, reference
from safetensors.numpy import load_file

from rsvlm_jax.config import MeshConfig
from rsvlm_jax.core import flat
from rsvlm_jax.interop.families.llava import LLAVA
from rsvlm_jax.interop.huggingface import load_pretrained, save_pretrained
from rsvlm_jax.interop.rows import write
from rsvlm_jax.run.open_pretrained import open_pretrained
from rsvlm_jax.run.pretrained import Pretrained

CASES = {case.name: case for case in cases_llava.CASES}
each = pytest.mark.parametrize("name", CASES)
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch")
SIDES = ("left", "right")


@functools.cache
def known(name: str) -> Reference:
    return reference(CASES[name])


@functools.cache
def folder(name: str, made: Path) -> Path:
    return known(name).save(made / name)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("llava")


@functools.cache
def loaded(name: str, home: Path) -> Pretrained:
    return open_pretrained(folder(name, home))


def asked(name: str, side: str) -> dict[str, np.ndarray]:
    """What a processor yields."""
    inputs = known(name).inputs
    return {
        "input_ids": inputs[f"{side}_ids"],
        "attention_mask": inputs[f"{side}_mask"],
        "pixel_values": inputs["pixel_values"],
    }


@each
@pytest.mark.parametrize("side", SIDES)
def test_logits(name: str, side: str, home: Path, record_property: Record) -> None:
    given = asked(name, side)
    logits = loaded(name, home).logits(**given)
    wanted = known(name).outputs[f"{side}_logits"]
    assert logits.dtype == jnp.float32
    assert logits.shape == wanted.shape
    there = given["attention_mask"] > 0
    same_logits(record_property, np.asarray(logits)[there], wanted[there])


@each
def test_logits_of_text_alone(name: str, home: Path, record_property: Record) -> None:
    ids = known(name).inputs["right_ids"][1:2, :5]
    found = loaded(name, home).logits(ids.tolist())
    same_logits(record_property, found, known(name).outputs["text_logits"])


@each
def test_greedy_text_of_64_tokens(name: str, home: Path) -> None:
    said = loaded(name, home).generate(**asked(name, "left"), max_new_tokens=64)
    assert said.tokens.shape == (3, 64)
    np.testing.assert_array_equal(said.tokens, known(name).outputs["greedy"])


@each
def test_padding_on_the_other_side_says_the_same(name: str, home: Path) -> None:
    one = loaded(name, home)
    a, b = (one.generate(**asked(name, side), max_new_tokens=64).tokens for side in SIDES)
    np.testing.assert_array_equal(a, b)


@each
def test_gradients_of_every_parameter(name: str, home: Path, record_property: Record) -> None:
    one = loaded(name, home)
    batches = {}
    for side in SIDES:
        given = asked(name, side)
        batches[side] = one._batch(
            *(given[k] for k in ("input_ids", "pixel_values", "attention_mask"))
        )

    @jax.jit
    def run(params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            model = nnx.merge(one.graphdef, params)
            total = jnp.float32(0)
            for side, batch in batches.items():
                ids, mask = asked(name, side)["input_ids"], asked(name, side)["attention_mask"]
                counts = (mask[:, 1:] * mask[:, :-1] > 0) & (ids[:, 1:] != cases_llava.IMAGE)
                logits = model.decoder.logits(model(batch).hidden)[:, :-1]
                each = optax.softmax_cross_entropy_with_integer_labels(
                    logits, jnp.asarray(ids[:, 1:], jnp.int32)
                )
                total += jnp.where(counts, each, 0.0).sum() / counts.sum().astype(np.float32)
            return total

        return jax.value_and_grad(loss)(params)

    value, grads = run(one.params)
    np.testing.assert_allclose(value, known(name).outputs["loss"], rtol=1e-5)
    config = load_pretrained(folder(name, home)).config
    ours = dict(write(LLAVA.table(config), flat(grads)))
    theirs = {
        LLAVA.canonical(k.removeprefix("grad:")): v
        for k, v in known(name).outputs.items()
        if k.startswith("grad:")
    }
    # transformers gives no gradient to what does not reach the loss: pooling, the last layers.
    for key in ours.keys() - theirs.keys():
        assert key.startswith("vision_tower.")
        assert not ours[key].any(), key
    same_gradients(record_property, {k: ours[k] for k in ours.keys() & theirs.keys()}, theirs)


@each
def test_what_stands_at_padding_changes_no_bit(name: str, home: Path) -> None:
    one = loaded(name, home)
    for side in SIDES:
        given = asked(name, side)
        padding = given["attention_mask"] == 0
        assert padding.any()
        dirty = given | {"input_ids": np.where(padding, -200, given["input_ids"])}
        np.testing.assert_array_equal(one.logits(**given), one.logits(**dirty))


def test_images_of_masked_placeholders_change_no_bit(home: Path) -> None:
    one, given = loaded("llava", home), asked("llava", "left")
    ids, mask = given["input_ids"], given["attention_mask"].copy()
    mask[0] *= ids[0] != cases_llava.IMAGE
    pixels = given["pixel_values"].copy()
    before = one.logits(ids, pixels, mask)
    pixels[:2] = 100 * np.random.default_rng(0).standard_normal(pixels[:2].shape)
    np.testing.assert_array_equal(before, one.logits(ids, pixels, mask))


def test_prompts_do_not_read_each_other(home: Path) -> None:
    one, given = loaded("llava", home), asked("llava", "left")
    pixels = given["pixel_values"].copy()
    pixels[2] += 1
    before, after = (np.asarray(one.logits(**given | {"pixel_values": p})) for p in (
        given["pixel_values"], pixels,
    ))  # fmt: skip
    np.testing.assert_array_equal(before[:2], after[:2])
    assert np.abs(before[2] - after[2]).max() > 1e-3


@each
def test_every_layout_says_the_same(name: str, home: Path, tmp_path: Path) -> None:
    """On disk of 4.x and 5.x, and as the classes name their parts in memory."""
    one = loaded(name, home)
    for version, rename in LAYOUTS.items():
        made = known(name).save(tmp_path / version, lambda k: rename(LLAVA.canonical(k)))  # noqa: B023
        again = load_pretrained(made)
        same_bits(one.params, again.params)


def _memory(name: str) -> str:
    name = name.replace("language_model.model.", "model.language_model.")
    name = name.replace("language_model.lm_head", "lm_head")
    inner = ("vision_tower.", "multi_modal_projector.")
    return f"model.{name}" if name.startswith(inner) else name


def _bare(name: str) -> str:
    return name.replace("vision_tower.vision_model.", "vision_tower.")


LAYOUTS = {
    "4.x on disk": str,
    "5.x on disk": _bare,
    "4.x in memory": _memory,
    "5.x in memory": lambda name: _memory(_bare(name)),
}


@each
def test_configs_of_both_spellings_say_the_same(name: str, home: Path, tmp_path: Path) -> None:
    one = load_pretrained(folder(name, home))
    out = save_pretrained(tmp_path / "out", one.family.architecture, one.config, one.params)
    assert load_pretrained(out).config == one.config


@each
def test_export_and_import_are_the_identity(name: str, home: Path, tmp_path: Path) -> None:
    one = load_pretrained(folder(name, home))
    out = save_pretrained(tmp_path / "out", one.family.architecture, one.config, one.params)
    weights = load_file(out / "model.safetensors")
    before = {LLAVA.canonical(k): v for k, v in known(name).weights.items()}
    assert weights.keys() == before.keys()
    for key, value in weights.items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)
    same_bits(one.params, load_pretrained(out).params)


@needs_torch
@each
def test_torch_reads_the_export_and_gives_the_same_bits(
    name: str, home: Path, tmp_path: Path
) -> None:
    import torch
    import transformers

    one = load_pretrained(folder(name, home))
    out = save_pretrained(tmp_path / "out", one.family.architecture, one.config, one.params)
    cls = transformers.LlavaForConditionalGeneration
    model, info = cls.from_pretrained(out, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"{kind}: {info[kind]}"
    inputs = {k: torch.from_numpy(v) for k, v in known(name).inputs.items()}
    again = CASES[name].run(model.eval(), inputs)
    for key, value in known(name).outputs.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)


def test_bfloat16_is_near_float32(home: Path) -> None:
    half = open_pretrained(folder("llava", home), dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(half.params)} == {jnp.dtype("bfloat16")}
    given = asked("llava", "left")
    there = given["attention_mask"] > 0
    a, b = (np.asarray(m.logits(**given))[there] for m in (half, loaded("llava", home)))
    assert a.dtype == np.float32
    assert np.isfinite(a).all()
    assert np.abs(a - b).mean() < 0.05 * b.std()


def test_a_mesh_of_eight_gives_the_same_logits(home: Path) -> None:
    spread = open_pretrained(
        folder("llava_siglip_qwen2", home), mesh=MeshConfig(data=1, fsdp=4, tensor=2)
    )
    kernel = spread.params["decoder"]["layers"]["mlp"]["gate"]["kernel"]
    assert len({str(s.index) for s in kernel.addressable_shards}) == 8
    given = asked("llava_siglip_qwen2", "right")
    there = given["attention_mask"] > 0
    a, b = (
        np.asarray(m.logits(**given))[there] for m in (spread, loaded("llava_siglip_qwen2", home))
    )
    np.testing.assert_allclose(a, b, atol=1e-5 * b.std(), rtol=0)


def same_bits(a: Any, b: Any) -> None:
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    for path, x in a.items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(b[path]), err_msg=path)


PUBLISHED = {
    "llava-hf/llava-1.5-7b-hf": ({}, 7_063_427_072),
    "llava-hf/llava-1.5-13b-hf": (
        {
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_attention_heads": 40,
            "num_hidden_layers": 40,
            "num_key_value_heads": 40,
        },
        13_351_494_656,
    ),
}
"""What their `text_config` says beyond the defaults, and the numbers in their tensors."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_give_the_published_number_of_parameters(name: str) -> None:
    """4.x writes of a nested config only what is not its class's default."""
    text, count = PUBLISHED[name]
    vision = {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    }
    shared = {
        "model_type": "llama",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float16",
        "vocab_size": 32064,
    }
    config = LLAVA.read_config(
        {
            "architectures": ["LlavaForConditionalGeneration"],
            "ignore_index": -100,
            "image_token_index": 32000,
            "model_type": "llava",
            "pad_token_id": 32001,
            "projector_hidden_act": "gelu",
            "text_config": shared | text,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "vision_config": vision,
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
        }
    )
    assert config.model.frame_tokens == 576
    model = nnx.eval_shape(lambda: LLAVA.build(config, nnx.Rngs(0)))
    assert sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param))) == count
