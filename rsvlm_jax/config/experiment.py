"""An experiment: data, model, optimiser, loop and mesh on one page.

Every file in `experiments/` defines `experiment() -> Experiment`. `tiny()` shrinks it to seconds
on a CPU. All is frozen and hashable; `rsvlm_jax.config.to_json` and `from_json` round-trip it.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from .check import one_of
from .conversation import ConversationConfig
from .errors import ConfigError
from .lora import LORA_ONLY, LoraConfig
from .model import VLMConfig
from .optimizer import OptimizerConfig
from .tiny import tiny_conversations, tiny_lora, tiny_model, tiny_optimizer, tiny_start


@dataclasses.dataclass(frozen=True)
class TargetConfig:
    """What is predicted: the mean of a cube's target array over a window.

    Attributes:
      name: array in the cube's `targets` group.
      question_name: how the quantity is named in questions and answers ("tree cover").
      min_valid: share of valid target pixels that a window needs.
    """

    name: str = "tree_cover"
    question_name: str = "tree cover"
    min_valid: float = 0.5


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
    """

    block: int = 25
    folds: int = 5
    fold: int | None = 0
    buffer: float = 0.0
    group: str | None = None

    def __post_init__(self) -> None:
        if self.folds < 2 or self.block < 1 or self.buffer < 0:
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
    threads: int = 2
    workers: int = 0
    prefetch: int = 2
    crops: int = 0
    blocks: int = 16
    buckets: tuple[int, ...] = ()
    mixture: tuple[tuple[str, float], ...] = ()
    tokenizer: str = "asset:stories260k"

    def __post_init__(self) -> None:
        if self.window < 1 or self.stride < 1:
            raise ConfigError(
                "impossible window",
                where="DataConfig",
                expected="window >= 1, stride >= 1",
                found=f"window={self.window}, stride={self.stride}",
            )
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


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the losses; each is a sum over a weight, divided once.

    Attributes:
      text: next-token cross-entropy over supervised positions.
      huber: of the standardised target (the point prediction).
      scale: Gaussian negative log-likelihood of the spread around the detached mean.
    """

    text: float = 0.0
    huber: float = 1.0
    scale: float = 0.1
    huber_delta: float = 1.0


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The loop.

    Attributes:
      eval_every: steps between held-out losses, of conversations that are held out; 0: once, after
        the last step.
    """

    steps: int = 200
    batch_size: int = 32
    save_every: int = 100
    eval_every: int = 0
    log_every: int = 10
    keep: int = 2
    max_bad_steps: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        names = ("steps", "batch_size", "save_every", "log_every", "keep")
        # With max_bad_steps=0 the first bad step ends the run.
        lowest = {**dict.fromkeys(names, 1), "eval_every": 0, "max_bad_steps": 0}
        names = tuple(lowest)
        wrong = [name for name in names if getattr(self, name) < lowest[name]]
        if wrong:
            raise ConfigError(
                "impossible loop",
                where=", ".join(f"TrainConfig.{name}" for name in wrong),
                expected=", ".join(f">= {lowest[name]}" for name in wrong),
                found=", ".join(str(getattr(self, name)) for name in wrong),
            )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices as data x fsdp x tensor; -1 in one place takes what is left."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    plan: Literal["replicated", "fsdp_tensor"] = "fsdp_tensor"

    def __post_init__(self) -> None:
        one_of(self.plan, ("replicated", "fsdp_tensor"), "MeshConfig.plan")


INIT_TOWERS = (
    "vision",
    "vision/first",
    "vision/second",
    "resampler",
    "pixel",
    "temporal",
    "connector",
    "decoder",
    "head",
)
"""Parts of a model that `Experiment.init_from` fills one by one."""


