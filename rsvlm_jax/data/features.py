"""Visual features of a frozen tower, computed once: a folder that training reads for its pixels.

    features.json          what they are: tower, preprocessing, P, Dv, type
    00000.npy, .json       a shard [n,P,Dv], and the images it holds: digest and checksum of each
    00001.npy, .json ...

An image is known by the SHA-256 of its file, whatever its name, so files may be moved or renamed
and none can be mistaken for another. A shard counts once its `.json` stands there, which is written
last: a writer that was killed goes on after its last whole shard. Features take more room than
pictures: 576 x 1024 numbers of two bytes are 1.2 MB an image. Not here: writing (`precompute`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from google_crc32c import value as crc32c

from rsvlm_jax.config import ConfigError, DataError
from rsvlm_jax.core.shapes import Shaped

Stored = Literal["float32", "float16", "bfloat16"]
VERSION = 1
"""Of the folder. Raised when a field changes its meaning."""
STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """What a folder holds.

    Attributes:
      tower: digest of the tower's configuration and weights (`digest_of`).
      preprocessing: digest of how a picture becomes pixels.
      tokens, width: P and Dv.
      dtype: as stored.
    """

    tower: str
    preprocessing: str
    tokens: int
    width: int
    dtype: Stored
    version: int = VERSION


def digest_of(what: object, arrays: Mapping[str, Any] | None = None) -> str:
    """SHA-256 of a description (its `repr`, as of a frozen configuration) and of named arrays."""
    h = hashlib.sha256(repr(what).encode())
    for name, array in sorted((arrays or {}).items()):
        x = np.ascontiguousarray(array)
        h.update(f"{name} {x.shape} {x.dtype}".encode())
        h.update(x.tobytes())
    return h.hexdigest()


class Features:
    """A folder of features, read by image. Pickles as its path; shards are memory maps."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        tower: str | None = None,
        preprocessing: str | None = None,
    ) -> None:
        """
        Args:
          tower, preprocessing: digests that the features have to be of; None: any.

        Raises:
          DataError: no such folder, or features of another tower or preprocessing.
        """
        self.folder = Path(folder)
        self.spec = read_spec(self.folder)
        check_spec(self.spec, self.folder, tower, preprocessing)
        self._open()

    def __len__(self) -> int:
        return len(self._at)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(STORED[self.spec.dtype])

    def read(self, path: str | os.PathLike[str]) -> Shaped[np.ndarray, "P Dv"]:
        """The features of an image, as stored.

        Raises:
          DataError: the image cannot be read, nor could it when features were computed; or its
            features are damaged.
          ConfigError: there are none of it.
        """
        key = self.find(path)
        if key in self._unread:
            raise DataError(f"an unreadable image ({self._unread[key]})", where=path)
        shard, row, checksum = self._at[key]
        stored = np.array(self._map(shard)[row])
        found = crc32c(stored.tobytes())
        if found != checksum:
            raise DataError(
                "damaged features", where=f"{self.folder / shard}.npy[{row}]",
                expected=f"CRC-32C {checksum:08x}", found=f"{found:08x}",
                remedy=f"delete {shard}.json and compute them again",
            )  # fmt: skip
        return stored.view(self.dtype)

    def find(self, path: str | os.PathLike[str]) -> str:
        """The digest of an image that the writer has met.

        Raises:
          DataError: there is no such image.
          ConfigError: its content is new.
        """
        try:
            key = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        except OSError as error:
            raise DataError("an unreadable image", where=path, found=error.strerror) from error
        if key not in self._at and key not in self._unread:
            raise ConfigError(
                "an image without features",
                where=self.folder,
                expected=path,
                found=f"{len(self)} others",
                remedy="compute them: rsvlm features (it goes on where it stopped)",
            )
        return key

    def _map(self, shard: str) -> np.ndarray:
        if shard not in self._maps:  # two threads may both open it: no harm
            path = self.folder / f"{shard}.npy"
            try:
                self._maps[shard] = np.load(path, mmap_mode="r")
            except (OSError, ValueError) as error:
                raise DataError(
                    "damaged features", where=path, found=error,
                    remedy=f"delete {shard}.json and compute them again",
                ) from error  # fmt: skip
        return self._maps[shard]

    def _open(self) -> None:
        self._maps: dict[str, np.ndarray] = {}
        self._at: dict[str, tuple[str, int, int]] = {}
        self._unread: dict[str, str] = {}
        for shard, index in shards(self.folder):
            for row, (key, checksum) in enumerate(index["images"]):
                self._at[key] = shard, row, checksum
            self._unread.update(index["unread"])

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "spec": self.spec}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def shards(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.glob("[0-9]*.json")):
        yield path.stem, _read_json(path)


def read_spec(folder: Path) -> FeatureSpec:
    found = _read_json(folder / "features.json")
    names = {f.name for f in dataclasses.fields(FeatureSpec)}
    if set(found) != names or found["version"] != VERSION or found["dtype"] not in STORED:
        raise DataError(
            "not a folder of features", where=folder / "features.json",
            expected=f"version {VERSION} with {', '.join(sorted(names))}",
            found=f"version {found.get('version')} with {', '.join(sorted(found))}",
        )  # fmt: skip
    return FeatureSpec(**found)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            "no readable features", where=path, found=error.strerror,
            remedy="compute them: rsvlm features",
        ) from error  # fmt: skip
    except ValueError as error:
        raise DataError(f"not JSON ({error})", where=path) from error


def check_spec(
    spec: FeatureSpec,
    folder: Path,
    tower: str | None,
    preprocessing: str | None,
    dtype: str | None = None,
) -> None:
    given = {"tower": tower, "preprocessing": preprocessing, "dtype": dtype}
    for name, wanted in given.items():
        found = getattr(spec, name)
        if wanted is not None and wanted != found:
            raise DataError(
                f"features of another {name}",
                where=folder,
                expected=wanted[:12],
                found=found[:12],
                remedy="compute them anew in another folder: rsvlm features",
            )
