"""LoRA of our models as PEFT directories."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from rsvlm_jax.config import CheckpointError, LoraConfig
from rsvlm_jax.core import LORA_A, LORA_B, base_path, flat, is_lora
from rsvlm_jax.interop import rows
from rsvlm_jax.interop.families import FAMILIES
from rsvlm_jax.interop.rows import COPY, Row

from .config import write_adapter_config
from .names import BESIDE, CONFIG, PREFIX, WEIGHTS, adaptable, factor_name, in_memory

Tree = Any
"""A nested dict of arrays."""


def save_adapter(
    folder: str | os.PathLike[str],
    architecture: str,
    config: Any,
    params: Tree,
    lora: LoraConfig,
    *,
    whole: Iterable[str] = (),
    base_name: str | None = None,
) -> Path:
    """Write the LoRA of a model as a PEFT directory, float32.

    Where one kernel there is several here (GPT-2's q, k and v), their factors A are written once
    if they are equal, as they were read; else side by side, with the sum of the ranks.

    Args:
      architecture, config: of the base, as for `save_pretrained`.
      params: nested dict; its LoRA factors are written, and what `whole` names.
      lora: that the factors were made with.
      whole: paths of parameters that are written whole (PEFT's `modules_to_save`).
      base_name: name or path of the base, which PEFT looks up when it is given none.

    Raises:
      CheckpointError: no place for a factor there, or a folder that holds an adapter already.
    """
    folder = Path(folder)
    there = [n for n in (CONFIG, *WEIGHTS, *BESIDE) if (folder / n).exists()]
    if there:
        raise CheckpointError(
            "the folder holds an adapter", where=folder, found=", ".join(there),
            remedy="choose another, or remove it",
        )  # fmt: skip
    if architecture not in FAMILIES:
        raise CheckpointError(
            "an unknown model", where="architecture", expected=", ".join(FAMILIES),
            found=repr(architecture),
        )  # fmt: skip
    table = FAMILIES[architecture].table(config)
    by_path = {row.ours: row for row in table}
    arrays, whole = flat(params), tuple(whole)
    kernels = sorted({base_path(path) for path in arrays if is_lora(path)})
    stray = [p for p in kernels if p not in by_path or not adaptable(by_path[p])]
    stray += [p for p in whole if p not in by_path or p not in arrays]
    if stray or not kernels:
        raise CheckpointError(
            "no adapter of this model", where=architecture,
            expected="LoRA of Linear layers, and parameters, that its table names",
            found=", ".join(stray[:10]) or "no LoRA",
        )  # fmt: skip

    tensors: dict[str, np.ndarray] = {}
    targets: dict[str, tuple[int, float]] = {}
    groups: dict[tuple[str, int, int], list[Row]] = {}
    for row in (by_path[path] for path in kernels):
        groups.setdefault((row.theirs, row.first, row.every), []).append(row)
    for group in groups.values():
        blocks, rank, alpha = _joined(group, arrays, lora)
        module = group[0].theirs.removesuffix(".weight")
        if targets.setdefault(module, (rank, alpha)) != (rank, alpha):
            raise CheckpointError(
                "rank and alpha differ between layers of one name", where=module,
                expected=targets[module], found=(rank, alpha),
            )  # fmt: skip
        for i, (a, b) in enumerate(blocks):
            name = group[0].name(i if group[0].stacked else None)
            name = PREFIX + in_memory(architecture, name)
            tensors[factor_name(name, "A")] = np.ascontiguousarray(a)
            tensors[factor_name(name, "B")] = np.ascontiguousarray(b)
    kept = tuple(row for row in table if row.ours in whole)
    for name, array in rows.write(kept, {path: arrays[path] for path in whole}):
        tensors[PREFIX + in_memory(architecture, name)] = array.astype(np.float32)
    text = write_adapter_config(
        targets,
        [row.theirs.removesuffix(".weight") for row in table if adaptable(row)],
        lora,
        transposed=any(by_path[path].how == COPY for path in kernels),
        whole=[row.theirs.rpartition(".")[0] for row in kept],
        causal=not architecture.endswith("Model") or "LMHead" in architecture,
        base_name=base_name,
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS[0], metadata={"format": "pt"})
    (folder / CONFIG).write_text(text)
    return folder


Block = tuple[np.ndarray, np.ndarray]
"""A [r, in] and B [out, r] of one module there."""


def _joined(
    group: list[Row], arrays: Mapping[str, Any], lora: LoraConfig
) -> tuple[list[Block], int, float]:
    """The factors of the kernels here that are one kernel there, layer by layer; rank and alpha.

    A_q A_k A_v equal:   A | B_q over B_k over B_v        else:   A_q over A_k over A_v | B_q
                                                                                            B_k
                                                                                              B_v
    """
    count = group[0].part[1] if group[0].part else 1
    a, b = (
        {
            row.part[0] if row.part else 0: np.asarray(arrays[row.ours + s], np.float32)
            for row in group
        }
        for s in (LORA_A, LORA_B)
    )
    if not group[0].stacked:
        a, b = ({i: x[None] for i, x in factors.items()} for factors in (a, b))
    for row, x in zip(group, a.values(), strict=True):
        if not lora.takes(row.ours) or x.shape[-1] != lora.rank_of(row.ours):
            rank = lora.rank_of(row.ours) if lora.takes(row.ours) else None
            raise CheckpointError(
                "LoRA of another config", where=row.ours, expected=f"rank {rank}",
                found=x.shape[-1],
            )  # fmt: skip
    first = next(iter(a))
    depth, d_out = b[first].shape[0], b[first].shape[2]
    scales = {lora.scale_of(row.ours) for row in group}
    if len(scales) > 1:
        raise CheckpointError(
            "one module there, several scales here", where=group[0].theirs,
            expected="one scale", found=", ".join(f"{s:g}" for s in sorted(scales)),
        )  # fmt: skip
    if len(a) == count and all(np.array_equal(x, a[first]) for x in a.values()):
        whole = np.concatenate([b[i] for i in range(count)], axis=2)
        blocks = [(a[first][n].T, whole[n].T) for n in range(depth)]
        return blocks, lora.rank_of(group[0].ours), lora.alpha_of(group[0].ours)
    order = sorted(a)
    rank = sum(a[i].shape[2] for i in order)
    spread = np.zeros((depth, rank, count * d_out), np.float32)
    start = 0
    for i in order:
        stop = start + a[i].shape[2]
        spread[:, start:stop, i * d_out : (i + 1) * d_out] = b[i]
        start = stop
    beside = np.concatenate([a[i] for i in order], axis=2)
    alpha = scales.pop() * (math.sqrt(rank) if lora.rslora else rank)
    return [(beside[n].T, spread[n].T) for n in range(depth)], rank, alpha
