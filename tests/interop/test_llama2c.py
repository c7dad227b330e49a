"""The shipped 260k Llama: its text before any training, here and in torch, and damaged files."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import struct
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from rsvlm_jax.assets import STORIES260K_DIR
from rsvlm_jax.config import STORIES260K, CheckpointError, GenerationConfig
from rsvlm_jax.core import flat
from rsvlm_jax.generate import generate
from rsvlm_jax.interop import rows
from rsvlm_jax.interop.huggingface import load_pretrained, save_pretrained
from rsvlm_jax.interop.llama2c import (
    WEIGHTS,
    _table,
    config_of_bin,
    halves_from_pairs,
    load_llama2c,
)
from rsvlm_jax.models.llama import Llama
from rsvlm_jax.nn import rope

HAS_TORCH = importlib.util.find_spec("torch") is not None

TEXT = (
    " Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    " One day, she saw a big, red ball. She wanted to play with it, but it was too high."
)
"""llama2.c's own greedy text of this checkpoint."""


def test_greedy_text_from_bos_is_that_of_the_original() -> None:
    model = nnx.eval_shape(lambda: Llama(STORIES260K, rngs=nnx.Rngs(0)))
    nnx.update(model, jax.tree.map(jnp.asarray, load_llama2c(STORIES260K)))
    tokenizer = Tokenizer.from_file(str(STORIES260K_DIR / "tokenizer.json"))
    wanted = tokenizer.encode(TEXT[1:]).ids  # the tokenizer puts the space there itself
    bos = model.embed(jnp.asarray([[1]], jnp.int32))
    config = GenerationConfig(max_new_tokens=len(wanted))
    out = generate(model, bos, jnp.ones((1, 1), bool), config=config, eos=2)
    assert out.tokens[0].tolist() == wanted
    assert " " + tokenizer.decode(wanted) == TEXT


def test_tree_is_that_of_the_decoder() -> None:
    model = nnx.eval_shape(lambda: Llama(STORIES260K, rngs=nnx.Rngs(0)))
    ours = {k: v.shape for k, v in flat(nnx.state(model)).items()}
    loaded = flat(load_llama2c(STORIES260K))
    assert {k: v.shape for k, v in loaded.items()} == ours
    assert {v.dtype for v in loaded.values()} == {np.dtype("float32")}


def test_added_rows_are_the_mean_row() -> None:
    table = load_llama2c(STORIES260K)["embed"]["embedding"]
    np.testing.assert_allclose(table[512], table[:512].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(table[512], table[513])
    np.testing.assert_array_equal(table[:512], load_file(WEIGHTS)["tok_embeddings"])


def test_permuted_pairs_turn_as_adjacent_pairs_did() -> None:
    """llama2.c's rotation of adjacent pairs, then permuted, is ours of the permuted rows."""
    rng = np.random.default_rng(0)
    position, heads, dh = 5, 2, 8
    x = rng.standard_normal((1, heads * dh, 1)).astype(np.float32)
    angle = position * 10000.0 ** (-np.arange(0, dh, 2) / dh)
    pairs = x.reshape(heads, dh // 2, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    turned = np.stack(
        [a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], axis=-1
    )
    wanted = halves_from_pairs(turned.reshape(1, heads * dh, 1), dh).reshape(heads, dh)
    ours = jnp.asarray(halves_from_pairs(x, dh).reshape(1, 1, heads, dh))
    got = rope(ours, jnp.full((1, 1), position, jnp.int32), 10000.0)[0, 0]
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_checkpoint_of_another_width() -> None:
    wide = dataclasses.replace(STORIES260K, width=128)
    line = r"do not fit in .*tok_embeddings \(514, 64\) \(model: embed/embedding \(514, 128\)\)"
    with pytest.raises(CheckpointError, match=line):
        load_llama2c(wide)


def test_checkpoint_of_another_depth() -> None:
    line = r"rms_att \(5, 64\) \(model: layers/norm1/scale \(6, 64\)\)"
    with pytest.raises(CheckpointError, match=line):
        load_llama2c(dataclasses.replace(STORIES260K, layers=6))


def test_vocabulary_smaller_than_the_checkpoints() -> None:
    line = r"tok_embeddings \(512, 64\) \(model: embed/embedding \(500, 64\)\)"
    with pytest.raises(CheckpointError, match=line):
        load_llama2c(dataclasses.replace(STORIES260K, vocab_size=500))


def test_truncated_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(WEIGHTS.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=rf"a damaged checkpoint in {path}; expected"):
        load_llama2c(STORIES260K, path)


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such checkpoint in .*nothing\.safetensors"):
        load_llama2c(STORIES260K, tmp_path / "nothing.safetensors")


def test_foreign_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, path)
    with pytest.raises(CheckpointError, match=r"missing there \(11\).* unused \(1\): weight"):
        load_llama2c(STORIES260K, path)


