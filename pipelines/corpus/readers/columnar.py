"""Readers of Parquet and Arrow. They yield Arrow batches, bounded by what their rows take as Python objects."""

import io
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet

from pipelines.corpus.readers.compression import refuse_bomb
from pipelines.corpus.readers.records import ReadOptions, UnreadableError, check_names, to_seekable
from pipelines.corpus.readers.weight import weight_of_batch

BATCH_BYTES = 1 << 20  # of memory that the rows of a batch may take, unless it has one row
BATCH_ROWS = 8192
BOMB_BYTES = 32 << 20  # of memory that the rows of any small file may take
MAX_NAMES = 1 << 20  # characters of the names of all columns, which are in each row
MAX_ROWS = 500_000  # of any small file; a larger one may have one for each byte
READ_ROWS, READ_BYTES = 256, 16 << 20  # rows that Parquet decodes at once, and their usual bytes


def read_parquet(file: BinaryIO, options: ReadOptions) -> Iterator[pa.RecordBatch]:
    """Read the wanted columns of a Parquet file."""
    seekable = to_seekable(file)
    size = seekable.seek(0, io.SEEK_END)
    parquet = pyarrow.parquet.ParquetFile(pa.PythonFile(seekable, mode="r"), pre_buffer=False)
    metadata, columns = parquet.metadata, _columns(parquet.schema_arrow, options)
    _refuse_rows(metadata.num_rows, size, options)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = (group.column(number) for group in groups for number in range(group.num_columns))
    wanted = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in columns]
    unpacked = sum(chunk.total_uncompressed_size for chunk in wanted)
    refuse_bomb(unpacked, size, options)
    rows = READ_BYTES * max(metadata.num_rows, 1) // max(unpacked, 1)
    batches = parquet.iter_batches(batch_size=min(max(rows, 1), READ_ROWS), columns=columns)
    yield from _bounded(batches, size, options)


def read_arrow(file: BinaryIO, options: ReadOptions) -> Iterator[pa.RecordBatch]:
    """Read the wanted columns of an Arrow file or stream."""
    seekable = to_seekable(file)
    size = seekable.seek(0, io.SEEK_END)
    seekable.seek(0)
    is_file = seekable.read(6) == b"ARROW1"
    seekable.seek(0)
    reader = pa.ipc.open_file(seekable) if is_file else pa.ipc.open_stream(seekable)
    batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
    columns = _columns(reader.schema, options)
    yield from _bounded((batch.select(columns) for batch in batches), size, options)


def _columns(schema: pa.Schema, options: ReadOptions) -> list[str]:
    """Return the columns to read: the wanted ones, or all if one is missing, so that the error can name them.

    Raises:
        UnreadableError: two have the same name, or the names are endless.
    """
    check_names(schema.names)
    if (length := sum(map(len, schema.names))) > MAX_NAMES:
        raise UnreadableError(f"the names of its columns have {length:,} characters")
    if options.wanted and set(options.wanted) <= set(schema.names):
        return [name for name in schema.names if name in options.wanted]
    return list(schema.names)


def _bounded(batches: Iterable[pa.RecordBatch], size: int, options: ReadOptions) -> Iterator[pa.RecordBatch]:
    """Yield all rows in small batches of plain arrays. Count what they take, and not what the file says.

    The first ones are held back until they are as many as those of a bomb, of which none is kept.

    Raises:
        UnreadableError: the rows take far more than the file.
        pa.ArrowInvalid: a batch is damaged.
    """
    held: list[pa.RecordBatch] = []
    taken = n_rows = 0
    for part in _small(batches, size, options):
        n_rows += len(part)
        taken += weight_of_batch(part)
        _refuse_rows(n_rows, size, options)
        refuse_bomb(taken, size, options, BOMB_BYTES)
        held.append(part)
        if taken > BOMB_BYTES:
            yield from held
            held.clear()
    yield from held


def _refuse_rows(n_rows: int, size: int, options: ReadOptions) -> None:
    if n_rows > options.limits * max(MAX_ROWS, size):
        raise UnreadableError(f"a bomb: {n_rows:,} rows in {size:,} bytes")


def _small(batches: Iterable[pa.RecordBatch], size: int, options: ReadOptions) -> Iterator[pa.RecordBatch]:
    n = 16  # rows at a time, which grow or shrink with what they take
    for batch in batches:
        _refuse_rows(len(batch), size, options)
        is_valid, start = _is_valid(batch), 0
        if is_valid:
            refuse_bomb(weight_of_batch(batch), size, options, BOMB_BYTES)
        while start < len(batch):
            part = batch.slice(start, n)
            if not is_valid:
                part.validate(full=True)
            part = _plain(part)
            weight = weight_of_batch(part)
            if weight > BATCH_BYTES and len(part) > 1:
                n = max(1, len(part) // 4)
                continue
            yield part
            start += len(part)
            if weight < BATCH_BYTES // 2:
                n = min(2 * n, BATCH_ROWS)


def _is_valid(batch: pa.RecordBatch) -> bool:
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch without dictionaries, runs and views, in which a few bytes mean many values."""
    types = [_plain_type(field.type, field.name) for field in batch.schema]
    if types == batch.schema.types:
        return batch
    arrays = [_plain_array(array, type_) for array, type_ in zip(batch.columns, types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, batch.schema.names)


def _plain_array(array: pa.Array, type_: pa.DataType) -> pa.Array:
    if array.type == type_:
        return array
    if pa.types.is_run_end_encoded(array.type):
        return _plain_array(pc.run_end_decode(array), type_)
    if pa.types.is_nested(array.type):
        array = array.take(pa.array(range(len(array))))  # a cast takes the whole array for a slice of it
    return array.cast(type_)


def _plain_type(type_: pa.DataType, name: str) -> pa.DataType:
    """Return the type without dictionaries, runs and views.

    Raises:
        UnreadableError: it has none.
    """
    types = pa.types
    if types.is_dictionary(type_) or types.is_run_end_encoded(type_):
        return _plain_type(type_.value_type, name)
    if types.is_string_view(type_):
        return pa.large_string()
    if types.is_binary_view(type_):
        return pa.large_binary()
    if types.is_map(type_):
        return pa.map_(_plain_type(type_.key_type, name), _plain_type(type_.item_type, name))
    if types.is_fixed_size_list(type_):
        return pa.list_(_plain_field(type_.value_field), type_.list_size)
    if types.is_list(type_) or types.is_list_view(type_):
        return pa.list_(_plain_field(type_.value_field))
    if types.is_large_list(type_) or types.is_large_list_view(type_):
        return pa.large_list(_plain_field(type_.value_field))
    if types.is_struct(type_):
        return pa.struct([_plain_field(type_.field(number)) for number in range(type_.num_fields)])
    storage = type_.storage_type if isinstance(type_, pa.BaseExtensionType) else type_
    if types.is_union(storage) or (storage is not type_ and _plain_type(storage, name) != storage):
        raise UnreadableError(f"column {name!r} holds {type_}, which is not read")
    return type_


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(_plain_type(field.type, field.name))
