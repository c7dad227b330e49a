"""A small run in a directory, resumed by itself; what `test_checkpoint.py` kills.

python train_standin.py DIRECTORY [--slow]
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from rsvlm_jax.config import MeshConfig
from rsvlm_jax.mesh import make_mesh
from rsvlm_jax.testing import StandIn, Stream, standin_experiment
from rsvlm_jax.train import (
    Checkpoints,
    create,
    init_state,
    make_optimizer,
    make_train_step,
    resume,
    train,
)

STEPS, EVERY = 40, 8


def main(directory: Path, *, slow: bool) -> None:
    experiment = standin_experiment(ema=0.9)
    mesh = make_mesh(MeshConfig())
    graphdef, params, stats = create(lambda rngs: StandIn(rngs=rngs), seed=0)
    optimizer = make_optimizer(experiment.optimizer, STEPS, params)
    state = init_state(
        params, stats, optimizer, mesh, config=experiment.optimizer, plan="replicated"
    )
    step = make_train_step(graphdef, experiment, optimizer, mesh, state)
    batches = Stream()
    with Checkpoints(directory / "checkpoints") as checkpoints:
        state = resume(state, batches, checkpoints)
        (directory / "resumed.json").write_text(json.dumps({"step": int(state.step)}))
        train(
            state,
            step,
            batches,
            steps=STEPS,
            checkpoints=checkpoints,
            save_every=EVERY,
            log_every=1,
            metrics_file=directory / "metrics.jsonl",
            progress=lambda *_: time.sleep(0.01 if slow else 0),
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), slow="--slow" in sys.argv)
