"""The error of this package, in the form of `rsvlm_jax.config.errors`: one line says it all."""

from __future__ import annotations


class CubeError(Exception):
    """A cube, or a request to one, that cannot be used (exit code 3 on the command line)."""

    exit_code = 3

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        found: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.where, self.expected, self.found = what, where, expected, found
        self.remedy = remedy
        line = what
        if where is not None:
            line += f" in {where}"
        if expected is not None:
            line += f"; expected {expected}"
        if found is not None:
            line += f"; found {found}"
        if remedy is not None:
            line += f"; {remedy}"
        super().__init__(" ".join(line.split()))


class OutputError(CubeError):
    """A cube or a map that cannot be written where it was asked for (exit code 2)."""

    exit_code = 2


class CubeWarning(UserWarning):
    """A cube that is whole but whose numbers look wrong."""
