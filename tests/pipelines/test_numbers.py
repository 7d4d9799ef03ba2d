"""Numbers as a person reads them."""

from __future__ import annotations

import pytest

from pipelines import numbers


@pytest.mark.parametrize("number, text", [(0, "0"), (12345, "12.3k"), (4.56e6, "4.56M"), (0.00251, "0.00251")])
def test_short(number: float, text: str) -> None:
    assert numbers.short(number) == text


@pytest.mark.parametrize("n_bytes, text", [(0, "0 B"), (999, "999 B"), (12345, "12.3 KB"), (4.56e12, "4560.0 GB")])
def test_size(n_bytes: float, text: str) -> None:
    assert numbers.size(n_bytes) == text


@pytest.mark.parametrize("number, text", [(0, "0 documents"), (1, "1 document"), (1200, "1,200 documents")])
def test_counted(number: int, text: str) -> None:
    assert numbers.counted(number, "document") == text


def test_counts_are_singular_for_one() -> None:
    assert numbers.counts({"documents": 1, "documents_train": 1, "loss": 1, "bytes": 12}).startswith(
        "1 document, 1 document train, 1 loss, 12 bytes"
    )


@pytest.mark.parametrize("p, text", [(0.5, "p = 0.500"), (0.001, "p = 0.001"), (0.0009, "p < 0.001")])
def test_p_value(p: float, text: str) -> None:
    assert numbers.p_value(p) == text


@pytest.mark.parametrize("seconds, text", [(1.4, "1 s"), (119, "119 s"), (600, "10 min"), (9000, "2.5 h")])
def test_duration(seconds: float, text: str) -> None:
    assert numbers.duration(seconds) == text
