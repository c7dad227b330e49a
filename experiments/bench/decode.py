"""Decoding beside the memory-bandwidth floor of this CPU; streams; one image and many questions.

Floor of a decode step: the weights of the layers and of the language head are read once and so are
the keys and values of the slots that are filled; the row of the embedding, empty slots and the
slots written do not count.

    bytes(B, S) = 4 (layers 12 (4 d^2 + 3 d f) + d V)  +  4 (2 layers 12 B S d)     float32
    0.1 B model, d 768, f 2048, V 32,000:      438 MB  +  74 kB a row and filled slot
    operations(B) = 2 B (weights) = 0.22 GFLOP a row: 11 ms of reading against 2 ms of computing

How fast this machine reads is measured in the same process, in turns, over as many bytes as the
weights have, many times what its caches hold: a sum, which does nothing but read (`sum`), and the
product of one matrix with a vector (`bandwidth`), which is the work of a step without its seams.
The matrix has its inputs side by side, the order in which XLA's product is fastest: with kernels
[in, out], as a model has them, one large product would be a third slower and the floor as much too
kind. The faster of the two makes the floor. One core reads nearly as fast as two.

A step is the time of a text of 65 tokens less that of a text of one token, over 64, both after
slots that are taken to be filled; the figure is the ratio of medians.

    share        B = 1: floor / step
    stream       a text of 64 tokens at once / in chunks, the tokens on the host in both; with the
                 text of each token from the shipped tokenizer too (`text`); of the 0.1 B model, and
                 of one of the size of the shipped one (`nano`), which says a token in 0.1 ms
    image        ten questions on one image, LLaVA-shaped, 576 visual tokens, answers of 8 tokens:
                 one batch of ten whole prompts / prefix once and a batch of ten questions; the
                 vision tower is in both
    int8         B = 8, 640 slots: step with float32 keys and values / step with int8, and bytes
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rsvlm_jax.cli.main import HEAP

from .figure import Figure
from .vs_torch import LLAMA, NANO, ROUNDS

NEW = 64
VISION = {"image_size": 336, "patch_size": 14, "width": 256, "layers": 6, "heads": 4}
VISION |= {"mlp_dim": 1024, "feature_layers": (-2,)}
TEXT = {"vocab_size": 4096, "width": 384, "layers": 6, "heads": 6, "kv_heads": 6}
TEXT |= {"mlp_dim": 1024, "max_length": 1024}
QUESTIONS, SYSTEM, QUESTION, ANSWER = 10, 20, 16, 8

Job = Callable[[], Any]


def figures() -> Iterator[Figure]:
    env = {**os.environ, "GLIBC_TUNABLES": HEAP, "JAX_PLATFORMS": "cpu"}
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


def _random(make: Callable[[], Any], seed: int = 0) -> Any:
    """A model with small random numbers, without running its initialisers."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    graphdef, state = nnx.split(nnx.eval_shape(make))
    rng = np.random.default_rng(seed)

    def draw(leaf: Any) -> Any:
        return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) * 0.03, leaf.dtype)

    return nnx.merge(graphdef, jax.tree.map(draw, state))


