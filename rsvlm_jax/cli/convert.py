"""`rsvlm convert SRC DST`: checkpoints between formats, both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from .options import parse, say


@dataclasses.dataclass(frozen=True)
class Options:
    """Rewrite a checkpoint: Hugging Face, LLaVA, OpenCLIP, llama2.c, or a run of ours."""

    source: Positional[str]
    """Directory, file, or asset:stories260k."""
    target: Positional[Path]
    """Directory that does not exist yet; for a projector by itself a .safetensors file."""
    to: Literal["hf", "llava", "peft"] = "hf"
    """A directory of transformers (4.x and 5.x), the layout of LLaVA's own code, or the LoRA of a
    run by itself."""
    part: Literal["decoder", "vision"] | None = None
    """Write one tower of a whole model."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of what is written; by default nothing is rounded."""
    vision: Path | None = None
    """Directory of the vision tower that an original LLaVA does not hold."""
    adapter: Path | None = None
    """Directory of a PEFT adapter, which is merged; LLaVA's own make a LLaVA of a Vicuna."""
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    """Of an OpenCLIP tower; its file does not say."""
    step: int | Literal["best"] | None = None
    """Checkpoint of a run: a step, or that of the lowest held-out loss; the newest by default."""
    allow_pickle: bool = False
    """Read .bin and .pt files, through torch's weights-only loader."""


def run(args: Sequence[str]) -> dict[str, object]:
    options = parse(Options, args, prog="rsvlm convert")
    from rsvlm_jax.run.convert import convert

    from .progress import Bars

    with Bars() as bars:
        made = convert(
            options.source,
            options.target,
            to=options.to,
            part=options.part,
            dtype=options.dtype,
            vision=options.vision,
            adapter=options.adapter,
            activation=options.activation,
            step=options.step,
            allow_pickle=options.allow_pickle,
            progress=lambda done, total: bars.update("read, write", done, total),
        )
    say(f"{made.architecture}: {made.parameters:,} parameters, {made.dtype}, in {made.path}")
    if made.ignored:
        say(f"left out, {len(made.ignored)} tensors: {', '.join(made.ignored[:10])}")
    for note in made.notes:
        say(note)
    return {**dataclasses.asdict(made), "path": str(made.path)}
