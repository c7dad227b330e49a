"""An experiment: data, model, optimiser, loop and mesh on one page.

Every file in `experiments/` defines `experiment() -> Experiment`. `tiny()` shrinks it to seconds
on a CPU. All is frozen and hashable; `rsvlm_jax.config.to_json` and `from_json` round-trip it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Literal, get_args

from .check import choices
from .conversation import ConversationConfig
from .data import DataConfig
from .errors import ConfigError
from .lora import LORA_ONLY, LoraConfig
from .model import VLMConfig
from .optimizer import OptimizerConfig
from .tiny import (
    Base,
    is_large,
    tiny_conversations,
    tiny_lora,
    tiny_model,
    tiny_optimizer,
    tiny_start,
)
from .training import LossConfig, MeshConfig, TrainConfig

BASES: tuple[str, ...] = get_args(Base)
"""How kernels that LoRA takes may be stored."""

INIT_TOWERS = (
    "vision",
    "vision/first",
    "vision/second",
    "resampler",
    "pixel",
    "encoders/galileo",
    "encoders/presto",
    "selection",
    "temporal",
    "connector",
    "decoder",
    "head",
)
"""Parts of a model that `Experiment.init_from` fills one by one."""

BALANCE = 0.1
"""`LossConfig.balance` of a mixture of experts, where it is not given."""

LOCSCALE = ("gaussian", "laplace")
POINT_AND_SPREAD, WHOLE = (1.0, 0.1), (0.0, 1.0)
"""`huber` and `scale` of `LossConfig` of these outputs, and of those whose score is of the whole
distribution, where they are not given."""


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
        `model.inputs` is empty and there is no head.
      model: without a head, whatever it says, where `data.number` is text.
      loss: without a head, where it is left as it is, it becomes that of the text.
      lora: trains low-rank factors beside the kernels it takes. What else is trained say the
        groups of `optimizer`; where there are none they become `LORA_ONLY`, which freezes all else.
      base: how kernels that LoRA takes are stored, frozen: as they are, in bfloat16 (half the
        memory, and with `dtype="bfloat16"` the same numbers), or quantised (QLoRA).
      init_from: checkpoints that the model starts from: "asset:stories260k" for the shipped
        decoder, a run directory, a directory of Hugging Face or LLaVA (all towers that both have),
        or several by tower, "vision=DIR,connector=FILE,decoder=DIR". A file is an OpenCLIP tower
        (RemoteCLIP) or a projector; the shipped encoders are "encoders/galileo=asset:galileo_nano"
        and "encoders/presto=asset:presto". A tower's numbers have to be those of its config;
        position tables are resized to its image size (bicubic, corners aligned), and rows are
        added to the token table where the model has more.
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
    base: Base = "float"
    init_from: str | None = None
    init_missing: Literal["init", "error"] = "init"
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        choices(self)
        if self.lora is not None and not self.optimizer.groups:
            resolved = dataclasses.replace(self.optimizer, groups=LORA_ONLY)
            object.__setattr__(self, "optimizer", resolved)
        if self.base != "float" and self.lora is None:
            raise ConfigError(
                "only LoRA trains beside a base that is not float",
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
        self._number_as_text()
        self._check_loss()
        self._check_targets()
        features = None if self.conversations is None else self.conversations.features
        if features is not None and self.init_from is None:
            raise ConfigError(
                "features of a tower that starts anew",
                where="ConversationConfig.features",
                expected="None, or Experiment.init_from with the tower that they were made by",
                found=features,
            )
        if self.init_from is not None:
            init_sources(self.init_from)

    def _number_as_text(self) -> None:
        """A number that the decoder writes is learned as text, by a model without a head."""
        model, kind = self.model, self.data.number
        if kind == "head" or self.conversations is not None:
            return
        if model.decoder is None:
            raise ConfigError(
                "a model without a decoder writes no numbers",
                where="DataConfig.number",
                expected="head, or a language model in model.decoder",
                found=kind,
            )
        if self.data.target.also:
            raise ConfigError(
                "a text of one number",
                where="TargetConfig.also",
                expected=f"none, with DataConfig.number={kind!r}",
                found=", ".join(self.data.target.also),
            )
        if model.is_dense:
            raise ConfigError(
                "a text of one number is no map",
                where="HeadConfig.dense",
                expected=f'"no", with DataConfig.number={kind!r}',
                found=model.head and model.head.dense,
            )
        if model.head is not None:
            loss = LossConfig(text=1.0, huber=0.0, scale=0.0)
            object.__setattr__(self, "model", dataclasses.replace(model, head=None))
            object.__setattr__(self, "loss", loss)

    def _check_loss(self) -> None:
        """Each loss has a part of the model that gives what it reads."""
        model = self.model
        if model.head is None and self.loss == LossConfig():
            object.__setattr__(self, "loss", LossConfig(text=1.0, huber=0.0, scale=0.0))
        loss = self.losses
        if model.head is None and (loss.huber or loss.scale):
            raise ConfigError(
                "a model without a head has no numbers to learn",
                where="Experiment.loss",
                expected="huber=0 and scale=0, or a HeadConfig in model.head",
                found=f"huber={loss.huber:g}, scale={loss.scale:g}",
            )
        gated = model.head is not None and model.head.kind == "experts"
        if loss.balance and not (gated and (loss.huber or loss.scale)):
            raise ConfigError(
                "nothing to balance",
                where="LossConfig.balance",
                expected='0, or model.head.kind="experts" that learns by huber or scale',
                found=f"{loss.balance:g}",
            )
        if model.decoder is None and loss.text:
            raise ConfigError(
                "a model without a decoder has no text to learn",
                where="Experiment.loss",
                expected="text=0, or a language model in model.decoder",
                found=f"text={loss.text:g}",
            )

    @property
    def losses(self) -> LossConfig:
        """`loss` as it is learned: where it is None, what the head's output and trunk ask for.

        Raises:
          ConfigError: then nothing is learned.
        """
        head = self.model.head
        if head is None:
            huber, scale, balance = 0.0, 0.0, 0.0
        else:
            huber, scale = POINT_AND_SPREAD if head.output in LOCSCALE else WHOLE
            balance = BALANCE if head.kind == "experts" else 0.0
        known = {"huber": huber, "scale": scale, "balance": balance}
        stated = {name: getattr(self.loss, name) for name in known}
        known |= {name: value for name, value in stated.items() if value is not None}
        return dataclasses.replace(self.loss, **known)

    def _check_targets(self) -> None:
        """The head predicts what the data hold."""
        head, names = self.model.head, self.data.target.names
        if head is not None and head.targets != len(names):
            raise ConfigError(
                "the head predicts another number of targets than there are",
                where="HeadConfig.targets",
                expected=f"{len(names)} ({', '.join(names)})",
                found=head.targets,
                remedy="name the others in TargetConfig.also",
            )

    def tiny(self) -> Experiment:
        """The same experiment in seconds on a CPU: a few steps of small batches.

        One of conversations, or one on a cube whose model is large, gets a tiny model of the same
        kind, on one device, and the shipped sample or, in place of a cube of `path/to/`, the small
        synthetic world (`rsvlm_jax.config.tiny`); nothing that its pages name has to be there.
        """
        steps, batch = (6, 8) if self.conversations is None else (4, 2)
        batch = min(self.train.batch_size, batch)
        train = dataclasses.replace(
            self.train,
            steps=min(self.train.steps, steps),
            batch_size=batch,
            micro_batches=math.gcd(self.train.micro_batches, batch),
            save_every=steps // 2,
            log_every=1,
        )
        if self.conversations is None:
            cube = self.data.cube.replace("world:full", "world:small")
            cube = "world:small" if cube.startswith("path/to/") else cube
            data = dataclasses.replace(self.data, cube=cube)
            if not is_large(self.model):
                return dataclasses.replace(self, train=train, data=data)
            data = dataclasses.replace(data, tokenizer="asset:stories260k")
        else:
            data = self.data
        model, talk = tiny_model(self.model, self.base), self.conversations
        return dataclasses.replace(
            self,
            train=train,
            data=data,
            model=model,
            conversations=None if talk is None else tiny_conversations(talk, model),
            lora=None if self.lora is None else tiny_lora(self.lora),
            optimizer=tiny_optimizer(self.optimizer, self.model),
            mesh=MeshConfig(),
            init_from=tiny_start(model),
            init_missing="init",
        )
