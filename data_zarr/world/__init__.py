"""A synthetic landscape whose biomass law is known, seen through realistic sensors.

It exists to answer one question that real data cannot: how close does a model come to what *can*
be known from these pixels? Every observation saturates, is confounded by something else, or is
hidden by cloud on most dates, so that single dates and RGB alone fail and fusion pays. It is not a
radiative-transfer simulator: each effect is one formula, chosen for its shape and stated.

    presets.py    sizes and dates                     Preset, PRESETS, timeline()
    fields.py     smooth random fields, named streams of random numbers
    scene.py      terrain, hidden state, the biomass law      scene() -> Scene
    phenology.py  what the day of year does to leaves, grass, soil water and the sun
    optics.py     state + date -> reflectance of any band, by wavelength
    radar.py      state + date -> backscatter; speckle
    clouds.py     clouds, shadows, haze, and the imperfect mask
    acquire.py    state -> the pixels of one acquisition, with all that goes wrong
    writer.py     make_world(): the cube
    oracle.py     oracle(): inverts the physics from the cube's own noisy pixels

    Scene (state u [K,H,W]) --optics/radar + noise--> cube --oracle--> agb [H,W] ~ Scene.agb
"""

from data_zarr.world.oracle import oracle
from data_zarr.world.presets import PRESETS, Preset, timeline
from data_zarr.world.scene import Scene, scene
from data_zarr.world.writer import make_world

__all__ = ["PRESETS", "Preset", "Scene", "make_world", "oracle", "scene", "timeline"]
