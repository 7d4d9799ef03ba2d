"""Pages made from templates."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pipelines.errors import InputError
from pipelines.report.page import numeric_columns, render, shown, write_page


def test_page_escapes_texts_and_aligns_numbers() -> None:
    section = SimpleNamespace(title="<b>", columns=("n", "<i>"), rows=[(1234, "<script>"), (None, "x")], note="a & b")
    page = render("page.html", title="<u>", svg="<svg></svg>", sections=[section])
    assert "<svg></svg>" in page and '<td class="number">1,234</td>' in page and "<td>&lt;script&gt;</td>" in page
    assert not any(tag in page for tag in ("<b>", "<i>", "<u>", "<script>")) and "a &amp; b" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_cells_are_shown_as_people_read_them() -> None:
    assert [shown(cell) for cell in (None, True, 1234567, 0.5, "x")] == ["", "true", "1,234,567", "0.5", "x"]
    assert numeric_columns([(1, "a", None), (0.5, 2, 3)]) == {0, 2} and numeric_columns([]) == set()


def test_page_is_written_or_the_error_is_one_sentence(tmp_path):
    write_page(tmp_path / "a.html", "<p>ü")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == "<p>ü"
    for path in (tmp_path / "nowhere" / "a.html", tmp_path):
        with pytest.raises(InputError, match="cannot be written"):
            write_page(path, "<p>")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
