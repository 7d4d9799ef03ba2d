from __future__ import annotations

from reading import problems, read, texts


def test_rows_of_wrong_width_are_rejected_by_line() -> None:
    found = read(b"text,n\na,1\nb\nc,2,3\nd,4\n", "a.csv")
    assert texts(found) == ["a", "d"]
    assert problems(found) == [("line 3", "1 fields where 2 are expected"), ("line 4", "3 fields where 2 are expected")]
