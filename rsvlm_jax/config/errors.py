"""The errors that a user may meet, each with its exit code.

One line says it all: what went wrong, where (file, field, sample), what was expected, what was
found, and the remedy. `data_zarr.errors.CubeError` follows the same form for cubes; the command
line turns both into `error: <line>` and the exit code, with a traceback only under `--debug`.
"""

from __future__ import annotations


class RsvlmError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what the command line returns."""

    exit_code = 1

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

    def at(self, place: object) -> RsvlmError:
        """The same error, with the place (file, entry) that its finder did not know."""
        return type(self)(
            self.what,
            where=place if self.where is None else f"{place}, {self.where}",
            expected=self.expected,
            found=self.found,
            remedy=self.remedy,
        )


class ConfigError(RsvlmError):
    """A wrong option, key, value or combination (exit code 2)."""

    exit_code = 2


class DataError(RsvlmError):
    """Data that cannot be used as asked (exit code 3)."""

    exit_code = 3


class CheckpointError(RsvlmError):
    """A checkpoint that is missing, damaged or of another model (exit code 4)."""

    exit_code = 4


class NonFiniteError(RsvlmError):
    """The loss or the gradient is no longer finite (exit code 5)."""

    exit_code = 5


class PeerLost(RsvlmError):
    """A process of the run died; start all again to resume (exit code 76)."""

    exit_code = 76


class Preempted(RsvlmError):
    """Stopped by a signal after a checkpoint was saved; run again to resume (exit code 75)."""

    exit_code = 75
