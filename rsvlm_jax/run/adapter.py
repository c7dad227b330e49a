"""LoRA of one tower: what a run trained on a whole model, said of the paths of a part of it."""

from __future__ import annotations

import re
from typing import Any

from rsvlm_jax.config import LoraConfig, LoraOverride
from rsvlm_jax.core import base_path, flat, is_lora


def lora_of_part(lora: LoraConfig, part: str, params: Any) -> LoraConfig:
    """A config that takes the kernels that have factors in `params`, each as before.

    Args:
      lora: of the whole model.
      part: its tower, "decoder".
      params: of this tower, by its own paths.
    """
    kernels = sorted({base_path(path) for path in flat(params) if is_lora(path)})
    wholes = {kernel: f"{part}/{kernel}" for kernel in kernels}
    return LoraConfig(
        rank=lora.rank,
        alpha=lora.alpha,
        targets=f"^({'|'.join(map(re.escape, kernels))})$",
        rslora=lora.rslora,
        overrides=tuple(
            LoraOverride(f"^{re.escape(kernel)}$", lora.rank_of(whole), lora.alpha_of(whole))
            for kernel, whole in wholes.items()
            if lora.override_of(whole) is not None
        ),
    )
