"""`convert(SRC, DST)`: checkpoints from one format to another.

    Hugging Face directory (names of any version)     -> the same class, names of 4.x
    LLaVA, GeoChat in their original layout           -> LlavaForConditionalGeneration
    a language model, --adapter of LLaVA's own code   -> LlavaForConditionalGeneration
    LlavaForConditionalGeneration         --to llava  -> LlavaLlamaForCausalLM, -Mistral-, -Qwen-
    mm_projector (a file)                             -> the same as safetensors (a file)
    OpenCLIP image tower (a file)                     -> CLIPVisionModelWithProjection
    llama2.c (.bin, or asset:stories260k)             -> LlamaForCausalLM
    a run of conversations                            -> LlavaForConditionalGeneration, LoRA merged
    a run                    --part decoder | vision  -> the class of that tower, LoRA merged
    a run with LoRA   [--part decoder] --to peft      -> its factors as a PEFT adapter

Of what stands beside the weights, the tokenizer, processor and generation settings are copied, by
their names (`BESIDE`), and nothing else: what is written is often shared. Nothing is cast unless
asked: what is bfloat16 throughout stays so, all else becomes float32, which is exact.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from rsvlm_jax.assets import STORIES260K_DIR
from rsvlm_jax.config import (
    STORIES260K,
    CheckpointError,
    ConfigError,
    LlamaConfig,
    SiglipConfig,
    ViTConfig,
    VLMConfig,
)
from rsvlm_jax.core import flat, is_lora
from rsvlm_jax.interop.families.llava import LlavaConfig
from rsvlm_jax.interop.families.llava_original import ORIGINAL
from rsvlm_jax.interop.files import open_checkpoint
from rsvlm_jax.interop.huggingface import save_pretrained
from rsvlm_jax.interop.llama2c import config_of_bin, load_llama2c
from rsvlm_jax.interop.llava_original import is_projector, load_projector, save_projector
from rsvlm_jax.interop.openclip import load_openclip
from rsvlm_jax.interop.peft import adapter_tensors, save_adapter
from rsvlm_jax.interop.processor import Words, words_of

from .beside import BESIDE, carry_ids, copy_beside, make_processor
from .directory import is_pretrained, read_directory, release_over
from .rundir import Which
from .written import LLAVA, Written, of_run, part_of, pooled

_WHOLE = {
    "CLIPModel": "CLIPVisionModelWithProjection",
    "SiglipModel": "SiglipVisionModel",
    "ConvNextForImageClassification": "ConvNextModel",
}
"""Classes whose text tower or classifier is not kept."""

_ORIGINAL = {
    "llama": "LlavaLlamaForCausalLM",
    "mistral": "LlavaMistralForCausalLM",
    "qwen2": "LlavaQwenForCausalLM",
}
_ROWS = 64
"""A vocabulary that grows becomes a multiple of this, as in the published conversions."""


@dataclasses.dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
      architecture: class in its config.json.
      parameters: numbers in its tensors.
      dtype: of them.
      ignored: names in the source that carry nothing for this class.
      beside: files that were copied or made.
      notes: what is lacking for use in transformers, a line each.
    """

    path: Path
    architecture: str
    parameters: int
    dtype: str
    ignored: tuple[str, ...]
    beside: tuple[str, ...]
    notes: tuple[str, ...] = ()


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to: Literal["hf", "llava", "peft"] = "hf",
    part: Literal["decoder", "vision"] | None = None,
    step: Which = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    vision: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    activation: Literal["gelu", "quick_gelu"] = "gelu",
    allow_pickle: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Read one checkpoint and write another.

    Args:
      source: directory, file or "asset:stories260k"; see the table on top of this file.
      target: directory that does not exist or is empty; of a projector, a file.
      to: "llava" for the original layout of a LLaVA; "peft" for the LoRA of a run by itself.
      part: of a run, the tower to write.
      step: of a run, the checkpoint, as `rsvlm_jax.load`.
      dtype: of what is written; None: see above.
      vision: directory of the tower that an original LLaVA does not hold.
      adapter: directory of a PEFT adapter, which is merged.
      activation: of an OpenCLIP tower, whose file does not say (see `load_openclip`).
      allow_pickle: read `.bin` and `.pt` files, through torch's weights-only loader.
      progress: (done, all) of reading and writing.

    Raises:
      ConfigError: a target that holds something or cannot be written, or an option for another
        kind of source.
      CheckpointError: what cannot be read or written.
    """
    report = progress or (lambda done, steps: None)
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(
            "the target holds something", where=target, expected="a new or empty directory",
            remedy="choose another, or remove it",
        )  # fmt: skip
    report(0, 2)
    source_path = Path(source)
    asset = str(source) == "asset:stories260k"
    _only_for(asset, source_path, part=part, step=step, vision=vision, adapter=adapter)
    if asset:
        source_path = STORIES260K_DIR
        model = Written("LlamaForCausalLM", STORIES260K, load_llama2c(STORIES260K))
    elif source_path.is_file():
        if not _is_llama2c(source_path):
            opened = open_checkpoint(source_path, allow_pickle=allow_pickle)
            if is_projector(opened):
                return _projector(source_path, target, to, dtype, allow_pickle)
        model = _of_file(source_path, activation, allow_pickle)
    elif is_pretrained(source_path):
        stored = dtype or _stored(source_path, vision, adapter, allow_pickle)
        found, _ = read_directory(
            source_path, vision=vision, adapter=adapter, allow_pickle=allow_pickle, dtype=stored
        )
        name = found.family.architecture
        model = Written(_WHOLE.get(name, name), found.config, found.params, found.report.ignored)
    else:
        model = of_run(source_path, part, keep=to == "peft", step=step)
    if part is not None and is_pretrained(source_path):
        model = part_of(model, part)
    if to == "peft":
        return _adapter(model, target, source)
    original = model.architecture in {f.architecture for f in ORIGINAL} and to == "hf"
    words = words_of(source_path, model.config.image_token) if original else None
    model = _laid_out(model, to, words)
    report(1, 2)
    stored = np.dtype(jnp.dtype(dtype)).name if dtype is not None else _dtype(model.params)
    with _writing(target):
        save_pretrained(target, model.architecture, model.config, model.params, dtype=stored)
    if not source_path.is_file():
        copy_beside(source_path, target, model.config)
    if is_pretrained(source_path):
        carry_ids(source_path, target)
    notes = ()
    if original:
        tower = None if vision is None else Path(vision)
        described = release_over(source_path, adapter, None) or source_path
        notes = make_processor(source_path, target, model.config, words, tower, described)
    report(2, 2)
    return Converted(
        path=target,
        architecture=model.architecture,
        parameters=sum(x.size for x in flat(model.params).values()),
        dtype=stored,
        ignored=model.ignored,
        beside=tuple(sorted(p.name for p in target.iterdir() if p.name in BESIDE)),
        notes=notes,
    )


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise ConfigError(
            f"cannot write the target ({e.strerror})", where=target,
            remedy="choose another, or free space and rights",
        ) from e  # fmt: skip


def _only_for(asset: bool, path: Path, **options: Any) -> None:
    """Refuse an option that says nothing about a source of this kind: none is passed over."""
    if asset or path.is_file():
        allowed, kind = (), "one file"
    elif not path.exists():
        return
    elif is_pretrained(path):
        allowed, kind = ("part", "vision", "adapter"), "a directory of Hugging Face or LLaVA"
    else:
        allowed, kind = ("part", "step"), "a run"
    for name, value in options.items():
        if value is not None and name not in allowed:
            raise ConfigError(
                f"not read with {kind}", where=f"--{name}", expected=None, found=value,
                remedy="give it with a directory of Hugging Face or LLaVA",
            )  # fmt: skip


def _of_file(path: Path, activation: Any, allow_pickle: bool) -> Written:
    """llama2.c's own format, or an OpenCLIP tower; both may end in `.bin`."""
    if _is_llama2c(path):
        config = config_of_bin(path)
        return Written("LlamaForCausalLM", config, load_llama2c(config, path))
    found = load_openclip(path, activation=activation, allow_pickle=allow_pickle)
    return Written(
        "CLIPVisionModelWithProjection", found.config, found.params, found.report.ignored
    )


