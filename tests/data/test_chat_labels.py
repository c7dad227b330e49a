"""Which tokens are learnt: LLaVA's rule, written a second time as its code states it, and a table.

LLaVA's code tokenizes the whole prompt, then each round and each instruction by itself, and masks
by counting: an instruction is two tokens shorter than it is by itself (its beginning, and the space
that the answer's first token swallows), a round that is not the first is one shorter under a
tokenizer that is not "legacy". The oracle below counts; `ChatProcessor` knows the characters.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from small_tokenizers import llama_directory, sentencepiece_model

from rsvlm_jax.config import LlamaConfig, ViTConfig, VLMConfig
from rsvlm_jax.data.chat import ChatProcessor
from rsvlm_jax.data.messages import Message
from rsvlm_jax.data.templates import SYSTEM

IGNORE, IMAGE = -100, -200
SPECIAL = ("<|im_start|>", "<|im_end|>")
GOLDEN = Path(__file__).parent / "goldens" / "labels.txt"

VISION = ViTConfig(image_size=28, patch_size=28, width=8, layers=2, heads=2, mlp_dim=12)
TEXT = LlamaConfig(
    vocab_size=384, width=12, layers=1, heads=3, kv_heads=1, mlp_dim=16, max_length=1024
)
MODEL = VLMConfig(vision=VISION, decoder=TEXT, head=None)  # an image is one token

ONE = (("<image>\nwhat is the lake?", "a lake."),)
TWO = (*ONE, ("is it? yes", "'tis in the user"))
THREE = (*TWO, ("  so,\n\nwhat", "5 lakes"))
TEXT_ALONE = (("what is a user?", "us."), ("the lake?", "yes"))


class Slow:
    """Llama's own tokenizer, by the SentencePiece library: `<s>` in front, special tokens whole."""

    def __init__(self, legacy: bool, first_added: int) -> None:
        self.legacy = legacy
        self.prefixing = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
        no_prefix = sentencepiece_model().replace(b"\x18\x01\x20\x00", b"\x18\x00\x20\x00")
        self.bare = sentencepiece.SentencePieceProcessor(model_proto=no_prefix)
        self.special = {"<s>": 1, "</s>": 2, SPECIAL[0]: first_added, SPECIAL[1]: first_added + 1}

    def __call__(self, text: str) -> list[int]:
        ids = [1]
        special = "(" + "|".join(map(re.escape, self.special)) + ")"
        for i, part in enumerate(re.split(special, text)):
            if part in self.special:
                ids.append(self.special[part])
            elif part:
                first = i == 0 or self.legacy
                ids += (self.prefixing if first else self.bare).encode(part)
        return ids


def with_images(tokens: Callable[[str], list[int]], text: str) -> list[int]:
    """The parts between images, each tokenized by itself, its beginning dropped."""
    first, *others = [tokens(part) for part in text.split("<image>")]
    return first + [i for part in others for i in (IMAGE, *part[1:])]


def prompt_of(template: str, pairs: tuple[tuple[str, str], ...]) -> str:
    system = SYSTEM[template]
    match template:
        case "vicuna_v1" | "llava_v1":
            said = "".join(f"USER: {q} ASSISTANT: {a}</s>" for q, a in pairs)
            return f"{system} {said}"
        case "llama_2":
            (q, a), *rest = pairs
            said = f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{q} [/INST] {a} </s>"
            return said + "".join(f"<s>[INST] {q} [/INST] {a} </s>" for q, a in rest)
        case "mistral":
            return "".join(f"[INST] {q} [/INST] {a} </s>" for q, a in pairs)
        case "chatml":
            said = f"<|im_start|>system\n{system}<|im_end|>"
            return said + "".join(
                f"<|im_start|>user\n{q}<|im_end|><|im_start|>assistant\n{a}<|im_end|>"
                for q, a in pairs
            )
    return "<image>" + pairs[0][1] + "\n"


