"""From the vision encoder's width to the language model's, token by token.

    [B,N,Dv] -> [B,N,D]        linear:      one layer
                               mlp2x_gelu:  linear, exact GELU, linear (LLaVA-1.5)

Not here: anything that changes the number of tokens. That is fusion's work (`temporal`), which
stands before the connector; `token_count` says what comes out of it.
"""

from __future__ import annotations

import jax
from flax import nnx

from rsvlm_jax.config import ConfigError, ConnectorConfig, VLMConfig
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import Linear


class Connector(nnx.Module):
    """LLaVA's projector. Paths: `fc1`, and `fc2` where there are two layers.

    Args:
      d_in, d_out: Dv and D.
    """

    def __init__(self, config: ConnectorConfig, d_in: int, d_out: int, *, rngs: nnx.Rngs) -> None:
        self.fc1 = Linear(d_in, d_out, rngs=rngs)
        self.fc2 = Linear(d_out, d_out, rngs=rngs) if config.kind == "mlp2x_gelu" else None

    def __call__(self, x: Float[Array, "B N Dv"]) -> Float[Array, "B N D"]:
        y = self.fc1(x)
        if self.fc2 is not None:
            y = constrain(jax.nn.gelu(y, approximate=False), "batch", "length", "mlp")
            y = self.fc2(y)
        return constrain(y, "batch", "length", "embed")


def token_count(config: VLMConfig, frames: int = 0, points: int = 0) -> int:
    """N, the visual tokens of a sample.

    Args:
      config: with a temporal budget, the budget is the answer.
      frames: dates times spectral groups over all inputs of the "rgb" front.
      points: dates over all inputs of the "pixel" front.

    Raises:
      ConfigError: no budget and no tokens.
    """
    if config.temporal.budget is not None:
        return config.temporal.budget
    count = frames * config.frame_tokens + points
    if count <= 0:
        raise ConfigError(
            "no visual tokens",
            where="token_count",
            expected="frames or points > 0 where TemporalConfig.budget is None",
            found=f"{frames} frames, {points} points",
        )
    return count
