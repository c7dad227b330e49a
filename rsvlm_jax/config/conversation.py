"""Conversations about images as numbers: files, template, image preprocessing, how batches are cut.

What a template writes and supervises is in `rsvlm_jax.data.templates`, not here.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from .check import choices, positive
from .errors import ConfigError
from .vision import CLIP_MEAN, CLIP_STD

Template = Literal["vicuna_v1", "llava_v1", "plain", "llama_2", "mistral", "chatml", "tokenizer"]
"""LLaVA's names. "llava_v1" says "human" where "vicuna_v1" says "user" (GeoChat, RS-LLaVA);
"plain" is that of stage 1; "tokenizer" is the chat template that comes with the tokenizer."""

TEMPLATES: tuple[str, ...] = get_args(Template)


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """How a picture becomes what a vision tower reads; the default is CLIP's for 336 pixels.

    Attributes:
      size: edge of the square that the tower reads.
      fit: "crop" resizes the shorter edge to `size` and cuts the centre out (CLIP), "pad" first
        pads to a square with the mean colour (LLaVA's `image_aspect_ratio: pad`), "squash" resizes
        both edges to `size` (SigLIP).
      resample: of Pillow.
      mean, std: of channels, after scaling to [0, 1].
    """

    size: int = 336
    fit: Literal["crop", "pad", "squash"] = "pad"
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        choices(self)
        positive(self, "size")


@dataclasses.dataclass(frozen=True)
class ConversationConfig:
    """Images and what is said of them.

    Attributes:
      files: LLaVA conversation files (JSON or JSON lines), or "sample:rsvqa_lr"; each with its
        weight in the mixture. Weights are relative: how often a file is read through.
      images: folder that the files' image names are relative to; None: that of the file.
      tokenizer: directory with the tokenizer (a Hugging Face checkpoint), or "asset:stories260k".
      template: how a conversation is laid out.
      image: preprocessing; None: the tower's size, mean and std, padded to a square.
      length: L, tokens of a row, visual ones included. A longer conversation is cut at the right,
        as LLaVA cuts it, and refused where an image does not fit.
      pack: several conversations in a row, told apart by their segment.
      group: batches of similar lengths and of one modality (LLaVA's group_by_modality_length).
      buckets: lengths that grouped batches may have, at most, each a program of its own. Which
        ones follows from the lengths of the conversations: those that leave the least padding.
      held_out: share that is kept from training: of the images, with all that is said of them, or
        of the questions.
      held_out_by: "image": what is held out is about images that training never shows. "question":
        about images of the training, with other questions; memory can answer much of that.
      features: folder of visual features of a frozen tower, computed once (`rsvlm features`);
        None: the tower runs in every step.
      threads, workers, prefetch: of the pipeline, as in `DataConfig`.
    """

    files: tuple[tuple[str, float], ...] = (("sample:rsvqa_lr", 1.0),)
    images: str | None = None
    tokenizer: str = "asset:stories260k"
    template: Template = "vicuna_v1"
    image: ImageConfig | None = None
    length: int = 2048
    pack: bool = False
    group: bool = True
    buckets: int = 4
    held_out: float = 0.0
    held_out_by: Literal["image", "question"] = "image"
    features: str | None = None
    threads: int = 2
    workers: int = 0
    prefetch: int = 2

    def __post_init__(self) -> None:
        choices(self)
        positive(self, "length", "buckets")
        wrong = [n for n in ("threads", "workers", "prefetch") if getattr(self, n) < 0]
        if wrong:
            raise ConfigError(
                "impossible pipeline", where=", ".join(f"ConversationConfig.{n}" for n in wrong),
                expected=">= 0", found=", ".join(str(getattr(self, n)) for n in wrong),
            )  # fmt: skip
        if not self.files or not all(0 < w < float("inf") for _, w in self.files):
            raise ConfigError(
                "no conversations", where="ConversationConfig.files",
                expected="(file, weight > 0), one or more", found=self.files,
            )  # fmt: skip
        if not 0 <= self.held_out < 1:
            raise ConfigError(
                "not a share", where="ConversationConfig.held_out", expected="0 <= held_out < 1",
                found=self.held_out,
            )  # fmt: skip
