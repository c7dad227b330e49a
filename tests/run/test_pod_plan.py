"""A plan: what the compiler says of a step for devices that are not here, beside the formulas."""

from __future__ import annotations

import dataclasses
import json
import re

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from plan_reports import report

from experiments import demo_treecover, llava15_lora, llava15_stage2
from rsvlm_jax.cli.plan import run as plan_verb
from rsvlm_jax.config import ConfigError, Experiment, MeshConfig, RsvlmError
from rsvlm_jax.mesh import make_mesh
from rsvlm_jax.mesh.hlo_text import ArrayShape
from rsvlm_jax.mesh.topology import topology
from rsvlm_jax.run.abstract import abstract_step
from rsvlm_jax.run.plan import PlanRefused, Serving, fits_in, plan, require, spread, unproven
from rsvlm_jax.run.plan_advice import remedies
from rsvlm_jax.run.plan_apart import ended
from rsvlm_jax.run.plan_memory import arguments, buffers, padded
from rsvlm_jax.run.plan_moves import weights
from rsvlm_jax.run.plan_report import PlanReport
from rsvlm_jax.run.plan_shapes import shapes_of


def tiny(module=llava15_stage2, **train) -> Experiment:
    made = module.experiment().tiny()
    train = {"batch_size": 8, "remat": "save_context", **train}
    return dataclasses.replace(made, train=dataclasses.replace(made.train, **train))


@pytest.fixture(scope="module")
def simulated() -> PlanReport:
    return plan(tiny(), "gpu:8", price=2.0, length=64)


def test_simulated_devices(simulated):
    r = simulated
    assert (r.chips, r.mesh, r.fits, r.refused) == (8, {"fsdp": 8}, None, False)
    assert r.argument_bytes == r.formula_bytes
    assert r.donated_bytes is not None
    assert 0.9 * r.argument_bytes < r.donated_bytes < r.argument_bytes
    assert r.peak_bytes is not None
    assert r.peak_bytes > r.argument_bytes
    assert {c["kind"] for c in r.collectives} >= {"all-gather", "reduce-scatter"}
    assert {c["axes"] for c in r.collectives if c["bytes"]} == {"fsdp"}
    assert r.collective_bytes == sum(c["bytes"] for c in r.collectives)
    assert r.gathered_by_sums == r.summed_whole == r.replicated == ()
    assert r.tokens == 8 * 64
    assert "8 simulated devices" in r.compiler
    assert r.largest[0]["bytes"] >= r.largest[1]["bytes"] >= r.largest[2]["bytes"]
    assert any("temporary memory" in line for line in r.unproven)
    assert any("bytes sent by formula" in line for line in r.assumed)
    assert any("64 positions" in line for line in r.assumed), "what was assumed of the shapes"
    assert require(r) is r


def test_what_a_gpu_cannot_hold_is_refused_and_nothing_else_is_proved():
    where = dataclasses.replace(topology("gpu:8"), hbm=1000)
    raw = {"output_bytes": 500, "donated_bytes": 480, "refused": False}
    assert fits_in(where, raw, 880, 2000) is None
    assert fits_in(where, raw, 881, 881) is False, "the runtime leaves nine tenths"
    assert fits_in(topology("cpu:8"), raw, 880, 2000) is None
    chip = dataclasses.replace(topology("v5e:2x2"), hbm=1000)
    assert fits_in(chip, raw, 880, 1000) is True
    assert fits_in(chip, raw, 880, 1001) is False


def test_json_has_the_promised_keys(simulated):
    found = json.loads(json.dumps(simulated.to_dict()))
    assert found["fits"] is None, "of a GPU nothing here proves it"
    for key in ("compiler", "hbm_bytes", "peak_bytes", "argument_bytes",
                "collective_bytes", "flops", "mfu_estimate", "step_seconds"):  # fmt: skip
        assert found[key] is not None, key
    assert found["dollars"] == pytest.approx(2.0 * 8 * found["step_seconds"] * 1000 / 3600)


