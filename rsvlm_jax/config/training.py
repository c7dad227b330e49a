"""How an experiment is trained: losses, loop, mesh."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from .check import choices, divides, in_range
from .errors import ConfigError

ShardingPlan = Literal["replicated", "fsdp", "fsdp_tensor", "lora_dp"]
Remat = Literal["none", "full", "save_context", "save_qkv_mlp", "offload"]
AttentionKernel = Literal["auto", "plain", "chunked", "cudnn", "splash"]
Sink = Literal["tensorboard", "wandb", "trackio"]


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the losses; each is a sum over a weight, divided once.

    Attributes:
      text: next-token cross-entropy over supervised positions.
      huber: of the standardised target (the point prediction). None: 1 of "gaussian" and "laplace",
        0 of other outputs and without a head (`Experiment.losses`).
      scale: the proper score of the head's output (`rsvlm_jax.models.heads`): of "gaussian" and
        "laplace" the negative log-likelihood of the spread around the detached point, so that
        `huber` alone learns the point; of "quantiles", "histogram" and "ordinal" what learns the
        whole distribution, which needs no `huber` beside it. None: 0.1 of the former, 1 of the
        latter, 0 without a head.
      balance: of a mixture of experts: cross-entropy of the gate to the equal shares of the
        training targets. None: 0.1 with such a head (`Experiment`), 0 without.

    One of the first three is not 0. Text needs a decoder, the others a head (`Experiment`).
    """

    text: float = 0.0
    huber: float | None = None
    scale: float | None = None
    huber_delta: float = 1.0
    balance: float | None = None

    def __post_init__(self) -> None:
        for name in ("text", "huber", "scale", "balance"):
            if getattr(self, name) is not None:
                in_range(self, name, least=0.0)
        in_range(self, "huber_delta", least=1e-6)
        if self.text == self.huber == self.scale == 0:
            raise ConfigError(
                "nothing to learn",
                where="LossConfig",
                expected="text, huber or scale > 0",
                found="0, 0 and 0",
            )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The loop.

    Attributes:
      micro_batches: parts that a batch is cut into, one after the other, for one optimiser step;
        losses are divided by the weight of the whole batch, so that only memory and time change,
        and the random numbers of hidden dates and dropout. It has to divide `batch_size`.
      remat: what the backward pass finds in memory of each layer beside its input; the rest it
        computes again. "none": all is kept. "full": nothing. "save_context": what attention gives.
        "save_qkv_mlp": that, queries, keys, values, and what enters the MLP's activation, so that
        no large product is computed again but the last two. "offload": queries, keys, values and
        what attention gives, in the memory of the host.
      attention: the kernel; "auto" goes by platform, dtype and shapes (`rsvlm_jax.nn.kernels`).
      keep: newest checkpoints that stay.
      keep_every: checkpoints at multiples of this step stay for good; 0: none.
      keep_best: checkpoints of the lowest held-out losses that stay beside them; such a step is
        saved when it is scored.
      patience: held-out scores in a row without a new lowest loss that end the run; 0: never.
      max_bad_steps: steps in a row that may be skipped because loss or gradient is not finite.
      spike: a step whose loss or gradient norm is more than this many standard deviations over the
        mean of the last 128 finite ones is skipped, from the 64th on; None: none is. Such steps do
        not count as bad ones. A checkpoint of a run without cannot be gone on from with it.
      sinks: where metrics go beside `metrics.jsonl`.
      eval_every: steps between held-out losses, of conversations that are held out; 0: once, after
        the last step.
    """

    steps: int = 200
    batch_size: int = 32
    micro_batches: int = 1
    remat: Remat = "none"
    attention: AttentionKernel = "auto"
    save_every: int = 100
    eval_every: int = 0
    log_every: int = 10
    keep: int = 2
    keep_every: int = 0
    keep_best: int = 0
    patience: int = 0
    max_bad_steps: int = 5
    spike: float | None = None
    sinks: tuple[Sink, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        choices(self)
        names = ("steps", "batch_size", "micro_batches", "save_every", "log_every", "keep")
        # With max_bad_steps=0 the first bad step ends the run.
        lowest = {
            **dict.fromkeys(names, 1),
            **dict.fromkeys(("eval_every", "max_bad_steps", "keep_every", "keep_best"), 0),
            "patience": 0,
        }
        names = tuple(lowest)
        if self.spike is not None and not 0 < self.spike < math.inf:
            raise ConfigError(
                "not a number of standard deviations",
                where="TrainConfig.spike",
                expected="> 0, or None",
                found=self.spike,
            )
        wrong = [name for name in names if getattr(self, name) < lowest[name]]
        if wrong:
            raise ConfigError(
                "impossible loop",
                where=", ".join(f"TrainConfig.{name}" for name in wrong),
                expected=", ".join(f">= {lowest[name]}" for name in wrong),
                found=", ".join(str(getattr(self, name)) for name in wrong),
            )
        scored = [name for name in ("keep_best", "patience") if getattr(self, name)]
        if scored and not self.eval_every:
            raise ConfigError(
                "nothing is scored between the first and the last step",
                where=", ".join(f"TrainConfig.{name}" for name in scored),
                expected="eval_every >= 1",
                found=self.eval_every,
            )
        divides(self, "micro_batches", "batch_size")
        if not 0 <= self.seed < 2**31:
            raise ConfigError(
                "not a seed",
                where="TrainConfig.seed",
                expected="0 .. 2^31 - 1",
                found=self.seed,
            )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices as slices x data x fsdp x tensor x context; -1 in one place takes what is left.

    One device is the first there is; more have to be all there are.

    Attributes:
      data: the batch is split over it, parameters are not.
      fsdp: the batch is split over it, and the parameters, which are gathered layer by layer.
      tensor: heads, MLP width and vocabulary are split over it; only with plan "fsdp_tensor".
      context: the positions of long sequences are split over it; it has to divide their length.
      slices: groups of devices with slow links between them (pod slices, GPU nodes); the batch is
        split over them and parameters are not.
      plan: the table that places parameters (`rsvlm_jax.mesh.tables`).
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    context: int = 1
    slices: int = 1
    plan: ShardingPlan = "fsdp_tensor"

    def __post_init__(self) -> None:
        choices(self)
