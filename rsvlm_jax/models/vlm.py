"""The vision-language model: a composition of towers.

    Batch.obs --spectral--> images --vision--> [B,T*G*P,Dv] --+
              --pixel------------------------> [B,T,Dv] ------+-> temporal -> visual [B,N,Dv]
    visual --connector--> [B,N,D] --+
    tokens --decoder.embed----------+-> merge by image_slot -> decoder -> hidden [B,L,D]
    hidden at <reg> -> knowledge [B,Q,D];  head(encoded) -> Predictive

Paths of parameters and statistics start with the tower's name: spectral, vision, pixel, temporal,
connector, decoder, head. The module holds no mesh and no random state. Losses, logits and text
generation are not here.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.config import BandSetSpec, ConfigError, DataError, VLMConfig
from rsvlm_jax.core import compute_dtype
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.data.batch import Batch, Observation
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import causal_segment_mask, key_mask

from .clip_vit import CLIPVisionTower
from .connector import Connector
from .encoded import Encoded
from .heads import MixerHead
from .llama import Llama
from .pixel import PixelFront
from .spectral import SpectralFront
from .temporal import TemporalFusion


class VisionLanguageModel(nnx.Module):
    """LLaVA for dated series of any sensor, with a regression head.

    Args:
      bandsets: one for each of `config.inputs`, channels in the order in which they are read.
      image_token, reg_token: ids of `<image>` and `<reg>`.
      visual_tokens: N (`connector.token_count`); needed only where there is a head and no
        temporal budget, because the head's token mixing has a weight for each token.

    Raises:
      ConfigError: inputs and band sets do not match; N unknown; no frame from a band set.
    """

    def __init__(
        self,
        config: VLMConfig,
        bandsets: tuple[BandSetSpec, ...],
        *,
        image_token: int,
        reg_token: int,
        visual_tokens: int | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        names = tuple(i.bandset for i in config.inputs)
        if not names or names != tuple(spec.name for spec in bandsets):
            raise ConfigError(
                "band sets do not match the inputs",
                where="VisionLanguageModel",
                expected=", ".join(names) or "at least one input",
                found=", ".join(spec.name for spec in bandsets) or "none",
            )
        self.config, self.bandsets = config, bandsets
        self.image_token, self.reg_token = image_token, reg_token
        self.dtype = compute_dtype(config.dtype)
        width = config.frame_width

        spectral, pixel = {}, {}
        for read, spec in zip(config.inputs, bandsets, strict=True):
            if read.front == "rgb":
                spectral[spec.name] = SpectralFront(spec, read.spectral, config.vision)
            else:
                pixel[spec.name] = PixelFront(spec, width, rngs=rngs)
        self.spectral, self.pixel = nnx.Dict(spectral), nnx.Dict(pixel)
        self.vision = CLIPVisionTower(config.vision, rngs=rngs) if spectral else None
        groups = sum(len(f.plan.groups) for f in spectral.values()) + len(pixel)
        self.temporal = TemporalFusion(config.temporal, width, groups, rngs=rngs)

        d_language = None
        if config.decoder is None:
            self.connector = self.decoder = None
        else:
            d_language = config.decoder.width
            self.connector = Connector(config.connector, width, d_language, rngs=rngs)
            self.decoder = Llama(config.decoder, rngs=rngs)
        if config.head is None:
            self.head = None
        else:
            count = config.temporal.budget or visual_tokens
            if count is None:
                raise ConfigError(
                    "the number of visual tokens is unknown",
                    where="VisionLanguageModel",
                    expected="TemporalConfig.budget, or visual_tokens",
                    found="neither",
                )
            self.head = MixerHead(config.head, count, width, d_language, rngs=rngs)

    def __call__(self, batch: Batch, *, rng: Array | None = None) -> Encoded:
        """The forward pass. `rng` is given in training: it hides dates (`date_dropout`)."""
        visual, visual_valid = self.encode_visual(batch, rng=rng)
        tokens, slot = jnp.asarray(batch.tokens), jnp.asarray(batch.image_slot)
        if self.decoder is None:
            hidden = jnp.zeros((*tokens.shape, 0), self.dtype)
        else:
            x = self.embed(tokens, slot, visual)
            position = jnp.asarray(batch.position)
            mask = causal_segment_mask(jnp.asarray(batch.segment), position)
            hidden = self.decoder(x, mask & key_mask(readable(slot, visual_valid)), position)
        knowledge, has_knowledge = self.read_knowledge(hidden, tokens)
        return Encoded(hidden, visual, visual_valid, knowledge, has_knowledge)

    def encode_visual(
        self, batch: Batch, *, rng: Array | None = None
    ) -> tuple[Float[Array, "B N Dv"], Bool[Array, "B N"]]:
        """Fused visual tokens, 0 where not valid.

        Tokens enter the fusion in this order: frames (band sets as in `config.inputs`, dates,
        groups, patches), then points (band sets, dates).
        """
        observations = {i.bandset: self._observation(batch, i.bandset) for i in self.config.inputs}
        parts, images, group = [], [], 0
        for name in self._inputs("rgb"):
            obs = observations[name]
            made, valid = self.spectral[name](obs)
            images.append(made.astype(self.dtype))
            ids = group + jnp.arange(valid.shape[2], dtype=jnp.int32)
            parts.append(_known(obs, self._tokens_of_patches(valid), ids))
            group += len(ids)
        tokens = []
        if self.vision is not None:
            x = jnp.concatenate(images, axis=1)  # frames of all band sets share the tower
            y = self.vision(x.reshape(-1, *x.shape[2:]))
            tokens.append(y.reshape(x.shape[0], -1, y.shape[2]))
        for name in self._inputs("pixel"):
            obs = observations[name]
            made, valid = self.pixel[name](obs)
            tokens.append(made.astype(self.dtype))
            parts.append(_known(obs, valid[:, :, None, None], jnp.full((1,), group, jnp.int32)))
            group += 1
        known = _Known(*(jnp.concatenate(p, axis=1) for p in zip(*parts, strict=True)))
        return self.temporal(
            jnp.concatenate(tokens, axis=1),
            known.valid,
            known.date,
            known.platform,
            known.group,
            year_known=known.year_known,
            rng=rng,
        )

    def embed(
        self,
        tokens: Int[Array, "B L"],
        image_slot: Int[Array, "B L"],
        visual: Float[Array, "B N Dv"],
    ) -> Float[Array, "B L D"]:
        """Text embeddings with the connected visual tokens in their slots."""
        if self.decoder is None or self.connector is None:
            raise ConfigError("there is no language model", where="VLMConfig.decoder", found=None)
        text = self.decoder.embed(tokens).astype(self.dtype)
        connected = self.connector(visual)
        slot = jnp.clip(image_slot, 0, visual.shape[1] - 1)
        placed = jnp.take_along_axis(connected, slot[:, :, None], axis=1)
        x = jnp.where((image_slot >= 0)[:, :, None], placed, text)
        return constrain(x, "batch", "length", "embed")

    def read_knowledge(
        self, hidden: Float[Array, "B L D"], tokens: Int[Array, "B L"]
    ) -> tuple[Float[Array, "B Q D"], Bool[Array, " B"]]:
        """Hidden states of the first Q `<reg>` tokens, in order; 0 and False where fewer stand."""
        q = 0
        if self.decoder is not None and self.config.head is not None:
            q = self.config.head.reg_tokens
        is_reg = tokens == self.reg_token
        rank = jnp.cumsum(is_reg, axis=1, dtype=jnp.int32)
        wanted = jnp.arange(1, q + 1, dtype=jnp.int32)[None, :, None]
        chosen = is_reg[:, None, :] & (rank[:, None, :] == wanted)
        knowledge = jnp.take_along_axis(hidden, chosen.argmax(axis=2)[:, :, None], axis=1)
        complete = (rank[:, -1] >= q) & (q > 0)
        return jnp.where(complete[:, None, None], knowledge, jnp.zeros_like(knowledge)), complete

    def _inputs(self, front: str) -> list[str]:
        return [i.bandset for i in self.config.inputs if i.front == front]

    def _observation(self, batch: Batch, name: str) -> Observation:
        spec = next(s for s in self.bandsets if s.name == name)
        if name not in batch.obs:
            raise DataError(
                "the batch lacks a band set",
                where="Batch.obs",
                expected=name,
                found=", ".join(batch.obs) or "none",
            )
        obs = batch.obs[name]
        if obs.pixels.shape[2] != len(spec.bands):
            raise DataError(
                "the batch has other bands than the model",
                where=f"Batch.obs[{name!r}].pixels",
                expected=f"{len(spec.bands)} bands ({', '.join(spec.band_names)})",
                found=obs.pixels.shape[2],
            )
        return obs

    def _tokens_of_patches(self, valid: Bool[Array, "B T G p"]) -> Bool[Array, "B T G P"]:
        """Validity of the tower's tokens: a CLS token stands for its whole frame."""
        vit = self.config.vision
        if vit.keep_cls:
            valid = jnp.concatenate([valid.any(axis=3, keepdims=True), valid], axis=3)
        return jnp.tile(valid, (1, 1, 1, len(vit.feature_layers)))


