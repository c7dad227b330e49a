"""The largest resident memory of this program so far."""

from __future__ import annotations

from pathlib import Path


def peak() -> int:
    """Bytes. Of `getrusage` a child begins with what its parent had: this begins with the program.

    Linux alone has it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")
