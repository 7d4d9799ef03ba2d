"""A look at a file's first bytes, which says how to read what no key says.

Each guess is a value that a key could have given. Readers get options in which nothing is left to guess.
"""

import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

from pipelines.corpus.readers.compression import MAGIC_BYTES, compression_of, decompress
from pipelines.corpus.readers.delimited import guess_delimiter, guess_quotes
from pipelines.corpus.readers.encoding import (
    HEAD,
    declared_encoding,
    errors_of,
    guess_encoding,
    marked_encoding,
    to_codec,
)
from pipelines.corpus.readers.formats import check_format, one_by_one, read_records, split_name
from pipelines.corpus.readers.json_lines import guess_shape
from pipelines.corpus.readers.mail import begins_as_mail
from pipelines.corpus.readers.pages import DECLARED_WITHIN, encoding_of_page
from pipelines.corpus.readers.records import BUFFER, Bad, ReadOptions, Record, UnreadableError, is_of_file

TEXTS = ("text", "markdown", "code", "html", "json", "jsonl", "csv", "tsv", "conversations")  # that have an encoding
FORMATS_BY_MAGIC = {b"%PDF-": "pdf", b"PAR1": "parquet", b"ARROW1": "arrow", b"WARC/": "warc"}
SHAPES = ("json", "jsonl")  # that are told apart by what is in the file
DELIMITERS = {"csv": ",", "tsv": "\t"}
FAR = 64 << 20  # bytes of a packed or remote file in which a letter outside ASCII is looked for
BEFORE = 1000  # bytes before that letter


@dataclass(frozen=True)
class Guess:
    """A value that no key gave. The key `key` overrides it."""

    key: str
    value: str
    is_doubtful: bool = False


@dataclass(frozen=True)
class Look:
    """The complete options of a file, and what of them was guessed and is not what everybody expects."""

    options: ReadOptions
    guesses: tuple[Guess, ...] = ()

    @cached_property
    def columns(self) -> dict[str, str | None]:
        """How the file is read, as columns of a table."""
        options = self.options
        return {
            "format": options.format,
            "compression": None if options.compression == "none" else options.compression,
            "encoding": options.encoding,
            "quotes": options.quotes,
            "doubtful": ", ".join(guess.key for guess in self.guesses if guess.is_doubtful) or None,
        }


def look(file: BinaryIO, name: str, options: ReadOptions) -> Look:
    """Look at the first bytes of an open seekable file, which stays at its start.

    The first bytes count more than the file's name, except that a text stays what its name says.

    Raises:
        InputError: there is no such format or encoding.
        UnreadableError: the file cannot be read.
    """
    check_format(options)
    try:
        return _look(file, name, options)
    finally:
        file.seek(0)


def _look(file: BinaryIO, name: str, options: ReadOptions) -> Look:
    named_packing, named_format, extension = split_name(name)
    packed = options.compression or compression_of(file.read(MAGIC_BYTES)) or "none"
    file.seek(0)
    stream = file if packed == "none" else decompress(io.BufferedReader(_Lent(file), BUFFER), packed, options)
    head = _read(stream, HEAD)
    guesses: list[Guess] = []
    if not options.compression and packed != named_packing:
        guesses.append(Guess("compression", packed))
    by_magic = next((each for magic, each in FORMATS_BY_MAGIC.items() if head.startswith(magic)), None)
    if not by_magic and begins_as_mail(head, named_format):
        by_magic = "mail"
    format_ = options.format or by_magic or named_format
    if not format_:
        raise UnreadableError(f"no reader for .{extension}")
    if not options.format and format_ != named_format:
        guesses.append(Guess("format", format_))
    complete: dict[str, Any] = {"compression": packed, "format": format_}
    if format_ in TEXTS:
        is_near = packed == "none" and _is_local(file)
        sample = _sample(stream, head, sys.maxsize if is_near else FAR)
        encoding, is_guess, is_doubtful = _encoding(sample, head, format_, options)
        complete["encoding"] = encoding
        if is_guess and (is_doubtful or encoding != "utf-8"):
            guesses.append(Guess("encoding", encoding, is_doubtful))
        text = head.decode(to_codec(encoding), errors_of(encoding)).removeprefix("\ufeff")
        if format_ in SHAPES and not options.format and (shape := guess_shape(text) or format_) != format_:
            guesses.append(Guess("format", shape))
            complete["format"] = shape
        if format_ in DELIMITERS:
            delimiter = options.delimiter or guess_delimiter(text, DELIMITERS[format_], options)
            if delimiter != (options.delimiter or DELIMITERS[format_]):
                guesses.append(Guess("delimiter", delimiter))
            quotes, is_doubtful = (options.quotes, False) if options.quotes else guess_quotes(text, delimiter, options)
            if not options.quotes and (is_doubtful or quotes != ("letters" if delimiter == "\t" else "fields")):
                guesses.append(Guess("quotes", quotes, is_doubtful))
            complete |= {"delimiter": delimiter, "quotes": quotes}
    return Look(options.model_copy(update=complete), tuple(guesses))


def _encoding(sample: bytes, head: bytes, format_: str, options: ReadOptions) -> tuple[str, bool, bool]:
    """Return the encoding, whether it is a guess, and whether that is doubtful. A byte order mark beats a key."""
    if marked := marked_encoding(head):
        return marked, False, False
    if options.encoding:
        return declared_encoding(options.encoding), False, False
    if format_ == "html":
        return encoding_of_page(head if sample is head else head[:DECLARED_WITHIN] + sample)
    return (encoded := guess_encoding(sample))[0], True, encoded[1]


def _sample(stream: BinaryIO, head: bytes, limit: int) -> bytes:
    """Return the head of a text, or a part further behind if the head has no letter outside ASCII."""
    sample, seen = head, len(head)
    while sample.isascii() and b"\0" not in head and seen < limit and (block := _read(stream, BUFFER)):
        seen += len(block)
        if found := re.search(rb"[^\0-\x7f]", block):
            block = block[max(found.start() - BEFORE, 0) :]
            sample = (block + _read(stream, max(HEAD - len(block), 0)))[:HEAD]
    if len(sample) < HEAD:
        return sample
    end = max(sample.rfind(b"\n"), sample.rfind(b" "))  # where no letter is cut
    return sample[: end + 1] if end > HEAD // 2 else sample


def _read(stream: BinaryIO, size: int) -> bytes:
    """Return the next bytes, as many as there are before the end or before a break, which the reader reports."""
    blocks: list[bytes] = []
    try:
        while size > 0 and (block := stream.read1(size)):  # type: ignore[attr-defined]
            blocks.append(block)
            size -= len(block)
    except Exception as error:
        if not is_of_file(error):
            raise
    return b"".join(blocks)


def _is_local(file: BinaryIO) -> bool:
    return isinstance(file, io.BytesIO) or isinstance(getattr(file, "raw", None), io.FileIO)


class _Lent(io.RawIOBase):
    """A file that others read and may close, and that stays open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        block = self._file.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)


def read_file(file: BinaryIO, name: str, options: ReadOptions) -> Iterator[Record | Bad]:
    """Yield the records of an open file one by one, as `read_records` reads them."""
    try:
        looked = look(file, name, options)
    except UnreadableError as error:
        return iter([Bad(str(error), "file")])
    return one_by_one(read_records(file, name, looked.options))
