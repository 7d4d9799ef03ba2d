"""MLflow's runs as tables, out of its database and from its server."""

from __future__ import annotations

import json
import sqlite3
from base64 import b64encode
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import duckdb
import fsspec
import pytest

from pipelines.catalog import runs
from pipelines.catalog.catalog import connect, explain_error
from pipelines.errors import InputError

RUNS = [
    {
        "info": {
            "run_id": f"r{i}",
            "run_name": f"run {i}",
            "experiment_id": "1",
            "status": "FINISHED",
            "start_time": 1000 + i,
            "end_time": "2000",
            "artifact_uri": "x",
        },
        "data": {
            "tags": [{"key": "mlflow.parentRunId", "value": "r9"}, {"key": "kind", "value": "model"}],
            "params": [{"key": "layers", "value": str(i)}],
            "metrics": [{"key": "val/loss", "value": 3.5, "step": "10", "timestamp": "2000"}],
        },
    }
    for i in range(3)
]
CURVE = [
    {"key": "val/loss", "value": 3.5, "step": "10", "timestamp": "2000"},
    {"key": "val/loss", "value": "NaN", "timestamp": "1000"},  # step 0 is left out, as MLflow does
]


class Handler(BaseHTTPRequestHandler):
    """MLflow's REST API as far as the catalog needs it, a run a page."""

    seen: ClassVar[list[str | None]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/2.0/mlflow/experiments/search":
            self.answer({"experiments": [{"experiment_id": "1", "name": "quickstart"}]})
        elif self.path == "/api/2.0/mlflow/runs/search" and body["experiment_ids"] == ["1"]:
            page = int(body.get("page_token", 0))
            more = {"next_page_token": str(page + 1)} if page + 1 < len(RUNS) else {}
            self.answer({"runs": [RUNS[page]], **more})
        else:
            self.send_error(404)

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if address.path == "/api/2.0/mlflow/metrics/get-history" and parse_qs(address.query)["metric_key"] == [
            "val/loss"
        ]:
            self.answer({"metrics": CURVE})
        elif address.path == "/api/2.0/mlflow/runs/get":
            self.answer({"run": RUNS[0]})
        elif address.path == "/api/2.0/mlflow/artifacts/list":
            self.answer({"files": [{"path": "samples/a.txt", "is_dir": False}, {"path": "samples/b", "is_dir": True}]})
        elif address.path == "/get-artifact":
            self.answer(parse_qs(address.query)["path"][0])
        else:
            self.send_error(404)

    def answer(self, value: Any) -> None:
        self.seen.append(self.headers["Authorization"])
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(serve: Callable[..., ThreadingHTTPServer]) -> str:
    return f"http://127.0.0.1:{serve(Handler).server_port}"


def test_a_server_is_asked_page_by_page(server: str, tmp_path: Path) -> None:
    connection = connect(tmp_path / "data", server + "/")
    assert connection.execute("SELECT run_id, run, experiment, tags->>'kind', parent_run_id FROM runs").fetchall() == [
        (f"r{i}", f"run {i}", "quickstart", "model", "r9") for i in range(3)
    ]
    assert connection.execute("SELECT run_id, param, value FROM params").fetchall() == [
        (f"r{i}", "layers", str(i)) for i in range(3)
    ]
    query = "SELECT step, value, latest, epoch_ms(logged_at) FROM metrics WHERE run_id = 'r1'"
    assert connection.execute(query).fetchall() == [(0, None, False, 1000), (10, 3.5, True, 2000)]


def test_a_server_says_how_the_runs_of_an_experiment_stand(server: str) -> None:
    assert runs.states(server, "quickstart") == [runs.RunState(f"r{i}", "FINISHED", None, None) for i in range(3)]
    assert runs.states(server, "another") == []


def test_a_server_gives_one_runs_curves_and_texts(server: str) -> None:
    assert runs.curves(server, "r0") == {"val/loss": [(10, 3.5)]}  # what is no number has no place in a curve
    assert runs.texts(server, "r0", "samples") == {"a.txt": '"samples/a.txt"'}
    with pytest.raises(InputError, match="refused runs/get"):
        runs.curves(server + "/elsewhere", "r0")


def test_a_server_is_told_who_asks(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "seen", [])
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    runs.read("params", server)
    assert set(Handler.seen) == {"Basic " + b64encode(b"ada:secret").decode()}
    monkeypatch.setattr(Handler, "seen", [])
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    runs.read("params", server)
    assert set(Handler.seen) == {"Bearer t0ken"}


def test_a_server_that_is_down_or_something_else_is_one_sentence(server: str) -> None:
    with pytest.raises(InputError, match="is it up"):
        runs.read("runs", "http://127.0.0.1:9")
    with connect("nowhere", "http://127.0.0.1:9") as connection, pytest.raises(duckdb.Error) as caught:
        connection.execute("FROM runs").fetchall()
    assert explain_error(caught.value).startswith("The MLflow server at http://127.0.0.1:9 does not answer")
    with pytest.raises(InputError, match="refused experiments/search"):
        runs.read("runs", server + "/elsewhere")
    for elsewhere in ("postgresql://mill:sesame@127.0.0.1:9/mlflow", "file:./mlruns"):
        with pytest.raises(InputError, match=r"MLflow's database in (postgresql|file) cannot be read") as refused:
            runs.read("runs", elsewhere)
        assert "sesame" not in str(refused.value)


def test_nothing_tracked_yet_is_no_error(tmp_path: Path) -> None:
    for table in runs.TABLES:
        assert runs.read(table, f"sqlite:///{tmp_path}/mlruns/mlflow.db").num_rows == 0
    assert not (tmp_path / "mlruns").exists()


def test_a_database_of_something_else_is_one_sentence(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (a)").connection.close()
    (tmp_path / "text.db").write_text("not a database" * 100)
    for name in ("other.db", "text.db"):
        with pytest.raises(InputError, match="cannot be read as MLflow's database"):
            runs.read("runs", f"sqlite:///{tmp_path}/{name}")


@pytest.mark.parametrize("folder", ["a home", "100%20 sure", "C#", "it's ü"])
def test_a_database_is_found_whatever_its_folder_is_called(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    uri = f"sqlite:///{tmp_path / folder / 'mlflow.db'}"
    with sqlite3.connect(tmp_path / folder / "mlflow.db") as database:
        database.execute("CREATE TABLE runs (run_uuid, artifact_uri)")
        database.execute("INSERT INTO runs VALUES ('r1', ?)", (tmp_path.as_uri(),))
    assert runs.ask(uri, "SELECT run_uuid FROM runs") == [("r1",)]


def test_texts_in_a_bucket_are_read_without_a_server(tmp_path: Path) -> None:
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