def readable(image_slot: Int[Array, "B L"], visual_valid: Bool[Array, "B N"]) -> Bool[Array, "B L"]:
    """Which positions other tokens may read: all but placeholders of missing visual tokens."""
    slot = jnp.clip(image_slot, 0, visual_valid.shape[1] - 1)
    return (image_slot < 0) | jnp.take_along_axis(visual_valid, slot, axis=1)


class _Known(NamedTuple):
    """What is known about each token before fusion, all [B,S]."""

    valid: Bool[Array, "B S"]
    date: Float[Array, "B S"]
    platform: Int[Array, "B S"]
    group: Int[Array, "B S"]
    year_known: Bool[Array, "B S"]


def _known(obs: Observation, valid: Bool[Array, "B T G P"], group: Int[Array, " G"]) -> _Known:
    """Of the tokens of one band set, in the order dates, groups, patches."""

    def flat(x: Array) -> Array:
        return jnp.broadcast_to(x, valid.shape).reshape(valid.shape[0], -1)

    return _Known(
        valid=flat(valid),
        date=flat(jnp.asarray(obs.date)[:, :, None, None]),
        platform=flat(jnp.asarray(obs.platform)[:, :, None, None]),
        group=flat(group[None, None, :, None]),
        year_known=flat(jnp.asarray(obs.year_known)[:, None, None, None]),
    )
