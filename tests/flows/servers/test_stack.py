"""The local stack: `up` starts servers, finds them again and `down` ends them, whatever happened between."""

import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.servers.health import answers
from flows.servers.mlflow_database import ensure_mlflow_database
from flows.servers.prefect_server import prefect_server
from flows.servers.processes import Service
from flows.servers.stack import Stack, pages
from pipelines.errors import InputError
from pipelines.store.processes import ProcessId


def test_stack_from_first_up_to_down(used_home, free_port):
    home = used_home.path
    run_id = log_artifact(home)
    stack = Stack(home, free_port(), free_port())
    assert [(service.running, service.ours) for service in stack.status()] == [(False, False)] * 2
    prefect, mlflow = stack.up()
    try:
        assert [service.name for service in (prefect, mlflow)] == ["prefect", "mlflow"]
        assert prefect.running and prefect.ours and prefect.since and prefect.log.exists()
        assert mlflow.running and mlflow.ours and mlflow.since and mlflow.log.exists()
        assert stack.up() == [prefect, mlflow]
        assert Stack(home, free_port(), free_port()).up() == [prefect, mlflow], "they are found on whatever port"

        # The servers show what a run did through a temporary server, and what MLflow stored without a server.
        login = {"Authorization": f"Bearer {stack.servers[0].secret.value}"}
        count = partial(counted, prefect.url, login)
        assert count("flow_runs", {"flows": {"name": {"any_": ["doubles"]}}}) == 1
        assert count("task_runs", {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}) == 20
        assert get(f"{mlflow.url}/get-artifact?path=sample.txt&run_uuid={run_id}", login) == b"In the beginning"

        choices = []
        with prefect_server(home, choices.append) as url:
            flow = json.loads(post(f"{url}/flows/", login, {"name": "by hand"}))
            post(f"{url}/flow_runs/", login, {"flow_id": flow["id"]})
        assert choices == ["up"] and count("flow_runs", {}) == 2

        # A server of an older version asks for no secret.
        record = json.loads(stack.servers[0].record.read_text())
        stack.servers[0].record.write_text(json.dumps({**record, "secret": None}))
        with pytest.raises(InputError, match=r"prefect server at .* no secret .*tokenmill down.*tokenmill up"):
            stack.up()
        stack.servers[0].record.write_text(json.dumps(record))

        # A killed server leaves a child behind, which holds the port; `up` starts a new server all the same.
        os.kill(mlflow.pid, signal.SIGKILL)
        os.waitpid(mlflow.pid, 0)
        assert [service.running for service in stack.status()] == [True, False]
        again = stack.up()
        assert again[0] == prefect
        assert again[1].running and again[1].pid != mlflow.pid
    finally:
        ended = stack.down()
    assert [service.name for service in ended] == ["prefect", "mlflow"]
    assert [service.running for service in stack.status()] == [False, False]
    assert not answers(prefect.url) and not answers(mlflow.url)
    assert stack.down() == []


def test_secret_that_others_may_read_stops_all_but_down(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    stack = Stack(tmp_path)
    secret = stack.servers[0].secret
    (tmp_path / ".tokenmill" / "secret").chmod(0o644)
    record = {**ProcessId.of_this()._asdict(), "url": "http://127.0.0.1:9", "since": "2026-01-01", "secret": secret.id}
    stack.servers[0].record.write_text(json.dumps(record))
    for use in (stack.up, stack.status, stack.links, stack.environment, prefect_server(tmp_path).__enter__):
        with pytest.raises(InputError, match=r"may be read by others.*tokenmill down"):
            use()
    assert [service.name for service in stack.down()] == ["prefect"]


def test_env_without_servers_says_so_and_sets_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["env"])
    assert done.stdout == "" and done.exit_code == 0
    for name in ("prefect", "mlflow"):
        assert f"The {name} server does not run" in done.stderr
    assert done.stderr.count("`tokenmill up`") == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1, "url": "http://127.0.0.1:1"}'])
def test_damaged_record_is_ignored(tmp_path, free_port, content):
    record = tmp_path / ".tokenmill" / "mlflow.json"
    record.parent.mkdir()
    record.write_text(content)
    stack = Stack(tmp_path, free_port(), free_port())
    assert not any(service.running or service.ours for service in stack.status())
    assert stack.down() == []
    assert not record.exists()


@pytest.mark.parametrize("variable", ["TOKENMILL_PREFECT_PORT", "TOKENMILL_MLFLOW_PORT"])
def test_taken_port_is_an_error_that_names_its_variable(tmp_path, monkeypatch, free_port, variable):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("TOKENMILL_PREFECT_PORT", str(free_port()))
        monkeypatch.setenv("TOKENMILL_MLFLOW_PORT", str(free_port()))
        monkeypatch.setenv(variable, str(port))
        stack = Stack(tmp_path)
        with pytest.raises(InputError, match=f"{port}.*{variable}"):
            stack.up()
        assert stack.down() == [], "the other server was not started either"


@pytest.mark.parametrize(("content", "is_page"), [("text/html", True), ("application/json", False)])
def test_links_lead_to_pages_or_to_the_ports_of_up(tmp_path, monkeypatch, serve, content, is_page):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", content)
            self.end_headers()

    monkeypatch.setenv("TOKENMILL_MLFLOW_PORT", "5055")
    named = f"http://127.0.0.1:{serve(Handler).server_port}"
    monkeypatch.setenv("PREFECT_API_URL", f"{named}/api".replace("//", "//ada:s3same@"))
    found = pages(tmp_path)
    assert found == {"prefect": named if is_page else "http://127.0.0.1:4200", "mlflow": "http://127.0.0.1:5055"}


def test_foreground_ends_when_a_server_died_and_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    started = Service("mlflow", "http://127.0.0.1:9", True, True, 1, datetime.now(UTC), tmp_path / "mlflow.log")
    monkeypatch.setattr(Stack, "up", lambda stack: [started])
    done = CliRunner().invoke(app, ["up", "--foreground"])
    assert isinstance(done.exception, InputError) and "mlflow.log" in str(done.exception)


def test_addresses_are_never_broken(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    since, log = datetime(2026, 1, 1, tzinfo=UTC), Path("/a/very/long/path/to/some/log")
    service = Service("prefect", "http://127.0.0.1:24200", True, True, 123456, since, log)
    monkeypatch.setattr(Stack, "status", lambda stack: [service])
    assert "http://127.0.0.1:24200" in CliRunner().invoke(app, ["status"]).output


def log_artifact(home):
    """Log a text to a new run without a server; return the run's id."""
    from mlflow import MlflowClient

    uri, artifacts = f"sqlite:///{home}/mlruns/mlflow.db", home / "mlruns" / "artifacts"
    ensure_mlflow_database(uri, artifacts)
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("here", (artifacts / "here").as_uri()))
    client.log_text(run.info.run_id, "In the beginning", "sample.txt")
    return run.info.run_id


def get(url, headers=None, data=None):
    request = urllib.request.Request(url, data, headers or {})
    for wait in (1, 2, 4, None):
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE or not wait:  # Prefect's answer while its SQLite is busy
                raise
            time.sleep(wait)
    return None


def counted(url, login, what, query):
    return json.loads(post(f"{url}/api/{what}/count", login, query))


def post(url, login, value):
    return get(url, {"Content-Type": "application/json", **login}, json.dumps(value).encode())
