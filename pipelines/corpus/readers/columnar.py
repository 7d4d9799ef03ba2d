"""Readers of Parquet and Arrow. They yield Arrow batches, bounded by what their rows take as Python objects."""

import io
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet

from pipelines.corpus.readers.compression import refuse_bomb
from pipelines.corpus.readers.records import (
    MAX_REASON,
    Bad,
    Found,
    ReadOptions,
    Records,
    Rows,
    UnreadableError,
    check_names,
    sentence_of,
    short_line,
    to_seekable,
)
from pipelines.corpus.readers.values import to_python
from pipelines.corpus.readers.weight import weight_of_batch

MAGIC = b"ARROW1"
BATCH_BYTES = 1 << 20  # of memory that the rows of a batch may take, unless it has one row
BATCH_ROWS = 8192
BOMB_BYTES = 32 << 20  # of memory that the rows of any small file may take
MAX_NAMES = 1 << 20  # characters of the names of all columns, which are in each row
MAX_ROWS = 500_000  # of any small file; a larger one may have one for each byte
READ_ROWS, READ_BYTES = 256, 16 << 20  # rows that Parquet decodes at once, and their usual bytes


@dataclass(frozen=True)
class _Lost:
    """Rows that cannot be read, or a single one, or so many bytes of the file."""

    reason: str
    n_rows: int = 0
    n_bytes: int = 0
    is_row: bool = False


def read_parquet(file: BinaryIO, options: ReadOptions) -> Iterator[Found]:
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
    rows = min(max(READ_BYTES * max(metadata.num_rows, 1) // max(unpacked, 1), 1), READ_ROWS)
    yield from _bounded(_row_groups(parquet, columns, rows), size, options, metadata.num_rows)


def _row_groups(parquet: Any, columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch | _Lost]:
    """Yield the batches of all row groups. Of a damaged one, those are lost that follow the damage."""
    for number in range(parquet.metadata.num_row_groups):
        n_left = parquet.metadata.row_group(number).num_rows
        read = partial(parquet.iter_batches, batch_size, row_groups=[number])
        reason = "a row group without its last rows"
        try:
            for batch in read(columns=columns):
                n_left -= len(batch)
                yield batch
        except Exception as error:
            reason = sentence_of(error)
            for name in columns:
                try:
                    deque(read(columns=[name]), maxlen=0)
                except Exception as error:
                    reason = _in_column(name, sentence_of(error))
                    break
        if n_left > 0:
            yield _Lost(reason, n_left)


def read_arrow(file: BinaryIO, options: ReadOptions) -> Iterator[Found]:
    """Read the wanted columns of an Arrow file or stream."""
    seekable = to_seekable(file)
    size = seekable.seek(0, io.SEEK_END)
    seekable.seek(0)
    is_file = seekable.read(len(MAGIC)) == MAGIC
    batches: Iterator[pa.RecordBatch | _Lost]
    seekable.seek(0)
    if is_file:
        try:
            reader = pa.ipc.open_file(seekable)
        except pa.ArrowInvalid as error:  # without an end, but it begins as a stream does
            seekable.seek(8)
            reader = pa.ipc.open_stream(seekable)
            batches = _stream(reader, seekable, sentence_of(error))
        else:
            batches = _record_batches(reader, seekable)
    else:
        reader = pa.ipc.open_stream(seekable)
        batches = _stream(reader, seekable)
    columns = _columns(reader.schema, options)
    found = (each if isinstance(each, _Lost) else each.select(columns) for each in batches)
    yield from _bounded(found, size, options)


def _record_batches(reader: Any, file: BinaryIO) -> Iterator[pa.RecordBatch | _Lost]:
    """Yield the batches of an Arrow file. The rows of a damaged one are lost."""
    for number in range(reader.num_record_batches):
        try:
            batch = reader.get_batch(number)
        except Exception as error:
            yield _damage(reader.schema.names, number, file) or _Lost(sentence_of(error))
        else:
            yield batch


def _damage(names: Sequence[str], number: int, file: BinaryIO) -> _Lost | None:
    """Return which column of a damaged batch cannot be read, and how many rows it has by another column."""
    reason, n_rows = "", 0
    for field, name in enumerate(names):
        try:
            one = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=[field]))
            n_rows = len(one.get_batch(number))
        except Exception as error:
            reason = reason or _in_column(name, sentence_of(error))
    return _Lost(reason, n_rows) if reason else None


def _stream(reader: Any, file: BinaryIO, problem: str = "") -> Iterator[pa.RecordBatch | _Lost]:
    """Yield the batches of an Arrow stream. Behind a damaged one, all are lost. A known problem comes last."""
    try:
        yield from reader
    except Exception as error:
        at = file.tell()
        yield _Lost(sentence_of(error), n_bytes=file.seek(0, io.SEEK_END) - at)
    else:
        if problem:
            yield _Lost(problem)


def _columns(schema: pa.Schema, options: ReadOptions) -> list[str]:
    """Return the columns to read: the wanted ones, or all if one is missing, so that the error can name them.

    Raises:
        UnreadableError: two have the same name, the names are endless, or a wanted one cannot be read.
    """
    check_names(schema.names, options.wanted)
    if (length := sum(map(len, schema.names))) > MAX_NAMES:
        raise UnreadableError(f"the names of its columns have {length:,} characters")
    counts = Counter(schema.names)
    names = set(options.wanted) if options.wanted and set(options.wanted) <= counts.keys() else counts.keys()
    once = [field for field in schema if field.name in names and counts[field.name] == 1]
    return [field.name for field in once if _is_read(field, options)]


