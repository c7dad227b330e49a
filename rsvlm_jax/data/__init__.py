"""From cubes and words to batches.

batch       Observation, Batch: what the model reads
tokenizer   ids of words, <image> and <reg>
questions   what is asked, about the target and about other things
text        prompts as fixed-length arrays; numbers as words
specs       what a model may know of a cube: bands, target, facts
observe     raw reads of one band set -> Observation
processor   all of the above for one run; saved with it (`saved`)
source      windows of a cube by row of a table
pipeline    batches in order, resumable, on grain
chance      random numbers by position
"""

from .batch import Batch, Observation, to_days
from .pipeline import Batches, eval_batches, train_batches
from .processor import Processor
from .questions import QA, Facts, Questions
from .source import CubeSource, assemble, collate
from .specs import TargetSpec, bandset_specs, facts, target_spec
from .text import Text, format_number
from .tokenizer import Tokenizer

__all__ = [
    "QA",
    "Batch",
    "Batches",
    "CubeSource",
    "Facts",
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
    "target_spec",
    "to_days",
    "train_batches",
]
