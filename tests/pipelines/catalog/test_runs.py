"""MLflow's runs as tables, from its database."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import fsspec
import pytest

from pipelines.catalog import runs
from pipelines.errors import InputError


def test_missing_database_gives_empty_tables(tmp_path: Path) -> None:
    for table in runs.TABLES:
        assert runs.read(table, f"sqlite:///{tmp_path}/mlruns/mlflow.db").num_rows == 0
    assert not (tmp_path / "mlruns").exists()


def test_wrong_database_is_one_sentence(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (a)").connection.close()
    (tmp_path / "text.db").write_text("not a database" * 100)
    for name in ("other.db", "text.db"):
        with pytest.raises(InputError, match=r"MLflow.s database .* cannot be read"):
            runs.read("runs", f"sqlite:///{tmp_path}/{name}")


@pytest.mark.parametrize("folder", ["a home", "100%20 sure", "C#", "it's ü"])
def test_database_is_found_in_a_folder_of_any_name(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    uri = f"sqlite:///{tmp_path / folder / 'mlflow.db'}"
    with sqlite3.connect(tmp_path / folder / "mlflow.db") as database:
        database.execute("CREATE TABLE runs (run_uuid, artifact_uri)")
        database.execute("INSERT INTO runs VALUES ('r1', ?)", (tmp_path.as_uri(),))
    assert runs.ask(uri, "SELECT run_uuid FROM runs") == [("r1",)]


def test_texts_in_a_bucket_need_no_server(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE runs (run_uuid, artifact_uri)")
        for run_id, place in (("r1", "memory://bucket/r1"), ("r2", "memory://bucket/r2"), ("r3", "nowhere://r3")):
            database.execute("INSERT INTO runs VALUES (?, ?)", (run_id, place))
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/bucket/r1/samples/{name}": name.encode() for name in ("b.txt", "a.txt", "c.svg")})
    assert runs.texts(uri, "r1", "samples") == {"a.txt": "a.txt", "b.txt": "b.txt"}
    assert runs.texts(uri, "r2", "samples") == {}
    with pytest.raises(InputError, match="MLflow's artifacts in nowhere://r3/samples cannot be read"):
        runs.texts(uri, "r3", "samples")


def test_unreadable_database_is_one_sentence_without_its_password() -> None:
    for elsewhere in ("postgresql://mill:sesame@127.0.0.1:9/mlflow", "file:./mlruns"):
        with pytest.raises(InputError, match=r"MLflow's database in (postgresql|file) cannot be read") as refused:
            runs.read("runs", elsewhere)
        assert "sesame" not in str(refused.value)


def test_reading_keeps_the_locks_of_writers_in_this_process(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("CREATE TABLE runs (name)")
        writer.execute("BEGIN IMMEDIATE")
        assert runs.ask(f"sqlite:///{database}", "SELECT name FROM runs") == []
        other = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
        done = subprocess.run([sys.executable, "-c", other, str(database)], capture_output=True, text=True)
    assert "database is locked" in done.stderr