def _is_read(field: pa.Field, options: ReadOptions) -> bool:
    try:
        _plain_type(field.type, field.name)
    except UnreadableError:
        if field.name in options.wanted:
            raise
        return False
    return True


def _bounded(
    batches: Iterable[pa.RecordBatch | _Lost], size: int, options: ReadOptions, total: int = 0
) -> Iterator[Found]:
    """Yield all rows in small batches of plain arrays. Count what they take, and not what the file says.

    The first ones are held back until they are as many as those of a bomb, of which none is kept.

    Raises:
        UnreadableError: the rows take far more than the file.
    """
    held: list[Found] = []
    taken, row = 0, 1
    for part in _small(batches, size, options):
        if isinstance(part, _Lost):
            n_lost = min(part.n_rows, max(MAX_ROWS, size))  # a damaged file may say anything
            place = f"row {row}" if part.is_row else f"after row {row - 1}" if row > 1 else "file"
            held.append(Bad(part.reason, place, "", 0 if part.is_row else n_lost, part.n_bytes))
            row += n_lost
        elif isinstance(part, list):
            held.append(Records(part, "row", row))
            row += len(part)
        else:
            held.append(Rows(part, row, total))
            row += len(part)
            taken += weight_of_batch(part)
            refuse_bomb(taken, size, options, BOMB_BYTES)
        _refuse_rows(row - 1, size, options)
        if taken > BOMB_BYTES:
            yield from held
            held.clear()
    yield from held


def _refuse_rows(n_rows: int, size: int, options: ReadOptions) -> None:
    if n_rows > options.limits * max(MAX_ROWS, size):
        raise UnreadableError(f"a bomb: {n_rows:,} rows in {size:,} bytes")


def _small(
    batches: Iterable[pa.RecordBatch | _Lost], size: int, options: ReadOptions
) -> Iterator[pa.RecordBatch | list[dict[str, Any]] | _Lost]:
    n = 16  # rows at a time, which grow or shrink with what they take
    for batch in batches:
        if isinstance(batch, _Lost):
            yield batch
            continue
        _refuse_rows(len(batch), size, options)
        for valid in _valid(batch):
            if not isinstance(valid, pa.RecordBatch):
                yield valid
                continue
            refuse_bomb(weight_of_batch(valid), size, options, BOMB_BYTES)
            start = 0
            while start < len(valid):
                part = _plain(valid.slice(start, n))
                weight = weight_of_batch(part)
                if weight > BATCH_BYTES and len(part) > 1:
                    n = max(1, len(part) // 4)
                    continue
                yield part
                start += len(part)
                if weight < BATCH_BYTES // 2:
                    n = min(2 * n, BATCH_ROWS)


def _valid(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch | list[dict[str, Any]] | _Lost]:
    """Yield the rows of a batch that are valid, and one by one those that are not."""
    if not _why_invalid(batch):
        yield batch
    elif len(batch) > 1:
        yield from _valid(batch.slice(0, len(batch) // 2))
        yield from _valid(batch.slice(len(batch) // 2))
    else:
        yield _repaired(batch)


def _repaired(row: pa.RecordBatch) -> list[dict[str, Any]] | _Lost:
    """Return a row whose texts have bytes outside UTF-8, with lone surrogates for them, or why it cannot be read."""
    fields: dict[str, Any] = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        if not (reason := _why_invalid(column)):
            fields |= to_python(pa.RecordBatch.from_arrays([column], [name]))[0]
            continue
        try:
            type_ = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}[column.type]
            content = pa.Array.from_buffers(type_, 1, column.buffers(), offset=column.offset)
        except (KeyError, pa.ArrowInvalid):  # not a text, or a place outside the data
            return _Lost(_in_column(name, reason), 1, is_row=True)
        fields[name] = content[0].as_py().decode("utf-8", "surrogateescape")
    return [fields]


def _why_invalid(values: pa.RecordBatch | pa.Array) -> str:
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        return sentence_of(error)
    return ""


def _in_column(name: str, reason: str) -> str:
    return f"column {short_line(name, MAX_REASON)!r}: {reason}"


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch without dictionaries, runs and views, in which a few bytes mean many values, and without NaN."""
    types = [_plain_type(field.type, field.name) for field in batch.schema]
    if types == batch.schema.types and not any(map(pa.types.is_floating, types)):
        return batch
    arrays = [_plain_array(array, type_) for array, type_ in zip(batch.columns, types, strict=True)]
    arrays = [pc.if_else(pc.is_nan(a), None, a) if pa.types.is_floating(a.type) else a for a in arrays]
    return pa.RecordBatch.from_arrays(arrays, batch.schema.names)


def _plain_array(array: pa.Array, type_: pa.DataType) -> pa.Array:
    if array.type == type_:
        return array
    if pa.types.is_run_end_encoded(array.type):
        return _plain_array(pc.run_end_decode(array), type_)
    if pa.types.is_nested(array.type):
        array = array.take(pa.array(range(len(array))))  # a cast takes the whole array for a slice of it
    plain = array.cast(type_)
    return pa.array(array.to_pylist(), type_) if _why_invalid(plain) else plain  # of list views, whose cast is broken


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
