"""A memo for compiled programs that is safe between threads.

Folds that train in several threads of one process are to share one compilation, which
`functools.lru_cache` does not promise: it may call its function twice for one key. This is a memo
and no state: nothing that it holds changes a result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_made: dict[Hashable, Any] = {}


def made_once(key: Hashable, make: Callable[[], T]) -> T:
    """What `make` gave for an equal key before, or now."""
    with _lock:
        if key not in _made:
            _made[key] = make()
        return _made[key]
