"""Pages that commands write."""

import pytest

from flows.commands.pages import write_page
from pipelines.errors import InputError


def test_page_is_written_or_the_error_is_one_sentence(tmp_path):
    write_page(tmp_path / "a.html", "<p>ü")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == "<p>ü"
    for path in (tmp_path / "nowhere" / "a.html", tmp_path):
        with pytest.raises(InputError, match="cannot be written"):
            write_page(path, "<p>")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
