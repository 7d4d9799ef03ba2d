"""Runs that do not end well: failed, cancelled and dead runs are recorded in Prefect and MLflow.

A run that can still act records its own end. A hook of Prefect records in MLflow the runs that `serve` or a worker saw
die. The next run in the same home records the others: each run holds a lock for as long as its process lives.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from filelock import FileLock, Timeout
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Crashed

from flows.console import warn
from flows.home import Home
from flows.servers.mlflow_database import ensure_mlflow_database
from pipelines.store.step import Stopped
from pipelines.store.store import Store

DIED = "Its process died; the next run noticed."
SETTLED = timedelta(seconds=30)  # after a run's end, in which its tasks may still appear in Prefect's database
UNFINISHED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
_held: list[FileLock] = []


@contextmanager
def living_run(store: Store, flow_run_id: str) -> Iterator[None]:
    """Show other processes that this flow run is alive, until this process ends, and crash the runs that are dead.

    Prefect's server records a task up to some seconds after the task's start. So a task of a run that was killed just
    now may appear after the first look.
    """
    lock = store.lock(f"flow-{flow_run_id}")
    lock.acquire()
    _held.append(lock)  # a lock without a reference is released
    crash_dead_runs(store)
    yield
    crash_dead_runs(store)


def release_liveness_locks() -> None:
    """Release the locks of this process's flow runs, whose ends Prefect's server knows."""
    while _held:
        lock = _held.pop()
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def crash_dead_runs(store: Store) -> None:
    """Mark flow and task runs in Prefect as crashed if their process is dead; SIGKILL leaves them running.

    A run that Prefect's server cannot read is left as it is: no other run depends on it.
    """
    with ExitStack() as locks:
        dead = {}
        for path in store.locks("flow-"):
            with suppress(Timeout):
                locks.enter_context(FileLock(path).acquire(timeout=0))
                dead[UUID(path.stem.removeprefix("flow-"))] = path
        client = locks.enter_context(get_client(sync_client=True)) if dead else None
        for flow_run_id, path in dead.items():
            try:
                if client and _crash(client, flow_run_id):
                    path.unlink(missing_ok=True)
            except PrefectHTTPStatusError as error:
                if error.response.status_code < 500:
                    raise
                warn(f"Prefect's server cannot read its flow run {flow_run_id}, which died; it stays as it is there.")
                path.unlink(missing_ok=True)


def _crash(client: SyncPrefectClient, flow_run_id: UUID) -> bool:
    """Crash a dead flow run and its tasks; return whether nothing of it can still appear."""
    theirs = FlowRunFilter.model_validate({"id": {"any_": [flow_run_id]}})
    unfinished = TaskRunFilter.model_validate({"state": {"type": {"any_": UNFINISHED}}})
    for task in client.read_task_runs(flow_run_filter=theirs, task_run_filter=unfinished):
        client.set_task_run_state(task.id, Crashed(message=DIED), force=True)
    state = next((run.state for run in client.read_flow_runs(flow_run_filter=theirs)), None)
    if state and not state.is_final():
        client.set_flow_run_state(flow_run_id, Crashed(message=DIED), force=True)
        return False
    return not state or abs(datetime.now(UTC) - state.timestamp) > SETTLED  # a clock may have been ahead


def end_mlflow_runs(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """End MLflow's runs of a flow run, with the reason. A hook of Prefect for failure, crash and cancellation."""
    from mlflow.tracking import MlflowClient
    from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

    from flows.tracking.step_run import end_run

    home = Home.from_environment()
    ensure_mlflow_database(home.mlflow_uri, home.artifacts)  # or the client would make it in place
    client = MlflowClient(home.mlflow_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (parent, *_) = client.search_runs(experiments, f"tags.`prefect.flow_run_id` = '{flow_run.id}'") or [None]
    if not parent:
        return
    reason = state.message or str(state.name)
    error = RuntimeError(reason) if state.is_failed() else Stopped(reason)
    for run in [parent, *client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")]:
        if run.info.status == "RUNNING":  # it has not recorded its own end
            end_run(client, run.info.run_id, error, run.data.tags.get(MLFLOW_RUN_NOTE, ""))