def init_sources(text: str) -> tuple[tuple[str | None, str], ...]:
    """`Experiment.init_from` as (tower, source); tower None: all that the source holds.

    Raises:
      ConfigError: an unknown tower, or one that is named twice.
    """
    if not re.match(r"[\w/]+=", text):
        return ((None, text),)
    found = []
    for part in re.split(r",(?=[\w/]+=)", text):
        tower, _, source = part.partition("=")
        if tower not in INIT_TOWERS or not source or tower in dict(found):
            raise ConfigError(
                "not a tower and its checkpoint",
                where="Experiment.init_from",
                expected=f"TOWER=PATH,TOWER=PATH with towers {', '.join(INIT_TOWERS)}, each once",
                found=part,
            )
        found.append((tower, source))
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What `fit`, `describe`, `cross_validate` and `demo` take.

    Attributes:
      conversations: images and what is said of them, in place of the cube of `data`; then
        `model.inputs` is empty and there is no head. `loss`, where it is left as it is, becomes
        that of the text.
      lora: trains low-rank factors beside the kernels it takes. What else is trained say the
        groups of `optimizer`; where there are none they become `LORA_ONLY`, which freezes all else.
      base: how kernels that LoRA takes are stored, frozen: as they are, or quantised (QLoRA).
      init_from: checkpoints that the model starts from: "asset:stories260k" for the shipped
        decoder, a run directory, a directory of Hugging Face or LLaVA (all towers that both have),
        or several by tower, "vision=DIR,connector=FILE,decoder=DIR". A file is an OpenCLIP tower
        (RemoteCLIP) or a projector. A tower's numbers have to be those of its
        config; position tables are resized to its image size (bicubic, corners aligned), and rows
        are added to the token table where the model has more.
      init_missing: what becomes of parameters that none of them holds: "init" leaves them as they
        are initialised, "error" refuses to start.
      allow_pickle: read `.bin` and `.pt` files of `init_from` too, through torch's weights-only
        loader.
    """

    name: str
    data: DataConfig = DataConfig()
    model: VLMConfig = VLMConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()
    conversations: ConversationConfig | None = None
    lora: LoraConfig | None = None
    base: Literal["float", "int8", "nf4"] = "float"
    init_from: str | None = None
    init_missing: Literal["init", "error"] = "init"
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        one_of(self.base, ("float", "int8", "nf4"), "Experiment.base")
        if self.lora is not None and not self.optimizer.groups:
            resolved = dataclasses.replace(self.optimizer, groups=LORA_ONLY)
            object.__setattr__(self, "optimizer", resolved)
        if self.base != "float" and self.lora is None:
            raise ConfigError(
                "a quantised base cannot be trained",
                where="Experiment.base",
                expected="float, or a LoraConfig in Experiment.lora",
                found=self.base,
            )
        if self.conversations is not None and (self.model.inputs or self.model.head is not None):
            raise ConfigError(
                "conversations are of plain images",
                where="Experiment.model",
                expected="inputs=(), head=None",
                found=f"{len(self.model.inputs)} inputs and "
                + ("a head" if self.model.head is not None else "no head"),
            )
        if self.conversations is not None:
            self._check_conversations(self.conversations)
        if self.init_from is not None:
            init_sources(self.init_from)

    def _check_conversations(self, config: ConversationConfig) -> None:
        if self.loss == LossConfig():
            object.__setattr__(self, "loss", LossConfig(text=1.0, huber=0.0, scale=0.0))
        if self.loss.huber or self.loss.scale or not self.loss.text:
            raise ConfigError(
                "conversations have no numbers to learn",
                where="Experiment.loss",
                expected="text > 0, huber=0, scale=0",
                found=self.loss,
            )
        if config.features is not None and self.init_from is None:
            raise ConfigError(
                "features of a tower that starts anew",
                where="ConversationConfig.features",
                expected="None, or Experiment.init_from with the tower that they were made by",
                found=config.features,
            )

    def tiny(self) -> Experiment:
        """The same experiment in seconds on a CPU: a few steps of small batches.

        One of conversations gets a tiny model of the same kind, on one device, and the shipped
        sample (`rsvlm_jax.config.tiny`); nothing that its pages name has to be there.
        """
        small = 8 if self.conversations is None else 4
        train = dataclasses.replace(
            self.train,
            steps=min(self.train.steps, 6),
            batch_size=min(self.train.batch_size, small),
            save_every=3,
            log_every=1,
        )
        if self.conversations is None:
            cube = self.data.cube.replace("world:full", "world:small")
            data = dataclasses.replace(self.data, cube=cube)
            return dataclasses.replace(self, train=train, data=data)
        model = tiny_model(self.model, self.base)
        return dataclasses.replace(
            self,
            train=train,
            model=model,
            conversations=tiny_conversations(self.conversations, model),
            lora=None if self.lora is None else tiny_lora(self.lora),
            optimizer=tiny_optimizer(self.optimizer, self.model),
            mesh=MeshConfig(),
            init_from=tiny_start(model),
            init_missing="init",
        )
