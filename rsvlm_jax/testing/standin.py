"""A model that compiles in a moment and is trained by the same step as the real one.

    pixels [B,1,C,1,1] -> vision (linear, tanh) -> visual [B,1,8] -> head (linear) -> Gaussian

It has what the training room asks of a model: parameters, statistics, a forward pass that takes
`rng`, and a head. It has no decoder and no place in `RULES`: use the plan "replicated".
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rsvlm_jax.config import Experiment, LossConfig, MeshConfig, OptimizerConfig, TrainConfig
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.data.batch import Batch, Observation
from rsvlm_jax.models.encoded import Encoded
from rsvlm_jax.models.heads import Gaussian
from rsvlm_jax.nn import Linear, Stat

BANDS = 4


class StandInHead(nnx.Module):
    """One linear layer."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.out = Linear(width, 2, rngs=rngs)
        self.target_mean = Stat(jnp.zeros((1,), jnp.float32))
        self.target_std = Stat(jnp.ones((1,), jnp.float32))

    def __call__(self, encoded: Encoded, *, rng: Array | None = None) -> Gaussian:
        loc, raw = jnp.split(self.out(encoded.visual[:, 0]), 2, axis=-1)
        return Gaussian(
            loc=loc,
            scale=jax.nn.softplus(raw) + 1e-3,
            target_mean=self.target_mean[...],
            target_std=self.target_std[...],
            low=jnp.full((1,), -jnp.inf, jnp.float32),
            high=jnp.full((1,), jnp.inf, jnp.float32),
        )


class StandIn(nnx.Module):
    """The model. `traces` counts how often its forward pass was traced, over all instances."""

    traces = 0

    def __init__(self, width: int = 8, *, rngs: nnx.Rngs) -> None:
        self.vision = Linear(BANDS, width, rngs=rngs)
        self.head = StandInHead(width, rngs=rngs)

    def __call__(self, batch: Batch, *, rng: Array | None = None) -> Encoded:
        StandIn.traces += 1
        obs = batch.obs["standin"]
        x = jnp.tanh(self.vision(jnp.asarray(obs.pixels)[:, :, :, 0, 0]))
        if rng is not None:
            x = x + 0.01 * jax.random.normal(rng, x.shape)
        b = x.shape[0]
        return Encoded(
            hidden=_empty((b, batch.tokens.shape[1], 0)),
            visual=x,
            visual_valid=jnp.asarray(obs.valid)[:, :, 0, 0, 0],
            knowledge=_empty((b, 0, 0)),
            has_knowledge=jnp.zeros((b,), bool),
        )


def _empty(shape: tuple[int, ...]) -> Float[Array, "..."]:
    return jnp.zeros(shape, jnp.float32)


def standin_experiment(**optimizer: Any) -> Experiment:
    """AdamW over 20 steps of 8 samples, everything replicated."""
    return Experiment(
        name="standin",
        optimizer=OptimizerConfig(**{"learning_rate": 1e-2, **optimizer}),
        loss=LossConfig(huber=1.0, scale=0.1),
        train=TrainConfig(steps=20, batch_size=8, save_every=5, log_every=1),
        mesh=MeshConfig(plan="replicated"),
    )


def standin_batch(seed: int, index: int, size: int = 8, *, bad: bool = False) -> Batch:
    """Batch `index` of a stream, with NumPy leaves; `bad` puts a NaN into a valid pixel."""
    rng = np.random.default_rng([seed, index])
    pixels = rng.normal(size=(size, 1, BANDS, 1, 1)).astype(np.float32)
    target = np.sin(pixels[:, 0, :1, 0, 0]) + pixels[:, 0, 1:2, 0, 0]
    if bad:
        pixels[0, 0, 0, 0, 0] = np.nan
    text = np.zeros((size, 2), np.int32)
    return Batch(
        obs={
            "standin": Observation(
                pixels=pixels,
                valid=np.ones((size, 1, 1, 1, 1), bool),
                date=np.zeros((size, 1), np.float32),
                year_known=np.ones(size, bool),
                platform=np.zeros((size, 1), np.int32),
                lonlat=np.zeros((size, 2), np.float32),
                gsd=np.zeros(size, np.float32),
                bandset="standin",
            )
        },
        tokens=text,
        segment=text,
        position=text,
        weight=np.zeros((size, 2), np.float32),
        image_slot=text - 1,
        target=target,
        target_valid=np.ones((size, 1), bool),
        sample=np.arange(size, dtype=np.int32),
    )


class Stream:
    """Endless batches, a pure function of a seed and a place.

    Args:
      bad: indices of batches with a NaN.
    """

    def __init__(self, seed: int = 0, *, size: int = 8, bad: frozenset[int] = frozenset()) -> None:
        self.seed, self.size, self.bad = seed, size, bad
        self.index = 0

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Batch:
        index, self.index = self.index, self.index + 1
        return standin_batch(self.seed, index, self.size, bad=index in self.bad)

    def get_state(self) -> dict[str, Any]:
        return {"index": self.index}

    def set_state(self, state: dict[str, Any]) -> None:
        self.index = state["index"]
