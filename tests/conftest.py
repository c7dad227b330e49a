"""Strictness for all tests: eight CPU devices, no silent promotion, our own warnings are errors.

The environment is set before JAX is first imported, so no test file sets flags of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile

_flags = os.environ.get("XLA_FLAGS", "")
if not re.search("host_platform_device_count", _flags):
    os.environ["XLA_FLAGS"] = f"{_flags} --xla_force_host_platform_device_count=8".strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("MPLBACKEND", "Agg")
# Of torch: its threads wait for each other longer than a tiny model takes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Of one run of pytest, for all its workers, and not for the programs that tests start: some of
# these are killed, and would leave half a file.
if "RSVLM_TEST_PROGRAMS" not in os.environ:
    os.environ["RSVLM_TEST_PROGRAMS"] = tempfile.mkdtemp(prefix="programs_")
_programs = os.environ["RSVLM_TEST_PROGRAMS"]

import hypothesis
import jax
import jaxtyping
import pytest

# A change is judged by the same examples every time; `make test-full` looks for new ones.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("search", deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("RSVLM_EXAMPLES", "same"))

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tests run each program a few times: compiling takes longer than running it badly.
jax.config.update("jax_disable_most_optimizations", True)
# And several files compile the same: one fifth of the time of those that train.
jax.config.update("jax_compilation_cache_dir", _programs)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(_programs, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: with two workers, what comes last runs alone (`--no-loadscope-reorder`, or
    files would come by their number of tests)."""
    long = ("/processes/", "/system/", "/run/")
    items.sort(key=lambda item: next((i for i, n in enumerate(long) if n in str(item.path)), 9))


@pytest.fixture
def untyped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types are checked at run time in tests alone: what refuses a value must not be that."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module", autouse=True)
def _free_programs():
    """Compiled programs of a finished file are of no use to the next, and take gigabytes."""
    yield
    jax.clear_caches()
