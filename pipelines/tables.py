"""Parquet files written and read a few megabytes at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_BYTES, ROW_GROUP_ROWS = 8 << 20, 1 << 16


class TableWriter:
    """Writes rows to a Parquet file, with zstd. A row is a mapping; a column that it lacks is null.

    The bytes of the file are a function of the rows alone. A null column of `text` counts no bytes.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.rows = self.bytes = 0
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=3)
        self._held: list[Mapping[str, Any]] = []
        self._held_bytes = 0

    def write(self, row: Mapping[str, Any]) -> None:
        size = 32 + len(row.get("text") or "")
        self.rows += 1
        self.bytes += size
        self._held.append(row)
        self._held_bytes += size
        if self._held_bytes >= ROW_GROUP_BYTES or len(self._held) >= ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            arrays = [pa.array([row.get(field.name) for row in self._held], field.type) for field in self._schema]
            self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._held, self._held_bytes = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


def read_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """A Parquet file's rows in order, in batches of bounded size."""
    with pq.ParquetFile(path, memory_map=True) as file:
        for group in range(file.num_row_groups):  # one at a time, or Arrow reads ahead without bound
            yield from file.read_row_group(group, columns).to_batches()


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """A Parquet file's rows in order."""
    for batch in read_batches(path, columns):
        for start in range(0, len(batch), 1024):
            yield from batch.slice(start, 1024).to_pylist()


def read_some_rows(path: Path, start: int, count: int) -> Iterator[dict[str, Any]]:
    """So many rows of a Parquet file from one on; row groups before it are not read."""
    with pq.ParquetFile(path, memory_map=True) as file:
        first = 0
        for group in range(file.num_row_groups):
            n_rows = file.metadata.row_group(group).num_rows
            here = range(max(start, first), min(start + count, first + n_rows))
            if here:
                yield from file.read_row_group(group).slice(here.start - first, len(here)).to_pylist()
            first += n_rows


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name, without a copy where the disk can do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
