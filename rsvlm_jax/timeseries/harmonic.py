"""Harmonic regression: a level, a trend and the waves of a year, of every pixel at once.

    values [pixels T], times [T] or [pixels T] (decimal years), mask  ->  `Harmonic` of [pixels]

    value(t) = c0 + c1 (t - origin) + sum over k of  c2k cos(2 pi k t) + c2k+1 sin(2 pi k t)

Not change detection (`breaks.py`, `monitor.py`): one model for all dates. In float64 least squares
and Huber's estimate are those of `statsmodels`, the LASSO is that of scikit-learn.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from rsvlm_jax.config.errors import ConfigError, DataError
from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Bool, Float, Int

from .blocks import LEAST, Numbers, counted, in_blocks, refuse
from .estimators import Fit, huber, lasso, least_squares
from .products import least_squares_shared
from .regressors import columns, nearby, seasons
from .result import Code
from .rows import in_rows
from .sen import MIN_DATES

Estimator = Literal["ols", "huber", "lasso"]

ORIGIN = 2000.0
"""The year in which the level `c0` of a fit with a trend stands."""

PENALTY = 20.0
"""CCDC's, of reflectances x 10000."""

BLOCK = 65_536
"""Numbers of a block, about: products of matrices want them wider than pairs do."""


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Harmonic:
    """A fit a pixel; NaN with a code where there is none.

    Attributes:
      coefficients: [pixels, 2 + 2K]: level at `origin`, slope per year, cos and sin of one wave a
        year, of two ... The slope is 0 where the model has no trend.
      rmse: [pixels], the root of the sum of squared residuals over n less the coefficients fitted.
      stderr: [pixels, 2 + 2K], of the coefficients; None for the LASSO, which has none.
      covariance: [pixels, 2 + 2K, 2 + 2K], of the coefficients; None unless asked for.
      n: int32 [pixels], observations.
      code: int32 [pixels], a `Code`; `UNDEFINED`: the dates do not tell the coefficients apart.
      origin: decimal year, see `coefficients`.
    """

    coefficients: Any
    rmse: Any
    stderr: Any
    covariance: Any
    n: Any
    code: Any
    origin: float = dataclasses.field(default=ORIGIN, metadata={"static": True})

    @property
    def harmonics(self) -> int:
        """K."""
        return self.coefficients.shape[1] // 2 - 1

    @property
    def slope(self) -> Any:
        """[pixels], per year."""
        return self.coefficients[:, 1]

    @property
    def intercept(self) -> Any:
        """[pixels], the level at time 0, as `Trend` has it."""
        return self.coefficients[:, 0] - self.coefficients[:, 1] * self.origin

    @property
    def amplitude(self) -> Any:
        """[pixels, K], of every wave."""
        waves = self.coefficients[:, 2:].reshape(len(self.coefficients), -1, 2)
        return (waves**2).sum(2) ** 0.5

    def regressors(self, times: Numbers) -> Float[jax.Array, "rows T p"]:
        """What the coefficients are multiplied with at some times, [1 or pixels, T, 2 + 2K]."""
        dtype = self.coefficients.dtype
        whole = float(np.floor(self.origin))
        t = jnp.atleast_2d(jnp.asarray(times - np.asarray(whole, times.dtype), dtype))
        line = t - jnp.asarray(self.origin - whole, dtype)
        found = jnp.stack([jnp.ones_like(t), line, *seasons(t, self.harmonics)], axis=2)
        known = (t == t)[:, :, None]
        return jnp.where(known, found, jnp.asarray(jnp.nan, dtype))

    def predict(
        self, times: Float[Numbers, " N"] | Float[Numbers, "pixels N"]
    ) -> Float[jax.Array, "pixels N"]:
        """The fitted values at some times, decimal years; NaN where a pixel has no fit."""
        x = self.regressors(times)
        if x.shape[0] == 1:
            return jnp.einsum("tp,np->nt", x[0], self.coefficients, precision="highest")
        return jnp.einsum("ntp,np->nt", x, self.coefficients, precision="highest")

    def residuals(self, values: Float[Numbers, "pixels T"], times: Any) -> Any:
        """Values less the fit, [pixels, T]."""
        return values - self.predict(times)


