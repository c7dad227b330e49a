"""`rsvlm doctor`: what is installed, what devices there are, what works."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .options import parse

REQUIRED = [
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "xarray", "zarr",
    "tensorstore", "dask", "tokenizers", "transformers", "safetensors", "scikit-learn", "pyproj",
]  # fmt: skip
OPTIONAL = {"rasterio": "GeoTIFF output (pip install 'rsvlm-jax[geo]')"}


@dataclasses.dataclass(frozen=True)
class Options:
    """Check the installation; exit code 2 when something needed does not work."""


def run(args: Sequence[str]) -> dict[str, object]:
    parse(Options, args, prog="rsvlm doctor")
    versions = {"python": platform.python_version()}
    for name in [*REQUIRED, *OPTIONAL]:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
    checks = {
        "devices": _devices,
        "a jitted step": _jit,
        "attention": _attention,
        "the shipped decoder": _decoder,
        "the shipped cubes": _cubes,
        "writing": _writing,
        "disk": lambda: f"{shutil.disk_usage('.').free / 2**30:.1f} GiB free here",
    }
    results = {name: _attempt(check) for name, check in checks.items()}
    for name, version in versions.items():
        note = f"  ({OPTIONAL[name]})" if version == "missing" and name in OPTIONAL else ""
        print(f"{name:18} {version}{note}")
    for name, (ok, text) in results.items():
        print(f"{'ok  ' if ok else 'FAIL'} {name}: {text}")
    missing = [n for n in REQUIRED if versions[n] == "missing"]
    failed = [n for n, (ok, _) in results.items() if not ok]
    return {
        "versions": versions,
        "checks": {n: {"ok": ok, "text": text} for n, (ok, text) in results.items()},
        "exit_code": 2 if missing or failed else 0,
    }


def _attempt(check) -> tuple[bool, str]:
    try:
        return True, str(check())
    except Exception as e:  # the report is the point: any failure is a finding
        return False, f"{type(e).__name__}: {e}"


def _devices() -> str:
    import jax

    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind} ({jax.default_backend()})"


def _jit() -> str:
    import jax
    import jax.numpy as jnp

    x = jnp.arange(6.0).reshape(2, 3)
    value = float(jax.jit(lambda a: (a @ a.T).sum())(x))
    if value != 83.0:
        raise ValueError(f"expected 83, found {value}")
    return "83 = 83"


def _attention() -> str:
    import jax.numpy as jnp

    from rsvlm_jax.nn import Mask
    from rsvlm_jax.nn.kernels import Sizes, choose, target

    made = choose(Sizes(2048, 2048, 128, jnp.bfloat16), Mask(causal=True), target())
    return f"{made.kernel} for long sequences: {made.reason}"


def _decoder() -> str:
    from rsvlm_jax.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.shipped()
    text = "Once upon a time"
    if tokenizer.decode(tokenizer.encode(text)).strip() != text:
        raise ValueError("the tokenizer does not round-trip")
    return f"{tokenizer.size} tokens"


def _cubes() -> str:
    from data_zarr import open_cube
    from data_zarr.samples import SAMPLES, sample_path

    return ", ".join(f"{n} {open_cube(sample_path(n)).grid.height} px high" for n in SAMPLES)


def _writing() -> str:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        (Path(folder) / "x").write_text("x")
    return "this folder"
