"""LoRA in an experiment on cubes: the base stays, factors are trained, kept, merged and resumed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from rsvlm_jax.cli.main import main
from rsvlm_jax.config import (
    LORA_ONLY,
    CheckpointError,
    ConfigError,
    Experiment,
    GroupConfig,
    LoraConfig,
    Preempted,
    from_json,
    to_json,
)
from rsvlm_jax.core import base_path, flat, is_lora, is_quantized
from rsvlm_jax.nn.quantize import quantize_params
from rsvlm_jax.run.cubes import find_cube
from rsvlm_jax.run.fit import describe, fit, initial
from rsvlm_jax.run.load import load
from rsvlm_jax.run.prepare import prepare
from rsvlm_jax.run.rundir import RunDir
from rsvlm_jax.run.trained import Loaded, load_run
from rsvlm_jax.train import Checkpoints

LORA = LoraConfig(rank=4, alpha=8.0)
BESIDE = (LORA_ONLY[0], GroupConfig("^(head|connector)/", 0.5), LORA_ONLY[1])


@pytest.fixture(scope="module")
def adapting(experiment: Experiment) -> Experiment:
    """The decoder's factors, and beside them the head and the connector."""
    optimizer = dataclasses.replace(experiment.optimizer, groups=BESIDE)
    return dataclasses.replace(experiment, lora=LORA, optimizer=optimizer)


@pytest.fixture(scope="module")
def run(adapting: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(adapting, out=tmp_path_factory.mktemp("runs") / "lora").path


@pytest.fixture(scope="module")
def kept(run: Path) -> Loaded:
    return load_run(run, merge=False)


@pytest.fixture(scope="module")
def start(adapting: Experiment) -> dict:
    prepared = prepare(adapting)
    return flat(initial(prepared)[0])


def test_only_factors_and_what_the_groups_name_moved(kept: Loaded, start: dict):
    moved = {p for p, x in flat(kept.params).items() if not np.array_equal(x, start[p])}
    factors = {p for p in start if base_path(p) != p}
    assert len(factors) == 14, "A and B of the seven kernels of a Llama's layers"
    assert factors <= moved
    assert {p.split("/")[0] for p in moved - factors} == {"head", "connector"}


def test_the_base_is_that_of_init_from(start: dict, experiment: Experiment):
    prepared = prepare(experiment)
    plain = flat(initial(prepared)[0])
    for path, x in plain.items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(start[path]), err_msg=path)


def test_merged_and_kept_predict_the_same(run: Path, kept: Loaded):
    merged = load_run(run)
    assert kept.lora == LORA
    assert merged.lora is None
    assert all(base_path(p) == p for p in flat(merged.params))
    batch = kept.window(find_cube("sample:slovenia_s2"), 8, 16)
    a, b = merged.logits(batch), kept.logits(batch)
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(merged.regress(batch).mean, kept.regress(batch).mean, rtol=1e-4)


def test_resume_is_bitwise(run: Path, kept: Loaded, adapting: Experiment, tmp_path: Path):
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 4

    with pytest.raises(Preempted):
        fit(adapting, out=tmp_path, stop=stop)
    fit(adapting, out=tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()
    other = flat(load_run(tmp_path, merge=False).params)
    for path, x in flat(kept.params).items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(other[path]), err_msg=path)


def test_a_run_starts_from_a_run_with_lora(run: Path, experiment: Experiment):
    prepared = prepare(dataclasses.replace(experiment, init_from=str(run)))
    params = initial(prepared)[0]
    want = flat(load_run(run).params)
    for path, x in flat(params).items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(want[path]), err_msg=path)


def test_convert_writes_merged_weights_or_the_adapter(run: Path, tmp_path: Path, capsys):
    part = ["--part", "decoder"]
    assert main(["convert", str(run), str(tmp_path / "merged"), *part]) == 0
    assert main(["convert", str(run), str(tmp_path / "peft"), *part, "--to", "peft"]) == 0
    assert main(["convert", "asset:stories260k", str(tmp_path / "base")]) == 0
    said = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (said["r"], said["lora_alpha"]) == (4, 8)
    ids = np.arange(3, 40)[None]
    merged = np.asarray(load(tmp_path / "merged").logits(ids))
    over = np.asarray(load(tmp_path / "base", adapter=tmp_path / "peft").logits(ids))
    rows = over.shape[-1]  # the run has those of its placeholders beside those of the asset
    np.testing.assert_allclose(merged[..., :rows], over, rtol=1e-4, atol=1e-4)


def test_an_adapter_of_a_run_without_lora(finished: Path, tmp_path: Path, capsys):
    args = ["convert", str(finished), str(tmp_path / "x"), "--part", "decoder", "--to", "peft"]
    assert main(args) == 2
    assert "no LoRA" in capsys.readouterr().err


def test_without_groups_the_factors_alone_are_trained(experiment: Experiment):
    bare = dataclasses.replace(experiment.optimizer, groups=())
    made = dataclasses.replace(experiment, lora=LORA, optimizer=bare)
    assert made.optimizer.groups == LORA_ONLY
    assert from_json(Experiment, to_json(made)) == made, "what config.json says is what is done"


def test_describe_counts_the_factors(adapting: Experiment, experiment: Experiment):
    decoder = experiment.model.decoder
    d, inner, kv = decoder.width, decoder.mlp_dim, decoder.head_width * decoder.kv_heads
    one = 2 * (d + d) + 2 * (d + kv) + 3 * (d + inner)
    facts = describe(adapting)
    assert facts["parameters"] - describe(experiment)["parameters"] == LORA.rank * one * 5
    assert LORA.rank * one * 5 < facts["trained_parameters"] < facts["parameters"] / 2


