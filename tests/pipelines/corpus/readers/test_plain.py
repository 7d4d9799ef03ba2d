from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from reading import read, texts


def test_separator_divides_plain_text() -> None:
    assert texts(read(b"one\r\ntwo\n", "a.txt")) == ["one\ntwo\n"]
    found = read(b"one\n---\ntwo\nlines\n---\nthree", "a.md", split_at="\n---\n")
    assert texts(found) == ["one", "two\nlines", "three"]
    assert [record.location for record in found] == ["line 1", "line 3", "line 6"]


@given(st.text(st.sampled_from("ab \n."), max_size=300), st.integers(1, 50))
def test_pieces_of_a_long_text_make_the_text(text: str, limit: int) -> None:
    pieces = texts(read(text.encode(), "a.txt", max_document=limit))
    assert "".join(pieces) == text
    assert all(len(piece) <= limit for piece in pieces)


def test_long_text_is_cut_after_a_paragraph() -> None:
    pieces = texts(read(b"a b. c\n\nd e f\ng h", "a.txt", max_document=12))
    assert pieces[0] == "a b. c\n\n"
