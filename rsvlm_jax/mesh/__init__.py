"""Devices: the mesh, where parameters are stored, where activations live.

    build.py        make_mesh            data x fsdp x tensor, the only constructor of a mesh
    constraints.py  constrain            placement of activations, by axis name
    rules.py        RULES, resolve       placement of parameters, by path; strict
    hlo.py          collectives          what a compiled program moves between devices

Models import `constrain` and nothing else from here.
"""

from .build import AXES, make_mesh
from .constraints import ACTIVATIONS, constrain
from .hlo import Collective, collectives
from .rules import RULES, Rule, batch_sharding, replicated, resolve, state_shardings

__all__ = [
    "ACTIVATIONS",
    "AXES",
    "RULES",
    "Collective",
    "Rule",
    "batch_sharding",
    "collectives",
    "constrain",
    "make_mesh",
    "replicated",
    "resolve",
    "state_shardings",
]
