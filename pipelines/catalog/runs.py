"""MLflow's runs, their parameters and their metrics as tables, without importing MLflow, which takes seconds.

An SQLite database is read straight from its file, opened to read only. PostgreSQL is asked through SQLAlchemy, and a
server over REST.
"""

import errno
import os
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import fsspec
import pyarrow as pa

from pipelines.catalog.columns import arrow_schema
from pipelines.catalog.mlflow_server import is_server, open_server, tags_of
from pipelines.errors import InputError

# Name: columns, comment.
TABLES = {
    "runs": (
        # A terminal that is too narrow shows the first and the last columns.
        "run VARCHAR, experiment VARCHAR, run_id VARCHAR, parent_run_id VARCHAR, tags JSON, artifacts VARCHAR, "
        "ended_at TIMESTAMPTZ, started_at TIMESTAMPTZ, status VARCHAR",
        "MLflow's runs.",
    ),
    "params": ("run VARCHAR, param VARCHAR, value VARCHAR, run_id VARCHAR", "The parameters of every run."),
    "metrics": (
        "run VARCHAR, metric VARCHAR, step BIGINT, value DOUBLE, latest BOOLEAN, logged_at TIMESTAMPTZ, run_id VARCHAR",
        "Every value of every metric of every run.",
    ),
}


_LIVE = "r.lifecycle_stage = 'active'"


_QUERIES = {
    "runs": f"""
        SELECT r.name, e.name, r.run_uuid,
            (SELECT value FROM tags WHERE run_uuid = r.run_uuid AND key = 'mlflow.parentRunId'),
            (SELECT json_group_object(key, value) FROM tags WHERE run_uuid = r.run_uuid),
            r.artifact_uri, r.end_time, r.start_time, r.status
        FROM runs r JOIN experiments e USING (experiment_id) WHERE {_LIVE} ORDER BY r.start_time""",  # noqa: S608 - only our own text
    "params": f"""
        SELECT r.name, key, value, run_uuid FROM params JOIN runs r USING (run_uuid)
        WHERE {_LIVE} ORDER BY r.start_time, run_uuid, key""",  # noqa: S608 - only our own text
    "metrics": f"""
        SELECT r.name, m.key, m.step, CASE WHEN m.is_nan THEN NULL ELSE m.value END,
            m.step = l.step AND m.timestamp = l.timestamp AND m.value = l.value, m.timestamp, m.run_uuid
        FROM metrics m JOIN runs r USING (run_uuid) LEFT JOIN latest_metrics l USING (run_uuid, key)
        WHERE {_LIVE} ORDER BY r.start_time, m.run_uuid, m.key, m.step""",  # noqa: S608 - only our own text
}


