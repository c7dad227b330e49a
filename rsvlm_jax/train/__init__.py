"""Training: state, optimiser, losses, the step, checkpoints, the loop.

    state.py          TrainState, create, split_model, init_state    the pytree and its placement
    optimizer.py      make_optimizer                                 rates by group; freezing
    directions.py     direction                                      AdamW, SGD, Adafactor, Muon
    losses.py         losses, total                                  (sum, weight), divided once
    cross_entropy.py  text_loss                                      chunks of what is supervised
    gradient.py       gradient, gradient_in_parts                    a batch at once, or in parts
    spikes.py         judge                                          steps that leap out of the last
    flops.py          step_flops                                     operations by formula
    step.py           make_train_step, _loss_step, _eval_step        jitted, donated, compiled once
    checkpoint.py     Checkpoints                                    Orbax and a SHA-256 manifest
    manifest.py, stored.py                                           digests; arrays on disk
    keeping.py        Keep                                           which checkpoints stay
    rows.py           Rows                                           files of rows
    hooks.py          Hook, Timing, Skipped, EarlyStopping           what watches a run
    once.py                                                          a memo of compiled programs
    loop.py           train, resume                                  the loop, in explained order

How they meet::

    graphdef, params, stats = create(lambda rngs: VisionLanguageModel(..., rngs=rngs), seed=0)
    optimizer = make_optimizer(experiment.optimizer, experiment.train.steps, params)
    state = init_state(params, stats, optimizer, mesh, config=experiment.optimizer)
    step = make_train_step(graphdef, experiment, optimizer, mesh, state)
    state = resume(state, batches, checkpoints)
    state = train(state, step, batches, steps=experiment.train.steps, checkpoints=checkpoints)
"""

from .checkpoint import Checkpoints, CheckpointWarning
from .cross_entropy import text_loss
from .hooks import EarlyStopping, Hook, Skipped, Timing
from .keeping import Keep
from .loop import Batches, resume, train
from .losses import losses, total
from .optimizer import make_optimizer, schedule, trained_paths
from .state import (
    TrainState,
    abstract,
    create,
    eval_params,
    init_state,
    merge,
    overlay,
    pick,
    split_model,
)
from .step import Step, make_eval_step, make_loss_step, make_train_step

__all__ = [
    "Batches",
    "CheckpointWarning",
    "Checkpoints",
    "EarlyStopping",
    "Hook",
    "Keep",
    "Skipped",
    "Step",
    "Timing",
    "TrainState",
    "abstract",
    "create",
    "eval_params",
    "init_state",
    "losses",
    "make_eval_step",
    "make_loss_step",
    "make_optimizer",
    "make_train_step",
    "merge",
    "overlay",
    "pick",
    "resume",
    "schedule",
    "split_model",
    "text_loss",
    "total",
    "train",
    "trained_paths",
]
