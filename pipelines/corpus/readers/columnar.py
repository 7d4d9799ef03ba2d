"""Readers of Parquet and Arrow."""

import io
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from pipelines.corpus.readers.compression import refuse_bomb
from pipelines.corpus.readers.records import ReadOptions, Records, check_names, to_seekable


def read_parquet(file: BinaryIO, options: ReadOptions) -> Iterator[Records]:
    """Read the wanted columns of a Parquet file."""
    seekable = to_seekable(file)
    parquet = pyarrow.parquet.ParquetFile(pa.PythonFile(seekable, mode="r"), pre_buffer=False)
    columns = _columns(parquet.schema_arrow, options)
    groups = map(parquet.metadata.row_group, range(parquet.num_row_groups))
    refuse_bomb(sum(group.total_byte_size for group in groups), seekable.seek(0, io.SEEK_END))
    yield from _rows(parquet.iter_batches(batch_size=256, columns=columns))


def read_arrow(file: BinaryIO, options: ReadOptions) -> Iterator[Records]:
    """Read the wanted columns of an Arrow file or stream."""
    seekable = to_seekable(file)
    is_file = seekable.read(6) == b"ARROW1"
    seekable.seek(0)
    reader = pa.ipc.open_file(seekable) if is_file else pa.ipc.open_stream(seekable)
    batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
    columns = _columns(reader.schema, options)
    yield from _rows(batch.select(columns) for batch in batches)


def _columns(schema: pa.Schema, options: ReadOptions) -> list[str]:
    """Return the columns to read: the wanted ones, or all if one is missing, so that the error can name them.

    Raises:
        UnreadableError: two have the same name.
    """
    check_names(schema.names)
    if options.wanted and set(options.wanted) <= set(schema.names):
        return [name for name in schema.names if name in options.wanted]
    return list(schema.names)


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[Records]:
    first = 1
    for batch in batches:
        for start in range(0, len(batch), 256):
            yield Records(batch.slice(start, 256).to_pylist(), "row", first + start)
        first += len(batch)
