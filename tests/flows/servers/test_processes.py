"""Processes of servers: found by number, start time and mark; ended with all that they started, and no others."""

import json
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from flows.servers import processes
from flows.servers.processes import end, end_recorded, find_started, start_recorded
from flows.servers.server import Server
from pipelines.store.processes import ProcessId

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server whose process starts a child in a session of its own."""
    (tmp_path / "parent.py").write_text(PARENT)
    monkeypatch.setattr(processes, "STOPPING", 5)
    server = Server("prefect", tmp_path, 1, ["parent"], {}, api="/api", named_by="PREFECT_API_URL")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / ".tokenmill").mkdir()
    yield server
    end_recorded(server)


def started(server):
    """Start a server; return its process and its child's."""
    start_recorded(server, [socket.create_server(("127.0.0.1", 0))])
    log = wait_until(lambda: server.log.read_text().split())
    return psutil.Process(find_started(server).pid), psutil.Process(int(log[-1]))


def wait_until(found):
    until = time.monotonic() + 30
    while not (value := found()) and time.monotonic() < until:
        time.sleep(0.02)
    return value


def is_gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_started_server_is_found_and_ends_with_its_children(server):
    parent, child = started(server)
    service = find_started(server)
    assert (service.name, service.url, service.ours) == ("prefect", server.url, True)
    end_recorded(server)
    assert is_gone(parent) and is_gone(child)
    assert find_started(server) is None and not server.record.exists()


def test_child_of_killed_server_is_ended(server):
    parent, child = started(server)
    parent.send_signal(signal.SIGKILL)
    assert wait_until(lambda: find_started(server) is None)
    assert not is_gone(child)
    server.record.unlink()  # the mark is enough
    end_recorded(server)
    assert is_gone(child)


def test_process_that_ignores_the_request_is_killed(server, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "STOPPING", 0.2)
    ignoring = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    (tmp_path / "parent.py").write_text(ignoring + PARENT)
    parent, child = started(server)
    end_recorded(server)
    assert wait_until(lambda: is_gone(parent) and is_gone(child))


def test_stranger_with_the_number_of_a_dead_server_is_left_alone(server):
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        now = ProcessId.of(psutil.Process(stranger.pid))
        record = {"pid": stranger.pid, "started": now.started - 60, "url": "http://127.0.0.1:1", "since": "2020-01-01"}
        server.record.write_text(json.dumps(record))
        assert find_started(server) is None
        end_recorded(server)
        end("another mark")
        assert stranger.poll() is None
        server.record.write_text(json.dumps({**record, "started": now.started}))
        assert find_started(server).pid == stranger.pid, "the start time made the difference"
    finally:
        stranger.kill()
        stranger.wait()
