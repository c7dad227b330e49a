"""One vector a sample from a pretrained encoder, as its paper makes it: for ridge and the like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rsvlm_jax.config import BandSetSpec
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.data.batch import Observation

from .galileo import Galileo
from .galileo_inputs import galileo_inputs
from .presto import Presto
from .presto_inputs import presto_inputs
from .seen import masked_mean


def embed(
    model: Galileo | Presto, obs: Mapping[str, Observation], specs: Sequence[BandSetSpec]
) -> Float[Array, "B Dv"]:
    """The mean embedding of every sample; 0 where nothing is valid and the place is unknown.

    Of Galileo the mean of all tokens that are read, after the last norm. Of Presto the norm of the
    mean of a series' tokens, averaged over the cells of the window that have a value.

    Args:
      obs: of the batch, by name.
      specs: of the band sets that are read: static, they decide the program.

    Raises:
      ConfigError, DataError: see `galileo_inputs` and `presto_inputs`.
    """
    if isinstance(model, Galileo):
        return model.pooled(galileo_inputs(obs, specs, model.config))
    inputs = presto_inputs(obs, specs, model.config)
    b = obs[specs[0].name].pixels.shape[0]
    vectors = model.pooled(inputs).reshape(b, -1, model.config.width)
    return masked_mean(vectors, inputs.seen.any(axis=(1, 2)).reshape(b, -1))
