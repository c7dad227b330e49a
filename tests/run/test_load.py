"""`load`: numbers, words, maps; refusals of damaged and foreign checkpoints."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from rsvlm_jax.cli.main import main
from rsvlm_jax.config import CheckpointError, Experiment, MeshConfig, from_json, to_json
from rsvlm_jax.run.cubes import find_cube
from rsvlm_jax.run.predict import predict
from rsvlm_jax.run.prepare import prepare
from rsvlm_jax.run.trained import Loaded, load_run


@pytest.fixture(scope="module")
def loaded(finished: Path) -> Loaded:
    return load_run(finished)


@pytest.fixture(scope="module")
def cube():
    return find_cube("sample:slovenia_s2")


def test_regress_gives_ordered_intervals_within_the_bounds(loaded: Loaded, experiment: Experiment):
    numbers = loaded.regress_source(prepare(experiment).test)
    assert len(numbers.mean) == len(prepare(experiment).test)
    assert (numbers.lo <= numbers.mean).all()
    assert (numbers.mean <= numbers.hi).all()
    assert numbers.lo.min() >= 0
    assert numbers.hi.max() <= 1


def test_regress_does_not_depend_on_the_batch(loaded: Loaded, experiment: Experiment):
    source = prepare(experiment).test
    a = loaded.regress_source(source, batch_size=5)
    b = loaded.regress_source(source, batch_size=64)
    np.testing.assert_allclose(a.mean, b.mean, atol=1e-5)


def test_a_run_of_before_the_other_heads_loads(
    loaded: Loaded, finished: Path, cube, tmp_path: Path
):
    later = {"output", "quantiles", "bins", "bin_sigma", "experts", "balance", "also"}

    def older(x):
        if isinstance(x, dict):
            return {k: older(v) for k, v in x.items() if k not in later}
        return [older(v) for v in x] if isinstance(x, list) else x

    run = Path(shutil.copytree(finished, tmp_path / "run"))
    for file in (run / "config.json", *(run / "processor").glob("*.json")):
        if file.name != "tokenizer.json":
            body = file.read_text()
            file.write_text(json.dumps(older(json.loads(body))))
    assert "bin_sigma" not in (run / "config.json").read_text()
    assert '"also"' not in "".join(f.read_text() for f in (run / "processor").glob("*.json"))
    batch = loaded.window(cube, 8, 16)
    np.testing.assert_array_equal(load_run(run).regress(batch).hi, loaded.regress(batch).hi)


def test_calibration_scores_set_the_interval(loaded: Loaded, cube):
    batch = loaded.window(cube, 8, 16)
    one = dataclasses.replace(loaded, processor=loaded.processor.calibrated([1.0] * 20))
    numbers = one.regress(batch)
    np.testing.assert_allclose(numbers.hi, np.minimum(numbers.mean + numbers.scale, 1.0), rtol=1e-6)


def test_logits_of_a_batch(loaded: Loaded, cube):
    logits = loaded.logits(loaded.window(cube, 0, 0))
    assert logits.shape == (1, loaded.processor.length, 514)
    assert np.isfinite(np.asarray(logits)).all()


def test_a_spoken_number_is_that_of_the_answer(loaded: Loaded, cube):
    batch = loaded.window(cube, 8, 16)
    (answer,) = loaded.chat("What is the tree cover?", batch)
    assert answer.question == "What is the tree cover?"
    if answer.value is not None:
        assert answer.lo <= answer.value <= answer.hi
        assert loaded.processor.format(answer.value, answer.lo, answer.hi) in answer.text
    else:
        assert "%" not in answer.text, "a number in the words that the head did not give"


def test_another_mesh_gives_the_same_numbers(loaded: Loaded, finished: Path, cube):
    eight = load_run(finished, mesh=MeshConfig(2, 2, 2))
    batch = loaded.window(cube, 8, 16)
    for a, b in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(eight.params), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    source_batch = jax.tree.map(lambda x: np.concatenate([np.asarray(x)] * 4), batch)
    np.testing.assert_allclose(
        eight.regress(source_batch).mean, loaded.regress(source_batch).mean, rtol=1e-5
    )


def test_predict_is_restartable_and_georeferenced(loaded: Loaded, cube, tmp_path: Path):
    import rasterio
    import xarray

    whole = predict(loaded, cube, tmp_path / "a", block=64)
    again = predict(loaded, cube, tmp_path / "a", block=64)
    np.testing.assert_array_equal(whole.mean, again.mean)
    assert np.isfinite(whole.mean).all()
    assert (whole.lower <= whole.upper).all()
    with rasterio.open(whole.tif) as tif:
        assert tif.crs.to_epsg() == 32633
        assert tif.shape == (101, 100)
        np.testing.assert_array_equal(tif.read(1), whole.mean.astype(np.float32))
    made = xarray.open_zarr(whole.zarr, consolidated=False)
    assert {"tree_cover", "tree_cover_lower", "tree_cover_upper"} <= set(made.data_vars)


def test_the_digest_knows_the_compute_type(loaded: Loaded, finished: Path):
    assert load_run(finished).digest == loaded.digest
    assert load_run(finished, dtype="bfloat16").digest != loaded.digest, "or their blocks would mix"


def test_predict_verb(finished: Path, tmp_path: Path, capsys):
    out = tmp_path / "map"
    args = ["predict", str(finished), "--cube", "sample:slovenia_s2", "--out", str(out), "--json"]
    assert main(args) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert Path(last["map_tif"]).exists()


def test_evaluate_verb(finished: Path, capsys):
    words = ["--answers", "0", "--baselines", "mean", "ridge", "--json"]
    assert main(["evaluate", str(finished), *words]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [r["model"] for r in last["table"]] == ["mean", "ridge", "rsvlm"]
    assert Path(last["report"]).exists()


def test_generate_verb(finished: Path, tmp_path: Path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"question": "Is this radar?", "row": 8, "col": 8}\n')
    args = ["generate", str(finished), "--cube", "sample:slovenia_s2", "--prompts", str(prompts)]
    assert main([*args, "--ask", "What is the tree cover?", "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [a["row"] for a in last["answers"]] == [0, 8]
    assert {"value", "lo", "hi", "unit"} <= last["answers"][0].keys()


def test_answers_about_another_cube_or_place_are_refused(finished: Path, tmp_path: Path, capsys):
    out = str(tmp_path / "answers.jsonl")
    args = ["generate", str(finished), "--ask", "What is the tree cover?", "--out", out]
    assert main([*args, "--cube", "sample:slovenia_s2"]) == 0
    assert main([*args, "--cube", "sample:slovenia_s2", "--at", "8", "8"]) == 3
    assert main([*args, "--cube", "sample:spain_s1s2"]) == 3
    assert capsys.readouterr().err.count("other settings") == 2


def test_generate_verb_refuses_a_broken_prompt_file(finished: Path, tmp_path: Path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("{not json\n")
    args = ["generate", str(finished), "--cube", "sample:slovenia_s2", "--prompts", str(prompts)]
    assert main(args) == 3
    assert "line 1" in capsys.readouterr().err


def test_predict_on_a_cube_without_the_bands(finished: Path, tmp_path: Path, capsys):
    args = ["predict", str(finished), "--cube", "sample:spain_s1s2", "--out", str(tmp_path)]
    assert main(args) == 3
    assert capsys.readouterr().err.count("\n") == 1


# ---- damaged and foreign checkpoints -------------------------------------------------------------


def test_a_truncated_checkpoint_falls_back_and_says_so(finished: Path, tmp_path: Path):
    run = shutil.copytree(finished, tmp_path / "run")
    newest = max(
        (p for p in (run / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name)
    )
    biggest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    biggest.write_bytes(biggest.read_bytes()[:-64])
    with pytest.warns(UserWarning, match=biggest.name):
        load_run(run)


def test_all_checkpoints_damaged(finished: Path, tmp_path: Path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    for step in (run / "checkpoints").iterdir():
        for file in step.rglob("*"):
            if file.is_file() and file.stat().st_size > 64:
                file.write_bytes(file.read_bytes()[:-64])
    with pytest.raises(CheckpointError):
        load_run(run)
    assert main(["evaluate", str(run)]) == 4
    assert capsys.readouterr().err.strip().count("\n") == 0


def test_a_checkpoint_of_another_width(finished: Path, tmp_path: Path):
    run = shutil.copytree(finished, tmp_path / "run")
    experiment = from_json(Experiment, (run / "config.json").read_text())
    vision = dataclasses.replace(experiment.model.vision, width=32)
    model = dataclasses.replace(experiment.model, vision=vision)
    (run / "config.json").write_text(to_json(dataclasses.replace(experiment, model=model)))
    saved = json.loads((run / "processor" / "processor.json").read_text())
    saved["config"]["vision"]["width"] = 32
    (run / "processor" / "processor.json").write_text(json.dumps(saved))
    with pytest.raises(CheckpointError, match="another model") as e:
        load_run(run)
    line = str(e.value)
    assert "\n" not in line
    assert "connector/fc1/kernel float32[32, 64]" in line, "expected"
    assert "connector/fc1/kernel float32[64, 64]" in line, "found"


def test_an_edited_config_is_refused(finished: Path, tmp_path: Path):
    run = shutil.copytree(finished, tmp_path / "run")
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"harmonics": 4', '"harmonics": 3'))
    with pytest.raises(CheckpointError, match="disagree"):
        load_run(run)
