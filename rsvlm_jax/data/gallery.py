"""The pictures of conversations by path: pixels as the tower reads them, or its features.

Not here: preprocessing (`pictures`), where features come from (`precompute`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from rsvlm_jax.core.shapes import Shaped

from .chat import ChatProcessor
from .features import Features, digest_of

KEPT_BYTES = 2**28
"""Pictures are kept in memory when all of a source take no more."""
LOOKED_UP = 64
"""Images whose features are looked up before training starts."""


class Gallery:
    """Pictures of a source. Pickles without them.

    Attributes:
      shape, dtype: of a picture: [S,S,3], or [P,Dv] of features.
      features: where they come from; None: pixels are read.
      held_bytes: of those that are kept in memory once they were read, at most.
    """

    def __init__(
        self,
        processor: ChatProcessor,
        paths: Iterable[str],
        features: str | os.PathLike[str] | None = None,
        *,
        tower: str | None = None,
    ) -> None:
        """
        Args:
          paths: of all pictures that will be asked for.
          features: a folder.
          tower: digest of the tower that they have to be of; None: any.

        Raises:
          DataError: no features, or those of another tower or preprocessing.
          ConfigError: an image has none. (Some are looked up now, the others when they are read.)
        """
        self._processor = processor
        self.features: Features | None = None
        if features is None:
            size = processor.image.size if processor.image is not None else 0
            self.shape: tuple[int, ...] = (size, size, 3)
            self.dtype = np.dtype(np.float32)
        else:
            pixels = digest_of(processor.image)
            self.features = Features(features, tower=tower, preprocessing=pixels)
            self.shape = self.features.spec.tokens, self.features.spec.width
            self.dtype = self.features.dtype
        names = sorted(set(paths))
        size = len(names) * self.picture_bytes
        self.held_bytes = size if size <= KEPT_BYTES else 0
        self._kept: dict[str, np.ndarray] = {}
        if self.features is not None:
            for path in names[:LOOKED_UP]:
                self.features.find(path)

    @property
    def picture_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def read(self, path: str) -> Shaped[np.ndarray, "..."]:
        """One picture.

        Raises:
          DataError: it cannot be read.
          ConfigError: it has no features.
        """
        found = self._kept.get(path)
        if found is None:
            reader = self._processor.pixels if self.features is None else self.features.read
            found = np.asarray(reader(path), self.dtype)
            if self.held_bytes:  # two threads may both read it: no harm
                self._kept[path] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}
