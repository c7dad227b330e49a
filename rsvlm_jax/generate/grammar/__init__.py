"""Answers that cannot be malformed: patterns compiled into machines for the decode loop.

compile     compile_grammar: a pattern under a vocabulary -> `TokenMachine`
vocabulary  token_bytes: what every id of a `tokenizer.json` writes
patterns    choices, number, box: the patterns of labels, numbers and GeoChat's boxes
regex       the dialect of regular expressions; automaton, walk: what is made of a pattern

    vocabulary = token_bytes("model/tokenizer.json")
    machine = compile_grammar(box(), vocabulary, rows=model.config.vocab_size)
    generate(model, prefix, valid, eos=2, machine=machine)        # {<12><7><100><64>|<-30>}

Rows of one batch that have to look different: `rsvlm_jax.generate.join([machine_of_row_0, ...])`.
"""

from .compile import compile_grammar
from .patterns import box, choices, number, quote
from .vocabulary import TokenBytes, token_bytes

__all__ = [
    "TokenBytes",
    "box",
    "choices",
    "compile_grammar",
    "number",
    "quote",
    "token_bytes",
]
