"""MLflow's runs, their parameters and their metrics as tables, without importing MLflow, which takes seconds.

A tracking URI that names an SQLite database is read straight from the file, opened to read only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa

from pipelines.errors import InputError

_TIME = pa.timestamp("ms", tz="UTC")

RUNS = pa.schema(
    [
        ("run_id", pa.string()),
        ("run", pa.string()),
        ("experiment", pa.string()),
        ("status", pa.string()),
        ("started_at", _TIME),
        ("ended_at", _TIME),
        ("parent_run_id", pa.string()),
        ("tags", pa.json_(pa.string())),
        ("artifacts", pa.string()),
    ]
)
PARAMS = pa.schema([("run_id", pa.string()), ("run", pa.string()), ("param", pa.string()), ("value", pa.string())])
METRICS = pa.schema(
    [
        ("run_id", pa.string()),
        ("run", pa.string()),
        ("metric", pa.string()),
        ("step", pa.int64()),
        ("value", pa.float64()),
        ("at", _TIME),
        ("latest", pa.bool_()),
    ]
)
TABLES = {"runs": RUNS, "params": PARAMS, "metrics": METRICS}

_LIVE = "r.lifecycle_stage = 'active'"
_QUERIES = {
    "runs": f"""
        SELECT r.run_uuid, r.name, e.name, r.status, r.start_time, r.end_time,
            (SELECT value FROM tags WHERE run_uuid = r.run_uuid AND key = 'mlflow.parentRunId'),
            (SELECT json_group_object(key, value) FROM tags WHERE run_uuid = r.run_uuid), r.artifact_uri
        FROM runs r JOIN experiments e USING (experiment_id) WHERE {_LIVE} ORDER BY r.start_time""",  # noqa: S608
    "params": f"""
        SELECT run_uuid, r.name, key, value FROM params JOIN runs r USING (run_uuid)
        WHERE {_LIVE} ORDER BY r.start_time, run_uuid, key""",  # noqa: S608
    "metrics": f"""
        SELECT m.run_uuid, r.name, m.key, m.step, CASE WHEN m.is_nan THEN NULL ELSE m.value END, m.timestamp,
            m.step = l.step AND m.timestamp = l.timestamp AND m.value = l.value AS latest
        FROM metrics m JOIN runs r USING (run_uuid) LEFT JOIN latest_metrics l USING (run_uuid, key)
        WHERE {_LIVE} ORDER BY r.start_time, m.run_uuid, m.key, m.step""",  # noqa: S608
}


def read(table: str, tracking_uri: str) -> pa.Table:
    """One of `TABLES` as it is now; empty if nothing has been tracked yet.

    Raises:
        InputError: there is something at the tracking URI, but not MLflow's tables, or it cannot be read from here.
    """
    if not tracking_uri.startswith("sqlite:"):
        raise InputError(f"Runs tracked at {tracking_uri} cannot be read from SQL; only sqlite:/// databases can.")
    path = sqlite_path(tracking_uri)
    if not path.exists():
        return TABLES[table].empty_table()
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            return _to_arrow(database.execute(_QUERIES[table]).fetchall(), TABLES[table])
    except sqlite3.Error as error:
        raise InputError(f"{path} cannot be read as MLflow's database ({error}).") from None


def sqlite_path(uri: str) -> Path:
    """The file that an SQLAlchemy URI names: three slashes and a relative path, or four and an absolute one."""
    return Path(unquote(urlsplit(uri).path)[1:])


def _to_arrow(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pa.table([_array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)


def _array(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    array = pa.array(values)
    return array.cast(kind) if pa.types.is_integer(array.type) else pa.array(values, kind)
