"""Databases that a kill or a full disk left half made, or that are damaged."""

import shutil
import sqlite3
from contextlib import closing
from functools import partial

import pytest

from flows.servers import sqlite_database
from flows.servers.server import prefect
from flows.servers.sqlite_database import check_database
from pipelines.errors import InputError


@pytest.fixture
def check(tmp_path):
    """check(path) checks a database of MLflow, whose only known version is 1."""
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "first.py").write_text('revision = "1"')
    return partial(check_database, "MLflow", holders=("runs",), migrations=tmp_path / "migrations")


def change(path, *statements):
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


@pytest.fixture
def whole(tmp_path):
    """A database of a version that holds one run."""
    path = tmp_path / "whole.db"
    change(path, "CREATE TABLE alembic_version (v TEXT)", "INSERT INTO alembic_version VALUES ('1')")
    change(path, "CREATE TABLE runs (name TEXT)", "INSERT INTO runs VALUES ('kept')")
    change(path, "CREATE TABLE padding (x BLOB)", "INSERT INTO padding VALUES (zeroblob(100000))")
    return path


def test_whole_new_and_absent_databases_pass(tmp_path, whole, check, capsys):
    content = whole.read_bytes()
    check(whole)
    (tmp_path / "new.db").touch()
    check(tmp_path / "new.db")
    check(tmp_path / "absent.db")
    assert whole.read_bytes() == content
    assert sorted(path.name for path in tmp_path.glob("*.db*")) == ["new.db", "whole.db"]
    assert capsys.readouterr().err == f"! MLflow's database {tmp_path}/new.db is empty; MLflow starts a new one.\n"


@pytest.mark.parametrize("left", ["DROP TABLE alembic_version", "DELETE FROM alembic_version"])
def test_half_made_database_that_holds_nothing_is_set_aside(whole, left, check):
    change(whole, left, "DELETE FROM runs")
    check(whole)
    assert not whole.exists() and whole.with_name("whole.db.half-made").exists()


DAMAGE = {
    "its second half is gone": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "its head is gone": lambda path: path.write_bytes(bytes(4096) + path.read_bytes()[4096:]),
    "it is another file": lambda path: path.write_text("The mill grinds slowly. " * 1000),
    "it has lost its version": lambda path: change(path, "DELETE FROM alembic_version"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_database_is_kept_and_named(whole, damage, check):
    DAMAGE[damage](whole)
    content = whole.read_bytes()
    with pytest.raises(InputError, match=rf"^MLflow's database {whole} .*put a copy from before in its place, or move"):
        check(whole)
    assert whole.read_bytes() == content


def test_locked_database_is_not_damaged(whole, check, monkeypatch):
    monkeypatch.setattr(sqlite_database, "LOCKED", 0.1)
    with closing(sqlite3.connect(whole)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match=rf"{whole} cannot be written \(database is locked\); end the program"):
            check(whole)


def test_database_that_may_only_be_read_is_named(whole, check, monkeypatch):
    connect = sqlite3.connect
    read_only = lambda path, **named: connect(f"file:{path}?mode=ro", uri=True, **named)  # noqa: E731
    monkeypatch.setattr(sqlite3, "connect", read_only)
    with pytest.raises(InputError, match=rf"{whole} cannot be written \(.*readonly database\); let it and its folder"):
        check(whole)


def test_database_of_a_newer_version_is_kept_and_named(whole, check):
    change(whole, "UPDATE alembic_version SET v = '2'")
    content = whole.read_bytes()
    with pytest.raises(InputError, match=rf"^MLflow's database {whole} was made by a newer MLflow.*install that one"):
        check(whole)
    assert whole.read_bytes() == content


def test_damaged_database_of_prefect_is_named_before_its_server_starts(tmp_path, whole):
    path = tmp_path / ".tokenmill" / "prefect" / "prefect.db"
    path.parent.mkdir(parents=True)
    shutil.copy(whole, path)
    for version in ("9725c1cbee35", "a1b2c3d4e5f7"):  # the latter is in no file's name
        change(path, f"UPDATE alembic_version SET v = '{version}'")
        prefect(tmp_path, 1).prepare()
    path.write_text("no database")
    with pytest.raises(InputError, match=rf"^Prefect's database {path} is damaged"):
        prefect(tmp_path, 1).prepare()
