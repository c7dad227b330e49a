"""Text from a decoder.

api        generate: prefix embeddings -> tokens, with a static KV cache; stream: the same in chunks
request    what was asked, checked on the host; Plan: what of it makes the program
engine     the decode loop and its state
rules      what may be said next: end tokens, barred ones, `<reg>` blocks, a machine
sampling   penalty, temperature, top-k, top-p, min-p, the draw
beam       beam search
chunks     while they come
text       TextStream: ids to text without half characters and stop strings
result     Generated, Chunk; reg_block: the hidden states of the `<reg>` block
prefix     encode_prefix: one prompt read once, shared by many texts
rank       rank: log-likelihoods of given answers
numbers    numbers that the decoder writes: texts drawn evenly from their distribution
machine    TokenMachine: a finite automaton over token ids; join: one of several, row by row
grammar/   what such a machine is made of: labels, numbers, boxes, regular expressions
"""

from .api import generate, stream
from .chunks import Stream
from .machine import TokenMachine, join
from .prefix import encode_prefix
from .rank import Ranked, rank
from .result import Chunk, Generated, reg_block
from .text import TextStream, text_of

__all__ = [
    "Chunk",
    "Generated",
    "Ranked",
    "Stream",
    "TextStream",
    "TokenMachine",
    "encode_prefix",
    "generate",
    "join",
    "rank",
    "reg_block",
    "stream",
    "text_of",
]
