"""A directory of Hugging Face as the text of one `tokenizer.json` and the roles of its tokens.

    tokenizer.json                                    as it is; else
    tokenizer.model, vocab.json ...                   converted by transformers
    tokenizer_config.json, special_tokens_map.json    which tokens begin, end and pad
    chat_template.jinja, .json                        the template, where it has a file of its own
    config.json                                       beginning and end by their ids, where unsaid

Nothing here encodes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from rsvlm_jax.config import DataError

IMAGE, REG = "<image>", "<reg>"

_SPOKEN = ("bos_token", "eos_token", "unk_token", "pad_token", "image_token")

Json = dict[str, Any]


def read_text(path: Path) -> str:
    """A file as text.

    Raises:
      DataError: there is none, or it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(
            "no readable tokenizer", where=str(path), expected="tokenizer.json", found=e
        ) from e


def read_roles(folder: Path) -> tuple[str, Json]:
    """The text of `tokenizer.json`, and the roles; empty where no other file is there.

    Raises:
      DataError: no tokenizer, or a damaged file.
    """
    text = _text(folder)
    said = read_json(folder / "tokenizer_config.json")
    mapped = read_json(folder / "special_tokens_map.json")
    roles: Json = {}
    for key in _SPOKEN:
        for source in (said, mapped):
            if key in source and key not in roles:
                token = source[key]
                roles[key] = token.get("content") if isinstance(token, dict) else token
    template = _template(folder, said)
    if template is not None:
        roles["chat_template"] = template
    if not roles and not said:
        return text, {}
    _unsaid(folder, text, roles)
    roles["add_bos_token"] = _starts(text, said, roles)
    return text, roles


def with_placeholders(
    text: str, roles: Json, image_token: int | None, *, where: str
) -> tuple[str, Json]:
    """The same with `<image>` and `<reg>` among its tokens; roles say which token is an image's."""
    try:
        made = tokenizers.Tokenizer.from_str(text)
    except Exception as e:  # the library raises bare Exception
        raise DataError(f"not a tokenizer ({e})", where=where) from e
    named = None if image_token is None else made.id_to_token(image_token)
    image = named or roles.get("image_token") or IMAGE
    if image != IMAGE:
        roles = {**roles, "image_token": image}
    lacking = [token for token in (image, REG) if made.token_to_id(token) is None]
    if not lacking:
        return text, roles
    added = [tokenizers.AddedToken(token, special=True, normalized=False) for token in lacking]
    made.add_special_tokens(added)
    return made.to_str(), roles


def read_json(path: Path) -> Json:
    """A table; empty where there is no file.

    Raises:
      DataError: a damaged one.
    """
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise DataError("not readable as JSON", where=str(path), found=e) from e
    if not isinstance(data, dict):
        raise DataError("not a table", where=str(path), expected="an object")
    return data


def _text(folder: Path) -> str:
    if (folder / "tokenizer.json").exists():
        return read_text(folder / "tokenizer.json")
    if not any((folder / name).exists() for name in ("tokenizer.model", "vocab.json")):
        raise DataError(
            "no readable tokenizer", where=str(folder), expected="tokenizer.json or .model",
            found="neither", remedy="copy that of the language model here",
        )  # fmt: skip
    import transformers

    name = read_json(folder / "tokenizer_config.json").get("tokenizer_class", "LlamaTokenizer")
    kind = getattr(transformers, str(name), None)
    try:
        if kind is None:
            raise ValueError(f"transformers has no {name}")
        made = kind.from_pretrained(folder)
        return made.backend_tokenizer.to_str()
    except Exception as e:  # whatever its many readers raise
        raise DataError(
            "a tokenizer that transformers does not read", where=str(folder), found=e
        ) from e


def _template(folder: Path, said: Json) -> str | None:
    file = folder / "chat_template.jinja"
    if file.exists():
        return read_text(file)
    found = read_json(folder / "chat_template.json").get("chat_template")
    found = said.get("chat_template") if found is None else found
    if isinstance(found, list):  # several by name
        named = {x.get("name"): x.get("template") for x in found}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _unsaid(folder: Path, text: str, roles: Json) -> None:
    """Beginning and end that the tokenizer's own files do not name: Llama's, or by their ids."""
    made = tokenizers.Tokenizer.from_str(text)
    known = {token.content for token in made.get_added_tokens_decoder().values()}
    for key, usual in (("bos_token", "<s>"), ("eos_token", "</s>")):
        if key not in roles:
            roles[key] = usual if usual in known else None
    for name in ("generation_config.json", "config.json"):
        found = read_json(folder / name).get("eos_token_id")
        found = found[0] if isinstance(found, list) and found else found
        if roles["eos_token"] is None and isinstance(found, int):
            roles["eos_token"] = made.id_to_token(found)


def _starts(text: str, said: Json, roles: Json) -> bool:
    """Whether the tokenizer puts its beginning in front of what it encodes."""
    if roles.get("bos_token") is None:
        return False
    if isinstance(said.get("add_bos_token"), bool):
        return said["add_bos_token"]
    made = tokenizers.Tokenizer.from_str(text)
    ids = made.encode("a", add_special_tokens=True).ids
    if ids and ids[0] == made.token_to_id(roles["bos_token"]):
        return True
    # Llama's own class does so without saying it, up to transformers 4.
    return str(said.get("tokenizer_class", "")).startswith(("LlamaTokenizer", "CodeLlama"))
