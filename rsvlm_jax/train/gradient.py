"""The gradient of a batch, at once or in parts one after the other.

    batch [B, ...] -> K parts [B/K, ...] of every K-th row:   rows 0 K 2K ... | 1 K+1 2K+1 ... | ...

A loss is a sum over a weight, and the weight is that of the whole batch: it follows from the data
alone, so it is known before the first part. The gradient of a part is that of its sums, each over
the weight of the whole; parts add up in float32 to what one pass gives, however unequal they are.
Every K-th row, because a device then cuts the rows that it has and gives none away.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rsvlm_jax.config import ConfigError, LossConfig
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.data.batch import Batch, Images
from rsvlm_jax.mesh.constraints import constrain

from .losses import Sums, total, weights

Tree = Any
Forward = Callable[[Tree, Batch, Array], Sums]
"""`forward(trained, batch, rng)`: the sums of all losses."""


def gradient(
    forward: Forward, trained: Tree, batch: Batch, rng: Array, config: LossConfig
) -> tuple[Float[Array, ""], Sums, Tree]:
    """Loss, its parts and the gradient of the trained parameters, in one pass."""

    def objective(trained: Tree) -> tuple[Array, Sums]:
        parts = forward(trained, batch, rng)
        return total(parts, config), parts

    (loss, parts), grads = jax.value_and_grad(objective, has_aux=True)(trained)
    return loss, parts, grads


def gradient_in_parts(
    forward: Forward,
    trained: Tree,
    batch: Batch,
    rng: Array,
    config: LossConfig,
    *,
    count: int,
    place: Tree,
) -> tuple[Float[Array, ""], Sums, Tree]:
    """As `gradient`, with the activations of one of `count` parts at a time.

    Random numbers of part k are those of `fold_in(rng, k)`: what is drawn at random (hidden dates,
    dropout) differs from what one pass draws.

    Args:
      place: of the trained parameters: the sum of their gradients is stored like them.

    Raises:
      ConfigError: `count` does not divide the batch, or the mesh a part.
    """
    whole = weights(batch, config)

    def objective(trained: Tree, part: Batch, rng: Array) -> tuple[Array, dict[str, Array]]:
        sums = {name: found[0] for name, found in forward(trained, part, rng).items()}
        return total({name: (sums[name], whole[name]) for name in sums}, config), sums

    def body(carry: tuple[Tree, dict[str, Array]], part: tuple[Array, Batch]) -> tuple[Any, None]:
        k, rows = part
        slope = jax.grad(objective, has_aux=True)
        grads, sums = slope(trained, rows, jax.random.fold_in(rng, k))
        added = jax.tree.map(lambda a, b: a + b.astype(jnp.float32), carry, (grads, sums))
        return (jax.lax.with_sharding_constraint(added[0], place), added[1]), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), trained)
    start = jax.lax.with_sharding_constraint(zeros, place), dict.fromkeys(whole, jnp.float32(0))
    numbered = jnp.arange(count, dtype=jnp.int32), split(batch, count)
    (grads, sums), _ = jax.lax.scan(body, start, numbered)
    parts: Sums = {name: (sums[name], whole[name]) for name in sums}
    return total(parts, config), parts, grads


def split(batch: Batch, count: int) -> Batch:
    """A batch as `count` parts on a new first axis; part k holds rows k, k + count, ...

    Raises:
      ConfigError: `count` does not divide the batch; the mesh does not divide a part; or images
        that do not lie in the order of their rows, as many for each.
    """
    rows = batch.tokens.shape[0]
    if rows % count:
        raise ConfigError(
            "micro-batches do not divide the batch",
            where="TrainConfig.micro_batches",
            expected=f"a divisor of {rows} rows",
            found=count,
        )

    def cut(x: Any) -> Array:
        each = len(x) // rows  # images: several for a row
        x = jnp.asarray(x).reshape(rows // count, count, each, *x.shape[1:])
        x = jnp.swapaxes(x, 0, 1).reshape(count, rows // count * each, *x.shape[3:])
        return constrain(x, None, "batch", *(None,) * (x.ndim - 2))

    if batch.images is not None:
        batch = dataclasses.replace(batch, images=_renumbered(batch.images, count))
    return jax.tree.map(cut, batch)


def _renumbered(images: Images, count: int) -> Images:
    """Images named by their rows in the part that they go to, which is that of their prompt."""
    of = jnp.asarray(images.of)
    rows, most = of.shape
    for x in (images.pixels, images.features):
        if x is not None and len(x) != rows * most:
            raise ConfigError(
                "images that are not those of their rows, one row after the other",
                where="TrainConfig.micro_batches",
                expected=f"{most} for each of {rows} rows",
                found=len(x),
                remedy="micro_batches=1",
            )
    row = jnp.arange(rows, dtype=jnp.int32)[:, None]
    # An image of another row would be looked for in another part: NaN, as beyond the last one.
    lost = jnp.int32(rows * most)
    here = jnp.where(of // most == row, row // count * most + of % most, lost)
    return dataclasses.replace(images, of=jnp.where(of < 0, of, here))
