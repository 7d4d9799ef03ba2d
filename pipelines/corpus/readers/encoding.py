"""Bytes of text decoded in a declared or detected encoding."""

from __future__ import annotations

import codecs
import io
import re
from typing import BinaryIO, cast

from charset_normalizer import from_bytes

from pipelines.corpus.readers.records import BUFFER, ReadOptions, UnreadableError
from pipelines.errors import InputError

HEAD = 1 << 16  # bytes by which an encoding is detected


# From bytes to text


def open_text(file: BinaryIO, options: ReadOptions, newline: str | None = None) -> io.TextIOWrapper:
    buffered = to_buffered(file)
    encoding = detect_encoding(buffered.peek(HEAD)[:HEAD], options.encoding)
    return io.TextIOWrapper(buffered, encoding, errors_of(encoding), newline)


def decode(content: bytes, declared: str) -> str:
    encoding = detect_encoding(b"", declared)
    return content.decode(encoding, errors_of(encoding))


def errors_of(encoding: str) -> str:
    return "surrogateescape" if encoding.startswith("utf-8") else UNDECODABLE


def _to_surrogates(error: UnicodeError) -> tuple[str, int]:
    """A lone surrogate for each byte that is in no character. Python's own handler takes no bytes below 128."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC80 | byte) for byte in error.object[error.start : error.end]), error.end


UNDECODABLE = "tokenmill.undecodable"


codecs.register_error(UNDECODABLE, _to_surrogates)


def to_buffered(file: BinaryIO) -> io.BufferedReader:
    return file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, file), BUFFER)


def detect_encoding(head: bytes, declared: str | None = None) -> str:
    """The encoding of a file by its first bytes, unless one is declared.

    Raises:
        InputError: Python does not know the declared encoding.
        UnreadableError: the bytes are not text.
    """
    if declared:
        try:
            name = codecs.lookup(declared).name
            io.TextIOWrapper(io.BytesIO(), name)  # refuses what is no encoding of text, such as hex
        except LookupError:
            raise InputError(
                f"There is no encoding {declared!r}; Python's names are meant, such as utf-8 or cp1252."
            ) from None
        return "utf-8-sig" if name == "utf-8" else name
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        # Latin letters in UTF-16 have a zero as every other byte, and whatever the script, spaces and line ends have.
        even, odd = head[::2].count(0), head[1::2].count(0)
        utf_16 = "utf-16-be" if even > odd else "utf-16-le"
        if max(even, odd) > 0.4 * len(head) / 2 and min(even, odd) < 0.05 * len(head) / 2:
            return utf_16
        if min(even, odd) == 0 and _is_text(head, utf_16):
            return utf_16
        raise UnreadableError("binary, not text")
    if sum(head.count(byte) for byte in CONTROLS) > 0.05 * len(head):
        raise UnreadableError("binary, not text")
    n_broken = len(UNDECODED.findall(head.decode("utf-8", "surrogateescape")))
    if n_broken <= 3 or n_broken < 0.001 * len(head):  # the head may end within a character, or a few bytes be damaged
        return "utf-8-sig"
    guess = from_bytes(head).best()
    if guess is None:
        raise UnreadableError("text in no known encoding")
    return guess.encoding


def _is_text(head: bytes, encoding: str) -> bool:
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)  # which may end within a character
    except UnicodeDecodeError:
        return False
    return sum(letter.isprintable() or letter.isspace() for letter in text) > 0.98 * len(text)


MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


UNDECODED = re.compile("[\udc80-\udcff]")


CONTROLS = [bytes([code]) for code in (*range(9), *range(14, 27), *range(28, 32))]
