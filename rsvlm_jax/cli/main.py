"""`rsvlm VERB ...`: find the verb, call it, turn errors into one line and an exit code.

Nothing heavy is imported here: `rsvlm --help` answers at once, and a wrong option is refused
before JAX is loaded.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.metadata
import json
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

VERBS = {
    "demo": "the main job on a shipped real cube: train, evaluate, map, ask",
    "train": "train an experiment; resumes by itself",
    "plan": "compile a step for a pod that is not here: does it fit, how fast, what moves",
    "features": "what a frozen vision tower makes of the images of an experiment, once",
    "predict": "a wall-to-wall map of a cube, with its interval",
    "trend": "is there a trend, how steep, since when, what next: maps and tables",
    "bench": "models against baselines under honest splits: one table, one report",
    "evaluate": "metrics of a run on held-out windows, beside baselines",
    "generate": "prompts in bulk, as JSON lines; restartable",
    "chat": "talk about pictures, or about places of a cube",
    "convert": "checkpoints between formats: Hugging Face, LLaVA, OpenCLIP, llama2.c, runs",
    "cube": "make, info, validate, show, folds, copy",
    "doctor": "what is installed, what devices, what works",
}

HELP = """usage: rsvlm VERB [options]

Remote-sensing vision-language models in JAX.

{verbs}

`rsvlm VERB --help` shows every option. With --json the last line of stdout is one JSON object.
Exit codes: 0 ok, 1 internal error, 2 usage or an output that cannot be written, 3 data,
4 checkpoint, 5 non-finite, 75 stopped and resumable, 76 another process of the run was lost,
130 interrupted. An error is one line on stderr, and with --json an object
{{"error", "exit_code"}}; --debug adds the traceback.
"""


HEAP = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "hugetlb": 1,
        "mmap_threshold": 2**30,
        "trim_threshold": 2**30,
        "top_pad": 2**26,
    }.items()
)
"""Keep freed buffers and back them by large pages. A training step on a CPU frees and takes the
same buffers each time; by default the kernel unmaps and zeroes them: a third of its CPU time."""

OUTPUT = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOENT,
    errno.EEXIST,
    errno.ENAMETOOLONG,
)
"""What the system says of a full disk, of missing rights and of a place that cannot be."""

COMPUTING = (
    "demo",
    "train",
    "features",
    "predict",
    "trend",
    "bench",
    "evaluate",
    "generate",
    "chat",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code."""
    if argv is None:
        _tune_heap(sys.argv[1:])
        if "--debug" not in sys.argv:
            sys.unraisablehook = _of_python_threads
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    as_json = "--json" in args
    args = [a for a in args if a not in ("--debug", "--json")]
    if not args or args[0] in ("-h", "--help"):
        print(HELP.format(verbs="\n".join(f"  {v:10}{text}" for v, text in VERBS.items())))
        return 0
    if args[0] == "--version":
        print(importlib.metadata.version("rsvlm-jax"))
        return 0
    verb, rest = args[0], args[1:]
    try:
        if verb not in VERBS:
            from .options import unknown_word

            raise unknown_word("verb", verb, VERBS)
        _quiet_environment(debug)
        if verb in COMPUTING:
            from .flags import check_flags

            check_flags(os.environ)
        with _warnings_as_lines():
            result = importlib.import_module(f".{verb}", __package__).run(rest)
    except SystemExit as e:  # tyro's --help
        return int(e.code or 0)
    except KeyboardInterrupt:
        if debug:
            raise
        return _refuse("interrupted", 130, as_json)
    except BrokenPipeError:  # the reader of a pipe has left: `rsvlm train --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as e:
        if debug:
            raise
        return _refuse(*_line_and_code(e), as_json, told=getattr(e, "told", False))
    code = result.pop("exit_code", 0) if isinstance(result, dict) else 0
    if as_json and result is not None:
        from rsvlm_jax.config import strict_json

        print(strict_json(result))
    return code


def _refuse(line: str, code: int, as_json: bool, *, told: bool = False) -> int:
    if not told:
        # One write: `print` ends the line in a second, and another thread may write between them.
        sys.stderr.write(f"error: {line}\n")
    if as_json:
        print(json.dumps({"error": line, "exit_code": code}))
    return code


def _line_and_code(e: Exception) -> tuple[str, int]:
    """One line for a person, and the exit code. Errors of the house bring both."""
    code = getattr(e, "exit_code", None)
    if code is not None:
        return str(e), code
    if isinstance(e, OSError) and e.errno in OUTPUT:
        place = f" in {e.filename}" if e.filename else ""
        remedy = "free space or rights, or choose another place, and run again"
        return f"cannot read or write ({e.strerror}){place}; {remedy}", 2
    message = " ".join(f"{type(e).__name__}: {e}".split())
    return f"internal error: {message}; run again with --debug for the traceback", 1


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Warnings of the house as `warning: ...`, without a place in the code."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
            if category.__module__.partition(".")[0] in ("rsvlm_jax", "data_zarr"):
                sys.stderr.write(f"warning: {message}\n")
            else:
                others(message, category, *place, **more)

        warnings.showwarning = show
        yield


def _tune_heap(args: list[str]) -> None:
    """Start the same program again with `HEAP`: glibc reads it only when a process begins."""
    if sys.platform != "linux" or not args or args[0] not in COMPUTING:
        return
    if "GLIBC_TUNABLES" in os.environ or "--help" in args or "-h" in args:
        return
    command = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, command, {**os.environ, "GLIBC_TUNABLES": HEAP})


def _of_python_threads(unraisable: sys.UnraisableHookArgs) -> None:
    """Show what could not be raised, but not in threads that a C++ library started.

    After a failed save tensorstore's writes still under way find the event loop closed. Each says
    so with a traceback, whose pieces come between those of our own line.
    """
    if not isinstance(threading.current_thread(), threading._DummyThread):
        sys.__unraisablehook__(unraisable)


def _quiet_environment(debug: bool) -> None:
    """Before JAX loads: no hub, no chatter; a TPU library without a TPU must not be asked."""
    if not debug:
        import absl.logging

        # Orbax logs the traceback of a failed save from each of its threads.
        absl.logging.set_verbosity(absl.logging.FATAL)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


if __name__ == "__main__":
    sys.exit(main())