def test_an_untied_config_misses_its_head() -> None:
    untied = dataclasses.replace(STORIES260K, tie_embeddings=False)
    with pytest.raises(CheckpointError, match=r"missing there \(1\): wcls \(lm_head/kernel\)"):
        load_llama2c(untied)


def exported(folder: Path) -> Path:
    """The shipped model as a Hugging Face directory."""
    save_pretrained(folder, "LlamaForCausalLM", STORIES260K, load_llama2c(STORIES260K))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(STORIES260K_DIR / name, folder)
    return folder


def test_the_export_comes_back_as_it_went(tmp_path: Path) -> None:
    again = load_pretrained(exported(tmp_path / "a"))
    assert again.config == STORIES260K
    for path, value in flat(load_llama2c(STORIES260K)).items():
        np.testing.assert_array_equal(flat(again.params)[path], value)


@pytest.mark.skipif(not HAS_TORCH, reason="needs torch")
def test_transformers_says_the_same_text_with_the_export(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = exported(tmp_path / "a")
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, info = loaded
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    wanted = tokenizer(TEXT[1:], add_special_tokens=False)["input_ids"]
    bos = torch.tensor([[tokenizer.bos_token_id]])
    said = model.generate(bos, do_sample=False, max_new_tokens=len(wanted))[0, 1:].tolist()
    assert said == wanted
    assert " " + tokenizer.decode(said) == TEXT


def bin_file(path: Path, *, tied: bool = True) -> tuple[Path, dict[str, np.ndarray]]:
    """The shipped checkpoint in llama2.c's legacy format, as `llama2.c/export.py` orders it."""
    arrays = load_file(WEIGHTS)
    names = ["tok_embeddings", "rms_att", "wq", "wk", "wv", "wo", "rms_ffn", "w1", "w2", "w3"]
    body = [*(arrays[n] for n in names), arrays["rms_final"], np.full((2, 512, 4), np.nan)]
    if not tied:
        arrays["wcls"] = np.arange(512 * 64, dtype=np.float32).reshape(512, 64)
        body.append(arrays["wcls"])
    header = struct.pack("<7i", 64, 172, 5, 8, 4, 512 if tied else -512, 512)
    path.write_bytes(header + b"".join(x.astype("<f4").tobytes() for x in body))
    return path, arrays


def test_the_legacy_file_is_the_same_model(tmp_path: Path) -> None:
    path, _ = bin_file(tmp_path / "stories260K.bin")
    own = config_of_bin(path)
    assert own == dataclasses.replace(STORIES260K, vocab_size=512)
    got = flat(load_llama2c(STORIES260K, path))
    for name, value in flat(load_llama2c(STORIES260K)).items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    assert flat(load_llama2c(own, path))["embed/embedding"].shape == (512, 64)


def test_a_legacy_file_with_a_classifier_of_its_own(tmp_path: Path) -> None:
    path, arrays = bin_file(tmp_path / "untied.bin", tied=False)
    own = config_of_bin(path)
    assert not own.tie_embeddings
    np.testing.assert_array_equal(load_llama2c(own, path)["lm_head"]["kernel"], arrays["wcls"].T)
    wider = dataclasses.replace(own, vocab_size=514)
    head = load_llama2c(wider, path)["lm_head"]["kernel"]
    np.testing.assert_allclose(head[:, 513], arrays["wcls"].mean(0), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda b: b[:-4], r"a damaged checkpoint in .*expected \d+ bytes by its header"),
        (lambda b: b + b"\0", r"a damaged checkpoint in .*expected \d+ bytes by its header"),
        (lambda b: b[:20], r"not a llama2.c checkpoint in .*; found 20 bytes"),
        (lambda b: b"24ka" + b[4:], r"a later format of llama2.c in .*; found version 172"),
        (lambda b: struct.pack("<i", -64) + b[4:], r"LlamaConfig.width; expected .* found -64"),
        (lambda b: b"<!DOCTYPE html>" + b[15:], r"a (damaged|llama2.c) checkpoint in"),
    ],
)
def test_damaged_legacy_files(tmp_path: Path, change: Any, line: str) -> None:
    path, _ = bin_file(tmp_path / "model.bin")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CheckpointError, match=line) as error:
        load_llama2c(STORIES260K, path)
    assert "\n" not in str(error.value)


def test_heads_that_no_shape_tells_apart(tmp_path: Path) -> None:
    path, _ = bin_file(tmp_path / "model.bin")
    other = dataclasses.replace(STORIES260K, heads=4, kv_heads=2)  # wider heads, the same shapes
    with pytest.raises(CheckpointError, match=r"other heads in .*expected 4 .*found 8, 4"):
        load_llama2c(other, path)


def test_the_table_goes_both_ways() -> None:
    theirs = load_file(WEIGHTS)
    own = dataclasses.replace(STORIES260K, vocab_size=512)
    back = dict(rows.write(_table(own), flat(load_llama2c(own))))
    assert back.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
