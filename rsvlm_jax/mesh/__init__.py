"""Devices: the mesh, where parameters are stored, where activations live.

    build.py        make_mesh            the only constructor of a mesh, and its axes
    constraints.py  constrain            placement of activations, by axis name
    tables.py       RULES                placement of parameters, by path, for every plan
    rules.py        resolve              ... strictly
    batch.py        check_batch          does a batch fit
    links.py        links_of             what the chips are connected by
    hlo.py          collectives          what a compiled program moves between devices
    hlo_work.py     works                what it does on one device

Models import `constrain` and nothing else from here.
"""

from .batch import batch_parts, check_batch
from .build import AXES, make_mesh
from .constraints import ACTIVATIONS, constrain
from .hlo import Collective, axes_of, collectives, moved
from .rules import batch_sharding, factor_sharding, replicated, resolve, state_shardings
from .tables import RULES, Rule

__all__ = [
    "ACTIVATIONS",
    "AXES",
    "RULES",
    "Collective",
    "Rule",
    "axes_of",
    "batch_parts",
    "batch_sharding",
    "check_batch",
    "collectives",
    "constrain",
    "factor_sharding",
    "make_mesh",
    "moved",
    "replicated",
    "resolve",
    "state_shardings",
]
