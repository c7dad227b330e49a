"""`rsvlm cube folds`: deal a cube to folds, report what they share, draw where they lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from rsvlm_jax.config import ConfigError

from .options import parse, say


@dataclasses.dataclass(frozen=True)
class Folds:
    """Deal a cube to folds, report leakage and the range of the target, draw a map."""

    cube: Positional[str]
    """Path, sample:NAME or world:PRESET."""
    out: Path | None = None
    """PNG to write."""
    block: float | None = None
    """Edge of a tile in pixels; of a cube of places in km."""
    folds: int = 5
    """How many; 0 makes each value of --group a fold."""
    buffer: float | Literal["range"] = 1.0
    """Free ground in windows (places: km), or "range": as wide as the target resembles itself."""
    group: str | None = None
    """Label of the places that is held out whole: a region, a site, a year."""
    year: tuple[int, ...] = ()
    """Hold out the dates of these years instead of places."""
    gap_days: float = 0.0
    """With --year: dates as near as this to a held-out one are read by nobody."""
    stratify: int = 0
    """Quantile bins of the target that folds share evenly; 0: none."""
    window: int = 8
    """Edge of a sample in pixels."""
    stride: int | None = None
    """Distance of training windows in pixels; half a window by default."""
    target: str | None = None
    """Target layer; the first by default."""
    narrow: Literal["accept", "warn", "refuse"] = "warn"
    """What to do with a buffer below one window."""
    fold: int = 0
    """The fold that the picture shows in detail."""
    seed: int = 0


def run(args: Sequence[str]) -> dict[str, object]:
    o = parse(Folds, args, prog="rsvlm cube folds")
    from rich.console import Console

    from rsvlm_jax.run.cubes import find_cube

    cube = find_cube(o.cube)
    if o.year:
        from rsvlm_jax.evaluate.yearfolds import held_years, years_facts, years_page

        if o.out is not None:
            raise ConfigError("held-out dates have no map", where="--out", found=str(o.out))
        facts = years_facts(cube, held_years(cube, o.year, o.gap_days), o.year)
        Console().print(years_page(facts))
        return facts
    from rsvlm_jax.evaluate.cubefolds import FoldsRequest, cube_folds
    from rsvlm_jax.evaluate.foldsreport import folds_facts, folds_page

    names = [f.name for f in dataclasses.fields(FoldsRequest)]
    found = cube_folds(cube, FoldsRequest(**{name: getattr(o, name) for name in names}))
    if not 0 <= o.fold < len(found.names):
        raise ConfigError("no such fold", where="--fold",
                          expected=f"0 to {len(found.names) - 1}", found=o.fold)  # fmt: skip
    facts = folds_facts(found)
    Console().print(folds_page(facts))
    if o.out is not None:
        from rsvlm_jax.evaluate.cubeframes import quicklook
        from rsvlm_jax.evaluate.foldsplot import folds_figure

        image, caption = (None, "") if found.places else quicklook(cube)
        folds_figure(o.out, found, image=image, caption=caption, fold=o.fold)
        say(f"picture: {o.out}")
        facts["figure"] = str(o.out)
    return facts
