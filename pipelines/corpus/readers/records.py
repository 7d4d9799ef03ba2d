"""Records, the unit that every reader yields, and the options of reading."""

from __future__ import annotations

import errno
import io
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from gpt.config import Config
from pipelines.errors import InputError

MAX_LINE = 64 << 20  # bytes of one line of JSON Lines, or of one field of a CSV file
MAX_DOCUMENT = 10_000_000  # characters of a document of plain text, where no key says otherwise
MAX_WHOLE = 256 << 20  # bytes of a file whose format can only be read whole
MAX_COLUMNS = 100_000  # of a CSV file
BUFFER = 1 << 20  # bytes per read
SPOOLED = 16 << 20  # bytes of a copy of a file that stay in memory
MAX_REASON = 500  # characters of a reason or a place, which a file can make as long as itself
LINE_ENDS = re.compile(r"[\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")
FROM_FILES = {errno.EINVAL, errno.EOVERFLOW, errno.EFBIG, errno.ESPIPE}  # as of a place before the start of a file
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
    """A record that could not be read, and why.

    lost_rows, lost_bytes: how much else cannot be read for the same reason.
    """

    reason: str
    location: str
    text: str = ""
    lost_rows: int = 0
    lost_bytes: int = 0

    @property
    def sentence(self) -> str:
        """The reason, and what else is lost."""
        if self.lost_rows:
            return f"{self.reason}; {self.lost_rows:,} row{'s are' if self.lost_rows > 1 else ' is'} lost"
        if self.lost_bytes and self.location != "file":
            return f"{self.reason}; {self.lost_bytes:,} byte{'s are' if self.lost_bytes > 1 else ' is'} lost"
        return self.reason


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a file that stores columns, as an Arrow batch.

    first: the number of the first one.
    total: how many rows the file has, or 0 if that is unknown.
    """

    batch: pa.RecordBatch
    first: int
    total: int = 0

    @property
    def last_location(self) -> str:
        """The place of the last row."""
        return f"row {self.first + len(self.batch) - 1}"


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
    """Format of the files; by default by their first bytes or their extension."""
    compression: Literal["none", "gz", "bz2", "xz", "zst"] | None = Field(None, json_schema_extra={"since": "0.4.0"})
    """Compression of the files; by default by their first bytes."""
    encoding: str | None = None
    """Encoding of the text; detected by default."""
    quotes: Literal["fields", "escaped", "letters"] | None = Field(None, json_schema_extra={"since": "0.4.0"})
    """Quotes surround fields of a CSV file, or do so with \\" as a quote within, or are letters; guessed by default."""
    split_at: str | None = Field(None, min_length=1)
    """The text between documents in a plain text file."""
    max_document: int = Field(MAX_DOCUMENT, gt=0)
    """Most characters of a document; longer texts are cut after a paragraph. By default, a corpus also divides a text
    that is a large part of it."""
    columns: tuple[str, ...] = ()
    """Names of the columns, for CSV and TSV files without a header."""
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    """The sign between the fields of a CSV file."""
    limits: float = Field(1.0, gt=0, json_schema_extra={"since": "0.3.0"})
    """Memory, time and unpacked bytes that a file may take, as a multiple of the usual limits."""

    @property
    def wanted(self) -> Collection[str]:
        """The columns to read from formats that store columns; all, if empty."""
        return ()


# What a reader yields.
Found: TypeAlias = Record | Records | Rows | Bad

# Takes an open file and options; a reader by line also takes the number of the first line.
Reader = Callable[..., Iterator[Found]]


@dataclass(frozen=True)
class Format:
    """A format: its file extensions and its reader.

    by_line: whether a part between two line ends can be read alone.
    isolated: whether a process with limits reads it. Formats whose parser is bounded do without.
    """

    extensions: tuple[str, ...]
    read: Reader
    by_line: bool = False
    isolated: bool = True


def no_column(name: str, fields: Iterable[str]) -> str:
    """Return the reason for rejecting a record without a column. The list of columns is cut."""
    names, size = [], 0
    for field in fields:
        names.append(field[:MAX_REASON])
        if (size := size + len(field) + 2) > MAX_REASON:
            break
    return short_line(f"no column {name!r}; there are {', '.join(names)}", MAX_REASON + len(name))


def short_line(text: str, limit: int) -> str:
    """Return a text that others wrote as one line that can be written into a table, cut at some length."""
    line = LINE_ENDS.sub(" ", SURROGATE.sub("\ufffd", text[: limit + 1]))
    return line if len(line) <= limit else f"{line[:limit]} …"


def show(fields: Mapping[str, Any], limit: int) -> str:
    """Return the beginning of `str(fields)`, without building the rest."""
    parts, size = [], 1
    try:
        for name, value in fields.items():
            part = f"{name[:limit]!r}: {value!r}"
            parts.append(part)
            if (size := size + len(part) + 2) > limit + 2:
                break
    except (RecursionError, ValueError):  # nested deeply, or an integer of too many digits
        return "fields that cannot be shown"
    return f"{{{', '.join(parts)}}}"[:limit]


def is_of_file(error: Exception) -> bool:
    """Return whether the file is the cause of an error, and not the config, the network or the machine."""
    if isinstance(error, InputError | ConnectionError | MemoryError):
        return False
    return not isinstance(error, OSError) or not error.errno or error.errno in FROM_FILES


def sentence_of(error: Exception) -> str:
    """Return the first line of what a parser says about a file.

    Raises:
        Exception: the error itself, if the file is not its cause.
    """
    if not is_of_file(error):
        raise error
    sentence = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(" at 0x[0-9a-f]+", "", sentence)  # an address that differs each time


def check_names(columns: Sequence[str], wanted: Collection[str] = ()) -> None:
    """Raise an UnreadableError if two columns have the same name, and it is wanted."""
    counts = Counter(name for name in columns if name and (not wanted or name in wanted))
    if twice := [name for name, count in counts.items() if count > 1]:
        raise UnreadableError(f"two columns are called {short_line(twice[0], MAX_REASON)!r}")


def read_whole(file: BinaryIO, limit: int = MAX_WHOLE) -> bytes:
    """Read a file into memory.

    Raises:
        UnreadableError: it is larger than the limit.
    """
    blocks, size = [], 0
    while block := file.read(1 << 20):
        blocks.append(block)
        if (size := size + len(block)) > limit:
            raise UnreadableError(f"larger than {limit:,} bytes, and this format can only be read whole")
    return b"".join(blocks)


def to_seekable(file: BinaryIO) -> BinaryIO:
    """Return the file, or a seekable copy of it in a temporary file."""
    if file.seekable():
        return file
    spool = tempfile.SpooledTemporaryFile(SPOOLED)  # noqa: SIM115
    while block := file.read(1 << 20):
        spool.write(block)
    spool.seek(0)
    return cast(BinaryIO, spool)