def _is_llama2c(path: Path) -> bool:
    """Whether a `.bin` is none of torch's."""
    with open(path, "rb") as file:
        return path.suffix == ".bin" and file.read(4)[:2] not in (b"PK", b"\x80\x02")


def _projector(
    path: Path, target: Path, to: str, dtype: Literal["float32", "bfloat16"] | None, allow: bool
) -> Converted:
    if to == "llava" or target.suffix != ".safetensors" or target.is_dir():
        raise ConfigError(
            "a projector by itself becomes one file", where=target,
            expected="a new DST.safetensors, and no --to llava",
        )  # fmt: skip
    stored = dtype or _stored(path, None, None, allow)
    found = load_projector(path, allow_pickle=allow, dtype=stored)
    with _writing(target):
        made = save_projector(target, found.config, found.params, dtype=stored)
    count = sum(x.size for x in flat(found.params).values())
    return Converted(made, found.family.architecture, count, stored, found.report.ignored, ())


def _adapter(model: Written, target: Path, source: Any) -> Converted:
    if model.lora is None:
        raise ConfigError(
            "no LoRA to write", where="--to peft", expected="a run with Experiment.lora",
            found=source,
        )  # fmt: skip
    with _writing(target):
        made = save_adapter(
            target, model.architecture, model.config, model.params, model.lora, whole=model.whole
        )
    arrays = flat(model.params)
    count = sum(x.size for p, x in arrays.items() if is_lora(p) or p in model.whole)
    return Converted(made, model.architecture, count, "float32", (), ())


