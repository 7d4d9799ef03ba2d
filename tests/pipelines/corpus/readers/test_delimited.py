from __future__ import annotations

import io
from typing import Any

from pipelines.corpus.readers.formats import read_file
from pipelines.corpus.readers.records import Bad, ReadOptions, Record


def read(content: bytes, name: str, **options: Any) -> list[Record | Bad]:
    return list(read_file(io.BytesIO(content), name, ReadOptions(**options)))


def texts(found: list[Record | Bad]) -> list[str]:
    return [record.fields["text"] for record in found if isinstance(record, Record)]


def problems(found: list[Record | Bad]) -> list[tuple[str, str]]:
    return [(record.location, record.reason) for record in found if isinstance(record, Bad)]


def test_rows_of_wrong_width_are_rejected_by_line() -> None:
    found = read(b"text,n\na,1\nb\nc,2,3\nd,4\n", "a.csv")
    assert texts(found) == ["a", "d"]
    assert problems(found) == [("line 3", "1 fields where 2 are expected"), ("line 4", "3 fields where 2 are expected")]
