"""`load_run(RUN) -> Loaded`: a trained model with its processor, ready to answer.

    loaded.regress(batch)            numbers with their 90 % interval
    loaded.regress_maps(source)      the same of every pixel, of a dense head
    loaded.chat(question, batch)     the decoder's own words, the number filled by the head
    loaded.generate(question, batch) token ids and hidden states
    loaded.logits(batch)             [B,L,V]

`loaded.window(cube, y, x)` makes the batch of a place.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_zarr.cube import Cube
from data_zarr.sampling import WindowTable
from rsvlm_jax.config import (
    CheckpointError,
    ConfigError,
    Experiment,
    GenerationConfig,
    LoraConfig,
    MeshConfig,
    to_json,
)
from rsvlm_jax.core import flat
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.data.pipeline import eval_batches
from rsvlm_jax.data.processor import Processor
from rsvlm_jax.data.source import CubeSource
from rsvlm_jax.generate import Generated, generate, reg_block
from rsvlm_jax.generate.numbers import Drawn, make_number_step
from rsvlm_jax.mesh.build import make_mesh
from rsvlm_jax.models import knowledge
from rsvlm_jax.models.encoded import Encoded
from rsvlm_jax.models.heads import Standardised
from rsvlm_jax.models.vlm import VisionLanguageModel, readable
from rsvlm_jax.train.checkpoint import Checkpoints
from rsvlm_jax.train.state import Tree, merge
from rsvlm_jax.train.step import make_eval_step

from .directory import is_pretrained
from .program import program_of
from .regressed import Numbers, numbers_of
from .restore import restore
from .rundir import RunDir, Which

MAX_ANSWER = 64
"""Tokens of an answer at most."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer. `value`, `lo` and `hi` are None where the model gave words only."""

    question: str
    text: str
    value: float | None = None
    lo: float | None = None
    hi: float | None = None
    unit: str | None = None


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model with numbers, placed on a mesh; those of training step `step`. See `load_run`.

    Attributes:
      lora: of the factors in `params`; None: there are none, or they are merged.
    """

    experiment: Experiment
    processor: Processor
    mesh: jax.sharding.Mesh
    graphdef: nnx.GraphDef
    params: Tree
    stats: Tree
    step: int
    lora: LoraConfig | None = None

    @functools.cached_property
    def model(self) -> VisionLanguageModel:
        return merge(self.graphdef, self.params, self.stats)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of numbers, processor and compute type: what a prediction depends on."""
        h = hashlib.sha256(to_json(self.processor.data).encode())
        h.update(repr((self.processor.bandsets, self.processor.conformal)).encode())
        h.update(self.experiment.model.dtype.encode())
        for path, x in flat({"params": self.params, "stats": self.stats}).items():
            h.update(path.encode())
            h.update(np.asarray(x).tobytes())
        return h.hexdigest()

    # ---- numbers -------------------------------------------------------------------------------

    def regress(self, batch: Batch) -> Numbers:
        """The first target of each sample, with its 90 % interval (`rsvlm_jax.run.regressed`).

        Of a dense head the means of its maps.
        """
        self._needs_head()
        return self._numbers(self._eval_step(self.params, self.stats, batch), batch)[0].of_windows

    def regress_source(
        self,
        source: CubeSource,
        *,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
    ) -> Numbers:
        """`regress` over all windows of a source, in its order; NaN where one is unreadable."""
        found = self.regress_targets(source, batch_size=batch_size, progress=progress)
        return found[self.processor.target.name]

    def regress_targets(
        self,
        source: CubeSource,
        *,
        batch_size: int = 64,
        blind: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Numbers]:
        """`regress_source` of every target by its name, in one pass; the first is calibrated.

        Args:
          blind: also answer about windows of which no dated input shows a valid pixel; False: NaN.
        """
        found = self.regress_maps(source, batch_size=batch_size, blind=blind, progress=progress)
        return {name: numbers.of_windows for name, numbers in found.items()}

    def regress_maps(
        self,
        source: CubeSource,
        *,
        batch_size: int = 64,
        blind: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Numbers]:
        """`regress_targets` as the head answers: of a dense one, maps [n,H,W]."""
        self._needs_head()
        names = self.processor.data.target.names
        found: dict[str, list[list[np.ndarray]]] = {name: [] for name in names}
        with eval_batches(source, self.processor, batch_size=batch_size) as batches:
            for i, batch in enumerate(batches):
                predicted = self._numbers(self._eval_step(self.params, self.stats, batch), batch)
                unread, n = np.asarray(batch.sample) < 0, len(source) - i * batch_size
                if not blind:
                    unread |= ~_sees(batch)
                for name, numbers in zip(names, predicted, strict=True):
                    values = dataclasses.astuple(numbers)
                    gone = unread.reshape(-1, *[1] * (values[0].ndim - 1))
                    found[name].append([np.where(gone, np.nan, x)[:n] for x in values])
                if progress is not None:
                    progress(min((i + 1) * batch_size, len(source)), len(source))
        return {
            name: Numbers(*(np.concatenate(x) for x in zip(*parts, strict=True)))
            for name, parts in found.items()
        }

    def _numbers(self, predictive: Standardised | Drawn, batch: Batch) -> list[Numbers]:
        return numbers_of(predictive, batch, self.processor)

    @functools.cached_property
    def _eval_step(self) -> Callable[[Any, Any, Batch], Standardised | Drawn]:
        plan, processor = self.experiment.mesh.plan, self.processor
        if (form := processor.number) is not None:
            ids, bounds = form.ids(processor.tokenizer), processor.target.bounds
            return make_number_step(
                self.graphdef, self.mesh, self.params, form, ids, bounds, plan=plan
            )
        return make_eval_step(self.graphdef, self.mesh, self.params, self.stats, plan=plan)

    # ---- words ---------------------------------------------------------------------------------

    def chat(self, question: str, batch: Batch) -> list[Answer]:
        """Answer a question about each place of a batch.

        The words come out of the decoder token by token; where it emits `<reg>`, the head gives
        the number, and the text is written from that.

        Raises:
          ConfigError: a model without a decoder. DataError: a question that does not fit.
        """
        made, visual, visual_valid = self._speak(question, batch)
        if self.processor.number is not None:
            return [self._written(question, made, i) for i in range(len(batch.sample))]
        known, has = self._knowledge(made, question, batch)
        assert made.hidden is not None  # `_speak` keeps them
        encoded = Encoded(
            made.hidden, visual, visual_valid, known, has, *self._shown(question, batch)
        )
        predictive = _head(self.graphdef, self.params, self.stats, encoded)
        numbers = self._numbers(predictive, batch)[0].of_windows
        answers = []
        for i, tokens in enumerate(np.asarray(made.tokens)):
            ids = tokens[: int(made.length[i])].tolist()
            if not bool(has[i]):
                answers.append(Answer(question, self.processor.render(ids)))
                continue
            value, lo, hi = (float(x[i]) for x in (numbers.mean, numbers.lo, numbers.hi))
            text = self.processor.render(ids, self.processor.format(value, lo, hi))
            answers.append(Answer(question, text, value, lo, hi, self.processor.target.unit))
        return answers

    def _written(self, question: str, made: Generated, i: int) -> Answer:
        """An answer whose number stands in its words."""
        ids = np.asarray(made.tokens)[i, : int(made.length[i])].tolist()
        value, text = self.processor.written(ids)
        unit = None if value is None else self.processor.target.unit
        return Answer(question, text, value, unit=unit)

    def generate(self, question: str, batch: Batch, *, max_new: int = MAX_ANSWER) -> Generated:
        """Greedy token ids and hidden states of the answers; see `rsvlm_jax.generate`."""
        return self._speak(question, batch, max_new)[0]

    def logits(self, batch: Batch) -> jax.Array:
        """[B,L,V] of a batch as it stands (its text included)."""
        self._needs_decoder()
        return _logits(self.graphdef, self.params, self.stats, batch)

    def _speak(
        self, question: str, batch: Batch, max_new: int = MAX_ANSWER
    ) -> tuple[Generated, jax.Array, jax.Array]:
        self._needs_decoder()
        asked, used = self._asked(question, batch)
        prefix, valid, visual, visual_valid = _prefix(self.graphdef, self.params, self.stats, asked)
        assert self.model.decoder is not None
        made = generate(
            self.model.decoder,
            prefix[:, :used],
            valid[:, :used],
            config=GenerationConfig(max_new_tokens=max_new),
            eos=self.processor.tokenizer.eos,
            reg=self._reg if self.model.head is not None else None,
            banned=(self.processor.tokenizer.image,),
            keep_hidden=True,
        )
        return made, visual, visual_valid

    def _asked(self, question: str, batch: Batch) -> tuple[Batch, int]:
        """The batch with a question left open in place of its text, and the question's length."""
        prompt = self.processor.prompt(question)
        used, b = int(prompt.used), len(batch.sample)
        short = prompt.repeat(b)
        asked = dataclasses.replace(
            batch, tokens=short.tokens, segment=short.segment, position=short.position,
            weight=short.weight, image_slot=short.image_slot, answer=np.full(b, used, np.int32),
        )  # fmt: skip
        return asked, used

    def _knowledge(
        self, made: Generated, question: str, batch: Batch
    ) -> tuple[jax.Array, jax.Array]:
        """Knowledge tokens of generated answers, as training read those of given ones."""
        kind, (token, count) = self.processor.knowledge, self._reg
        block, has = reg_block(made, self._reg)
        if kind == "reg" or not bool(has.any()):
            return block, has
        if kind == "last":
            asked, used = self._asked(question, batch)
            hidden = _hidden(self.graphdef, self.params, self.stats, asked)
            before = hidden[:, used - count : used]
            return jnp.where(has[:, None, None], before, jnp.zeros_like(before)), has
        assert made.hidden is not None  # `_speak` keeps them
        said = jnp.arange(made.tokens.shape[1])[None] < made.length[:, None]
        begins = jnp.zeros(len(batch.sample), jnp.int32)
        return knowledge.read(made.hidden, (made.tokens == token) & said, count, kind, begins)

    def _shown(self, question: str, batch: Batch) -> tuple[jax.Array | None, jax.Array | None]:
        """What a dense head reads beside the answer: pixels, and the places of the question."""
        head = self.experiment.model.head
        if head is None or head.dense == "no":
            return None, None
        encoded = _encoded(self.graphdef, self.params, self.stats, self._asked(question, batch)[0])
        return encoded.planes, encoded.placed

    @property
    def _reg(self) -> tuple[int, int]:
        return self.processor.tokenizer.reg, self.processor.reg_tokens

    # ---- places --------------------------------------------------------------------------------

    def window(self, cube: Cube, y: int, x: int) -> Batch:
        """The window whose upper left pixel is (y, x), as a batch of one.

        Raises:
          DataError: it lies outside, or the cube's bands differ from those of the training cube.
          CubeError: it cannot be read.
        """
        table = WindowTable(np.array([y]), np.array([x]), self.experiment.data.window)
        source = CubeSource.of(self.processor, cube, table, error_budget=0.0)
        with eval_batches(source, self.processor, batch_size=1, threads=0) as batches:
            return next(batches)

    def _needs_decoder(self) -> None:
        if self.experiment.model.decoder is None:
            raise ConfigError("the model has no decoder, so it has no words", where="VLMConfig")

    def _needs_head(self) -> None:
        if self.experiment.model.head is None and self.processor.number is None:
            raise ConfigError("the model has no head, so it gives no number", where="VLMConfig")


