"""Readers of HTML, PDF and WARC."""

import io
import logging
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from pipelines.corpus.readers.compression import refuse_bomb
from pipelines.corpus.readers.encoding import (
    UNDECODED,
    declared_encoding,
    decode,
    errors_of,
    guess_encoding,
    to_codec,
    without_cut,
)
from pipelines.corpus.readers.records import (
    MAX_LINE,
    Bad,
    ReadOptions,
    Record,
    UnreadableError,
    read_whole,
    to_seekable,
)
from pipelines.errors import InputError

PDF_WORK = 8  # bytes of memory and more of work that a byte of a page's instructions takes
DECLARATION = re.compile(rb"""<(?:meta|\?xml)\b[^>]*?\b(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
DECLARED_WITHIN = 4096  # bytes
# Browsers read the broader encoding where pages declare the one that it extends.
BROADER = {
    **dict.fromkeys(("iso-8859-1", "latin1", "us-ascii", "ascii"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk", "x-gbk"), "gb18030"),
    **dict.fromkeys(("shift_jis", "shift-jis", "x-sjis", "sjis"), "cp932"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987"), "cp949"),
    **dict.fromkeys(("utf-16", "utf-16le", "utf-16be"), "utf-8"),  # or the declaration could not be read
    "iso-8859-9": "cp1254",
    "tis-620": "cp874",
    "big5": "big5hkscs",
}


def read_html(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """Read the main text of a page, its title and its date."""
    yield _from_html(read_whole(file), "file", options.encoding)


def read_pdf(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """Read the text of all pages."""
    import pypdf
    from pypdf.errors import PyPdfError

    seekable, skipped = to_seekable(file), _Skipped()
    size = seekable.seek(0, io.SEEK_END)
    logging.getLogger("pypdf").addHandler(skipped)
    try:
        pages, texts, unpacked = pypdf.PdfReader(seekable).pages, [], 0
        for page in pages:  # many pages may share one content, so this counts before a text is made
            contents = page.get("/Contents")
            unpacked += _content_bytes(contents.get_object()) if contents else 0
            refuse_bomb(unpacked * PDF_WORK, size, options)
        for page in pages:
            texts.append(page.extract_text())
            if skipped.reason:
                raise UnreadableError(f"a part of page {len(texts)} is lost: {skipped.reason}")
    except PyPdfError as error:
        raise UnreadableError(f"not a readable PDF: {error}") from None
    finally:
        logging.getLogger("pypdf").removeHandler(skipped)
    yield Record({"text": "\n\n".join(texts), "pages": len(pages)}, "file")


def _content_bytes(contents: Any) -> int:
    """Return the bytes of the unpacked instructions of a page: a stream, or a list of them."""
    from pypdf.generic import StreamObject

    parts = (part.get_object() for part in (contents if isinstance(contents, list) else [contents]))
    return sum(len(part.get_data()) for part in parts if isinstance(part, StreamObject))


class _Skipped(logging.Handler):
    """Keeps the first warning that a part of a page was skipped: pypdf raises no error then."""

    reason = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning of a broken stream or of form content."""
        text = record.getMessage()
        if record.name == "pypdf.filters" or text.startswith(("Exceeded", "Impossible to decode")):
            self.reason = self.reason or text


def read_warc(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """Read the pages and texts of a web archive, with their addresses."""
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed

    number = 0
    try:
        for number, record in enumerate(ArchiveIterator(file), 1):
            if record.rec_type not in ("response", "conversion"):
                continue
            kind = (record.http_headers or record.rec_headers).get_header("Content-Type") or ""
            address = record.rec_headers.get_header("WARC-Target-URI")
            stream = record.content_stream()
            body = stream.read(MAX_LINE + 1)
            packing = getattr(stream, "decompressor", None)
            if len(body) > MAX_LINE:
                yield Bad(f"a record of more than {MAX_LINE:,} bytes", f"record {number}")
            elif _is_cut(record.raw_stream) or (body and not getattr(packing, "eof", True)):
                yield Bad("the record ends before its length", f"record {number}")
            elif record.rec_type == "conversion" or kind.startswith("text/plain"):
                yield Record({"text": decode(body, options.encoding or "utf-8"), "url": address}, f"record {number}")
            elif "html" in kind:
                yield _from_html(body, f"record {number}", options.encoding, url=address)
    except ArchiveLoadFailed as error:
        raise UnreadableError(f"not a readable WARC: {error}") from None
    if not number:
        raise UnreadableError("not a readable WARC: it has no record")


def _is_cut(stream: Any) -> bool:
    """Return whether a record's bytes end before the length that it declares. What follows a text may be left."""
    return getattr(stream, "limit", 0) > 0 and not stream.read(1)


def _from_html(page: bytes, location: str, encoding: str | None, **more: str) -> Record | Bad:
    import trafilatura

    content, n_broken = _page(page, encoding)
    found: Any = trafilatura.bare_extraction(content, with_metadata=True, include_comments=False)
    if not found or not found.text:
        return Bad("no text in this page", location, page[:1000].decode("utf-8", "replace"))
    text = found.text.replace("\ufffd", "\udcff") if n_broken else found.text
    return Record({"text": text, "title": found.title, "date": found.date} | more, location)


def _page(page: bytes, declared: str | None) -> tuple[str, int]:
    """Return a page for the extractor, and the number of its broken bytes.

    A broken byte is a U+FFFD in the text, since the extractor takes no lone surrogates.
    """
    return UNDECODED.subn("\ufffd", decode(page, declared or encoding_of_page(page)[0]))


def encoding_of_page(page: bytes) -> tuple[str, bool, bool]:
    """Return the encoding of a page, whether it is a guess, and whether that is doubtful.

    A declaration in the page counts if the page is in that encoding.
    """
    if (found := DECLARATION.search(page[:DECLARED_WITHIN])) and (
        encoding := BROADER.get(label := found[1].decode().lower(), label)
    ):
        try:
            encoding = declared_encoding(encoding)
            if not UNDECODED.search(without_cut(page.decode(to_codec(encoding), errors_of(encoding)))):
                return encoding, False, False
        except InputError:
            pass
    encoding, is_doubtful = guess_encoding(page)
    return encoding, True, is_doubtful