def test_a_pattern_that_takes_nothing(adapting: Experiment, tmp_path: Path):
    wrong = dataclasses.replace(adapting, lora=LoraConfig(targets="^decoder/blocks/"))
    with pytest.raises(ConfigError, match="LoRA takes no layer") as e:
        fit(wrong, out=tmp_path / "run")
    assert "\n" not in str(e.value)


def test_init_from_of_another_shape(adapting: Experiment, tmp_path: Path):
    decoder = dataclasses.replace(adapting.model.decoder, layers=4)
    wrong = dataclasses.replace(
        adapting, model=dataclasses.replace(adapting.model, decoder=decoder)
    )
    with pytest.raises(CheckpointError) as e:
        fit(wrong, out=tmp_path / "run")
    assert "layers" in str(e.value)
    assert "\n" not in str(e.value)


# ---- a quantised base ----------------------------------------------------------------------------

NF4 = LoraConfig(rank=4, alpha=8.0, targets=r"^decoder/layers/(attention/[qkvo]|mlp/gate)/kernel$")


@pytest.fixture(scope="module")
def quantised(adapting: Experiment) -> Experiment:
    train = dataclasses.replace(adapting.train, steps=2)
    optimizer = dataclasses.replace(adapting.optimizer, ema=None)
    return dataclasses.replace(adapting, lora=NF4, base="nf4", train=train, optimizer=optimizer)


@pytest.fixture(scope="module")
def qlora(quantised: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(quantised, out=tmp_path_factory.mktemp("runs") / "qlora").path


def test_codes_are_those_of_the_base_and_stay(qlora: Path, experiment: Experiment):
    """Quantised after `init_from`, before the factors; nothing of them in the optimiser."""
    params = flat(load_run(qlora, merge=False).params)
    prepared = prepare(experiment)
    base = initial(prepared)[0]
    codes = {p: x for p, x in flat(quantize_params(base, "nf4", targets=NF4.targets)).items()
             if is_quantized(p)}  # fmt: skip
    assert len(codes) == 2 * 5
    for path, x in codes.items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(params[path]), err_msg=path)
    assert all(path not in params for path in {base_path(p) for p in codes})
    with Checkpoints(RunDir(qlora).checkpoints) as checkpoints:
        held = [p for p in checkpoints.tree() if p.startswith("opt_state/")]
    assert any(is_lora(p) for p in held)
    assert not any(is_quantized(p.removeprefix("opt_state/")) for p in held)


def test_a_quantised_run_opens_as_trained_or_plain(qlora: Path):
    kept, plain = load_run(qlora, merge=False), load_run(qlora)
    assert all(base_path(p) == p for p in flat(plain.params))
    batch = kept.window(find_cube("sample:slovenia_s2"), 8, 16)
    a, b = kept.logits(batch), plain.logits(batch)
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-3, atol=1e-3)


def test_a_pattern_may_find_kernels_that_are_no_linears(quantised: Experiment):
    """`vision/patch/kernel`, of a convolution, is neither given LoRA nor quantised."""
    lora = LoraConfig(rank=2, alpha=4.0, targets=r"^(vision|decoder)/.*kernel$")
    made = dataclasses.replace(quantised, lora=lora, base="int8")
    params = flat(initial(prepare(made))[0])
    assert "vision/patch/kernel" in params
    assert "vision/layers/mlp/fc1/kernel_int8" in params
    assert "vision/layers/mlp/fc1/kernel_lora_a" in params


def test_groups_that_would_train_codes(quantised: Experiment, tmp_path: Path):
    groups = dataclasses.replace(quantised.optimizer, groups=(GroupConfig("^decoder/", 0.3),))
    with pytest.raises(ConfigError, match="quantised weights cannot be trained") as e:
        fit(dataclasses.replace(quantised, optimizer=groups), out=tmp_path / "run")
    assert "\n" not in str(e.value)


# ---- a base in bfloat16 --------------------------------------------------------------------------


def test_a_base_in_bfloat16_gives_the_same_numbers(quantised: Experiment, tmp_path: Path):
    """Where the model computes in bfloat16, kernels stored so are what it would round them to."""
    half = dataclasses.replace(quantised.model, dtype="bfloat16")
    fit(dataclasses.replace(quantised, model=half, base="bfloat16"), out=tmp_path)
    kept = load_run(tmp_path, merge=False)
    params = flat(kept.params)
    stored = {p for p, x in params.items() if x.dtype == "bfloat16"}
    assert stored == {base_path(p) for p in params if is_lora(p)}
    whole = jax.tree.map(lambda x: x.astype("float32"), kept.params)
    batch = kept.window(find_cube("sample:slovenia_s2"), 8, 16)
    a, b = kept.logits(batch), dataclasses.replace(kept, params=whole).logits(batch)
    np.testing.assert_array_equal(np.asarray(a, "float32"), np.asarray(b, "float32"))
    merged = flat(load_run(tmp_path).params)
    assert {str(x.dtype) for x in merged.values()} == {"float32"}


def test_groups_that_would_train_a_base_in_bfloat16(quantised: Experiment, tmp_path: Path):
    groups = dataclasses.replace(quantised.optimizer, groups=(GroupConfig("^decoder/", 0.3),))
    made = dataclasses.replace(quantised, base="bfloat16", optimizer=groups)
    with pytest.raises(ConfigError, match="stored in bfloat16 cannot be trained") as e:
        fit(made, out=tmp_path / "run")
    assert "\n" not in str(e.value)
