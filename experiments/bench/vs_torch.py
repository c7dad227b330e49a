"""Our models beside torch eager on this CPU: the same weights, the same work, side by side.

Two processes live through the whole run and take turns, one job at a time, so that a slow spell of
the machine hits both; the figure is the ratio of their medians, torch's time over ours (1: equal,
more: we are faster). float32, all cores for each; torch as `transformers` runs it by default
(eager mode, scaled-dot-product attention). Both have the same glibc heap settings.

    prefill      a 0.13 B Llama, 1 x 512 tokens to the logits of the last position
    llama_train  the same, 2 x 256 tokens: loss, gradients, AdamW
    decode       the same, greedy `generate`: 32 tokens of prompt, 64 of text, one row
    decode_8     eight rows
    decode_nano  the same with a Llama of the size of the shipped one (0.26 M), where dispatch rules
    vit_train    CLIP ViT-B/16 (0.09 B), 4 x 197 tokens: mean square of the states, gradients, AdamW

The first results of the two are compared before anything is timed.
"""

from __future__ import annotations

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

LLAMA = {"vocab_size": 32000, "width": 768, "layers": 12, "heads": 12, "kv_heads": 12}
LLAMA |= {"mlp_dim": 2048, "max_length": 1024}
NANO = {"vocab_size": 512, "width": 64, "layers": 5, "heads": 8, "kv_heads": 4}
NANO |= {"mlp_dim": 172, "max_length": 512}
NEW = 64
DECODE = {"decode": ("llama", 1), "decode_8": ("llama", 8), "decode_nano": ("nano", 1)}
VIT = {"image_size": 224, "patch_size": 16, "width": 768, "layers": 12, "heads": 12}
VIT |= {"mlp_dim": 3072}
ROUNDS = int(os.environ.get("RSVLM_BENCH_ROUNDS", "7"))
FLOORS: dict[str, float | None] = {"prefill": 0.75, "llama_train": 0.5, "vit_train": 0.5}
FLOORS |= {"decode": None, "decode_8": 1.2, "decode_nano": 5.0}
LEARNING_RATE, DECAY = 1e-4, 0.01

Job = Callable[[], float]


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        _write_models(Path(folder))
        workers = {kind: _Worker(kind, folder) for kind in ("torch", "jax")}
        for job, floor in FLOORS.items():
            first = {kind: worker.do(job)["value"] for kind, worker in workers.items()}
            off = abs(first["jax"] - first["torch"]) / abs(first["torch"])
            yield Figure(f"vs_torch.{job}.first_result", off, "relative", at_most=1e-4)
            times: dict[str, list[float]] = {kind: [] for kind in workers}
            for _ in range(ROUNDS):
                for kind, worker in workers.items():
                    times[kind].append(worker.do(job)["seconds"])
            middle = {kind: statistics.median(t) for kind, t in times.items()}
            for kind, seconds in middle.items():
                yield Figure(f"vs_torch.{job}.{kind}", seconds * 1e3, "ms")
            yield Figure(
                f"vs_torch.{job}.ratio", middle["torch"] / middle["jax"], "x", at_least=floor
            )
        for worker in workers.values():
            worker.stop()


