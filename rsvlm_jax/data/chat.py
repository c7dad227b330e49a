"""`ChatProcessor`: everything between messages and images and a `Batch`, and between ids and text.

One class for training, evaluation and chat, saved as one folder beside the model (`chat.json`,
`tokenizer.json`, `tokenizer_config.json`), so that template, preprocessing and label masks cannot
differ between them::

    messages ------------------encode--> Row (ids, weights)      answer ids --decode--> text
    picture  ------------------pixels--> f32 [S,S,3]
    rows + pixels -------------batch---> Batch [B,L], Images [F,S,S,3]

Not here: cubes (`processor`), reading conversation files, packing, generation. What a directory of
a checkpoint says is read by `chat_source`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence

import numpy as np

from rsvlm_jax.config import ConfigError, DataError, DecoderConfig, VLMConfig, to_json
from rsvlm_jax.config.check import one_of, positive
from rsvlm_jax.config.conversation import TEMPLATES, ImageConfig, Template
from rsvlm_jax.core.shapes import Float

from . import chat_saved, chat_source, chat_template, pictures, templates
from .batch import Batch
from .messages import IMAGE, Message, check_turns, count_images
from .padding import pad_rows
from .pieces import Row, Widths, encode, fit
from .placeholders import many
from .tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class ChatProcessor:
    """See the module.

    Attributes:
      tokenizer: whose text ids have rows in the decoder's table.
      template: how a conversation is laid out.
      image: preprocessing; None for a model of text alone.
      image_token: id of the placeholder in `Row.ids`; None for a model of text alone. It need have
        no row: batches hold 0 in its place.
      per_image: P', visual tokens of an image.
      per_reg: Q, `<reg>` tokens in the place of a number; 0: `<reg>` is text.
      vocab_size: rows of the decoder's table.
      length: positions of a row at most.
      ends: ids of which each ends an answer.

    Raises:
      ConfigError: a tokenizer of another table, an unknown template, a template that the tokenizer
        lacks, half of what images need.
    """

    tokenizer: Tokenizer
    template: Template
    image: ImageConfig | None
    image_token: int | None
    per_image: int
    vocab_size: int
    length: int
    ends: tuple[int, ...]
    per_reg: int = 0

    def __post_init__(self) -> None:
        one_of(self.template, TEMPLATES, "ChatProcessor.template")
        positive(self, "vocab_size", "length")
        self.tokenizer.check_rows(self.vocab_size)
        if (self.image is None) != (self.image_token is None) or (
            self.image is not None and self.per_image < 1
        ):
            raise ConfigError(
                "half of what images need", where="ChatProcessor",
                expected="image, image_token and per_image, or none of them",
                found=f"{self.image}, {self.image_token}, {self.per_image}",
            )  # fmt: skip
        if self.template == "tokenizer" and self.tokenizer.chat_template is None:
            raise ConfigError(
                "the tokenizer has no chat template", where="ChatProcessor.template",
                expected=" | ".join(t for t in TEMPLATES if t != "tokenizer"), found="tokenizer",
            )  # fmt: skip
        if self.per_reg and self.tokenizer.reg >= self.vocab_size:
            raise ConfigError(
                "no row for <reg>", where="ChatProcessor.vocab_size",
                expected=f"> {self.tokenizer.reg}", found=self.vocab_size,
            )  # fmt: skip
        if not self.ends or not all(0 <= i < self.vocab_size for i in self.ends):
            raise ConfigError(
                "no end of an answer", where="ChatProcessor.ends",
                expected=f"ids below {self.vocab_size}", found=self.ends,
            )  # fmt: skip

    @classmethod
    def of(
        cls,
        source: str | os.PathLike[str],
        model: VLMConfig | DecoderConfig,
        *,
        template: Template | None = None,
        image: ImageConfig | None = None,
        length: int | None = None,
    ) -> ChatProcessor:
        """The processor of a checkpoint's directory; see `rsvlm_jax.data.chat_source`.

        Args:
          source: a directory of Hugging Face, LLaVA, GeoChat or of this class, or
            "asset:stories260k".
          template, image: in the place of what the directory says.
          length: positions; None: all that the decoder has.

        Raises:
          DataError: files that are missing or damaged. ConfigError: what does not fit the model.
        """
        if source == chat_source.ASSET or not chat_saved.there(source):
            return cls(
                **chat_source.from_source(
                    source, model, template=template, image=image, length=length
                )
            )
        saved = cls.load(source)
        chat_source.check_saved(saved, model)
        asked = {"template": template, "image": image, "length": length}
        made = dataclasses.replace(saved, **{k: v for k, v in asked.items() if v is not None})
        if made.image is not None and isinstance(model, VLMConfig):
            chat_source.check_size(made.image, model)
        return made

    # ---- text ----------------------------------------------------------------------------------

    def encode(
        self,
        messages: Sequence[Message],
        *,
        images: int | None = None,
        length: int | None = None,
    ) -> Row:
        """A conversation as ids and weights; with a question at its end, the prompt of the answer.

        A conversation that is longer than `length` is cut at the right; `Row.supervised` says
        whether something is left to learn.

        Args:
          images: that are given; None: as many as `<image>` stand in the messages. One image for
            messages without `<image>` is put in front of the first question.
          length: positions; None: `self.length`.

        Raises:
          DataError: no conversation (`check_turns`), other images than placeholders, a cut through
            or before an image, a prompt that is too long, text that cannot be written.
        """
        check_turns(messages)
        messages, images = self._with_images(messages, images)
        prompt = messages[-1].role == "user"
        if self.template == "tokenizer":
            pieces, bos = chat_template.lay_out(
                messages, self.tokenizer, self.ends, images=self.image is not None,
                reg=self.per_reg > 0,
            )  # fmt: skip
        else:
            pieces = templates.lay_out(
                self.template, messages, self.tokenizer, reg=self.per_reg > 0
            )
            bos = self.tokenizer.starts
        widths = Widths(
            -1 if self.image_token is None else self.image_token, self.per_image,
            self.tokenizer.reg, self.per_reg, fresh=self.template != "tokenizer",
        )  # fmt: skip
        row = encode(self.tokenizer, pieces, widths, bos=bos)
        if row.images != images:
            raise ConfigError(
                "the template does not write each image once", where=f"template {self.template}",
                expected=images, found=row.images,
            )  # fmt: skip
        if prompt:
            row = dataclasses.replace(row, weight=[0.0] * len(row.ids))
        length = self.length if length is None else length
        return fit(row, length, image=widths.image, prompt=prompt)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of generated ids, without special tokens."""
        return self.tokenizer.decode([int(i) for i in ids])

    @functools.cached_property
    def stop(self) -> tuple[str, ...]:
        """Strings that end an answer where no id does."""
        if self.template == "plain":
            return ("\n",)
        if self.template == "chatml" and self.tokenizer.id_of(templates.IM_END) is None:
            return (templates.IM_END,)
        return ()

    def check_stop(self, stop: Sequence[str]) -> tuple[str, ...]:
        """`self.stop` and further stop strings, but those that are a special token (`stop_ids`).

        Raises:
          ConfigError: one that holds the placeholder of an image (no text that a model writes can
            hold it, and in a prompt it would stand inside an image), or a special token among other
            characters (special tokens are in no text, so it would never be found).
        """
        specials = self.tokenizer.specials
        for word in stop:
            if IMAGE in word or self.tokenizer.image_text in word:
                raise ConfigError(
                    "a stop string with the placeholder of an image", where="stop",
                    expected="text that an answer can hold", found=repr(word),
                )  # fmt: skip
            if word not in specials and any(token in word for token in specials):
                raise ConfigError(
                    "a stop string with a special token among other characters", where="stop",
                    expected="text, or the token alone", found=repr(word),
                )  # fmt: skip
        return tuple(dict.fromkeys((*self.stop, *(w for w in stop if w not in specials))))

    def stop_ids(self, stop: Sequence[str]) -> tuple[int, ...]:
        """Ids of the stop strings that are special tokens, which no text holds."""
        found = (self.tokenizer.id_of(w) for w in stop if w in self.tokenizer.specials)
        return tuple(i for i in found if i is not None)

    # ---- images and batches --------------------------------------------------------------------

    def pixels(self, image: pictures.Picture) -> Float[np.ndarray, "S S 3"]:
        """A picture as the tower reads it; see `rsvlm_jax.data.pictures`.

        Raises:
          DataError: see `read_picture`. ConfigError: a model of text alone.
        """
        if self.image is None:
            raise ConfigError("the model reads no images", where="ChatProcessor.image")
        return pictures.prepare(image, self.image)

    def batch(
        self,
        rows: Sequence[Row],
        images: Sequence[Sequence[np.ndarray]] = (),
        *,
        side: str = "right",
        length: int | None = None,
    ) -> Batch:
        """Rows padded to one length.

        Args:
          images: of each row, [S,S,3], in the order of its text; (): no row has any.
          side: of the padding; "left" for generation.
          length: positions; None: those of the longest row.

        Raises:
          DataError: no rows, other images than the rows name, a row longer than `length`.
        """
        size = 0 if self.image is None else self.image.size
        return pad_rows(
            rows, images, image_token=self.image_token, size=size, side=side, length=length
        )

    # ---- the folder ----------------------------------------------------------------------------

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the tokenizer's files and, last, `chat.json`."""
        chat_saved.write(self._saved(), self.tokenizer, directory)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> ChatProcessor:
        """Read what `save` wrote; errors as in `chat_saved.read`."""
        saved, tokenizer = chat_saved.read(directory)
        fields = {f.name: getattr(saved, f.name) for f in dataclasses.fields(saved)}
        del fields["version"], fields["tokenizer_sha256"]
        return cls(tokenizer=tokenizer, **fields)

    def digest(self) -> str:
        """SHA-256 of all that is saved."""
        return hashlib.sha256(to_json(self._saved()).encode()).hexdigest()

    def _saved(self) -> chat_saved.Saved:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del fields["tokenizer"]
        return chat_saved.Saved(tokenizer_sha256=self.tokenizer.digest(), **fields)

    def _with_images(
        self, messages: Sequence[Message], images: int | None
    ) -> tuple[Sequence[Message], int]:
        named = sum(count_images(m.content) for m in messages)
        if images == 1 and not named:
            at = next(i for i, m in enumerate(messages) if m.role == "user")
            first = Message("user", f"{IMAGE}\n{messages[at].content}")
            messages, named = [*messages[:at], first, *messages[at + 1 :]], 1
        found = named if images is None else images
        if named != found or (named and self.image is None):
            raise DataError(
                "the placeholders are not those of the images", where="messages",
                expected=many(named, "image") if self.image else "none: a model of text alone",
                found=many(found, "image"),
                remedy=f"write {IMAGE} once for each image, \\{IMAGE} for the word itself",
            )  # fmt: skip
        return messages, named
