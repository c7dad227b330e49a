"""A run of several processes: joined at the start, checked, ended together.

    with joined(cluster, wait=300):
        fit(experiment, out=RUN)

What one process raises the others say too and end with its exit code. A process that is killed, or
whose host is gone, is missed by its heartbeat within `HEARTBEAT` seconds: JAX then aborts the
others from a thread of its own, wherever they hang, and here that abort becomes one line and exit
code 76. What the libraries below write of it to stderr is kept in a file that the line names.

Not here: which processes there are (`cluster`), what they agree on (`agreement`), starting them
again (`supervise`).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import multiprocessing
import os
import re
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import jax

# Public only as what `jax.distributed.initialize` does without arguments.
from jax._src.clusters import ClusterEnv

from rsvlm_jax.config import ConfigError, PeerLost, Preempted
from rsvlm_jax.mesh import together
from rsvlm_jax.mesh.together import when_set

from .cluster import Cluster

HEARTBEAT = 20
"""Seconds without a sign of life after which a process counts as lost."""

GRACE = 5.0
"""Seconds that a process has to end by itself when another has told its end."""

_BROKEN = re.compile(r"[A-Z_]+: .*(Gloo|[Cc]onnection|[Ss]ocket)", re.DOTALL)
"""A status of XLA that names the network."""

_FAILED, _ENDED = "rsvlm/failed", "rsvlm/ended"


@contextlib.contextmanager
def joined(cluster: Cluster | None, *, wait: int = 300, quiet: bool = True) -> Iterator[None]:
    """Join the others, and see to it that all end when one does.

    Args:
      cluster: None: a run of one process, for which nothing happens here.
      wait: seconds in which all have to come.
      quiet: native libraries write to a file instead of stderr.

    Raises:
      ConfigError: the coordinator cannot be started.
    """
    if cluster is None:
        yield
        return
    with _native_output() if quiet else contextlib.nullcontext() as native:
        end = _End(cluster, wait, native)
        end.when_aborted()
        _initialize(cluster, wait)
        end.started()
        try:
            _same_count(cluster)
            yield
        except Preempted:  # all together
            end.well()
            raise
        except BaseException as error:
            end.badly(error)
            raise
        end.well()


def _initialize(cluster: Cluster, wait: int) -> None:
    if cluster.process == 0 and cluster.coordinator is not None:
        _check_port(cluster.coordinator)
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.processes,
            cluster.process,
            local_device_ids=cluster.devices,
            cluster_detection_method="deactivate" if cluster.coordinator else None,
            initialization_timeout=wait,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=60,
        )
        # JAX has put a handler of its own in the place of whoever listens.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
        jax.devices()  # all tell each other theirs: now, as nobody waits for anybody yet
    except (RuntimeError, ValueError) as e:
        if together.client() is not None:  # which would wait for the others on the way out
            atexit.register(_leave_quietly, ConfigError.exit_code)
        raise ConfigError(
            f"the processes cannot be joined ({str(e).partition(chr(10))[0]})",
            where=f"{cluster.coordinator or cluster.how}",
            remedy="choose another port, or check what the scheduler says of this job",
        ) from e


def _same_count(cluster: Cluster) -> None:
    """One that was told of more processes than there are could join all the same."""
    if cluster.processes is None:
        return
    told = together.first("processes", cluster.processes)
    if told != cluster.processes:
        raise ConfigError(
            "the processes were told different numbers of processes",
            where=f"process {cluster.process}",
            expected=f"{told}, as process 0",
            found=cluster.processes,
            remedy="give all the same --processes",
        )


def _check_port(coordinator: str) -> None:
    """Of a port that is taken JAX 0.10 says nothing, or ends by a segmentation fault."""
    port = int(coordinator.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except (OSError, OverflowError) as e:
        why = os.strerror(e.errno) if isinstance(e, OSError) and e.errno else e
        raise ConfigError(
            f"the coordinator cannot listen ({why})", where=coordinator,
            remedy="choose another port",
        ) from e  # fmt: skip


class _End:
    """How this process ends, whoever ends it."""

    def __init__(self, cluster: Cluster, wait: int, native: Path | None) -> None:
        self._cluster, self._wait, self._native = cluster, wait, native
        self._running = False
        self._ending = threading.Event()

    def when_aborted(self) -> None:
        """Let `abort()`, in any thread of any library, be one line and an exit code.

        Python's own handlers run in the main thread, which may never come back from a collective.
        """
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: self._aborted())
        ctypes.CDLL(None).signal(signal.SIGABRT, self._handler)

    def _aborted(self) -> None:
        lost = self._lost()
        if not self._running:
            cluster = self._cluster
            lost = ConfigError(
                "the processes did not come together",
                where=f"coordinator {cluster.coordinator or cluster.how}",
                expected=f"process 0 there, and all {cluster.processes or ''} within "
                f"{self._wait} s",
                remedy="start all processes; check address, port and firewall; --wait gives more "
                "time",
            )
        self._leave(str(lost), lost.exit_code)

    def _lost(self) -> PeerLost:
        text = ""
        if self._native is not None:
            with contextlib.suppress(OSError):
                text = self._native.read_text(errors="replace")
        found = re.search(r"stopped sending heartbeats\):\s*([\d, ]+)", text)
        who = f"process {found[1].strip()}" if found else "another process"
        if "leader task was preempted/died" in text:
            who = "process 0"
        place = "" if self._native is None else f"; what the libraries said: {self._native}"
        return PeerLost(
            f"{who} was lost", where=f"a run of {together.count()} processes",
            remedy=f"start all again: the run goes on from its newest checkpoint{place}",
        )  # fmt: skip

    def _forget(self) -> None:
        if self._native is not None:
            self._native.unlink(missing_ok=True)

    def _leave(self, line: str, code: int) -> None:
        """End at once: other threads may hang, and so would Python's way out."""
        with contextlib.suppress(Exception):
            sys.stderr.write(f"error: {line}\n")
            sys.stderr.flush()
            for worker in multiprocessing.active_children():
                worker.kill()
        os._exit(code)

    def started(self) -> None:
        self._running = True
        when_set(_FAILED, self._told)

    def _told(self, text: str) -> None:
        """Another process has ended with an error."""
        told = json.loads(text)
        if told["process"] == together.index() or self._ending.wait(GRACE):
            return
        with contextlib.suppress(Exception):
            together.client().wait_at_barrier(_ENDED, int(GRACE * 1000))
        self._forget()
        self._leave(f"process {told['process']} on {told['host']}: {told['line']}", told["code"])

    def well(self) -> None:
        """All have done the same and leave together."""
        self._ending.set()
        jax.distributed.shutdown()
        self._running = False
        ctypes.CDLL(None).signal(signal.SIGABRT, None)
        self._forget()

    def badly(self, error: BaseException) -> None:
        """Tell the others; the caller says it here."""
        if _from_jax(error):
            # A collective that broke: its peer is dead, and a heartbeat that is missing says which.
            threading.Event().wait(HEARTBEAT + GRACE)
        self._ending.set()
        code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
        line = str(error) if hasattr(error, "exit_code") else f"{type(error).__name__}: {error}"
        told = {"process": together.index(), "host": socket.gethostname(), "code": code,
                "line": " ".join(line.split())}  # fmt: skip
        with contextlib.suppress(Exception):  # another was first
            together.client().key_value_set(_FAILED, json.dumps(told))
        with contextlib.suppress(Exception):  # process 0 serves the others until they know
            together.client().wait_at_barrier(_ENDED, int(2 * GRACE * 1000))
        # JAX would wait for the others once more on Python's way out.
        atexit.register(_leave_quietly, code)
        if self._native is None:
            return
        words = self._native.read_text(errors="replace")
        if "Traceback (most recent call last)" in words:  # of a data worker, which shares the file
            sys.stderr.write(words)
        if hasattr(error, "exit_code"):
            self._forget()
        else:
            sys.stderr.write(f"what the libraries said: {self._native}\n")


