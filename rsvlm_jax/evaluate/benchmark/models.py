"""Which rows a benchmark may have, by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.sampling import target_means
from data_zarr.world import oracle
from rsvlm_jax.config import ConfigError, DataError, Experiment

from .cells import Cell, Guess, Model
from .experiments import VIT, experiment_model, variant
from .features import Table
from .learn import ABOUT as NETWORKS
from .learn import network_model
from .tabular import ROWS, tabular_model
from .task import Task

OURS = {
    "rsvlm": "the whole model, all inputs",
    "rsvlm_rgb": "the whole model, red, green and blue alone",
    "rsvlm_optical": "the whole model, all optical bands",
    "rsvlm_sar": "the whole model, radar alone",
    "rsvlm_questions": "the whole model, trained on questions and answers too",
    "rsvlm_text_shuffled": "those runs, asked with the words in random order",
    "no_lm": "without the language model: the head on the visual tokens alone",
    VIT: "a linear layer of the mean visual token of its frames",
}
ORACLE = "oracle"
NAMES = (*ROWS, *NETWORKS, *OURS, ORACLE)
DEFAULT = ("mean", "ridge", "random_forest", "boosting", "rsvlm")


def models_of(
    task: Task, names: Sequence[str], experiments: Sequence[Experiment]
) -> tuple[list[Model], dict[str, str]]:
    """The rows of a table.

    Args:
      names: of `NAMES`, or "all": then rows that the data do not allow are left out.
      experiments: the first is `rsvlm` and what the others of `OURS` are made of; each further one
        is a row of its own.

    Returns:
      (models, {name: why it is left out}).

    Raises:
      ConfigError, DataError, CubeError: an unknown name, or a row that the data do not allow.
    """
    every = list(names) == ["all"]
    wanted = list(NAMES if every else dict.fromkeys(names))
    unknown = [n for n in wanted if n not in NAMES]
    if unknown or not wanted:
        near = difflib.get_close_matches(unknown[0], NAMES, n=1) if unknown else None
        raise ConfigError(
            "no such model",
            where="--models",
            expected=f"all, or some of {', '.join(NAMES)}",
            found=unknown[0] if unknown else "no name",
            remedy=f"did you mean {near[0]!r}?" if near else None,
        )
    table, made, left_out = Table(task), [], {}
    for name in wanted:
        try:
            made.append(_model(name, task, table, experiments[0]))
        except (ConfigError, DataError, CubeError) as e:
            if not every:
                raise
            left_out[name] = str(e)
    for experiment in experiments[1:]:
        about = f"experiment {experiment.name!r}"
        made.append(experiment_model(f"rsvlm_{experiment.name}", about, experiment, task))
    twice = [m.name for i, m in enumerate(made) if m.name in {n.name for n in made[:i]}]
    if twice:
        raise ConfigError(
            "two models of one name",
            where="--experiment",
            found=twice[0],
            remedy="give the experiments other names",
        )
    return made, left_out


def _oracle(task: Task) -> Model:
    """What can be known of a synthetic world (`data_zarr.world.oracle`); nothing is trained.

    Raises:
      CubeError: the cube is none. ConfigError: the oracle does not know the target.
    """
    layer = np.asarray(oracle(task.cube), np.float64)
    if task.target.name != "agb":
        raise ConfigError(
            "the oracle knows the law of one target",
            where=f"--models {ORACLE}",
            expected="agb",
            found=task.target.name,
        )
    means = target_means(layer, task.evaluation, 0.0)[0]

    def predict(cell: Cell) -> Guess:
        return Guess(means[cell.test])

    about = "the law of the synthetic world, inverted from the same pixels"
    return Model(ORACLE, about, {"revision": 1}, predict, seeded=False)


def _model(name: str, task: Task, table: Table, base: Experiment) -> Model:
    if name == ORACLE:
        return _oracle(task)
    if name in ROWS:
        return tabular_model(name, table)
    if name in NETWORKS:
        return network_model(name, task, table.identity)
    word = name if name in ("no_lm", VIT) else name.removeprefix("rsvlm").lstrip("_")
    experiment = variant(word, base, task.cube) if word else base
    return experiment_model(name, OURS[name], experiment, task)
