"""Options from frozen dataclasses through tyro, with our own one-line refusal of unknown ones."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib.util
import io
import itertools
import signal
import sys
import threading
import traceback
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import tyro

from rsvlm_jax.config import ConfigError, Experiment

T = TypeVar("T")


def unknown_word(kind: str, word: str, known: Iterable[str]) -> ConfigError:
    """The error for a misspelt verb or option, with the nearest known one."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]!r}?" if near else "see --help"
    expected = ", ".join(known) if len(known) <= 12 else None
    return ConfigError(f"unknown {kind} {word!r}", expected=expected, remedy=remedy)


def parse(cls: type[T], args: Sequence[str], *, prog: str, default: T | None = None) -> T:
    """Fill `cls` from command-line words.

    Raises:
      ConfigError: an option that does not exist, or a value that it does not take.
      SystemExit: --help.
    """
    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):
            value, unknown = tyro.cli(
                cls,
                args=list(args),
                prog=prog,
                default=default,
                return_unknown_args=True,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as e:
        if not e.code:  # --help
            raise
        raise ConfigError(_one_line(refusal.getvalue()), remedy=f"see {prog} --help") from e
    if unknown:
        options = [w for w in unknown if w.startswith("-")] or unknown
        raise unknown_word("option", options[0], _options(default if default else cls))
    return cast(T, value)


def _one_line(box: str) -> str:
    """The message in tyro's framed refusal: title left out, up to the first inner rule."""
    frame = "│╭╮╰╯─|+-═ "
    lines = [line.strip(frame) for line in box.splitlines()]
    title = next(filter(None, lines), "")
    body = itertools.dropwhile(lambda line: not line or line == title, lines)
    return " ".join(itertools.takewhile(bool, body)).rstrip(".") or "wrong options"


def _options(source: Any, prefix: str = "--") -> list[str]:
    words = []
    for f in dataclasses.fields(source):
        value = getattr(source, f.name, None)
        word = prefix + f.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            words += _options(value, prefix if f.name == "config" else word + ".")
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for i, v in enumerate(value):
                words += _options(v, f"{word}.{i}.")
        else:
            words.append(word)
    return words


def options_of_load(options: Any) -> dict[str, Any]:
    """Those of `rsvlm_jax.load` that were given to a verb that talks."""
    names = ("vision", "adapter", "allow_pickle", "quantize", "step")
    given = {name: getattr(options, name) for name in names if getattr(options, name)}
    if "quantize" in given and "adapter" in given:
        given["merge"] = False
    return given


def load_experiment(path: str) -> Experiment:
    """Run an experiment file and call its `experiment()`, or `experiment(WORD)` of `FILE.py:WORD`.

    Args:
      path: a file, or the bare name of a shipped one ("demo_treecover"); behind a colon the one
        argument that its `experiment` takes, a stage or a variant ("geochat_lora.py:2").

    Raises:
      ConfigError: no such file, it fails (with the line), it defines no
        `experiment() -> Experiment`, or has no such stage.
    """
    name, colon, word = path.rpartition(":")
    if not colon or Path(path).is_file():
        name, word = path, ""
    file = Path(name)
    if not file.suffix:
        file = experiments_folder() / f"{name}.py"
    if not file.is_file():
        names = [p.stem for p in sorted(experiments_folder().glob("[a-z]*.py"))]
        raise ConfigError(
            "no such experiment", where=path, expected=f"a Python file, or one of {names}"
        )
    spec = importlib.util.spec_from_file_location(f"experiment_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError("not a Python file", where=file)
    module = importlib.util.module_from_spec(spec)
    with _blamed(file, spec.origin):
        spec.loader.exec_module(module)
        make = getattr(module, "experiment", None)
        kinds = typing.get_type_hints(make) if word and callable(make) else {}
    argument = _stage(kinds, word, path)
    with _blamed(file, spec.origin):
        experiment = make(*argument) if callable(make) else None
    if not isinstance(experiment, Experiment):
        raise ConfigError(
            "the file defines no experiment", where=file, expected="experiment() -> Experiment"
        )
    return experiment


@contextlib.contextmanager
def _blamed(file: Path, origin: str | None) -> Iterator[None]:
    """What an experiment file raises is its own fault, in one line."""
    try:
        yield
    except Exception as e:
        raise ConfigError(
            f"the experiment fails ({type(e).__name__}: {e})", where=f"{file}{_line_in(origin, e)}"
        ) from e


def _stage(kinds: Mapping[str, Any], word: str, path: str) -> tuple[Any, ...]:
    """The argument of `experiment` that a word stands for; (): none was given.

    Args:
      kinds: type of each of its arguments.

    Raises:
      ConfigError: it takes none, or not this one.
    """
    if not word:
        return ()
    kind = next((kind for name, kind in kinds.items() if name != "return"), None)
    allowed = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    found = next((x for x in allowed if str(x) == word), None)
    if found is None:
        words = ", ".join(map(str, allowed))
        raise ConfigError(
            "no such stage of the experiment", where=path,
            expected=f"FILE.py:STAGE with {words}" if allowed else "FILE.py: it has no stages",
            found=word,
        )  # fmt: skip
    return (found,)


def _line_in(file: str | None, error: Exception) -> str:
    """The last line of a file that an error passed through."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    if isinstance(error, SyntaxError) and error.filename == file:
        lines.append(error.lineno)
    return f", line {lines[-1]}" if lines else ""


def experiments_folder() -> Path:
    """Where the shipped experiments lie: beside this package, in a checkout as when installed.

    Not what `import experiments` finds: that may be a folder of the user's.
    """
    folder = Path(__file__).resolve().parents[2] / "experiments"
    if not folder.is_dir():
        raise ConfigError("the shipped experiments are not installed", remedy="reinstall rsvlm-jax")
    return folder


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[Callable[[], bool]]:
    """Asks whether SIGTERM has come: a `stop` for all that trains, in whichever thread.

    Enter it before anything heavy is imported. Outside the main thread nothing is caught.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event.is_set
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def say_unreadable(found: dict[str, Any]) -> None:
    """The line for `CubeSource.unreadable`, if there is anything to tell."""
    if found["windows"]:
        say(f"{found['windows']} windows could not be read; the first: {found['first']}")


def say(text: str) -> None:
    """A line for people, on stderr, so that stdout stays parsable."""
    print(text, file=sys.stderr, flush=True)
