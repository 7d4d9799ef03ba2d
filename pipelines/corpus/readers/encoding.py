"""Bytes of text decoded in a declared or detected encoding."""

import codecs
import io
import re
from typing import BinaryIO, cast

import chardet

from pipelines.corpus.readers.records import BUFFER, ReadOptions, UnreadableError
from pipelines.errors import InputError

HEAD = 1 << 16  # bytes that decide the encoding
CONFIDENT = 0.15  # chardet's confidence below which western text is taken for Windows-1252
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
CONTROLS = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
UNDECODED = re.compile("[\udc80-\udcff]")  # a byte outside the encoding
# Signs that western text in Windows-1252 hardly has: letters of other languages, a sign within a word, and four letters
# with accents in a row.
NOT_WESTERN = re.compile(
    r"[^\x00-\x7f\xa0-\xff€‚„…‘’“”–—œŒ™]|[¤¦¨¬¯´¶¸¹ºÐÝÞðýþ±³]|(?<=\w)[^\w\s\x00-\x7f’](?=\w)|[^\x00-\x7f]{4}"
)


def open_text(file: BinaryIO, options: ReadOptions, newline: str | None = None) -> io.TextIOWrapper:
    """Open a file as text. Bytes outside its encoding become lone surrogates."""
    buffered = to_buffered(file)
    encoding = detect_encoding(buffered.peek(HEAD)[:HEAD], options.encoding)
    return io.TextIOWrapper(buffered, encoding, errors_of(encoding), newline)


def decode(content: bytes, declared: str) -> str:
    """Decode bytes in a declared encoding. Bytes outside it become lone surrogates."""
    encoding = detect_encoding(b"", declared)
    return content.decode(encoding, errors_of(encoding))


def to_buffered(file: BinaryIO) -> io.BufferedReader:
    """Return the file with a buffer, which can be peeked into."""
    return file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, file), BUFFER)


def detect_encoding(head: bytes, declared: str | None = None) -> str:
    """Return the encoding of a file by its first bytes, unless one is declared.

    A byte order mark decides first, then UTF-8, then chardet. Below chardet's usual confidence, western text is
    Windows-1252.

    Raises:
        InputError: Python does not know the declared encoding.
        UnreadableError: the bytes are not text.
    """
    if declared:
        return _declared_encoding(declared)
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        return _utf_16_without_mark(head)
    if len(CONTROLS.findall(head)) > 0.05 * len(head):
        raise UnreadableError("binary, not text")
    n_broken = len(UNDECODED.findall(head.decode("utf-8", "surrogateescape")))
    if n_broken <= 3 or n_broken < 0.001 * len(head):  # the head may end within a character, or a few bytes be damaged
        return "utf-8-sig"
    guess = chardet.detect(head)
    if guess["confidence"] < CONFIDENT and not NOT_WESTERN.search(head.decode("cp1252", "surrogateescape")):
        return "cp1252"
    if guess["encoding"] is None:
        raise UnreadableError("text in no known encoding")
    name = codecs.lookup(guess["encoding"]).name
    return "cp1252" if name == "iso8859-1" else name  # which only differ in control characters


def _declared_encoding(declared: str) -> str:
    try:
        name = codecs.lookup(declared).name
        io.TextIOWrapper(io.BytesIO(), name)  # rejects what is no encoding of text, such as hex
    except LookupError:
        raise InputError(
            f"There is no encoding {declared!r}; Python's names are meant, such as utf-8 or cp1252."
        ) from None
    return "utf-8-sig" if name == "utf-8" else name


def _utf_16_without_mark(head: bytes) -> str:
    # Latin letters in UTF-16 have a zero as every other byte. Whatever the script, spaces and line ends have one.
    even, odd = head[::2].count(0), head[1::2].count(0)
    encoding = "utf-16-be" if even > odd else "utf-16-le"
    text = head.decode(encoding, "replace")
    n_good = sum(letter.isprintable() or letter.isspace() for letter in text.replace("\ufffd", "\0"))
    if min(even, odd) < 0.05 * len(head) / 2 and n_good > 0.98 * len(text):
        return encoding
    raise UnreadableError("binary, not text")


def errors_of(encoding: str) -> str:
    """Return the name of the error handler that makes lone surrogates of bytes outside an encoding."""
    return "surrogateescape" if encoding.startswith("utf-8") else UNDECODABLE


def _to_surrogates(error: UnicodeError) -> tuple[str, int]:
    """Return a lone surrogate for each undecodable byte. Python's own handler takes no bytes below 128."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC80 | byte) for byte in error.object[error.start : error.end]), error.end


UNDECODABLE = "tokenmill.undecodable"
codecs.register_error(UNDECODABLE, _to_surrogates)
