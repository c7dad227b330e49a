"""The shipped 260k Llama: its text before any training, its layout, and damaged files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from rsvlm_jax.assets import STORIES260K_DIR
from rsvlm_jax.config import STORIES260K, CheckpointError
from rsvlm_jax.core import flat
from rsvlm_jax.generate import generate
from rsvlm_jax.interop.llama2c import WEIGHTS, halves_from_pairs, load_llama2c
from rsvlm_jax.models.llama import Llama
from rsvlm_jax.nn import rope

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
    out = generate(model, bos, jnp.ones((1, 1), bool), max_new=len(wanted), eos=2)
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
    line = r"another shape in .*tok_embeddings; expected \(514, 128\) .*; found \(512, 64\)"
    with pytest.raises(CheckpointError, match=line):
        load_llama2c(wide)


def test_checkpoint_of_another_depth() -> None:
    with pytest.raises(CheckpointError, match=r"rms_att; expected \(6, 64\) .*; found \(5, 64\)"):
        load_llama2c(dataclasses.replace(STORIES260K, layers=6))


def test_vocabulary_smaller_than_the_checkpoints() -> None:
    with pytest.raises(CheckpointError, match=r"tok_embeddings; expected \(500, 64\)"):
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
    with pytest.raises(CheckpointError, match=r"not a llama2.c checkpoint.*found \['weight'\]"):
        load_llama2c(STORIES260K, path)


def test_untied_config_has_no_place_in_this_format() -> None:
    untied = dataclasses.replace(STORIES260K, tie_embeddings=False)
    with pytest.raises(CheckpointError, match=r"embeddings are tied.*tie_embeddings"):
        load_llama2c(untied)
