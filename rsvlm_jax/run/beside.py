"""What stands beside the weights of a checkpoint: copied, and made for a LLaVA that lacks it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from rsvlm_jax.config import GPT2Config, LlamaConfig
from rsvlm_jax.interop import processor
from rsvlm_jax.interop.families.llava import LlavaConfig
from rsvlm_jax.interop.files import read_json
from rsvlm_jax.interop.processor import Words

WORDS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "processor_config.json",
    "generation_config.json",
)
BESIDE = ("preprocessor_config.json", "LICENSE", "LICENSE.txt", "LICENSE.md", *WORDS)
"""Files that go along; `WORDS` not with a vision tower."""


def copy_beside(source: Path, target: Path, config: Any) -> tuple[str, ...]:
    """From a checkpoint's directory, or from the processor of a run."""
    speaks = isinstance(config, LlavaConfig | LlamaConfig | GPT2Config)
    names = BESIDE if speaks else [name for name in BESIDE if name not in WORDS]
    folders = (source, source / "processor")
    found = [next((f / n for f in folders if (f / n).is_file()), None) for n in names]
    for path in filter(None, found):
        shutil.copyfile(path, target / path.name)
    return tuple(sorted(path.name for path in found if path is not None))


def carry_ids(source: Path, target: Path) -> None:
    """The ids that begin and end a text, which no model of ours reads."""
    theirs, ours = read_json(source / "config.json"), read_json(target / "config.json")
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        texts = [x.get("text_config") or x for x in (theirs, ours)]
        if texts[0].get(key, theirs.get(key)) is not None:
            texts[1][key] = texts[0].get(key, theirs.get(key))
        if "text_config" in theirs and "text_config" in ours and theirs.get(key) is not None:
            ours[key] = theirs[key]
    (target / "config.json").write_text(json.dumps(ours, indent=2, sort_keys=True) + "\n")


def make_processor(
    source: Path,
    target: Path,
    config: LlavaConfig,
    words: Words | None,
    vision: Path | None,
    described: Path,
) -> tuple[str, ...]:
    """Files for transformers' LlavaProcessor, beside a LLaVA that was in its original layout.

    Args:
      config: as it was written.
      words: of the tokenizer in `source`, which was copied; None: there is none.
      vision: directory of the tower.
      described: directory with the config.json of LLaVA.

    Returns:
      Lines that say what is lacking.
    """
    raw = read_json(described / "config.json")
    pad = raw.get("image_aspect_ratio") == "pad"
    if not (target / "processor_config.json").exists():
        image = processor.IMAGE if words is None else words.image
        processor.write_processor(target, config, tower=vision, pad=pad, image=image)
    if words is None:
        needed = f"{processor.IMAGE} = {config.image_token}"
        return (f"no tokenizer in {source}: put one with {needed} beside the weights",)
    processor.write_tokenizer(target, words)
    processor.write_ids(target, words)
    human = (raw.get("architectures") or [""])[0].startswith("GeoChat")
    if processor.write_template(target, config, human=human, image=words.image):
        return ()
    return (f"no chat template in {source}, and none known of its language model",)
