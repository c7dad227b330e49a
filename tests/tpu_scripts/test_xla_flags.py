"""Groups of compiler flags: known to the compilers, and none that changes random numbers."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from fake_stage import ROOT

FILE = ROOT / "tpu_scripts/flags.py"
FLAGS = runpy.run_path(str(FILE))
GROUPS, NEVER, value, main = (FLAGS[name] for name in ("GROUPS", "NEVER", "value", "main"))
TPU = [name for name, group in GROUPS.items() if group.device == "tpu"]

PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
chips = topologies.get_topology_desc(sys.argv[1] + ":2x2", platform="tpu").devices
mesh = Mesh(np.array(chips), ("fsdp",))
x, w = (
    jax.ShapeDtypeStruct((512, 512), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec(*p)))
    for p in (("fsdp",), (None, "fsdp"))
)
loss = lambda w, x: jnp.sum(jnp.sin(x @ w).astype(jnp.float32) ** 2)
step = jax.jit(jax.grad(loss), out_shardings=w.sharding)
done = step.trace(w, x).lower(lowering_platforms=("tpu",)).compile()
print("compiled", done.memory_analysis().argument_size_in_bytes)
"""
"""A gathered product, and its gradient summed over the chips."""


def compiled(chip: str, flags: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: libtpu reads its flags once."""
    library = Path(sys.prefix, "libtpu", "libtpu", "libtpu.so")  # where the Makefile puts it
    environment = {
        **os.environ,
        **({"TPU_LIBRARY_PATH": str(library)} if library.exists() else {}),
        "JAX_PLATFORMS": "cpu",
        "LIBTPU_INIT_ARGS": flags,
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": {"v5e": "v5litepod-4", "v6e": "v6e-4"}[chip],
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
    }
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, chip], env=environment, capture_output=True, text=True
    )


@pytest.mark.tpu
@pytest.mark.parametrize("name", TPU)
def test_the_tpu_compiler_takes_each_group(name: str):
    done = compiled(GROUPS[name].chip, value([name])[1])
    assert done.stdout == f"compiled {2 * 512 * 512 * 2 // 4}\n", done.stderr


@pytest.mark.tpu
def test_a_flag_that_the_tpu_compiler_refuses():
    """So the test above would notice."""
    done = compiled("v5e", "--xla_tpu_no_such_flag=true")
    assert done.returncode != 0
    assert "Unknown command line flag 'xla_tpu_no_such_flag'" in done.stderr


def test_xla_takes_the_groups_for_gpus():
    """It reads the flags of all its compilers, whichever devices there are."""
    probe = "from jaxlib import xla_client; xla_client.make_cpu_client()"
    flags = " ".join(value([name])[1] for name in GROUPS if name not in TPU)
    done = subprocess.run(
        [sys.executable, "-c", probe], env={**os.environ, "XLA_FLAGS": flags}, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_no_group_changes_random_numbers_by_the_mesh():
    assert "xla_tpu_spmd_rng_bit_generator_unsafe" in NEVER
    assert not [flag for group in GROUPS.values() for flag in group.flags if flag in NEVER]


def test_each_says_why(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 0
    listed = capsys.readouterr().out
    for name, group in GROUPS.items():
        assert f"{name}  (" in listed
        assert group.why.endswith(".")


def test_what_it_prints_a_shell_reads():
    """With any Python, and without JAX."""
    done = subprocess.run(
        ["bash", "-c", f"export $({sys.executable} -S {FILE} vmem_v6e); printenv LIBTPU_INIT_ARGS"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "--xla_tpu_scoped_vmem_limit_kib=98304\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["overlp"], "no such group of flags: overlp; expected overlap"),
        (["overlap,gpu_overlap"], "expected groups of one device"),
        (["overlap", "sparsecore_gather"], "groups that contradict each other in xla_tpu_enable_"),
        (["--value"], "expected groups of one device; found none"),
    ],
)
def test_wrong_groups(words: list[str], line: str, capsys: pytest.CaptureFixture[str]):
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")
