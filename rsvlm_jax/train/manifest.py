"""SHA-256 manifests: a directory that says itself whether it is whole.

Orbax commits a checkpoint atomically but does not notice a byte that changes afterwards; measured,
29 of 30 single flipped bits were restored silently wrong. `manifest.json` is written after the
commit, so its presence says "finished" and its digests say "unchanged"::

    {"format": 1, "step": 9, "tree": {path: [shape, dtype]}, "files": {name: [bytes, sha256]},
     "digest": sha256 of all this without "digest"}

Every format has "format" and "digest", so that an older program knows a newer one from damage.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from rsvlm_jax.config import CheckpointError

NAME = "manifest.json"
FORMAT = 1
"""What is written. Formats up to it are read: tests/faults/fixtures/ holds a checkpoint of each."""

SHOWN = 3
"""Differences that an error lists on each side."""

Shapes = dict[str, tuple[tuple[int, ...], str]]
"""Shape and dtype by path."""


class Damaged(Exception):
    """A directory is not what its manifest says; the message names the file and the difference."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint directory holds.

    Attributes:
      step: of the training state.
      tree: shape and dtype of every array by its path in the state.
      files: size and SHA-256 of every file by its name relative to the directory.
    """

    step: int
    tree: Shapes
    files: dict[str, tuple[int, str]]


def write(directory: Path, step: int, tree: Shapes) -> None:
    """Digest all files of a finished directory into its manifest, atomically."""
    files = {
        path.relative_to(directory).as_posix(): (path.stat().st_size, _sha256(path))
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != NAME
    }
    body = {"format": FORMAT, "step": step, "tree": tree, "files": files}
    body["digest"] = digest(body)
    temporary = directory / f".{NAME}.tmp"
    with open(temporary, "w") as f:
        json.dump(body, f, indent=1, sort_keys=True)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, directory / NAME)


def read(directory: Path) -> Manifest:
    """The manifest of a directory, itself checked; the files are not (`verify`).

    Raises:
      FileNotFoundError: there is none, so the checkpoint was never finished.
      Damaged: it is unreadable or was changed.
      CheckpointError: a newer program wrote it.
    """
    path = directory / NAME
    try:
        body: dict[str, Any] = json.loads(path.read_bytes())
        said = body.pop("digest")
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, AttributeError, OSError) as e:
        raise Damaged(f"{path} is unreadable ({type(e).__name__})") from e
    if said != digest(body):
        raise Damaged(f"{path} does not match its own digest")
    if body["format"] > FORMAT:
        raise CheckpointError(
            "a checkpoint of a newer format",
            where=path,
            expected=f"format {FORMAT} at most",
            found=f"format {body['format']}",
            remedy="update rsvlm_jax to the version that wrote it",
        )
    return Manifest(
        step=body["step"],
        tree={p: (tuple(shape), dtype) for p, (shape, dtype) in body["tree"].items()},
        files={name: (size, sha) for name, (size, sha) in body["files"].items()},
    )


def verify(directory: Path, manifest: Manifest, part: int = 0, parts: int = 1) -> None:
    """Compare every file with the manifest; of several `parts` one.

    Raises:
      Damaged: the first file that is missing, unreadable, of another size, or of other content.
    """
    for name, (size, sha) in list(manifest.files.items())[part::parts]:
        path = directory / name
        if not path.is_file():
            raise Damaged(f"{path} is missing")
        try:
            found, said = path.stat().st_size, _sha256(path)
        except OSError as e:
            raise Damaged(f"{path} cannot be read ({e.strerror})") from e
        if found != size:
            raise Damaged(f"{path} is {'truncated' if found < size else 'too long'}: "
                          f"{found} bytes of {size}")  # fmt: skip
        if said != sha:
            raise Damaged(f"{path} has changed: its SHA-256 is not the recorded one")


def compare(saved: Shapes, wanted: dict[str, Any], where: Path) -> None:
    """Refuse a checkpoint of another model, naming what differs on both sides.

    Raises:
      CheckpointError: other paths, shapes or dtypes than `wanted` (arrays by path).
    """
    want = {p: (tuple(x.shape), str(x.dtype)) for p, x in wanted.items()}
    differ = [p for p in want if p in saved and saved[p] != want[p]]
    missing = [p for p in want if p not in saved]
    extra = [p for p in saved if p not in want]
    if not (differ or missing or extra):
        return

    def show(paths: list[str], of: Shapes) -> str:
        rows = [f"{p} {of[p][1]}{list(of[p][0])}" for p in paths[:SHOWN]]
        return ", ".join(rows) + (f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else "")

    raise CheckpointError(
        "a checkpoint of another model",
        where=str(where),
        expected=show(differ + missing, want) or "nothing beside the model's own arrays",
        found=show(differ + extra, saved) or "no such arrays",
        remedy="use the configuration that it was trained with",
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def digest(body: dict[str, Any]) -> str:
    """Of a manifest without its "digest": the same in every format."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
