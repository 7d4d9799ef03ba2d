"""Reader of e-mail: a message in a file (.eml, Maildir), or many in one (mbox).

A message's text is its plain text. A message that has only HTML becomes text as a page does. Attachments are counted
and not read. Quoted replies stay. Header fields are decoded and become columns.
"""

import email
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.header import decode_header
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import BinaryIO

from pipelines.corpus.readers.encoding import HEAD, UNDECODED, decode, detect_encoding, to_buffered
from pipelines.corpus.readers.pages import read_html
from pipelines.corpus.readers.records import MAX_LINE, Bad, ReadOptions, Record, UnreadableError
from pipelines.errors import InputError

HEADERS = ("subject", "from", "to", "cc", "date", "message-id", "in-reply-to")
"""Header fields that become columns."""
MAX_HEADER = 10_000  # characters of a field
MAX_DEPTH = 50  # of parts within parts
BEGINNING = re.compile(rb"From \S.*\d\d:\d\d.*\d{4}")
MBOX = re.compile(BEGINNING.pattern + rb"[^\n]*\n[A-Za-z][\w-]*:")
MESSAGE = re.compile(
    rb"(?i)(date|delivered-to|from|message-id|mime-version|received|return-path|subject|to|x-[\w-]+):[ \t][^\n]*\n"
    rb"([ \t][^\n]*\n)*[a-z][\w-]*:"
)
QUOTED = re.compile(rb"(?m)^>(?=>*From )")


def read_mail(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """Read the messages of a file. A file that begins as an mbox does holds many, any other one."""
    buffered = to_buffered(file)
    if not buffered.peek(5).startswith(b"From "):
        yield _record(buffered.read(MAX_LINE + 1), "file", options)
        return
    for number, content in enumerate(_messages(buffered), 1):
        yield _record(content, f"message {number}", options)


def begins_as_mail(head: bytes, named_format: str | None) -> bool:
    """Return whether a file of another name begins as an mbox, or a file of no known name as a message."""
    is_message = not named_format and MESSAGE.match(head)
    return named_format in (None, "text") and bool(is_message or MBOX.match(head[:1000]))


def _messages(file: BinaryIO) -> Iterator[bytes]:
    """Yield the messages of an mbox, each behind a line that begins with `From` and follows a blank one."""
    file.readline(MAX_LINE)
    lines: list[bytes] = []
    size, after_blank = 0, False
    while line := file.readline(1 << 16):
        if after_blank and BEGINNING.match(line[:200]):
            yield QUOTED.sub(b"", b"".join(lines))
            lines, size = [], 0
            continue
        size += len(line)
        lines += [line] if size <= MAX_LINE + len(line) else []
        after_blank = line in (b"\n", b"\r\n")
    yield QUOTED.sub(b"", b"".join(lines))


def _record(content: bytes, location: str, options: ReadOptions) -> Record | Bad:
    if len(content) > MAX_LINE:
        return Bad(f"a message of more than {MAX_LINE:,} bytes", location)
    shown = content[:1000].decode("utf-8", "replace")
    try:
        message = email.message_from_bytes(content)
        if not message.keys():
            return Bad("not a message: it has no header", location, shown)
        body = _body(message, options)
        fields = {name: _header(message, name, options) for name in HEADERS}
    except (InputError, MemoryError, OSError):
        raise
    except Exception as error:  # Python's parser of messages foresees less than people write
        return Bad(f"not a readable message: {error or type(error).__name__}", location, shown)
    if not body.text.strip():
        return Bad("no text in this message", location, shown)
    return Record({"text": body.text, **fields, "attachments": body.attachments}, location)


@dataclass(frozen=True)
class Body:
    """The text of a message or of a part of it, whether it was plain, and the number of attachments."""

    text: str = ""
    is_plain: bool = False
    attachments: int = 0


def _body(part: Message, options: ReadOptions, depth: int = 0) -> Body:
    """Return the body of a part of a message."""
    if depth > MAX_DEPTH:
        raise UnreadableError("a message with parts nested too deeply")
    kind = part.get_content_type()
    if kind.startswith("multipart/") and not part.is_multipart():
        kind = "text/plain"  # as Python reads a damaged one
    elif kind.startswith("multipart/"):
        bodies = [_body(each, options, depth + 1) for each in part.get_payload()]  # type: ignore[arg-type]
        return _alternative(bodies) if kind == "multipart/alternative" else _joined(bodies)
    if kind not in ("text/plain", "text/html") or part.get_content_disposition() == "attachment":
        return Body(attachments=1)
    content = part.get_payload(decode=True)
    text = _decoded(content if isinstance(content, bytes) else b"", part.get_content_charset(), options)
    return Body(text, True) if kind == "text/plain" else Body(_text_of_page(text), False)


def _alternative(bodies: Iterable[Body]) -> Body:
    """Return the first body with plain text, else the first with any. All show the same."""
    ordered = sorted((body for body in bodies if body.text.strip()), key=lambda body: not body.is_plain)
    return ordered[0] if ordered else Body()


def _joined(bodies: Iterable[Body]) -> Body:
    bodies = list(bodies)
    texts = [body.text for body in bodies if body.text.strip()]
    plain = any(body.is_plain and body.text.strip() for body in bodies)
    return Body("\n\n".join(texts), plain, sum(body.attachments for body in bodies))


def _text_of_page(page: str) -> str:
    utf_8 = ReadOptions(encoding="utf-8")
    found = next(read_html(io.BytesIO(page.encode("utf-8", "surrogateescape")), utf_8))
    if isinstance(found, Record):
        return str(found.fields["text"])
    from trafilatura import html2txt

    return html2txt("<html><body>" + UNDECODED.sub("\ufffd", page)) or ""  # of a few words


def _decoded(content: bytes, declared: str | None, options: ReadOptions) -> str:
    """Return a text in its declared encoding, if it fits. Bytes outside the encoding become lone surrogates."""
    texts = []
    with suppress(InputError):  # an encoding that Python does not know
        texts.append(decode(content, declared or options.encoding or "ascii"))
        if not UNDECODED.search(texts[0]):
            return texts[0]
    with suppress(UnreadableError):
        texts.append(decode(content, detect_encoding(content[:HEAD], options.encoding)))
    return min(texts, key=lambda text: len(UNDECODED.findall(text)), default=content.decode("utf-8", "surrogateescape"))


def _header(message: Message, name: str, options: ReadOptions) -> str | None:
    """Return a decoded header field on one line, or None. A date is in ISO 8601, if it can be understood."""
    value = message.get(name)
    if value is None:
        return None
    try:
        parts = [
            part if isinstance(part, str) else _decoded(part, charset and str(charset), options)
            for part, charset in decode_header(value)
        ]
    except (ValueError, LookupError, email.errors.MessageError):
        parts = [str(value)]
    text = " ".join(UNDECODED.sub("\ufffd", "".join(parts)[:MAX_HEADER]).split())
    if name == "date":
        with suppress(ValueError, TypeError, OverflowError, IndexError):
            return parsedate_to_datetime(text).isoformat()
    return text
