"""`rsvlm_jax.load(..., quantize=...)`: as quantised afterwards, on any mesh, with an adapter."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import rsvlm_jax
from rsvlm_jax.config import (
    DECODER_LINEARS,
    DECODER_WEIGHTS,
    CheckpointError,
    ConfigError,
    ConnectorConfig,
    GPT2Config,
    LlamaConfig,
    LoraConfig,
    MeshConfig,
    ViTConfig,
    VLMConfig,
)
from rsvlm_jax.core import LORA_B, flat, is_lora, is_quantized, map_with_path
from rsvlm_jax.interop import quantized, rows
from rsvlm_jax.interop.families import FAMILIES
from rsvlm_jax.interop.families.llava import LlavaConfig
from rsvlm_jax.interop.huggingface import load_pretrained, save_pretrained
from rsvlm_jax.interop.peft import read_adapter, save_adapter, with_adapter
from rsvlm_jax.interop.quantized import Codes
from rsvlm_jax.nn import add_lora, dequantize_params, quantize_params

TEXT = LlamaConfig(
    vocab_size=24, width=128, layers=2, heads=4, kv_heads=2, mlp_dim=256, max_length=64,
    tie_embeddings=False,
)  # fmt: skip
VISION = ViTConfig(
    image_size=16, patch_size=8, width=128, layers=2, heads=2, mlp_dim=128, feature_layers=(-2,),
    pool=True,
)  # fmt: skip
LLAVA = LlavaConfig(
    VLMConfig(vision=VISION, connector=ConnectorConfig(), decoder=TEXT, head=None), image_token=23
)
GPT2 = GPT2Config(vocab_size=24, width=128, layers=2, heads=4, mlp_dim=256, max_length=16)
CASES: dict[str, tuple[str, Any]] = {
    "llama": ("LlamaForCausalLM", TEXT),
    "gpt2": ("GPT2LMHeadModel", GPT2),  # fused q, k and v; kernels (in, out)
    "llava": ("LlavaForConditionalGeneration", LLAVA),
}
TOKENS = np.asarray([[3, 1, 4, 1, 5, 9, 2, 6]], np.int32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, (architecture, config) in CASES.items():
        build = FAMILIES[architecture].build
        shapes = nnx.state(nnx.eval_shape(lambda b=build, c=config: b(c, nnx.Rngs(0))), nnx.Param)
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda x, r=rng: (0.1 * r.standard_normal(x.shape)).astype(np.float32),
            nnx.to_pure_dict(shapes),
        )
        made[name] = tmp_path_factory.mktemp("quantized") / name
        save_pretrained(made[name], architecture, config, params)
    return made


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("mesh", [None, MeshConfig(4, 2, 1)], ids=["one", "fsdp"])
def test_as_quantised_after_reading(folders, name, kind, mesh):
    targets = r"(^|/)(layers/.+|lm_head)/kernel$"  # of the vision tower too
    plain = rsvlm_jax.load(folders[name])
    read = rsvlm_jax.load(folders[name], mesh=mesh, quantize=kind, quantize_targets=targets)
    want = flat(quantize_params(plain.params, kind, targets=targets))
    assert flat(read.params).keys() == want.keys()
    for path, x in flat(read.params).items():
        np.testing.assert_array_equal(x, want[path], err_msg=path)
        assert x.dtype == want[path].dtype, path
        split = mesh is not None and re.search(r"/(q|k|v|fc1|gate)/kernel_(int8|nf4)$", path)
        if split:
            assert not x.sharding.is_fully_replicated, path


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_it_computes(folders, kind):
    read = rsvlm_jax.load(folders["llama"], quantize=kind)
    back = dequantize_params(read.params)
    plain = rsvlm_jax.load(folders["llama"])
    want = nnx.merge(plain.graphdef, back)
    found = read.logits(TOKENS)
    hidden = jnp.tril(jnp.ones((8, 8), bool))[None, None]
    position = jnp.arange(8, dtype=jnp.int32)[None]
    expected = want.logits(want(want.embed(jnp.asarray(TOKENS)), hidden, position))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert read.generate(TOKENS, max_new_tokens=3, ends=()).tokens.shape == (1, 3)


def test_codes_come_from_the_numbers_of_the_file_whatever_is_stored(folders):
    full = flat(rsvlm_jax.load(folders["llama"], quantize="int8").params)
    half = flat(rsvlm_jax.load(folders["llama"], quantize="int8", dtype="bfloat16").params)
    for path, x in half.items():
        assert x.dtype == (full[path].dtype if is_quantized(path) else jnp.bfloat16), path
        if is_quantized(path):
            np.testing.assert_array_equal(x, full[path])


def test_table_and_head_where_asked(folders):
    read = rsvlm_jax.load(folders["llama"], quantize="int8", quantize_targets=DECODER_WEIGHTS)
    names = {"embed/embedding_int8", "embed/embedding_scale", "lm_head/kernel_int8"}
    assert names <= flat(read.params).keys()
    assert np.isfinite(read.logits(TOKENS)).all()


def test_one_layer_of_floats_at_a_time(folders, monkeypatch: pytest.MonkeyPatch):
    """The buffers that are filled: codes of whole stacks, floats of single layers."""
    made: list[tuple[tuple[int, ...], str]] = []

    def watched(shape, dtype):
        made.append((shape, np.dtype(dtype).name))
        return np.empty(shape, dtype)

    for module in (rows, quantized):
        monkeypatch.setattr(module, "aligned", watched)
    load_pretrained(folders["llama"], codes=Codes("int8", DECODER_LINEARS))
    assert ((2, 128, 256), "int8") in made
    floats = [shape for shape, dtype in made if dtype == "float32" and math.prod(shape) > 2 * 256]
    assert sorted(floats) == [(24, 128), (128, 24), (128 * 256,)]  # table, head, a layer's room


def test_what_a_checkpoint_lacks_is_quantised_too(folders, tmp_path: Path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folders["llama"].iterdir():
        if file.suffix == ".json":
            (copy / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folders["llama"] / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "up_proj" not in k}, copy / "model.safetensors")
    read = rsvlm_jax.load(copy, quantize="int8", missing="init")
    assert read.report.missing == ("layers/mlp/up/kernel",)
    up = read.params["layers"]["mlp"]["up"]
    assert up["kernel_int8"].dtype == jnp.int8
    assert int(jnp.abs(up["kernel_int8"]).max()) == 127


# LoRA


@pytest.fixture(scope="module")
def adapter(folders) -> Path:
    lora = LoraConfig(rank=2, alpha=4.0, targets="attention/[qv]/kernel$")
    model = add_lora(load_pretrained(folders["llama"]).model, lora, nnx.Rngs(0))
    rng = np.random.default_rng(1)

    def fill(path: str, x):
        return 0.1 * rng.standard_normal(x.shape).astype(np.float32) if is_lora(path) else x

    params = map_with_path(fill, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return save_adapter(folders["llama"].parent / "adapter", "LlamaForCausalLM", TEXT, params, lora)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_an_adapter_beside_a_quantised_base(folders, adapter, kind, tmp_path: Path):
    read = rsvlm_jax.load(folders["llama"], quantize=kind, adapter=adapter, merge=False)
    paths = flat(read.params)
    assert f"layers/attention/q/kernel_{kind}" in paths
    assert f"layers/attention/q/kernel{LORA_B}" in paths
    base = load_pretrained(folders["llama"], codes=Codes(kind))
    merged = with_adapter(base, read_adapter(adapter, base), merge=True)
    assert not [p for p in flat(merged.params) if is_quantized(p) or is_lora(p)]
    plain = rsvlm_jax.load(folders["llama"]).graphdef
    assert merged.graphdef == plain
    want = save_pretrained(tmp_path / "merged", "LlamaForCausalLM", TEXT, merged.params)
    want = rsvlm_jax.load(want).logits(TOKENS)
    np.testing.assert_allclose(read.logits(TOKENS), want, rtol=0, atol=1e-5)
    read.save_adapter(tmp_path / "again")
    again = rsvlm_jax.load(folders["llama"], quantize=kind, adapter=tmp_path / "again", merge=False)
    np.testing.assert_array_equal(again.logits(TOKENS), read.logits(TOKENS))


# Bad input


def test_merging_while_quantising_is_refused(folders, adapter):
    with pytest.raises(ConfigError) as error:
        rsvlm_jax.load(folders["llama"], quantize="int8", adapter=adapter)
    assert str(error.value) == (
        "an adapter is not merged into quantised weights in load(quantize); expected merge=False: "
        "its factors stay beside the codes; found merge=True"
    )


def test_an_unknown_kind(folders, untyped):
    with pytest.raises(ConfigError, match=r"^unknown choice in quantize\(kind\)"):
        rsvlm_jax.load(folders["llama"], quantize="int4")


def test_targets_that_take_nothing(folders):
    with pytest.raises(ConfigError, match=r"^nothing is quantised in quantize\(targets\)"):
        rsvlm_jax.load(folders["llama"], quantize="int8", quantize_targets="^vision/")


def test_a_run_is_not_quantised_as_it_is_read(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"^only for pretrained models in load\(quantize\)"):
        rsvlm_jax.load(tmp_path, quantize="int8")


def test_a_quantised_model_is_not_written_as_a_float_one(folders, tmp_path: Path):
    read = rsvlm_jax.load(folders["llama"], quantize="int8")
    with pytest.raises(CheckpointError, match="cannot be written in this format") as error:
        save_pretrained(tmp_path / "x", "LlamaForCausalLM", TEXT, read.params)
    assert "dequantize_params" in str(error.value)
