"""`tokenmill sql`: where the query comes from, and where the result goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.sql import sql
from pipelines.errors import InputError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))


def test_unreadable_query_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        sql(file=tmp_path / "none.sql")


def test_query_file_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "q.sql").write_text("-- how much is it?\nSELECT 6 * 7 AS answer;\n")
    sql(file=tmp_path / "q.sql", format="csv")
    assert capsys.readouterr().out == "answer\n42\n"


def test_output_name_decides_the_format_unless_an_option_does(tmp_path):
    for name, format, content in (
        ("a.csv", None, "answer\n42\n"),
        ("a.json", None, '[\n{"answer": 42}\n]\n'),
        ("a.json", "csv", "answer\n42\n"),
    ):
        sql("select 42 as answer", format=format, output=tmp_path / name)
        assert (tmp_path / name).read_text() == content
    sql("select 42 as answer", output=tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").read_bytes().startswith(b"PAR1")
    sql("select 42 as answer", output=tmp_path / "a.txt")
    assert "│" in (tmp_path / "a.txt").read_text()


def test_query_needs_no_heavy_imports(tmp_path: Path) -> None:
    code = (
        "import sys; from flows.commands.sql import sql; sql('select 1');"
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


def test_query_may_be_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["sql", "-c", "select 6 * 7 as answer", "--format", "csv"])
    assert done.output == "answer\n42\n"
