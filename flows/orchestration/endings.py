"""How a run ends that does not end well: Prefect and MLflow learn of runs that failed, were cancelled or died.

A run that can still act tells both itself. A hook of Prefect's tells MLflow of runs that `serve` or a worker saw die.
Of a run that nobody watched, the next run in the same home tells: each holds a lock for as long as it lives.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from filelock import FileLock, Timeout
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Crashed

from flows.home import Home
from pipelines.store.store import Store

DIED = "Its process died; the next run noticed."


SETTLED = timedelta(seconds=30)  # for so long after a run's end, its tasks may yet come up in Prefect's database


GOING_ON = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


_held: list[FileLock] = []


def show_alive(store: Store, flow_run_id: str) -> None:
    """From now on, other processes can tell that this flow run is alive, until this process ends, however it does."""
    lock = store.lock(f"flow-{flow_run_id}")
    lock.acquire()
    _held.append(lock)  # a lock that nobody refers to is let go


def show_ended() -> None:
    """What this process did has ended, and the server knows."""
    while _held:
        lock = _held.pop()
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def crash_dead_runs(store: Store) -> None:
    """Mark as crashed, in Prefect, the flow and task runs whose process is gone; SIGKILL leaves them running."""
    with ExitStack() as locks:
        dead = {}
        for path in store.locks("flow-"):
            with suppress(Timeout):
                locks.enter_context(FileLock(path).acquire(timeout=0))
                dead[UUID(path.stem.removeprefix("flow-"))] = path
        if not dead:
            return
        client = locks.enter_context(get_client(sync_client=True))
        theirs = FlowRunFilter(id=FlowRunFilterId(any_=list(dead)))
        going_on = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=GOING_ON)))
        for task in client.read_task_runs(flow_run_filter=theirs, task_run_filter=going_on):
            client.set_task_run_state(task.id, Crashed(message=DIED), force=True)
        known = {run.id: run.state for run in client.read_flow_runs(flow_run_filter=theirs)}
        for flow_run_id, path in dead.items():
            state = known.get(flow_run_id)
            if state and not state.is_final():
                client.set_flow_run_state(flow_run_id, Crashed(message=DIED), force=True)
            elif not state or datetime.now(UTC) - state.timestamp > SETTLED:
                path.unlink(missing_ok=True)


def tell_mlflow(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Prefect's hook for failure, crash and cancellation: MLflow's runs of this flow run end too, and say why."""
    from mlflow.tracking import MlflowClient

    from flows.tracking.step_run import ENDED

    client = MlflowClient(Home.from_environment().mlflow_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (parent, *_) = client.search_runs(experiments, f"tags.`prefect.flow_run_id` = '{flow_run.id}'") or [None]
    if not parent:
        return
    children = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' and attributes.status = 'RUNNING'"
    for run in [parent, *client.search_runs(experiments, children)]:
        client.set_tag(run.info.run_id, ENDED, f"{state.name}: {state.message}"[:500])
        if run.info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "FAILED" if state.is_failed() else "KILLED")
