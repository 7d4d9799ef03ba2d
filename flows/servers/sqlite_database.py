"""SQLite databases of the servers: what is wrong with one is noticed before a server fails on it."""

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from flows.console import warn
from pipelines.errors import InputError

LOCKED = 60.0
"""Seconds after which a database that another program writes counts as locked."""

REMEDIES = {
    sqlite3.SQLITE_BUSY: "end the program that holds it",
    sqlite3.SQLITE_READONLY: "let it and its folder be written",
    sqlite3.SQLITE_CANTOPEN: "let it and its folder be read and written",
}


def check_database(owner: str, path: Path, holders: Sequence[str], migrations: Path) -> None:
    """Rename a database that a kill left half made, if it holds nothing. Its owner then makes it again.

    Args:
        owner: the name of the server that it belongs to.
        path: its file; a file that is absent or empty is fine.
        holders: the tables whose rows people would miss.
        migrations: the owner's folder of migrations, which name the versions that it knows.

    Raises:
        InputError: it is damaged, locked, cannot be written or is newer than its owner, or was half made and holds
            something.
    """
    if not path.exists():
        return
    if path.is_file() and path.stat().st_size == 0:
        warn(f"{owner}'s database {path} is empty; {owner} starts a new one.")
        return
    remedy = f"put a copy from before in its place, or move it away and run again: {owner} then starts a new one."
    if not path.is_file():
        raise InputError(f"{owner}'s database {path} is not a file; {remedy}")
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=LOCKED)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            versions = "alembic_version" in tables and database.execute("SELECT * FROM alembic_version").fetchall()
            rows = (f"SELECT 1 FROM {table} LIMIT 1" for table in holders if table in tables)  # noqa: S608 - names of our own
            holds = any(database.execute(row).fetchone() for row in rows)
            (number,) = database.execute("PRAGMA user_version").fetchone()
            database.execute("BEGIN IMMEDIATE")
            database.execute(f"PRAGMA user_version = {number}")  # a write that changes nothing
            database.rollback()
    except sqlite3.OperationalError as error:
        if not (remedy := REMEDIES.get(error.sqlite_errorcode & 0xFF, "")):
            raise  # its disk is full, for example: nothing is wrong with the database
        raise InputError(f"{owner}'s database {path} cannot be written ({error}); {remedy}.") from None
    except sqlite3.DatabaseError as error:
        raise InputError(f"{owner}'s database {path} is damaged ({error}); {remedy}") from None
    if versions and not _knows(migrations, versions[0][0]):
        raise InputError(
            f"{owner}'s database {path} was made by a newer {owner} than the installed one; install that one, or move "
            f"the database away and run again: {owner} then starts a new one."
        )
    if versions or not tables:
        return
    if holds:
        raise InputError(f"{owner}'s database {path} has lost its version number; {remedy}")
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.replace(path.with_name(f"{path.name}.half-made"))


def _knows(migrations: Path, version: str) -> bool:
    files = sorted(migrations.glob("*.py"), reverse=True)  # the newest first, where names begin with a date
    return any(version in file.read_text(encoding="utf-8") for file in files)
