"""MLflow's runs, their parameters and their metrics as tables, without importing MLflow, which takes seconds.

A tracking URI that names an SQLite database is read straight from the file, opened to read only; PostgreSQL is asked;
a server is asked over MLflow's REST API (https://mlflow.org/docs/latest/rest-api.html), as the user that
`MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_TOKEN`, name.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlencode, urlsplit
from urllib.request import Request, urlopen

import fsspec
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
        ("logged_at", _TIME),
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
    if tracking_uri.startswith(("http://", "https://")):
        return _to_arrow(_SERVED[table](Server(tracking_uri)), TABLES[table])
    return _to_arrow(ask(tracking_uri, _QUERIES[table]), TABLES[table])


class RunState(NamedTuple):
    """How a run stands, and two of its tags: what it is of, and in which home it ran."""

    run_id: str
    status: str
    kind: str | None
    home: str | None


def states(tracking_uri: str, experiment: str) -> list[RunState]:
    """How every run of an experiment stands, oldest first; none if there is no such experiment.

    Raises:
        InputError: as `read`.
    """
    if tracking_uri.startswith(("http://", "https://")):
        server = Server(tracking_uri)
        found = ((run["info"], _tags(run)) for _, run in server.runs(experiment))
        return [
            RunState(info["run_id"], info["status"], *map(tags.get, ("tokenmill.kind", "tokenmill.home")))
            for info, tags in found
        ]
    query = f"""
        SELECT r.run_uuid, r.status, kind.value, home.value FROM runs r JOIN experiments e USING (experiment_id)
        LEFT JOIN tags kind ON kind.run_uuid = r.run_uuid AND kind.key = 'tokenmill.kind'
        LEFT JOIN tags home ON home.run_uuid = r.run_uuid AND home.key = 'tokenmill.home'
        WHERE e.name = ? AND {_LIVE} ORDER BY r.start_time"""  # noqa: S608
    return [RunState(*row) for row in ask(tracking_uri, query, experiment)]


def curves(tracking_uri: str, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """The (step, value) points of every metric of one run, in order; none if the database does not know the run.

    Raises:
        InputError: as `read`, or a server does not know the run.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    if tracking_uri.startswith(("http://", "https://")):
        server = Server(tracking_uri)
        for last in server.call("runs/get", {"run_id": run_id})["run"]["data"].get("metrics", []):
            points = [
                (_whole(p.get("step", 0)) or 0, _number(p.get("value"))) for p in server.history(run_id, last["key"])
            ]
            found[last["key"]] = sorted((step, value) for step, value in points if value is not None)
        return found
    query = "SELECT key, step, value FROM metrics WHERE run_uuid = ? AND NOT is_nan ORDER BY key, step"
    for key, step, value in ask(tracking_uri, query, run_id):
        found.setdefault(key, []).append((step, value))
    return found


def texts(tracking_uri: str, run_id: str, folder: str) -> dict[str, str]:
    """The text artifacts in a folder of one run, by name; none if they are not there.

    Raises:
        InputError: as `read`.
    """
    if tracking_uri.startswith(("http://", "https://")):
        server = Server(tracking_uri)
        files = server.call("artifacts/list", {"run_id": run_id, "path": folder}).get("files", [])
        return {Path(each["path"]).name: server.artifact(run_id, each["path"]) for each in files if not each["is_dir"]}
    for (uri,) in ask(tracking_uri, "SELECT artifact_uri FROM runs WHERE run_uuid = ?", run_id):
        place = urlsplit(uri)
        if place.scheme not in ("", "file"):
            return _texts_far_away(f"{uri}/{folder}")
        files = sorted((Path(unquote(place.path)) / folder).glob("*.txt"))
        return {file.name: file.read_text(encoding="utf-8", errors="replace") for file in files}
    return {}


def _texts_far_away(folder: str) -> dict[str, str]:
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


def ask(tracking_uri: str, query: str, *values: str) -> list[tuple[Any, ...]]:
    """A query's rows from MLflow's database; none if it is not there yet."""
    if not tracking_uri.startswith("sqlite:"):
        return _ask_through_sqlalchemy(tracking_uri, query, values)
    path = sqlite_path(tracking_uri)
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            return database.execute(query, values).fetchall()
    except sqlite3.Error as error:
        raise InputError(f"{path} cannot be read as MLflow's database ({error}).") from None


def _ask_through_sqlalchemy(uri: str, query: str, values: tuple[str, ...]) -> list[tuple[Any, ...]]:
    import sqlalchemy  # half a second, for those who have such a database
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
        if getattr(original, "pgcode", None) == "42P01":  # no such table: nothing was tracked yet
            return []
        # The address may hold a password, and so may the text of an error that is not the database's own.
        why = " ".join(str(original).split()) if original else type(error).__name__
        what = uri.partition(":")[0]
        needs = "; pip install 'tokenmill[postgres]'" if isinstance(error, ImportError) and "postgres" in what else ""
        raise InputError(f"MLflow's database in {what} cannot be read ({why}){needs}.") from None


def tracking_uri(store_root: Path) -> str:
    """Where the runs of a store are tracked: `MLFLOW_TRACKING_URI` if set, else the database beside the store."""
    beside = store_root.absolute().parent / "mlruns" / "mlflow.db"
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{beside}"