class _Worker:
    def __init__(self, kind: str, folder: str) -> None:
        env = {**os.environ, "GLIBC_TUNABLES": HEAP, "JAX_PLATFORMS": "cpu"}
        env |= {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, kind, folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip

    def do(self, job: str) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(job + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError("a worker died")

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def _write_models(folder: Path) -> None:
    import jax
    from flax import nnx

    from rsvlm_jax.config import LlamaConfig, ViTConfig
    from rsvlm_jax.interop.families import FAMILIES
    from rsvlm_jax.interop.huggingface import save_pretrained

    for name, architecture, config in (
        ("llama", "LlamaForCausalLM", LlamaConfig(**LLAMA)),
        ("nano", "LlamaForCausalLM", LlamaConfig(**NANO)),
        ("vit", "CLIPVisionModel", ViTConfig(**VIT, pool=True, feature_layers=(-1,))),
    ):
        build = FAMILIES[architecture].build
        state = jax.jit(lambda b=build, c=config: nnx.state(b(c, nnx.Rngs(0)), nnx.Param))()
        save_pretrained(folder / name, architecture, config, nnx.to_pure_dict(state))


def _inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    size = VIT["image_size"]
    return (
        rng.integers(3, LLAMA["vocab_size"], (1, 512)),
        rng.integers(3, LLAMA["vocab_size"], (2, 256)),
        rng.standard_normal((4, 3, size, size)).astype(np.float32),
    )


def _prompt(name: str, rows: int) -> np.ndarray:
    vocabulary = (LLAMA if name == "llama" else NANO)["vocab_size"]
    return np.random.default_rng(rows).integers(3, vocabulary, (rows, 32))


def _mark(tokens: np.ndarray) -> float:
    """A number that differs where two texts do."""
    return float((tokens.astype(np.float64) * np.arange(1, 1 + tokens.shape[1])).sum())


def _jax_jobs(folder: Path) -> dict[str, Job]:
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from rsvlm_jax.interop.huggingface import load_pretrained
    from rsvlm_jax.nn import causal_segment_mask
    from rsvlm_jax.run.open_pretrained import open_pretrained
    from rsvlm_jax.train.losses import mean, text_loss

    def hidden_of(model: Any, tokens: Any) -> Any:
        position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        mask = causal_segment_mask(jnp.ones_like(tokens), position)
        return model(model.embed(tokens), mask, position)

    prompt, text, pixels = _inputs()
    prompt, text = jnp.asarray(prompt, jnp.int32), jnp.asarray(text, jnp.int32)
    images = jnp.asarray(pixels.transpose(0, 2, 3, 1))

    def text_mean(model: Any) -> Any:
        weight = jnp.ones(text.shape, jnp.float32).at[:, 0].set(0.0)
        return mean(*text_loss(model, hidden_of(model, text), text, weight))

    def trainer(name: str, loss: Callable[[Any], Any]) -> Job:
        loaded = load_pretrained(folder / name)
        graphdef = loaded.graphdef
        tx = optax.adamw(LEARNING_RATE, weight_decay=DECAY)
        state = [loaded.params, jax.jit(tx.init)(loaded.params)]

        @jax.jit
        def step(params: Any, opt: Any) -> Any:
            value, grads = jax.value_and_grad(lambda p: loss(nnx.merge(graphdef, p)))(params)
            updates, opt = tx.update(grads, opt, params)
            return optax.apply_updates(params, updates), opt, value

        donated = jax.jit(step, donate_argnums=(0, 1))

        def job() -> float:
            state[0], state[1], value = donated(*state)
            return float(value)

        return job

    llama = load_pretrained(folder / "llama")

    def decoder(name: str, rows: int) -> Job:
        loaded = open_pretrained(folder / name)
        ids = _prompt(name, rows)

        def job() -> float:
            made = loaded.generate(ids, max_new_tokens=NEW, ends=())
            return _mark(np.asarray(made.tokens))

        return job

    @jax.jit
    def prefill(params: Any) -> Any:
        model = nnx.merge(llama.graphdef, params)
        return model.logits(hidden_of(model, prompt)[:, -1:])

    return {
        "prefill": lambda: float(np.abs(np.asarray(prefill(llama.params))).mean()),
        "llama_train": trainer("llama", text_mean),
        "vit_train": trainer("vit", lambda model: jnp.square(model(images)).mean()),
        **{job: decoder(*of) for job, of in DECODE.items()},
    }


def _torch_jobs(folder: Path) -> dict[str, Job]:
    import torch
    import transformers

    prompt, text, pixels = (torch.from_numpy(x) for x in _inputs())
    classes = {"llama": transformers.LlamaForCausalLM, "vit": transformers.CLIPVisionModel}

    def trainer(name: str, loss: Callable[[Any], Any]) -> Job:
        model = classes[name].from_pretrained(folder / name)
        model.train()
        tx = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=DECAY)

        def job() -> float:
            tx.zero_grad(set_to_none=True)
            value = loss(model)
            value.backward()
            tx.step()
            return float(value.detach())

        return job

    llama = classes["llama"].from_pretrained(folder / "llama").eval()

    def prefill() -> float:
        with torch.no_grad():
            made = llama(input_ids=prompt, use_cache=False, logits_to_keep=1)
        return float(made.logits.abs().mean())

    def decoder(name: str, rows: int) -> Job:
        model = transformers.LlamaForCausalLM.from_pretrained(folder / name).eval()
        ids = torch.from_numpy(_prompt(name, rows))

        def job() -> float:
            with torch.no_grad():
                made = model.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW,
                    min_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0,
                )  # fmt: skip
            return _mark(made[:, ids.shape[1] :].numpy())

        return job

    def states(model: Any) -> Any:
        made = model(pixel_values=pixels, output_hidden_states=True)
        return made.hidden_states[-1].square().mean()

    return {
        "prefill": prefill,
        "llama_train": trainer("llama", lambda m: m(input_ids=text, labels=text).loss),
        "vit_train": trainer("vit", states),
        **{job: decoder(*of) for job, of in DECODE.items()},
    }


def _serve(kind: str, folder: Path) -> None:
    jobs = _jax_jobs(folder) if kind == "jax" else _torch_jobs(folder)
    for line in sys.stdin:
        start = time.perf_counter()
        value = jobs[line.strip()]()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "value": value}), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], Path(sys.argv[2]))
