"""Grammars in the decode loop: greedy, drawn, with beams, in a stream, answers keep their form."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from flax import nnx

from rsvlm_jax.config import ConfigError, GenerationConfig, LlamaConfig
from rsvlm_jax.generate import Generated, TokenMachine, generate, join, stream
from rsvlm_jax.generate.grammar import box, choices, compile_grammar, number, token_bytes
from rsvlm_jax.models.llama import Llama
from rsvlm_jax.testing import byte_level_bpe, sentencepiece_bpe

ROWS = 640
CONFIG = LlamaConfig(
    vocab_size=ROWS, width=16, layers=1, heads=2, kv_heads=1, mlp_dim=24, max_length=64
)
TEXTS = [f"{{<{i}><{i // 2}><100><7>|<-{i}>}} yes, no, bare land" for i in range(100)]
BOX, LABEL, NUMBER = box(), choices(["yes", "no", "bare land"]), number(-9, 9, 1)
PATTERNS = [BOX, LABEL, NUMBER]
RNG = np.random.default_rng(3)
PREFIX = jnp.asarray(RNG.standard_normal((3, 5, 16)), jnp.float32)
VALID = jnp.asarray([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 0, 1, 0, 0]], bool)


@pytest.fixture(scope="module")
def decoder() -> Llama:
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Llama(CONFIG, rngs=nnx.Rngs(0))))

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(RNG.standard_normal(leaf.shape), leaf.dtype)

    return nnx.merge(graphdef, jax.tree.map(draw, state))


@pytest.fixture(scope="module", params=[byte_level_bpe, sentencepiece_bpe])
def tokenizer(request: pytest.FixtureRequest) -> tokenizers.Tokenizer:
    return request.param(TEXTS, 500)


@pytest.fixture(scope="module")
def machine(tokenizer: tokenizers.Tokenizer) -> TokenMachine:
    """A box, a label and a number, one a row."""
    vocabulary = token_bytes(tokenizer.to_str())
    return join([compile_grammar(p, vocabulary, rows=ROWS) for p in PATTERNS])


def in_one(*asked, config: GenerationConfig, **more) -> Generated:
    return generate(*asked, config=config, **more)


def in_chunks(*asked, config: GenerationConfig, **more) -> Generated:
    pieces = stream(*asked, config=config, **more)
    for _ in pieces:
        pass
    return pieces.result


@pytest.mark.parametrize(
    ("ask", "config", "spare"),
    [
        (in_one, GenerationConfig(), 20),
        (in_one, GenerationConfig(temperature=3.0, top_k=4, repetition_penalty=1.3), 20),
        (in_one, GenerationConfig(num_beams=3), 0),
        (in_chunks, GenerationConfig(temperature=1.0, top_p=0.5), 1),
    ],
    ids=["greedy", "drawn", "beams", "streamed"],
)
def test_every_row_keeps_its_form(
    decoder: Llama,
    tokenizer: tokenizers.Tokenizer,
    machine: TokenMachine,
    ask: Callable[..., Generated],
    config: GenerationConfig,
    spare: int,
) -> None:
    """Rows of different length and grammar; with tokens to spare and with just enough."""
    shortest = int(machine.need[machine.start].max())
    config = dataclasses.replace(config, max_new_tokens=shortest + spare)
    end = tokenizer.token_to_id("</s>")
    out = ask(decoder, PREFIX, VALID, config=config, eos=end, machine=machine)
    for row, (length, pattern) in enumerate(zip(out.length, PATTERNS, strict=True)):
        text = tokenizer.decode(out.tokens[row, :length].tolist())
        assert re.fullmatch(pattern, text.strip()), text
        assert (out.tokens[row, length:] == end).all()


def test_a_machine_of_another_vocabulary_or_batch_or_too_long(
    decoder: Llama, tokenizer: tokenizers.Tokenizer, machine: TokenMachine
) -> None:
    end = tokenizer.token_to_id("</s>")
    other = compile_grammar(LABEL, token_bytes(tokenizer.to_str()), rows=ROWS + 1)
    for given, config, match in (
        (other, GenerationConfig(), "a machine of another vocabulary"),
        (join([machine_of(tokenizer)] * 2), GenerationConfig(), "a machine of another batch"),
        (machine, GenerationConfig(max_new_tokens=2), "the shortest text .* does not fit"),
    ):
        with pytest.raises(ConfigError, match=match):
            generate(decoder, PREFIX, VALID, config=config, eos=end, machine=given)


def machine_of(tokenizer: tokenizers.Tokenizer) -> TokenMachine:
    return compile_grammar(LABEL, token_bytes(tokenizer.to_str()), rows=ROWS)
