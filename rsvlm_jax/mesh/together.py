"""What the processes of one run tell each other, and which rows of a batch each of them holds.

    first(about, value)     process 0's value, on all
    each(about, value)      the values of all, in order
    rows_of(sharding, B)    the rows of a batch of B that lie on this process's devices

Small JSON values through the key-value store of JAX's coordination service: no device takes part,
so a thread may ask while the main thread computes. All processes make the same calls of one `about`
in the same order. In a run of one process nothing is asked and nothing waits. Not here: how
processes find one another, and what becomes of those whose peer is lost
(`rsvlm_jax.run.processes`).
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

# JAX has no public way to its key-value store; Orbax and others go the same.
from jax._src import distributed
from jax.sharding import Sharding

from rsvlm_jax.config import ConfigError
from rsvlm_jax.core.shapes import Int

PATIENCE = 24 * 3600
"""Seconds that a value is waited for. Not what ends a wait for the dead: heartbeats do."""

_calls: dict[str, Any] = collections.defaultdict(itertools.count)
_counting = threading.Lock()


def count() -> int:
    """Processes of the run."""
    return distributed.global_state.num_processes if client() is not None else 1


def index() -> int:
    """Of this process, from 0."""
    return distributed.global_state.process_id if client() is not None else 0


def client() -> Any:
    """JAX's coordination client; None in a run of one process."""
    return distributed.global_state.client


def first(about: str, value: Any = None) -> Any:
    """The JSON value of process 0, whatever the others give."""
    if count() == 1:
        return value
    key = key_of(about)
    if index() == 0:
        client().key_value_set(key, json.dumps(value))
        return value
    return json.loads(client().blocking_key_value_get(key, PATIENCE * 1000))


def each(about: str, value: Any = None) -> list[Any]:
    """The JSON values of all processes, in order. Returns when all have given theirs."""
    if count() == 1:
        return [value]
    key = key_of(about)
    client().key_value_set(f"{key}/{index()}", json.dumps(value))
    found = [client().blocking_key_value_get(f"{key}/{i}", PATIENCE * 1000) for i in range(count())]
    return [json.loads(text) for text in found]


def when_set(key: str, do: Callable[[str], None]) -> None:
    """Call `do` in a thread, with its value, once any process has set a key."""

    def wait() -> None:
        with contextlib.suppress(Exception):  # the run is over, or JAX aborts all
            do(client().blocking_key_value_get(key, PATIENCE * 1000))

    threading.Thread(target=wait, name=key, daemon=True).start()


def key_of(about: str) -> str:
    """A key of the store that is used once: the same on all processes, another with each call."""
    with _counting:
        return f"rsvlm/{about}/{next(_calls[about])}"


def rows_of(sharding: Sharding, batch_size: int) -> Int[np.ndarray, " b"]:
    """The rows of a batch that this process's devices hold, ascending.

    A process reads these and no others. They need not lie together: devices of a pod stand in the
    mesh as their links are. Processes that share rows (an axis that does not split the batch lies
    over both) each read them.

    Args:
      sharding: of a batch; its first axis.

    Raises:
      ConfigError: the devices do not divide the batch.
    """
    try:
        places = sharding.addressable_devices_indices_map((batch_size,))
        sharding.shard_shape((batch_size,))
    except ValueError as e:
        raise ConfigError(
            "the batch does not divide over the devices",
            where="TrainConfig.batch_size",
            expected="a multiple of the devices along data and fsdp, of all processes",
            found=f"{batch_size} over {sharding.num_devices} devices, {count()} processes",
        ) from e
    parts = [np.arange(batch_size)[place[0]] for place in places.values() if place is not None]
    return np.unique(np.concatenate(parts)) if parts else np.arange(0)
