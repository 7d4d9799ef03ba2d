"""Homes, ports and an environment for tests of servers."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

RUN = """
import os, sys, urllib.error, urllib.request
from flows.servers.prefect_server import prefect_server
def status(url, headers):
    try:
        return urllib.request.urlopen(urllib.request.Request(url, b"{}", headers), timeout=60).status
    except urllib.error.HTTPError as error:
        return error.code
with prefect_server(sys.argv[1], lambda choice: print("choice", choice)) as url:
    login = {"Authorization": "Bearer " + os.environ["PREFECT_API_AUTH_STRING"]}
    count, json = url + "/flows/count", {"Content-Type": "application/json"}
    foreign = [{"Host": "evil.example"}, {"Origin": "http://localhost:8931"}]
    print("statuses", *(status(count, json | each) for each in (login, {}, *(login | each for each in foreign))))
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    double = task(lambda x: 2 * x, name="double", cache_policy=NO_CACHE, persist_result=False)
    @flow(name="doubles", flow_run_name="eager-otter", log_prints=False)
    def doubles():
        return double.map(range(20)).result()
    print("sum", sum(doubles()))
"""


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "TOKENMILL_PREFECT_PORT", "TOKENMILL_MLFLOW_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))  # `prefect_server` sets it; it is restored afterwards


@pytest.fixture(scope="session")
def free_port():
    """Return a function that returns a free port."""

    def find():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture(scope="session")
def environment():
    """The environment of a program that uses this code and no server but its own."""
    names = ("PREFECT_HOME", "PREFECT_API_URL", "MLFLOW_TRACKING_URI")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    nobody = {"http_proxy": "http://127.0.0.1:9"}  # a proxy must not be asked for an address of this machine
    return {**kept, **nobody, "PYTHONPATH": str(Path(__file__).parents[3])}


@pytest.fixture(scope="session")
def used_home(tmp_path_factory, environment):
    """A home where a flow of 20 tasks ran with a temporary server, on a new database, and what the program printed."""
    path = tmp_path_factory.mktemp("home")
    command = [sys.executable, "-c", RUN, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return SimpleNamespace(path=path, output=done.stdout)
