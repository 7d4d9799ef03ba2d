"""The answer to an SQL query, written as a table, CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import IO, Any

import duckdb

from pipelines.catalog.catalog import explain_error
from pipelines.errors import InputError
from pipelines.store.files import whole_file

BLOCK = 10_000  # rows fetched at a time


SHOWN = 100  # rows of a longer table that a terminal gets


READING = {"SELECT", "EXPLAIN", "PRAGMA", "MULTI"}


def answer(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    format: str = "table",
    out: IO[Any] | Path | None = None,
    external_access: bool = False,
) -> None:
    """Run statements and write what they return, each as soon as it is there.

    Args:
        out: an open file, or the path of one to write; by default standard output.
    """
    if format not in WRITERS:
        raise InputError(f"There is no output format {format!r}; choose one of {', '.join(WRITERS)}.")
    with explained(connection):
        statements = connection.extract_statements(query)
        if not statements:
            raise InputError("The query is empty; try: select kind, name, version from datasets.")
        for statement in () if external_access else statements:
            if statement.type.name not in READING:
                raise InputError(
                    f"Published datasets are only read here, and {statement.type.name} writes; "
                    "to keep a result, choose a --format and an --output file."
                )
        if len(statements) > 1 and format != "table":
            raise InputError(f"{len(statements)} statements do not fit one {format} result; ask for one at a time.")
        with _opened(out, binary=format == "parquet") as file:
            for statement in statements:
                interruptible(connection, partial(_write, connection, statement, format, file))


def _write(connection: duckdb.DuckDBPyConnection, statement: Any, format: str, out: IO[Any]) -> None:
    result = connection.sql(statement)
    if result is not None:
        WRITERS[format](result, out)
        out.flush()


@contextmanager
def explained(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Turns DuckDB's errors into one sentence each."""
    try:
        yield
    except duckdb.InterruptException:
        raise KeyboardInterrupt from None
    except duckdb.Error as error:
        raise InputError(explain_error(error, connection)) from None


def interruptible(connection: duckdb.DuckDBPyConnection, call: Callable[[], Any]) -> Any:
    """Call DuckDB in another thread, so that Ctrl-C, which this one hears, can stop the query."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(call)
        try:
            return future.result()
        except KeyboardInterrupt:
            while not future.done():
                connection.interrupt()
                time.sleep(0.02)
            raise


# Writing results


def write_table(result: duckdb.DuckDBPyRelation, out: IO[str]) -> None:
    """A table drawn with lines, as wide as the terminal and no longer than can be read."""
    if result.columns == ["explain_key", "explain_value"]:
        for _, plan in result.fetchall():
            print(plan, file=out)
        return
    with redirect_stdout(out):
        result.show(max_width=shutil.get_terminal_size((120, 24)).columns, max_rows=SHOWN, null_value="")


def write_csv(result: duckdb.DuckDBPyRelation, out: IO[str]) -> None:
    """Comma-separated values under a line of names; lists and structs as JSON, nulls as nothing."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(result.columns)
    for batch in result.to_arrow_reader(BLOCK):
        columns = [[_csv_value(value) for value in column.to_pylist()] for column in batch.columns]
        writer.writerows(zip(*columns, strict=True))


def write_json(result: duckdb.DuckDBPyRelation, out: IO[str]) -> None:
    """An array of objects, one to a line; JSON columns are part of it, and what is no number is null."""
    parsed = {name for name, kind in zip(result.columns, result.types, strict=True) if str(kind) == "JSON"}
    separator = "[\n"
    for batch in result.to_arrow_reader(BLOCK):
        for row in batch.to_pylist():
            for name in parsed:
                row[name] = row[name] if row[name] is None else json.loads(row[name])
            out.write(separator + json.dumps(_json_value(row), ensure_ascii=False, allow_nan=False))
            separator = ",\n"
    out.write("[]\n" if separator.startswith("[") else "\n]\n")


def write_parquet(result: duckdb.DuckDBPyRelation, out: IO[bytes]) -> None:
    """A Parquet file."""
    import pyarrow.parquet

    if out.isatty():
        raise InputError("Parquet is not for reading on a terminal; name a file with --output or redirect to one.")
    reader = result.to_arrow_reader(BLOCK)
    with pyarrow.parquet.ParquetWriter(out, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)


WRITERS: dict[str, Callable[[duckdb.DuckDBPyRelation, Any], None]] = {
    "table": write_table,
    "csv": write_csv,
    "json": write_json,
    "parquet": write_parquet,
}


@contextmanager
def _opened(output: IO[Any] | Path | None, binary: bool) -> Iterator[IO[Any]]:
    """Standard output, an open file as it is, or a new one that is there whole or not at all."""
    if not isinstance(output, Path):
        yield output or (sys.stdout.buffer if binary else sys.stdout)
        return
    mode, encoding = ("wb", None) if binary else ("w", "utf-8")
    try:
        with whole_file(output) as unfinished, unfinished.open(mode, encoding=encoding) as out:
            yield out
    except OSError as error:
        raise InputError(f"{output} cannot be written ({error.strerror}).") from None


def _csv_value(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(_json_value(value), ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    return _json_value(value) if isinstance(value, bytes) else value


def _json_value(value: Any) -> Any:
    """A value as JSON can say it; bytes that are no printable letter are written \\xFF, as DuckDB does."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _json_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(each) for each in value]
    if isinstance(value, bytes):
        return "".join(chr(b) if 32 <= b < 127 and b != 92 else f"\\x{b:02X}" for b in value)
    return str(value)
