"""The processor: everything between raw reads and a `Batch`, and between a number and its words.

It is saved in every run directory as a folder, `processor.json` and the tokenizer's files, and is
all that prediction needs beside the weights: which bands in which order
with which scale, what the target is, how a prompt is laid out, the calibration scores.

    raw windows [B,T,C,H,W] + validity + dates --observation--> Observation
    question | None, answer | None             --prompt-------> Text [L]
    Observations + Text                        --batch--------> Batch
    number, interval                           --format-------> "0.63 (90 %: 0.41-0.80)"

Not here: pixel arithmetic (in the step, on the device), file reading (`source`), fold statistics
(they are variables of the model).
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from rsvlm_jax.config import BandSetSpec, ConfigError, DataConfig, DataError, VLMConfig

from . import saved
from .batch import Batch, Observation
from .numbers import CHARACTERS, NumberFormat
from .observe import observation
from .questions import Facts, Questions
from .specs import TargetSpec
from .text import (
    Text,
    check_placeholders,
    fill_numbers,
    format_number,
    ids_of,
    pad,
    stack,
)
from .tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Processor:
    """See the module.

    Attributes:
      config, data: of the run.
      bandsets: what is read, aligned with `config.inputs`; channel order is read order.
      target: the predicted quantity.
      tokenizer: whose size must be the decoder's.
      visual_tokens: N.
      length: L, the same for every prompt; 0 asks for the longest training prompt.
      conformal: calibration scores of the 90 % interval (`evaluate.conformal`), if calibrated.
      facts: what the cube says about itself, for the questions that are not about the target.
      also: further quantities that the head predicts, as named in `TargetConfig.also`.
      number: how the decoder writes the target, with `DataConfig.number`; None: a head gives it.

    Raises:
      ConfigError: band sets that are not the model's inputs, a tokenizer of another size than the
        decoder's table, N against the token budget, prompts longer than the decoder's context.
    """

    config: VLMConfig
    data: DataConfig
    bandsets: tuple[BandSetSpec, ...]
    target: TargetSpec
    tokenizer: Tokenizer
    visual_tokens: int
    length: int = 0
    conformal: tuple[float, ...] | None = None
    facts: Facts = dataclasses.field(default_factory=Facts)
    also: tuple[TargetSpec, ...] = ()
    number: NumberFormat | None = None

    def __post_init__(self) -> None:
        names, inputs = [b.name for b in self.bandsets], [i.bandset for i in self.config.inputs]
        if names != inputs:
            raise ConfigError(
                "the band sets are not the model's inputs",
                where="Processor.bandsets",
                expected=", ".join(inputs) or "none",
                found=", ".join(names) or "none",
            )
        budget = self.config.temporal.budget
        if budget is not None and budget != self.visual_tokens:
            raise ConfigError(
                "the visual tokens are not the token budget",
                where="Processor.visual_tokens",
                expected=budget,
                found=self.visual_tokens,
            )
        decoder = self.config.decoder
        if (self.number is None) != (self.data.number == "head"):
            raise ConfigError(
                "the format of numbers is not that of the data",
                where="Processor.number",
                expected=self.data.number,
                found="none" if self.number is None else self.number.kind,
            )
        numbers = self.config.head is not None or self.number is not None
        if self.data.templates == "questions" and (decoder is None or not numbers):
            raise ConfigError(
                "questions need a decoder and a head",
                where="DataConfig.templates",
                expected="plain",
                found="questions",
            )
        if self.data.templates == "plain" and self.knowledge != "reg":
            raise ConfigError(
                "there is no answer to read knowledge from",
                where="HeadConfig.knowledge",
                expected='reg, or DataConfig.templates "questions"',
                found=self.knowledge,
            )
        if decoder is not None:
            self.tokenizer.check_table(decoder.vocab_size)
        longest = self._longest()
        length = self.length or longest
        limit = length if decoder is None else decoder.max_length
        if length < longest or length > limit:
            raise ConfigError(
                "the prompts do not fit",
                where="Processor.length",
                expected=f"{longest} to {limit} tokens",
                found=length,
                remedy="fewer visual tokens (temporal.budget) or a longer decoder.max_length",
            )
        object.__setattr__(self, "length", length)

    # ---- text ----------------------------------------------------------------------------------

    @property
    def reg_tokens(self) -> int:
        """Q; of numbers as text W."""
        if self.number is not None:
            return self.number.width
        return self.config.head.reg_tokens if self.config.head else 0

    @property
    def knowledge(self) -> Literal["reg", "answer", "last"]:
        """Which hidden states the head reads; "reg" where nothing is read."""
        head = self.config.head
        return head.knowledge if head and self.config.decoder is not None else "reg"

    @property
    def forced(self) -> list[int]:
        """Ids that follow the first `<reg>` without asking the model."""
        return [self.tokenizer.reg] * (self.reg_tokens - 1)

    @functools.cached_property
    def questions(self) -> Questions:
        return Questions(self.data.target.question_name, self.facts)

    @functools.cached_property
    def table(self) -> Text:
        """Training prompts [R, L]: the pairs of `questions`, or the one plain prompt."""
        if self.data.templates == "plain":
            return stack([self.prompt()])
        return stack([self.prompt(*qa) for qa in self.questions.pairs])

    def prompt(self, question: str | None = None, answer: str | None = None) -> Text:
        """One prompt [L]; see `rsvlm_jax.data.text`. Without arguments: the plain one.

        Raises:
          DataError: it does not fit into `length`, or holds a placeholder.
        """
        ids, weights = self._ids(question, answer)
        return pad(self.tokenizer, ids, weights, self.length)

    def regress_prompt(self, question: str | None = None) -> Text:
        """A prompt whose `<reg>` block is in place: one pass of the model gives the number.

        Without a question: the prompt that this model was trained on, the first of `table`.
        """
        if question is None:
            return self.table.take(np.array(0))
        return self.prompt(question, self.questions.target_answer)

    def format(self, value: float, lo: float | None = None, hi: float | None = None) -> str:
        """The number with its 90 % interval and unit."""
        return format_number(value, lo, hi, self.target.unit)

    def render(self, ids: Sequence[int] | np.ndarray, number: str = "") -> str:
        """Text of generated ids, `number` in the place of the `<reg>` block (if there is one)."""
        ids = [int(i) for i in ids]
        reg = [i for i, token in enumerate(ids) if token == self.tokenizer.reg]
        if not reg:
            return self.tokenizer.decode(ids).strip()
        before = self.tokenizer.decode(ids[: reg[0]]).strip()
        after = self.tokenizer.decode(ids[reg[-1] + 1 :]).strip()
        glue = "" if after[:1] in (".", ",", "!", "?", "") else " "
        return f"{before} {number}{glue}{after}".strip()

    def written(self, ids: Sequence[int] | np.ndarray) -> tuple[float | None, str]:
        """The number that the decoder has written, and its words with it as people write it.

        None, and the words as they are, where no number of the format stands among them.
        """
        ids = [int(i) for i in ids]
        if self.number is not None:
            width, known = self.number.width, dict(zip(self._number_ids, CHARACTERS, strict=True))
            for at in range(len(ids) - width + 1):
                block = [known.get(i, " ") for i in ids[at : at + width]]
                value = self.number.read("".join(block))
                if value is not None:
                    reg = [self.tokenizer.reg]
                    said = [*ids[:at], *reg, *ids[at + width :]]
                    return value, self.render(said, self.format(value))
        return None, self.render(ids)

    @functools.cached_property
    def _number_ids(self) -> tuple[int, ...]:
        return () if self.number is None else self.number.ids(self.tokenizer)

    # ---- batches -------------------------------------------------------------------------------

    def observation(
        self,
        name: str,
        pixels: np.ndarray,
        valid: np.ndarray | None = None,
        *,
        date: np.ndarray | None = None,
        platform: np.ndarray | int = 0,
        lonlat: np.ndarray | None = None,
        gsd: float | None = None,
    ) -> Observation:
        """Raw reads of one input as an `Observation`; see `rsvlm_jax.data.observe`."""
        spec = self._spec(name)
        return observation(
            spec, pixels, valid, date=date, platform=platform, lonlat=lonlat, gsd=gsd
        )

    def batch(
        self,
        obs: Mapping[str, Observation],
        text: Text | None = None,
        *,
        sample: np.ndarray | None = None,
        target: np.ndarray | None = None,
        target_valid: np.ndarray | None = None,
        target_map: np.ndarray | None = None,
        teach: bool = False,
    ) -> Batch:
        """A batch of all inputs.

        Args:
          text: prompts [B,L] or one [L]; None: `regress_prompt()`.
          sample: i32 [B], -1 for a slot to be ignored; None: 0 .. B-1.
          target, target_valid: [B,K]; None: no sample has a target. The text of a sample without
            a valid target, or with `sample` -1, carries no loss.
          target_map: [B,K,H,W], NaN where not known, of a dense head; None: no pixel has a target.
          teach: for training: where numbers are text, that of the sample's target stands in place
            of the `<reg>` block, and carries loss. Otherwise the block stays, to be written.

        Raises:
          DataError: an input is missing, sizes differ, placeholders do not match the model.
        """
        for spec in self.bandsets:
            if spec.name not in obs:
                raise DataError(
                    f"no input {spec.name!r}",
                    where="batch",
                    expected=", ".join(s.name for s in self.bandsets),
                    found=", ".join(obs) or "nothing",
                )
        sizes = {name: o.pixels.shape[0] for name, o in obs.items()}
        b = next(iter(sizes.values()))
        if set(sizes.values()) != {b}:
            raise DataError("inputs of different batch sizes", where="batch", found=sizes)
        text = self.regress_prompt() if text is None else text
        check_placeholders(text, self.tokenizer, self.visual_tokens, self.reg_tokens)
        if text.tokens.ndim == 1:
            text = text.repeat(b)
        k = self.config.head.targets if self.config.head else 1
        sample = np.arange(b) if sample is None else sample
        if target is None or target_valid is None:
            target, target_valid = np.zeros((b, k)), np.zeros((b, k), bool)
        counts = (sample >= 0) & target_valid.any(1)
        if self.number is not None and teach:
            text = fill_numbers(text, target[:, 0], counts, self.number, self.tokenizer)
        return Batch(
            obs={spec.name: obs[spec.name] for spec in self.bandsets},
            tokens=text.tokens,
            segment=text.segment,
            position=text.position,
            weight=text.weight * counts[:, None].astype(np.float32),
            image_slot=text.image_slot,
            target=np.where(target_valid, target, 0).astype(np.float32),
            target_valid=target_valid,
            sample=sample.astype(np.int32),
            answer=text.answer if self.knowledge != "reg" else None,
            target_map=self._target_map(target_map, *target.shape),
        )

    def _target_map(self, given: np.ndarray | None, b: int, k: int) -> np.ndarray | None:
        """Of a dense head a map, whether any pixel has a target or none: a step has one shape."""
        if not self.config.is_dense:
            return None
        if given is not None:
            return given.astype(np.float32)
        window = self.data.window
        return np.full((b, k, window, window), np.nan, np.float32)

    def predict_batch(
        self,
        pixels: Mapping[str, np.ndarray],
        dates: Mapping[str, np.ndarray] | None = None,
        *,
        valid: Mapping[str, np.ndarray] | None = None,
        platform: Mapping[str, np.ndarray | int] | None = None,
        lonlat: np.ndarray | None = None,
        question: str | None = None,
    ) -> Batch:
        """A batch for a number, from raw reads of any window by band set name."""
        dates, valid, platform = dates or {}, valid or {}, platform or {}
        obs = {
            name: self.observation(
                name,
                values,
                valid.get(name),
                date=dates.get(name),
                platform=platform.get(name, 0),
                lonlat=lonlat,
            )
            for name, values in pixels.items()
        }
        return self.batch(obs, self.regress_prompt(question))

    # ---- the folder ----------------------------------------------------------------------------

    def calibrated(self, scores: Sequence[float] | np.ndarray) -> Processor:
        """The same processor with calibration scores."""
        values = tuple(float(s) for s in scores)
        if not np.isfinite(values).all():
            raise DataError("calibration scores are not finite", where="Processor.conformal")
        return dataclasses.replace(self, conformal=values)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write `processor.json` and the tokenizer's files; see `rsvlm_jax.data.saved`."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del fields["tokenizer"]
        state = saved.Saved(tokenizer_sha256=self.tokenizer.digest(), **fields)
        saved.write(state, self.tokenizer, directory)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Processor:
        """Read what `save` wrote; errors as in `saved.read`."""
        state, tokenizer = saved.read(directory)
        fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
        del fields["version"], fields["tokenizer_sha256"]
        return cls(tokenizer=tokenizer, **fields)

    def _spec(self, name: str) -> BandSetSpec:
        for spec in self.bandsets:
            if spec.name == name:
                return spec
        names = [s.name for s in self.bandsets]
        near = difflib.get_close_matches(name, names, n=1)
        raise DataError(
            f"no input {name!r}",
            where="observation",
            expected=", ".join(names),
            remedy=f"did you mean {near[0]!r}?" if near else None,
        )

    def _ids(self, question: str | None, answer: str | None) -> tuple[list[int], list[float]]:
        return ids_of(self.tokenizer, self.visual_tokens, self.reg_tokens, question, answer)

    def _longest(self) -> int:
        pairs: list[tuple[str | None, str | None]] = [(None, None)]
        if self.data.templates == "questions":
            questions = self.questions
            pairs += [*questions.pairs, *questions.held_out, *questions.held_out_other]
        return max(len(self._ids(*pair)[0]) for pair in pairs)