def _leave_quietly(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _from_jax(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError):
            return True
        if isinstance(error, ValueError) and _BROKEN.match(str(error)):
            return True  # of a program that was not run in the background
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _native_output() -> Iterator[Path]:
    """Descriptors 1 and 2, where C++ writes, as a file; Python's streams stay where they were."""
    descriptor, name = tempfile.mkstemp(prefix=f"rsvlm-process-{os.getpid()}-", suffix=".log")
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, descriptor)
        for number, stream in ((1, "stdout"), (2, "stderr")):
            before = getattr(sys, stream)
            before.flush()
            kept = stack.enter_context(open(os.dup(number), "w", buffering=1))
            stack.callback(os.dup2, kept.fileno(), number)
            stack.callback(setattr, sys, stream, before)
            setattr(sys, stream, kept)
            os.dup2(descriptor, number)
        yield Path(name)


def on_tpu(platforms: str | None) -> bool:
    """Whether this machine is one of several workers of a TPU slice, as JAX finds it.

    Args:
      platforms: JAX_PLATFORMS of the environment.
    """
    if "tpu" not in (platforms or "tpu"):
        return False
    kinds = [kind for kind in ClusterEnv._cluster_types if "tpu" in kind.__name__.lower()]
    try:
        return any(kind.is_env_present() and kind.get_process_count() > 1 for kind in kinds)
    except ImportError:  # `jax[tpu]` brings what JAX asks a slice's metadata with
        return False
