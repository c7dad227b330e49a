"""Numbers of a checkpoint for a program, placed on a mesh: what opening a run of any kind needs."""

from __future__ import annotations

import jax

from rsvlm_jax.config import Experiment
from rsvlm_jax.core import flat
from rsvlm_jax.mesh.rules import RULES, replicated, resolve
from rsvlm_jax.train.checkpoint import Checkpoints
from rsvlm_jax.train.state import Tree, overlay, pick

from .program import Place, Program


def restore(
    checkpoints: Checkpoints,
    step: int | None,
    program: Program,
    mesh: jax.sharding.Mesh,
    experiment: Experiment,
    missing: str,
) -> tuple[Tree, Tree]:
    """Parameters (their moving average where one was kept) and statistics, placed."""
    place = {
        "params": resolve(program.params, RULES[experiment.mesh.plan], mesh),
        "stats": jax.tree.map(lambda _: replicated(mesh), program.stats),
    }
    shapes = {"params": program.params, "stats": program.stats}
    wanted = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, place
    )
    saved = checkpoints.tree(step)
    base = None
    if missing == "init" and flat(wanted).keys() - saved.keys():
        seed = experiment.train.seed
        there = Place(mesh, experiment.mesh.plan)
        params, stats = program.init(seed, there)
        made = program.adapt(params, seed, there)
        base = jax.device_put({"params": made, "stats": stats}, place)
        wanted = pick(wanted, saved)
    averaged = {p.removeprefix("ema/") for p in saved if p.startswith("ema/")}
    if averaged:
        wanted["ema"] = pick(wanted["params"], averaged)
    found = checkpoints.restore_part(wanted, step)
    params = overlay(found["params"], found.pop("ema")) if averaged else found["params"]
    found["params"] = params
    if base is not None:
        found = overlay(base, found)
    return found["params"], found["stats"]
