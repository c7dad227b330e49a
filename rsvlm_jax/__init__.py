"""Remote-sensing vision-language models in JAX: any sensor, real dates, numbers with intervals.

    load(RUN) -> Loaded         .regress(batch) .chat(question, batch) .window(cube, y, x)
    load(DIRECTORY) -> Pretrained   of Hugging Face or LLaVA: .logits(**processor(...)) .generate
    fit(experiment, out=RUN)    train; resumes by itself
    plan(experiment, "v5e:16x16") -> PlanReport     compiled for a pod that is not here
    predict(loaded, cube, OUT)  a wall-to-wall map with its interval
    trend(cube_or_array)        the trend of every pixel, as a dataset
    open_cube(path) -> Cube     from `data_zarr`
    find_cube(name) -> Cube     by path, "sample:NAME" or "world:PRESET"

Names are imported when they are first used: `import rsvlm_jax` itself loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_zarr import open_cube
    from rsvlm_jax.run.cubes import find_cube
    from rsvlm_jax.run.fit import fit
    from rsvlm_jax.run.load import load
    from rsvlm_jax.run.plan import plan
    from rsvlm_jax.run.predict import predict
    from rsvlm_jax.run.trend import trend

_HOME = {
    "find_cube": "rsvlm_jax.run.cubes",
    "fit": "rsvlm_jax.run.fit",
    "load": "rsvlm_jax.run.load",
    "open_cube": "data_zarr",
    "plan": "rsvlm_jax.run.plan",
    "predict": "rsvlm_jax.run.predict",
    "trend": "rsvlm_jax.run.trend",
}

__all__ = ["find_cube", "fit", "load", "open_cube", "plan", "predict", "trend"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
