"""Answers to SQL queries: output formats, rejected statements, and Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from flows.commands.answer import answer
from pipelines.catalog.catalog import connect
from pipelines.errors import InputError

QUERY = """SELECT 1 AS n, [1, 2] AS ids, {'k': 'é'} AS pair, '{"a": [1]}'::JSON AS parsed, 'a\\xFF'::BLOB AS raw,
    'nan'::DOUBLE AS odd, NULL AS nothing, TIMESTAMP '2020-01-02 03:04:05' AS at, true AS yes"""


@pytest.fixture
def connection(tmp_path: Path) -> duckdb.DuckDBPyConnection:
    return connect(tmp_path / "data")


def written(connection: duckdb.DuckDBPyConnection, query: str, format: str) -> str:
    out = io.StringIO()
    answer(connection, query, format, out)
    return out.getvalue()


def test_json_is_an_array_of_objects(connection: duckdb.DuckDBPyConnection) -> None:
    assert json.loads(written(connection, QUERY, "json")) == [
        {
            "n": 1,
            "ids": [1, 2],
            "pair": {"k": "é"},
            "parsed": {"a": [1]},
            "raw": "a\\xFF",
            "odd": None,
            "nothing": None,
            "at": "2020-01-02 03:04:05",
            "yes": True,
        }
    ]
    assert json.loads(written(connection, "FROM documents", "json")) == []
    assert [row["n"] for row in json.loads(written(connection, "SELECT * FROM range(25000) t(n)", "json"))] == [
        *range(25000)
    ]


def test_csv_quotes_lists_and_structs(connection: duckdb.DuckDBPyConnection) -> None:
    assert written(connection, QUERY, "csv") == (
        "n,ids,pair,parsed,raw,odd,nothing,at,yes\n"
        '1,"[1, 2]","{""k"": ""é""}","{""a"": [1]}",a\\xFF,nan,,2020-01-02 03:04:05,true\n'
    )
    assert written(connection, "SELECT 1 AS a WHERE false", "csv") == "a\n"


def test_table_shows_columns_and_rows(connection: duckdb.DuckDBPyConnection) -> None:
    table = written(connection, "SELECT 'wept' AS word; SELECT 42 AS answer", "table")
    assert all(each in table for each in ("word", "wept", "answer", "42"))


def test_parquet_file_is_written_whole_or_not_at_all(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    answer(connection, "SELECT range AS n, [range] AS list FROM range(30000)", "parquet", target)
    assert pq.read_table(target).column("n").to_pylist() == [*range(30000)]
    with pytest.raises(InputError):
        answer(connection, "SELECT error('boom') FROM range(9)", "parquet", target)
    assert pq.read_table(target).num_rows == 30000
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out.parquet"]


@pytest.mark.parametrize(
    "query, sentence",
    [
        ("CREATE TABLE t (a INT)", "CREATE writes"),
        ("DROP VIEW documents", "DROP writes"),
        ("COPY (SELECT 1) TO 'x.csv'", "COPY writes"),
        ("INSERT INTO documents VALUES (1)", "INSERT writes"),
        ("SELECT 1; DELETE FROM documents", "DELETE writes"),
        ("SET threads = 1", "SET writes"),
        ("selec 1", 'syntax error at or near "selec", in line 1.'),
        ("SELECT nope FROM documents", 'no column "nope"'),
        ("FROM nope", "There is no 'nope'"),
        ("FROM read_csv('/etc/passwd')", "/etc/passwd is out of reach"),
        ("", "The query is empty"),
    ],
)
def test_wrong_query_is_one_sentence(connection: duckdb.DuckDBPyConnection, query: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        answer(connection, query)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_ctrl_c_stops_the_query_and_keeps_the_connection(connection: duckdb.DuckDBPyConnection) -> None:
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        answer(connection, "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range + b.range = 3")
    assert time.monotonic() - started < 30
    assert "42" in written(connection, "SELECT 42", "csv")
