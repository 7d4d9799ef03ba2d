"""Endings: the locks that dead flow runs leave behind."""

from datetime import UTC, datetime, timedelta
from unittest.mock import MagicMock
from uuid import uuid4

import pytest
from prefect.states import Completed, Running

from flows.orchestration import endings
from pipelines.store.store import Store


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
