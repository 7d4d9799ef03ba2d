from __future__ import annotations

import pytest
from reading import problems, read, texts

from pipelines.corpus.ingest.config import SourceConfig
from pipelines.corpus.ingest.texts import usable
from pipelines.corpus.readers import delimited
from pipelines.corpus.readers.records import Bad


def test_rows_of_wrong_width_are_rejected_by_line() -> None:
    found = read(b"text,n\na,1\nb\nc,2,3\nd,4\n", "a.csv")
    assert texts(found) == ["a", "d"]
    assert problems(found) == [("line 3", "1 fields where 2 are expected"), ("line 4", "3 fields where 2 are expected")]


def test_long_column_names_are_cut_in_reasons() -> None:
    names = ",".join(f"c{number}" + "z" * 20_000 for number in range(100))
    row = "1" + ",1" * 99
    source = SourceConfig(uri="a.csv")
    found = [usable(record, source) for record in read(f"{names}\n{row}\n{row}\n".encode(), "a.csv")]
    for record in found:
        assert isinstance(record, Bad) and record.reason.startswith("no column 'text'; there are c0zzz")
        assert len(record.reason) < 600 and len(record.text) == 2000
    assert len(found) == 2


def test_quote_that_never_closes_ends_a_file_within_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "MAX_LINE", 1000)
    for rest in (b'"' + b"line\n" * 500, b'"line\n",' * 500):
        found = read(b"text\na\n" + rest, "a.csv")
        assert texts(found) == ["a"] and "more than 1,000 characters" in problems(found)[0][1]


def test_million_columns_are_one_problem() -> None:
    names = ",".join(map(str, range(1_000_000)))
    assert problems(read(f"{names}\n".encode(), "a.csv")) == [("file", "more than 100,000 columns")]
