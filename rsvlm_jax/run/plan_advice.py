"""What needs less memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsvlm_jax.config import Experiment
from rsvlm_jax.config.training import Remat
from rsvlm_jax.mesh.topology import Topology

REMATS: tuple[Remat, ...] = ("none", "save_qkv_mlp", "save_context", "full")
"""`TrainConfig.remat`, each with less memory than the one before."""


def remedies(experiment: Experiment, raw: Mapping[str, Any], where: Topology) -> list[str]:
    """Options that need less memory, those that help most first.

    Args:
      raw: of `compiled_apart`.
    """
    train, found = experiment.train, []
    if "cache_bytes" in raw:
        return _of_serving(raw)
    arguments = raw.get("argument_bytes", raw["plain_bytes"])
    if where.hbm is not None and arguments > where.hbm / 2:
        if experiment.lora is not None:
            found.append("--base int8 or nf4 for the frozen kernels")
        elif experiment.mesh.plan == "replicated":
            found.append("--mesh.plan fsdp")
        found.append("more chips over fsdp")
    later = REMATS[REMATS.index(train.remat) + 1 :] if train.remat in REMATS else ()
    if later:
        found.append(f"--train.remat {later[0]}" + (f" (or {later[-1]})" if later[1:] else ""))
    parts = 1
    for name in ("slice", "data", "fsdp"):
        parts *= raw["mesh"].get(name, 1)
    each = train.batch_size // (parts * train.micro_batches)
    if each > 1:
        found.append(f"--train.micro-batches {train.micro_batches * each}")
    elif not later:
        found.append("a shorter length, or context over more chips")
    return found


def _of_serving(raw: Mapping[str, Any]) -> list[str]:
    """Of generation: what is largest first."""
    texts = ["fewer --rows", "a shorter --prompt or --new"]
    weights = ["--mesh.tensor -1 over more chips"]
    return texts + weights if raw["cache_bytes"] > raw["parameter_bytes"] else weights + texts
