"""MLflow's database: created once, upgraded after a copy is made."""

import multiprocessing
import shutil
import sqlite3

import pytest

from flows.servers.mlflow_database import ensure_mlflow_database
from pipelines.errors import InputError


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A new database that three processes opened at once, where a killed one had left half of its own."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    path.with_name(".mlflow.db.new").write_bytes(b"SQLite format 3\0" + bytes(5000))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store"])  # once for all three
    processes = [context.Process(target=ensure_mlflow_database, args=(f"sqlite:///{path}",)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    return path


def test_many_processes_open_a_new_database_at_once(database):
    with sqlite3.connect(database) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT name FROM experiments").fetchall() == [("Default",)]
        (location,) = connection.execute("SELECT artifact_location FROM experiments").fetchone()
    assert str(database.parent / "artifacts") in location
    assert not database.with_name(".mlflow.db.new").exists()


def test_database_that_cannot_be_upgraded_is_kept(tmp_path, database):
    path = tmp_path / "mlflow.db"
    shutil.copy(database, path)
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE alembic_version SET version_num = '0584bdc529eb'"
        )  # what comes next is there already
    with pytest.raises(InputError, match=r"another version.*before-upgrade"):
        ensure_mlflow_database(f"sqlite:///{path}")
    for name in ("mlflow.db", "mlflow.db.before-upgrade"):
        with sqlite3.connect(tmp_path / name) as connection:
            assert connection.execute("SELECT count(*) FROM experiments").fetchone() == (1,)
    assert not (tmp_path / ".mlflow.db.upgrading").exists()


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "mlruns").write_text("a file")
    with pytest.raises(InputError, match=r"mlruns/mlflow\.db cannot be written .*let its folder be written"):
        ensure_mlflow_database(f"sqlite:///{tmp_path}/mlruns/mlflow.db")


def test_half_made_database_is_made_again(tmp_path):
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE runs (name TEXT)")
    ensure_mlflow_database(f"sqlite:///{path}")
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM experiments").fetchall() == [("Default",)]


@pytest.mark.slow
def test_killed_upgrade_begins_again_from_the_copy(tmp_path, database):
    path, copy, mark = tmp_path / "mlflow.db", tmp_path / "mlflow.db.before-upgrade", tmp_path / ".mlflow.db.upgrading"
    shutil.copy(database, path)
    shutil.copy(database, copy)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0584bdc529eb'")
    mark.touch()
    ensure_mlflow_database(f"sqlite:///{path}")
    assert not mark.exists()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() != ("halfway",)


def test_database_of_a_server_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ensure_mlflow_database("postgresql://nobody@127.0.0.1:9/nothing")
    ensure_mlflow_database("http://127.0.0.1:9")
    assert not list(tmp_path.iterdir()), "no file was created"