def _laid_out(model: Written, to: str, words: Words | None) -> Written:
    config = model.config
    if to == "llava":
        if not isinstance(config, LlavaConfig):
            raise ConfigError(
                "only a LLaVA has this layout", where="--to llava", found=model.architecture
            )
        decoder = config.model.decoder
        family = decoder.family if isinstance(decoder, LlamaConfig) else "another model"
        if family not in _ORIGINAL:
            raise CheckpointError(
                "LLaVA's own code has no class for this", where="decoder",
                expected=" or ".join(_ORIGINAL), found=family,
            )  # fmt: skip
        original = {f.architecture for f in ORIGINAL}
        kept = model.architecture if model.architecture in original else _ORIGINAL[family]
        return dataclasses.replace(model, architecture=kept)
    if not isinstance(config, LlavaConfig):
        return model
    vision, params = config.model.vision, model.params
    if isinstance(vision, ViTConfig | SiglipConfig):
        vision, tower = pooled(vision, params["vision"])
        params = {**params, "vision": tower}
    whole = dataclasses.replace(config.model, vision=vision)
    image = config.image_token if words is None else words.image_id
    config = LlavaConfig(whole, image)
    config, params = _with_rows(config, params, words)
    return dataclasses.replace(model, architecture=LLAVA, config=config, params=params)


def _with_rows(config: LlavaConfig, params: Any, words: Words | None) -> tuple[LlavaConfig, Any]:
    """transformers looks the placeholder up before it replaces it: its id needs a row, and so does
    that of the padding."""
    model: VLMConfig = config.model
    decoder = model.decoder
    assert isinstance(decoder, LlamaConfig)
    if config.image_token < 0:
        config = dataclasses.replace(config, image_token=decoder.vocab_size)
    largest = max(config.image_token, -1 if words is None else words.pad_id)
    if largest < decoder.vocab_size:
        return config, params
    rows = -(-(largest + 1) // _ROWS) * _ROWS
    new = dict(params["decoder"])
    new["embed"] = {"embedding": _more(new["embed"]["embedding"], rows, 0)}
    if "lm_head" in new:
        new["lm_head"] = {"kernel": _more(new["lm_head"]["kernel"], rows, 1)}
    decoder = dataclasses.replace(decoder, vocab_size=rows)
    grown = dataclasses.replace(model, decoder=decoder)
    return dataclasses.replace(config, model=grown), {**params, "decoder": new}


def _more(x: Any, rows: int, axis: int) -> Any:
    """New rows are the mean of all: no known token is preferred to them or they to it."""
    mean = jnp.mean(x.astype(jnp.float32), axis, keepdims=True).astype(x.dtype)
    return jnp.concatenate([x, jnp.repeat(mean, rows - x.shape[axis], axis)], axis)


def _stored(path: Path, vision: Any, adapter: Any, allow_pickle: bool) -> str:
    """The dtype of all that a model is made of."""
    folders = [path] if vision is None else [path, vision]
    opened = [open_checkpoint(folder, allow_pickle=allow_pickle) for folder in folders]
    arrays = [x for checkpoint in opened for x in checkpoint.values()]
    if adapter is not None:
        arrays += [x for _, x in adapter_tensors(Path(adapter), allow_pickle=allow_pickle)]
    kinds = {np.dtype(x.dtype) for x in arrays}
    floats = {k for k in kinds if jnp.issubdtype(k, jnp.floating)}
    return "bfloat16" if floats == {np.dtype(jnp.bfloat16)} else "float32"


def _dtype(params: Any) -> str:
    kinds = {np.dtype(x.dtype).name for x in flat(params).values()}
    return "bfloat16" if kinds == {"bfloat16"} else "float32"
