"""What the parts of a training step cost on this CPU: ratios of medians, turn by turn.

    micro    a batch of 16 x 256 tokens in eight parts, beside one pass: temporary bytes, time
    text     cross-entropy, forward and backward, of 2,048 positions and 32,000 words: a quarter
             of them supervised, beside all of them; by chunks beside all logits at once
    kind     an optimiser's bytes for each trained parameter; its step beside AdamW's

The model is a language model of 6 M parameters on random tokens, float32.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, get_args

import numpy as np

from .figure import Figure
from .vs_torch import ROUNDS

ROWS, LENGTH, PARTS = 16, 256, 8
TEXT = {"vocab_size": 4096, "width": 256, "layers": 6, "heads": 4, "kv_heads": 4}
TEXT |= {"mlp_dim": 704, "max_length": LENGTH}
VOCABULARY, WIDTH, CHUNK = 32_000, 256, 2**23

Job = Callable[[], Any]


def figures() -> Iterator[Figure]:
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    worker = subprocess.Popen(
        [sys.executable, "-m", __name__], env=env, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.startswith("{"):
            yield Figure(**json.loads(line))
    if worker.wait():
        raise RuntimeError("the worker died")


def _medians(jobs: dict[str, Job]) -> dict[str, float]:
    """Seconds of each job, in turns, after a first run."""
    import jax

    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(ROUNDS + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            jax.block_until_ready(job())
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def _batch(rows: int) -> Any:
    from rsvlm_jax.data.batch import Batch

    rng = np.random.default_rng(0)
    return Batch(
        obs={},
        tokens=rng.integers(3, TEXT["vocab_size"] - 1, (rows, LENGTH)).astype(np.int32),
        segment=np.ones((rows, LENGTH), np.int32),
        position=np.tile(np.arange(LENGTH, dtype=np.int32), (rows, 1)),
        weight=np.ones((rows, LENGTH), np.float32),
        image_slot=np.full((rows, LENGTH), -1, np.int32),
        target=np.zeros((rows, 0), np.float32),
        target_valid=np.zeros((rows, 0), bool),
        sample=np.arange(rows, dtype=np.int32),
    )


def _step(kind: str = "adamw", parts: int = 1, rows: int = ROWS) -> tuple[Job, int, float]:
    """A step that is taken again and again, its temporary bytes, and the optimiser's bytes for each
    trained parameter."""
    import jax

    from rsvlm_jax.config import (
        Experiment,
        GroupConfig,
        LlamaConfig,
        LossConfig,
        MeshConfig,
        OptimizerConfig,
        TrainConfig,
        ViTConfig,
        VLMConfig,
    )
    from rsvlm_jax.core import flat
    from rsvlm_jax.mesh import make_mesh
    from rsvlm_jax.models.vlm import VisionLanguageModel
    from rsvlm_jax.train import (
        create,
        init_state,
        make_optimizer,
        make_train_step,
        pick,
        trained_paths,
    )

    vision = ViTConfig(image_size=32, patch_size=16, width=32, layers=1, heads=2, mlp_dim=32)
    vision = dataclasses.replace(vision, feature_layers=(-1,))
    text = LlamaConfig(**TEXT)
    experiment = Experiment(
        name="step",
        model=VLMConfig(vision=vision, decoder=text, head=None),
        loss=LossConfig(text=1.0, huber=0.0, scale=0.0),
        optimizer=OptimizerConfig(kind, groups=(GroupConfig("^(vision|connector)/", 0.0),)),
        train=TrainConfig(batch_size=rows, micro_batches=parts),
    )
    graphdef, params, stats = create(
        lambda rngs: VisionLanguageModel(
            experiment.model, image_token=text.vocab_size - 1, rngs=rngs
        ),
        seed=0,
    )
    mesh = make_mesh(MeshConfig())
    optimizer = make_optimizer(experiment.optimizer, 1000, params)
    state = init_state(params, stats, optimizer, mesh, config=experiment.optimizer)
    step = make_train_step(graphdef, experiment, optimizer, mesh, state)
    batch = jax.device_put(_batch(rows))
    memory = step.lower(state, batch).compile().memory_analysis()
    trained = flat(pick(params, trained_paths(experiment.optimizer, params))).values()
    held = sum(x.nbytes for x in jax.tree.leaves(state.opt_state))

    def job() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    return job, memory.temp_size_in_bytes, held / sum(x.size for x in trained)


def _micro() -> Iterator[Figure]:
    (one, whole, _), (many, part, _) = _step(), _step(parts=PARTS)
    taken = _medians({"one": one, "many": many})
    yield Figure("step.micro.whole", whole / 1e6, "MB")
    yield Figure("step.micro.parts", part / 1e6, "MB")
    yield Figure("step.micro.bytes", part / whole, "-", at_most=0.4)
    yield Figure("step.micro.time", taken["many"] / taken["one"], "-", at_most=1.3)


def _text() -> Iterator[Figure]:
    import jax
    import jax.numpy as jnp

    from rsvlm_jax.train import text_loss

    rng = np.random.default_rng(0)
    shape = (8, 257)
    hidden = jnp.asarray(rng.standard_normal((*shape, WIDTH)), jnp.float32)
    tokens = jnp.asarray(rng.integers(0, VOCABULARY, shape), jnp.int32)
    kernel = jnp.asarray(rng.standard_normal((WIDTH, VOCABULARY)) * 0.05, jnp.float32)
    everywhere = jnp.ones(shape, jnp.float32)
    quarter = jnp.asarray(rng.random(shape) < 0.25, jnp.float32)

    class Head:
        class config:
            vocab_size = VOCABULARY

        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def logits(self, hidden: Any) -> Any:
            return hidden @ self.kernel

    def loss(kernel: Any, hidden: Any, weight: Any, chunk: int) -> Any:
        sums, total = text_loss(Head(kernel), hidden, tokens, weight, chunk=chunk)
        return sums / total

    slope = jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=3)
    taken = _medians({
        "all": lambda: slope(kernel, hidden, everywhere, CHUNK),
        "quarter": lambda: slope(kernel, hidden, quarter, CHUNK),
        "at_once": lambda: slope(kernel, hidden, everywhere, 2**40),
    })  # fmt: skip
    yield Figure("step.text.all", taken["all"] * 1e3, "ms")
    yield Figure("step.text.quarter", taken["quarter"] / taken["all"], "-", at_most=0.4)
    yield Figure("step.text.chunks", taken["all"] / taken["at_once"], "-", at_most=1.2)


def _kinds() -> Iterator[Figure]:
    from rsvlm_jax.config.optimizer import OptimizerKind

    made = {kind: _step(kind, rows=4) for kind in get_args(OptimizerKind)}
    taken = _medians({kind: job for kind, (job, _, _) in made.items()})
    for kind, (_, _, held) in made.items():
        yield Figure(f"step.{kind}.bytes", held, "B/parameter")
        yield Figure(f"step.{kind}.time", taken[kind] / taken["adamw"], "-")


def _main() -> None:
    for part in (_micro, _text, _kinds):
        for figure in part():
            fields = ("name", "value", "unit", "at_least", "at_most")
            print(json.dumps({f: getattr(figure, f) for f in fields}), flush=True)


if __name__ == "__main__":
    _main()