def load_run(
    path: str | os.PathLike[str],
    *,
    mesh: MeshConfig | None = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    missing: Literal["error", "init"] = "error",
    merge: bool = True,
    step: Which = None,
) -> Loaded:
    """Load a verified checkpoint of a run directory.

    Args:
      mesh: devices to place it on; None: that of the training run.
      dtype: compute type; None: that of the training run. Parameters stay float32.
      missing: "init" initialises towers that the checkpoint lacks; "error" refuses.
      merge: LoRA into the kernels, which of a quantised base are made float for it; False keeps
        factors and codes as they were trained.
      step: which checkpoint; None: the newest that verifies. "best": of the lowest held-out loss.

    Raises:
      CheckpointError: no run, no checkpoint that verifies, or one of another model; names both
        sides of a mismatch.

    Warns:
      CheckpointWarning: the newest step is damaged and an older one was taken: `Loaded.step`.
    """
    run = RunDir(Path(path))
    if is_pretrained(run.path):
        raise CheckpointError(
            "a pretrained model, not a run", where=run.path,
            expected="the directory of `rsvlm train EXPERIMENT.py --out RUN`",
            remedy="name it as init_from of an experiment",
        )  # fmt: skip
    experiment = run.experiment()
    if experiment.conversations is not None:
        raise CheckpointError(
            "a run of conversations, which reads no cubes", where=run.path,
            expected="a run of an experiment on cubes", remedy="rsvlm_jax.load opens it",
        )  # fmt: skip
    processor = Processor.load(run.processor)
    if processor.config != experiment.model:
        raise CheckpointError(
            "config.json and the processor disagree about the model",
            where=run.path,
            remedy="restore the file that was edited",
        )
    if dtype is not None:
        model = dataclasses.replace(experiment.model, dtype=dtype)
        experiment = dataclasses.replace(experiment, model=model)
        processor = dataclasses.replace(processor, config=model)
    if mesh is not None:
        experiment = dataclasses.replace(experiment, mesh=mesh)
    lora = experiment.lora
    program = program_of(processor, lora, experiment.base)
    placed = make_mesh(experiment.mesh)
    with Checkpoints(run.checkpoints) as checkpoints:
        step = run.step_of(step) or checkpoints.newest()
        params, stats = restore(checkpoints, step, program, placed, experiment, missing)
    assert step is not None  # or nothing was restored
    if lora is not None and merge:
        params, program, lora = program.plain(params), program_of(processor), None
    return Loaded(experiment, processor, placed, program.graphdef, params, stats, step, lora)


