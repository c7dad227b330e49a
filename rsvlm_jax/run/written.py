"""What `convert` writes of a run, and of one tower of any whole model."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from rsvlm_jax.config import (
    CheckpointError,
    ConfigError,
    LlamaConfig,
    LoraConfig,
    LoraOverride,
    ViTConfig,
)
from rsvlm_jax.core import base_path, flat, is_lora
from rsvlm_jax.interop.families.llava import LlavaConfig, check_parts

from .reopen import open_talk
from .rundir import RunDir, Which
from .trained import load_run

LLAVA = "LlavaForConditionalGeneration"
_DECODERS = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


@dataclasses.dataclass(frozen=True)
class Written:
    """What is to be written; `whole`: parameters that go with the LoRA of an adapter."""

    architecture: str
    config: Any
    params: Any
    ignored: tuple[str, ...] = ()
    lora: LoraConfig | None = None
    whole: tuple[str, ...] = ()


def of_run(path: Path, part: str | None, *, keep: bool, step: Which = None) -> Written:
    """A run of conversations whole, or one tower of any run.

    Args:
      step: as `rsvlm_jax.load`.
      keep: LoRA beside its kernels; else it is merged.

    Raises:
      CheckpointError: a whole model of cubes, or with parts that LLaVA lacks: no other code has a
        class for it.
    """
    experiment = RunDir(path).experiment()
    if experiment.conversations is not None:
        if part is None:
            check_parts(experiment.model, LLAVA)
        opened = open_talk(path, merge=not keep, step=step)
        config = LlavaConfig(experiment.model, opened.image_token or 0)
        whole = Written(LLAVA, config, opened.params, (), opened.lora, opened.whole)
        return whole if part is None else part_of(whole, part)
    model = experiment.model
    if part is None:
        raise CheckpointError(
            f"{LLAVA} reads no cubes", where=path, expected="a model of images",
            found=f"inputs {', '.join(i.bandset for i in model.inputs)}",
            remedy="write one tower with --part decoder or --part vision",
        )  # fmt: skip
    loaded = load_run(path, merge=not keep, step=step)
    config = LlavaConfig(model, loaded.processor.tokenizer.image)
    return part_of(Written(LLAVA, config, loaded.params, lora=loaded.lora), part)


def part_of(model: Written, part: str) -> Written:
    """One tower of a whole model, as the class that it has by itself."""
    if not isinstance(model.config, LlavaConfig):
        raise ConfigError("the checkpoint is one tower", where="--part", found=part)
    config = getattr(model.config.model, part)
    if part not in model.params or config is None:
        raise CheckpointError(f"the model has no {part}", found=", ".join(model.params))
    if isinstance(config, LlamaConfig):
        name = _DECODERS[config.family]
    elif isinstance(config, ViTConfig):
        name = "CLIPVisionModelWithProjection" if config.projection_dim else "CLIPVisionModel"
        config = dataclasses.replace(config, keep_cls=True)
    else:
        name = {
            "gpt2": "GPT2LMHeadModel",
            "siglip": "SiglipVisionModel",
            "dinov2": "Dinov2Model",
            "convnext": "ConvNextModel",
        }.get(config.kind)
        if name is None:
            raise CheckpointError("no class for this tower", where=part, found=config.kind)
    config, params = pooled(config, model.params[part])
    lora = None if model.lora is None else lora_of_part(model.lora, part, params)
    return Written(name, config, params, lora=lora)


def pooled(config: Any, params: Any) -> tuple[Any, Any]:
    """A vision tower with the final norm that its class loads and nobody of ours reads."""
    if not isinstance(config, ViTConfig) or config.pool:
        return config, params
    norm = {
        "scale": jnp.ones((config.width,), jnp.float32),
        "bias": jnp.zeros((config.width,), jnp.float32),
    }
    return dataclasses.replace(config, pool=True), {**params, "post_norm": norm}


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
