"""The decode loop in chunks: tokens, and text, while they come.

    for chunk in stream(decoder, prefix, valid, config=config, eos=2, decode=tokenizer.decode):
        print(chunk.text[0], end="", flush=True)

The first chunk is one token, so that it comes as soon as the prompt is read; the others are of the
size asked for, or grow as long as they come faster than anybody reads, because what a chunk costs
on the host does not depend on its size. While a chunk is looked at the next one is already under
way; only where stop strings are in use does it wait for the look, because a text that ends must not
cost a chunk more.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import jax
import numpy as np

from .engine import State, View, cut, go_on, result, start
from .request import Request
from .result import Chunk, Generated
from .text import Decode, TextStream

CHUNK = 8
"""Tokens of a chunk at first, where no size is asked for."""
UNSEEN = 0.01
"""Seconds: chunks that come faster are doubled."""


class Stream:
    """An iterator over chunks; made by `stream`."""

    def __init__(
        self, request: Request, chunk: int | None, decode: Decode | None, stop: tuple[str, ...]
    ) -> None:
        # From the host they would be handed over anew with every chunk.
        self._request = dataclasses.replace(request, rules=jax.device_put(request.rules))
        self._chunk = CHUNK if chunk is None else chunk
        self._grows = chunk is None
        self._waits = bool(stop)
        self._until = 0
        self._state: State
        self._view: View
        self._state, self._view = start(request)
        rows = self._view.tokens.shape[0]
        self._texts = None if decode is None else [TextStream(decode, stop) for _ in range(rows)]
        self._stopped = np.zeros(rows, bool)  # by a stop string, and after how many tokens
        self._length = np.zeros(rows, np.int32)
        self._chunks = self._run()
        self._result: Generated | None = None

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        return next(self._chunks)

    @property
    def result(self) -> Generated:
        """The whole, as `generate` gives it; what was not asked for yet is generated first."""
        for _ in self._chunks:
            pass
        if self._result is None:
            if self._request.plan.last:
                self._go_on(self._request.plan.reads)
            state, view = self._state, self._view
            if self._stopped.any():
                eos = self._request.rules.eos
                state, view = cut(state, self._stopped, self._length, eos)
            self._result = result(self._request, state, view)
        return self._result

    def _run(self) -> Iterator[Chunk]:
        shown = 0
        before = time.perf_counter()
        while True:
            seen = self._view
            if not self._waits:
                self._go_on(self._until + self._chunk)
            count, tokens, length, done = jax.device_get(
                (seen.count, seen.tokens, seen.length, seen.done)
            )
            now = time.perf_counter()
            if self._grows and shown and now - before < UNSEEN:
                self._chunk *= 2
            before = now
            last = count == self._request.plan.new
            chunk = self._look(tokens[:, shown:count], length - shown, done | last)
            if self._waits and not chunk.done.all():
                self._go_on(self._until + self._chunk)
            shown = count
            yield chunk
            if chunk.done.all():
                return

    def _go_on(self, until: int) -> None:
        """Ask for the next chunk, if there is one."""
        until = min(until, self._request.plan.reads)
        if until > self._until:
            stopped = self._stopped.copy() if self._waits else None
            self._state, self._view = go_on(self._request, self._state, until, stopped)
            self._until = until

    def _look(self, tokens: np.ndarray, length: np.ndarray, done: np.ndarray) -> Chunk:
        """What stands in new tokens [B,n], of which `length` are text."""
        length = np.clip(length, 0, tokens.shape[1])
        if self._texts is None:
            return Chunk(tokens, length, done)
        said = []
        for row, text in enumerate(self._texts):
            if self._stopped[row]:
                length[row] = 0
            before = text.tokens
            added = text.feed(tokens[row, : length[row]].tolist())
            if text.stopped and not self._stopped[row] and self._waits:
                self._stopped[row] = True
                self._length[row] = text.tokens
                length[row] = text.tokens - before
            elif done[row]:
                added += text.finish()
            said.append(added)
        done = done | self._stopped
        end = np.arange(tokens.shape[1])[None, :] >= length[:, None]
        tokens = np.where(end & self._stopped[:, None], self._request.rules.eos, tokens)
        return Chunk(tokens, length, done, tuple(said))