@functools.partial(jax.jit, static_argnums=0)
def _head(graphdef: Any, params: Tree, stats: Tree, encoded: Encoded) -> Standardised:
    return merge(graphdef, params, stats).head(encoded)


def _sees(batch: Batch) -> np.ndarray:
    """bool [B]: some dated input, or of static ones any, has a valid pixel."""
    inputs = list(batch.obs.values())
    dated = [o for o in inputs if not np.isnan(np.asarray(o.date)).all()] or inputs
    valid = [np.asarray(o.valid) for o in dated]
    return np.any([v.reshape(len(v), -1).any(axis=1) for v in valid], axis=0)


@functools.partial(jax.jit, static_argnums=0)
def _encoded(graphdef: Any, params: Tree, stats: Tree, batch: Batch) -> Encoded:
    return merge(graphdef, params, stats)(batch)


@functools.partial(jax.jit, static_argnums=0)
def _hidden(graphdef: Any, params: Tree, stats: Tree, batch: Batch) -> jax.Array:
    return merge(graphdef, params, stats)(batch).hidden


@functools.partial(jax.jit, static_argnums=0)
def _logits(graphdef: Any, params: Tree, stats: Tree, batch: Batch) -> jax.Array:
    model = merge(graphdef, params, stats)
    return model.decoder.logits(model(batch).hidden)


@functools.partial(jax.jit, static_argnums=0)
def _prefix(graphdef: Any, params: Tree, stats: Tree, batch: Any) -> tuple[jax.Array, ...]:
    """Embedded prompts, which positions may be read, and the visual tokens."""
    model = merge(graphdef, params, stats)
    visual, visual_valid = model.encode_visual(batch)
    prefix = model.embed(batch.tokens, batch.image_slot, visual)
    valid = (batch.segment > 0) & readable(batch.image_slot, visual_valid)
    return prefix, valid, visual, visual_valid
