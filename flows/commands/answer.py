"""The answer to an SQL query, written as a table, CSV, JSON or Parquet."""

from __future__ import annotations  # DuckDB complains at exit about types that annotations keep

import csv
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import IO, Any

import duckdb

from flows.terminal import results
from pipelines.catalog.catalog import explain_error
from pipelines.errors import InputError
from pipelines.store.files import whole_file

ROWS_PER_BATCH = 10_000
"""Rows fetched at a time, so that memory does not grow with the result."""

MAX_TABLE_ROWS = 100
"""Rows that a table shows of a longer result."""

READ_ONLY = {"SELECT", "EXPLAIN", "PRAGMA", "MULTI"}
"""DuckDB's types of statements that write nothing."""


def answer(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    format: str = "table",
    out: IO[Any] | Path | None = None,
    external_access: bool = False,
) -> None:
    """Run statements and write each result as soon as it is there.

    Args:
        format: a key of `WRITERS`.
        out: an open file, or the path of one to write; by default standard output.
        external_access: allow statements that write.

    Raises:
        InputError: a statement is wrong or writes, or the output cannot be written.
        KeyboardInterrupt: Ctrl-C stopped a query.
    """
    if format not in WRITERS:
        raise InputError(f"There is no output format {format!r}; choose one of {', '.join(WRITERS)}.")
    try:
        statements = connection.extract_statements(query)
        _check(statements, format, external_access)
        with _opened(out, format) as file:
            for statement in statements:
                _answer_one(connection, statement, format, file)
    except duckdb.InterruptException:
        raise KeyboardInterrupt from None
    except duckdb.Error as error:
        raise InputError(explain_error(error, connection)) from None


def read_query(file: Path) -> str:
    """Return the statements of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", "not UTF-8")
        raise InputError(f"The query file {file} cannot be read ({why}).") from None


def _check(statements: list[Any], format: str, external_access: bool) -> None:
    if not statements:
        raise InputError("The query is empty; try: select kind, name, version from datasets.")
    for statement in () if external_access else statements:
        if statement.type.name not in READ_ONLY:
            raise InputError(
                f"Published datasets are only read here, and {statement.type.name} writes; "
                "to keep a result, choose a --format and an --output file."
            )
    if len(statements) > 1 and format != "table":
        raise InputError(f"{len(statements)} statements do not fit one {format} result; ask for one at a time.")


def _answer_one(connection: duckdb.DuckDBPyConnection, statement: Any, format: str, out: IO[Any]) -> None:
    """Run a statement in another thread, so that Ctrl-C, which reaches this thread, can stop the query."""

    def write() -> None:
        if (result := connection.sql(statement)) is not None:
            WRITERS[format](result, out)
            out.flush()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(write)
        try:
            future.result()
        except KeyboardInterrupt:
            while not future.done():
                connection.interrupt()
                time.sleep(0.02)
            raise


def write_table(result: duckdb.DuckDBPyRelation, out: IO[str]) -> None:
    """Write a table drawn with lines, as wide as the terminal, of at most `MAX_TABLE_ROWS` rows."""
    if result.columns == ["explain_key", "explain_value"]:
        for _, plan in result.fetchall():
            print(plan, file=out)
        return
    with redirect_stdout(out):
        result.show(max_width=shutil.get_terminal_size((120, 24)).columns, max_rows=MAX_TABLE_ROWS, null_value="")


def write_csv(result: duckdb.DuckDBPyRelation, out: IO[str]) -> None:
    """Write comma-separated values under a line of names. Lists and structs are JSON; nulls are empty."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(result.columns)
    for batch in result.to_arrow_reader(ROWS_PER_BATCH):
        columns = [map(_csv_value, column.to_pylist()) for column in batch.columns]
        writer.writerows(zip(*columns, strict=True))


def write_json(result: duckdb.DuckDBPyRelation, out: IO[str]) -> None:
    """Write an array of objects, one to a line. JSON columns become part of it; NaN and infinity become null."""
    parsed = [name for name, kind in zip(result.columns, result.types, strict=True) if str(kind) == "JSON"]
    separator = "[\n"
    for batch in result.to_arrow_reader(ROWS_PER_BATCH):
        for row in batch.to_pylist():
            row |= {name: json.loads(row[name]) for name in parsed if row[name] is not None}
            out.write(separator + _json(row))
            separator = ",\n"
    out.write("[]\n" if separator.startswith("[") else "\n]\n")


def write_parquet(result: duckdb.DuckDBPyRelation, out: IO[bytes]) -> None:
    """Write a Parquet file."""
    import pyarrow.parquet

    if out.isatty():
        raise InputError("Parquet is not for reading on a terminal; name a file with --output or redirect to one.")
    reader = result.to_arrow_reader(ROWS_PER_BATCH)
    with pyarrow.parquet.ParquetWriter(out, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)


Writer = Callable[[duckdb.DuckDBPyRelation, Any], None]
WRITERS: dict[str, Writer] = {"table": write_table, "csv": write_csv, "json": write_json, "parquet": write_parquet}


@contextmanager
def _opened(output: IO[Any] | Path | None, format: str) -> Iterator[IO[Any]]:
    """Open the output: standard output, an open file as it is, or a new file that appears whole or not at all."""
    binary = format == "parquet"
    if not isinstance(output, Path):
        standard: Any = output or (sys.stdout if format == "table" else results())
        yield getattr(standard, "buffer", standard) if binary else standard
        return
    mode, encoding = ("wb", None) if binary else ("w", "utf-8")
    try:
        with whole_file(output) as unfinished, unfinished.open(mode, encoding=encoding) as out:
            yield out
    except OSError as error:
        raise InputError(f"{output} cannot be written ({error.strerror}).") from None


def _csv_value(value: Any) -> Any:
    if isinstance(value, list | dict | bool):
        return _json(value)
    return _json_value(value) if isinstance(value, bytes) else value


def _json(value: Any) -> str:
    return json.dumps(_json_value(value), ensure_ascii=False, allow_nan=False)


def _json_value(value: Any) -> Any:
    """Convert a value to what JSON can hold. Write other bytes than printable letters in hexadecimal, as DuckDB."""
    if isinstance(value, dict):
        return {str(key): _json_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return "".join(chr(b) if 32 <= b < 127 and b != 92 else f"\\x{b:02X}" for b in value)
    return value if value is None or isinstance(value, str | int) else str(value)
