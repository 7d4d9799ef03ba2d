"""A look at a file's first bytes, which says how to read what no key says.

Each guess is a value that a key could have given. Readers get options in which nothing is left to guess.
"""

import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import BinaryIO

from pipelines.corpus.readers.compression import MAGIC_BYTES, compression_of, decompress
from pipelines.corpus.readers.delimited import guess_delimiter, guess_quotes, usual_quotes
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
from pipelines.corpus.readers.records import BUFFER, Bad, ReadOptions, Record, Stream, UnreadableError, is_of_file

TEXTS = ("text", "markdown", "code", "html", "json", "jsonl", "csv", "tsv", "conversations")  # that have an encoding
FORMATS_BY_MAGIC = {b"%PDF-": "pdf", b"PAR1": "parquet", b"ARROW1": "arrow", b"WARC/": "warc"}
SHAPES = ("json", "jsonl")  # the content of a file decides which of these it is
POINTER = b"version https://git-lfs.github.com/spec/"  # what Git leaves where LFS is not installed
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
    if head.startswith(POINTER):
        raise UnreadableError("a pointer of Git LFS and not the file itself; git lfs pull fetches it")
    by_magic = next((each for magic, each in FORMATS_BY_MAGIC.items() if head.startswith(magic)), None)
    if not by_magic and begins_as_mail(head, named_format):
        by_magic = "mail"
    if not (format_ := options.format or by_magic or named_format):
        raise UnreadableError(f"no reader for .{extension}")
    complete = {"compression": packed, "format": format_}
    usual: dict[str, str | None] = {"compression": named_packing, "format": named_format}
    doubtful = set()
    if format_ in TEXTS:
        sample = _sample(stream, head, sys.maxsize if packed == "none" and _is_local(file) else FAR)
        complete["encoding"], is_guess, is_doubtful = _encoding(sample, head, format_, options)
        usual["encoding"] = "utf-8" if is_guess else complete["encoding"]
        doubtful |= {"encoding"} if is_doubtful else set()
        codec = to_codec(complete["encoding"])
        if format_ in SHAPES and not options.format:
            complete["format"] = guess_shape(_text(head, codec)) or format_
        if format_ in DELIMITERS:
            text = _text(head, codec)
            delimiter = options.delimiter or guess_delimiter(text, DELIMITERS[format_], options)
            quotes, is_doubtful = guess_quotes(text, delimiter, options)
            complete |= {"delimiter": delimiter, "quotes": options.quotes or quotes}
            usual |= {"delimiter": DELIMITERS[format_], "quotes": usual_quotes(delimiter)}
            doubtful |= {"quotes"} if is_doubtful else set()
    guesses = [
        Guess(key, value, key in doubtful)
        for key, value in complete.items()
        if getattr(options, key) is None and (key in doubtful or value != usual[key])
    ]
    return _complete(options, tuple(complete.items()), tuple(guesses))


@lru_cache(1024)
def _complete(options: ReadOptions, values: tuple[tuple[str, str], ...], guesses: tuple[Guess, ...]) -> Look:
    return Look(options.model_copy(update=dict(values)), guesses)


def _text(head: bytes, codec: str) -> str:
    return head.decode(codec, errors_of(codec)).removeprefix("\ufeff")


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
        if not block.isascii():
            found = re.search(rb"[^\0-\x7f]", block)
            block = block[max((found.start() if found else 0) - BEFORE, 0) :]
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


class _Lent(Stream):
    """A file that others read and may close, and that stays open."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file.read)
        self._file = file

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def read_file(file: BinaryIO, name: str, options: ReadOptions) -> Iterator[Record | Bad]:
    """Yield the records of an open file one by one, as `read_records` reads them."""
    try:
        looked = look(file, name, options)
    except UnreadableError as error:
        return iter([Bad(str(error), "file")])
    return one_by_one(read_records(file, name, looked.options))
