"""The names that a shell offers: models, datasets and configs, and nothing that could do harm."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from flows.commands import completion


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for place in ("model/wiki-0123456789ab", "tokens/wiki-00aa00aa00aa", "tokens/books-ffff00000000"):
        (tmp_path / "data" / place).mkdir(parents=True)
    (tmp_path / "data" / "model" / "$(id)\x1b[31m-0123456789ab").mkdir()
    (tmp_path / "configs").mkdir()
    for name in ("run.toml", "configs/quick.toml", "notes.txt", "configs/$(id).toml"):
        (tmp_path / name).touch()
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_that_begin_alike_are_offered(home: Path) -> None:
    assert completion.models("") == ["wiki"]
    assert completion.datasets("w") == ["wiki"] and completion.datasets("tokens/") == ["tokens/books", "tokens/wiki"]
    assert completion.datasets("tokens@") == ["tokens@00aa00aa00aa", "tokens@ffff00000000"]
    assert completion.kinds("") == ["model", "tokens"]
    assert completion.configs("") == ["configs/quick.toml", "run.toml"]
    assert completion.configs(f"{home}/r") == [f"{home}/run.toml"]


def test_registered_versions_follow_a_whole_name(home: Path) -> None:
    (home / "mlruns").mkdir()
    with closing(sqlite3.connect(home / "mlruns" / "mlflow.db")) as database:
        database.executescript("""
            CREATE TABLE model_versions (name, version, creation_time, current_stage);
            CREATE TABLE model_version_tags (name, version, key, value);
            CREATE TABLE registered_model_aliases (name, version, alias);
            CREATE TABLE registered_model_tags (name, key, value);
            INSERT INTO model_versions VALUES ('wiki', 1, 0, 'None'), ('wiki', 2, 0, 'None');
            INSERT INTO registered_model_aliases VALUES ('wiki', 2, 'champion'), ('wiki', 1, '$(id)');
        """)
    assert completion.models("wiki/") == ["wiki/1", "wiki/2"] and completion.models("wiki@") == ["wiki@champion"]


def test_error_ends_in_no_offer(home: Path) -> None:
    (home / "mlruns").mkdir()
    (home / "mlruns" / "mlflow.db").write_text("no database")
    assert completion.models("wiki/") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_is_answered_without_a_heavy_import(home: Path, shell: str) -> None:
    words = "tokenmill generate --model w"
    asks = {
        "_TYPER_COMPLETE_ARGS": words,
        "COMP_WORDS": words,
        "COMP_CWORD": "3",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    code = (
        "import sys; sys.argv[0] = 'tokenmill'\n"
        "from flows.cli import main\n"
        "try: main()\n"
        "finally: print({'torch', 'mlflow', 'prefect', 'duckdb', 'pyarrow'} & {*sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **asks, "_TOKENMILL_COMPLETE": f"complete_{shell}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "wiki" in done.stdout and "\x1b" not in done.stdout and "$(id)" not in done.stdout
    assert done.stderr.strip() == "set()"
