"""Text from a decoder.

greedy   generate: prefix embeddings -> tokens and their hidden states, with a static KV cache;
         reg_block: the hidden states of the `<reg>` block
"""

from .greedy import Generated, generate, reg_block

__all__ = ["Generated", "generate", "reg_block"]
