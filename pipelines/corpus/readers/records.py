"""Records, the unit that every reader yields, and the options of reading."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from gpt.config import Config

MAX_LINE = 64 << 20  # bytes of one line of JSON Lines, or of one field of a CSV file


MAX_WHOLE = 256 << 20  # bytes of a file whose format can only be read whole


BUFFER = 1 << 20  # bytes that are read at once


class Record(NamedTuple):
    """One record: its fields (plain text has one, `text`) and where in the file it stands."""

    fields: dict[str, Any]
    location: str


@dataclass(frozen=True)
class Records:
    """Consecutive records, such as a block of lines: of small ones there are too many for an object each."""

    fields: Sequence[dict[str, Any]]
    unit: str  # in which a file counts them
    first: int  # number of the first one

    def __len__(self) -> int:
        return len(self.fields)

    def __getitem__(self, part: slice) -> Records:
        return Records(self.fields[part], self.unit, self.first + part.indices(len(self))[0])

    def locations(self, before: str = "") -> pa.StringArray:
        numbers = pa.array(np.arange(self.first, self.first + len(self))).cast(pa.string())
        return pc.utf8_replace_slice(numbers, 0, 0, f"{before}{self.unit} ")

    @property
    def last_location(self) -> str:
        return f"{self.unit} {self.first + len(self) - 1}"

    def __iter__(self) -> Iterator[Record]:
        return map(Record, self.fields, self.locations().to_pylist())


class Bad(NamedTuple):
    """A record that could not be read, and why."""

    reason: str
    location: str
    text: str = ""


class UnreadableError(Exception):
    """The rest of the file cannot be read; the text says why."""


class ReadOptions(Config):
    """How to read a file."""

    format: str | None = Field(default=None, description="Format of the files; by default their extension says it.")
    encoding: str | None = Field(default=None, description="Encoding of text; by default it is detected.")
    split_at: str | None = Field(
        default=None, min_length=1, description="What stands between documents in a plain text file."
    )
    max_document: int = Field(
        default=10_000_000, gt=0, description="Characters after which plain text is cut, at the end of a paragraph."
    )
    columns: tuple[str, ...] = Field(
        default=(), description="Names of the columns, for CSV and TSV files without a header."
    )
    delimiter: str | None = Field(
        default=None, min_length=1, max_length=1, description="What separates the fields of a CSV file."
    )

    @property
    def wanted(self) -> Collection[str]:
        """The columns that are made use of, where that is known: formats that store columns read no others."""
        return ()


# Of an open file and options; one that reads by line is told the number of the first one too.
Reader = Callable[..., Iterator["Record | Records | Bad"]]


@dataclass(frozen=True)
class Format:
    """A format: the extensions it goes by, its reader, and whether a part between two line ends can be read alone."""

    extensions: tuple[str, ...]
    read: Reader
    by_line: bool = False


SURROGATE = re.compile("[\ud800-\udfff]")


def no_column(name: str, fields: Iterable[str]) -> str:
    """The sentence about a column that is not there."""
    return f"no column {name!r}; there are {SURROGATE.sub(chr(0xFFFD), ', '.join(fields))}"


def read_whole(file: BinaryIO) -> bytes:
    content = bytearray()
    while block := file.read(1 << 20):
        content += block
        if len(content) > MAX_WHOLE:
            raise UnreadableError(f"larger than {MAX_WHOLE:,} bytes, and this format can only be read whole")
    return bytes(content)


def to_seekable(file: BinaryIO) -> BinaryIO:
    if file.seekable():
        return file
    spool = tempfile.SpooledTemporaryFile(MAX_LINE)  # noqa: SIM115
    while block := file.read(1 << 20):
        spool.write(block)
    spool.seek(0)
    return cast(BinaryIO, spool)
