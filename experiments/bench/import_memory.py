"""Memory and time of reading a checkpoint into sharded arrays, and of writing it back.

A synthetic Llama of 1.5 GB in three files is read onto eight simulated devices (4 fsdp x 2 tensor).
What counts is anonymous memory (RssAnon): the files are mapped, and the kernel takes their pages
back when it needs them. `peak` is the growth while reading over the bytes of the arrays, `save` the
growth beyond the arrays while writing. Where torch is installed its `from_pretrained` of the same
directory stands beside; both find the files in the page cache.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .figure import Figure

SAMPLER = """
import json, sys, threading, time
from pathlib import Path

def anonymous():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

class Peak(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.base = self.peak = anonymous()
        self.running = True
        self.started = time.perf_counter()
        self.start()

    def run(self):
        while self.running:
            self.peak = max(self.peak, anonymous())
            time.sleep(0.001)

    def stop(self):
        self.running = False
        self.join()
        return self.peak - self.base, time.perf_counter() - self.started
"""

WRITE = """
import json, sys
from pathlib import Path
import numpy as np
from flax import nnx
from rsvlm_jax.config import LlamaConfig
from rsvlm_jax.core import flat
from rsvlm_jax.interop import rows
from rsvlm_jax.interop.families import FAMILIES
from rsvlm_jax.interop.files import write_checkpoint

family = FAMILIES["LlamaForCausalLM"]
config = LlamaConfig(
    vocab_size=8192, width=2048, layers=5, heads=16, kv_heads=16, mlp_dim=8192, max_length=2048
)
state = nnx.state(nnx.eval_shape(lambda: family.build(config, nnx.Rngs(0))), nnx.Param)
ours = {path: x.shape for path, x in flat(nnx.to_pure_dict(state)).items()}
shapes = rows.written_shapes(family.table(config), ours)
rng = np.random.default_rng(0)
arrays = ((name, rng.random(shape, np.float32)) for name, shape in shapes.items())
folder = Path(sys.argv[1])
write_checkpoint(folder, shapes, arrays, "float32", shard_bytes=600_000_000)
raw = {**family.write_config(config), "architectures": [family.architecture]}
(folder / "config.json").write_text(json.dumps({**raw, "model_type": "llama"}))
"""

READ = """
import jax
from rsvlm_jax.config import MeshConfig
from rsvlm_jax.interop.huggingface import load_pretrained, save_pretrained
from rsvlm_jax.mesh.build import make_mesh
from rsvlm_jax.mesh.rules import RULES, resolve

def place(params):
    return resolve({"decoder": params}, RULES["fsdp_tensor"], mesh)["decoder"]

mesh = make_mesh(MeshConfig(1, 4, 2))
jax.block_until_ready(jax.numpy.zeros(8))
reading = Peak()
made = load_pretrained(sys.argv[1], place=place)
peak, seconds = reading.stop()
size = sum(x.nbytes for x in jax.tree.leaves(made.params))
writing = Peak()
save_pretrained(sys.argv[2], "LlamaForCausalLM", made.config, made.params)
more, _ = writing.stop()
print(json.dumps({"bytes": size, "peak": peak, "seconds": seconds, "save": more}))
"""

TORCH = """
import torch
from transformers import LlamaForCausalLM

reading = Peak()
model = LlamaForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
total = sum(float(p.detach().view(-1)[::1024].sum()) for p in model.parameters())
peak, seconds = reading.stop()
print(json.dumps({"peak": peak, "seconds": seconds, "total": total}))
"""


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        source, copy = Path(folder) / "source", Path(folder) / "copy"
        run(WRITE, source)
        ours = run(SAMPLER + READ, source, copy)
        torch = None
        if importlib.util.find_spec("torch") is not None:
            torch = run(SAMPLER + TORCH, source)
    size = ours["bytes"]
    yield Figure("import_memory.arrays", size / 1e9, "GB")
    yield Figure("import_memory.peak", ours["peak"] / size, "of_arrays", at_most=1.3)
    yield Figure("import_memory.save", ours["save"] / size, "of_arrays", at_most=0.3)
    yield Figure("import_memory.seconds", ours["seconds"], "s")
    if torch is not None:
        yield Figure("import_memory.torch_peak", torch["peak"] / size, "of_arrays")
        yield Figure("import_memory.torch_seconds", torch["seconds"], "s")


def run(program: str, *words: str | Path) -> dict:
    """The last line that a program prints, as JSON; `words` are its arguments."""
    env = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        env=env, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines else {}
