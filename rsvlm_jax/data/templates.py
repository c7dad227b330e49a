"""Conversations laid out as LLaVA lays them out, by the names that it gives its templates.

    vicuna_v1   {system} USER: {q} ASSISTANT: {a}</s>USER: {q} ASSISTANT:
    llava_v1    the same; its system says "human" where that of vicuna_v1 says "user" (GeoChat)
    plain       <image>{a}\\n                                    the question's words are left out
    llama_2     [INST] <<SYS>>\\n{system}\\n<</SYS>>\\n\\n{q} [/INST] {a} </s><s>[INST] {q} [/INST]
    mistral     [INST] {q} [/INST] {a} </s>[INST] {q} [/INST]
    chatml      <|im_start|>system\\n{system}<|im_end|><|im_start|>user\\n{q}<|im_end|>
                <|im_start|>assistant\\n{a}<|im_end|>           (in one line)

What is learnt is what stands after "ASSISTANT:", "[/INST]" and "assistant\\n", the space before an
answer and the end after it included: the labels of LLaVA's `preprocess_v1`, `_llama_2`, `_mpt` and
`_plain`. They count the tokens of the rounds and give up a conversation (all labels masked, with a
warning) where the counts disagree; here the characters are known, and nothing is given up. `</s>`
and `<s>` are the end and the beginning of the tokenizer, whatever it calls them. The template that
comes with a tokenizer is in `rsvlm_jax.data.chat_template`.
"""

from __future__ import annotations

from collections.abc import Sequence

from rsvlm_jax.config import DataError
from rsvlm_jax.config.conversation import Template

from .messages import Message, count_images, split_images
from .pieces import Piece, text
from .tokenizer import REG, Tokenizer

_VICUNA = (
    "A chat between a curious {0} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {0}'s questions."
)
SYSTEM: dict[str, str] = {
    "vicuna_v1": _VICUNA.format("user"),
    "llava_v1": _VICUNA.format("human"),
    "plain": "",
    "llama_2": (
        "You are a helpful, respectful and honest assistant. Always answer as helpfully as "
        "possible, while being safe.  Your answers should not include any harmful, unethical, "
        "racist, sexist, toxic, dangerous, or illegal content. Please ensure that your responses "
        "are socially unbiased and positive in nature.\n\nIf a question does not make any sense, "
        "or is not factually coherent, explain why instead of answering something not correct. If "
        "you don't know the answer to a question, please don't share false information."
    ),
    "mistral": "",
    "chatml": "Answer the questions.",
}
"""What each says before the first turn; a system message takes its place. That of llama_2 is Meta's
own; LLaVA's models over Llama 2 were trained with another, "You are a helpful language and vision
assistant. ...", its `llava_llama_2`."""

IM_START, IM_END = "<|im_start|>", "<|im_end|>"


def lay_out(
    template: Template, messages: Sequence[Message], tokenizer: Tokenizer, *, reg: bool = False
) -> list[Piece]:
    """The pieces of a conversation that `check_turns` let pass.

    Args:
      messages: if the last is a question, the prompt is left open for the answer.
      reg: whether `<reg>` in an answer is a placeholder; else it is text.

    Raises:
      DataError: what "plain" has no place for.
    """
    system = SYSTEM[template]
    if messages[0].role == "system":
        system, messages = messages[0].content, messages[1:]
        if template == "plain":
            raise DataError("the template has no place for a system message", where="plain")
    match template:
        case "plain":
            return _plain(messages, reg)
        case "llama_2" | "mistral":
            return _instructions(messages, system, tokenizer, reg, template == "llama_2")
        case "chatml":
            return _chatml(messages, system, tokenizer, reg)
        case _:
            return _vicuna(messages, system, tokenizer, reg)


def question(content: str) -> list[Piece]:
    """A question's text and images.

    One image is put in front with a new line, wherever it stood, as LLaVA does; several stay where
    they are.
    """
    texts = split_images(content)
    if len(texts) == 2:
        words = "".join(texts).strip()
        return [Piece("image"), *([text("\n" + words)] if words else [])]
    pieces = [text(texts[0])]
    for words in texts[1:]:
        pieces += [Piece("image"), text(words)]
    return pieces


def answer(content: str, reg: bool) -> list[Piece]:
    """An answer's text, with the placeholder of its number."""
    (content,) = split_images(content)  # an escaped <image>
    parts = content.split(REG) if reg else [content]
    pieces = [text(parts[0], answer=True)]
    for words in parts[1:]:
        pieces += [Piece("reg", answer=True), text(words, answer=True)]
    return pieces


def _vicuna(turns: Sequence[Message], system: str, t: Tokenizer, reg: bool) -> list[Piece]:
    pieces = [text(system + " ")]
    for turn in turns:
        if turn.role == "user":
            pieces += [text("USER: "), *question(turn.content), text(" ASSISTANT:")]
        else:
            pieces += [text(" ", answer=True), *answer(turn.content, reg), _end(t)]
    return pieces


def _instructions(
    turns: Sequence[Message], system: str, t: Tokenizer, reg: bool, begins: bool
) -> list[Piece]:
    pieces: list[Piece] = []
    before = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    for i, turn in enumerate(turns):
        if turn.role == "user":
            if i and begins and t.bos is not None:
                pieces.append(Piece("token", token=t.bos))
            pieces += [text("[INST] " + before), *question(turn.content), text(" [/INST]")]
            before = ""
        else:
            space = text(" ", answer=True)
            pieces += [space, *answer(turn.content, reg), space, _end(t)]
    return pieces


def _chatml(turns: Sequence[Message], system: str, t: Tokenizer, reg: bool) -> list[Piece]:
    start, end = _named(t, IM_START), _named(t, IM_END)
    pieces = [start, text(f"system\n{system}"), end]
    for turn in turns:
        if turn.role == "user":
            pieces += [start, text("user\n"), *question(turn.content), end]
            pieces += [start, text("assistant\n")]
        else:
            pieces += [*answer(turn.content, reg), _named(t, IM_END, answer=True)]
    return pieces


def _plain(turns: Sequence[Message], reg: bool) -> list[Piece]:
    images = count_images(turns[0].content)
    if not images or len(turns) > 2:
        raise DataError(
            "the template has no place for this", where="plain",
            expected="images and one caption", found=f"{images} images and {len(turns)} turns",
        )  # fmt: skip
    pieces = [Piece("image")] * images
    for turn in turns[1:]:
        pieces += [*answer(turn.content, reg), text("\n", answer=True)]
    return pieces


def _end(t: Tokenizer) -> Piece:
    return Piece("token", token=t.eos, answer=True)


def _named(t: Tokenizer, token: str, *, answer: bool = False) -> Piece:
    """A special token of the template, as text where the tokenizer lacks it."""
    found = t.id_of(token)
    if found is None:
        return text(token, answer=answer)
    return Piece("token", token=found, answer=answer)