def test_lines_for_people(simulated):
    text = "\n".join(simulated.lines())
    for word in ("gpu:8: 8 chips, mesh fsdp=8", "not proven", "all-gather over fsdp", "unproven",
                 "the experiment's mesh is of one device: here fsdp=-1", "MFU"):  # fmt: skip
        assert word in text


@pytest.mark.tpu
def test_the_compiler_of_tpus():
    """Splash attention with segments, on chips that are not here; arguments to the byte."""
    r = plan(tiny(llava15_lora), "v5e:2x2", length=128)
    assert (r.chips, r.devices, r.fits) == (4, 4, True)
    assert r.compiler.startswith("libtpu")
    assert r.kernels >= 3
    assert r.argument_bytes == r.formula_bytes
    assert r.gathered_by_sums == ()
    assert r.hbm_bytes == int(15.75 * 2**30)
    assert r.estimate is not None


def test_generation():
    """A prompt and one token more, over "tensor": weights and cache in pieces."""
    made = dataclasses.replace(tiny(), mesh=MeshConfig(tensor=-1))
    serving = Serving(rows=2, prompt=32, new=8)
    r = plan(made, "gpu:2", program="decode", serving=serving)
    assert r.argument_bytes == r.formula_bytes
    assert (r.tokens, r.trained_parameters, r.mesh) == (2, 0, {"tensor": 2})
    assert any("vision tower" in line for line in r.assumed)
    assert r.estimate is not None


@pytest.mark.tpu
def test_a_prompt_on_tpus():
    made = dataclasses.replace(tiny(), mesh=MeshConfig(tensor=-1))
    r = plan(made, "v5e:2x2", program="prefill", serving=Serving(rows=2, prompt=128, new=8))
    assert r.fits
    assert r.argument_bytes == r.formula_bytes
    assert r.tokens == 256


@pytest.mark.tpu
def test_a_flag_that_the_compiler_refuses(monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_no_such_flag=true")
    with pytest.raises(ConfigError, match=r"flag that the compiler refuses.*xla_tpu_no_such_flag"):
        plan(tiny(), "v5e:2x2")


@pytest.mark.parametrize(
    ("code", "said", "line"),
    [
        (1, "ERROR: Unknown command line flag 'xla_a'", "flag that the compiler refuses.*xla_a"),
        (1, "F0 Unknown flags in XLA_FLAGS: --xla_b", "compiler refuses in XLA_FLAGS.*--xla_b"),
        (-9, "", "the compiler was killed.*free memory"),
        (3, "Traceback\nValueError: no\n---\nFor simplicity", "ended with 3.*ValueError: no"),
    ],
)
def test_how_a_compiler_ends(code, said, line):
    with pytest.raises(RsvlmError, match=line):
        raise ended(code, said)


def test_a_plan_that_does_not_fit():
    with pytest.raises(PlanRefused) as error:
        require(report())
    line = str(error.value)
    assert error.value.exit_code == 2
    assert "does not fit in v5e:2x2" in line
    assert "30 bytes over" in line
    assert "f32[9]" in line
    assert line.endswith("--do this")
    assert require(report(fits=None)).over_bytes == 0


def test_what_helps_is_said():
    raw = {"plain_bytes": 60, "mesh": {"fsdp": 4}}
    where = dataclasses.replace(topology("v5e:2x2"), hbm=100)
    found = remedies(tiny(llava15_lora, remat="none"), raw, where)
    assert found[0] == "--base int8 or nf4 for the frozen kernels"
    assert "--train.remat save_qkv_mlp (or full)" in found
    assert "--train.micro-batches 2" in found
    raw = {"plain_bytes": 1, "mesh": {"fsdp": 8}}
    assert remedies(tiny(remat="full"), raw, where) == [
        "a shorter length, or context over more chips"
    ]


def test_what_is_not_proved_of_slices():
    one, two = (unproven(topology("v5e:2x2"), n) for n in (1, 2))
    assert len(two) == len(one) + 1
    assert "between slices" in two[-1]
    assert unproven(topology("cpu:8"), 2) == topology("cpu:8").unproven


def test_what_helps_to_serve():
    raw = {"plain_bytes": 9, "mesh": {}, "cache_bytes": 5, "parameter_bytes": 4}
    where = topology("v5e:2x2")
    assert remedies(tiny(), raw, where)[0] == "fewer --rows"
    assert remedies(tiny(), raw | {"parameter_bytes": 6}, where)[0].startswith("--mesh.tensor")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"length": 0}, "impossible number in --length; expected >= 1; found 0"),
        ({"dates": -1}, "impossible number in --dates"),
        ({"price": -2.0}, "impossible price in --price; expected >= 0; found -2.0"),
    ],
)
def test_impossible_numbers(given: dict, line: str):
    with pytest.raises(ConfigError, match=re.escape(line)):
        plan(tiny(), "gpu:8", **given)