def sqlite_path(uri: str) -> Path:
    """The file that an SQLAlchemy URI names: three slashes and a relative path, or four and an absolute one."""
    return Path(uri.partition("?")[0].partition(":///")[2])


def _to_arrow(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pa.table([_array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)


def _array(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    array = pa.array(values)
    return array.cast(kind) if pa.types.is_integer(array.type) else pa.array(values, kind)


# From a server


class Server:
    """An MLflow tracking server."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.headers = {"Accept": "application/json", "Content-Type": "application/json"}
        user, token = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_TOKEN")
        if user:
            password = os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
            self.headers["Authorization"] = "Basic " + b64encode(f"{user}:{password}".encode()).decode()
        elif token:
            self.headers["Authorization"] = f"Bearer {token}"

    def call(self, path: str, query: Mapping[str, Any] | None = None, body: Mapping[str, Any] | None = None) -> Any:
        """The answer to one request.

        Raises:
            InputError: the server does not answer, or not with MLflow's answer.
        """
        url = f"{self.address}/api/2.0/mlflow/{path}" + (f"?{urlencode(query)}" if query else "")
        data = json.dumps(body).encode() if body is not None else None
        try:
            with urlopen(Request(url, data, self.headers), timeout=30) as answer:  # noqa: S310 - http or https, see read
                return json.load(answer)
        except HTTPError as error:
            raise InputError(f"The MLflow server at {self.address} refused {path} (status {error.code}).") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise InputError(f"The MLflow server at {self.address} does not answer ({reason}); is it up?") from None

    def artifact(self, run_id: str, path: str) -> str:
        """A text among a run's artifacts."""
        url = f"{self.address}/get-artifact?{urlencode({'run_uuid': run_id, 'path': path})}"
        try:
            with urlopen(Request(url, headers=self.headers), timeout=30) as answer:  # noqa: S310 - http or https
                return answer.read().decode("utf-8", "replace")
        except OSError as error:
            raise InputError(f"The MLflow server at {self.address} does not give {path} ({error}).") from None

    def pages(self, path: str, key: str, body: dict[str, Any] | None = None, **query: Any) -> Iterator[Any]:
        """All items of a list that comes in pages."""
        token: str | None = ""
        while token is not None:
            more = {"page_token": token} if token else {}
            page = self.call(path, query | more) if body is None else self.call(path, body=body | more)
            yield from page.get(key, [])
            token = page.get("next_page_token") or None

    def runs(self, experiment: str | None = None) -> Iterator[tuple[str, Any]]:
        """(name of its experiment, run) of all experiments or of one, oldest first."""
        experiments = {
            each["experiment_id"]: each["name"]
            for each in self.pages("experiments/search", "experiments", {"max_results": 1000})
            if experiment in (None, each["name"])
        }
        body = {"experiment_ids": [*experiments], "max_results": 1000, "order_by": ["attributes.start_time ASC"]}
        for run in self.pages("runs/search", "runs", body) if experiments else ():
            yield experiments[run["info"]["experiment_id"]], run

    def history(self, run_id: str, metric: str) -> list[Any]:
        return list(self.pages("metrics/get-history", "metrics", run_id=run_id, metric_key=metric, max_results=25000))


def _served_runs(server: Server) -> list[tuple[Any, ...]]:
    rows = []
    for experiment, run in server.runs():
        info, tags = run["info"], _tags(run)
        rows.append(
            (
                info["run_id"],
                info.get("run_name"),
                experiment,
                info["status"],
                _whole(info.get("start_time")),
                _whole(info.get("end_time")),
                tags.get("mlflow.parentRunId"),
                json.dumps(tags),
                info.get("artifact_uri"),
            )
        )
    return rows


def _tags(run: Any) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}


def _served_params(server: Server) -> list[tuple[Any, ...]]:
    return [
        (run["info"]["run_id"], run["info"].get("run_name"), param["key"], param["value"])
        for _, run in server.runs()
        for param in run["data"].get("params", [])
    ]


def _served_metrics(server: Server) -> list[tuple[Any, ...]]:
    wanted = [(run["info"], last) for _, run in server.runs() for last in run["data"].get("metrics", [])]
    with ThreadPoolExecutor(8) as pool:  # a request for each curve
        curves = pool.map(lambda each: server.history(each[0]["run_id"], each[1]["key"]), wanted)
        return [
            (
                info["run_id"],
                info.get("run_name"),
                last["key"],
                _whole(point.get("step", 0)),
                _number(point.get("value")),
                _whole(point["timestamp"]),
                all(point.get(name) == last.get(name) for name in ("step", "value", "timestamp")),
            )
            for (info, last), curve in zip(wanted, curves, strict=True)
            for point in sorted(curve, key=lambda point: int(point.get("step", 0)))
        ]


_SERVED: dict[str, Callable[[Server], list[tuple[Any, ...]]]] = {
    "runs": _served_runs,
    "params": _served_params,
    "metrics": _served_metrics,
}


def _whole(value: Any) -> int | None:
    """Some versions of the API write long integers as strings."""
    return None if value is None else int(value)


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(float(value)) else float(value)
