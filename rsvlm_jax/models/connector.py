"""From the vision encoder's width to the language model's, token by token.

    [B,N,Dv] -> [B,N,D]        linear:      one layer
                               mlpNx_gelu:  N layers with an activation between (LLaVA-1.5: N = 2)

Not here: anything that changes the number of tokens. That is the work of resamplers and fusion,
which stand before the connector; `token_count` says what comes out of them.
"""

from __future__ import annotations

from flax import nnx

from rsvlm_jax.config import ConfigError, ConnectorConfig, VLMConfig
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import Linear
from rsvlm_jax.nn.mlp import ACTIVATIONS


class Connector(nnx.Module):
    """LLaVA's projector. Paths: `fc1`, `fc2` ... `fcN`.

    Args:
      d_in, d_out: Dv and D.
    """

    def __init__(self, config: ConnectorConfig, d_in: int, d_out: int, *, rngs: nnx.Rngs) -> None:
        self.config = config
        for i, d in enumerate([d_in, *[d_out] * (config.layers - 1)], start=1):
            # Column-row pairs, as `rsvlm_jax.mesh.tables` stores the kernels; the last is whole.
            axes = (self._between(i - 1), self._between(i))
            setattr(self, f"fc{i}", Linear(d, d_out, bias=config.bias, axes=axes, rngs=rngs))

    def __call__(self, x: Float[Array, "B N Dv"]) -> Float[Array, "B N D"]:
        n = self.config.layers
        for i in range(1, n + 1):
            x = getattr(self, f"fc{i}")(x)
            x = constrain(x, "batch", "length", self._between(i))
            if i < n:
                x = ACTIVATIONS[self.config.activation](x)
        return x

    def _between(self, i: int) -> str:
        """What the width after layer i is of activations."""
        return "mlp" if i % 2 and i < self.config.layers else "embed"


def token_count(config: VLMConfig, frames: int = 0, points: int = 0) -> int:
    """N, the visual tokens of a sample.

    Args:
      config: with a temporal budget, the budget is the answer; without, a selection keeps few.
      frames: dates times spectral groups over all inputs of the "rgb" front.
      points: dates over all inputs of the "pixel" front.

    Raises:
      ConfigError: no budget and no tokens.
    """
    if config.temporal.budget is not None:
        return config.temporal.budget
    count = frames * config.frame_tokens + points
    if config.selection is not None:
        count = min(count, config.selection.keep)
    if count <= 0:
        raise ConfigError(
            "no visual tokens",
            where="token_count",
            expected="frames or points > 0 where TemporalConfig.budget is None",
            found=f"{frames} frames, {points} points",
        )
    return count
