"""Kinds of variables beside `nnx.Param`."""

from __future__ import annotations

from flax import nnx


class Stat(nnx.Variable):
    """A statistic of the training split: saved with the model, never trained.

    Band means, target means and bounds are of this kind, so that they travel with the checkpoint
    and the optimiser, which is given `nnx.Param` only, does not see them.
    """
