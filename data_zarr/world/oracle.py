"""The best that can be done: the physics inverted from the cube's own noisy pixels.

The oracle knows the laws of this package and how large each error is, never the truth or the
random numbers: it sees the cube as any model does. For cells of 4 x 4 pixels it finds the state
`u` of highest posterior probability under a standard normal prior (Gauss-Newton on all clear
dates of all sensors, errors whitened per date because haze and gain move all bands together),
then averages the law over the Gaussian around it, which is what minimises squared error. Cells
are treated alone: a model with a wide view may in principle do better.

    cube --means of clear pixels--> y [M,n]     M = sum over sensors of dates x bands
    u [K,n] --physics--> f(u) [M,n]             argmin |W (y - f(u))|^2 + |u|^2
    u, covariance --law--> agb [n] --repeat--> [H,W]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Shaped

from data_zarr.errors import CubeError
from data_zarr.world import acquire, optics, phenology, radar
from data_zarr.world.clouds import aerosol
from data_zarr.world.fields import stream
from data_zarr.world.scene import STATE, WOOD_SPREAD, State, Terrain, agb, decode, terrain_of

if TYPE_CHECKING:
    from data_zarr.cube import BandSetInfo, Cube

CELL = 4
"""Edge of a cell in pixels."""

_ITERATIONS = 10
_DRAWS = 96
_FREEDOM = 8.0
_LEAST_CLEAR = 0.25
_DB_PER_WATER = np.array([4.0, 1.0])
"""What soil water does to VV and VH of an average place: about half of its effect on bare soil."""
_STEP = np.float32(1e-2)
_BATCH = 4096


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one date says, for all cells.

    Attributes:
      y: whitened observation [C,n].
      clear: whether the cell may be used on that date [n].
      predict: state and rows of cells -> whitened prediction [C,m].
    """

    y: Float[np.ndarray, "C n"]
    clear: Shaped[np.ndarray, " n"]
    predict: Callable[[State, slice], Float[np.ndarray, "C m"]]


