"""Heads: from an `Encoded` to a prediction in target units.

    make_head(HeadConfig, ...) -> Head;  head(encoded) -> Predictive

head         Head: which tokens are read, the last layer, statistics of the target
mixer        MixerHead: the four-layer MLP-mixer over visual and knowledge tokens
pooled       LinearHead, MlpHead: of the mean token; XvalHead: of the knowledge alone
experts      ExpertsHead: a mixture gated by target and value range
dense        PixelTrunk: features of every pixel of a window, for a map in place of one answer
outputs      from the last layer's numbers to a distribution
predictive   Predictive (what every head returns), Standardised (what every output shares)
locscale     Gaussian, Laplace
piecewise    Quantiles, Histogram (HL-Gauss), Ordinal
support      bins and shares of the training targets

What each output learns by: `LossConfig.huber` pulls its `point` at the standardised target, by
default of the first two only; `LossConfig.scale` weighs its proper score::

    gaussian    log scale + (z - loc)^2 / (2 scale^2), loc detached      point: loc
    laplace     log scale + |z - loc| / scale, loc detached              point: loc
    quantiles   twice the mean pinball loss                              point: the median
    histogram   cross-entropy to a normal distribution over the bins     point: the mean
    ordinal     mean cross-entropy of the edges, and |offset| misses     point: the mean
"""

from __future__ import annotations

from flax import nnx

from rsvlm_jax.config import HeadConfig
from rsvlm_jax.config.training import Remat

from .experts import ExpertsHead
from .head import Head
from .locscale import Gaussian, Laplace
from .mixer import MixerHead
from .piecewise import Histogram, Ordinal, Quantiles
from .pooled import LinearHead, MlpHead, XvalHead
from .predictive import Predictive, Standardised

KINDS: dict[str, type[Head]] = {
    "mixer": MixerHead,
    "mlp": MlpHead,
    "linear": LinearHead,
    "experts": ExpertsHead,
    "xval": XvalHead,
}
"""By `HeadConfig.kind`."""


def make_head(
    config: HeadConfig,
    visual_tokens: int,
    width: int,
    d_language: int | None,
    planes: int | None = None,
    *,
    remat: Remat = "none",
    rngs: nnx.Rngs,
) -> Head:
    """The head of `config.kind` and `config.output`; arguments as of `Head`."""
    made = KINDS[config.kind]
    return made(config, visual_tokens, width, d_language, planes, remat=remat, rngs=rngs)


__all__ = [
    "KINDS",
    "ExpertsHead",
    "Gaussian",
    "Head",
    "Histogram",
    "Laplace",
    "LinearHead",
    "MixerHead",
    "MlpHead",
    "Ordinal",
    "Predictive",
    "Quantiles",
    "Standardised",
    "XvalHead",
    "make_head",
]
