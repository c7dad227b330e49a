"""The chat template that comes with a tokenizer, rendered by `transformers`, as pieces.

The template renders marks in the place of what is said; only then is what is said put in, as plain
text. So a user who writes "<|im_end|>" has written ten characters, and where each answer stands is
known. Ids are those of `apply_chat_template`: of the processor of a model with images (which begins
with the tokenizer's beginning where the template did not write it), else of the tokenizer (which
never does).

What is learnt: from where the prompt of an answer ends (`add_generation_prompt`) to the answer's
end token; where the template writes none, to the last word.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Sequence
from typing import Any

from rsvlm_jax.config import ConfigError

from .messages import Message
from .pieces import Piece, text
from .templates import answer, question
from .tokenizer import Tokenizer

_MARK = "\ufdd1{}\ufdd2"
_MARKS = re.compile("\ufdd1([0-9]+)\ufdd2")


def lay_out(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    ends: Collection[int],
    *,
    images: bool,
    reg: bool,
) -> tuple[list[Piece], bool]:
    """The pieces of a conversation that `check_turns` let pass, and whether to begin with `bos`.

    Args:
      ends: ids of which each ends an answer.
      images: of a model with images.
      reg: whether `<reg>` in an answer is a placeholder.

    Raises:
      ConfigError: a template that raises, or that does not write each message once, in order.
    """
    said = _render(tokenizer, messages, messages[-1].role == "user")
    found = [int(m[1]) for m in _MARKS.finditer(said)]
    if found != list(range(len(messages))):
        raise ConfigError(
            "the template does not write each message once, in order", where="chat template",
            expected=f"messages 0 .. {len(messages) - 1}", found=found,
        )  # fmt: skip
    spots = list(_MARKS.finditer(said))
    pieces: list[Piece] = []
    at, learning = 0, False
    for i, (message, spot) in enumerate(zip(messages, spots, strict=True)):
        before = said[at : spot.start()]
        if learning:
            pieces += _closing(tokenizer, before, ends)
        elif message.role == "assistant":
            prompt = _render(tokenizer, messages[:i], True)
            own = len(prompt) - at if said.startswith(prompt) else len(before)
            pieces += _parsed(tokenizer, before[:own])
            pieces += _parsed(tokenizer, before[own:], answer=True)
        else:
            pieces += _parsed(tokenizer, before)
        learning = message.role == "assistant"
        content = message.content.strip()
        if learning:
            pieces += answer(content, reg)
        else:
            pieces += _question(content) if message.role == "user" else [text(content)]
        at = spot.end()
    rest = said[at:]
    pieces += _closing(tokenizer, rest, ends) if learning else _parsed(tokenizer, rest)
    begins = bool(pieces) and pieces[0].kind == "token" and pieces[0].token == tokenizer.bos
    return pieces, images and tokenizer.starts and not begins


def _closing(tokenizer: Tokenizer, said: str, ends: Collection[int]) -> list[Piece]:
    """What follows an answer: learnt as far as its end, if it has one."""
    pieces = _parsed(tokenizer, said)
    end = next((i for i, p in enumerate(pieces) if p.kind == "token"), None)
    if end is None or pieces[end].token not in ends:
        return pieces
    learnt = [Piece(p.kind, p.text, p.token, True) for p in pieces[: end + 1]]
    return [*learnt, *pieces[end + 1 :]]


def _question(content: str) -> list[Piece]:
    # Images that the template writes itself are in the text around the marks.
    return question(content)


def _parsed(tokenizer: Tokenizer, said: str, *, answer: bool = False) -> list[Piece]:
    """A template's own text, whose special tokens are meant as such."""
    pieces: list[Piece] = []
    at = 0
    for found in _specials(tokenizer).finditer(said):
        token = tokenizer.specials[found[0]]
        words = said[at : found.start()]
        pieces.append(text(words.rstrip() if token.lstrip else words, answer=answer))
        at = found.end()
        if token.rstrip:
            at += len(said[at:]) - len(said[at:].lstrip())
        if found[0] == tokenizer.image_text:
            pieces.append(Piece("image"))
        else:
            index = tokenizer.id_of(found[0])
            assert index is not None
            pieces.append(Piece("token", token=index, answer=answer))
    return [*pieces, text(said[at:], answer=answer)]


@functools.lru_cache(maxsize=8)
def _specials(tokenizer: Tokenizer) -> re.Pattern[str]:
    longest_first = sorted(tokenizer.specials, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))


def _render(tokenizer: Tokenizer, messages: Sequence[Message], prompt: bool) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    template = tokenizer.chat_template
    assert template is not None
    turns: list[dict[str, Any]] = [
        {"role": m.role, "content": _MARK.format(i)} for i, m in enumerate(messages)
    ]
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    known = {n: tokenizer.roles[n] for n in names if tokenizer.roles.get(n) is not None}
    try:
        rendered, _ = render_jinja_template(
            [turns], chat_template=template, add_generation_prompt=prompt, **known
        )
    except Exception as e:  # jinja's many, and what a template raises itself
        raise ConfigError(
            "the chat template refuses these messages", where="tokenizer", found=e
        ) from e
    return rendered[0]