def _floor() -> Iterator[Figure]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from rsvlm_jax.config import GenerationConfig, LlamaConfig
    from rsvlm_jax.generate import generate
    from rsvlm_jax.models.llama import Llama

    config = LlamaConfig(**LLAMA)
    decoder = _random(lambda: Llama(config, rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(decoder))
    weights = sum(x.nbytes for x in leaves) - decoder.embed.embedding[...].nbytes
    rng = np.random.default_rng(1)
    matrix = jnp.asarray(rng.standard_normal((weights // 4 // 768, 768), np.float32))
    vector = jnp.ones((768,), jnp.float32)
    product, total = jax.jit(lambda m, v: m @ v), jax.jit(lambda m: m.sum())

    def text(rows: int, slots: int, dtype: str, new: int) -> Job:
        x = jnp.asarray(rng.standard_normal((rows, 1, 768)), jnp.float32)
        valid = jnp.ones((rows, 1), bool)
        cache = decoder.empty_cache(rows, slots, dtype)
        filled = slots - NEW - 2
        cache = dataclasses.replace(
            cache, used=jnp.int32(filled), valid=cache.valid.at[:, :filled].set(True)
        )
        asked = GenerationConfig(max_new_tokens=new)
        return lambda: generate(decoder, x, valid, config=asked, eos=(), cache=cache).tokens

    def step(taken: dict[str, float], name: str) -> float:
        return (taken[name] - taken[name + "_one"]) / NEW

    slots = 128
    taken = _medians({
        "product": lambda: product(matrix, vector),
        "sum": lambda: total(matrix),
        "text": text(1, slots, "float32", NEW + 1),
        "text_one": text(1, slots, "float32", 1),
    })  # fmt: skip
    filled = slots - NEW - 2 + NEW / 2  # on average
    of_slots = 2 * config.layers * filled * config.width * 4
    floor = min(taken["product"], taken["sum"]) * (weights + of_slots) / weights
    yield Figure("decode.bandwidth", weights / taken["product"] / 1e9, "GB/s")
    yield Figure("decode.bandwidth.sum", weights / taken["sum"] / 1e9, "GB/s")
    yield Figure("decode.floor", floor * 1e3, "ms")
    yield Figure("decode.step", step(taken, "text") * 1e3, "ms")
    yield Figure("decode.share", floor / step(taken, "text"), "-", at_least=0.85)

    jobs, held = {}, {}
    for dtype in ("float32", "int8"):
        jobs[dtype] = text(8, 640, dtype, NEW + 1)
        jobs[dtype + "_one"] = text(8, 640, dtype, 1)
        cache = decoder.empty_cache(8, 640, dtype)
        held[dtype] = sum(x.nbytes for x in jax.tree.leaves(cache.slots))
    taken = _medians(jobs)
    for dtype in ("float32", "int8"):
        yield Figure(f"decode.{dtype}.step", step(taken, dtype) * 1e3, "ms")
        yield Figure(f"decode.{dtype}.slots", held[dtype] / 1e6, "MB")
    yield Figure("decode.int8.ratio", step(taken, "float32") / step(taken, "int8"), "x")


def _stream(name: str, sizes: dict[str, int]) -> Iterator[Figure]:
    import jax.numpy as jnp
    from flax import nnx
    from tokenizers import Tokenizer

    from rsvlm_jax.assets import STORIES260K_DIR
    from rsvlm_jax.config import GenerationConfig, LlamaConfig
    from rsvlm_jax.generate import generate, stream
    from rsvlm_jax.models.llama import Llama

    tokenizer = Tokenizer.from_file(str(STORIES260K_DIR / "tokenizer.json"))
    asked = GenerationConfig(max_new_tokens=NEW)
    config = LlamaConfig(**sizes)
    decoder = _random(lambda: Llama(config, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.standard_normal((1, 32, config.width)), jnp.float32)
    valid = jnp.ones((1, 32), bool)

    def decode(ids: Any) -> str:
        return tokenizer.decode([i % 512 for i in ids])

    def once() -> Any:
        return np.asarray(generate(decoder, x, valid, config=asked, eos=()).tokens)

    def chunks(**said: Any) -> Any:
        pieces = stream(decoder, x, valid, config=asked, eos=(), **said)
        return np.concatenate([c.tokens for c in pieces], axis=1)

    def text() -> Any:
        return chunks(decode=decode)

    yield Figure(f"{name}.same_text", float(np.array_equal(once(), chunks())), "-", at_least=1)
    taken = _medians({f.__name__: f for f in (once, chunks, text)})
    for job, seconds in taken.items():
        yield Figure(f"{name}.{job}", seconds * 1e3, "ms")
    yield Figure(f"{name}.ratio", taken["once"] / taken["chunks"], "x", at_least=0.9)
    yield Figure(f"{name}.text.ratio", taken["once"] / taken["text"], "x")


def _streams() -> Iterator[Figure]:
    yield from _stream("decode.stream", LLAMA)
    yield from _stream("decode.stream.nano", NANO)


def _image(folder: Path) -> Iterator[Figure]:
    from flax import nnx

    from rsvlm_jax.config import ConnectorConfig, LlamaConfig, ViTConfig, VLMConfig
    from rsvlm_jax.interop.families import FAMILIES
    from rsvlm_jax.interop.families.llava import LlavaConfig
    from rsvlm_jax.interop.huggingface import save_pretrained
    from rsvlm_jax.run.open_pretrained import open_pretrained

    vision, text = ViTConfig(**VISION, pool=True), LlamaConfig(**TEXT)
    model_config = VLMConfig(vision=vision, connector=ConnectorConfig(), decoder=text, head=None)
    placeholder = text.vocab_size - 1
    config = LlavaConfig(model_config, image_token=placeholder)
    architecture = "LlavaForConditionalGeneration"
    made = _random(lambda: FAMILIES[architecture].build(config, nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(made, nnx.Param))
    save_pretrained(folder, architecture, config, params)
    model = open_pretrained(folder)
    rng = np.random.default_rng(2)
    pixels = rng.standard_normal((1, 3, 336, 336)).astype(np.float32)
    system = rng.integers(3, placeholder, (1, SYSTEM))
    start = np.concatenate([system, np.full((1, model_config.frame_tokens), placeholder)], axis=1)
    asked = rng.integers(3, placeholder, (QUESTIONS, QUESTION))
    whole = np.concatenate([np.repeat(start, QUESTIONS, axis=0), asked], axis=1)
    images = np.repeat(pixels, QUESTIONS, axis=0)
    said = {"max_new_tokens": ANSWER, "ends": ()}

    def together() -> Any:
        return model.generate(whole, images, **said).tokens

    def one_by_one() -> Any:
        return [model.generate(row[None], pixels, **said).tokens for row in whole]

    def shared() -> Any:
        return model.generate(asked, prefix=model.prefix(start, pixels), **said).tokens

    def shared_one_by_one() -> Any:
        prefix = model.prefix(start, pixels)
        return [model.generate(row[None], prefix=prefix, **said).tokens for row in asked]

    same = np.array_equal(np.asarray(together()), np.asarray(shared()))
    taken = _medians({f.__name__: f for f in (together, one_by_one, shared, shared_one_by_one)})
    yield Figure("decode.image.same_text", float(same), "-", at_least=1)
    for name, seconds in taken.items():
        yield Figure(f"decode.image.{name}", seconds * 1e3, "ms")
    yield Figure("decode.image.ratio", taken["together"] / taken["shared"], "x", at_least=4)
    ratio = taken["one_by_one"] / taken["shared_one_by_one"]
    yield Figure("decode.image.one_by_one.ratio", ratio, "x", at_least=4)


def _main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for figure in itertools.chain(_floor(), _streams(), _image(Path(folder))):
            fields = ("name", "value", "unit", "at_least", "at_most")
            print(json.dumps({f: getattr(figure, f) for f in fields}), flush=True)


if __name__ == "__main__":
    _main()
