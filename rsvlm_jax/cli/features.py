"""`rsvlm features EXPERIMENT.py --out FOLDER`: what a frozen tower makes of the images, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rsvlm_jax.config import ConfigError, Experiment

from .options import load_experiment, parse, say


@dataclasses.dataclass(frozen=True)
class Options:
    """Compute the features of all images of an experiment; goes on where it stopped."""

    out: Path | None
    """Folder of the features; name it as `--conversations.features` of the training."""
    config: Annotated[Experiment, tyro.conf.arg(name="")]
    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"
    """As stored."""
    batch: int = 8
    """Images encoded together."""


def run(args: Sequence[str]) -> dict[str, object]:
    args = list(args)
    if not args or (args[0].startswith("-") and not {"-h", "--help"} & set(args)):
        raise ConfigError(
            "no experiment given", expected="rsvlm features EXPERIMENT.py --out FOLDER"
        )
    name = "rsvqa_tiny" if args[0].startswith("-") else args.pop(0)
    default = Options(None, load_experiment(name))
    options = parse(Options, args, prog="rsvlm features EXPERIMENT.py", default=default)
    if options.out is None:
        raise ConfigError("no folder given", expected="--out FOLDER")
    from rsvlm_jax.run.features import compute_features

    from .progress import Bars

    with Bars() as bars:
        made = compute_features(
            options.config,
            out=options.out,
            dtype=options.dtype,
            batch=options.batch,
            progress=lambda done, total: bars.update("images", done, total),
        )
    say(f"features of {made.images} images in {options.out} ({made.before} were there)")
    if made.unread:
        path, why = next(iter(made.unread.items()))
        say(f"{len(made.unread)} images could not be read; the first: {path}: {why}")
    return {
        "features": str(options.out),
        "images": made.images,
        "before": made.before,
        "unread": made.unread,
    }
