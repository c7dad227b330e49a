"""What an accelerator can do at most, by the name that JAX gives it.

The makers' figures for dense bfloat16, without sparsity: the denominator of MFU. What a device
reaches is less (of an H100 about 80 % in the best matrix product) and is for a benchmark to say.
"""

from __future__ import annotations

import dataclasses
import difflib
import re

from rsvlm_jax.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Chip:
    """What JAX shows as one device: a chip (of TPU v4 and v5p both cores; of TPU7x one of two).

    Attributes:
      name: as people say it.
      kind: pattern of `jax.Device.device_kind`.
      bf16: dense bfloat16 operations a second.
      hbm: bytes of memory.
      bandwidth: bytes a second between memory and chip.
    """

    name: str
    kind: str
    bf16: float
    hbm: float
    bandwidth: float


CHIPS = (
    Chip("A100-40G", r"A100.*40GB", 312e12, 40e9, 1555e9),
    Chip("A100-80G", r"A100.*80GB", 312e12, 80e9, 2039e9),
    Chip("H100", r"H100 80GB HBM3$", 989e12, 80e9, 3350e9),
    Chip("H100-PCIe", r"H100 PCIe$", 756e12, 80e9, 2000e9),
    Chip("H100-NVL", r"H100 NVL$", 835.5e12, 94e9, 3900e9),
    Chip("H200", r"\bH200$", 989e12, 141e9, 4800e9),
    Chip("H200-NVL", r"\bH200 NVL$", 835.5e12, 141e9, 4800e9),
    Chip("GH200", r"GH200 480GB$", 990e12, 96e9, 4000e9),
    Chip("GH200-144G", r"GH200 144G HBM3e$", 990e12, 144e9, 4900e9),
    Chip("v4", r"TPU v4$", 275e12, 32 * 2.0**30, 1200e9),
    Chip("v5e", r"TPU v5 ?lite|TPU v5e", 197e12, 16 * 2.0**30, 819e9),
    Chip("v5p", r"TPU v5p?$", 459e12, 95 * 2.0**30, 2765e9),
    Chip("v6e", r"TPU v6 ?lite|TPU v6e", 918e12, 32 * 2.0**30, 1638e9),
    Chip("tpu7x", r"TPU ?(v7x?|7x)$", 2307e12 / 2, 192 * 2.0**30 / 2, 7380e9 / 2),
)
"""NVIDIA's data sheets (SXM boards unless the name says otherwise; the 480 GB of a GH200 are its
CPU's); Google Cloud's pages of TPU v4, v5e, v5p, v6e, TPU7x (whose chips show two devices each:
docs.cloud.google.com/tpu/docs/tpu7x, "dual-chiplet architecture"). Parts of a board (MIG) are in no
row."""


def chip_of(device_kind: str) -> Chip | None:
    """The row of a device; None for one that is not in the table (every CPU)."""
    return next((chip for chip in CHIPS if re.search(chip.kind, device_kind)), None)


def chip_named(name: str) -> Chip:
    """The row of a name.

    Raises:
      ConfigError: no such row.
    """
    for chip in CHIPS:
        if chip.name == name:
            return chip
    near = difflib.get_close_matches(name, [chip.name for chip in CHIPS], n=1)
    raise ConfigError(
        "no such chip",
        where="chip",
        expected=", ".join(chip.name for chip in CHIPS),
        found=name,
        remedy=f"did you mean {near[0]!r}?" if near else None,
    )
