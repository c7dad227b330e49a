"""Ids outside the vocabulary are refused before they reach an embedding."""

from __future__ import annotations

import numpy as np
import pytest

from rsvlm_jax.config import DataError
from rsvlm_jax.data.ids import check_ids


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_ids_of_the_table_pass(dtype: type) -> None:
    check_ids(np.array([[0, 31999], [5, 7]], dtype), 32000, "input_ids")
    check_ids(np.zeros((2, 0), dtype), 1, "input_ids")


@pytest.mark.parametrize(
    ("ids", "line"),
    [
        ([[1, 2, 3], [4, -200, 5]], r"in input_ids\[1, 1\]; expected 0 \.\. 31999; found -200; ex"),
        ([1, 32000, -200], r"in input_ids\[1\]; expected 0 \.\. 31999; found 32000; expand"),
        (-1, r"in input_ids; expected 0 \.\. 31999; found -1; expand"),
    ],
)
def test_an_id_outside_is_named_with_its_place(ids: object, line: str) -> None:
    with pytest.raises(DataError, match=rf"^an id outside the vocabulary {line}") as error:
        check_ids(np.array(ids), 32000, "input_ids", remedy="expand images to placeholders first")
    assert "\n" not in str(error.value)
