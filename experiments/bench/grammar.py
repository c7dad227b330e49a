"""Answers under a grammar: 10,000 random ones of every kind, read again by Python's `re`.

The model says anything (new normal logits for every token), so whatever a grammar lets through
comes out. Boxes, lists of boxes, one of the 21 classes of UC Merced and numbers; a byte-level BPE
and a SentencePiece BPE (both trained here, on this code), a Unigram model and the shipped
tokenizer; half of the texts with tokens to spare, half with just as many as the shortest one takes.

Then the time to compile under a byte-level BPE of 32,000 tokens, trained on the JAX sources.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

import rsvlm_jax
from rsvlm_jax.generate.grammar import box, choices, compile_grammar, number, token_bytes
from rsvlm_jax.testing import babble, byte_level_bpe, sentencepiece_bpe, unigram

from .figure import Figure

SAMPLES, ROWS, SPARE = 10_000, 2_500, 40
VOCABULARY, REPEATS = 32_000, 5
SCENES = (
    *("agricultural", "airplane", "baseball diamond", "beach", "buildings", "chaparral"),
    *("dense residential", "forest", "freeway", "golf course", "harbor", "intersection"),
    *("medium residential", "mobile home park", "overpass", "parking lot", "river", "runway"),
    *("sparse residential", "storage tanks", "tennis court"),
)
_BOX = r"\{(<(0|[1-9]\d?|100)>){4}\|<(0|-?([1-9]\d?|1[0-7]\d|180))>\}"
GRAMMARS = {
    "box": (box(), _BOX),
    "boxes": (box(many=True), f"{_BOX}(<delim>{_BOX})*"),
    "labels": (choices(SCENES), "|".join(map(re.escape, SCENES))),
    "numbers": (number(0, 500, decimals=1), r"500\.0|[1-4]\d\d\.\d|[1-9]?\d\.\d"),
}
"""The grammar, and what an answer is held against: written apart from it."""


def figures() -> Iterator[Figure]:
    for kind, made in _tokenizers().items():
        vocabulary = token_bytes(made.to_str())
        for name, (pattern, oracle) in GRAMMARS.items():
            machine = compile_grammar(pattern, vocabulary)
            texts = _said(made, machine)
            wrong = [t for t in texts if not re.fullmatch(oracle, t.strip())]
            if wrong:
                print(f"# {kind} {name}: {wrong[:3]!r}")
            yield Figure(f"grammar.{kind}.{name}.malformed", len(wrong), "texts", at_most=0)
            yield Figure(f"grammar.{kind}.{name}.texts", len(texts), "texts", at_least=SAMPLES)
            yield Figure(
                f"grammar.{kind}.{name}.distinct", len({t.strip() for t in texts}), "texts"
            )
    yield from _compile_times()


def _said(made: tokenizers.Tokenizer, machine) -> list[str]:
    end = jnp.asarray(made.token_to_id("</s>"), jnp.int32)
    shortest = int(machine.need[machine.start])
    texts: list[str] = []
    for i in range(SAMPLES // ROWS):
        limit = jnp.asarray(shortest + SPARE * (i % 2), jnp.int32)
        drawn = babble(machine, jax.random.key(i), end, limit, rows=ROWS, max_new=shortest + SPARE)
        tokens, length = map(np.asarray, drawn)
        texts += made.decode_batch(
            [row[:n].tolist() for row, n in zip(tokens, length, strict=True)]
        )
    return texts


def _compile_times() -> Iterator[Figure]:
    sources = [p.read_text("utf-8") for p in sorted(Path(jax.__file__).parent.rglob("*.py"))]
    made = byte_level_bpe(sources, VOCABULARY)
    yield Figure("grammar.compile.vocabulary", made.get_vocab_size(), "tokens", at_least=VOCABULARY)
    text = made.to_str()
    yield _median("token_bytes", lambda: token_bytes(text))
    vocabulary = token_bytes(text)
    # The last is a hard case: hundreds of states, and most tokens fit everywhere.
    patterns = {name: pattern for name, (pattern, _) in GRAMMARS.items()}
    patterns["free_text"] = r"[^<>{}]{1,300}\."
    for name, pattern in patterns.items():
        yield _median(name, lambda p=pattern: compile_grammar(p, vocabulary))


def _median(name: str, call) -> Figure:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return Figure(f"grammar.compile.{name}", statistics.median(times), "s", at_most=1)


def _tokenizers() -> dict[str, tokenizers.Tokenizer]:
    texts = [p.read_text("utf-8") for p in sorted(Path(rsvlm_jax.__file__).parent.rglob("*.py"))]
    shipped = resources.files("rsvlm_jax") / "assets" / "stories260k" / "tokenizer.json"
    return {
        "byte_level": byte_level_bpe(texts, 1000),
        "sentencepiece": sentencepiece_bpe(texts, 1000),
        "unigram": unigram(texts, 1000),
        "shipped": tokenizers.Tokenizer.from_str(shipped.read_text("utf-8")),
    }
