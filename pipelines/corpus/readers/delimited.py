"""Readers of CSV and TSV."""

import csv
import io
from collections.abc import Iterator
from typing import BinaryIO

from pipelines.corpus.readers.encoding import open_text
from pipelines.corpus.readers.records import (
    MAX_COLUMNS,
    MAX_LINE,
    Bad,
    ReadOptions,
    Record,
    UnreadableError,
    check_names,
)


def read_csv(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """Read rows separated by commas, or by the delimiter of the options."""
    return _read_csv(file, options, options.delimiter or ",")


def read_tsv(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """Read rows separated by tabs, or by the delimiter of the options."""
    return _read_csv(file, options, options.delimiter or "\t")


def _read_csv(file: BinaryIO, options: ReadOptions, delimiter: str) -> Iterator[Record | Bad]:
    csv.field_size_limit(MAX_LINE)
    lines = _Lines(open_text(file, options, newline=""))
    rows = csv.reader(lines, delimiter=delimiter)
    try:
        names = list(options.columns) or next(rows, [])
        if len(names) > MAX_COLUMNS:
            raise UnreadableError(f"more than {MAX_COLUMNS:,} columns")
        check_names(names)
        line, lines.size = rows.line_num + 1, 0
        for row in rows:
            if len(row) == len(names):
                yield Record(dict(zip(names, row, strict=True)), f"line {line}")
            elif row:
                reason = f"{len(row)} fields where {len(names)} are expected"
                yield Bad(reason, f"line {line}", delimiter.join(row)[:1000])
            line, lines.size = rows.line_num + 1, 0
    except csv.Error as error:
        raise UnreadableError(f"not CSV at line {rows.line_num + 1}: {error}") from None


class _Lines:
    """The lines of a text, and the characters of those that the row so far takes: quoted fields may go over many."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self.size = text, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_LINE)
        self.size += len(line)
        if self.size >= MAX_LINE and (len(line) < self.size or not line.endswith(("\n", "\r"))):
            raise UnreadableError(f"a row of more than {MAX_LINE:,} characters")
        if not line:
            raise StopIteration
        return line
