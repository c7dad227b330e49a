"""Groups of compiler flags, each with its reason, and the variable that they go into.

    python tpu_scripts/flags.py                      what there is, and why
    python tpu_scripts/flags.py overlap,vmem_v6e     LIBTPU_INIT_ARGS='--xla_...', for `export`
    python tpu_scripts/flags.py --value gpu_overlap  the value alone; --device gpu: no other's

Start without any: the compiler's own choices are good, and what a group gains is for a profile to
say (`rsvlm train --profile`). Flags of a TPU go into LIBTPU_INIT_ARGS, those of a GPU into
XLA_FLAGS; both are read when the device library is loaded, and one that it does not know ends the
process. A group changes the order in which numbers are added, so that losses differ in their last
bits from those without it; random numbers stay those of the seed. Flags that would change them
stand in `NEVER`.

Needs nothing but Python, so that it also runs where JAX is not installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import shlex
import sys
from collections.abc import Sequence
from typing import Literal

VARIABLE = {"tpu": "LIBTPU_INIT_ARGS", "gpu": "XLA_FLAGS"}


@dataclasses.dataclass(frozen=True)
class Group:
    """Flags that belong together.

    Attributes:
      device: whose compiler reads them.
      why: what they are for, and when not to take them.
      flags: value by name, without dashes.
      chip: what the test compiles for; TPUs only.
    """

    device: Literal["tpu", "gpu"]
    why: str
    flags: dict[str, str]
    chip: str = "v5e"


GROUPS = {
    "overlap": Group(
        "tpu",
        "Gathers of weights run beside the matrix products of the layer before. Mostly the default "
        "by now; for FSDP whose profile shows gathers alone on the time line.",
        {
            "xla_enable_async_all_gather": "true",
            "xla_tpu_overlap_compute_collective_tc": "true",
            "xla_tpu_enable_async_collective_fusion": "true",
            "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
            "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
        },
    ),
    "overlap_reduce": Group(
        "tpu",
        "The same for sums of gradients over `data`.",
        {
            "xla_enable_async_all_reduce": "true",
            "xla_tpu_overlap_compute_collective_tc": "true",
            "xla_tpu_enable_async_collective_fusion": "true",
            "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
        },
    ),
    "reduce_scatter": Group(
        "tpu",
        "An all-reduce of which each chip keeps a part becomes a reduce-scatter: half the bytes.",
        {
            "xla_tpu_use_minor_sharding_for_major_trivial_input": "true",
            "xla_tpu_relayout_group_size_threshold_for_reduce_scatter": "1",
            "xla_tpu_assign_all_reduce_scatter_layout": "true",
        },
    ),
    "slices": Group(
        "tpu",
        "Several slices (`--mesh.slices`): the sums over the data centre's network are spread over "
        "the backward pass.",
        {
            "xla_tpu_enable_data_parallel_all_reduce_opt": "true",
            "xla_tpu_data_parallel_opt_different_sized_ops": "true",
        },
    ),
    "vmem_v6e": Group(
        "tpu",
        "v6e (Trillium), dense models: 96 of its 128 MiB of fast memory for one fusion. On v5e and "
        "v5p it is too much.",
        {"xla_tpu_scoped_vmem_limit_kib": "98304"},
        chip="v6e",
    ),
    "sparsecore_gather": Group(
        "tpu",
        "v6e: gathers are driven by the SparseCores instead of the TensorCore. Not with `overlap`, "
        "whose fused gathers it turns off. JAX 0.10 cannot print such a program.",
        {
            "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "false",
            "xla_tpu_enable_all_gather_offload_tracing": "true",
            "xla_tpu_enable_sparse_core_collective_offload_all_gather": "true",
            "xla_tpu_use_tc_device_shape_on_sc": "true",
            "xla_sc_enable_instruction_fusion": "false",
            "xla_sc_disjoint_spmem": "false",
        },
        chip="v6e",
    ),
    "offload": Group(
        "tpu",
        "With `--train.remat offload`: more transfers to the host under way at once, and their "
        "memory counted.",
        {
            "xla_tpu_enable_scheduler_memory_pressure_tracking": "true",
            "xla_tpu_host_transfer_overlap_limit": "24",
            "xla_latency_hiding_scheduler_rerun": "2",
        },
    ),
    "suspect_chip": Group(
        "tpu",
        "Losses jump on one slice only: each result is computed again and compared, and the run "
        "ends at the first that differs. Many times slower; to find a bad chip.",
        {
            "xla_tpu_enable_sdc_checker": "true",
            "xla_tpu_sdc_check_halt_on_detection": "true",
            "xla_tpu_sdc_check_repeat_count": "2",
        },
    ),
    "gpu_overlap": Group(
        "gpu",
        "Several GPUs with FSDP: collectives beside products, one collective a layer (thresholds "
        "above the 405 MB of a 7B layer in bfloat16). Nothing on one GPU.",
        {
            "xla_gpu_enable_latency_hiding_scheduler": "true",
            "xla_gpu_enable_pipelined_all_gather": "true",
            "xla_gpu_enable_pipelined_reduce_scatter": "true",
            "xla_gpu_enable_pipelined_all_reduce": "true",
            "xla_gpu_enable_while_loop_double_buffering": "true",
            "xla_gpu_all_gather_combine_threshold_bytes": "536870912",
            "xla_gpu_reduce_scatter_combine_threshold_bytes": "536870912",
            "xla_gpu_all_reduce_combine_threshold_bytes": "536870912",
        },
    ),
    "gpu_own_remat": Group(
        "gpu",
        "XLA keeps what `--train.remat` says and computes nothing again by its own choice. Memory "
        "may no longer suffice.",
        {"xla_disable_hlo_passes": "rematerialization"},
    ),
    "gpu_repeatable": Group(
        "gpu",
        "The same bits every time: no atomic adds, and no choice of kernels by timing. Slower.",
        {
            "xla_gpu_exclude_nondeterministic_ops": "true",
            "xla_gpu_autotune_level": "0",
        },
    ),
}

NEVER = {
    "xla_tpu_spmd_rng_bit_generator_unsafe": "random numbers then depend on the sharding, so that "
    "a run on another mesh is another run; common in other recipes",
    "xla_tpu_enable_all_experimental_scheduler_features": "what it turns on changes by version",
}
"""Flags that no group has, and why."""


def value(names: Sequence[str], device: str | None = None) -> tuple[str, str]:
    """The variable and the value of some groups together.

    Args:
      device: the only one whose groups are wanted.

    Raises:
      ValueError: an unknown group, groups of two devices or of another, or two that contradict each
        other.
    """
    devices, flags = set(), {}
    for name in names:
        if name not in GROUPS:
            near = difflib.get_close_matches(name, GROUPS, n=3, cutoff=0.3)
            raise ValueError(
                f"no such group of flags: {name}; expected {', '.join(near or GROUPS)}"
            )
        if device not in (None, GROUPS[name].device):
            raise ValueError(f"{name} is for {GROUPS[name].device}; expected groups for {device}")
        devices.add(GROUPS[name].device)
        for flag, setting in GROUPS[name].flags.items():
            if flags.setdefault(flag, setting) != setting:
                raise ValueError(f"groups that contradict each other in {flag}: {', '.join(names)}")
    if len(devices) != 1:
        raise ValueError(f"expected groups of one device; found {', '.join(names) or 'none'}")
    return VARIABLE[devices.pop()], " ".join(f"--{flag}={x}" for flag, x in flags.items())


def listed() -> str:
    """All groups, for people."""
    lines = []
    for name, group in GROUPS.items():
        lines += [f"{name}  ({VARIABLE[group.device]})", f"    {group.why}"]
        lines += [f"      --{flag}={x}" for flag, x in group.flags.items()]
    lines += ["in no group:", *(f"    {flag}: {why}" for flag, why in NEVER.items())]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Groups of flags of the TPU and GPU compilers.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help="names, or a,b; none: list all")
    parser.add_argument("--value", action="store_true", help="the value without the variable")
    parser.add_argument("--device", choices=VARIABLE, help="refuse groups of another")
    options = parser.parse_args(arguments)
    names = [name for word in options.groups for name in word.split(",") if name]
    if not names and not options.value:
        print(listed())
        return 0
    try:
        variable, text = value(names, options.device)
    except ValueError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(text if options.value else f"{variable}={shlex.quote(text)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
