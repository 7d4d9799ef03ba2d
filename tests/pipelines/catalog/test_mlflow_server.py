"""MLflow's runs and registry over its REST API."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import duckdb
import pytest

from pipelines.catalog import runs
from pipelines.catalog.catalog import connect, explain_error
from pipelines.catalog.registry import registered
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
    {"key": "val/loss", "value": "NaN", "timestamp": "1000"},  # MLflow leaves out a step of 0
]

MODEL = {
    "name": "gpt",
    "aliases": [{"alias": "champion", "version": "2"}],
    "tags": [{"key": "tokenmill.champions", "value": "1,2"}, {"key": "other", "value": "3"}],
}
VERSIONS = [
    {"name": "gpt", "version": "2", "creation_timestamp": "2000"},
    {
        "name": "gpt",
        "version": "1",
        "creation_timestamp": 1000,
        "tags": [{"key": "tokenmill.fingerprint", "value": "f0"}],
    },
]


class Handler(BaseHTTPRequestHandler):
    """The part of MLflow's REST API that the catalog needs, with one run a page."""

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
        elif address.path == "/api/2.0/mlflow/registered-models/search":
            self.answer({"registered_models": [MODEL]})
        elif address.path == "/api/2.0/mlflow/model-versions/search":
            self.answer({"model_versions": VERSIONS})
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


def test_tables_are_read_page_by_page(server: str, tmp_path: Path) -> None:
    connection = connect(tmp_path / "data", server + "/")
    assert connection.execute("SELECT run_id, run, experiment, tags->>'kind', parent_run_id FROM runs").fetchall() == [
        (f"r{i}", f"run {i}", "quickstart", "model", "r9") for i in range(3)
    ]
    assert connection.execute("SELECT run_id, param, value FROM params").fetchall() == [
        (f"r{i}", "layers", str(i)) for i in range(3)
    ]
    query = "SELECT step, value, latest, epoch_ms(logged_at) FROM metrics WHERE run_id = 'r1'"
    assert connection.execute(query).fetchall() == [(0, None, False, 1000), (10, 3.5, True, 2000)]


def test_states_of_an_experiments_runs(server: str) -> None:
    assert runs.states(server, "quickstart") == [runs.RunState(f"r{i}", "FINISHED", None, None) for i in range(3)]
    assert runs.states(server, "another") == []


def test_run_of_a_clock_that_was_ahead_comes_first(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNS[1]["info"], "start_time", str(int(time.time() * 1000) + 86_400_000))
    assert [state.run_id for state in runs.states(server, "quickstart")] == ["r1", "r0", "r2"]


def test_curves_and_texts_of_one_run(server: str) -> None:
    assert runs.curves(server, "r0") == {"val/loss": [(10, 3.5)]}  # what is no number has no place in a curve
    assert runs.texts(server, "r0", "samples") == {"a.txt": '"samples/a.txt"'}
    with pytest.raises(InputError, match="refused runs/get"):
        runs.curves(server + "/elsewhere", "r0")


def test_requests_carry_the_users_credentials(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_dead_or_wrong_server_is_one_sentence(server: str) -> None:
    with pytest.raises(InputError, match="is it up"):
        runs.read("runs", "http://127.0.0.1:9")
    with connect("nowhere", "http://127.0.0.1:9") as connection, pytest.raises(duckdb.Error) as caught:
        connection.execute("FROM runs").fetchall()
    assert explain_error(caught.value).startswith("The MLflow server at http://127.0.0.1:9 does not answer")
    with pytest.raises(InputError, match="refused experiments/search"):
        runs.read("runs", server + "/elsewhere")


def test_registry_of_a_server(server: str) -> None:
    first, second = registered(server)
    assert (str(first), first.fingerprint, first.aliases, first.history) == ("gpt/1", "f0", (), (1, 2))
    assert (second.version, second.aliases, second.created.timestamp()) == (2, ("champion",), 2.0)
    assert registered(server, "other") == []


def test_loopback_server_is_never_asked_through_a_proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for address in (server, server.replace("127.0.0.1", "localhost")):
        assert runs.read("params", address).num_rows == len(RUNS)
    with pytest.raises(InputError, match="does not answer"):
        runs.read("params", "http://mlflow.invalid")
