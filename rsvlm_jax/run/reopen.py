"""`open_talk(RUN) -> Pretrained`: a trained run of conversations, with its processor.

model = open_talk(RUN)                        as `rsvlm_jax.load(RUN)`
row = model.processor.encode(messages)        the prompt, as in training
model.generate(...)  model.logits(...)        see `rsvlm_jax.run.pretrained`
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from rsvlm_jax.config import CheckpointError, MeshConfig
from rsvlm_jax.core import flat, is_lora
from rsvlm_jax.data.chat import ChatProcessor
from rsvlm_jax.interop.huggingface import Report
from rsvlm_jax.mesh.build import make_mesh
from rsvlm_jax.train.checkpoint import Checkpoints
from rsvlm_jax.train.optimizer import trained_paths

from .pretrained import Dtype, Pretrained
from .restore import restore
from .rundir import RunDir, Which
from .talk import program_of_talk


def open_talk(
    path: str | os.PathLike[str],
    *,
    mesh: MeshConfig | None = None,
    dtype: Dtype | None = None,
    missing: str = "error",
    merge: bool = True,
    step: Which = None,
) -> Pretrained:
    """The newest verified checkpoint of a run of conversations. Args and errors as `load_run`."""
    run = RunDir(Path(path))
    experiment = run.experiment()
    if experiment.conversations is None:
        raise CheckpointError(
            "a run on cubes, not of conversations", where=run.path, remedy="load_run opens it"
        )
    processor = ChatProcessor.load(run.processor)
    if dtype is not None:
        model = dataclasses.replace(experiment.model, dtype=dtype)
        experiment = dataclasses.replace(experiment, model=model)
    if mesh is not None:
        experiment = dataclasses.replace(experiment, mesh=mesh)
    lora = experiment.lora
    program = program_of_talk(processor, experiment)
    paths = trained_paths(experiment.optimizer, program.params)
    with Checkpoints(run.checkpoints) as checkpoints:
        step = run.step_of(step) or checkpoints.newest()
        params, _ = restore(
            checkpoints, step, program, make_mesh(experiment.mesh), experiment, missing
        )
    if lora is not None and merge:
        params, lora = program.plain(params), None
        experiment = dataclasses.replace(experiment, lora=None, base="float")
        program = program_of_talk(processor, experiment)
    return Pretrained(
        path=run.path,
        architecture="LlavaForConditionalGeneration",
        config=experiment.model,
        report=Report(len(flat(params)), (), ()),
        graphdef=program.graphdef,
        params=params,
        dtype=experiment.model.dtype,
        image_token=processor.image_token,
        ends=processor.ends,
        lora=lora,
        whole=() if lora is None else tuple(sorted(p for p in paths if not is_lora(p))),
        saved=processor,
        step=step,
    )
