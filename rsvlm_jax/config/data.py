"""Where the samples of an experiment on cubes come from."""

from __future__ import annotations

import dataclasses
from typing import Literal

from .check import choices, in_range
from .errors import ConfigError


@dataclasses.dataclass(frozen=True)
class TargetConfig:
    """What is predicted: the mean of a cube's target array over a window, or of several arrays.

    Attributes:
      name: array in the cube's `targets` group.
      question_name: how the quantity is named in questions and answers ("tree cover").
      min_valid: share of valid target pixels that a window needs.
      also: further arrays that the head predicts with it, each with units and bounds of its own
        (`HeadConfig.targets` counts them all). A window needs `name`, and where others are missing
        they are not learned; questions, calibration and scores are those of `name`.
    """

    name: str = "tree_cover"
    question_name: str = "tree cover"
    min_valid: float = 0.5
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.also)

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise ConfigError(
                "a target is named twice", where="TargetConfig.also", found=", ".join(self.names)
            )
        in_range(self, "min_valid", least=0.0, most=1.0)


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """Spatial folds: square tiles dealt to folds; see `data_zarr.splits`.

    Attributes:
      block: tile edge in pixels.
      folds: number of folds.
      fold: the fold that is held out; None trains on all windows.
      buffer: extra guard around held-out windows, in window widths (0: touch no held-out pixel).
      group: label of a point cube whose values go to folds whole (leave-site-out and the like);
        None deals single sites. `block` and `buffer` mean nothing among points.
      given: (label, value) of a point cube: the places of this value are held out once and for all.
        No fold has them; `fold=None` trains on all others and is tested on them.
    """

    block: int = 25
    folds: int = 5
    fold: int | None = 0
    buffer: float = 0.0
    group: str | None = None
    given: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.folds < 2 or self.block < 1 or not self.buffer >= 0:
            raise ConfigError(
                "impossible folds",
                where="SplitConfig",
                expected="folds >= 2, block >= 1, buffer >= 0",
                found=f"folds={self.folds}, block={self.block}, buffer={self.buffer}",
            )
        if self.fold is not None and not 0 <= self.fold < self.folds:
            raise ConfigError(
                "no such fold",
                where="SplitConfig.fold",
                expected=f"0 .. {self.folds - 1} or None",
                found=self.fold,
            )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where samples come from.

    Attributes:
      cube: path or URL of a Zarr cube; or "sample:NAME" for a shipped one; or "world:NAME" for a
        synthetic one, made on first use ("world:small", "world:full").
      window: edge of a sample in pixels.
      stride: distance of training windows in pixels (evaluation windows never overlap).
      augment: rotate and flip training windows.
      templates: "plain" (`<image>` and the answer), or "questions": the question templates of
        `rsvlm_jax.data.questions`, answerable and not.
      number: where the target's number comes from: the regression "head"; or, for comparison, text
        of the decoder, one token a character (`rsvlm_jax.data.numbers`): "digits" (132.4), "p10"
        (+1324E-1). With text the model has no head (`Experiment`).
      number_digits: of such a text.
      threads: read threads of the pipeline (of each worker).
      workers: processes that read; 0: threads of the training process are enough for most.
      prefetch: batches placed on the devices before they are needed.
      crops: samples cut from each shard of the cube in an epoch, the shard read once; 0: every
        window once an epoch, each read by itself.
      blocks: shards that are visited at a time, with `crops`.
      buckets: lengths of a series, ascending. A batch is as long as the shortest of them that holds
        all dates with a valid pixel of all its windows; none: as long as the input's `dates`.
      mixture: further cubes that training windows come from, each with its weight beside the 1 of
        `cube`. They need the same inputs and target, and are split in the same way; statistics
        and evaluation are of `cube` alone.
      tokenizer: "asset:stories260k", or the directory of the decoder's (Hugging Face). `<image>`
        and `<reg>` get the ids after its last one, so `vocab_size` is its size and two, or that
        rounded up to a multiple of 64.
    """

    cube: str = "sample:slovenia_s2"
    target: TargetConfig = TargetConfig()
    window: int = 8
    stride: int = 4
    split: SplitConfig = SplitConfig()
    augment: bool = True
    templates: Literal["plain", "questions"] = "plain"
    number: Literal["head", "digits", "p10"] = "head"
    number_digits: int = 4
    threads: int = 2
    workers: int = 0
    prefetch: int = 2
    crops: int = 0
    blocks: int = 16
    buckets: tuple[int, ...] = ()
    mixture: tuple[tuple[str, float], ...] = ()
    tokenizer: str = "asset:stories260k"

    def __post_init__(self) -> None:
        choices(self)
        if self.window < 1 or self.stride < 1:
            raise ConfigError(
                "impossible window",
                where="DataConfig",
                expected="window >= 1, stride >= 1",
                found=f"window={self.window}, stride={self.stride}",
            )
        in_range(self, "number_digits", least=1.0, most=9.0)
        names = ("threads", "workers", "prefetch", "crops", "blocks")
        wrong = [n for n in names if getattr(self, n) < (n == "blocks")]
        if wrong:
            raise ConfigError(
                "impossible pipeline",
                where=", ".join(f"DataConfig.{n}" for n in wrong),
                expected="blocks >= 1, the others >= 0",
                found=", ".join(str(getattr(self, n)) for n in wrong),
            )
        if list(self.buckets) != sorted({b for b in self.buckets if b >= 1}):
            raise ConfigError(
                "impossible lengths",
                where="DataConfig.buckets",
                expected="whole numbers >= 1, ascending",
                found=self.buckets,
            )
        if not all(0 < weight < float("inf") for _, weight in self.mixture):
            raise ConfigError(
                "impossible weight",
                where="DataConfig.mixture",
                expected="(cube, weight > 0)",
                found=self.mixture,
            )
