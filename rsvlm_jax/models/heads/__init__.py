"""Heads: from an `Encoded` to a prediction in target units.

predictive   Predictive (what every head returns), Gaussian
mixer        MixerHead: the four-layer MLP-mixer over visual and knowledge tokens
"""

from .mixer import MixerHead
from .predictive import Gaussian, Predictive

__all__ = ["Gaussian", "MixerHead", "Predictive"]
