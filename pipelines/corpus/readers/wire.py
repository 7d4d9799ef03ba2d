"""Messages between a run and its reader process: a kind, a length, and so many bytes.

The reader is not trusted. Its messages are JSON or Arrow, and nothing in them is executed. The run checks lengths and
validates batches before it reads a value.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import pyarrow as pa

from pipelines.corpus.readers.records import Bad, ReadOptions, Record, Rows
from pipelines.corpus.readers.weight import too_heavy

# From the run: a file to read, and bytes of a file that only the run can read.
FILE, DATA = b"F", b"D"
# From the reader: that it has begun, records, an Arrow schema and its batches, a place in the file whose bytes it
# wants, the end, and two ends with an error.
BEGUN, RECORDS, SCHEMA, BATCH, WANT, END = b"G", b"R", b"S", b"B", b"W", b"E"
INPUT_ERROR, MACHINE_ERROR = b"I", b"M"

MEMORY_EXIT = 3  # exit code of a reader that met its memory limit

_HEADER = struct.Struct("<cQ")
HEADER_BYTES = _HEADER.size
_PLACE = struct.Struct("<QQ")
MOST = 1 << 53  # rows or bytes that a file may have


class RequestOptions(ReadOptions):
    """Options of reading, with the wanted columns as a value that can be sent."""

    wanted_columns: tuple[str, ...] = ()
    """The columns to read."""

    @property
    def wanted(self) -> tuple[str, ...]:
        """The columns to read."""
        return self.wanted_columns


@dataclass(frozen=True)
class Request:
    """A file to read.

    size: its bytes.
    has_descriptor: whether a file descriptor comes with the request. Otherwise the run serves the bytes.
    """

    name: str
    size: int
    has_descriptor: bool
    options: RequestOptions


def encode_request(name: str, size: int, has_descriptor: bool, options: ReadOptions) -> bytes:
    """Return the request to read a file with options."""
    return to_json([name, size, has_descriptor, _encode_options(options)])


def decode_request(content: bytes) -> Request:
    """Return the request of some bytes."""
    name, size, has_descriptor, options = from_json(content)
    return Request(name, size, has_descriptor, _decode_options(options))


@lru_cache
def _encode_options(options: ReadOptions) -> str:
    shared = {field: getattr(options, field) for field in ReadOptions.model_fields}
    return RequestOptions(**shared, wanted_columns=tuple(options.wanted)).model_dump_json()


_decode_options = lru_cache(RequestOptions.model_validate_json)


def header(kind: bytes, length: int) -> bytes:
    """Return the header of a message."""
    return _HEADER.pack(kind, length)


def message(kind: bytes, content: bytes = b"") -> bytes:
    """Return a message as bytes."""
    return header(kind, len(content)) + content


def read_message(stream: BinaryIO, limit: int) -> tuple[bytes, bytes]:
    """Return the kind and the content of the next message.

    Raises:
        EOFError: there is none.
        ValueError: it is longer than the limit.
    """
    kind, length = unpack_header(_read(stream, HEADER_BYTES))
    if length > limit:
        raise ValueError(f"a message of {length:,} bytes")
    return kind, _read(stream, length)


def unpack_header(content: bytes) -> tuple[bytes, int]:
    """Return the kind and the length of a message."""
    kind, length = _HEADER.unpack(content)
    return kind, length


def _read(stream: BinaryIO, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return content


def to_json(value: Any) -> bytes:
    """Return JSON that keeps lone surrogates, integers of any size and numbers that are not finite."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str).encode("utf-8", "surrogatepass")


def from_json(content: bytes) -> Any:
    """Return the value of `to_json`."""
    return json.loads(content.decode("utf-8", "surrogatepass"))


def encode_record(record: Record | Bad) -> bytes:
    """Return a record as JSON, or in its place a `Bad` if the record takes too much memory."""
    content = to_json(record)
    if too_heavy(content):
        content = to_json(Bad("a record of too many values", record.location))
    return content


def decode_records(content: bytes) -> Iterator[Record | Bad]:
    """Yield the records of a message.

    Raises:
        ValueError: it holds something else.
    """
    if too_heavy(content):
        raise ValueError("too many values")
    for each in from_json(content):
        match each:
            case [dict() as fields, str() as location]:
                yield Record(fields, location)
            case [str() as reason, str() as location, str() as text, int() as rows, int() as n_bytes]:
                yield Bad(reason, location, text, *(min(max(0, lost), MOST) for lost in (rows, n_bytes)))
            case _:
                raise ValueError("neither a record nor a reason")


def encode_rows(rows: Rows) -> tuple[bytes, memoryview]:
    """Return the two parts of a message of rows. To join them would copy the second."""
    content = memoryview(rows.batch.serialize())
    place = _PLACE.pack(rows.first, rows.total)
    return header(BATCH, len(place) + len(content)) + place, content


def decode_rows(content: bytes, schema: pa.Schema) -> Rows:
    """Return the rows of a message, validated.

    Raises:
        pa.ArrowInvalid, ValueError: they are damaged.
    """
    first, total = _PLACE.unpack_from(content)
    batch = pa.ipc.read_record_batch(pa.py_buffer(memoryview(content)[_PLACE.size :]), schema)
    batch.validate(full=True)
    if max(first + len(batch), total) > MOST:
        raise ValueError("too many rows")
    return Rows(batch, first, total)


def decode_schema(content: bytes) -> pa.Schema:
    """Return the Arrow schema of a message."""
    return pa.ipc.read_schema(pa.py_buffer(content))