def read(table: str, tracking_uri: str) -> pa.Table:
    """Return one of `TABLES` as it is now; empty if nothing has been tracked yet.

    Raises:
        InputError: there is something at the tracking URI, but not MLflow's tables, or it cannot be read from here.
    """
    if is_server(tracking_uri):
        with open_server(tracking_uri) as server:
            rows = server.rows(table)
    else:
        rows = ask(tracking_uri, _QUERIES[table])
    schema = arrow_schema(TABLES[table][0])
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pa.table([_array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)


def _array(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    array = pa.array(values)
    return array.cast(kind) if pa.types.is_integer(array.type) else pa.array(values, kind)


class RunState(NamedTuple):
    """A run's status and two of its tags: its kind, and the home in which it ran."""

    run_id: str
    status: str
    kind: str | None
    home: str | None


def states(tracking_uri: str, experiment: str) -> list[RunState]:
    """Return the state of every run of an experiment, oldest first; none if there is no such experiment.

    A run that starts in the future was started by a clock that was ahead, so it comes first.

    Raises:
        InputError: as `read`.
    """
    names = ("tokenmill.kind", "tokenmill.home")
    if is_server(tracking_uri):
        with open_server(tracking_uri) as server:
            found = [(run["info"], tags_of(run)) for _, run in server.runs(experiment)]
        rows = [
            (info.get("start_time", 0), info["run_id"], info["status"], *map(tags.get, names)) for info, tags in found
        ]
        return _in_order(rows)
    query = f"""
        SELECT r.start_time, r.run_uuid, r.status, kind.value, home.value
        FROM runs r JOIN experiments e USING (experiment_id)
        LEFT JOIN tags kind ON kind.run_uuid = r.run_uuid AND kind.key = ?
        LEFT JOIN tags home ON home.run_uuid = r.run_uuid AND home.key = ?
        WHERE e.name = ? AND {_LIVE}"""  # noqa: S608 - only our own text
    return _in_order(ask(tracking_uri, query, *names, experiment))


def _in_order(rows: Iterable[tuple[Any, ...]]) -> list[RunState]:
    """Return states behind their starts in milliseconds, in the order of these; those in the future come first."""
    now = time.time() * 1000
    ordered = sorted(rows, key=lambda row: (int(row[0]) <= now, int(row[0])))
    return [RunState(*row[1:]) for row in ordered]


def curves(tracking_uri: str, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Return the (step, value) points of every metric of one run, in order; none if a database lacks the run.

    Raises:
        InputError: as `read`, or a server does not know the run.
    """
    if is_server(tracking_uri):
        with open_server(tracking_uri) as server:
            return server.curves(run_id)
    found: dict[str, list[tuple[int, float]]] = {}
    query = "SELECT key, step, value FROM metrics WHERE run_uuid = ? AND NOT is_nan ORDER BY key, step"
    for key, step, value in ask(tracking_uri, query, run_id):
        found.setdefault(key, []).append((step, value))
    return found


def texts(tracking_uri: str, run_id: str, folder: str) -> dict[str, str]:
    """Return the text artifacts in a folder of one run, by name; none if the folder is missing.

    Raises:
        InputError: as `read`.
    """
    if is_server(tracking_uri):
        with open_server(tracking_uri) as server:
            return server.texts(run_id, folder)
    for (uri,) in ask(tracking_uri, "SELECT artifact_uri FROM runs WHERE run_uuid = ?", run_id):
        return _read_texts(f"{unquote(uri) if uri.startswith('file:') else uri}/{folder}")
    return {}


def _read_texts(folder: str) -> dict[str, str]:
    endpoint = os.environ.get("MLFLOW_S3_ENDPOINT_URL")  # MLflow's name for what others call AWS_ENDPOINT_URL
    options = {"endpoint_url": endpoint} if endpoint and folder.startswith("s3:") else {}
    try:
        filesystem, root = fsspec.core.url_to_fs(folder, **options)
        paths = sorted(path for path in filesystem.ls(root, detail=False) if path.endswith(".txt"))
        return {Path(path).name: filesystem.cat_file(path).decode("utf-8", "replace") for path in paths}
    except FileNotFoundError:
        return {}
    except Exception as error:  # each file system has its own
        raise InputError(f"MLflow's artifacts in {folder} cannot be read ({type(error).__name__}: {error}).") from None


def former_artifacts(database: Path) -> Path | None:
    """Return where the artifacts beside MLflow's database were before both were moved or copied; None if they were not.

    The experiment that every database has from its beginning says where they were.

    Raises:
        InputError: the database cannot be read.
    """
    here = database.parent / "artifacts"
    query = "SELECT artifact_location FROM experiments WHERE experiment_id = 0"
    for (location,) in ask(f"sqlite:///{database}", query):
        former = Path(unquote(location.removeprefix("file://")) if location.startswith("file:") else location).parent
        return former if former != here and former.parts[-2:] == here.parts[-2:] else None
    return None


def ask(tracking_uri: str, query: str, *values: str) -> list[tuple[Any, ...]]:
    """Return a query's rows from MLflow's database; none if there is no database yet.

    Raises:
        InputError: there is one, and it cannot be read.
    """
    if not tracking_uri.startswith("sqlite:"):
        return _ask_through_sqlalchemy(tracking_uri, query, values)
    path = _file_of(tracking_uri)
    try:
        _check_readable(path)
        return _ask_file(path, query, values)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"MLflow's database {path} cannot be read ({error.strerror}).") from None
    except sqlite3.Error as error:
        remedy = _REMEDIES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "put a copy from before in its place")
        raise InputError(f"MLflow's database {path} cannot be read ({error}); {remedy}.") from None


def _check_readable(path: Path) -> None:
    """Raise the operating system's error if a database cannot be opened.

    The file is not opened: when a process closes a file, it loses all its locks on it, so MLflow's would be gone too.
    """
    path.stat()
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def is_missing(tracking_uri: str) -> bool:
    """Return whether a tracking URI names the file of a database that does not exist."""
    return tracking_uri.startswith("sqlite:") and not _file_of(tracking_uri).exists()


def _file_of(tracking_uri: str) -> Path:
    return Path(tracking_uri.partition("?")[0].partition(":///")[2])  # relative, or absolute behind a fourth slash


_REMEDIES = {
    sqlite3.SQLITE_BUSY: "end the program that holds it",
    sqlite3.SQLITE_CANTOPEN: "copy its folder to a disk that can be written",
}


def _ask_file(path: Path, query: str, values: tuple[str, ...]) -> list[tuple[Any, ...]]:
    address = f"file:{quote(str(path))}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database:
            return database.execute(query, values).fetchall()
    except sqlite3.OperationalError as error:
        log = path.with_name(f"{path.name}-wal")
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) or (
            log.exists() and log.stat().st_size
        ):
            raise
    # SQLite makes a file beside the database, unless it is promised that nobody writes. Here nobody can.
    with closing(sqlite3.connect(f"{address}&immutable=1", uri=True)) as database:
        return database.execute(query, values).fetchall()


def _ask_through_sqlalchemy(uri: str, query: str, values: tuple[str, ...]) -> list[tuple[Any, ...]]:
    import sqlalchemy  # takes half a second, and SQLite needs none of it
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    try:
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
        if engine.dialect.name == "postgresql":
            query = query.replace("?", "%s")
            query = query.replace("json_group_object(key, value)", "json_object_agg(key, value)::text")
        with engine.connect() as database:
            return [tuple(row) for row in database.exec_driver_sql(query, values)]
    except (SQLAlchemyError, ImportError) as error:
        original = error.orig if isinstance(error, DBAPIError) else None
        if getattr(original, "pgcode", None) == "42P01":  # no such table: nothing has been tracked yet
            return []
        # The address may hold a password, and so may the text of an error that is not the database's own.
        why = " ".join(str(original).split()) if original else type(error).__name__
        what = uri.partition(":")[0]
        needs = "; pip install 'tokenmill[postgres]'" if isinstance(error, ImportError) and "postgres" in what else ""
        raise InputError(f"MLflow's database in {what} cannot be read ({why}){needs}.") from None


def tracking_uri(store_root: Path) -> str:
    """Return where the runs of a store are tracked: `MLFLOW_TRACKING_URI`, else the database beside the store."""
    beside = store_root.absolute().parent / "mlruns" / "mlflow.db"
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{beside}"
