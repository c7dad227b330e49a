"""Trains the networks of `networks` on a task's windows, cut on the device out of whole layers.

    Layers (once a task)   values, masks, days of every band set; the target
    fold                   statistics of the pixels of its training windows
    inner hold-out         a quarter of its tiles or sites says how many steps are enough
    all training windows   so many steps; the averaged weights predict

One program a network serves all folds: windows are rows of an index, statistics are arguments.
Adam with decoupled decay, a constant rate, weights averaged; rotated and mirrored. The loss is the
squared error of window means and of pixels, half each, so a network sees all that the target has.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from data_zarr.grid import aligned
from data_zarr.sampling import WindowTable
from data_zarr.splits import group_folds
from data_zarr.splits.tiles import cover
from rsvlm_jax.config import ConfigError, DataError, Preempted
from rsvlm_jax.data.batch import to_days

from .cells import Cell, Guess, Model
from .features import YEAR
from .networks import NETWORKS, Shape
from .task import Task

STEPS, CHUNK, BATCH = 300, 25, 32
RATE, DECAY, AVERAGE = 2e-3, 1e-3, 0.98
MAX_BYTES = 4 * 2**30
"""Layers larger than this do not go onto the device whole."""
REVISION = 1


class Layers(NamedTuple):
    """A task's layers: values and masks [T,C,H,W], angles [T] or [T,S], of each band set; target.

    Attributes:
      corners: i32 [n, 2] of each band set: upper left pixels of the windows, training ones first.
    """

    values: list[np.ndarray]
    valid: list[np.ndarray]
    angle: list[np.ndarray]
    corners: list[np.ndarray]
    target: np.ndarray
    base: np.ndarray
    shapes: tuple[Shape, ...]


ABOUT = {
    "unet": "U-Net on means and deviations over dates, from nothing",
    "utae": "U-TAE on dated series (of places L-TAE), from nothing",
}


def network_model(name: str, task: Task, identity: object) -> Model:
    """A row of `NETWORKS`.

    Raises:
      ConfigError: a U-Net on windows without an inside.
    """
    if name == "unet" and task.evaluation.size < 4:
        raise ConfigError(
            "a U-Net needs windows with an inside",
            where="--models unet",
            expected="windows of 4 pixels or more",
            found=task.evaluation.size,
        )

    def predict(cell: Cell) -> Guess:
        return _predict(name, cell)

    depends = {"inputs": identity, "revision": REVISION, "steps": STEPS}
    return Model(name, ABOUT[name], depends, predict)


def network_maps(name: str, cell: Cell) -> np.ndarray:
    """What a network says of every pixel of a cell's held-out windows, f64 [m,s,s].

    As the row of the table is trained: by window means and pixels, and as long as helps the former.
    """
    program, average, data, _ = _trained(name, cell)
    return program.maps(average, data, len(cell.task.training) + cell.test)


def _predict(name: str, cell: Cell) -> Guess:
    program, average, data, train_seconds = _trained(name, cell)
    start = time.perf_counter()
    mean = program.predict(average, data, len(cell.task.training) + cell.test)
    return Guess(
        mean,
        train_seconds=train_seconds,
        predict_seconds=time.perf_counter() - start,
        parameters=sum(x.size for x in jax.tree.leaves(average)),
    )


def _trained(name: str, cell: Cell) -> tuple[Program, Any, tuple[Any, ...], float]:
    """The program, its averaged weights, what it reads, and the seconds that it took."""
    task = cell.task
    layers = _layers(task)
    program = _program(name, layers.shapes, task.evaluation.size, task.cube.points)
    moments = _moments(layers, task, cell.train)
    y = task.y_training[cell.train]
    scale = np.array([y.mean(), y.std() or 1.0], np.float32)
    data = _on_device(task), moments, scale
    start = time.perf_counter()
    inner = group_folds(cell.deal.site_training[cell.train], _parts(cell))
    held = cell.train[inner == 0]
    curve = program.fit(data, cell.train[inner != 0], cell.seed, STEPS, cell, held, task)
    steps = CHUNK * (1 + int(np.argmin(curve.errors)))
    final = program.fit(data, cell.train, cell.seed, steps, cell)
    return program, final.average, data, time.perf_counter() - start


def _parts(cell: Cell) -> int:
    """Of the inner hold-out: a quarter, or as many as there are sites."""
    sites = len(np.unique(cell.deal.site_training[cell.train]))
    if sites < 2:
        raise DataError(
            "no inner hold-out",
            where=f"fold {cell.fold} of {cell.deal.name}",
            expected="training windows of at least 2 tiles or sites",
            found=sites,
        )
    return min(4, sites)


class Fitted(NamedTuple):
    """Averaged weights, and the held-out error after each chunk of steps."""

    average: Any
    errors: list[float]


@dataclasses.dataclass(frozen=True)
class Program:
    """A network as compiled functions of all that a fold changes."""

    graphdef: Any
    init: Any
    chunk: Any
    forward: Any

    def fit(
        self,
        data: tuple[Any, ...],
        rows: np.ndarray,
        seed: int,
        steps: int,
        cell: Cell,
        held: np.ndarray | None = None,
        task: Task | None = None,
    ) -> Fitted:
        """`steps` steps on windows `rows`; after each chunk the error on `held`, if given."""
        params, state = self.init(jax.random.key(seed))
        average, rng = params, np.random.default_rng(seed)
        errors = []
        for done in range(0, steps, CHUNK):
            if cell.stop is not None and cell.stop():
                raise Preempted("stopped in the training of a network", remedy="run again")
            index = rng.choice(rows, (CHUNK, BATCH)).astype(np.int32)
            turn = rng.integers(0, 8, CHUNK).astype(np.int32)
            params, state, average, loss = self.chunk(params, state, average, data, index, turn)
            if held is not None and task is not None:
                e = self.predict(average, data, held) - task.y_training[held]
                errors.append(float(np.sqrt(np.mean(e**2))))
            if cell.progress is not None:
                cell.progress(done + CHUNK, steps, {"loss": float(loss)})
        return Fitted(average, errors)

    def predict(self, params: Any, data: tuple[Any, ...], rows: np.ndarray) -> np.ndarray:
        """Means of windows `rows`, f64 [n], in target units."""
        return self.maps(params, data, rows).mean(axis=(1, 2))

    def maps(self, params: Any, data: tuple[Any, ...], rows: np.ndarray) -> np.ndarray:
        """Pixels of windows `rows`, f64 [n,s,s], in target units; one shape for all batches."""
        size = 4 * BATCH
        out = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            index = np.resize(part, size).astype(np.int32)
            out.append(np.asarray(self.forward(params, data, index), np.float64)[: len(part)])
        return np.concatenate(out)


@functools.lru_cache(maxsize=8)
def _program(name: str, shapes: tuple[Shape, ...], size: int, points: bool) -> Program:
    make = NETWORKS[name]
    graphdef = nnx.split(nnx.eval_shape(lambda: make(shapes, size, rngs=nnx.Rngs(0))))[0]
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.linear_schedule(0.0, RATE, 20), weight_decay=DECAY),
    )

    @jax.jit
    def init(key: Any) -> Any:
        params = nnx.split(make(shapes, size, rngs=nnx.Rngs(key)))[1]
        return params, optimizer.init(params)

    def cut(layers: dict[str, Any], moments: Any, index: Any, turn: Any) -> Any:
        values, valid, angle = [], [], []
        for i, shape in enumerate(shapes):
            corner = layers["corners"][i][index]
            x, ok = (_windows(layers[k][i], corner, shape.size) for k in ("values", "valid"))
            mean, std = (m[i][None, None, :, None, None] for m in moments)
            x = jnp.where(ok, (x - mean) / std, jnp.zeros_like(x))
            values.append(_turned(x, turn))
            valid.append(_turned(ok, turn))
            days = layers["angle"][i]
            angle.append(
                days[:, corner[:, 0]].T
                if days.ndim == 2
                else jnp.broadcast_to(days[None], (len(index), len(days)))
            )
        return values, valid, angle

    def predicted(params: Any, data: Any, index: Any, turn: Any) -> Any:
        layers, moments, _ = data
        return nnx.merge(graphdef, params)(*cut(layers, moments, index, turn))

    def loss(params: Any, data: Any, index: Any, turn: Any) -> Any:
        layers, _, scale = data
        made = predicted(params, data, index, turn)
        y = _windows(layers["target"], layers["base"][index], size)[:, 0, 0]
        y = _turned((y - scale[0]) / scale[1], turn)
        ok = jnp.isfinite(y)
        error = jnp.where(ok, made - jnp.where(ok, y, 0.0), 0.0)
        count = ok.sum(axis=(1, 2)).astype(jnp.float32)
        window = error.sum(axis=(1, 2)) / jnp.maximum(count, 1.0)
        pixel = (error**2).sum() / jnp.maximum(count.sum(), 1.0)
        return 0.5 * jnp.mean(window**2) + 0.5 * pixel

    def step(carry: Any, at: Any, data: Any) -> Any:
        params, state, average = carry
        index, turn = at
        value, grads = jax.value_and_grad(loss)(params, data, index, turn)
        with jax.numpy_dtype_promotion("standard"):  # optax adds integers to floats
            updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: AVERAGE * a + (1 - AVERAGE) * p, average, params)
        return (params, state, average), value

    @jax.jit
    def chunk(params: Any, state: Any, average: Any, data: Any, index: Any, turn: Any) -> Any:
        turn = jnp.zeros_like(turn) if points else turn
        run = functools.partial(step, data=data)
        (params, state, average), values = jax.lax.scan(
            run, (params, state, average), (index, turn)
        )
        return params, state, average, values.mean()

    @jax.jit
    def forward(params: Any, data: Any, index: Any) -> Any:
        return predicted(params, data, index, jnp.int32(0)) * data[2][1] + data[2][0]

    return Program(graphdef, init, chunk, forward)


def _windows(layer: Any, corner: Any, size: int) -> Any:
    """[T,C,H,W] at corners [B, 2] -> [B,T,C,size,size]."""
    t, c = layer.shape[:2]

    def one(at: Any) -> Any:
        zero = jnp.int32(0)
        return jax.lax.dynamic_slice(layer, (zero, zero, at[0], at[1]), (t, c, size, size))

    return jax.vmap(one)(corner)


def _turned(x: Any, turn: Any) -> Any:
    """The last two axes by one of the eight symmetries of the square."""

    def way(k: int) -> Any:
        def change(a: Any) -> Any:
            a = jnp.rot90(a, k % 4, axes=(-2, -1))
            return jnp.flip(a, -1) if k >= 4 else a

        return change

    return jax.lax.switch(turn, [way(k) for k in range(8)], x)


def _moments(layers: Layers, task: Task, train: np.ndarray) -> tuple[list[Any], list[Any]]:
    """Mean and deviation of each channel over the valid pixels under the training windows."""
    means, stds = [], []
    for i, shape in enumerate(layers.shapes):
        height, width = layers.values[i].shape[2:]
        y, x = layers.corners[i][train].T.astype(np.int64)
        under = cover(WindowTable(y, x, shape.size), height, width)
        ok = np.broadcast_to(layers.valid[i] & under, layers.values[i].shape)
        axes = (0, 2, 3)
        count = np.maximum(ok.sum(axis=axes), 1)
        mean = np.where(ok, layers.values[i], 0).sum(axis=axes, dtype=np.float64) / count
        off = np.where(ok, layers.values[i] - mean[:, None, None], 0)
        std = np.sqrt((off**2).sum(axis=axes, dtype=np.float64) / count)
        means.append(mean.astype(np.float32))
        stds.append(np.where(std > 0, std, 1).astype(np.float32))
    return means, stds


_KEPT: dict[str, Any] = {}
"""Of the last task: layers, and the same on the device."""


def _layers(task: Task) -> Layers:
    key = repr([task.identity, [s.band_names for s in task.prepared.specs]])
    if _KEPT.get("key") != key:
        _KEPT.clear()
        made = _read(task)
        host = made._asdict()
        del host["shapes"]
        _KEPT.update(key=key, layers=made, device=jax.device_put(host))
    return _KEPT["layers"]


def _on_device(task: Task) -> dict[str, Any]:
    _layers(task)
    return _KEPT["device"]


def _read(task: Task) -> Layers:
    """Whole layers of the inputs, in physical units.

    Raises:
      ConfigError: more than `MAX_BYTES`.
    """
    cube, specs = task.cube, task.prepared.specs
    infos = [cube.bandsets[s.name] for s in specs]
    need = sum(
        5 * i.shape[0] * len(s.bands) * i.shape[2] * i.shape[3]
        for i, s in zip(infos, specs, strict=True)
    )
    if need > MAX_BYTES:
        raise ConfigError(
            "the networks hold a cube's inputs in memory",
            where="--models unet, utae",
            expected=f"at most {MAX_BYTES / 2**30:g} GiB",
            found=f"{need / 2**30:.1f} GiB",
            remedy="fewer --inputs, or leave them out",
        )
    tables = task.training, task.evaluation
    y, x = (np.concatenate([getattr(t, k) for t in tables]) for k in ("y", "x"))
    values, valid, angles, corners, shapes = [], [], [], [], []
    for spec, info in zip(specs, infos, strict=True):
        reader = cube.reader(spec.name, bands=spec.band_names)
        pixels, ok = reader.read(0, 0, info.shape[2], info.shape[3])
        scale = np.array([b.scale for b in spec.bands], np.float32)[:, None, None]
        offset = np.array([b.offset for b in spec.bands], np.float32)[:, None, None]
        physical = np.where(ok, pixels.astype(np.float32) * scale + offset, np.float32(0))
        top, left, size = aligned(y, x, task.evaluation.size, info.factor, spec.name)
        days = np.nan_to_num(to_days(np.asarray(info.dates)))
        values.append(physical.astype(np.float32))
        valid.append(np.array(ok))
        angles.append((2 * np.pi * days / YEAR).astype(np.float32))
        corners.append(np.stack([top, left], axis=1).astype(np.int32))
        shapes.append(Shape(info.shape[0], len(spec.bands), ok.shape[1], int(size)))
    target = np.asarray(cube.target(task.target.name), np.float32)[None, None]
    base = np.stack([y, x], axis=1).astype(np.int32)
    return Layers(values, valid, angles, corners, target, base, tuple(shapes))
