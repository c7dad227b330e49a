"""`Pretrained`: a model of Hugging Face or LLaVA that takes what its own processor yields.

    inputs = processor(images=..., text=..., return_tensors="np")
    model = rsvlm_jax.load(DIRECTORY)
    model.logits(**inputs)       [B,L,V] float32        language models and LLaVA
    model.generate(**inputs)     tokens of the answers, greedy or as a GenerationConfig says
    model.prefix(**inputs)       an image and its instructions, read once for many questions
    model.chat(question, *pictures)                      text
    model.rank(question, labels, *pictures)              {label: log-likelihood}
    model.features(pixels)       [F,P,Dv]               vision towers and LLaVA
    model.save_adapter(FOLDER)   an adapter that was kept as LoRA, as PEFT

`rsvlm_jax.run.open_pretrained` reads it from a directory. Placeholders are counted on the host
(`rsvlm_jax.data.placeholders`); each shape of the inputs is compiled once.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.config import (
    ConfigError,
    DataError,
    GenerationConfig,
    LoraConfig,
)
from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.data.chat import ChatProcessor
from rsvlm_jax.data.messages import Message
from rsvlm_jax.data.placeholders import place_images
from rsvlm_jax.generate import Generated, TokenMachine, encode_prefix, generate
from rsvlm_jax.interop.families.llava import LlavaConfig
from rsvlm_jax.interop.families.llava_original import ORIGINAL
from rsvlm_jax.interop.huggingface import Report, config_text
from rsvlm_jax.interop.identify import known_family
from rsvlm_jax.interop.peft import save_adapter
from rsvlm_jax.models.decoder import Decoder
from rsvlm_jax.models.vlm import VisionLanguageModel
from rsvlm_jax.nn import Mask, SharedPrefix

from .prompt_batch import channels_last, prompt_batch

Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model with numbers. Make it with `rsvlm_jax.load`.

    Attributes:
      path: of the directory.
      architecture: class that it was read as.
      config: of the model: a VLMConfig, or that of a single tower.
      report: what was read, ignored and initialised.
      params: nested dict of arrays, by the paths of `rsvlm_jax.core.flat`. With an adapter that was
        kept, the kernels of the base and beside each that it takes, `.../q/kernel`, its factors
        `.../q/kernel_lora_a` [layers,in,rank] and `.../q/kernel_lora_b` [layers,rank,out].
        Quantised weights are codes and scales, see `rsvlm_jax.nn.quantize`.
      dtype: of parameters and computation (factors of an adapter and scales are float32).
      image_token: id of the placeholder of an image; None for a model without images.
      ends: ids of which each ends an answer.
      lora: of the adapter that was kept as LoRA; None: no factors in `params`.
      whole: paths of the parameters that this adapter holds whole (a projector).
      saved: the processor that a run of conversations was trained with; None: of a directory.
      step: of that run.
    """

    path: Path
    architecture: str
    config: Any
    report: Report
    graphdef: nnx.GraphDef
    params: Any
    dtype: Dtype
    image_token: int | None
    ends: tuple[int, ...]
    lora: LoraConfig | None = None
    whole: tuple[str, ...] = ()
    saved: ChatProcessor | None = None
    step: int | None = None

    @functools.cached_property
    def model(self) -> Any:
        return nnx.merge(self.graphdef, self.params)

    @functools.cached_property
    def processor(self) -> ChatProcessor:
        """Template, preprocessing and tokenizer: of the run, or as the directory's files say.

        Raises:
          DataError: files that are missing or damaged. ConfigError: they do not fit the model.
        """
        if self.saved is not None:
            return self.saved
        return ChatProcessor.of(self.path, self.config)

    @property
    def decoder(self) -> Decoder:
        """The language model, or that of a LLaVA.

        Raises:
          ConfigError: there is none.
        """
        found = self.model
        if isinstance(found, VisionLanguageModel):
            found = found.decoder
        if not isinstance(found, Decoder):
            raise ConfigError("the model has no language model", where=self.path)
        return found

    def chat(
        self,
        question: str | Sequence[Message],
        *pictures: Any,
        config: GenerationConfig | None = None,
        machine: TokenMachine | None = None,
    ) -> str:
        """The answer to a question about pictures, or to a conversation.

        Many at once, or in pieces: `rsvlm_jax.run.speak.Speaker`.

        Args:
          question: or messages, the last of which is the user's.
          pictures: paths, PIL images or arrays u8 [H,W,3], in the order of the text's `<image>`.
          config: None: greedy.
          machine: what the answer has to look like (`rsvlm_jax.generate.grammar`).

        Raises:
          DataError: a question or a picture that cannot be. ConfigError: no language model.
        """
        from .speak import GREEDY, Speaker  # which needs this class

        speaker, config = Speaker(self, self.processor), GREEDY if config is None else config
        return speaker.answer([question], [pictures], config=config, machine=machine)[0]

    def rank(
        self, question: str | Sequence[Message], labels: Sequence[str], *pictures: Any
    ) -> dict[str, float]:
        """Log-likelihood of each label as the answer to a question about pictures.

        Many questions at once, and likelihoods by token: `rsvlm_jax.run.speak.Speaker.rank`.

        Args:
          question, pictures: as `chat`.

        Raises:
          DataError: as `chat`. ConfigError: no labels; no language model.
        """
        from .speak import Speaker

        ranked = Speaker(self, self.processor).rank([question], labels, [pictures])
        return dict(zip(labels, ranked.total[0].tolist(), strict=True))

    def embed_prompts(self, batch: Batch) -> tuple[Float[Array, "B L D"], Bool[Array, "B L"]]:
        """Prompts with their images as a decoder reads them, and which positions are valid."""
        return _prefix(self.graphdef, self.dtype, self.params, batch)

    def logits(
        self, input_ids: Any, pixel_values: Any = None, attention_mask: Any = None
    ) -> Float[Array, "B L V"]:
        """Scores of the next token at every position, float32.

        Positions count from the first column, padding included, as in the forward pass of
        transformers. What stands at padding changes nothing and means nothing.

        Args:
          input_ids: [B,L]; an image stands as one placeholder for each of its visual tokens.
          pixel_values: [F,3,H,W], the images in the order of the text, prompt after prompt.
          attention_mask: [B,L], 0 at padding, on any side.

        Raises:
          DataError: see `place_images`; images of another form. ConfigError: no language model.
        """
        batch = self._batch(input_ids, pixel_values, attention_mask)
        return _logits(self.graphdef, self.dtype, self.params, batch)

    def generate(
        self,
        input_ids: Any,
        pixel_values: Any = None,
        attention_mask: Any = None,
        *,
        max_new_tokens: int | None = None,
        config: GenerationConfig | None = None,
        prefix: SharedPrefix | None = None,
        ends: tuple[int, ...] | None = None,
        machine: TokenMachine | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
    ) -> Generated:
        """What the model says; see `rsvlm_jax.generate`. Positions count valid tokens.

        Args:
          input_ids, pixel_values, attention_mask: as `logits`.
          max_new_tokens: in place of that of `config`.
          config: None: the most probable continuation.
          prefix: what stands before every prompt, made by `prefix`. A repetition penalty does not
            look into it.
          ends: ids that end an answer; None: those of the checkpoint; (): none.
          machine: what the answers have to look like.
          decode: ids to text; needed for `config.stop`.

        Raises:
          DataError, ConfigError: as `logits`; a text too long for the model.
        """
        batch = self._batch(input_ids, pixel_values, attention_mask)
        embeds, valid = self.embed_prompts(batch)
        config = GenerationConfig() if config is None else config
        if max_new_tokens is not None:
            config = dataclasses.replace(config, max_new_tokens=max_new_tokens)
        cache = None
        if prefix is not None:
            cache = prefix.cache(len(valid), valid.shape[1] + config.max_new_tokens)
        said = valid & (jnp.asarray(batch.image_slot) < 0)
        return generate(
            self.decoder, embeds, valid, config=config, eos=self.ends if ends is None else ends,
            prompt_tokens=jnp.where(said, batch.tokens, -1), machine=machine, decode=decode,
            cache=cache,
        )  # fmt: skip

    def prefix(
        self,
        input_ids: Any,
        pixel_values: Any = None,
        attention_mask: Any = None,
        *,
        dtype: Literal["float32", "bfloat16", "int8"] | None = None,
    ) -> SharedPrefix:
        """One prompt's beginning read once: `generate(questions, prefix=...)` goes on after it.

        Args:
          input_ids, pixel_values, attention_mask: as `logits`, of one row.
          dtype: of keys and values, those of the answers included; None: that of the model.

        Raises:
          DataError, ConfigError: as `logits`; more rows than one; a text too long for the model.
        """
        batch = self._batch(input_ids, pixel_values, attention_mask)
        if len(batch.tokens) != 1:
            raise DataError(
                "a prefix is one text", where="input_ids", expected="one row",
                found=len(batch.tokens),
            )  # fmt: skip
        embeds, valid = self.embed_prompts(batch)
        return encode_prefix(self.decoder, embeds, valid, dtype=dtype)

    def features(self, pixel_values: Any) -> Float[Array, "F P Dv"]:
        """Tokens of images: of the feature layers of a tower, before any connector.

        A layer gives its output as it is (transformers' `hidden_states`, 0 the embedding, -1 the
        last layer's output), before the tower's final norm. SigLIP's and DINOv2's
        `last_hidden_state` and CLIP's `pooler_output` come after it.

        Args:
          pixel_values: [F,3,H,W], normalised.

        Raises:
          DataError: images of another form. ConfigError: a model without a tower.
        """
        if isinstance(self.model, VisionLanguageModel):
            images = channels_last(pixel_values, self.config.vision.image_size)
        elif hasattr(self.config, "out_width"):
            images = channels_last(pixel_values, None)
        else:
            raise ConfigError("the model has no vision tower", where=self.path)
        return _features(self.graphdef, self.dtype, self.params, images)

    def save_adapter(self, folder: str | os.PathLike[str], *, base_name: str | None = None) -> Path:
        """Write the adapter that was kept as LoRA as a PEFT directory.

        Of a LLaVA in its original layout with config.json, so that it can be read over a plain
        language model again.

        Args:
          base_name: name or path of the base, which PEFT looks up when it is given none.

        Raises:
          ConfigError: there is none. CheckpointError: see `rsvlm_jax.interop.peft.save_adapter`.
        """
        if self.lora is None:
            raise ConfigError(
                "no adapter that was kept as LoRA", where=self.path,
                remedy="load(DIRECTORY, adapter=..., merge=False)",
            )  # fmt: skip
        config = self.config
        if self.image_token is not None:
            config = LlavaConfig(config, self.image_token)
        made = save_adapter(
            folder, self.architecture, config, self.params, self.lora,
            whole=self.whole, base_name=base_name,
        )  # fmt: skip
        family = known_family(self.architecture)
        if family in ORIGINAL:
            (made / "config.json").write_text(config_text(family, config, self.dtype))
        return made

    def _batch(self, input_ids: Any, pixel_values: Any, attention_mask: Any) -> Batch:
        decoder = self.config
        images, per_image = None, 1
        if isinstance(self.model, VisionLanguageModel):
            decoder, per_image = self.config.decoder, self.config.frame_tokens
            if pixel_values is not None and len(pixel_values):
                images = channels_last(pixel_values, self.config.vision.image_size)
        elif not isinstance(self.model, Decoder):
            raise ConfigError("the model has no language model", where=self.path)
        elif pixel_values is not None:
            raise DataError(
                "the model reads no images", where="pixel_values", expected=None, found="images"
            )
        prompts = place_images(
            input_ids,
            attention_mask,
            vocabulary=decoder.vocab_size,
            images=0 if images is None else len(images),
            image_token=self.image_token,
            per_image=per_image,
        )
        if prompts.tokens.shape[1] > decoder.positions and decoder.kind == "gpt2":
            raise DataError(
                "more positions than the model has", where="input_ids",
                expected=f"<= {decoder.positions}", found=prompts.tokens.shape[1],
            )  # fmt: skip
        return prompt_batch(prompts, images)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logits(graphdef: Any, dtype: str, params: Any, batch: Batch) -> Float[Array, "B L V"]:
    model = nnx.merge(graphdef, params)
    if isinstance(model, VisionLanguageModel):
        assert model.decoder is not None
        return model.decoder.logits(model(batch).hidden)
    x = model.embed(batch.tokens).astype(dtype)
    mask = Mask.rows(jnp.asarray(batch.segment))
    return model.logits(model(x, mask, jnp.asarray(batch.position)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _prefix(
    graphdef: Any, dtype: str, params: Any, batch: Batch
) -> tuple[Float[Array, "B L D"], Bool[Array, "B L"]]:
    """Embedded prompts, and which positions may be read."""
    model = nnx.merge(graphdef, params)
    valid = jnp.asarray(batch.segment) > 0
    if isinstance(model, VisionLanguageModel):
        visual, _ = model.encode_visual(batch)
        tokens, slot = jnp.asarray(batch.tokens), jnp.asarray(batch.image_slot)
        return model.embed(tokens, slot, visual), valid
    return model.embed(jnp.asarray(batch.tokens)).astype(dtype), valid


@functools.partial(jax.jit, static_argnums=(0, 1))
def _features(graphdef: Any, dtype: str, params: Any, images: Any) -> Float[Array, "F P Dv"]:
    model = nnx.merge(graphdef, params)
    if isinstance(model, VisionLanguageModel):
        return model.encode_frames(images)
    return model(images.astype(dtype))
