"""Parquet files written and read a few megabytes at a time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.store.files import whole_file

ROW_GROUP_BYTES, ROW_GROUP_ROWS = 8 << 20, 1 << 16
OTHER_BYTES = 256 << 20  # of the columns beside the text in a row group: few rows have as many
ROW_BYTES = 32  # what a row counts beside its text
DISTINCT = ("doc_id", "location", "text", "kept")  # columns with few repeated values, which get no dictionary
# Hashes in hex. zstd would halve them, but cost a tenth of the time that small documents take to write.
UNCOMPRESSED = ("doc_id", "kept")


class TableWriter(ExitStack):
    """A writer of rows to a Parquet file, with zstd. A row is a mapping; a column that it lacks is null.

    The file appears when it is complete. Its bytes depend on the rows alone, and not on how they are batched.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        super().__init__()
        self.rows = self.text_bytes = 0
        self._schema = schema
        few = [field.name for field in schema if field.name not in DISTINCT]
        # zstd at its fastest level, Parquet's default: higher levels cost more time than the space is worth.
        codecs = {leaf: "none" if leaf in UNCOMPRESSED else "zstd" for field in schema for leaf in _leaves(field)}
        options = {"compression": codecs, "use_dictionary": few, "write_statistics": few}
        temporary = self.enter_context(whole_file(path))
        self._writer = self.enter_context(pq.ParquetWriter(temporary, schema, **options))
        self.push(self._finish)
        self._single: list[Mapping[str, Any]] = []
        self._single_bytes = 0
        self._held: list[pa.RecordBatch] = []
        self._held_rows = self._held_bytes = self._held_others = 0

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row."""
        size = len((row.get("text") or "").encode())
        self.rows += 1
        self.text_bytes += size
        self._single.append(row)
        self._single_bytes += ROW_BYTES + size + sum(map(len, row.get("history") or ()))
        if self._single_bytes >= ROW_GROUP_BYTES or len(self._single) >= 1024:
            self._hold_single()

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Write many rows, which have the columns of the schema."""
        self._hold_single()
        self.rows += len(batch)
        self.text_bytes += self._hold(batch)

    def _hold_single(self) -> None:
        rows, self._single, self._single_bytes = self._single, [], 0
        arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in self._schema]
        self._hold(pa.RecordBatch.from_arrays(arrays, schema=self._schema))

    def _hold(self, batch: pa.RecordBatch) -> int:
        """Hold a batch until its row group is full, and return the bytes of its texts."""
        sizes = np.full(len(batch), ROW_BYTES)
        if "text" in self._schema.names:
            sizes += pc.fill_null(pc.binary_length(batch["text"]), 0).to_numpy()
        ends, others, start = np.cumsum(sizes), np.cumsum(_other_bytes(batch)), 0
        while start < len(batch):  # a row group ends with the row that fills it
            before = int(ends[start - 1]) if start else 0
            by_bytes = int(np.searchsorted(ends, ROW_GROUP_BYTES - self._held_bytes + before)) + 1
            others_before = int(others[start - 1]) if start else 0
            by_others = int(np.searchsorted(others, OTHER_BYTES - self._held_others + others_before)) + 1
            end = min(by_bytes, by_others, start + ROW_GROUP_ROWS - self._held_rows, len(batch))
            self._held.append(batch.slice(start, end - start))
            self._held_rows += end - start
            self._held_bytes += int(ends[end - 1]) - before
            self._held_others += int(others[end - 1]) - others_before
            full = self._held_bytes >= ROW_GROUP_BYTES or self._held_others >= OTHER_BYTES
            if full or self._held_rows >= ROW_GROUP_ROWS:
                self._flush()
            start = end
        return int(sizes.sum()) - ROW_BYTES * len(batch)

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.Table.from_batches(self._held).combine_chunks(), self._held_rows)
        self._held, self._held_rows, self._held_bytes, self._held_others = [], 0, 0, 0

    def _finish(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self._hold_single()
            self._flush()


def _other_bytes(batch: pa.RecordBatch) -> NDArray[np.int64]:
    """Return (rows,) bytes of the texts beside `text`, those in lists included."""
    total = np.zeros(len(batch), np.int64)
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_string(field.type) and field.name != "text":
            total += pc.fill_null(pc.binary_length(column), 0).to_numpy()
        elif pa.types.is_list(field.type):
            sums = np.concatenate([[0], np.cumsum(pc.fill_null(pc.binary_length(column.flatten()), 0))])
            ends = np.cumsum(pc.fill_null(pc.list_value_length(column), 0))
            total += np.diff(sums[ends], prepend=0)
    return total


def _leaves(field: pa.Field) -> list[str]:
    """Return Parquet's names of the columns that store a field."""
    if pa.types.is_list(field.type):
        return [f"{field.name}.list.element"]
    return [f"{field.name}.{each.name}" for each in field.type] if pa.types.is_struct(field.type) else [field.name]


def read_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file in order, in batches of bounded size."""
    with pq.ParquetFile(path, memory_map=True) as file:
        for group in range(file.num_row_groups):  # otherwise Arrow reads ahead without bound
            rows = file.metadata.row_group(group).num_rows // 4 + 1  # decodes a part of the group at a time
            yield from file.iter_batches(rows, [group], columns)


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file in order."""
    for batch in read_batches(path, columns):
        for start in range(0, len(batch), 1024):
            yield from batch.slice(start, 1024).to_pylist()


def read_some_rows(path: Path, start: int, count: int) -> Iterator[dict[str, Any]]:
    """Yield `count` rows of a Parquet file from row `start` on. Row groups before it are not read."""
    with pq.ParquetFile(path, memory_map=True) as file:
        first = 0
        for group in range(file.num_row_groups):
            n_rows = file.metadata.row_group(group).num_rows
            here = range(max(start, first), min(start + count, first + n_rows))
            if here:
                yield from file.read_row_group(group).slice(here.start - first, len(here)).to_pylist()
            first += n_rows
