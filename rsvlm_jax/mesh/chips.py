"""What an accelerator can do at most, by the name that JAX gives it.

The makers' figures for dense bfloat16, without sparsity: the denominator of MFU. What a device
reaches is less (of an H100 about 80 % in the best matrix product) and is for a benchmark to say.
"""

from __future__ import annotations

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip (of TPU v5p: both cores).

    Attributes:
      name: as people say it.
      kind: pattern of `jax.Device.device_kind`.
      bf16: dense bfloat16 operations a second.
      hbm: bytes of memory.
    """

    name: str
    kind: str
    bf16: float
    hbm: float


CHIPS = (
    Chip("A100-40G", r"A100.*40GB", 312e12, 40e9),
    Chip("A100-80G", r"A100.*80GB", 312e12, 80e9),
    Chip("H100", r"H100 80GB HBM3$", 989e12, 80e9),
    Chip("H100-PCIe", r"H100 PCIe$", 756e12, 80e9),
    Chip("H100-NVL", r"H100 NVL$", 835.5e12, 94e9),
    Chip("H200", r"\bH200$", 989e12, 141e9),
    Chip("H200-NVL", r"\bH200 NVL$", 835.5e12, 141e9),
    Chip("GH200", r"GH200 480GB$", 990e12, 96e9),
    Chip("GH200-144G", r"GH200 144G HBM3e$", 990e12, 144e9),
    Chip("v5e", r"TPU v5 ?lite|TPU v5e", 197e12, 16 * 2.0**30),
    Chip("v5p", r"TPU v5p?$", 459e12, 95 * 2.0**30),
    Chip("v6e", r"TPU v6 ?lite|TPU v6e", 918e12, 32 * 2.0**30),
)
"""NVIDIA's data sheets (SXM boards unless the name says otherwise; the 480 GB of a GH200 are its
CPU's); Google Cloud's pages of TPU v5e, v5p, v6e. Parts of a board (MIG) are in no row."""


def chip_of(device_kind: str) -> Chip | None:
    """The row of a device; None for one that is not in the table (every CPU)."""
    return next((chip for chip in CHIPS if re.search(chip.kind, device_kind)), None)
