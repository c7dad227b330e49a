"""A LLaVA of 40k parameters, packed batches for it, and its compiled step on a mesh.

Sizes are such that every dimension that a plan may split divides by eight, and that no activation
has the shape of a weight: what a collective carries can be told by its shape.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

from rsvlm_jax.config import (
    LORA_ONLY,
    ConnectorConfig,
    Experiment,
    LlamaConfig,
    LoraConfig,
    LossConfig,
    MeshConfig,
    OptimizerConfig,
    ViTConfig,
    VLMConfig,
)
from rsvlm_jax.data.batch import Batch, Images
from rsvlm_jax.mesh import Collective, collectives, make_mesh
from rsvlm_jax.models.vlm import VisionLanguageModel
from rsvlm_jax.nn import add_lora
from rsvlm_jax.train import TrainState, create, init_state, make_optimizer, make_train_step

IMAGE, B, L, N = 63, 8, 24, 4

CONFIG = VLMConfig(
    vision=ViTConfig(
        image_size=16, patch_size=8, width=32, layers=3, heads=4, mlp_dim=80, feature_layers=(-1,)
    ),
    connector=ConnectorConfig("mlp2x_gelu"),
    decoder=LlamaConfig(
        vocab_size=64, width=48, layers=2, heads=8, kv_heads=2, mlp_dim=112, max_length=L
    ),
    head=None,
)


def model(rngs: nnx.Rngs) -> VisionLanguageModel:
    return VisionLanguageModel(CONFIG, image_token=IMAGE, rngs=rngs)


def lora_model(rngs: nnx.Rngs) -> VisionLanguageModel:
    return add_lora(model(rngs), LoraConfig(rank=3, alpha=6.0), rngs)


def batch(seed: int) -> Batch:
    """Rows of two packed conversations, the cut between them anywhere; an image in the first."""
    rng = np.random.default_rng(seed)
    cut = rng.integers(N + 3, L - 4, (B, 1))
    place = np.arange(L)[None, :]
    end = L - rng.integers(0, 3, (B, 1))
    segment = np.where(place < cut, 1, 2) * (place < end)
    tokens = rng.integers(1, IMAGE, (B, L))
    tokens[:, 1 : 1 + N] = IMAGE
    slot = np.full((B, L), -1)
    slot[:, 1 : 1 + N] = np.arange(N)
    weight = (segment > 0) & (place > N + 1) & (place != cut)
    return Batch(
        obs={},
        tokens=tokens.astype(np.int32),
        segment=segment.astype(np.int32),
        position=(np.where(place < cut, place, place - cut) * (segment > 0)).astype(np.int32),
        weight=weight.astype(np.float32),
        image_slot=slot.astype(np.int32),
        target=np.zeros((B, 0), np.float32),
        target_valid=np.zeros((B, 0), bool),
        sample=np.arange(B, dtype=np.int32),
        images=Images(
            rng.normal(size=(B, 16, 16, 3)).astype(np.float32),
            np.arange(B, dtype=np.int32)[:, None],
        ),
    )


@dataclasses.dataclass(frozen=True)
class Run:
    """A step that was compiled once and run a few times.

    Attributes:
      said: what the compiler wrote to stderr.
      rows: metrics by step.
    """

    mesh: jax.sharding.Mesh
    first: TrainState
    last: TrainState
    compiled: Any
    said: str
    rows: list[dict[str, float]]

    def collectives(self) -> list[Collective]:
        return collectives(self.compiled)


def run(config: MeshConfig, *, lora: bool = False, kind: str = "adamw", steps: int = 5) -> Run:
    optimizer_config = OptimizerConfig(kind=kind, warmup=0.0, groups=LORA_ONLY if lora else ())
    exp = Experiment(
        name="llava", model=CONFIG, optimizer=optimizer_config,
        loss=LossConfig(text=1.0, huber=0.0, scale=0.0), mesh=config,
    )  # fmt: skip
    mesh = make_mesh(config)
    graphdef, params, stats = create(lora_model if lora else model, seed=0)
    optimizer = make_optimizer(exp.optimizer, steps, params)
    state = init_state(params, stats, optimizer, mesh, config=exp.optimizer, plan=config.plan)
    first = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    step = make_train_step(graphdef, exp, optimizer, mesh, state)
    with stderr() as said:
        compiled = step.lower(first, batch(0)).compile()
    rows = []
    for i in range(steps):
        with jax.set_mesh(mesh):
            state, metrics = compiled(state, batch(i))
        rows.append({k: float(v) for k, v in jax.device_get(metrics).items()})
    return Run(mesh, first, state, compiled, said[0], rows)


@contextlib.contextmanager
def stderr() -> Iterator[list[str]]:
    """What is written to file 2, by C++ too; in the list when it is over."""
    found: list[str] = []
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield found
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            found.append(file.read().decode(errors="replace"))