def oracle(cube: Cube) -> Float[np.ndarray, "H W"]:
    """Biomass on the last day, Mg/ha, float32 [H,W], from a cube made by `make_world`.

    Raises:
      CubeError: the cube is not a synthetic world.
    """
    provenance = cube.attrs.get("world")
    if not isinstance(provenance, dict) or "end" not in provenance:
        raise CubeError(
            "the oracle knows synthetic worlds only",
            where=str(cube.path),
            expected="attribute `world`",
            found="none",
        )
    end = np.datetime64(provenance["end"], "s")
    height, width = cube.grid.height, cube.grid.width
    evidence = list(_evidence(cube, end))
    n = evidence[0].y.shape[1]
    cells = np.empty(n, np.float32)
    for start in range(0, n, _BATCH):
        rows = slice(start, min(start + _BATCH, n))
        cells[rows] = _posterior_mean(evidence, rows)
    rows_of_cells = -(-height // CELL)
    grid = cells.reshape(rows_of_cells, -1)
    return grid.repeat(CELL, 0)[:height].repeat(CELL, 1)[:, :width]


def _posterior_mean(evidence: list[Evidence], rows: slice) -> Float[np.ndarray, " m"]:
    m, k = rows.stop - rows.start, len(STATE)
    used = [e for e in evidence if e.clear[rows].any()]
    y = np.concatenate([np.where(e.clear[rows], e.y[:, rows], 0.0) for e in used])
    clear = [e.clear[rows] for e in used]

    def predict(u: Float[np.ndarray, "K m"]) -> Float[np.ndarray, "M m"]:
        state = decode(u)
        parts = [np.where(c, e.predict(state, rows), 0.0) for e, c in zip(used, clear, strict=True)]
        return np.concatenate(parts)

    u = np.zeros((k, m), np.float32)
    # Where loss is at or below its threshold it has no gradient: start on the side that has.
    u[STATE.index("loss")] = 0.9
    cost, damping = np.full(m, np.inf, np.float32), np.full(m, 1.0, np.float32)
    best, precision = u, np.zeros((m, k, k), np.float32)
    for _ in range(_ITERATIONS):
        residual = y - (f := predict(u))
        new = (residual**2).sum(0) + (u**2).sum(0)
        better = new < cost
        best, cost = np.where(better, u, best), np.where(better, new, cost)
        damping = np.clip(np.where(better, damping * 0.3, damping * 5.0), 0.01, 1e4)
        jacobian = np.stack([predict(_bumped(u, j)) - f for j in range(k)]) / _STEP
        gradient = np.einsum("jMm,Mm->mj", jacobian, residual) - u.T
        precision_new = np.einsum("iMm,jMm->mij", jacobian, jacobian) + np.eye(k, dtype=np.float32)
        precision = np.where(better[:, None, None], precision_new, precision)
        lifted = precision_new + damping[:, None, None] * np.eye(k, dtype=np.float32)
        step = np.linalg.solve(lifted, gradient[..., None])[..., 0].T
        step = np.clip(step, -1.0, 1.0).astype(np.float32)
        # A step that made it worse is taken back by half, and the next one is damped.
        u = np.where(better, u + step, 0.5 * (u + best)).astype(np.float32)

    def log_posterior(u: Float[np.ndarray, "K m"]) -> Float[np.ndarray, " m"]:
        return -0.5 * (((y - predict(u)) ** 2).sum(0) + (u**2).sum(0))

    return _expected(best, precision, log_posterior)


def _bumped(u: Float[np.ndarray, "K m"], j: int) -> Float[np.ndarray, "K m"]:
    out = u.copy()
    out[j] += _STEP
    return out


def _expected(
    u: Float[np.ndarray, "K m"],
    precision: Float[np.ndarray, "m K K"],
    log_posterior: Callable[[Float[np.ndarray, "K m"]], Float[np.ndarray, " m"]],
) -> Float[np.ndarray, " m"]:
    """The law averaged over the posterior, times the mean of wood: importance sampling.

    Draws come from a Student t around the peak, a little wider than the Gaussian there: where
    sensors saturate, the posterior is flat towards dense forest, and the Gaussian is blind to it.
    """
    k, m = u.shape
    rng = stream(0, "oracle")
    factor = np.linalg.cholesky(np.linalg.inv(precision)).astype(np.float32)
    wood = float(np.exp(WOOD_SPREAD**2 / 2))
    top = np.full(m, -np.inf, np.float32)
    weights, total = np.zeros(m, np.float32), np.zeros(m, np.float32)
    half = rng.standard_normal((_DRAWS // 2, k))
    half *= np.sqrt(_FREEDOM / rng.chisquare(_FREEDOM, (_DRAWS // 2, 1)))
    for z in np.concatenate([half, -half]):
        point = u + 1.1 * np.einsum("mij,j->im", factor, z.astype(np.float32))
        density = -0.5 * (_FREEDOM + k) * np.log1p(float(z @ z) / _FREEDOM)
        log_weight = log_posterior(point) - np.float32(density)
        # A running maximum keeps the exponentials in range.
        new_top = np.maximum(top, log_weight)
        old, new = np.exp(top - new_top), np.exp(log_weight - new_top)
        weights = weights * old + new
        total = total * old + new * agb(decode(point), wood)
        top = new_top
    return (total / weights).astype(np.float32)


def _evidence(cube: Cube, end: np.datetime64) -> Iterator[Evidence]:
    terrain = _cell_terrain(cube)
    for name, info in cube.bandsets.items():
        if info.kind == "covariate":
            continue
        reader = cube.reader(name)
        pixels, valid = reader.read(0, 0, cube.grid.height, cube.grid.width)
        scale = np.array([b.scale for b in info.bands], np.float32)[:, None, None]
        offset = np.array([b.offset for b in info.bands], np.float32)[:, None, None]
        for i, date in enumerate(info.dates):
            ok = np.broadcast_to(valid[i], pixels[i].shape)[0]
            physical = pixels[i].astype(np.float32) * scale + offset
            if info.kind == "sar":
                yield _sar_evidence(physical, ok, date, end, terrain)
            else:
                yield _optical_evidence(physical, ok, info, date, end, terrain)


def _optical_evidence(
    x: Float[np.ndarray, "C H W"],
    ok: Shaped[np.ndarray, "H W"],
    info: BandSetInfo,
    date: np.datetime64,
    end: np.datetime64,
    terrain: Terrain,
) -> Evidence:
    mean, share = _cell_means(x, ok)
    clear = share >= _LEAST_CLEAR
    wavelength = np.array([b.wavelength for b in info.bands], np.float64)
    fwhm = np.array([b.fwhm for b in info.bands], np.float64)
    spectra = optics.spectra_at(wavelength, fwhm)
    doy, before = phenology.day_of_year(date), phenology.years_before(date, end)
    light = optics.illumination(terrain, *phenology.sun(doy))
    typical = mean[:, clear].mean(1) if clear.any() else np.full(len(wavelength), 0.2)
    white = _whitener(
        np.hypot(acquire.NOISE / 2, acquire.BAND * typical),
        [
            acquire.HAZE * aerosol(wavelength),
            np.hypot(acquire.GAIN, acquire.TEXTURE) * typical,
            *(shape * typical for shape in acquire.spread_of_weather(wavelength)),
        ],
    )

    def predict(state: State, rows: slice) -> Float[np.ndarray, "C m"]:
        return white @ (optics.reflectance(state, doy, before, spectra) * light[rows])

    return Evidence(white @ mean, clear, predict)


def _sar_evidence(
    x: Float[np.ndarray, "2 H W"],
    ok: Shaped[np.ndarray, "H W"],
    date: np.datetime64,
    end: np.datetime64,
    terrain: Terrain,
) -> Evidence:
    # Speckle is multiplicative: power is averaged, and the mean taken to dB.
    power, share = _cell_means(np.float32(10.0) ** (x / np.float32(10.0)), ok)
    looks = radar.LOOKS * CELL**2
    white = _whitener(
        np.full(2, 10.0 / np.log(10.0) / np.sqrt(looks)),
        [np.full(2, acquire.WET_DB), acquire.RAIN * _DB_PER_WATER],
    )
    doy, before = phenology.day_of_year(date), phenology.years_before(date, end)
    gain = radar.terrain_gain(terrain)

    def predict(state: State, rows: slice) -> Float[np.ndarray, "C m"]:
        return white @ radar.decibel(radar.backscatter(state, doy, before, rain=0.0) * gain[rows])

    return Evidence(white @ radar.decibel(power), share >= _LEAST_CLEAR, predict)


def _whitener(
    independent: Float[np.ndarray, " C"], common: list[Float[np.ndarray, " C"]]
) -> Float[np.ndarray, "C C"]:
    """W with W S W' = 1 for S = diag(independent^2) + sum of common common'."""
    covariance = np.diag(independent**2) + sum(np.outer(c, c) for c in common)
    return np.linalg.inv(np.linalg.cholesky(covariance)).astype(np.float32)


def _cell_means(
    x: Float[np.ndarray, "C H W"], ok: Shaped[np.ndarray, "H W"]
) -> tuple[Float[np.ndarray, "C n"], Float[np.ndarray, " n"]]:
    """Means over the clear pixels of each cell, and their share."""
    total = _cell_sums(np.where(ok, x, np.float32(0)))
    count = _cell_sums(ok[None].astype(np.float32))
    pixels = _cell_sums(np.ones_like(ok, np.float32)[None])
    return total / np.maximum(count, 1), (count / pixels)[0]


def _cell_sums(x: Float[np.ndarray, "C H W"]) -> Float[np.ndarray, "C n"]:
    rows, columns = (np.arange(0, length, CELL) for length in x.shape[-2:])
    sums = np.add.reduceat(np.add.reduceat(x, rows, 1), columns, 2)
    return sums.reshape(len(x), -1)


def _cell_terrain(cube: Cube) -> Terrain:
    reader = cube.reader("dem")
    pixels, _ = reader.read(0, 0, cube.grid.height, cube.grid.width)
    band = cube.bandsets["dem"].bands[0]
    elevation = pixels[0, 0].astype(np.float32) * np.float32(band.scale) + np.float32(band.offset)
    terrain = terrain_of(elevation, cube.grid.gsd)
    everywhere = np.ones(elevation.shape, bool)
    # Aspect is an angle: its vector is averaged.
    east, _ = _cell_means((np.tan(terrain.slope) * np.sin(terrain.aspect))[None], everywhere)
    north, _ = _cell_means((np.tan(terrain.slope) * np.cos(terrain.aspect))[None], everywhere)
    height, _ = _cell_means(elevation[None], everywhere)
    slope = np.arctan(np.hypot(east, north))
    return Terrain(height[0], slope[0], np.arctan2(east, north)[0])
