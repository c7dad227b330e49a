"""Whether a run's state fits on its devices, by arithmetic alone, before anything is allocated.

    check_memory(experiment, program, mesh)      what `fit` asks first

Parameters, moments, averages and gradients by their shapes and their placement, against what the
device says it has. Activations are not in it (`rsvlm plan` compiles them), so that what is refused
here cannot run, and what is not may still run out. A device that does not tell its memory, as a
CPU, is not asked.
"""

from __future__ import annotations

import math
from typing import Any

from jax.sharding import Mesh

from rsvlm_jax.config import ConfigError, Experiment
from rsvlm_jax.core import flat
from rsvlm_jax.train.optimizer import trained_paths

from .abstract import abstract_state, device_bytes
from .program import Program


def memory_of(device: Any) -> int | None:
    """Bytes that a program may use on a device; None: it does not say."""
    try:
        stats = device.memory_stats()
    except Exception:  # a runtime without the call, each with an error of its own
        return None
    return (stats or {}).get("bytes_limit") or None


def check_memory(
    experiment: Experiment, program: Program, mesh: Mesh, *, limit: int | None = None
) -> int | None:
    """Refuse a state that is larger than a device.

    Args:
      limit: bytes of a device; None: as the first one of this process says.

    Returns:
      bytes of state and gradients on a device; None where nothing says how much there may be.

    Raises:
      ConfigError: it does not fit.
    """
    if limit is None:
        limit = memory_of(mesh.local_mesh.devices.flat[0])
    if limit is None:
        return None
    state = abstract_state(experiment, program, mesh)
    # The step waits for the norm of all gradients before it takes any of them.
    params = flat(state.params)
    trained = {p: params[p] for p in trained_paths(experiment.optimizer, program.params)}
    gradients = 4 * sum(math.prod(x.sharding.shard_shape(x.shape)) for x in trained.values())
    needed = device_bytes(state) + gradients
    if needed > limit:
        sizes = {path: device_bytes({path: x}) for path, x in flat(state).items()}
        sizes["gradients"] = gradients
        largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
        raise ConfigError(
            "the state does not fit on a device",
            where="Experiment.mesh",
            expected=f"at most {limit} bytes",
            found=f"{needed}, {needed - limit} bytes over, before any activation; the largest: "
            + ", ".join(f"{path} {sizes[path]}" for path in largest),
            remedy="more devices over fsdp, or a quantised base with LoRA; `rsvlm plan` says more",
        )
    return needed
