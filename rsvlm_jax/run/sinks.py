"""Metrics beside `metrics.jsonl`, which is always written: TensorBoard, Weights & Biases, trackio.

None of the three is a dependency; a run that names one which is not installed is refused before
anything is compiled. A resumed run goes on in the same record: its name is the run directory's, its
id a digest of that directory's place (trackio has it in the name). Steps that were lost between the
last checkpoint and a kill are logged again, with the same values.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rsvlm_jax.config import ConfigError, Experiment, to_dict
from rsvlm_jax.train.hooks import Hook

from .rundir import RunDir

Row = Mapping[str, float | None]

_MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}


class Sink(Hook):
    """One record of a run: rows of training, what was measured, scores of what is held out.

    Args:
      log: takes (step, {name: value}).
      end: called once.
    """

    def __init__(
        self, log: Callable[[int, dict[str, float]], None], end: Callable[[], Any]
    ) -> None:
        self._log, self._end = log, end

    def on_row(self, step: int, row: Row, times: Row) -> None:
        self._log(step, {**_numbers("train", row), **_numbers("time", times)})

    def on_score(self, step: int, row: Row, *, again: bool = False) -> None:
        if not again:
            self._log(step, _numbers("held_out", row))

    def close(self) -> None:
        self._end()


def _numbers(group: str, row: Row) -> dict[str, float]:
    return {f"{group}/{k}": v for k, v in row.items() if v is not None and k != "step"}


def check_sinks(names: Sequence[str]) -> None:
    """Refuse what is not installed.

    Raises:
      ConfigError: with the package that is missing.
    """
    for name in names:
        if importlib.util.find_spec(_MODULES[name]) is None:
            raise ConfigError(
                "a metrics sink that is not installed",
                where="TrainConfig.sinks",
                expected=f"the package {_MODULES[name]}",
                found=name,
                remedy=f"pip install {_MODULES[name]}, or leave it out: metrics.jsonl is written",
            )


def open_sink(name: str, run: RunDir, experiment: Experiment) -> Sink:
    """The record of a run, new or gone on with.

    Raises:
      ConfigError: as `check_sinks`.
    """
    check_sinks((name,))
    module = importlib.import_module(_MODULES[name])
    place = run.path.resolve()
    if name == "tensorboard":
        writer = module.SummaryWriter(logdir=str(run.path / "tensorboard"))

        def log(step: int, numbers: dict[str, float]) -> None:
            for key, value in numbers.items():
                writer.add_scalar(key, value, step)
            writer.flush()

        return Sink(log, writer.close)
    about = {"project": "rsvlm_jax", "name": place.name, "config": to_dict(experiment)}
    identity = hashlib.sha256(str(place).encode()).hexdigest()[:16]
    if name == "wandb":
        record = module.init(**about, id=identity, resume="allow", dir=str(run.path))
    else:
        # It knows a run by its name alone.
        record = module.init(**about | {"name": f"{place.name}-{identity[:8]}"}, resume="allow")
    return Sink(lambda step, numbers: record.log(numbers, step=step), record.finish)
