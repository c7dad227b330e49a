"""What a pretrained encoder makes of observations: a vector a place, or one a sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from rsvlm_jax.config import BandSetSpec, ConfigError, EncoderConfig, GalileoConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.data.batch import Observation
from rsvlm_jax.nn import Linear

from .galileo import Galileo
from .galileo_groups import GalileoInputs
from .galileo_inputs import galileo_inputs
from .presto import Presto
from .presto_inputs import presto_inputs
from .quantities import readings
from .seen import masked_mean


def embed(
    model: Galileo | Presto, obs: Mapping[str, Observation], specs: Sequence[BandSetSpec]
) -> Float[Array, "B Dv"]:
    """The mean embedding of every sample, as the papers make it; 0 where nothing is known.

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
    return masked_mean(*embed_places(model, obs, specs))


def embed_places(
    model: Galileo | Presto,
    obs: Mapping[str, Observation],
    specs: Sequence[BandSetSpec],
    dtype: DTypeLike = jnp.float32,
) -> tuple[Float[Array, "B P Dv"], Bool[Array, "B P"]]:
    """A vector for each patch (Galileo) or cell (Presto) of the windows, and which have a value.

    Band sets without pixels (weather alone) have one place.

    Args:
      dtype: of the computation; normalisation is float32.
    """
    if isinstance(model, Galileo):
        inputs = galileo_inputs(obs, specs, model.config)
        cast = {name: x.astype(dtype) for name, x in inputs.values.items()}
        inputs = dataclasses.replace(inputs, values=cast)
        if inputs.grid()[0]:
            return model.pooled_per_patch(inputs)
        return model.pooled(inputs)[:, None], _dated(inputs)[:, None]
    series = presto_inputs(obs, specs, model.config)
    b = obs[specs[0].name].pixels.shape[0]
    vectors = model.pooled(dataclasses.replace(series, x=series.x.astype(dtype)))
    there = series.seen.any(axis=(1, 2))
    return vectors.reshape(b, -1, model.config.width), there.reshape(b, -1)


def _dated(inputs: GalileoInputs) -> Bool[Array, " B"]:
    return jnp.concatenate([inputs.seen[g.name] for g in inputs.groups("time")], 1).any(axis=1)


class EncoderFront(nnx.Module):
    """The front of some band sets: a pretrained encoder, and a map of its vectors to Dv.

    Args:
      specs: of the band sets, in the order of the model's inputs.
      width: Dv.

    Raises:
      ConfigError: a band set that the encoder cannot read; a Presto with a decoder.
    """

    def __init__(
        self,
        config: EncoderConfig,
        specs: tuple[BandSetSpec, ...],
        width: int,
        *,
        remat: Remat = "none",
        rngs: nnx.Rngs,
    ) -> None:
        for spec in specs:
            readings(spec)
        self.specs = specs
        if isinstance(config, GalileoConfig):
            self.encoder = Galileo(config, remat=remat, rngs=rngs)
        elif config.decoder:
            raise ConfigError("a front does not decode", where="PrestoConfig.decoder", found=True)
        else:
            self.encoder = Presto(config, remat=remat, rngs=rngs)
        self.project = Linear(config.width, width, rngs=rngs)

    def __call__(
        self, obs: Mapping[str, Observation], dtype: DTypeLike = jnp.float32
    ) -> tuple[Float[Array, "B P Dv"], Bool[Array, "B P"]]:
        """A token for each patch or cell, and which have a value."""
        vectors, there = embed_places(self.encoder, obs, self.specs, dtype)
        return self.project(vectors), there
