"""The shapes of an experiment's batch, of conversations or of cubes, whose data may not be here.

    shapes_of(experiment, dates=..., length=...) -> Shapes      with what was assumed, a line each

Of conversations: rows of the greatest length, an image each. Of a cube that is at hand (a path, a
shipped sample, a world made before): one window of it is read. Of any other: bands by the sensor
table, dates by `InputConfig.dates` or as given, and a row that holds the visual tokens, `<reg>` and
`WORDS` tokens of text.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_zarr.errors import CubeError
from data_zarr.format import MANIFEST, near_miss
from data_zarr.sensors import BANDSETS, BandSet, find_band
from rsvlm_jax.config import BandSetSpec, BandSpec, ConfigError, Experiment, InputConfig
from rsvlm_jax.data.batch import Batch, Observation
from rsvlm_jax.data.samples import collate
from rsvlm_jax.models.connector import token_count
from rsvlm_jax.models.spectral import make_plan

from .abstract import talk_batch
from .cubes import cache_folder

WORDS = 32
"""Tokens of a prompt beside its placeholders, where the cube is not at hand."""


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What `abstract_step` needs of the data.

    Attributes:
      batch: tree of `jax.ShapeDtypeStruct`.
      bandsets: of the model's inputs.
      visual_tokens: of a sample; None for conversations.
      assumed: lines.
    """

    batch: Batch
    bandsets: tuple[BandSetSpec, ...] = ()
    visual_tokens: int | None = None
    assumed: tuple[str, ...] = ()


def shapes_of(
    experiment: Experiment, *, dates: int | None = None, length: int | None = None
) -> Shapes:
    """The batch of an experiment.

    Args:
      dates: of a series, where neither the cube nor `InputConfig.dates` says.
      length: positions of a row of text; None: as the experiment says.

    Raises:
      ConfigError: dates that nothing says, a band set that is in no table, a length that does not
        hold the visual tokens.
      DataError, CubeError: a cube that is at hand and is not what the experiment asks for.
    """
    talk = experiment.conversations
    if talk is not None:
        if length is not None:
            talk = dataclasses.replace(talk, length=length)
            experiment = dataclasses.replace(experiment, conversations=talk)
        line = f"every row has {talk.length} positions and one image"
        if talk.features is not None:
            line += ", whose tower runs in the step (features of it would not)"
        return Shapes(talk_batch(experiment), assumed=(line,))
    if _at_hand(experiment.data.cube):
        for name, value in (("dates", dates), ("length", length)):
            if value is not None:
                raise ConfigError(
                    "an option without effect: the cube is at hand and says it itself",
                    where=f"--{name}", expected="none", found=value,
                )  # fmt: skip
        return _of_cube(experiment)
    return _of_tables(experiment, dates, length)


def _at_hand(name: str) -> bool:
    kind, _, rest = name.partition(":")
    if kind == "world":
        preset, _, seed = rest.partition(":")
        return (cache_folder() / f"world_{preset}_{seed or 0}.zarr" / MANIFEST).is_file()
    return kind == "sample" or Path(name).exists()


def _of_cube(experiment: Experiment) -> Shapes:
    """As the cube says: one window of it is read."""
    from .prepare import prepare

    made = prepare(experiment)
    one = collate([made.train[0]], made.processor, made.processor.table.take(np.array([0])))
    b = experiment.train.batch_size

    def wide(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((b, *x.shape[1:]), x.dtype)

    line = f"dates and length as in {experiment.data.cube}"
    return Shapes(jax.tree.map(wide, one), made.specs, made.processor.visual_tokens, (line,))


def _of_tables(experiment: Experiment, dates: int | None, length: int | None) -> Shapes:
    data, model = experiment.data, experiment.model
    assumed = [f"{data.cube} is not at hand: bands by the sensor table, int16 pixels"]
    specs, obs, frames, points = [], {}, 0, 0
    b, w = experiment.train.batch_size, data.window

    def array(dtype: Any, *shape: int) -> np.ndarray:
        return np.broadcast_to(np.zeros((), dtype), shape)  # one number, whatever the shape

    for read in model.inputs:
        spec = _spec(read)
        t = 1 if spec.static else read.dates or dates
        if t is None:
            raise ConfigError(
                "nothing says how many dates a series has",
                where=f"InputConfig({read.bandset!r}).dates",
                expected="a number, or --dates N",
                found=None,
                remedy=f"or put the cube at {data.cube}",
            )
        specs.append(spec)
        if read.front == "rgb":
            frames += t * len(make_plan(spec, read.spectral).groups)
        else:
            points += t
        obs[spec.name] = Observation(
            pixels=array(np.int16, b, t, len(spec.bands), w, w),
            valid=array(bool, b, t, 1, w, w),
            date=array(np.float32, b, t),
            year_known=array(bool, b),
            platform=array(np.int32, b, t),
            lonlat=array(np.float32, b, 2),
            gsd=array(np.float32, b),
            bandset=spec.name,
        )
        assumed.append(f"{spec.name}: {t} dates, {len(spec.bands)} bands, {w} x {w} pixels")
    visual = token_count(model, frames, points)
    head = model.head if model.decoder else None
    reg = head.reg_tokens if head else 0
    if data.number != "head":
        reg = data.number_digits + 4  # of a number as text, at most
    least = 1 + visual + reg
    length = length or least + WORDS
    if model.decoder is None or length < least:
        length = least
    assumed.append(f"a row has {length} positions: {visual} visual, {reg} <reg>, the rest text")
    targets = model.head.targets if model.head else 1
    text = array(np.int32, b, length)
    batch = Batch(
        obs=obs,
        tokens=text,
        segment=text,
        position=text,
        weight=array(np.float32, b, length),
        image_slot=text,
        target=array(np.float32, b, targets),
        target_valid=array(bool, b, targets),
        sample=array(np.int32, b),
        answer=array(np.int32, b) if head and head.knowledge != "reg" else None,
        target_map=array(np.float32, b, targets, w, w) if model.is_dense else None,
    )
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    return Shapes(batch, tuple(specs), visual, tuple(assumed))


def _spec(read: InputConfig) -> BandSetSpec:
    """A band set as the sensor table has it."""
    found = BANDSETS.get(read.bandset)
    if found is None:
        raise ConfigError(
            "no such band set in the sensor table",
            where="InputConfig.bandset",
            expected="one of data_zarr.sensors, or a cube that is at hand",
            found=read.bandset,
            remedy=near_miss(read.bandset, BANDSETS),
        )
    bands = found.bands if read.bands is None else _chosen(found, read.bands)
    made = tuple(
        BandSpec(b.name, b.common_name, b.wavelength, b.fwhm, found.scale, found.offset, b.unit)
        for b in bands
    )
    return BandSetSpec(found.name, found.kind, made)


def _chosen(found: BandSet, names: tuple[str, ...]) -> tuple[Any, ...]:
    try:
        return tuple(found.bands[find_band(found, name)] for name in names)
    except CubeError as e:
        raise ConfigError(e.what, where=f"InputConfig({found.name!r}).bands",
                          expected=e.expected, found=e.found, remedy=e.remedy) from e  # fmt: skip
