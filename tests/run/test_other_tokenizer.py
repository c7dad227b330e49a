"""A cube is learnt with a decoder of another vocabulary than the shipped one: end to end."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from rsvlm_jax.config import ConfigError, Experiment, LlamaConfig
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.trained import load_run


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Llama's: pieces with a mark for the space, bytes for what is unknown."""
    vocabulary = {t: i for i, t in enumerate(("<unk>", "<s>", "</s>"))}
    vocabulary |= {f"<0x{i:02X}>": 3 + i for i in range(256)}
    for piece in "▁abcdefghijklmnopqrstuvwxyz.?":
        vocabulary[piece] = len(vocabulary)
    vocabulary |= {"th": len(vocabulary), "the": len(vocabulary) + 1}
    merges = [("t", "h"), ("th", "e")]
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    decoders = tokenizers.decoders
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**said, "add_bos_token": True}))
    return folder


def other(experiment: Experiment, directory: Path, vocab_size: int) -> Experiment:
    decoder = LlamaConfig(
        vocab_size=vocab_size, width=16, layers=1, heads=2, kv_heads=2, mlp_dim=24, max_length=256
    )
    return dataclasses.replace(
        experiment,
        data=dataclasses.replace(experiment.data, tokenizer=str(directory)),
        model=dataclasses.replace(experiment.model, decoder=decoder),
        train=dataclasses.replace(experiment.train, steps=2),
        init_from=None,
    )


def test_a_cube_is_learnt_and_answers(experiment: Experiment, directory: Path, tmp_path: Path):
    size = 259 + 29 + 2
    run = fit(other(experiment, directory, 320), out=tmp_path / "run")
    loaded = load_run(run.path)
    t = loaded.processor.tokenizer
    assert (t.bos, t.eos, t.image, t.reg, t.size) == (1, 2, size, size + 1, size + 2)
    assert (run.path / "processor/tokenizer_config.json").exists()
    table = loaded.processor.table
    assert table.tokens.max() == t.reg
    assert "the" in t.decode(table.tokens[0].tolist())
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert np.isfinite([r["loss"] for r in rows]).all()


def test_a_decoder_of_another_vocabulary(experiment: Experiment, directory: Path, tmp_path: Path):
    with pytest.raises(
        ConfigError, match=r"differ in size .* expected decoder.vocab_size 292 .*320"
    ):
        fit(other(experiment, directory, 514), out=tmp_path)
