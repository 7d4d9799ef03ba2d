"""The shell of `tokenmill sql`: statements, commands, completion, and a real terminal."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pexpect
import pyarrow.parquet as pq
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from flows.commands.sql_shell import Names, Shell
from pipelines.catalog.catalog import connect


def test_shell_answers_and_continues_after_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["selec 1;", ".nonsense", "select 40 +\n 2 as answer;", ".schema tokens", ".schema", ".functions"]
    (tmp_path / "two.sql").write_text("select 6 * 7 as product;")
    lines += [".tables", ".mode csv", "select 'a' as letter;", f".read {tmp_path / 'two.sql'}", ".read nothing.sql"]
    lines += [".timing", ".help", ".quit"]
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("".join(line.replace("\n", "\r") + "\r" for line in lines))
        Shell(connect(tmp_path / "data"), tmp_path).run()
    printed = capsys.readouterr().out
    for expected in ("syntax error", "no command '.nonsense'", "42", "n_tokens", "ids of every document", ".timing",
                     "decode(tokens", "letter\na\n", "product\n42\n", "nothing.sql cannot be read"):  # fmt: skip
        assert expected in printed
    history = (tmp_path / ".tokenmill" / "sql_history").read_text()
    assert "select 40 +" in history


def test_names_are_completed(tmp_path: Path) -> None:
    connection = connect(tmp_path / "data")

    def completed(text: str) -> list[str]:
        return [each.text for each in Names(connection).get_completions(Document(text), CompleteEvent())]

    assert completed("select * from docu") == ["documents"]
    assert "n_tokens" in completed("select n_to") and "encode" in completed("select enc")
    assert "select" in [each.lower() for each in completed("sel")]


def test_terminal_stops_queries_pages_results_and_saves_them(tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\nwc -l | sed 's/^ */PAGED /'\n")
    pager.chmod(0o755)
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PAGER": str(pager), "TOKENMILL_HOME": str(tmp_path), "PYTHONPATH": str(root)}
    # Without this, prompt_toolkit asks the terminal for its cursor and waits for an answer.
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
