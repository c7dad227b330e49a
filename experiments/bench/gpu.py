"""`python -m experiments.bench.gpu generate|train|trend [--out FILE] [--tiny]`: on a GPU.

`train` is described in `gpu_train.py`, `trend` in `gpu_trend.py`; this is `generate`, of 7 B.

Random weights of Llama-7B's shape (32 layers, d 4096, f 11008, V 32,000), bfloat16. A decode step
reads the weights of the layers and the head once, and the keys and values of all slots:

    bytes(B, S) = 13.2 GB + B S 0.5 MB          operations(B) = B 13.2 GFLOP
    B = 1,  S = 1000:  13.7 GB                  B = 64, S = 700:  36.7 GB

The floor is these bytes at the rate at which the same device reads an array (a jitted sum). A step
is the time of 65 tokens less that of one, over 64, after slots that are taken to be filled; medians
of five. The tower is CLIP-L/14 at 336 pixels, 0.36 TFLOP an image, up to LLaVA's layer.

    generate.share_1, .share_64    floor / step       goals 0.85, 0.75
    generate.images                images a second    goal 1350 on an H100

Figures are kept as JSON with the name of the device. Without a GPU it refuses; `--tiny` runs the
same program on any device with a model of no size, and has no goals.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import gpu_train, gpu_trend
from .figure import Figure

RESULTS = Path(__file__).parent / "results"
NEW, ROUNDS = 64, 5


@dataclasses.dataclass(frozen=True)
class Size:
    """What is measured: rows and slots of decoding, bytes of the probe, images of a batch."""

    decode: tuple[tuple[int, int, float], ...] = ((1, 1000, 0.85), (64, 700, 0.75))
    probe: int = 8 << 30
    images: int = 128
    goals: bool = True


TINY = Size(decode=((1, 96, 0.85), (4, 80, 0.75)), probe=1 << 20, images=2, goals=False)


def figures(tiny: bool) -> Iterator[Figure]:
    """Bandwidth, decode steps, images a second of the first device."""
    size = TINY if tiny else Size()
    rate = _bandwidth(size.probe)
    yield Figure("generate.bandwidth", rate / 1e9, "GB/s")
    yield from _decode(size, rate, tiny)
    yield from _images(size, tiny)


def _seconds(job: Callable[[], Any]) -> float:
    import jax

    times = []
    for turn in range(ROUNDS + 1):
        start = time.perf_counter()
        jax.block_until_ready(job())
        if turn:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def _bandwidth(size: int) -> float:
    """Bytes a second that the device reads."""
    import jax
    import jax.numpy as jnp

    array = jax.jit(lambda: jnp.ones((size // 4,), jnp.float32))()
    total = jax.jit(jnp.sum)
    return array.nbytes / _seconds(lambda: total(array))


def _random(make: Callable[[], Any]) -> Any:
    """A module with small random bfloat16 numbers, drawn on the device a leaf at a time."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    graphdef, state = nnx.split(nnx.eval_shape(make))
    leaves, tree = jax.tree.flatten(state)
    draw = jax.jit(
        lambda key, shape: 0.02 * jax.random.normal(key, shape, jnp.bfloat16), static_argnums=1
    )
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [draw(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return nnx.merge(graphdef, jax.tree.unflatten(tree, drawn))


def _decode(size: Size, rate: float, tiny: bool) -> Iterator[Figure]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from rsvlm_jax.config import GenerationConfig, LlamaConfig
    from rsvlm_jax.generate import generate
    from rsvlm_jax.models.llama import Llama

    config = LlamaConfig()
    if tiny:
        config = LlamaConfig(vocab_size=64, width=32, layers=2, heads=2, kv_heads=2, mlp_dim=48)
    decoder = _random(lambda: Llama(config, rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(decoder))
    weights = sum(x.nbytes for x in leaves) - decoder.embed.embedding[...].nbytes

    for rows, slots, goal in size.decode:
        x = jnp.ones((rows, 1, config.width), jnp.bfloat16)
        valid = jnp.ones((rows, 1), bool)
        filled = slots - NEW - 2
        cache = decoder.empty_cache(rows, slots, jnp.bfloat16)
        bytes_of_slots = sum(x.nbytes for x in jax.tree.leaves(cache.slots))
        cache = dataclasses.replace(
            cache, used=jnp.int32(filled), valid=cache.valid.at[:, :filled].set(True)
        )

        def text(new: int, x: Any = x, valid: Any = valid, cache: Any = cache) -> Any:
            asked = GenerationConfig(max_new_tokens=new)
            return generate(decoder, x, valid, config=asked, eos=(), cache=cache).tokens

        step = (_seconds(lambda t=text: t(NEW + 1)) - _seconds(lambda t=text: t(1))) / NEW
        floor = (weights + bytes_of_slots) / rate
        yield Figure(f"generate.step_{rows}", step * 1e3, "ms")
        yield Figure(f"generate.tokens_{rows}", rows / step, "tokens/s")
        goal = goal if size.goals else None
        yield Figure(f"generate.share_{rows}", floor / step, "-", at_least=goal)


def _images(size: Size, tiny: bool) -> Iterator[Figure]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from rsvlm_jax.config import ViTConfig
    from rsvlm_jax.models.clip_vit import CLIPVisionTower

    config = ViTConfig()
    if tiny:
        config = dataclasses.replace(config, image_size=28, width=16, layers=2, heads=2, mlp_dim=16)
    graphdef, state = nnx.split(_random(lambda: CLIPVisionTower(config, rngs=nnx.Rngs(0))))
    side = config.image_size
    pixels = jnp.ones((size.images, side, side, 3), jnp.bfloat16)
    tower = jax.jit(lambda state, pixels: nnx.merge(graphdef, state)(pixels))
    rate = size.images / _seconds(lambda: tower(state, pixels))
    h100 = size.goals and "H100" in jax.devices()[0].device_kind
    yield Figure("generate.images", rate, "images/s", at_least=1350 if h100 else None)


def main(words: list[str]) -> int:
    """The command. 0: measured, whatever the figures; 2: refused."""
    import jax

    tiny = "--tiny" in words
    named = [w for w in words if not w.startswith("--")]
    out = None
    if "--out" in words:
        at = words.index("--out")
        if at + 1 == len(words):
            print("error: no file after --out", file=sys.stderr)
            return 2
        out = Path(words[at + 1])
        named.remove(words[at + 1])
    if named not in (["generate"], ["train"], ["trend"]):
        print(
            f"error: unknown benchmark {' '.join(named)!r}; expected generate, train or trend",
            file=sys.stderr,
        )
        return 2
    device = jax.devices()[0]
    if device.platform != "gpu" and not tiny:
        print(
            f"error: not measured: no GPU (found {device.platform}); --tiny runs anywhere",
            file=sys.stderr,
        )
        return 2
    found = []
    h100 = not tiny and "H100" in device.device_kind
    if named == ["trend"]:
        made = gpu_trend.figures(tiny, goals=not tiny)
    else:
        made = figures(tiny) if named == ["generate"] else gpu_train.figures(tiny, goals=h100)
    for figure in made:
        print(figure, flush=True)
        found.append(figure.as_dict())
    if out is None and not tiny:
        out = RESULTS / f"gpu_{named[0]}.json"
    if out is not None:
        about = {"device": device.device_kind, "jax": jax.__version__, "tiny": tiny}
        out.write_text(json.dumps({**about, "figures": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
