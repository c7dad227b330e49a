"""`rsvlm chat MODEL`: talk about pictures, or about places of a cube.

On a terminal a conversation; from a pipe each line is a question or a command, so that a chat can
be scripted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import tyro
from tyro.conf import Positional

from rsvlm_jax.config import ConfigError, GenerationConfig, RsvlmError

from .options import options_of_load, parse, say, unknown_word

COMMANDS = {
    "/image": "PATH: look at a picture (with the next question)",
    "/cube": "PATH [ROW COL]: look at a place of a cube, or at its clearest date as a picture",
    "/system": "TEXT: begin anew with another system message",
    "/reset": "begin anew",
    "/help": "this list",
    "/quit": "leave (also: the end of the input)",
}

LONG = GenerationConfig(max_new_tokens=512)


@dataclasses.dataclass(frozen=True)
class Options:
    """Talk to a model. Commands begin with a slash; /help lists them."""

    model: Positional[Path]
    """Run directory, or a directory of Hugging Face, LLaVA or GeoChat."""
    generation: Annotated[GenerationConfig, tyro.conf.arg(name="")] = LONG
    image: tuple[Path, ...] = ()
    """Pictures to begin with."""
    cube: str | None = None
    """Cube to begin with: a path, sample:NAME or world:PRESET."""
    at: tuple[int, int] | None = None
    """Row and column of a place in the cube."""
    system: str | None = None
    """System message; None: that of the template."""
    ask: tuple[str, ...] = ()
    """Questions to ask instead of reading them."""
    vision: Path | None = None
    """Directory of the vision tower, where a LLaVA does not hold its own."""
    adapter: Path | None = None
    """Directory of a PEFT adapter, or of LLaVA's LoRA over a plain language model."""
    quantize: Literal["int8", "nf4"] | None = None
    """Of the weights, as they are read. An adapter stays beside them."""
    step: int | Literal["best"] | None = None
    """Checkpoint of a run: a step, or that of the lowest held-out loss; the newest by default."""
    allow_pickle: bool = False
    """Read .bin files, through torch's weights-only loader."""


@runtime_checkable
class Session(Protocol):
    """What a chat needs of a model; see `rsvlm_jax.run.chat`."""

    def look(self, picture: Any, name: str) -> str: ...

    def visit(self, cube: str, at: tuple[int, int] | None) -> str: ...

    def ask(self, question: str) -> Iterator[str]: ...

    def reset(self, system: str | None = None) -> None: ...


def run(args: Sequence[str]) -> dict[str, object]:
    options = parse(Options, args, prog="rsvlm chat")
    if isinstance(sys.stdin, io.TextIOWrapper):
        # What is not UTF-8 comes through to be refused where it is read, with its place.
        sys.stdin.reconfigure(errors="surrogateescape")
    from rsvlm_jax.evaluate.cubeframes import picture
    from rsvlm_jax.run.chat import open_session
    from rsvlm_jax.run.cubes import find_cube

    session = open_session(
        options.model,
        config=options.generation,
        system=options.system,
        picture_of=lambda cube, at: picture(find_cube(cube), at),
        **options_of_load(options),
    )
    for path in options.image:
        say(session.look(path, str(path)))
    if options.cube is not None:
        say(session.visit(options.cube, options.at))
    if options.ask:
        return {"turns": talk(session, options.ask, fatal=True)}
    if sys.stdin.isatty():
        say("Ask; /help lists the commands.")
        return {"turns": talk(session, _typed())}
    return {"turns": talk(session, sys.stdin, fatal=True)}


def talk(
    session: Session,
    lines: Iterable[str],
    *,
    fatal: bool = False,
    write: Callable[[str], None] | None = None,
) -> list[dict[str, str]]:
    """Answer each line; the turns.

    Args:
      fatal: an error ends the talk; otherwise it is said, and the talk goes on.
      write: takes text as it comes; None: stdout.
    """
    turns: list[dict[str, str]] = []
    out = write or _stdout
    for line in lines:
        text = line.strip()
        if not text:
            continue
        if text == "/quit":
            break
        try:
            if text.startswith("/"):
                say(_command(session, text))
                continue
            turns.append({"question": text, "answer": _answer(session, text, out)})
        except RsvlmError as e:
            if fatal:
                raise
            say(f"error: {e}")
    return turns


def _answer(session: Session, question: str, write: Callable[[str], None]) -> str:
    """Stream an answer; an interrupt ends the answer, not the talk."""
    parts: list[str] = []
    try:
        for part in session.ask(question):
            parts.append(part)
            write(part)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        parts.append(" ...")
        write(" ...")
    write("\n")
    return "".join(parts)


def _command(session: Session, text: str) -> str:
    word, _, rest = text.partition(" ")
    if word not in COMMANDS:
        raise unknown_word("command", word, COMMANDS)
    if word == "/help":
        return "\n".join(f"  {name:<8} {what}" for name, what in COMMANDS.items())
    if word in ("/reset", "/system"):
        session.reset(rest.strip() or None)
        return "begun anew"
    words = _words(rest, word)
    if word == "/image":
        return "\n".join(session.look(Path(os.path.expanduser(w)), w) for w in words)
    place = None
    if len(words) == 3 and all(w.isdigit() for w in words[1:]):
        place = int(words[1]), int(words[2])
    elif len(words) != 1:
        raise ConfigError("not a place", where=word, expected="PATH [ROW COL]", found=rest.strip())
    return session.visit(os.path.expanduser(words[0]), place)


def _words(rest: str, command: str) -> list[str]:
    try:
        words = shlex.split(rest)
    except ValueError as e:
        raise ConfigError(f"a quotation without end ({e})", where=command, found=rest) from e
    if not words:
        raise ConfigError("nothing to look at", where=command, expected="a path")
    return words


def _typed() -> Iterator[str]:
    """Lines of a terminal; the end of the input or an interrupt ends the talk."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (arrow keys and history)
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return


def _stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
