"""SQLite databases of the servers: one that was half made is noticed before a server fails on it."""

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from pipelines.errors import InputError


def set_aside_half_made(owner: str, path: Path, holders: Sequence[str]) -> None:
    """Rename a database that a kill left half made, if it holds nothing. Its owner then makes it again.

    Args:
        owner: the name of the server that it belongs to.
        path: its file; a file that is absent or empty is fine.
        holders: the tables whose rows people would miss.

    Raises:
        InputError: it is damaged, or was half made and holds something.
    """
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return
    remedy = f"put a copy from before in its place, or move it away and run again: {owner} then starts a new one."
    if not path.is_file():
        raise InputError(f"{owner}'s database {path} is not a file; {remedy}")
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            versions = "alembic_version" in tables and database.execute("SELECT * FROM alembic_version").fetchall()
            rows = (f"SELECT 1 FROM {table} LIMIT 1" for table in holders if table in tables)  # noqa: S608 - names of our own
            holds = any(database.execute(row).fetchone() for row in rows)
    except sqlite3.OperationalError:
        raise  # it is locked or its disk is full: nothing is wrong with the database
    except sqlite3.DatabaseError as error:
        raise InputError(f"{owner}'s database {path} is damaged ({error}); {remedy}") from None
    if versions or not tables:
        return
    if holds:
        raise InputError(f"{owner}'s database {path} has lost its version number; {remedy}")
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.replace(path.with_name(f"{path.name}.half-made"))
