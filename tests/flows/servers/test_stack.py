"""The local stack: what `up` starts it finds again and ends, whatever happened meanwhile; and nothing else."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from flows import cli
from flows.home import NO_TELEMETRY
from flows.servers.mlflow_database import ensure_mlflow_database
from flows.servers.prefect_server import prefect_server
from flows.servers.stack import Service, Stack, pages
from pipelines.errors import InputError


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "TOKENMILL_PREFECT_PORT", "TOKENMILL_MLFLOW_PORT"):
        monkeypatch.delenv(name, raising=False)
    # What is set here, `prefect_server` sets otherwise; it is put back afterwards.
    for name in (*NO_TELEMETRY, "PREFECT_HOME"):
        monkeypatch.setenv(name, NO_TELEMETRY.get(name, str(tmp_path / "prefect")))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A new MLflow database, opened by several processes at once, where a killed one has left half of its own."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    path.with_name(".mlflow.db.new").write_bytes(b"SQLite format 3\0" + bytes(5000))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=ensure_mlflow_database, args=(f"sqlite:///{path}",)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    return path


RUN = """
import sys
from flows.servers.prefect_server import prefect_server
with prefect_server(sys.argv[1], lambda choice: print("choice", choice)):
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    double = task(lambda x: 2 * x, name="double", cache_policy=NO_CACHE, persist_result=False)
    @flow(name="doubles", log_prints=False)
    def doubles():
        return double.map(range(20)).result()
    print("sum", sum(doubles()))
