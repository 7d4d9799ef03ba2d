"""Runs that died are recorded in Prefect by the next run, also late tasks; their locks then go."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from unittest.mock import MagicMock
from uuid import uuid4

import httpx
import pytest
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Completed, Crashed, Failed, Running

from flows.orchestration import endings
from pipelines.store.store import Store


class Server:
    """Prefect's server, which knows one flow run and its tasks."""

    def __init__(self, flow_run):
        self.flow_run = flow_run
        self.tasks = []

    def read_task_runs(self, **filters):
        return [task for task in self.tasks if not task.state.is_final()]

    def read_flow_runs(self, **filters):
        return [self.flow_run]

    def set_task_run_state(self, id, state, force):
        next(task for task in self.tasks if task.id == id).state = state

    def set_flow_run_state(self, id, state, force):
        self.flow_run.state = state


def running():
    return SimpleNamespace(id=uuid4(), state=Running(timestamp=datetime.now(UTC)))


def test_late_task_of_a_killed_run_is_crashed_at_the_end(monkeypatch, tmp_path):
    store, server = Store(tmp_path), Server(running())

    @contextmanager
    def client(sync_client):
        yield server

    monkeypatch.setattr(endings, "get_client", client)
    with store.lock(f"flow-{server.flow_run.id}"):
        pass  # its process was killed
    server.tasks = [running()]
    with endings.living_run(store, str(uuid4())):
        assert [each.state.type for each in (server.flow_run, *server.tasks)] == [Crashed().type] * 2
        server.tasks.append(running())
    endings.release_liveness_locks()
    assert [task.state.type for task in server.tasks] == [Crashed().type] * 2


@pytest.mark.parametrize(
    ("state", "status", "head"),
    [(Failed(message="bad [x](y)"), "FAILED", "**Failed:** bad"), (Crashed(message=None), "KILLED", "**Stopped:** C")],
)
def test_hook_describes_why_runs_ended_that_could_not(tmp_path, monkeypatch, state, status, head):
    def run(run_id, status, **tags):
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id, status=status), data=SimpleNamespace(tags=tags))

    parent = run("parent", "RUNNING", **{"mlflow.note.content": "the rest"})
    client = MagicMock()
    client.search_runs.side_effect = [[parent], [run("done", "FINISHED"), run("child", "RUNNING")]]
    monkeypatch.setattr("mlflow.tracking.MlflowClient", lambda uri: client)
    monkeypatch.setattr(endings, "ensure_mlflow_database", lambda uri, artifacts: None)
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    endings.end_mlflow_runs(None, SimpleNamespace(id=uuid4()), state)
    notes = {call.args[0]: call.args[2] for call in client.set_tag.mock_calls if "note" in call.args[1]}
    assert notes.keys() == {"parent", "child"} and all(note.startswith(head) for note in notes.values())
    assert notes["parent"].endswith("\n\nthe rest") and "[x](" not in notes["child"]
    assert [call.args for call in client.set_terminated.mock_calls] == [("parent", status), ("child", status)]


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """sweep(state) returns whether the lock of a dead flow run in this state of Prefect is removed."""
    store = Store(tmp_path)

    def remove(state):
        run = MagicMock(id=uuid4(), state=state)
        client = MagicMock()
        client.__enter__.return_value = client
        client.read_task_runs.return_value = []
        client.read_flow_runs.return_value = [run] if state else []
        monkeypatch.setattr(endings, "get_client", lambda **_: client)
        with store.lock(f"flow-{run.id}"):
            pass
        assert store.locks("flow-")
        endings.crash_dead_runs(store)
        gone = not store.locks("flow-")
        for path in store.locks("flow-"):
            path.unlink()
        return gone

    return remove


@pytest.mark.parametrize(
    ("ended", "gone"), [(timedelta(days=-1), True), (timedelta(seconds=-1), False), (timedelta(days=365), True)]
)
def test_lock_goes_once_its_run_has_settled(sweep, ended, gone):
    assert sweep(Completed(timestamp=datetime.now(UTC) + ended)) == gone


def test_lock_of_an_unfinished_run_stays_until_prefect_knows(sweep):
    assert not sweep(Running()) and sweep(None)


def test_dead_run_that_prefect_cannot_read_stops_no_other(tmp_path, monkeypatch, capsys):
    store, readable, unreadable = Store(tmp_path), running(), uuid4()
    failure = httpx.Response(500, request=httpx.Request("POST", "http://127.0.0.1:9/api/flow_runs/filter"))

    class Failing(Server):
        def read_flow_runs(self, flow_run_filter):
            if flow_run_filter.id.any_ == [unreadable]:
                raise PrefectHTTPStatusError.from_httpx_error(
                    httpx.HTTPStatusError("500", request=failure.request, response=failure)
                )
            return [self.flow_run]

    @contextmanager
    def client(sync_client):
        yield Failing(readable)

    monkeypatch.setattr(endings, "get_client", client)
    for flow_run_id in (readable.id, unreadable):
        with store.lock(f"flow-{flow_run_id}"):
            pass
    endings.crash_dead_runs(store)
    assert readable.state.type == Crashed().type
    assert capsys.readouterr().err.count(f"cannot read its flow run {unreadable}") == 1
    assert [path.stem for path in store.locks("flow-")] == [f"flow-{readable.id}"]