def harmonic_fit(
    values: Float[Numbers, "pixels T"],
    times: Float[Numbers, " T"] | Float[Numbers, "pixels T"],
    mask: Bool[Numbers, "pixels T"] | None = None,
    *,
    harmonics: int = 2,
    trend: bool = True,
    method: Estimator = "ols",
    penalty: float = PENALTY,
    origin: float = ORIGIN,
    covariance: bool = False,
    least: int | None = None,
) -> Harmonic:
    """Level, trend and harmonics of every pixel.

    Args:
      values: [pixels, T], float32 or float64 (the latter under `jax.enable_x64`). NaN and infinite
        values do not count.
      times: decimal years (`decimal_years`), in any order, with gaps; [T] or [pixels, T]. NumPy
        arrays are brought near zero in their own precision: float64 years serve float32 values.
      mask: True = counts; None = everything finite.
      harmonics: waves a year, 1 to 4.
      trend: whether there is a slope.
      method: `ols`; `huber` (bend 1.345, scale by the median absolute residual); `lasso`.
      penalty: of the LASSO, in the unit of the values: on the coefficients of standardised
        regressors, the squares halved and averaged. CCDC takes 20 for reflectances x 10000.
      origin: the year of the level.
      covariance: whether the covariance of the coefficients is given (not of the LASSO).
      least: pixels with fewer observations get `Code.TOO_FEW`; None: one more than coefficients.

    Returns:
      `Harmonic`.

    Raises:
      DataError: shapes or types that do not fit. ConfigError: an option.
    """
    check_model(harmonics, method)
    fitted = 1 + trend + 2 * harmonics
    least = max(fitted + 1, MIN_DATES) if least is None else least
    if least <= fitted:
        raise ConfigError(
            "too few observations for the coefficients", where="least", found=least,
            expected=f"{fitted + 1} or more",
        )  # fmt: skip
    if not 0 <= penalty < np.inf:
        raise ConfigError("no penalty", where="penalty", expected="0 or more", found=penalty)
    if covariance and method == "lasso":
        raise ConfigError(
            "the LASSO has no covariance", where="covariance", remedy="leave it, or fit by ols"
        )
    if not np.issubdtype(times.dtype, np.floating):
        raise DataError("times are no years", found=times.dtype, remedy="use `decimal_years`")
    near, base = nearby(times)
    refuse(values, near, mask, "pixels T")
    dtype = values.dtype
    found = _fit(
        values, near.astype(dtype), mask, jnp.asarray(origin - base, dtype), harmonics=harmonics,
        trend=trend, method=method, penalty=penalty, covariance=covariance, least=least,
    )  # fmt: skip
    return dataclasses.replace(found, origin=float(origin))


def check_model(harmonics: int, method: str = "ols") -> None:
    """Raises `ConfigError` for a number of waves outside 1 to 4, or an unknown estimator."""
    if not 1 <= harmonics <= 4:
        raise ConfigError("no such model", where="harmonics", expected="1 to 4", found=harmonics)
    if method not in get_args(Estimator):
        raise ConfigError(
            "unknown option", where="method", expected=" | ".join(get_args(Estimator)), found=method
        )


