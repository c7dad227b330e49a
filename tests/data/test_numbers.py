"""Numbers as text: exact to what is stated, one text a value, read back only if well-formed."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvlm_jax.config import ConfigError, DataError
from rsvlm_jax.data.numbers import CHARACTERS, NumberFormat, number_format
from rsvlm_jax.data.text import fill_numbers, pad, stack
from rsvlm_jax.data.tokenizer import Tokenizer

FORMATS = [
    NumberFormat("digits", 4, 1),
    NumberFormat("digits", 4, 3, signed=True),
    NumberFormat("digits", 3),
    NumberFormat("digits", 1, signed=True),
    NumberFormat("p10", 4),
    NumberFormat("p10", 1),
    NumberFormat("p10", 9),
]


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (FORMATS[0], 132.44, "132.4"),
        (FORMATS[0], 7.0, "007.0"),
        (FORMATS[0], -5.0, "000.0"),
        (FORMATS[0], 1e6, "999.9"),
        (FORMATS[1], -0.0004, "+0.000"),
        (FORMATS[1], -0.5, "-0.500"),
        (FORMATS[2], 99.6, "100"),
        (FORMATS[4], 132.44, "+1324E-1"),
        (FORMATS[4], 0.0, "+0000E+0"),
        (FORMATS[4], -99996.0, "-1000E+2"),
        (FORMATS[4], 1e99, "+9999E+9"),
        (FORMATS[4], 1e-8, "+0000E+0"),
        (FORMATS[5], -0.03, "-3E-2"),
    ],
)
def test_numbers_by_hand(form, value, text):
    assert form.write(value) == text
    assert len(text) == form.width


@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f"{f.kind}{f.digits}.{f.decimals}")
@given(value=st.floats(-1e14, 1e14, allow_nan=False))
@settings(max_examples=150, deadline=None)
def test_a_number_comes_back_to_the_stated_precision(form, value):
    text = form.write(value)
    found = form.read(text)
    assert found is not None
    assert found == float(text)
    assert form.write(found) == text
    low = -form.largest if form.signed or form.kind == "p10" else 0.0
    within = min(max(value, low), form.largest)
    if form.kind == "digits":
        assert abs(found - within) <= (0.5 + 1e-6) * 10.0**-form.decimals
    elif abs(within) >= 10.0 ** (form.digits - 10):
        assert abs(found - within) <= (5 + 1e-6) * 10.0**-form.digits * abs(within)
    else:
        assert abs(found) <= 10.0 ** (form.digits - 10)


@pytest.mark.parametrize("form", [FORMATS[2], FORMATS[3], FORMATS[5]])
def test_the_rules_let_all_texts_of_a_value_be_written_and_no_others(form):
    """All strings of a narrow format, by force."""
    written = {form.write(float(t)) for t in _all(form)}
    assert written == set(_all(form)) - {"-0"}
    wrong = {"".join(t) for t in itertools.product("-+E09.", repeat=min(form.width, 4))}
    for text in wrong - set(_all(form)):
        assert form.read(text) is None


def _all(form: NumberFormat) -> list[str]:
    texts = [("", 0)]
    for _ in range(form.width):
        texts = [
            (text + c, int(form.rules[state, i]))
            for text, state in texts
            for i, c in enumerate(CHARACTERS)
            if form.rules[state, i] >= 0
        ]
    assert {state for _, state in texts} == {len(form.rules) - 1}
    return [text for text, _ in texts]


@pytest.mark.parametrize(
    ("values", "bounds", "expected"),
    [
        ([0.2, 0.9], (0.0, 1.0), NumberFormat("digits", 4, 3)),
        ([3.0, 380.0, math.nan], (0.0, math.inf), NumberFormat("digits", 4, 1)),
        ([3.0, 380.0], None, NumberFormat("digits", 4, 1)),
        ([700.0], None, NumberFormat("digits", 4, 0)),
        ([-12.0, 3.0], None, NumberFormat("digits", 4, 2, signed=True)),
        ([0.0], None, NumberFormat("digits", 4, 3)),
    ],
)
def test_the_format_follows_from_the_training_targets(values, bounds, expected):
    assert number_format("digits", 4, np.array(values), bounds) == expected


def test_formats_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match=r"too few digits .* expected >= 5, for values up to 300"):
        number_format("digits", 3, np.array([20000.0]), None)
    with pytest.raises(ConfigError, match="impossible digits"):
        NumberFormat("digits", 3, 3)
    with pytest.raises(DataError, match="no training window has a target"):
        number_format("digits", 4, np.full(3, np.nan), None)
    with pytest.raises(DataError, match=r"no number to write .* found nan"):
        FORMATS[0].write(math.nan)


def test_a_tokenizer_without_a_character_is_refused_by_name(monkeypatch: pytest.MonkeyPatch):
    tokenizer = Tokenizer.shipped()
    known = tokenizer.id_of
    monkeypatch.setattr(tokenizer, "id_of", lambda c: None if c in "E7" else known(c))
    with pytest.raises(ConfigError, match=r"DataConfig.number; .* found none for E 7"):
        FORMATS[0].ids(tokenizer)


def test_numbers_take_the_place_of_their_block_and_nothing_else():
    tokenizer, form = Tokenizer.shipped(), FORMATS[0]
    reg, w = tokenizer.reg, form.width
    rows = [[1, *[reg] * w, 7], [1, *[5] * w, 7]] * 2
    text = stack([pad(tokenizer, ids, [0.5] * len(ids), len(ids)) for ids in rows])
    known = np.array([True, True, False, False])
    found = fill_numbers(text, np.array([12.34, 1.0, 2.0, 3.0]), known, form, tokenizer)
    assert tokenizer.decode(found.tokens[0, 1:-1].tolist()) == "012.3"
    np.testing.assert_array_equal(found.weight[0], [0.5, *[1.0] * w, 0.5])
    for row in (1, 2, 3):
        np.testing.assert_array_equal(found.tokens[row], rows[row])
        np.testing.assert_array_equal(found.weight[row], text.weight[row])
