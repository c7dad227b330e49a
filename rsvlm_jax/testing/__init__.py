"""Test doubles, for our tests and for those of users; nothing else imports them.

standin.py   StandIn, Stream     a model of 50 parameters and endless batches for it
babble.py    babble, ..._bpe     random texts as a grammar allows them; small real tokenizers
"""

from .babble import babble, byte_level_bpe, sentencepiece_bpe, unigram
from .standin import StandIn, Stream, standin_batch, standin_experiment

__all__ = [
    "StandIn",
    "Stream",
    "babble",
    "byte_level_bpe",
    "sentencepiece_bpe",
    "standin_batch",
    "standin_experiment",
    "unigram",
]
