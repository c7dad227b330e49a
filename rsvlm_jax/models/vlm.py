"""The vision-language model: a composition of towers.

With inputs it reads a cube, without them plain images; what comes after is the same::

    Batch.obs --spectral--> frames --vision--> resampler --> [B,T*G*P',Dv] -+
              --pixel---------------------------------> [B,T,Dv] -----------+-> temporal -+
              --encoders (galileo, presto)------------> [B,P,Dv] ----------+ (selection)  |
    Batch.images [F,H,W,3] ---vision--> resampler --> [F,P',Dv] --of--> [B,I*P',Dv] ------+
                                                                     visual [B,N,Dv] <----+
    visual --connector--> [B,N,D] --+
    tokens --decoder.embed----------+-> merge by image_slot -> decoder -> hidden [B,L,D]
    hidden (`knowledge`) -> knowledge [B,Q,D];  head(encoded) -> Predictive

`image_slot` counts the visual tokens of its own sample on both paths. Images are first gathered to
their prompts, whole: so the merge never leaves a sample, whose tokens may lie on another device
than its neighbour's, and one prompt cannot read the image of another by a wrong number. Images may
come as `features` that the tower made of them before; they enter at the resampler.

Paths of parameters and statistics start with the tower's name: spectral, vision, resampler, pixel,
encoders, selection, temporal, connector, decoder, head. The module holds no mesh and no random
state. Losses, logits and text generation are not here.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.config import BandSetSpec, ConfigError, DataError, VLMConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core import compute_dtype
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.data.batch import Batch, Images, Observation
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import Mask

from . import knowledge
from .connector import Connector
from .embed import EncoderFront
from .encoded import Encoded
from .frames import Known, known, shuffled, token_valid, undated
from .heads import make_head
from .language import language_model
from .pixel import PixelFront
from .planes import fitted
from .resampler import build_resampler
from .selection import TokenSelection
from .spectral import SpectralFront
from .temporal import TemporalFusion
from .towers import vision_tower


class VisionLanguageModel(nnx.Module):
    """LLaVA for images, and for dated series of any sensor with a regression head.

    Without `config.inputs` it is LLaVA itself, in towers and in numbers: no statistics, no
    `spectral`, `pixel`, `temporal` and `head`.

    Args:
      bandsets: one for each of `config.inputs`, channels in the order in which they are read.
      image_token, reg_token: ids of `<image>` and `<reg>`; the latter only where there is a head.
      visual_tokens: N (`connector.token_count`); needed only where there is a head and no
        temporal budget, because the head's token mixing has a weight for each token.
      window: edge in pixels of what a dense head answers about; needed only with one.
      segments: that a row of text has at most, where that is known (`rsvlm_jax.nn.Mask`).
      remat: what of each layer's activations is kept for the backward pass (`TrainConfig.remat`).

    Raises:
      ConfigError: inputs and band sets do not match; N unknown; no frame from a band set.
    """

    def __init__(
        self,
        config: VLMConfig,
        bandsets: tuple[BandSetSpec, ...] = (),
        *,
        image_token: int,
        reg_token: int | None = None,
        visual_tokens: int | None = None,
        window: int | None = None,
        segments: int | None = None,
        remat: Remat = "none",
        rngs: nnx.Rngs,
    ) -> None:
        names = tuple(i.bandset for i in config.inputs)
        if names != tuple(spec.name for spec in bandsets):
            raise ConfigError(
                "band sets do not match the inputs",
                where="VisionLanguageModel",
                expected=", ".join(names) or "none",
                found=", ".join(spec.name for spec in bandsets) or "none",
            )
        self.config, self.bandsets = config, bandsets
        self.image_token, self.reg_token = image_token, reg_token
        self.segments, self.window = segments, window
        self.dtype = compute_dtype(config.dtype)
        width = config.frame_width

        spectral, pixel = {}, {}
        for read, spec in zip(config.inputs, bandsets, strict=True):
            if read.front == "rgb":
                spectral[spec.name] = SpectralFront(spec, read.spectral, config.vision)
            elif read.front == "pixel":
                pixel[spec.name] = PixelFront(spec, width, read, rngs=rngs)
        self.spectral, self.pixel = nnx.Dict(spectral), nnx.Dict(pixel)
        encoders = {}
        for kind in ("galileo", "presto"):
            read_by = tuple(s for s in bandsets if s.name in self._inputs(kind))
            if read_by:
                of = getattr(config.encoders, kind)
                encoders[kind] = EncoderFront(of, read_by, width, remat=remat, rngs=rngs)
        self.encoders = nnx.Dict(encoders)
        # Each is assigned once: NNX tells modules from constants at the first assignment.
        frames = bool(spectral) or not names
        self.vision = vision_tower(config.vision, remat=remat, rngs=rngs) if frames else None
        self.resampler = (
            build_resampler(config.resampler, config.vision, remat=remat, rngs=rngs)
            if frames and config.resampler is not None
            else None
        )
        groups = sum(len(f.plan.groups) for f in spectral.values()) + len(pixel) + len(encoders)
        fusion = config.temporal, width, groups
        self.temporal = TemporalFusion(*fusion, remat=remat, rngs=rngs) if names else None
        select = config.selection
        self.selection = None if select is None else TokenSelection(select, width, rngs=rngs)

        d_language = None
        if config.decoder is None:
            self.connector = self.decoder = None
        else:
            d_language = config.decoder.width
            self.connector = Connector(config.connector, width, d_language, rngs=rngs)
            self.decoder = language_model(config.decoder, remat=remat, rngs=rngs)
        if config.head is None:
            self.head = None
        else:
            if not names:
                raise ConfigError(
                    "a regression head reads band sets",
                    where="VLMConfig.head",
                    expected="inputs, or no head",
                )
            if config.decoder is not None and reg_token is None:
                raise ConfigError(
                    "the head reads tokens of a decoder",
                    where="VisionLanguageModel",
                    expected="reg_token",
                    found=None,
                )
            count = config.temporal.budget or visual_tokens
            if count is None:
                raise ConfigError(
                    "the number of visual tokens is unknown",
                    where="VisionLanguageModel",
                    expected="TemporalConfig.budget, or visual_tokens",
                    found="neither",
                )
            planes = None
            if config.is_dense:
                if window is None:
                    raise ConfigError(
                        "the size of the map is unknown",
                        where="VisionLanguageModel",
                        expected="window, with HeadConfig.dense",
                        found=None,
                    )
                fronts = (*self.spectral.values(), *self.pixel.values())
                planes = sum(front.plane_count for front in fronts)
            self.head = make_head(
                config.head, count, width, d_language, planes, remat=remat, rngs=rngs
            )

    def __call__(self, batch: Batch, *, rng: Array | None = None) -> Encoded:
        """The forward pass. `rng` is given in training: it hides dates (`date_dropout`)."""
        visual, visual_valid = self.encode_visual(batch, rng=rng)
        tokens, slot, segment, position = (
            constrain(jnp.asarray(x), "batch", "length")
            for x in (batch.tokens, batch.image_slot, batch.segment, batch.position)
        )
        if self.decoder is None:
            hidden = jnp.zeros((*tokens.shape, 0), self.dtype)
        else:
            x = self.embed(tokens, slot, visual)
            # The data layer refuses placeholders without an image; a cube may lack any token.
            seen = None if self.temporal is None else readable(slot, visual_valid)
            mask = Mask.rows(segment, seen, segments=self.segments)
            hidden = self.decoder(x, mask, position)
        read = self._knowledge(hidden, batch)
        placed = self.placed(hidden, slot, visual.shape[1])
        return Encoded(hidden, visual, visual_valid, *read, self.planes(batch), placed)

    def planes(self, batch: Batch) -> Float[Array, "B H W F"] | None:
        """What each pixel of a window shows; None where no dense head reads it."""
        if not self.config.is_dense or self.window is None:
            return None
        shown = [
            fitted((self.spectral if i.front == "rgb" else self.pixel)[i.bandset].planes(
                self._observation(batch, i.bandset)
            ), self.window)
            for front in ("rgb", "pixel")
            for i in self.config.inputs
            if i.front == front
        ]  # fmt: skip
        return constrain(jnp.concatenate(shown, axis=-1), "batch", None, None, None)

    def placed(
        self, hidden: Float[Array, "B L D"], image_slot: Int[Array, "B L"], count: int
    ) -> Float[Array, "B N D"] | None:
        """States of the decoder at the places of the `count` visual tokens, 0 where it has none."""
        head = self.config.head
        if head is None or head.dense != "places":
            return None
        own = image_slot[:, None] == jnp.arange(count, dtype=image_slot.dtype)[None, :, None]
        at = jnp.argmax(own, axis=2)
        found = jnp.take_along_axis(hidden, at[:, :, None], axis=1)
        return jnp.where(own.any(axis=2)[:, :, None], found, jnp.zeros_like(found))

    def encode_visual(
        self, batch: Batch, *, rng: Array | None = None
    ) -> tuple[Float[Array, "B N Dv"], Bool[Array, "B N"]]:
        """The visual tokens of every sample, 0 where not valid: of its cube, or of its images."""
        if self.temporal is not None:
            if batch.images is not None:
                raise DataError(
                    "the model reads cubes", where="Batch.images", expected=None, found="images"
                )
            return self._of_cube(batch, rng)
        if batch.images is None:
            b, width = batch.tokens.shape[0], self.config.frame_width
            return jnp.zeros((b, 0, width), self.dtype), jnp.zeros((b, 0), bool)
        return self._of_images(batch.images)

    def encode_frames(self, frames: Float[Array, "F H W 3"]) -> Float[Array, "F P Dv"]:
        """Frames, normalised, to P' tokens each: tower and resampler."""
        return self._resampled(self.tower_features(frames))

    def tower_features(self, frames: Float[Array, "F H W 3"]) -> Float[Array, "F P Dv"]:
        """What `Images.features` holds of these frames: the tower's tokens, not yet resampled."""
        if self.vision is None:
            raise ConfigError("there is no vision tower", where="VLMConfig.inputs")
        return self.vision(frames.astype(self.dtype))

    def _resampled(self, tokens: Float[Array, "F S Dt"]) -> Float[Array, "F P Dv"]:
        return tokens if self.resampler is None else self.resampler(tokens)

    def _of_images(self, images: Images) -> tuple[Array, Array]:
        """Each prompt's images one after the other: [B, I * P', Dv]."""
        of = jnp.asarray(images.of)
        there = of >= 0
        if images.features is not None:
            tokens = self._resampled(jnp.asarray(images.features).astype(self.dtype))
        elif images.pixels is not None:
            tokens = self.encode_frames(jnp.asarray(images.pixels))
        else:
            raise DataError(
                "images of nothing", where="Batch.images", expected="pixels or features"
            )
        # Here alone samples reach over devices: an image may lie beside another prompt.
        tokens = constrain(tokens, "batch", None, "embed")
        placed = jnp.take(tokens, jnp.maximum(of, 0), axis=0)  # beyond the last image: NaN
        placed = constrain(placed, "batch", None, None, "embed")
        placed = jnp.where(there[:, :, None, None], placed, jnp.zeros_like(placed))
        visual = placed.reshape(of.shape[0], of.shape[1] * tokens.shape[1], tokens.shape[2])
        return visual, jnp.repeat(there, tokens.shape[1], axis=1)

    def _of_cube(self, batch: Batch, rng: Array | None) -> tuple[Array, Array]:
        """Fused tokens, of those that `selection` keeps.

        They enter the fusion in this order: frames (band sets as in `config.inputs`, dates,
        groups, tokens), then points (band sets, dates), then places of encoders, which are undated:
        an encoder has read the dates.
        """
        assert self.temporal is not None
        observations = {i.bandset: self._observation(batch, i.bandset) for i in self.config.inputs}
        parts, images, group = [], [], 0
        for name in self._inputs("rgb"):
            obs = observations[name]
            made, valid = self.spectral[name](obs)
            images.append(made.astype(self.dtype))
            ids = group + jnp.arange(valid.shape[2], dtype=jnp.int32)
            parts.append(self._known(obs, token_valid(self.config, valid), ids))
            group += len(ids)
        tokens = []
        if images:
            x = jnp.concatenate(images, axis=1)  # frames of all band sets share the tower
            y = self.encode_frames(x.reshape(-1, *x.shape[2:]))
            tokens.append(y.reshape(x.shape[0], -1, y.shape[2]))
        for name in self._inputs("pixel"):
            obs = observations[name]
            made, valid = self.pixel[name](obs)
            tokens.append(made.astype(self.dtype))
            ids = jnp.full((1,), group, jnp.int32)
            parts.append(self._known(obs, valid[:, :, None, None], ids))
            group += 1
        for front in self.encoders.values():
            made, valid = front(observations, self.dtype)
            tokens.append(made.astype(self.dtype))
            parts.append(undated(valid, group))
            group += 1
        all_known = Known(*(jnp.concatenate(p, axis=1) for p in zip(*parts, strict=True)))
        return self.temporal(
            jnp.concatenate(tokens, axis=1),
            all_known.valid,
            all_known.date,
            all_known.platform,
            all_known.group,
            year_known=all_known.year_known,
            select=self.selection,
            rng=rng,
        )

    def _known(self, obs: Observation, valid: Array, group: Array) -> Known:
        """What the fusion is told of the tokens of a band set (`TemporalConfig.dates`)."""
        dates = self.config.temporal.dates
        if dates == "shuffled":
            obs = shuffled(obs)
        found = known(obs, valid, group)
        return found._replace(date=jnp.full_like(found.date, jnp.nan)) if dates == "none" else found

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
        if visual.shape[1] == 0:  # text alone: there is nothing to take
            return constrain(text, "batch", "length", "embed")
        # Whole on every device: a position takes any of them, wherever it is computed.
        connected = constrain(self.connector(visual), "batch", None, "embed")
        slot = jnp.clip(image_slot, 0, visual.shape[1] - 1)
        placed = jnp.take_along_axis(connected, slot[:, :, None], axis=1)
        x = jnp.where((image_slot >= 0)[:, :, None], placed, text)
        return constrain(x, "batch", "length", "embed")

    def _knowledge(
        self, hidden: Float[Array, "B L D"], batch: Batch
    ) -> tuple[Float[Array, "B Q D"], Bool[Array, " B"]]:
        """Knowledge tokens as `HeadConfig.knowledge` reads them; none without decoder or head."""
        head = self.config.head
        if self.decoder is None or head is None or self.reg_token is None:
            b, _, width = hidden.shape
            return jnp.zeros((b, 0, width), hidden.dtype), jnp.zeros((b,), bool)
        first = jnp.asarray(batch.segment) == 1
        is_reg = (jnp.asarray(batch.tokens) == self.reg_token) & first
        answer = None if batch.answer is None else jnp.asarray(batch.answer)
        return knowledge.read(hidden, is_reg, head.reg_tokens, head.knowledge, answer)

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


def readable(image_slot: Int[Array, "B L"], visual_valid: Bool[Array, "B N"]) -> Bool[Array, "B L"]:
    """Which positions other tokens may read: all but placeholders of missing visual tokens."""
    if visual_valid.shape[1] == 0:
        return image_slot < 0
    slot = jnp.clip(image_slot, 0, visual_valid.shape[1] - 1)
    return (image_slot < 0) | jnp.take_along_axis(visual_valid, slot, axis=1)
