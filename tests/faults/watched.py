"""`rsvlm train` in this process, watched: which batches are drawn, what is saved, what is restored.

Nothing of the program is replaced: what is looked at is passed on as it is. Beside the run lie

    drawn.jsonl      [number, SHA-256 of the batch], a line for every batch that the loop draws
    saved.jsonl      [step, SHA-256 of the state] as a save begins, in memory
    restored.jsonl   [step, SHA-256 of the state] as the loop is given it
    final.json       {path: SHA-256} of the newest checkpoint's arrays, after a run that ended well
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

EXPERIMENT = Path(__file__).with_name("small_experiment.py")


def run(folder: Path, devices: int) -> int:
    """Train in `folder/run` on so many simulated devices; the exit code of the command.

    JAX may be imported, but must not have looked for devices.
    """
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    from rsvlm_jax.cli.main import main

    _watch(folder)
    code = main(["train", str(EXPERIMENT), "--out", str(folder / "run")])
    if code == 0:
        (folder / "final.json").write_text(json.dumps(_final(folder / "run")))
    return code


def _watch(folder: Path) -> None:
    from rsvlm_jax.data.pipeline import Batches
    from rsvlm_jax.run import fit
    from rsvlm_jax.train.checkpoint import Checkpoints

    draw, save, resume = Batches.__next__, Checkpoints.save, fit.resume
    of_the_loop: list[Any] = []  # others are drawn for the statistics

    def watched_draw(self: Batches) -> Any:
        place = self.get_state()["next_index"]
        batch = draw(self)
        if not any(self is one for one in of_the_loop):
            return batch
        _line(folder / "drawn.jsonl", place, _digest(batch))
        return batch

    def watched_save(self: Checkpoints, step: int, state: Any, data: dict[str, Any]) -> None:
        _line(folder / "saved.jsonl", step, _digest(state))
        save(self, step, state, data)

    def watched_resume(state: Any, batches: Any, checkpoints: Any, **more: Any) -> Any:
        of_the_loop.append(batches)
        state = resume(state, batches, checkpoints, **more)
        _line(folder / "restored.jsonl", int(state.step), _digest(state))
        return state

    Batches.__next__ = watched_draw
    Checkpoints.save = watched_save
    fit.resume = watched_resume


def _line(path: Path, *what: Any) -> None:
    """One write: a process that is killed leaves a whole line, or none."""
    with open(path, "ab", buffering=0) as file:
        file.write(json.dumps(what).encode() + b"\n")


def _digest(tree: Any) -> str:
    import jax
    import numpy as np

    h = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(tree)):
        array = np.ascontiguousarray(leaf)
        h.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
    return h.hexdigest()


def _final(run: Path) -> dict[str, str]:
    import jax
    import numpy as np

    from rsvlm_jax.core import flat
    from rsvlm_jax.train import Checkpoints

    with Checkpoints(run / "checkpoints") as checkpoints:
        step = checkpoints.newest()
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        state = {
            path: jax.ShapeDtypeStruct(shape, np.dtype(dtype), sharding=place)
            for path, (shape, dtype) in checkpoints.tree(step).items()
        }
        found, _ = checkpoints.restore(state, step)
    return {path: _digest(x) for path, x in flat(found).items()}


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), int(sys.argv[2])))