def oracle(template: str, pairs: tuple[tuple[str, str], ...], tokens: Slow) -> tuple[list, list]:
    """ids and labels, by counting."""
    prompt = prompt_of(template, pairs)
    ids = with_images(tokens, prompt)
    labels = list(ids)

    def count(text: str) -> int:
        return len(with_images(tokens, text))

    if template == "plain":
        masked = count("<image>")
        return ids, [IGNORE] * masked + labels[masked:]
    if template == "chatml":
        end, cut, taken = "<|im_end|>", "<|im_end|><|im_start|>assistant\n", 1
        parts = prompt.split(end)[:-1]
        rounds = [end.join(parts[:3])]
        rounds += [end.join(parts[k : k + 2]) for k in range(3, len(parts), 2)]
    else:
        cut = " ASSISTANT: " if template.endswith("_v1") else "[/INST] "
        rounds, taken = prompt.split("</s>")[:-1], 2
    at = 1
    labels[0] = IGNORE
    for k, said in enumerate(rounds):
        instruction = said[: said.index(cut) + len(cut)]
        # Vicuna's "▁USER" is one token more than "USER"; nothing else starts a round there.
        one_less = k > 0 and not tokens.legacy and template.endswith("_v1")
        masked = count(instruction) - taken - one_less
        labels[at : at + masked] = [IGNORE] * masked
        at += count(said) - one_less
    assert at == len(ids), "tokenization mismatch"
    return ids, [IGNORE if i == IMAGE else label for i, label in zip(ids, labels, strict=True)]


def messages_of(pairs: tuple[tuple[str, str], ...]) -> list[Message]:
    return [m for q, a in pairs for m in (Message("user", q), Message("assistant", a))]


@pytest.fixture(scope="module", params=[False, True], ids=["non-legacy", "legacy"])
def both(request: pytest.FixtureRequest, tmp_path_factory) -> tuple[ChatProcessor, Slow]:
    folder = tmp_path_factory.mktemp("llama")
    llama_directory(folder, legacy=request.param, added=SPECIAL)
    made = ChatProcessor.of(folder, MODEL, template="vicuna_v1")
    start = made.tokenizer.id_of(SPECIAL[0])
    assert start is not None
    return made, Slow(request.param, start)


def with_template(processor: ChatProcessor, template: str) -> ChatProcessor:
    return dataclasses.replace(processor, template=template)


@pytest.mark.parametrize("pairs", [ONE, TWO, THREE, TEXT_ALONE], ids=["1", "2", "3", "text"])
@pytest.mark.parametrize("template", ["vicuna_v1", "llava_v1", "llama_2", "mistral", "chatml"])
def test_ids_and_labels_are_those_of_llava(both, template: str, pairs):
    processor, slow = both
    row = with_template(processor, template).encode(messages_of(pairs))
    ids, labels = oracle(template, pairs, slow)
    assert [IMAGE if i == processor.image_token else i for i in row.ids] == ids
    assert row.weight == [float(label != IGNORE) for label in labels]
    assert 0 < sum(row.weight) < len(row.ids)


@pytest.mark.parametrize("caption", ["a lake.", "5 lakes", " the lake\nis"])
def test_plain_learns_all_of_a_caption(both, caption: str):
    processor, slow = both
    pairs = (("<image>\nDescribe the image concisely.", caption),)
    row = with_template(processor, "plain").encode(messages_of(pairs))
    ids, labels = oracle("plain", pairs, slow)
    assert [IMAGE if i == processor.image_token else i for i in row.ids] == ids
    assert row.weight == [float(label != IGNORE) for label in labels]
    assert row.weight[:2] == [0.0, 0.0]
    assert set(row.weight[2:]) == {1.0}


def test_a_question_of_an_image_alone(both):
    """Two spaces in a row, of which SentencePiece makes two pieces."""
    processor, slow = both
    row = processor.encode(messages_of((("<image>", "a lake."),)))
    ids, labels = oracle("vicuna_v1", (("<image>", "a lake."),), slow)
    assert [IMAGE if i == processor.image_token else i for i in row.ids] == ids
    assert row.weight == [float(label != IGNORE) for label in labels]


def test_the_table_of_what_is_learnt(tmp_path: Path):
    """Run with -s to see it."""
    processor = ChatProcessor.of(llama_directory(tmp_path, added=SPECIAL), MODEL)
    lines = []
    name = {processor.image_token: "<image>"}
    for template in ("vicuna_v1", "llava_v1", "plain", "llama_2", "mistral", "chatml"):
        pairs = ONE if template == "plain" else TWO
        row = with_template(processor, template).encode(messages_of(pairs))
        lines.append(template)
        runs: list[tuple[float, list[str]]] = []
        for i, weight in zip(row.ids, row.weight, strict=True):
            if not runs or runs[-1][0] != weight:
                runs.append((weight, []))
            token = name.get(i) or processor.tokenizer._inner.id_to_token(i)
            runs[-1][1].append(token)
        for weight, tokens in runs:
            said = " ".join(tokens)
            if not weight and len(said) > 130:  # the system message
                said = f"{said[:60]} ... {said[-60:]}"
            lines.append(f"  {'learnt' if weight else 'masked'}  {said}")
    table = "\n".join(lines) + "\n"
    print("\n" + table)
    assert table == GOLDEN.read_text(encoding="utf-8")
