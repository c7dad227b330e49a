"""`load(path)`: a run directory, or a directory of Hugging Face, LLaVA or GeoChat.

RUN        config.json of an Experiment, processor/, checkpoints/  ->  Loaded (`.trained`)
           the same of conversations                               ->  Pretrained (`.reopen`)
DIRECTORY  config.json of `transformers`, safetensors              ->  Pretrained
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from rsvlm_jax.config import DECODER_LINEARS, CheckpointError, ConfigError, MeshConfig
from rsvlm_jax.config.check import one_of

from .directory import is_pretrained
from .open_pretrained import open_pretrained
from .pretrained import Pretrained
from .reopen import open_talk
from .rundir import RunDir, Which
from .trained import Loaded, load_run


def load(
    path: str | os.PathLike[str],
    *,
    mesh: MeshConfig | None = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    missing: Literal["error", "init"] = "error",
    vision: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    projector: str | os.PathLike[str] | None = None,
    merge: bool = True,
    step: Which = None,
    quantize: Literal["int8", "nf4"] | None = None,
    quantize_targets: str = DECODER_LINEARS,
    allow_pickle: bool = False,
) -> Loaded | Pretrained:
    """A model with its numbers.

    Args:
      path: a run directory (its newest verified checkpoint), or one of Hugging Face or LLaVA.
      mesh: devices to place it on; None: those of the training run, or the first device.
      dtype: compute type; None: that of the training run, or float32. The parameters of a run stay
        float32, those of another directory are stored in it too.
      missing: "init" initialises parts that the checkpoint lacks; "error" refuses.
      vision: directory of the tower that a LLaVA in its original layout does not hold.
      adapter: directory of a PEFT adapter. One that LLaVA's own code wrote, with its config.json
        and its projector (`non_lora_trainables`), makes a LLaVA of the plain language model in
        `path` and the tower in `vision`.
      projector: file of one that was trained over a plain language model (LLaVA's first stage),
        with LLaVA's config.json beside it.
      merge: the adapter into the kernels, whose paths stay as they are. False: `.params` then holds
        the kernels of the base and the factors of the adapter, float32, beside each that it takes
        (`.../q/kernel`, `.../q/kernel_lora_a`, `.../q/kernel_lora_b`), placed as their kernel is;
        `.lora` says which and how, and `.save_adapter(FOLDER)` writes them. The same holds of a
        run with LoRA, whose factors `rsvlm convert RUN DST --to peft` writes.
      step: of a run: a checkpoint by its step, or "best", that of the lowest held-out loss.
      quantize: weights become "int8" or "nf4" as they are read, layer by layer, so that the float
        model is never in memory (`rsvlm_jax.nn.quantize`). An adapter then stays beside them:
        `merge=False`.
      quantize_targets: which, by their paths; those of the language model's layers unless given.
        `rsvlm_jax.config.DECODER_WEIGHTS` takes its head and its table of tokens too (int8).
      allow_pickle: read `.bin` files, through torch's weights-only loader.

    Raises:
      CheckpointError: nothing of the kind, or one that does not fit; names both sides.
      ConfigError: an option that is none, or not of this kind of directory.
    """
    one_of(missing, ("error", "init"), "load(missing)")
    if not Path(path).exists():
        raise CheckpointError(
            "no such directory", where=path,
            expected="a run directory, or a directory of Hugging Face or LLaVA on this machine",
            remedy="nothing is downloaded: fetch it first",
        )  # fmt: skip
    if is_pretrained(Path(path)):
        if step is not None:
            raise ConfigError("only for runs", where="load(step)", expected=None, found=step)
        return open_pretrained(
            path,
            mesh=mesh,
            dtype=dtype,
            missing=missing,
            vision=vision,
            adapter=adapter,
            projector=projector,
            merge=merge,
            quantize=quantize,
            quantize_targets=quantize_targets,
            allow_pickle=allow_pickle,
        )
    for name, given in (
        ("vision", vision),
        ("adapter", adapter),
        ("projector", projector),
        ("quantize", quantize),
    ):
        if given is not None:
            raise ConfigError(
                "only for pretrained models", where=f"load({name})", expected=None, found=given
            )
    if RunDir(Path(path)).experiment().conversations is not None:
        return open_talk(path, mesh=mesh, dtype=dtype, missing=missing, merge=merge, step=step)
    return load_run(path, mesh=mesh, dtype=dtype, missing=missing, merge=merge, step=step)
