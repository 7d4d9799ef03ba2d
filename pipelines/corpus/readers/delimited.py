"""Readers of CSV and TSV."""

import csv
import io
from collections.abc import Iterator
from typing import BinaryIO

from pipelines.corpus.readers.encoding import open_text
from pipelines.corpus.readers.records import MAX_LINE, Bad, ReadOptions, Record, UnreadableError, check_names


def read_csv(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """Read rows separated by commas, or by the delimiter of the options."""
    return _read_csv(file, options, options.delimiter or ",")


def read_tsv(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """Read rows separated by tabs, or by the delimiter of the options."""
    return _read_csv(file, options, options.delimiter or "\t")


def _read_csv(file: BinaryIO, options: ReadOptions, delimiter: str) -> Iterator[Record | Bad]:
    csv.field_size_limit(MAX_LINE)
    rows = csv.reader(_bounded_lines(open_text(file, options, newline="")), delimiter=delimiter)
    try:
        names = list(options.columns) or next(rows, [])
        check_names(names)
        line = rows.line_num + 1
        for row in rows:
            if len(row) == len(names):
                yield Record(dict(zip(names, row, strict=True)), f"line {line}")
            elif row:
                reason = f"{len(row)} fields where {len(names)} are expected"
                yield Bad(reason, f"line {line}", delimiter.join(row)[:1000])
            line = rows.line_num + 1
    except csv.Error as error:
        raise UnreadableError(f"not CSV at line {rows.line_num + 1}: {error}") from None


def _bounded_lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE):
        if len(line) == MAX_LINE and not line.endswith(("\n", "\r")):
            raise UnreadableError(f"a line of more than {MAX_LINE:,} characters")
        yield line
