"""Records, the unit that every reader yields, and the options of reading."""

from __future__ import annotations

import io
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from gpt.config import Config

MAX_LINE = 64 << 20  # bytes of one line of JSON Lines, or of one field of a CSV file
MAX_WHOLE = 256 << 20  # bytes of a file whose format can only be read whole
BUFFER = 1 << 20  # bytes per read
SURROGATE = re.compile("[\ud800-\udfff]")


class Record(NamedTuple):
    """One record: its fields (plain text has one, `text`) and its place in the file."""

    fields: dict[str, Any]
    location: str


@dataclass(frozen=True)
class Records:
    """Consecutive records, such as a block of lines. An object for each of many million small ones is too slow.

    unit: what a file counts them by: line, row.
    first: the number of the first one.
    """

    fields: Sequence[dict[str, Any]]
    unit: str
    first: int

    def __len__(self) -> int:
        return len(self.fields)

    def __getitem__(self, part: slice) -> Records:
        return Records(self.fields[part], self.unit, self.first + part.indices(len(self))[0])

    def __iter__(self) -> Iterator[Record]:
        return map(Record, self.fields, self.locations().to_pylist())

    def locations(self, before: str = "") -> pa.StringArray:
        """Return the place of each record, behind a prefix."""
        numbers = pa.array(np.arange(self.first, self.first + len(self))).cast(pa.string())
        return pc.utf8_replace_slice(numbers, 0, 0, f"{before}{self.unit} ")

    @property
    def last_location(self) -> str:
        """The place of the last record."""
        return f"{self.unit} {self.first + len(self) - 1}"


class Bad(NamedTuple):
    """A record that could not be read, and why."""

    reason: str
    location: str
    text: str = ""


class UnreadableError(Exception):
    """The rest of a file cannot be read; the text says why."""


class Stream(io.RawIOBase):
    """A stream over a function that returns at most a number of bytes, and none at the end."""

    def __init__(self, read_some: Callable[[int], bytes]) -> None:
        self._read_some = read_some

    def readable(self) -> bool:
        """Return that the stream can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes into a buffer, and return how many."""
        block = self._read_some(len(buffer))
        buffer[: len(block)] = block
        return len(block)


class ReadOptions(Config):
    """Options that say how to read a file."""

    format: str | None = None
    """Format of the files; by default by their extension."""
    encoding: str | None = None
    """Encoding of the text; detected by default."""
    split_at: str | None = Field(None, min_length=1)
    """The text between documents in a plain text file."""
    max_document: int = Field(10_000_000, gt=0)
    """Most characters of a document of plain text; longer texts are cut after a paragraph."""
    columns: tuple[str, ...] = ()
    """Names of the columns, for CSV and TSV files without a header."""
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    """The sign between the fields of a CSV file."""

    @property
    def wanted(self) -> Collection[str]:
        """The columns to read from formats that store columns; all, if empty."""
        return ()


# Takes an open file and options; a reader by line also takes the number of the first line.
Reader = Callable[..., Iterator["Record | Records | Bad"]]


@dataclass(frozen=True)
class Format:
    """A format: its file extensions, its reader, and whether a part between two line ends can be read alone."""

    extensions: tuple[str, ...]
    read: Reader
    by_line: bool = False


def no_column(name: str, fields: Iterable[str]) -> str:
    """Return the reason for rejecting a record without a column."""
    return f"no column {name!r}; there are {SURROGATE.sub(chr(0xFFFD), ', '.join(fields))}"


def shown(fields: Mapping[str, Any]) -> str:
    """Return the fields of a record as people read them."""
    try:
        return str(fields)
    except RecursionError:
        return "nested too deeply to show"


def check_names(columns: Sequence[str]) -> None:
    """Raise an UnreadableError if two columns have the same name."""
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise UnreadableError(f"two columns are called {twice[0]!r}")


def read_whole(file: BinaryIO) -> bytes:
    """Read a file into memory.

    Raises:
        UnreadableError: it is larger than `MAX_WHOLE`.
    """
    content = bytearray()
    while block := file.read(1 << 20):
        content += block
        if len(content) > MAX_WHOLE:
            raise UnreadableError(f"larger than {MAX_WHOLE:,} bytes, and this format can only be read whole")
    return bytes(content)


def to_seekable(file: BinaryIO) -> BinaryIO:
    """Return the file, or a seekable copy of it in a temporary file."""
    if file.seekable():
        return file
    spool = tempfile.SpooledTemporaryFile(MAX_LINE)  # noqa: SIM115
    while block := file.read(1 << 20):
        spool.write(block)
    spool.seek(0)
    return cast(BinaryIO, spool)
