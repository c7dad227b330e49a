"""The feed-forward halves of transformer blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.mesh.constraints import constrain

from .linear import Linear

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"]


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x * sigmoid(1.702 x)`: OpenAI CLIP's approximation of GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": quick_gelu,
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
}
"""By name; "gelu" is the exact (erf) form, as in Hugging Face configs."""


class Mlp(nnx.Module):
    """`fc2(activation(fc1(x)))`.

    Args:
      d: width in, and out unless `d_out` is given.
      hidden: width between.
      length: what S is of activations; None: nothing that a mesh splits.
    """

    def __init__(
        self,
        d: int,
        hidden: int,
        activation: Activation = "gelu",
        *,
        d_out: int | None = None,
        length: str | None = "length",
        rngs: nnx.Rngs,
    ) -> None:
        self.fc1 = Linear(d, hidden, axes=("embed", "mlp"), rngs=rngs)
        d_out = d if d_out is None else d_out
        self.fc2 = Linear(hidden, d_out, axes=("mlp", "embed"), rngs=rngs)
        self.activation, self.length = activation, length

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S E"]:
        hidden = ACTIVATIONS[self.activation](checkpoint_name(self.fc1(x), "up"))
        return self.fc2(constrain(hidden, "batch", self.length, "mlp"))


class SwiGLU(nnx.Module):
    """`down(silu(gate(x)) * up(x))` (Shazeer 2020; Llama).

    Args:
      bias: of all three.
    """

    def __init__(self, d: int, hidden: int, *, bias: bool = False, rngs: nnx.Rngs) -> None:
        self.gate = Linear(d, hidden, bias=bias, axes=("embed", "mlp"), rngs=rngs)
        self.up = Linear(d, hidden, bias=bias, axes=("embed", "mlp"), rngs=rngs)
        self.down = Linear(hidden, d, bias=bias, axes=("mlp", "embed"), rngs=rngs)

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        gate, up = checkpoint_name(self.gate(x), "gate"), checkpoint_name(self.up(x), "up")
        hidden = jax.nn.silu(gate) * up
        return self.down(constrain(hidden, "batch", "length", "mlp"))
