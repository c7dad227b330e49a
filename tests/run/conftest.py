"""A small experiment on the shipped cube, and one finished run of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rsvlm_jax.cli.options import load_experiment
from rsvlm_jax.config import Experiment, TrainConfig
from rsvlm_jax.run.fit import fit


@pytest.fixture(scope="session")
def experiment() -> Experiment:
    """Both fronts, questions, six steps of four."""
    base = load_experiment("forkme")
    train = TrainConfig(steps=6, batch_size=4, save_every=2, log_every=1)
    model = dataclasses.replace(
        base.model,
        decoder=dataclasses.replace(base.model.decoder, layers=5),
        inputs=tuple(
            dataclasses.replace(i, dates=2 if i.front == "rgb" else None) for i in base.model.inputs
        ),
    )
    return dataclasses.replace(base, train=train, model=model)


@pytest.fixture(scope="session")
def finished(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: tests that change a run copy it."""
    return fit(experiment, out=tmp_path_factory.mktemp("runs") / "finished").path
