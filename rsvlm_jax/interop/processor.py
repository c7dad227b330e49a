"""What transformers' LlavaProcessor reads, for a LLaVA whose own code keeps no such files.

    tokenizer.json, .model  + _config.json   with <image> and <pad> as special tokens
    preprocessor_config.json                 sizes of our config; numbers of the tower's own file
    processor_config.json                    how many tokens an image is
    chat_template.jinja                      vicuna_v1 (GeoChat: llava_v1); other families: none
    generation_config.json                   as it was, with the padding

All in the form of transformers 4.x, which 5.x reads. Images are padded to squares of the mean
colour where config.json says `image_aspect_ratio: pad` (LlavaImageProcessor, from 4.50 on), else
their centre is cut out (CLIPImageProcessor). Nothing here knows arrays or needs `transformers`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rsvlm_jax.config import LlamaConfig, ViTConfig

from .families.llava import LlavaConfig
from .family import Json
from .files import read_json
from .tokens import vocabulary

IMAGE, PAD = "<image>", "<pad>"

_SYSTEM = (
    "A chat between a curious {} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {}'s questions."
)
_TEMPLATE = """\
{%- if messages[0]['role'] == 'system' -%}
{%- set system, turns = messages[0]['content'], messages[1:] -%}
{%- if system is not string -%}{%- set system = system[0]['text'] -%}{%- endif -%}
{%- else -%}
{%- set system, turns = "SYSTEM", messages -%}
{%- endif -%}
{{- system + ' ' -}}
{%- for message in turns -%}
{{- message['role'] | upper + ': ' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}{{- 'IMAGE\\n' -}}{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] -}}{%- endfor -%}
{%- endif -%}
{{- '</s>' if message['role'] == 'assistant' else ' ' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""
"""LLaVA's conversation style TWO: a space after what is asked, </s> after what is answered."""

_NUMBERS: Json = {
    "do_resize": True,
    "resample": 3,
    "do_center_crop": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_convert_rgb": True,
}
"""Of CLIP's image processor; `image_mean` and `image_std` come with the tower."""


@dataclasses.dataclass(frozen=True)
class Words:
    """The placeholder of an image and the padding of a tokenizer.

    Attributes:
      new: those of the two that it lacks, with their ids.
    """

    image: str
    pad: str
    ids: dict[str, int]
    new: dict[str, int]

    @property
    def image_id(self) -> int:
        return self.ids[self.image]

    @property
    def pad_id(self) -> int:
        return self.ids[self.pad]


def words_of(folder: Path, image_token: int) -> Words | None:
    """The two tokens of the tokenizer in `folder`; None where there is no tokenizer.

    What is new gets the ids after its last one, as a tokenizer gives them itself: 32000 and 32001
    with Vicuna. A padding that is the unknown or the end token is no padding.

    Args:
      image_token: placeholder by config.json; a token of this id is the placeholder.
    """
    ids = vocabulary(folder)
    if not ids:
        return None
    image = next((token for token, i in ids.items() if i == image_token), IMAGE)
    special = _special(folder)
    pad = special.get("pad_token")
    if pad not in ids or pad in (special.get("unk_token"), special.get("eos_token"), image):
        pad = PAD
    lacking = [token for token in (image, pad) if token not in ids]
    new = {token: max(ids.values()) + 1 + i for i, token in enumerate(lacking)}
    return Words(image, pad, {token: (ids | new)[token] for token in (image, pad)}, new)


def write_tokenizer(folder: Path, words: Words) -> None:
    """Give the tokenizer in `folder` its new tokens, in all of its files."""
    named = _special(folder)
    fast = folder / "tokenizer.json"
    if fast.exists():
        raw = read_json(fast)
        added = [{"id": i, **_token(token)} for token, i in words.new.items()]
        raw["added_tokens"] = [*(raw.get("added_tokens") or ()), *added]
        _write(fast, raw)
    if (folder / "added_tokens.json").exists() or not fast.exists():
        _update(folder / "added_tokens.json", words.new)
    if (folder / "special_tokens_map.json").exists():
        _update(folder / "special_tokens_map.json", {"pad_token": words.pad})
    said = _read(folder / "tokenizer_config.json")
    known = vocabulary(folder) | words.ids
    tokens = said.get("added_tokens_decoder") or {
        str(known[token]): _token(token)
        for key, token in named.items()
        if key != "pad_token" and token in known
    }
    tokens |= {str(i): _token(token) for token, i in words.new.items()}
    if "tokenizer_class" not in said:
        said["tokenizer_class"] = "PreTrainedTokenizerFast" if fast.exists() else "LlamaTokenizer"
    if said["tokenizer_class"].startswith("LlamaTokenizer"):
        said.setdefault("add_bos_token", True)  # the default of 4.x, no more of 5.x
    made = {
        **named,
        **said,
        "added_tokens_decoder": tokens,
        "pad_token": words.pad,
        "padding_side": "left",
        "processor_class": "LlavaProcessor",
    }
    _write(folder / "tokenizer_config.json", made)


def write_processor(
    folder: Path, config: LlavaConfig, *, tower: Path | None, pad: bool, image: str = IMAGE
) -> None:
    """The two files of the processor; what `folder` says of the image's numbers stays.

    Args:
      tower: directory of the vision tower, whose numbers go before CLIP's.
      pad: images to squares.
      image: the placeholder's text.
    """
    vision = config.model.vision
    assert isinstance(vision, ViTConfig)
    said = _read(folder / "preprocessor_config.json") or (_image_numbers(tower) if tower else {})
    numbers = {**_NUMBERS, "image_mean": list(vision.mean), "image_std": list(vision.std)}
    size = vision.image_size
    made = {
        **{key: said.get(key, value) for key, value in numbers.items()},
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "image_processor_type": "LlavaImageProcessor" if pad else "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
    }
    _write(folder / "preprocessor_config.json", {**made, "do_pad": True} if pad else made)
    tokens = {
        "processor_class": "LlavaProcessor",
        "image_token": image,
        "num_additional_image_tokens": 1,
        "patch_size": vision.patch_size,
        "vision_feature_select_strategy": "full" if vision.keep_cls else "default",
    }
    _write(folder / "processor_config.json", tokens)


def write_template(folder: Path, config: LlavaConfig, *, human: bool, image: str = IMAGE) -> bool:
    """The conversation that LLaVA-1.5 was trained on; whether the directory has one now.

    Args:
      human: llava_v1, which says "human" where vicuna_v1 says "user".
    """
    there = ("chat_template.jinja", "chat_template.json")
    if any((folder / name).exists() for name in there):
        return True
    if "chat_template" in _read(folder / "tokenizer_config.json"):
        return True
    text = config.model.decoder
    if not isinstance(text, LlamaConfig) or text.family != "llama":
        return False
    who = "human" if human else "user"
    template = _TEMPLATE.replace("SYSTEM", _SYSTEM.format(who, who)).replace("IMAGE", image)
    (folder / there[0]).write_text(template)
    return True


def write_ids(folder: Path, words: Words) -> None:
    """The padding in config.json and generation_config.json, which has the other two as well."""
    config = read_json(folder / "config.json")
    text = config["text_config"]
    text["pad_token_id"] = config["pad_token_id"] = words.pad_id
    _write(folder / "config.json", config)
    ends = {key: text[key] for key in ("bos_token_id", "eos_token_id") if key in text}
    said = _read(folder / "generation_config.json")
    _write(folder / "generation_config.json", {**ends, **said, "pad_token_id": words.pad_id})


def _special(folder: Path) -> dict[str, str]:
    """The tokens that have a role, by its name ("eos_token")."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        raw = _read(folder / name)
        for key in ("bos_token", "eos_token", "unk_token", "pad_token"):
            token = raw.get(key)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                found[key] = token
    return found


def _image_numbers(tower: Path) -> Json:
    """Of a tower's image processor, which transformers 5 may write inside processor_config.json."""
    said = _read(tower / "preprocessor_config.json")
    return said or _read(tower / "processor_config.json").get("image_processor") or {}


def _token(content: str) -> Json:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": content, **flags, "special": True}


def _read(path: Path) -> Json:
    return read_json(path) if path.exists() else {}


def _update(path: Path, new: dict[str, Any]) -> None:
    _write(path, {**_read(path), **new})


def _write(path: Path, data: Json) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