@functools.partial(
    jax.jit,
    static_argnames=("harmonics", "trend", "method", "penalty", "covariance", "least"),
)
def _fit(
    values: Any, times: Any, mask: Any, origin: Any, *, harmonics: int, trend: bool, method: str,
    penalty: float, covariance: bool, least: int,
) -> Harmonic:  # fmt: skip
    def model(t: Any) -> tuple[Any, Any, Any]:
        centre, span = extent(t)
        line = (t - centre[None]) / span[None] if trend else None
        return columns(t, line, harmonics), centre, span

    def body(x: Any, t: Any) -> Harmonic:
        x, t = x[:, 0], t[:, 0]
        there = x == x
        n = there.sum(0, dtype=jnp.int32)
        level = jnp.where(there, x, 0).sum(0) / jnp.maximum(n, 1).astype(x.dtype)
        y = jnp.where(there, x - level[None], 0)
        weight = there.astype(x.dtype)
        design, centre, span = model(t)
        if method == "ols":
            fit = least_squares(design, y, weight)
        elif method == "huber":
            fit = huber(design, y, weight)
        else:
            fit = lasso(design, y, weight, penalty)
        return answer(fit, level, n, code_of(x, n, least), centre, span)

    def shared(values: Any, mask: Any = None) -> Harmonic:
        x, t = counted(values, times, mask)
        design, centre, span = model(t[:, None])
        fit, level, n = least_squares_shared(design[:, :, 0], x, x == x)
        n = n.astype(jnp.int32)
        return answer(fit, level, n, code_of(x, n, least, axis=1), centre, span)

    def answer(fit: Fit, level: Any, n: Any, code: Any, centre: Any, span: Any) -> Harmonic:
        freedom = jnp.maximum(n - fit.beta.shape[0], 1).astype(level.dtype)
        code = jnp.where((code == 0) & ~fit.done, int(Code.NOT_CONVERGED), code)
        code = jnp.where((code == 0) & ~fit.definite, int(Code.UNDEFINED), code)
        off = (origin - centre) / span
        beta = fit.beta.at[0].add(level)
        ok = code == 0

        def known(a: Any) -> Any:
            return jnp.where(ok.reshape(-1, *(1,) * (a.ndim - 1)), a, jnp.nan)

        stderr, kept = None, None
        if fit.covariance is not None:
            own = variances(fit.covariance, off, span, trend)
            stderr = known(jnp.sqrt(jnp.maximum(own, 0)).T)
        if covariance:
            kept = known(spread(fit.covariance, off, span, trend).transpose(2, 0, 1))
        beta = from_centre(beta, off, span, trend)
        rmse = known(jnp.sqrt(fit.ssr / freedom))
        return Harmonic(known(beta.T), rmse, stderr, kept, n, code.astype(jnp.int32))

    if method == "ols" and times.ndim == 1:
        series = (values,) if mask is None else (values, mask)
        return in_rows(shared, series, max(BLOCK // max(values.shape[1], 1), LEAST))
    x, times = counted(values, times, mask)
    return in_blocks(body, x[:, :, None], times, numbers=BLOCK)


def code_of(x: Float[Any, "R C"], n: Int[Any, " B"], least: int, axis: int = 0) -> Int[Any, " B"]:
    """`Code` by what there is, before a fit; dates along an axis of x."""
    low = jnp.min(jnp.where(x == x, x, jnp.asarray(jnp.inf, x.dtype)), axis=axis)
    high = jnp.max(jnp.where(x == x, x, -jnp.asarray(jnp.inf, x.dtype)), axis=axis)
    code = jnp.where(low == high, int(Code.CONSTANT), int(Code.OK))
    code = jnp.where(n < least, int(Code.TOO_FEW), code)
    return jnp.where(n == 0, int(Code.ALL_MASKED), code)


def extent(t: Float[Any, "T Bt"]) -> tuple[Float[Any, " Bt"], Float[Any, " Bt"]]:
    """The middle of the times and half of their range (1 where there is none)."""
    known = t == t
    low = jnp.min(jnp.where(known, t, jnp.asarray(jnp.inf, t.dtype)), axis=0)
    high = jnp.max(jnp.where(known, t, -jnp.asarray(jnp.inf, t.dtype)), axis=0)
    some = high > low
    half = jnp.asarray(0.5, t.dtype)
    centre = jnp.where(jnp.isfinite(low), half * (low + high), 0)
    return centre, jnp.where(some, half * (high - low), 1)


def from_centre(beta: Float[Any, "p ..."], off: Any, span: Any, trend: bool) -> Any:
    """Coefficients of (t - centre) / span as those of (t - origin).

    Args:
      beta: [p, B], or rows of a covariance [p, p, B].
      off: [B or 1], the origin less the centre, over the span.
      trend: where False, a slope of 0 is put in.
    """
    if not trend:
        return jnp.insert(beta, 1, 0, axis=0)
    off, span = (a.reshape(*(1,) * (beta.ndim - 2), -1) for a in (off, span))
    return jnp.concatenate([(beta[0] + beta[1] * off)[None], (beta[1] / span)[None], beta[2:]])


def variances(covariance: Float[Any, "p p B"], off: Any, span: Any, trend: bool) -> Any:
    """The diagonal of `spread`, [p B]."""
    own = jnp.arange(covariance.shape[0])
    found = covariance[own, own]
    if not trend:
        return jnp.insert(found, 1, 0, axis=0)
    level = found[0] + off * (2 * covariance[0, 1] + off * found[1])
    return jnp.concatenate([level[None], (found[1] / span**2)[None], found[2:]])


def spread(covariance: Float[Any, "p p B"], off: Any, span: Any, trend: bool) -> Any:
    """The covariance of what `from_centre` gives."""
    for _ in range(2):
        covariance = from_centre(covariance, off, span, trend).transpose(1, 0, 2)
    return covariance