"""

LOG_ARTIFACT = """
import sys
from pathlib import Path
from flows.servers.mlflow_database import ensure_mlflow_database
home = Path(sys.argv[1])
uri = f"sqlite:///{home}/mlruns/mlflow.db"
ensure_mlflow_database(uri, home / "mlruns" / "artifacts")
from mlflow import MlflowClient
client = MlflowClient(uri)
run = client.create_run(client.create_experiment("here", (home / "mlruns/artifacts/here").as_uri()))
client.log_text(run.info.run_id, "In the beginning", "sample.txt")
print("run", run.info.run_id)
"""


def test_the_life_of_a_stack(tmp_path):
    home = tmp_path
    first = python(RUN, home)  # a run with no server, on a new database
    assert "choice temporary" in first
    assert "sum 380" in first
    run_id = re.search(r"run (\w+)", python(LOG_ARTIFACT, home)).group(1)

    stack = Stack(home, free_port(), free_port())
    assert [(service.running, service.ours) for service in stack.status()] == [(False, False)] * 2
    prefect, mlflow = stack.up()
    try:
        assert [service.name for service in (prefect, mlflow)] == ["prefect", "mlflow"]
        assert prefect.running and prefect.ours and prefect.since and prefect.log.exists()
        assert mlflow.running and mlflow.ours and mlflow.since and mlflow.log.exists()
        assert stack.up() == [prefect, mlflow]
        assert Stack(home, free_port(), free_port()).up() == [prefect, mlflow], "what runs is found on whatever port"

        # What the run did through its own server is all there, and so is what MLflow was told with no server.
        assert count(prefect.url, "flow_runs", {"flows": {"name": {"any_": ["doubles"]}}}) == 1
        assert count(prefect.url, "task_runs", {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}) == 20
        assert get(f"{mlflow.url}/get-artifact?path=sample.txt&run_uuid={run_id}") == b"In the beginning"
        assert status(f"{mlflow.url}/", {"Host": "evil.example"}) == 403

        second = python(RUN, home)
        assert "choice up" in second
        assert count(prefect.url, "flow_runs", {}) == 2

        # A server that is killed leaves a child behind, which holds the port; `up` starts afresh all the same.
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


def test_down_ends_nothing_that_up_did_not_start(tmp_path):
    """A record whose process id has gone to another process, here one that leads a group as a server would."""
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        stack = Stack(tmp_path, free_port(), free_port())
        record = tmp_path / ".tokenmill" / "prefect.json"
        record.parent.mkdir()
        told = {"pid": stranger.pid, "url": "http://127.0.0.1:1", "since": "2020-01-01", "log": ""}
        record.write_text(json.dumps(told))
        assert not any(service.running or service.ours for service in stack.status())
        assert stack.down() == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}'])
def test_a_damaged_record_of_a_dead_server_is_passed_over(tmp_path, content):
    record = tmp_path / ".tokenmill" / "mlflow.json"
    record.parent.mkdir()
    record.write_text(content)
    stack = Stack(tmp_path, free_port(), free_port())
    assert stack.down() == []
    assert not record.exists()


@pytest.mark.parametrize("variable", ["TOKENMILL_PREFECT_PORT", "TOKENMILL_MLFLOW_PORT"])
def test_a_taken_port_is_named_with_the_variable_that_changes_it(tmp_path, monkeypatch, variable):
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
        assert stack.down() == [], "nor has the other server been started"


@pytest.mark.parametrize("port", ["", "http", "0", "65536", "-1", "²"])
def test_what_is_no_port_is_refused(tmp_path, monkeypatch, port):
    monkeypatch.setenv("TOKENMILL_PREFECT_PORT", port)
    with pytest.raises(InputError, match=r"TOKENMILL_PREFECT_PORT.*1 to 65535"):
        Stack(tmp_path)


def test_servers_named_by_the_environment_are_used_not_started(tmp_path, monkeypatch):
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


def test_a_server_named_by_the_environment_is_asked_and_left_alone(tmp_path, monkeypatch, serve):
    class Locked(BaseHTTPRequestHandler):
        """A server that wants a login is there all the same."""

        def do_GET(self):
            self.send_error(401)

    httpd = serve(Locked)
    monkeypatch.setenv("PREFECT_API_URL", url := f"http://127.0.0.1:{httpd.server_port}/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{httpd.server_port}")
    monkeypatch.delenv("PREFECT_HOME")
    assert [(s.running, s.ours) for s in Stack(tmp_path, free_port(), free_port()).up()] == [(True, False)] * 2
    # Even at the very port that `up` would take.
    assert [(s.running, s.ours) for s in Stack(tmp_path, httpd.server_port, httpd.server_port).up()] == [
        (True, False)
    ] * 2
    choices = []
    with prefect_server(tmp_path, choices.append) as named:
        assert named == url == os.environ["PREFECT_API_URL"]
        assert Path(os.environ["PREFECT_HOME"]).is_dir(), "Prefect would complain that it cannot make it"
    assert choices == ["named"]
    assert os.environ["PREFECT_API_URL"] == url
    assert os.environ["DO_NOT_TRACK"] == "true"


def test_a_temporary_server_dies_with_a_run_that_is_killed(tmp_path):
    code = "import sys, time\nfrom flows.servers.prefect_server import prefect_server\nwith prefect_server(sys.argv[1]) as url:\n"
    code += "    print(url, flush=True)\n    time.sleep(600)"
    run = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True, env=environment())
    url = run.stdout.readline().strip()
    assert answers(url)
    run.kill()
    run.wait()
    until = time.monotonic() + 30
    while answers(url) and time.monotonic() < until:
        time.sleep(0.1)
    assert not answers(url)


def test_many_processes_may_open_a_new_mlflow_database_at_once(database):
    with sqlite3.connect(database) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT name FROM experiments").fetchall() == [("Default",)]
        (location,) = connection.execute("SELECT artifact_location FROM experiments").fetchone()
    assert str(database.parent / "artifacts") in location
    assert not database.with_name(".mlflow.db.new").exists()


def test_an_mlflow_database_that_cannot_be_upgraded_is_kept(tmp_path, database):
    path = tmp_path / "mlflow.db"
    shutil.copy(database, path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'fromthefuture'")
    with pytest.raises(InputError, match=r"another version.*before-upgrade"):
        ensure_mlflow_database(f"sqlite:///{path}")
    with sqlite3.connect(tmp_path / "mlflow.db.before-upgrade") as connection:
        assert connection.execute("SELECT count(*) FROM experiments").fetchone() == (1,)


def test_databases_of_servers_are_left_to_their_owners():
    ensure_mlflow_database("postgresql://nobody@127.0.0.1:9/nothing")
    ensure_mlflow_database("http://127.0.0.1:9")


def environment():
    kept = {name: value for name, value in os.environ.items() if name != "PREFECT_HOME"}
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[3])}


def python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url, headers=None, data=None):
    with urllib.request.urlopen(urllib.request.Request(url, data, headers or {}), timeout=20) as response:
        return response.read()


def count(url, what, query):
    return json.loads(get(f"{url}/api/{what}/count", {"Content-Type": "application/json"}, json.dumps(query).encode()))


def status(url, headers):
    try:
        get(url, headers)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def answers(url):
    try:
        get(f"{url}/health")
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("content", "is_page"), [("text/html", True), ("application/json", False)])
def test_links_lead_to_pages_and_else_to_where_up_will_show_them(tmp_path, monkeypatch, serve, content, is_page):
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


def test_a_home_that_cannot_be_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file" / "home"):
        for use in (Stack(home).up, Stack(home).down, prefect_server(home).__enter__):
            with pytest.raises(InputError, match=r"cannot be used .* set TOKENMILL_HOME to another folder"):
                use()


def test_an_address_is_never_broken(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    since, log = datetime(2026, 1, 1, tzinfo=UTC), Path("/a/very/long/path/to/some/log")
    cli._show_services([Service("prefect", "http://127.0.0.1:24200", True, True, 123456, since, log)])
    assert "http://127.0.0.1:24200" in capsys.readouterr().out
