from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest

from pipelines.corpus.cells import label_of, text_of

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (NAN, ""),
        (Decimal("NaN"), ""),
        (" a\r\nb ", "a\nb"),
        (0, "0"),
        (2.0, "2.0"),
        (2.50, "2.5"),
        (Decimal("2.50"), "2.50"),
        (True, "true"),
        (datetime.date(1969, 7, 20), "1969-07-20"),
    ],
)
def test_value_is_written_as_it_reads(value: Any, text: str) -> None:
    assert text_of(value, "a") == text


@pytest.mark.parametrize("value", [[], ["a"], {}, b"a"])
def test_value_of_several_is_no_text(value: Any) -> None:
    with pytest.raises(ValueError, match=f"column 'a' holds {type(value).__name__}, not text"):
        text_of(value, "a")


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ([1, 1.0, "1", " 1\n", "\ufeff1", "1\u200b ", Decimal("1.0"), 1e0], "1"),
        ([0, -0.0, "0"], "0"),
        ([1e20, 10**20], str(10**20)),
        ([0.5, "0.5"], "0.5"),
        ([True, "true"], "true"),
        ([None, NAN, "", " \u200b ", "\ufeff"], ""),
        ([float("inf")], "inf"),
        (["1.0"], "1.0"),
        (["a  b", "a  b\r\n"], "a  b"),
    ],
)
def test_values_with_one_meaning_are_one_label(values: list[Any], label: str) -> None:
    assert {label_of(value, "a") for value in values} == {label}


def test_label_as_long_as_a_text_is_refused() -> None:
    assert label_of("x" * 10_000, "a") == "x" * 10_000
    with pytest.raises(ValueError, match=r"column 'a' holds a label of 10,001 characters; there may be 10,000"):
        label_of("x" * 10_001, "a")
