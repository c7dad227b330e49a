"""Imported models against the torch originals: the largest differences that the tests find."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from .figure import Figure

TESTS = Path(__file__).parents[2] / "tests" / "parity"
LIMITS = {"states": 1e-5, "logits": 1e-4, "gradients": 1e-4}


def figures() -> Iterator[Figure]:
    words = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.xml"
        done = subprocess.run(
            [*words, str(TESTS), f"--junitxml={file}"],
            stdout=subprocess.DEVNULL,
            check=False,
        )
        cases = list(ET.parse(file).iter("testcase"))
    failed = sum(any(c.find(k) is not None for k in ("failure", "error")) for c in cases)
    found: dict[tuple[str, str], float] = {}
    for case in cases:
        name = re.search(r"\[([a-z0-9_]+)", case.get("name", ""))
        for p in case.iter("property"):
            kind = p.get("name", "")
            if name is not None and kind in LIMITS:
                at = (name[1], kind)
                found[at] = max(found.get(at, 0.0), float(p.get("value", "nan")))
    for (name, kind), value in sorted(found.items()):
        yield Figure(f"parity.{name}.{kind}", value, "relative", at_most=LIMITS[kind])
    yield Figure("parity.tests", len(cases), "-", at_least=1)
    yield Figure("parity.tests_failed", failed + (done.returncode != 0), "-", at_most=0)
