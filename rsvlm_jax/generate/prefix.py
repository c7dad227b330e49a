"""A prompt that many texts begin with: read once, its keys and values shared by all of them.

    prefix = encode_prefix(decoder, embeds [1,P,D], valid [1,P])       an image and its instructions
    cache = prefix.cache(batch, slots)                                 rows that start after it
    generate(decoder, questions [B,L,D], valid, eos=..., cache=cache)

Reading it costs one pass, whatever the number of questions, and a decode step reads its keys and
values once for all rows (`rsvlm_jax.nn.cache`).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from rsvlm_jax.config import ConfigError
from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.models.decoder import Decoder
from rsvlm_jax.nn import SharedPrefix

from .engine import read_prompt
from .request import apart


def encode_prefix(
    decoder: Decoder,
    embeds: Float[Array, "1 P D"],
    valid: Bool[Any, "1 P"],
    *,
    dtype: DTypeLike | None = None,
) -> SharedPrefix:
    """Keys and values of one prompt.

    Args:
      decoder: read only.
      embeds: the embedded prompt; its dtype is the compute dtype.
      valid: False at padding and at visual tokens that are missing.
      dtype: of keys and values, and of those of the rows that go on after it: None: that of
        `embeds`; "int8": codes and scales.

    Raises:
      ConfigError: a prefix without a token, or longer than the decoder's positions.
    """
    count = int(np.asarray(valid).sum())
    if count == 0:
        raise ConfigError(
            "a prefix without a token", where="encode_prefix(valid)",
            expected="one or more valid positions", found=0,
        )  # fmt: skip
    if count >= decoder.config.positions:
        raise ConfigError(
            "a prefix that leaves no room for a text", where="encode_prefix(valid)",
            expected=f"< {decoder.config.positions} tokens", found=count,
        )  # fmt: skip
    graphdef, tree, leaves = apart(decoder)
    stored = embeds.dtype if dtype is None else jnp.dtype(dtype)
    return _encode(graphdef, tree, stored.name, leaves, embeds, jnp.asarray(valid))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _encode(
    graphdef: Any, tree: Any, dtype: str, leaves: list[Array], embeds: Array, valid: Array
) -> SharedPrefix:
    decoder: Decoder = nnx.merge(graphdef, jax.tree.unflatten(tree, leaves))
    cache = decoder.empty_cache(1, embeds.shape[1], jnp.dtype(dtype))
    _, _, cache = read_prompt(decoder, 0, embeds, valid, cache)
    return SharedPrefix(cache.slots, cache.valid, cache.position)
