"""Which kernel computes an attention: a rule of platform, dtype, shapes and mask, with its reason.

    plain     scores written down; short sequences, and tables that no segments can tell
    chunked   plain JAX, block by block; wherever there is nothing better
    cudnn     NVIDIA, sm_80 on; float16 and bfloat16
    splash    TPU

Asked for "auto" the rule takes `plain` for little, else the platform's own kernel where that can
compute it, else `chunked`. Asked for a kernel by name it gives that one or says why not. It is
applied while a program is traced, for the devices of the mesh in force, so that a program for a pod
can be made on another machine.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rsvlm_jax.config import ConfigError
from rsvlm_jax.config.training import AttentionKernel
from rsvlm_jax.nn.masks import Mask

from .cudnn import MOST_SEGMENTS

SHORT = 256
"""Lq and Lk up to which plain products are as fast on a CPU (`experiments.bench.attention`)."""

LANES = 128
"""The least that a kernel of a GPU or TPU works on at a time."""


class Target(NamedTuple):
    """What a program is for: "cpu", "gpu" or "tpu", and the compute capability of a GPU."""

    platform: str
    capability: tuple[int, int] = (0, 0)


class Choice(NamedTuple):
    """A kernel, never "auto", and why it is this one."""

    kernel: AttentionKernel
    reason: str


class Sizes(NamedTuple):
    """Of one attention; `context` is into how many parts the mesh in force splits the queries."""

    queries: int
    keys: int
    head: int
    dtype: DTypeLike
    context: int = 1


def target() -> Target:
    """The devices of the mesh in force, or else JAX's default ones."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    platform = jax.default_backend() if device is None else device.platform
    if platform != "gpu" or jax.default_backend() != "gpu":
        return Target(platform)
    found = str(getattr(jax.devices()[0], "compute_capability", "")).split(".")
    if not all(word.isdigit() for word in found):  # AMD's are names
        return Target(platform)
    return Target(platform, (int(found[0]), int(found[-1])))


def choose(sizes: Sizes, mask: Mask | None, on: Target, asked: AttentionKernel = "auto") -> Choice:
    """The kernel of an attention.

    Args:
      mask: None stands for a table.

    Raises:
      ConfigError: the kernel that is asked for cannot compute it.
    """
    if asked != "auto":
        why = _obstacle(asked, sizes, mask, on)
        if why is None:
            return Choice(asked, "asked for")
        raise ConfigError(
            "a kernel that cannot compute this attention", where="attention",
            expected=f"what {asked!r} takes", found=why, remedy='take "auto"',
        )  # fmt: skip
    if mask is None:
        return Choice("plain", "the mask is a table of queries x keys")
    own: AttentionKernel | None = {"gpu": "cudnn", "tpu": "splash"}.get(on.platform)  # type: ignore
    least = LANES if own else SHORT + 1
    if min(sizes.queries, sizes.keys) < LANES or max(sizes.queries, sizes.keys) < least:
        return Choice("plain", f"{sizes.queries} queries x {sizes.keys} keys are few")
    if own is None:
        return Choice("chunked", f"{on.platform} has no kernel of its own")
    why = _obstacle(own, sizes, mask, on)
    return Choice(own, f"the kernel of a {on.platform}") if why is None else Choice("chunked", why)


def _obstacle(kernel: AttentionKernel, sizes: Sizes, mask: Mask | None, on: Target) -> str | None:
    """Why a kernel cannot; None: it can."""
    if kernel == "plain":
        return None
    if mask is None:
        return 'a table of queries x keys, which only "plain" takes'
    if kernel == "cudnn":
        return _cudnn_obstacle(sizes, mask, on)
    if kernel == "splash" and on.platform != "tpu":
        return f"splash is for TPUs, not {on.platform}"
    return None


def _cudnn_obstacle(sizes: Sizes, mask: Mask, on: Target) -> str | None:
    hopper = on.capability >= (9, 0)
    widest = 256 if hopper else 128
    packed = mask.query is not None and mask.segments != 1
    most = mask.segments
    if on.platform != "gpu":
        return f"cuDNN is for NVIDIA GPUs, not {on.platform}"
    if on.capability < (8, 0):
        return "cuDNN's attention needs compute capability 8.0, found {}.{}".format(*on.capability)
    if jnp.dtype(sizes.dtype) not in (jnp.float16, jnp.bfloat16):
        return f"cuDNN takes float16 and bfloat16, not {jnp.dtype(sizes.dtype)}"
    if sizes.head % 8 or sizes.head > widest:
        return f"cuDNN takes heads of a multiple of 8 up to {widest} wide, not {sizes.head}"
    if sizes.context > 1:
        return "cuDNN has no causal mask of a part of the queries"
    if mask.key is not None:
        return "cuDNN would need a bias for tokens that read and are not read"
    if not packed:
        return None
    if most is None:
        return "nothing says how many segments a packed row has at most"
    if most > MOST_SEGMENTS:
        return f"up to {most} segments in a row, of which cuDNN is given {MOST_SEGMENTS} at most"
    if not hopper:
        return "cuDNN's packed layout needs compute capability 9.0"
    return None if mask.window is None else "cuDNN is given no window in packed rows"
