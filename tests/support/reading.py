"""Helpers of the tests of readers: files of every format, and what a reader makes of them."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus.readers.look import read_file
from pipelines.corpus.readers.records import Bad, ReadOptions, Record

ROWS = [{"text": "one", "n": "1"}, {"text": "zwei\nZeilen, ä", "n": "2"}, {"text": 'three "quoted"', "n": "3"}]


def read(content: bytes, name: str, **options: Any) -> list[Record | Bad]:
    return list(read_file(io.BytesIO(content), name, ReadOptions(**options)))


def texts(found: list[Record | Bad]) -> list[str]:
    return [record.fields["text"] for record in found if isinstance(record, Record)]


def problems(found: list[Record | Bad]) -> list[tuple[str, str]]:
    return [(record.location, record.reason) for record in found if isinstance(record, Bad)]


def as_jsonl() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def as_csv(delimiter: str) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["text", "n"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue().encode()


def as_parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out)
    return out.getvalue()


def as_arrow(stream: bool = False) -> bytes:
    out = io.BytesIO()
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(out, table.schema) if stream else pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


WRITTEN = {
    "jsonl": as_jsonl(),
    "ndjson": as_jsonl(),
    "json": json.dumps(ROWS).encode(),
    "csv": as_csv(","),
    "tsv": as_csv("\t"),
    "parquet": as_parquet(),
    "arrow": as_arrow(),
    "feather": as_arrow(stream=True),
}


PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, "zstd", asbytes=True),
}