def test_impossible_texts():
    with pytest.raises(ConfigError, match="impossible number in --rows; expected >= 1; found 0"):
        Serving(rows=0)


def test_a_length_beside_a_cube_that_says_it():
    with pytest.raises(ConfigError, match=r"option without effect: .*says it itself in --length"):
        shapes_of(demo_treecover.experiment(), length=40)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--rows", "4"], "an option without effect in --rows; expected --serve beside it"),
        (["--serve", "--length", "64"], "an option without effect in --length; expected no --serv"),
        (["--serve", "--base", "int8"], "generation is planned of floats in --base"),
    ],
)
def test_options_that_change_nothing(words: list[str], line: str):
    with pytest.raises(ConfigError, match=re.escape(line)):
        plan_verb(["llava15_lora", "--topology", "cpu:2", "--tiny", *words])


def test_a_batch_that_its_parts_do_not_divide():
    made = tiny(micro_batches=4)
    with pytest.raises(ConfigError, match=r"multiple of 32 .*micro_batches=4"):
        abstract_step(made, make_mesh(MeshConfig(data=8)))


def test_a_stack_that_is_summed_whole_is_known():
    """Of three layers [64, 2**15] in pieces: a layer, or all of them in one sum."""
    mesh = make_mesh(MeshConfig(fsdp=8))
    place = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    known = weights({"x": jax.ShapeDtypeStruct((3, 64, 2**15), "float32", sharding=place)})
    assert {(64, 2**15), (3, 64, 2**15)} <= known


def test_a_mesh_of_one_device_is_spread():
    made, lines = spread(tiny(), topology("v5e:2x2"))
    assert made.mesh.fsdp == -1
    assert lines
    chosen = dataclasses.replace(tiny(), mesh=MeshConfig(data=2, fsdp=2))
    assert spread(chosen, topology("v5e:2x2")) == (chosen, [])
    copies = dataclasses.replace(tiny(), mesh=MeshConfig(plan="lora_dp"))
    assert spread(copies, topology("cpu:4"))[0].mesh.data == -1


def test_a_batch_that_the_mesh_does_not_divide():
    """Told by the other process, in one line."""
    with pytest.raises(ConfigError, match=r"batch does not divide over the mesh.*found 6") as error:
        plan(tiny(batch_size=6), "cpu:4")
    assert error.value.exit_code == 2


def test_shapes_of_a_cube_that_is_at_hand():
    made = shapes_of(demo_treecover.experiment())
    assert made.batch.obs["s2_l1c"].pixels.shape[:2] == (32, 3)
    assert made.batch.obs["s2_l1c"].pixels.dtype == "int16"
    assert made.visual_tokens == 8
    assert made.assumed == ("dates and length as in sample:slovenia_s2",)


