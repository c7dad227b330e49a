"""The loop of `rsvlm chat`: commands, streaming, errors that do not end a conversation."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsvlm_jax.cli.chat import Options, talk
from rsvlm_jax.cli.options import options_of_load
from rsvlm_jax.config import ConfigError, DataError


class Echo:
    """A session that says what it was asked, word by word."""

    def __init__(self):
        self.seen, self.paths = [], []

    def look(self, picture, name):
        if "missing" in name:
            raise DataError("cannot read the image", where=name)
        self.seen.append(name)
        self.paths.append(picture)
        return f"looking at {name}"

    def visit(self, cube, at):
        self.seen.append((cube, at))
        return f"at {at} of {cube}"

    def ask(self, question):
        for word in question.split():
            yield word + " "

    def reset(self, system=None):
        self.seen.append(("reset", system))


def run(*lines: str, **options):
    written: list[str] = []
    session = Echo()
    turns = talk(session, lines, write=written.append, **options)
    return session, turns, "".join(written)


def test_an_answer_is_streamed_and_kept():
    _, turns, written = run("How many  ships?", "")
    assert turns == [{"question": "How many  ships?", "answer": "How many ships? "}]
    assert written == "How many ships? \n"


def test_commands(capsys):
    session, turns, _ = run(
        '/image "a b.png" c.tif', "/cube x.zarr 3 4", "/cube sample:slovenia_s2",
        "/system You are terse.", "/reset", "/help", "/quit", "never asked",
    )  # fmt: skip
    assert session.seen == [
        "a b.png", "c.tif", ("x.zarr", (3, 4)), ("sample:slovenia_s2", None),
        ("reset", "You are terse."), ("reset", None),
    ]  # fmt: skip
    assert turns == []
    said = capsys.readouterr().err
    assert "at (3, 4) of x.zarr" in said
    assert "/cube    PATH [ROW COL]" in said


def test_a_path_may_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    session, _, _ = run("/image ~/a.png", "/cube ~/x.zarr 3 4")
    assert session.seen == ["~/a.png", ("/home/me/x.zarr", (3, 4))]
    assert str(session.paths[0]) == "/home/me/a.png"


def test_options_are_those_of_load_and_an_adapter_stays_beside_quantised_weights():
    options = Options(Path("model"), quantize="int8", adapter=Path("lora"))
    wanted = {"quantize": "int8", "adapter": Path("lora"), "merge": False}
    assert options_of_load(options) == wanted
    assert options_of_load(Options(Path("model"))) == {}


def test_on_a_terminal_an_error_is_said_and_the_talk_goes_on(capsys):
    _, turns, _ = run(
        "/image missing.png", "/imgae x", "/image", '/image "x', "/cube a b c", "Well?"
    )
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(";")[0] for line in said] == [
        "error: cannot read the image in missing.png",
        "error: unknown command '/imgae'",
        "error: nothing to look at in /image",
        "error: a quotation without end (No closing quotation) in /image",
        "error: not a place in /cube",
    ]
    assert "did you mean '/image'?" in said[1]
    assert len(turns) == 1


def test_in_a_script_an_error_ends_it():
    with pytest.raises(DataError, match=r"missing\.png"):
        run("/image missing.png", "Well?", fatal=True)
    with pytest.raises(ConfigError, match="did you mean '/quit'"):
        run("/qiut", fatal=True)


def test_an_interrupt_ends_the_answer_and_not_the_talk(monkeypatch):
    class Slow(Echo):
        def ask(self, question):
            yield "a "
            if question == "first":
                raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", type("", (), {"isatty": lambda _: True})())
    turns = talk(Slow(), ["first", "second"], write=lambda _: None)
    assert [t["answer"] for t in turns] == ["a  ...", "a "]
