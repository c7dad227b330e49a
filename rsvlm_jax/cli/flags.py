"""Flags of the compiler in the environment, asked about before they end the process.

XLA ends a process whose XLA_FLAGS it cannot read, from C++: no exception, no exit code of ours. So
they are tried in a small process first (a fifth of a second), where there are any.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping

from rsvlm_jax.config import ConfigError

_KNOWN = "--xla_force_host_platform_device_count="
_PROBE = "from jaxlib import xla_client; xla_client.make_cpu_client()"


def check_flags(environment: Mapping[str, str]) -> None:
    """Refuse XLA_FLAGS that XLA does not take.

    Raises:
      ConfigError: names the flags that are unknown, or all where one has a wrong value.
    """
    flags = environment.get("XLA_FLAGS", "")
    if all(word.startswith(_KNOWN) for word in flags.split()):
        return
    probe = subprocess.run(
        [sys.executable, "-c", _PROBE], env=dict(environment), capture_output=True, text=True
    )
    if probe.returncode == 0:
        return
    unknown = re.search(r"Unknown flags? in XLA_FLAGS: (.*)", probe.stderr)
    if unknown is None:
        raise ConfigError("XLA cannot read its flags", where="XLA_FLAGS", found=flags)
    raise ConfigError(
        "a flag that XLA does not know",
        where="XLA_FLAGS",
        found=unknown[1].strip(),
        remedy="mend or unset it; flags of TPUs go into LIBTPU_INIT_ARGS",
    )
