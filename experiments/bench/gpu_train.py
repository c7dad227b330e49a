"""Training steps on a GPU: `python -m experiments.bench.gpu train [--out FILE] [--tiny]`.

Random weights and prompts; the whole step as `rsvlm train` runs it, state donated.

    lora    LLaVA-1.5-7B, LoRA of rank 128 on the decoder, 8 x 2048 tokens, an image each
    full    CLIP-L/14-336 and Qwen2-0.5B, all trained, 16 x 2048 tokens, an image each

The floor is the operations by formula (`rsvlm_jax.train.flops`, causal attention by half) at the
maker's peak for bfloat16; the share of it that is reached is the MFU. Each case is measured with
what makes it faster put in one by one, so the lines are a table of what each change gave:

    train.lora.plain          attention with its scores written out, all layers computed again
    train.lora.kernel         the platform's attention kernel
    train.lora.context        what attention gives is kept
    train.lora.qkv_mlp        queries, keys, values and what enters the activations are kept too

One that does not fit into memory is left out, which is said. Medians of five steps.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

from .figure import Figure

CHANGES = (
    ("plain", "plain", "full"),
    ("kernel", "auto", "full"),
    ("context", "auto", "save_context"),
    ("qkv_mlp", "auto", "save_qkv_mlp"),
)
ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, what of it is trained, and the batch."""

    name: str
    model: Any
    lora: Any
    rows: int
    length: int
    goal: float


def cases(tiny: bool) -> list[Case]:
    """The two cases, or the same kinds without size."""
    from rsvlm_jax.config import LlamaConfig, LoraConfig, ViTConfig, VLMConfig

    if tiny:
        vision = ViTConfig(image_size=28, width=16, layers=2, heads=2, mlp_dim=16)
        decoder = LlamaConfig(vocab_size=64, width=32, layers=2, heads=2, kv_heads=2, mlp_dim=48)
        model = VLMConfig(vision=vision, decoder=decoder, head=None, dtype="bfloat16")
        return [
            Case("lora", model, LoraConfig(rank=4, alpha=8.0), 2, 16, 0.5),
            Case("full", model, None, 2, 16, 0.4),
        ]
    qwen = LlamaConfig(
        family="qwen2", vocab_size=151936, width=896, layers=24, heads=14, kv_heads=2,
        mlp_dim=4864, max_length=32768, rope_theta=1e6, qkv_bias=True, tie_embeddings=True,
    )  # fmt: skip
    whole = VLMConfig(head=None, dtype="bfloat16")
    small = VLMConfig(decoder=qwen, head=None, dtype="bfloat16")
    return [
        Case("lora", whole, LoraConfig(rank=128, alpha=256.0), 8, 2048, 0.5),
        Case("full", small, None, 16, 2048, 0.4),
    ]


def figures(tiny: bool, *, goals: bool) -> Iterator[Figure]:
    """Steps of all cases under all changes; last of a case its best MFU beside the goal."""
    import jax

    for case in cases(tiny):
        best = 0.0
        for name, attention, remat in CHANGES:
            try:
                seconds, share = _step(case, attention, remat)
            except jax.errors.JaxRuntimeError as e:
                if "RESOURCE_EXHAUSTED" not in str(e):
                    raise
                print(f"train.{case.name}.{name}: out of memory", file=sys.stderr, flush=True)
                continue
            best = max(best, share)
            tokens = case.rows * case.length / seconds
            yield Figure(f"train.{case.name}.{name}.step", 1e3 * seconds, "ms")
            yield Figure(f"train.{case.name}.{name}.tokens", tokens, "tokens/s")
            yield Figure(f"train.{case.name}.{name}.mfu", share, "-")
        yield Figure(f"train.{case.name}.mfu", best, "-", at_least=case.goal if goals else None)


def _step(case: Case, attention: Any, remat: Any) -> tuple[float, float]:
    """Seconds of a step and its MFU."""
    import jax

    from rsvlm_jax.config import ConversationConfig, Experiment, OptimizerConfig, TrainConfig
    from rsvlm_jax.mesh import make_mesh
    from rsvlm_jax.run.profile import peak_of
    from rsvlm_jax.run.program import Place, program
    from rsvlm_jax.train import init_state, make_optimizer, make_train_step
    from rsvlm_jax.train.flops import step_flops

    experiment = Experiment(
        name=case.name,
        model=case.model,
        conversations=ConversationConfig(length=case.length),
        lora=case.lora,
        optimizer=OptimizerConfig(),
        train=TrainConfig(batch_size=case.rows, remat=remat, attention=attention),
    )
    made = program(
        case.model, image_token=1, lora=case.lora, remat=remat, attention=attention, segments=1
    )
    mesh = make_mesh(experiment.mesh)
    optimizer = make_optimizer(experiment.optimizer, 100, made.params)
    place = Place(mesh, experiment.mesh.plan)
    params, stats = made.init(0, place)
    params = made.adapt(params, 0, place)
    state = init_state(params, stats, optimizer, mesh, config=experiment.optimizer, donate=True)
    del params
    step = make_train_step(made.graphdef, experiment, optimizer, mesh, state)
    batch = _batch(case)
    flops = step_flops(made.graphdef, experiment, made.params, made.stats, batch)
    times = []
    for _ in range(ROUNDS + 2):  # the first compiles, the second is warm
        start = time.perf_counter()
        state, metrics = jax.block_until_ready(step(state, batch))
        times.append(time.perf_counter() - start)
    assert not float(metrics["skipped"])
    seconds = statistics.median(times[2:])
    peak, _ = peak_of(mesh.devices.flat[0])
    return seconds, flops.causal / seconds / peak


def _batch(case: Case) -> Any:
    """Prompts of an image and random text, the last third of which is supervised."""
    import numpy as np

    from rsvlm_jax.data.batch import Batch, Images

    rng = np.random.default_rng(0)
    b, length, side = case.rows, case.length, case.model.vision.image_size
    visual = min(case.model.frame_tokens, length // 2)
    tokens = rng.integers(2, case.model.decoder.vocab_size, (b, length)).astype(np.int32)
    tokens[:, 1 : 1 + visual] = 1
    slot = np.full((b, length), -1, np.int32)
    slot[:, 1 : 1 + visual] = np.arange(visual)
    weight = np.zeros((b, length), np.float32)
    weight[:, -(length // 3) :] = 1
    return Batch(
        obs={},
        tokens=tokens,
        segment=np.ones((b, length), np.int32),
        position=np.tile(np.arange(length, dtype=np.int32), (b, 1)),
        weight=weight,
        image_slot=slot,
        target=np.zeros((b, 0), np.float32),
        target_valid=np.zeros((b, 0), bool),
        sample=np.arange(b, dtype=np.int32),
        images=Images(
            rng.normal(size=(b, side, side, 3)).astype(np.float32),
            np.arange(b, dtype=np.int32)[:, None],
        ),
    )
