"""`tokenmill datasets diff` in the terminal and as a page."""

from __future__ import annotations

import io
from html.parser import HTMLParser
from pathlib import Path

from rich.console import Console

from flows.commands.diff import diff
from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext
from pipelines.store.store import Store


def corpus(store: Store, folder: Path, text: str) -> Dataset:
    (folder / "page.txt").write_text(text)
    config = IngestConfig(sources=[{"uri": str(folder / "page.txt")}])
    return store.build(
        INGEST.using("site", config), lambda out, scratch: INGEST.run({}, config, out, StepContext(scratch))
    )


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]


def test_changed_document_is_shown_around_the_change(tmp_path: Path) -> None:
    store, out = Store(tmp_path / "data"), io.StringIO()
    a = corpus(store, tmp_path, "x" * 300 + " the old <script>alert(1)</script> end")
    b = corpus(store, tmp_path, "x" * 300 + " the new end")
    diff(str(a), str(b), store, tmp_path / "page.html", Console(file=out, width=160))
    printed = out.getvalue()
    assert "documents: 1 changed" in printed.replace("\n", " ") and "the old" in printed and "the new end" in printed
    page = (tmp_path / "page.html").read_text()
    parser = Tags()
    parser.feed(page)
    assert "script" not in parser.tags and "&lt;script&gt;" in page
    assert parser.links == [] and "table" in parser.tags


def test_equal_datasets_have_the_same_bytes(tmp_path: Path) -> None:
    store, out = Store(tmp_path / "data"), io.StringIO()
    made = corpus(store, tmp_path, "A page.")
    diff(str(made), "corpus/site", store, console=Console(file=out, width=160))
    assert "hold the same bytes" in out.getvalue()
