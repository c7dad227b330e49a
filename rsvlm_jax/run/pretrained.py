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

`rsvlm_jax.run.directory` finds out what a directory holds. Placeholders are counted on the host
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
import numpy as np
from flax import nnx

from rsvlm_jax.config import (
    DECODER_LINEARS,
    ConfigError,
    DataError,
    GenerationConfig,
    LoraConfig,
    MeshConfig,
)
from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.data.batch import Batch, Images
from rsvlm_jax.data.chat import ChatProcessor
from rsvlm_jax.data.messages import Message
from rsvlm_jax.data.placeholders import Prompts, place_images
from rsvlm_jax.generate import Generated, TokenMachine, encode_prefix, generate
from rsvlm_jax.interop.families.llava import LlavaConfig
from rsvlm_jax.interop.families.llava_original import ORIGINAL
from rsvlm_jax.interop.huggingface import Report, config_text
from rsvlm_jax.interop.identify import known_family
from rsvlm_jax.interop.peft import save_adapter
from rsvlm_jax.interop.quantized import Codes
from rsvlm_jax.mesh.build import make_mesh
from rsvlm_jax.models.decoder import Decoder
from rsvlm_jax.models.vlm import VisionLanguageModel
from rsvlm_jax.nn import Mask, SharedPrefix
from rsvlm_jax.nn.quantize import Kind

from .directory import end_tokens, place_parts, read_directory

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
            images = self._images(pixel_values, self.config.vision.image_size)
        elif hasattr(self.config, "out_width"):
            images = self._images(pixel_values, None)
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
                images = self._images(pixel_values, self.config.vision.image_size)
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
        return _batch(prompts, images)

    def _images(self, pixel_values: Any, size: int | None) -> np.ndarray:
        """[F,H,W,3] of [F,3,H,W]."""
        try:
            if hasattr(pixel_values, "is_complex"):  # torch's bfloat16 is unknown to NumPy
                whole = pixel_values.detach()
                pixel_values = whole if whole.is_complex() else whole.float()
            pixels = np.asarray(pixel_values)
            if pixels.dtype.kind == "c":
                raise DataError(
                    "complex numbers are no image", where="pixel_values",
                    expected="real numbers", found=pixels.dtype,
                )  # fmt: skip
            pixels = pixels.astype(np.float32)
        except (TypeError, ValueError):
            pixels = np.empty((0, 0, 0, 0), np.float32)
        wanted = "H" if size is None else size, "W" if size is None else size
        if (
            pixels.ndim != 4
            or pixels.shape[1] != 3
            or (size is not None and pixels.shape[2:] != (size, size))
        ):
            raise DataError(
                "not the images that the model reads", where="pixel_values",
                expected=f"[F, 3, {wanted[0]}, {wanted[1]}], channels first", found=pixels.shape,
            )  # fmt: skip
        return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


def open_pretrained(
    path: str | os.PathLike[str],
    *,
    mesh: MeshConfig | None = None,
    dtype: Dtype | None = None,
    missing: Literal["error", "init"] = "error",
    vision: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    projector: str | os.PathLike[str] | None = None,
    merge: bool = True,
    quantize: Kind | None = None,
    quantize_targets: str = DECODER_LINEARS,
    allow_pickle: bool = False,
) -> Pretrained:
    """Read a directory of Hugging Face, LLaVA or GeoChat.

    Args:
      mesh: devices over which the parameters are spread as they are read; None: the first one.
      dtype: of parameters and computation; None: float32, whatever the file holds.
      missing: "init" initialises what the checkpoint lacks, and lists it; "error" refuses.
      vision: directory of the vision tower, where a LLaVA does not hold its own.
      adapter: directory of a PEFT adapter, or of LLaVA's LoRA over a plain language model.
      projector: file of one that was trained over a plain language model.
      merge: the adapter into the kernels; False keeps its factors, see `Pretrained.params`.
      quantize: "int8" or "nf4": the weights that `quantize_targets` takes are quantised from the
        numbers of the file as they are read, layer by layer.
      allow_pickle: read `.bin` and `.pt` files, through torch's weights-only loader.

    Raises:
      ConfigError: an option that is none; weights that cannot be quantised so.
      CheckpointError: one line with the file, what was expected and what was found.
    """
    path = Path(path)
    dtype = "float32" if dtype is None else dtype
    if dtype not in ("float32", "bfloat16"):  # jnp.bfloat16 is what a hand types first
        raise ConfigError(
            "not a dtype of parameters", where="load(dtype)", expected="float32 or bfloat16",
            found=getattr(dtype, "__name__", dtype), remedy="give its name, a str",
        )  # fmt: skip

    if quantize is not None and adapter is not None and merge:
        raise ConfigError(
            "an adapter is not merged into quantised weights", where="load(quantize)",
            expected="merge=False: its factors stay beside the codes", found="merge=True",
        )  # fmt: skip

    def computing(config: Any) -> Any:
        if not isinstance(config, LlavaConfig):
            return config
        model = dataclasses.replace(config.model, dtype=dtype)
        return dataclasses.replace(config, model=model)

    place = None
    if mesh is not None:
        place = functools.partial(place_parts, plan=mesh.plan, mesh=make_mesh(mesh))
    found, kept = read_directory(
        path,
        vision=vision,
        adapter=adapter,
        projector=projector,
        merge=merge,
        allow_pickle=allow_pickle,
        dtype=dtype,
        adjust=computing,
        place=place,
        codes=None if quantize is None else Codes(quantize, quantize_targets),
        may_lack=("",) if missing == "init" else (),
    )
    llava = found.config if isinstance(found.config, LlavaConfig) else None
    return Pretrained(
        path=path,
        architecture=found.family.architecture,
        config=found.config if llava is None else llava.model,
        report=found.report,
        graphdef=found.graphdef,
        params=found.params,
        dtype=dtype,
        image_token=None if llava is None else llava.image_token,
        ends=end_tokens(path),
        lora=None if kept is None else kept.config,
        whole=() if kept is None else tuple(kept.whole),
    )


def _batch(prompts: Prompts, images: np.ndarray | None) -> Batch:
    b, length = prompts.tokens.shape
    return Batch(
        obs={},
        tokens=prompts.tokens,
        segment=prompts.valid.astype(np.int32),
        position=np.broadcast_to(np.arange(length, dtype=np.int32), (b, length)),
        weight=np.zeros((b, length), np.float32),
        image_slot=prompts.image_slot,
        target=np.zeros((b, 0), np.float32),
        target_valid=np.zeros((b, 0), bool),
        sample=np.arange(b, dtype=np.int32),
        images=None if images is None else Images(images, prompts.image_of),
    )


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
