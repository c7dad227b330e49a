"""What the directory, its files and its tensors are called."""

from __future__ import annotations

from rsvlm_jax.interop.rows import COPY, TRANSPOSE, Row

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
BESIDE = ("non_lora_trainables.safetensors", "non_lora_trainables.bin")
"""What LLaVA trains beside LoRA: its projector."""
PREFIX = "base_model.model."
"""Of all names of tensors, as they are written."""

IN_MEMORY: dict[str, dict[str, str]] = {
    "LlavaForConditionalGeneration": {
        "language_model.lm_head.": "lm_head.",
        "language_model.model.": "model.language_model.",
        "vision_tower.": "model.vision_tower.",
        "multi_modal_projector.": "model.multi_modal_projector.",
    },
}
"""Starts of names where a class of transformers calls its modules otherwise than on disk (there
4.x, here from 4.52 on). PEFT looks up modules, and translates only some of the names it is given;
reading takes every spelling (`Family.canonical`)."""


def bare(name: str) -> str:
    """A tensor's name without what PEFT and LLaVA's own code put in front."""
    name = name.removeprefix(PREFIX)
    return name.removeprefix("model.") if name.startswith("model.model.") else name


def in_memory(architecture: str, name: str) -> str:
    """What transformers calls a module or parameter that has this name on disk."""
    for start, new in IN_MEMORY.get(architecture, {}).items():
        if name.startswith(start):
            return new + name.removeprefix(start)
    return name


def factor_name(kernel: str, factor: str, part: int = 0) -> str:
    """Of a kernel's A or B. A is read once for each part of a fused kernel, under its own name."""
    name = f"{kernel.removesuffix('.weight')}.lora_{factor}.weight"
    return f"{name} (for part {part})" if part and factor == "A" else name


def adaptable(row: Row) -> bool:
    """Whether it is the kernel of a Linear (or a Conv1D), cut along its outputs if at all."""
    out_axis = 0 if row.how == TRANSPOSE else 1
    return (
        row.ours.endswith("/kernel")
        and row.theirs.endswith(".weight")
        and row.how in (TRANSPOSE, COPY)
        and (row.part is None or row.axis == out_axis)
    )


def some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
