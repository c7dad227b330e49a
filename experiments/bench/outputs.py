"""What a predictive distribution is learned by: its own score, or mostly its point.

A head alone on 16 numbers a sample, made of four; the target is a curve of two of them, and its
noise is skewed and grows with the third. Each output learns by the losses that are its default and
by those that were (Huber 1, score 0.1): the same samples, steps and rate, nothing tuned. Held out:
samples of another seed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from rsvlm_jax.config import Experiment, HeadConfig, LossConfig, VLMConfig
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.metrics import picp, ratio, width
from rsvlm_jax.models.encoded import Encoded
from rsvlm_jax.models.heads import make_head
from rsvlm_jax.train.losses import losses, total

from .figure import Figure

OUTPUTS = ("gaussian", "laplace", "quantiles", "histogram", "ordinal")
D, TRAIN, TEST, STEPS, BATCH, SEEDS = 16, 4096, 4096, 500, 64, 3
POINT = LossConfig(huber=1.0, scale=0.1, balance=0.0)


def figures() -> Iterator[Figure]:
    for output in OUTPUTS:
        own = _mean_scores(output, None)
        for name, value in own.items():
            yield Figure(f"outputs.{output}.{name}", value)
        if output in ("gaussian", "laplace"):
            continue
        point = _mean_scores(output, POINT)
        for name, value in point.items():
            yield Figure(f"outputs.{output}.point.{name}", value)
        yield Figure(f"outputs.{output}.crps_ratio", own["crps"] / point["crps"], "-", at_most=1.0)
        yield Figure(f"outputs.{output}.rmse_ratio", own["rmse"] / point["rmse"], "-", at_most=1.02)
        yield Figure(f"outputs.{output}.coverage_off", abs(own["picp90"] - 0.9), "-", at_most=0.05)


def samples(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens f32 [n, 1, D] and targets f32 [n, 1]."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    noise = (rng.exponential(size=n) - 1) * (0.1 + 0.9 / (1 + np.exp(-2 * x[:, 2])))
    y = 3 + np.sin(2 * x[:, 0]) + x[:, 1] + noise
    mixed = x @ np.random.default_rng(0).normal(size=(4, D)) / 2
    return mixed[:, None].astype(np.float32), y[:, None].astype(np.float32)


def _mean_scores(output: str, loss: LossConfig | None) -> dict[str, float]:
    found = [scores(output, loss, seed) for seed in range(SEEDS)]
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def scores(output: str, loss: LossConfig | None, seed: int, steps: int = STEPS) -> dict[str, float]:
    """Held-out RMSE, CRPS, coverage and width of the 90 % interval, after training.

    Args:
      loss: None: the default of the output.
    """
    config = HeadConfig(kind="mlp", output=output, layers=2, channel_dim=64, bins=50)
    x, y = samples(10 + seed, TRAIN)
    head = make_head(config, 1, D, None, rngs=nnx.Rngs(seed))
    mean, std, far = y.mean(0), y.std(0), np.full(1, np.inf, np.float32)
    head.set_target(*map(jnp.asarray, (mean, std, -far, far)))
    head.set_support([(y[:, 0] - mean) / std])
    graphdef, params, rest = nnx.split(head, nnx.Param, ...)
    experiment = Experiment("outputs", model=VLMConfig(decoder=None, head=config))
    train, ask = _programs(graphdef, experiment.losses if loss is None else loss, steps)
    params = train(params, rest, x, y, jax.random.key(seed))
    x, y = samples(1000 + seed, TEST)
    point, crps, lo, hi = (np.asarray(a, np.float64) for a in ask(params, rest, x, y))
    y = y.astype(np.float64)
    return {
        "rmse": float(np.sqrt(np.mean((point - y) ** 2))),
        "crps": float(crps.mean()),
        "picp90": float(ratio(picp(y, lo, hi))),
        "width90": float(ratio(width(lo, hi))),
    }


@functools.lru_cache(maxsize=1)
def _programs(graphdef: nnx.GraphDef, learned: LossConfig, steps: int):
    """Training on (parameters, statistics, x, y, key), and what is asked of the held-out samples;
    one of each for all seeds."""
    optimizer = optax.adam(3e-3)

    def objective(params, rest, x, y):
        model = _Alone(nnx.merge(graphdef, params, rest))
        return total(losses(_encoded(x), _batch(y), model, learned), learned)

    @jax.jit
    def train(params, rest, x, y, key):
        def step(carry, key):
            params, state = carry
            rows = jax.random.randint(key, (BATCH,), 0, TRAIN)
            grads = jax.grad(objective)(params, rest, x[rows], y[rows])
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        begin = params, optimizer.init(params)
        return jax.lax.scan(step, begin, jax.random.split(key, steps))[0][0]

    @jax.jit
    def ask(params, rest, x, y):
        made = nnx.merge(graphdef, params, rest)(_encoded(x))
        return made.mean, made.crps(y), made.quantile(0.05), made.quantile(0.95)

    return train, ask


class _Alone:
    """What `losses` asks of a model."""

    def __init__(self, head) -> None:
        self.head = head


def _encoded(x) -> Encoded:
    nothing = jnp.zeros((len(x), 0, 0))
    there = jnp.ones(x.shape[:2], bool)
    return Encoded(nothing, x, there, nothing, ~there[:, 0])


def _batch(y) -> Batch:
    rows, text = jnp.arange(len(y)), jnp.zeros((len(y), 2), jnp.int32)
    return Batch(
        obs={}, tokens=text, segment=text, position=text, weight=text.astype(jnp.float32),
        image_slot=text - 1, target=y, target_valid=jnp.ones(y.shape, bool), sample=rows,
    )  # fmt: skip
