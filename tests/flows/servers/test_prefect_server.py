"""The Prefect server of a run: a named one, the one of `up`, or a temporary one."""

import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from flows.servers.health import answers
from flows.servers.prefect_server import prefect_server
from flows.servers.stack import Stack
from pipelines.errors import InputError

KILLED_RUN = """
import sys, time
from flows.servers.prefect_server import prefect_server
with prefect_server(sys.argv[1]) as url:
    print(url, flush=True)
    time.sleep(600)
"""


def test_flow_runs_on_a_temporary_server(used_home):
    assert used_home.output.splitlines() == ["choice temporary", "statuses 200 401 403 403", "sum 380"]


def test_temporary_server_ends_with_a_killed_run(used_home, environment):
    command = [sys.executable, "-c", KILLED_RUN, str(used_home.path)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    url = run.stdout.readline().strip()
    assert answers(url)
    run.kill()
    run.wait()
    until = time.monotonic() + 30
    while answers(url) and time.monotonic() < until:
        time.sleep(0.1)
    assert not answers(url)


def test_named_server_that_does_not_answer_is_an_error(tmp_path, monkeypatch, free_port):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    services = Stack(tmp_path, free_port(), free_port()).up()
    assert [(service.url, service.running, service.ours) for service in services] == [
        ("http://127.0.0.1:9/api", False, False),
        ("http://127.0.0.1:9", False, False),
    ]
    choices = []
    with pytest.raises(InputError, match=r"PREFECT_API_URL=http://127\.0\.0\.1:9/api"):
        prefect_server(tmp_path, choices.append).__enter__()
    assert choices == ["named"]


def test_named_server_is_used_and_left_alone(tmp_path, monkeypatch, serve, free_port):
    received = []

    class Locked(BaseHTTPRequestHandler):
        """A server that asks for a login; it runs all the same."""

        def do_GET(self):
            received.append(self.headers["Authorization"])
            self.send_error(401)

    port = serve(Locked).server_port
    monkeypatch.setenv("PREFECT_API_URL", url := f"http://127.0.0.1:{port}/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.delenv("PREFECT_HOME")
    for stack in (Stack(tmp_path, free_port(), free_port()), Stack(tmp_path, port, port)):
        assert [(service.running, service.ours) for service in stack.up()] == [(True, False)] * 2
    choices = []
    with prefect_server(tmp_path, choices.append) as named:
        assert named == url == os.environ["PREFECT_API_URL"]
        assert Path(os.environ["PREFECT_HOME"]).is_dir(), "Prefect would complain that it cannot make it"
        assert "PREFECT_API_AUTH_STRING" not in os.environ
    assert choices == ["named"]
    assert os.environ["PREFECT_API_URL"] == url
    assert set(received) == {None}, "the home's secret is for its own servers"
    assert not (tmp_path / ".tokenmill" / "secret").exists()
