"""From cubes, pictures and words to batches.

batch       Observation, Batch: what the model reads
tokenizer   ids of words, <image> and <reg>; tokenizer_files: directories of Hugging Face
questions   what is asked, about the target and about other things
text        prompts as fixed-length arrays; numbers as words
numbers     numbers as text of one token a character, for comparison with heads
specs       what a model may know of a cube: bands, target, facts
observe     raw reads of one band set -> Observation
processor   all of the above for one run; saved with it (`saved`)
windows     windows of one band set: dates chosen, padded, turned
source      windows of all inputs by row of a table
samples     samples put together, filled up, merged
stream      the endless training order of a cube or of a mixture; crops: blocks read once
pipeline    batches in order, resumable, on grain; buffers: what it holds; badlog: what was unread
chance      random numbers by position

Of conversations about plain images, each imported by its own name:

messages    turns, before any template; conversations: LLaVA's files, and what of them is held out
chat        ChatProcessor: messages and pictures -> batches, saved with the model (chat_saved);
            chat_source: what a checkpoint says of it
templates   how messages are laid out, chat_template: by jinja; pieces: ids and labels of a prompt
pictures    as a vision tower reads them; boxes: in text; padding: rows side by side
fitting     turns that fit into a row; packing: several conversations in a row
grouping    similar rows in a batch, and the lengths of batches; plan: the rows of batch k
gallery     pictures by path: pixels, or features of a frozen tower (`precompute` writes them)
talk        batches in order; talk_source: what they are made of
"""

from .badlog import BadLog, read_bad
from .batch import Batch, Observation, to_days
from .buffers import Buffers
from .chat import ChatProcessor
from .messages import Message
from .pipeline import Batches, eval_batches, train_batches
from .processor import Processor
from .questions import QA, Facts, Questions
from .samples import BadSample, assemble, collate
from .source import CubeSource
from .specs import TargetSpec, bandset_specs, facts, target_spec
from .stream import CubeStream, Mixture
from .text import Text, format_number
from .tokenizer import Tokenizer

__all__ = [
    "QA",
    "BadLog",
    "BadSample",
    "Batch",
    "Batches",
    "Buffers",
    "ChatProcessor",
    "CubeSource",
    "CubeStream",
    "Facts",
    "Message",
    "Mixture",
    "Observation",
    "Processor",
    "Questions",
    "TargetSpec",
    "Text",
    "Tokenizer",
    "assemble",
    "bandset_specs",
    "collate",
    "eval_batches",
    "facts",
    "format_number",
    "read_bad",
    "target_spec",
    "to_days",
    "train_batches",
]