def test_shapes_of_a_cube_that_is_not_there():
    made = demo_treecover.experiment()
    made = dataclasses.replace(made, data=dataclasses.replace(made.data, cube="path/to/cube.zarr"))
    found = shapes_of(made, length=20)
    here = shapes_of(demo_treecover.experiment())
    for name in ("pixels", "valid", "date", "platform"):
        a, b = (getattr(x.batch.obs["s2_l1c"], name) for x in (found, here))
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert found.bandsets[0].band_names == here.bandsets[0].band_names
    assert found.batch.tokens.shape == (32, 20)
    assert any("sensor table" in line for line in found.assumed)


def of_inputs(**changes) -> Experiment:
    made = demo_treecover.experiment()
    data = dataclasses.replace(made.data, cube="path/to/cube.zarr")
    inputs = (dataclasses.replace(made.model.inputs[0], **changes),)
    model = dataclasses.replace(made.model, inputs=inputs)
    return dataclasses.replace(made, data=data, model=model)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"dates": None}, "nothing says how many dates a series has.*--dates N"),
        ({"bandset": "s2_l9"}, "no such band set in the sensor table.*s2_l9"),
        ({"bands": ("infrablue",)}, "no such band.*infrablue"),
    ],
)
def test_shapes_that_nothing_says(changes, line):
    with pytest.raises(ConfigError, match=line):
        shapes_of(of_inputs(**changes))


TEXT = """HloModule jit_step, is_scheduled=true

ENTRY %main (p: f32[514,64]) -> f32[] {
  %p = f32[514,64]{0,1:T(8,128)} parameter(0), metadata={op_name="state.params[\\'a\\'].b"}
  %q = bf16[3,5]{1,0:T(8,128)(2,1)} parameter(1), metadata={op_name="batch.x"}
  ROOT %fusion.1 = f32[32,7]{1,0:T(8,128)} fusion(%p), kind=kLoop, metadata={op_name="jit(step)/a"}
}
"""

ASSIGNMENT = """BufferAssignment:
allocation 0: size 163840, page 0, parameter 0, shape |f32[514,64]| at ShapeIndex {}, live:
 value: <1 p @0> (size=163840,offset=0): f32[514,64]{0,1:T(8,128)}
allocation 1: size 900000, color 1, page 0, preallocated-temp:
 value: <2 fusion.1 @1> (size=900000,offset=0): f32[32,7]{1,0:T(8,128)S(1)}
allocation 2: size 20000, page 0, preallocated-temp:
 value: <3 fusion.1{0} @0> (size=16384,offset=0): f32[32,7]{1,0:T(8,128)}
 value: <4 other (phi) @0> (size=4096,offset=0): f32[8,7]{1,0:T(8,128)}
 value: <5 other.2 @0> (size=2048,offset=16384): f32[8]{0:T(128)}
"""


def test_buffers_by_name():
    found = arguments(TEXT)
    assert found["state.params['a'].b"].bytes == 163840  # 64 x 640 floats
    assert found["batch.x"].bytes == 8 * 128 * 2
    told = buffers(TEXT, ASSIGNMENT)
    assert [(b.bytes, b.kind, b.what) for b in told] == [
        (163840, "argument", "state.params['a'].b"),
        (16384, "temporary", "jit(step)/a"),
        (2048, "temporary", "other.2"),
    ]


@pytest.mark.parametrize(
    ("shape", "layout", "size"),
    [
        (ArrayShape("f32", ()), ":T(128)", 512),
        (ArrayShape("s32", (3,)), "0:T(128)", 512),
        (ArrayShape("bf16", (1030,)), "0:T(1024)(128)(2,1)", 4096),
        (ArrayShape("f32", (5, 3, 130)), "1,2,0:T(8,128)", 5 * 136 * 128 * 4),
        (ArrayShape("f32", (5, 3)), "1,0", 60),
        (ArrayShape("pred", (5,)), "", 5),
    ],
)
def test_tiles_are_filled_up(shape, layout, size):
    assert padded(shape, layout) == size
