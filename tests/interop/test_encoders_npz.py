"""The shipped encoders: every array is read, and what is another checkpoint is refused."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from rsvlm_jax.assets import GALILEO_NANO, PRESTO
from rsvlm_jax.assets.make_encoders import EVERY, cut
from rsvlm_jax.config import CheckpointError, GalileoConfig, PrestoConfig
from rsvlm_jax.interop import encoders

WHOLE = PrestoConfig(decoder=True)
FILES = {
    "galileo": (GALILEO_NANO, encoders.GALILEO, lambda path: encoders.galileo(path=path), 106),
    "presto": (PRESTO, encoders.PRESTO, lambda path: encoders.presto(WHOLE, path), 102),
}
FIXED = ("pos_embed", "month_embed.weight")


def arrays(path: Path) -> dict[str, np.ndarray]:
    return dict(np.load(path, allow_pickle=False))


@pytest.mark.parametrize("name", FILES)
def test_every_array_is_a_parameter_or_a_fixed_table(name: str) -> None:
    path, _, load, count = FILES[name]
    theirs = arrays(path)
    assert len(theirs) == count
    copies = {"decoder.channel_embeddings.weight"}  # once more what the encoder has
    numbers = sum(x.size for n, x in theirs.items() if not n.endswith(FIXED) and n not in copies)
    assert sum(x.size for x in jax.tree.leaves(nnx.state(load(path)))) == numbers


def test_without_its_decoder_presto_is_smaller() -> None:
    small = sum(x.size for x in jax.tree.leaves(nnx.state(encoders.presto())))
    theirs = arrays(PRESTO)
    wanted = sum(x.size for n, x in theirs.items() if n[:8] == "encoder." and n[8:] not in FIXED)
    assert small == wanted


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_stray_array_is_named(name: str, tmp_path: Path) -> None:
    path, _, load, _ = FILES[name]
    theirs = arrays(path)
    norm = {"galileo": "norm.weight", "presto": "encoder.norm.weight"}[name]
    theirs["stray"] = theirs.pop(norm)
    np.savez(tmp_path / "other.npz", **theirs)
    with pytest.raises(
        CheckpointError, match=rf"missing there \(1\): {norm} .*unused \(1\): stray"
    ):
        load(tmp_path / "other.npz")


@pytest.mark.parametrize("name", FILES)
def test_other_tables_of_time_are_refused(name: str, tmp_path: Path) -> None:
    path, _, load, _ = FILES[name]
    theirs = arrays(path)
    table = {"galileo": "pos_embed", "presto": "encoder.pos_embed"}[name]
    theirs[table] = theirs[table] + 1e-3
    np.savez(tmp_path / "other.npz", **theirs)
    with pytest.raises(CheckpointError, match=f"another table of months or steps in .*{table}"):
        load(tmp_path / "other.npz")
    theirs.pop(table)
    np.savez(tmp_path / "other.npz", **theirs)
    with pytest.raises(CheckpointError, match=f"in .*{table}; .* found none"):
        load(tmp_path / "other.npz")


def test_copies_that_differ_are_refused(tmp_path: Path) -> None:
    theirs = arrays(PRESTO)
    theirs["decoder.channel_embeddings.weight"] = theirs["encoder.channel_embed.weight"] + 1
    np.savez(tmp_path / "other.npz", **theirs)
    with pytest.raises(CheckpointError, match=r"two copies of an array differ in .*channel_embed"):
        encoders.presto(WHOLE, tmp_path / "other.npz")


def test_a_model_of_another_shape_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"of another shape \(\d+\): .*blocks.0.mlp.fc1"):
        encoders.galileo(GalileoConfig(mlp_dim=256))
    with pytest.raises(CheckpointError, match=r"missing there .*encoder.blocks.2"):
        encoders.presto(PrestoConfig(layers=3))


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such checkpoint in .*none\.npz"):
        encoders.galileo(path=tmp_path / "none.npz")
    (tmp_path / "short.npz").write_bytes(PRESTO.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"a damaged checkpoint in .*short\.npz; expected"):
        encoders.presto(path=tmp_path / "short.npz")
    broken = bytearray(GALILEO_NANO.read_bytes())
    broken[len(broken) // 2] ^= 0xFF
    (tmp_path / "broken.npz").write_bytes(broken)
    with pytest.raises(CheckpointError, match=r"a damaged checkpoint in .*broken\.npz; expected"):
        encoders.galileo(path=tmp_path / "broken.npz")


def test_what_is_cut_from_reference_outputs() -> None:
    kept = cut(
        {
            "a_tokens": np.arange(22.0).reshape(1, 11, 2),
            "a_pooled": np.ones((1, 2)),
            "a_tokens_from_f64": np.ones(1),
            "a_s_t_m": np.asarray([0.0, 2.0]),
        }
    )
    assert sorted(kept) == ["a_pooled", "a_s_t_m", "a_tokens"]
    assert kept["a_tokens"].shape == (1, 3, 2)
    assert np.array_equal(kept["a_tokens"][0, 1], [2 * EVERY, 2 * EVERY + 1])
    assert kept["a_s_t_m"].dtype == np.uint8
