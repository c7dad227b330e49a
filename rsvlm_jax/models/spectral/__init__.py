"""Spectral recombination: from the bands of any sensor to frames for an RGB encoder.

plan            make_plan: which band in which slot of which group; data, no arrays
recombine       recombine: Observation -> Frames, differentiable, masked
encoder_input   frame_stats, to_encoder, patch_valid: normalisation, stretch, resizing
front           SpectralFront: the three together, with the statistics of a band set
"""

from .encoder_input import FrameStats, frame_stats, patch_valid, to_encoder
from .front import SpectralFront
from .plan import Group, RecombinePlan, Slot, SlotRow, make_plan
from .recombine import Frames, recombine
from .windows import INDICES

__all__ = [
    "INDICES",
    "FrameStats",
    "Frames",
    "Group",
    "RecombinePlan",
    "Slot",
    "SlotRow",
    "SpectralFront",
    "frame_stats",
    "make_plan",
    "patch_valid",
    "recombine",
    "to_encoder",
]
