"""`tokenmill sql`: output formats, what it refuses, how it stops, and the shell."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pexpect
import pyarrow.parquet as pq
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.answer import answer
from flows.commands.sql import run_sql
from flows.commands.sql_shell import Names, Shell
from flows.home import Home
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


def test_json_is_json(connection: duckdb.DuckDBPyConnection) -> None:
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


def test_csv_quotes_what_needs_it(connection: duckdb.DuckDBPyConnection) -> None:
    assert written(connection, QUERY, "csv") == (
        "n,ids,pair,parsed,raw,odd,nothing,at,yes\n"
        '1,"[1, 2]","{""k"": ""é""}","{""a"": [1]}",a\\xFF,nan,,2020-01-02 03:04:05,true\n'
    )
    assert written(connection, "SELECT 1 AS a WHERE false", "csv") == "a\n"


def test_a_table_names_columns_and_rows(connection: duckdb.DuckDBPyConnection) -> None:
    table = written(connection, "SELECT 'wept' AS word; SELECT 42 AS answer", "table")
    assert all(each in table for each in ("word", "wept", "answer", "42"))


def test_parquet_goes_to_a_file_whole(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
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
        ("SELECT nope FROM documents", '"nope" not found'),
        ("FROM nope", "There is no 'nope'"),
        ("FROM read_csv('/etc/passwd')", "/etc/passwd is out of reach"),
        ("", "The query is empty"),
    ],
)
def test_what_is_wrong_is_one_sentence(connection: duckdb.DuckDBPyConnection, query: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        answer(connection, query)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_an_unreadable_query_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        run_sql(None, file=tmp_path / "none.sql", home=Home(tmp_path))


def test_a_query_file_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "q.sql").write_text("-- how much is it?\nSELECT 6 * 7 AS answer;\n")
    run_sql(None, file=tmp_path / "q.sql", format="csv", home=Home(tmp_path))
    assert capsys.readouterr().out == "answer\n42\n"


def test_a_file_is_of_the_format_that_its_name_says_unless_another_is_asked_for(tmp_path):
    for name, format, content in (
        ("a.csv", None, "answer\n42\n"),
        ("a.json", None, '[\n{"answer": 42}\n]\n'),
        ("a.json", "csv", "answer\n42\n"),
    ):
        run_sql("select 42 as answer", format=format, home=Home(tmp_path), output=tmp_path / name)
        assert (tmp_path / name).read_text() == content
    run_sql("select 42 as answer", home=Home(tmp_path), output=tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").read_bytes().startswith(b"PAR1")
    run_sql("select 42 as answer", home=Home(tmp_path), output=tmp_path / "a.txt")
    assert "│" in (tmp_path / "a.txt").read_text()


def test_ctrl_c_stops_the_query_and_the_connection_lives(connection: duckdb.DuckDBPyConnection) -> None:
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        answer(connection, "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range + b.range = 3")
    assert time.monotonic() - started < 30
    assert "42" in written(connection, "SELECT 42", "csv")


def test_the_shell_answers_and_goes_on_after_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["selec 1;", ".nonsense", "select 40 +\n 2 as answer;", ".schema tokens", ".schema", ".functions"]
    lines += [".format csv", "select 'a' as letter;", ".timing", ".help", ".quit"]
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("".join(line.replace("\n", "\r") + "\r" for line in lines))
        Shell(connect(tmp_path / "data"), tmp_path).run()
    printed = capsys.readouterr().out
    for expected in ("syntax error", "no command '.nonsense'", "42", "n_tokens", "The token ids of every document",
                     "decode(tokens", "letter\na\n", ".timing"):  # fmt: skip
        assert expected in printed
    history = (tmp_path / ".tokenmill" / "sql_history").read_text()
    assert "select 40 +" in history


def test_names_are_completed(connection: duckdb.DuckDBPyConnection) -> None:
    def completed(text: str) -> list[str]:
        return [each.text for each in Names(connection).get_completions(Document(text), CompleteEvent())]

    assert completed("select * from docu") == ["documents"]
    assert "n_tokens" in completed("select n_to") and "encode" in completed("select enc")
    assert "select" in [each.lower() for each in completed("sel")]


def test_a_query_needs_no_heavy_imports(tmp_path: Path) -> None:
    code = (
        "import sys; from flows.commands.sql import run_sql; run_sql('select 1');"
        "heavy = ('torch', 'mlflow', 'prefect', 'tiktoken', 'prompt_toolkit', 'sklearn', 'matplotlib', 'jinja2');"
        "print([name for name in heavy if name in sys.modules])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr
    assert done.stderr == ""


def test_in_a_terminal_ctrl_c_stops_a_query_long_answers_are_paged_and_results_saved(tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\nwc -l | sed 's/^ */PAGED /'\n")
    pager.chmod(0o755)
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PAGER": str(pager), "TOKENMILL_HOME": str(tmp_path), "PYTHONPATH": str(root)}
    # Without this prompt_toolkit asks the terminal where its cursor is, and nobody answers.
    environment |= {"PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm"}
    shell = pexpect.spawn(
        sys.executable, ["-m", "flows.cli", "sql"], env=environment, cwd=tmp_path, dimensions=(24, 120), timeout=60
    )
    try:
        shell.expect("sql>")
        shell.send("select count(*) from range(10000000) a, range(10000000) b where a.range + b.range = 3;\r")
        time.sleep(1.5)
        shell.sendintr()
        shell.expect("Stopped.")
        shell.send("select 6 * 7 as answer;\r")
        shell.expect("42")
        shell.send("select * from range(60);\r")
        shell.expect(r"PAGED \d\d")
        shell.send(".output kept.parquet\r")
        shell.send("select 1 as n;\r")
        shell.expect("Written to kept.parquet")
        shell.send(".quit\r")
        shell.expect(pexpect.EOF)
    finally:
        shell.close(force=True)
    assert pq.read_table(tmp_path / "kept.parquet").to_pylist() == [{"n": 1}]


def test_a_query_may_be_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["sql", "-c", "select 6 * 7 as answer", "--format", "csv"])
    assert done.output == "answer\n42\n"
