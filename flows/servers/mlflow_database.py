"""MLflow's SQLite database: created by one process, upgraded after a copy is made."""

import contextlib
import logging
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from flows.servers.logs import last_line
from flows.servers.moved_home import follow_move
from flows.servers.sqlite_database import set_aside_half_made
from pipelines.errors import InputError


def ensure_mlflow_database(uri: str, artifacts: Path | None = None) -> None:
    """Create or upgrade MLflow's database if it is an SQLite file, and let it serve readers while it writes.

    Processes that open a new database at once would damage it, and so would a kill on the way. So one process creates
    it, under a lock and another name. The databases of servers are left alone.

    Args:
        uri: MLflow's tracking URI.
        artifacts: the home's folder of artifacts. The experiment "Default" keeps its own there; MLflow's choice is the
            current folder. If the database is the home's, it follows a home that was moved.

    Raises:
        InputError: the database is damaged, or of another version and could not be upgraded.
    """
    if not uri.startswith("sqlite:///"):
        return
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs each table; errors are raised
    path = Path(uri.removeprefix("sqlite:///")).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        set_aside_half_made("MLflow", path, ("runs", "registered_models", "traces"))
        if not path.exists() or not path.stat().st_size:
            unfinished = path.with_name(f".{path.name}.new")
            unfinished.unlink(missing_ok=True)
            SqlAlchemyStore(f"sqlite:///{unfinished}", str(artifacts or path.parent / "artifacts")).engine.dispose()
            os.replace(unfinished, path)
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as database:
            database.execute("PRAGMA journal_mode=WAL")
        try:
            MlflowClient(uri)  # keeps its connection for the next client, which a store of our own would not
        except MlflowException as error:
            if "out-of-date" not in str(error):
                raise
            _upgrade(path)
        if artifacts:
            follow_move(path, artifacts)


def _upgrade(path: Path) -> None:
    """Upgrade a database. It is put back as it was if that fails, or after a kill on the way."""
    copy, upgrading = path.with_name(f"{path.name}.before-upgrade"), path.with_name(f".{path.name}.upgrading")
    if upgrading.exists():
        _copy(copy, path)
    else:
        _copy(path, copy)
        upgrading.touch()
    command = [sys.executable, "-P", "-m", "mlflow", "db", "upgrade", f"sqlite:///{path}"]
    done = subprocess.run(  # noqa: S603 - our own command
        command, cwd=path.parent, capture_output=True, text=True, check=False
    )
    if done.returncode:
        _copy(copy, path)
    upgrading.unlink()
    if done.returncode:
        raise InputError(
            f"The MLflow database {path} is of another version, and upgrading it failed "
            f"({last_line(done.stderr)}); a copy from before is {copy}."
        )


def _copy(source: Path, target: Path) -> None:
    with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(target)) as new:
        old.backup(new)
