"""Readers of HTML, PDF and WARC."""

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from pipelines.corpus.readers.encoding import UNDECODED, decode
from pipelines.corpus.readers.records import (
    MAX_LINE,
    Bad,
    ReadOptions,
    Record,
    UnreadableError,
    read_whole,
    to_seekable,
)

NOT_ASCII = re.compile("[^\0-\x7f]")


def read_html(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """Read the main text of a page, its title and its date."""
    yield _from_html(read_whole(file), "file", options.encoding)


def read_pdf(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """Read the text of all pages."""
    import pypdf
    from pypdf.errors import PyPdfError

    try:
        pages = pypdf.PdfReader(to_seekable(file)).pages
        text = "\n\n".join(page.extract_text() for page in pages)
    except PyPdfError as error:
        raise UnreadableError(f"not a readable PDF: {error}") from None
    yield Record({"text": text, "pages": len(pages)}, "file")


def read_warc(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """Read the pages and texts of a web archive, with their addresses."""
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed

    try:
        for number, record in enumerate(ArchiveIterator(file), 1):
            if record.rec_type not in ("response", "conversion"):
                continue
            kind = (record.http_headers or record.rec_headers).get_header("Content-Type") or ""
            address = record.rec_headers.get_header("WARC-Target-URI")
            body = record.content_stream().read(MAX_LINE)
            if record.rec_type == "conversion" or kind.startswith("text/plain"):
                yield Record({"text": decode(body, options.encoding or "utf-8"), "url": address}, f"record {number}")
            elif "html" in kind:
                yield _from_html(body, f"record {number}", options.encoding, url=address)
    except ArchiveLoadFailed as error:
        raise UnreadableError(f"not a readable WARC: {error}") from None


def _from_html(page: bytes, location: str, encoding: str | None, **more: str) -> Record | Bad:
    import trafilatura

    content, n_broken = _page(page, encoding)
    found: Any = trafilatura.bare_extraction(content, with_metadata=True, include_comments=False)
    if not found or not found.text:
        return Bad("no text in this page", location, page[:1000].decode("utf-8", "replace"))
    text = found.text.replace("\ufffd", "\udcff") if n_broken else found.text
    return Record({"text": text, "title": found.title, "date": found.date} | more, location)


def _page(page: bytes, declared: str | None) -> tuple[str | bytes, int]:
    """Return a page for the extractor, and the number of its broken bytes.

    A broken byte is a U+FFFD in the text, since the extractor takes no lone surrogates. The extractor decodes a page
    whose encoding is not declared, unless it is UTF-8 with a little damage.
    """
    text, n_broken = UNDECODED.subn("\ufffd", decode(page, declared or "utf-8"))
    if declared or (n_broken and len(NOT_ASCII.findall(text)) > 10 * n_broken):
        return text, n_broken
    return page, 0
