"""Patterns: the automaton against Python's `re`; what is refused, and where."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvlm_jax.config import ConfigError
from rsvlm_jax.generate.grammar import box, choices, number, quote
from rsvlm_jax.generate.grammar.automaton import Automaton, automaton
from rsvlm_jax.generate.grammar.regex import parse

LETTERS = "ab0_ -\n\u00e9\u07ff\u0800\u20ac\uffff\U00010000\U0001f600\U0010ffff"
ATOMS = st.one_of(
    st.sampled_from(LETTERS).map(quote),
    st.sampled_from([".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", r"\x41", r"\u00e9"]),
    st.sampled_from(["[ab]", "[^a]", r"[\w-]", "[a-]", "[-0]", r"[^\d\n]", "[\u0080-\u0900]"]),
    st.sampled_from(["[\u20ac-\U00010400]", "[^\ud7ff-\ue000a-c]", r"[\]\-\\]", "[b^]"]),
)
REPEATS = st.sampled_from(["?", "*", "+", "{2}", "{0}", "{1,3}", "{,2}", "{2,}"])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, REPEATS).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
        inner.map(lambda part: f"({part}|)"),
    ),
    max_leaves=8,
)


def compiled(pattern: str) -> Automaton:
    return automaton(parse(pattern))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), pattern=PATTERNS)
def test_accepts_what_re_accepts(data: st.DataObject, pattern: str) -> None:
    oracle, ours = re.compile(pattern, re.ASCII), compiled(pattern)
    texts = [data.draw(st.text(LETTERS, max_size=8)) for _ in range(3)]
    if "{0}" not in pattern:
        matching = data.draw(st.from_regex(oracle, fullmatch=True))
        texts += [matching, matching[:-1], matching[1:], matching + "a"]
    for text in texts:
        if not any("\ud800" <= c <= "\udfff" for c in text):
            assert ours.accepts(text.encode()) == bool(oracle.fullmatch(text)), (pattern, text)


@pytest.mark.parametrize("pattern", [".", "[^a]", r"\D", "[\u0080-\U0010ffff]", "\u00e9|[^\u00ea]"])
def test_bytes_that_are_no_character_are_never_accepted(pattern: str) -> None:
    ours = compiled(f"({pattern})*")
    for text in (
        b"\x80",
        b"\xc0\x80",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xc3",
    ):
        assert not ours.accepts(text), text


def test_the_automaton_is_the_smallest() -> None:
    """Known sizes; states with one future are one."""
    assert len(compiled("(a|b)*abb").table) == 4
    assert len(compiled("yes|yep|no").table) == 5
    assert len(compiled("cat|bat|hat").table) == 4
    assert len(compiled("[\u00e0-\u00ff]").table) == 3


@pytest.mark.parametrize(
    ("pattern", "at", "expected"),
    [
        ("(ab", 0, "a ) for this group"),
        ("ab)", 2, "no group is open"),
        ("[ab", 0, "a ] for this class"),
        ("x[]", 1, "at least one character"),
        ("[b-a]", 1, "a range that goes up"),
        (r"[a-\d]", 1, "a range that goes up"),
        ("a[[]", 2, r"\["),
        ("*a", 0, "something to repeat"),
        ("a|+", 2, "something to repeat"),
        ("a**", 2, "no repeat of a repeat"),
        ("a+?", 2, "no repeat of a repeat"),
        ("a{2,1}", 1, "m <= n"),
        ("a{x}", 1, "m <= n"),
        ("a{2", 1, "m <= n"),
        ("a{,}", 1, "m <= n"),
        ("a{1001}", 1, "1000"),
        ("^a$", 0, "no anchor"),
        ("a}", 1, r"\}"),
        ("a]", 1, r"\]"),
        (r"\b", 0, r"\d"),
        (r"(a)\1", 3, r"\d"),
        (r"\x4", 0, r"\xHH"),
        (r"\ud800", 0, r"\uHHHH"),
        ("a\\", 1, r"\d"),
        ("(?=a)", 2, "(?:...)"),
        ("(?P<n>a)", 2, "(?:...)"),
        ("a\ud800", 1, "UTF-8"),
        ("(" * 51, 51, "50 groups"),
    ],
)
def test_a_pattern_not_understood(pattern: str, at: int, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"not understood in grammar, character {at};") as error:
        parse(pattern)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_pattern() -> None:
    with pytest.raises(ConfigError, match="an empty pattern in grammar"):
        parse("")


@pytest.mark.parametrize(
    "pattern", ["(a{1000}){1000}", "(a|b)*a(a|b){20}", "((((){1000}){1000}){1000}){1000}"]
)
def test_a_pattern_too_large(pattern: str) -> None:
    with pytest.raises(ConfigError, match="a pattern too large in grammar; expected at most"):
        compiled(pattern)


@settings(max_examples=100, deadline=None)
@given(
    st.decimals(-300, 300, places=2), st.decimals(-300, 300, places=2), st.integers(0, 3), st.data()
)
def test_number_writes_its_range_and_nothing_else(
    one: Decimal, other: Decimal, decimals: int, data: st.DataObject
) -> None:
    lo, hi = sorted((one, other))
    unit = Decimal(1).scaleb(-decimals)
    try:
        pattern = number(lo, hi, decimals)
    except ConfigError:
        assert hi - lo < unit
        return
    oracle = re.compile(pattern)
    inside = st.decimals(lo, hi).map(lambda x: x.quantize(unit))
    edges = [x.quantize(unit) + i * unit for x in (lo, hi, Decimal(0)) for i in range(-11, 12)]
    for x in [*edges, *(data.draw(inside) for _ in range(5))]:
        text = f"{abs(x)}" if x == 0 else f"{x}"
        assert bool(oracle.fullmatch(text)) == (lo <= x <= hi), (pattern, text)
    for text in ("", "-", "-0", "-0.0", "-0.00", "00", "01", "01.00", "+1", "1.", ".5"):
        assert not oracle.fullmatch(text), (pattern, text)


def test_number_of_the_papers() -> None:
    tonnes = re.compile(number(0, 500, decimals=1))
    assert all(tonnes.fullmatch(text) for text in ("0.0", "7.5", "499.9", "500.0"))
    assert not any(tonnes.fullmatch(text) for text in ("500.1", "7", "7.55", "-0.1"))
    assert re.fullmatch(number("1e-2", 0.3, 2), "0.30")


@pytest.mark.parametrize(
    "call",
    [
        lambda: number(2, 1),
        lambda: number(0.1, 0.9),
        lambda: number(0, 1, decimals=-1),
        lambda: number(float("nan"), 1),
        lambda: number(0, float("inf")),
        lambda: number("a", 1),
    ],
)
def test_a_range_without_a_number(call) -> None:
    with pytest.raises(
        ConfigError, match=r"no number in this range in number|not a range in number"
    ):
        call()


def test_box_is_geochats() -> None:
    one, several = re.compile(box()), re.compile(box(many=True))
    plain, braces = re.compile(box(angle=False)), re.compile(box(many=True, separator=""))
    text = "{<0><7><100><64>|<-30>}"
    assert one.fullmatch(text)
    assert several.fullmatch(f"{text}<delim>{text}<delim>{text}")
    assert braces.fullmatch(text + text)
    assert plain.fullmatch("{<0><7><100><64>}")
    for wrong in ("{<0><7><101><64>|<0>}", "{<0><7><9>|<0>}", "{<00><7><9><1>|<0>}", text[:-1]):
        assert not one.fullmatch(wrong)
    assert not several.fullmatch(f"{text}<delim>")
    assert not one.fullmatch("{<0><7><100><64>|<181>}")


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=4))
def test_choices_are_the_labels(labels: list[str]) -> None:
    labels = [label.strip() for label in labels if label.isprintable()] or ["a"]
    oracle = re.compile(choices(labels))
    assert all(oracle.fullmatch(label) for label in labels)
    assert not oracle.fullmatch("".join(labels) + "!")
    ours = compiled(choices(labels))
    assert all(ours.accepts(label.encode()) for label in labels)


@pytest.mark.parametrize("labels", [[], (), "yes"])
def test_an_empty_list_of_labels(labels) -> None:
    with pytest.raises(ConfigError, match=r"no labels to choose from in choices\(labels\)"):
        choices(labels)


@pytest.mark.parametrize("label", ["", " ", " no", "no\n"])
def test_an_empty_label_or_one_with_spaces_around_it(label: str) -> None:
    with pytest.raises(ConfigError, match=r"an empty label, or one .* in choices\(labels\[1\]\)"):
        choices(["yes", label])
