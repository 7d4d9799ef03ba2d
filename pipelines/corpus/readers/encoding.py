"""Bytes of text decoded in a declared or detected encoding."""

import codecs
import io
import re
from collections import Counter
from typing import BinaryIO, cast

from pipelines.corpus.readers.legacy import FEW, guess_legacy, is_western, odd_share
from pipelines.corpus.readers.records import BUFFER, ReadOptions, UnreadableError
from pipelines.errors import InputError

HEAD = 1 << 16  # bytes that decide the encoding
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
CONTROLS = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
UNDECODED = re.compile("[\udc80-\udcff]")  # a byte outside the encoding
LETTERS_BESIDE = re.compile("[a-zA-Z][\udc80-\udcff]|[\udc80-\udcff][a-zA-Z]")
NOT_ASCII = re.compile("[^\0-\x7f]")
BINARY = 0.05  # share of control characters that no text has
DAMAGED = 0.05  # broken bytes for each letter in UTF-8 from which a file is rather a mixture
CHINESE = re.compile("[\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef\\s!-~\u2010-\u2027]")  # and Japanese
COMMON_CHINESE = re.compile("[\u4e00-\u7fff]")
KINDS = {b"PK\3\4": "a ZIP archive or an Office document", b"SQLite format 3": "a SQLite database"}
NAMES = {"utf-8": "UTF-8", "gb18030": "GB18030", "mac-roman": "Mac Roman", "mac-cyrillic": "Mac Cyrillic"}


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
    """Return the encoding of a file by its first bytes, unless one is declared. UTF-8 is `utf-8-sig`.

    Raises:
        InputError: Python does not know the declared encoding.
        UnreadableError: the bytes are not text.
    """
    return to_codec(declared_encoding(declared) if declared else guess_encoding(head)[0])


def to_codec(encoding: str) -> str:
    """Return the codec that reads an encoding. In UTF-8, a byte order mark is no text."""
    return "utf-8-sig" if encoding == "utf-8" else encoding


def guess_encoding(sample: bytes) -> tuple[str, bool]:
    """Return the encoding of a part of a text, and whether that is doubtful.

    A byte order mark decides first, then UTF-32 and UTF-16 without one, UTF-8, and the encodings before Unicode.

    Raises:
        UnreadableError: the bytes are not text.
    """
    if marked := marked_encoding(sample):
        return marked, False
    is_short = len(sample) < FEW
    is_binary = len(CONTROLS.findall(sample)) > BINARY * len(sample)
    text = sample.decode("utf-8", "surrogateescape")
    n_letters, n_broken = len(NOT_ASCII.findall(text)), len(UNDECODED.findall(without_cut(text)))
    if (is_binary or n_broken) and (wide := _wide_encoding(sample)):
        return wide, is_short
    if is_binary:
        raise UnreadableError(f"binary, not text{_kind(sample)}")
    if not n_broken and not re.search(rb"\x1b[$(]", sample):
        return "utf-8", False
    n_letters -= len(UNDECODED.findall(text))
    if n_letters > n_broken:
        return "utf-8", n_broken > DAMAGED * n_letters
    encoding, is_doubtful = guess_legacy(sample.replace(b"\0", b" "))
    if encoding is None:
        if not n_broken:
            return "utf-8", False
        raise UnreadableError("text in no known encoding")
    if n_broken <= 3 and _is_damage(sample, text, encoding):
        return "utf-8", True
    return encoding, is_doubtful or (encoding == "cp1252" and 5 * n_letters > n_broken)


def _is_damage(sample: bytes, text: str, encoding: str) -> bool:
    """Return whether a few bytes that are not UTF-8 are no words in another encoding either."""
    if is_western(sample.decode("cp1252", "replace")):
        return False
    decoded = sample.decode(encoding, "replace")
    has_letters = any(map(str.isalpha, NOT_ASCII.findall(decoded)))
    return not LETTERS_BESIDE.search(text) or not has_letters or odd_share(decoded) >= 0.5


def marked_encoding(head: bytes) -> str | None:
    """Return the encoding that a byte order mark at the start of a file declares."""
    return next((encoding for mark, encoding in MARKS.items() if head.startswith(mark)), None)


def known_name(encoding: str) -> str:
    """Return the name by which people know an encoding of Python."""
    name = encoding.replace("cp125", "Windows-125").replace("iso8859", "ISO-8859").replace("koi8", "KOI8")
    return NAMES.get(encoding, name if name != encoding else encoding.upper())


def without_cut(text: str) -> str:
    """Return a decoded text without a character at its end of which only some bytes are there."""
    return re.sub("[\udcc2-\udcf4][\udc80-\udcbf]{0,2}\\Z", "", text)


def declared_encoding(declared: str) -> str:
    """Return Python's name of a declared encoding.

    Raises:
        InputError: Python does not know it.
    """
    try:
        name = codecs.lookup(declared).name
        io.TextIOWrapper(io.BytesIO(), name)  # rejects what is no encoding of text, such as hex
    except LookupError:
        raise InputError(
            f"There is no encoding {declared!r}; Python's names are meant, such as utf-8 or cp1252."
        ) from None
    return "utf-8" if name == "utf-8-sig" else name


def _wide_encoding(sample: bytes) -> str | None:
    """Return UTF-32 or UTF-16 if bytes are a text in it, without a mark."""
    for encoding in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        width = 4 if encoding.startswith("utf-32") else 2
        text = sample[: len(sample) // width * width].decode(encoding, "replace")
        good = [letter for letter in text if letter != "\ufffd" and (letter.isprintable() or letter.isspace())]
        if text and len(good) > 0.98 * len(text) and _is_one_script(good):
            return encoding
    return None


def _is_one_script(letters: list[str]) -> bool:
    """Return whether letters are of one script. Bytes of other encodings become signs of many scripts."""
    blocks = Counter(ord(letter) >> 8 for letter in letters)
    n_latin = blocks.pop(0, 0)
    if n_latin + max(blocks.values(), default=0) > 0.9 * len(letters):
        return True
    text = "".join(letters)
    return len(CHINESE.findall(text)) > 0.98 * len(text) and len(COMMON_CHINESE.findall(text)) > 0.2 * len(text)


def _kind(head: bytes) -> str:
    return next((f": {kind}" for mark, kind in KINDS.items() if head.startswith(mark)), "")


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
