"""The process behind `tokenmill schedule`: Prefect's runner, which executes our flows and nothing else.

Prefect's own starts `python -m prefect.engine`, which loads the flow from the entry point, storage or pull steps that
the database names. This one starts `flows.schedules.served_run` with the flow that it was given.
"""

import asyncio
import logging
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pkgutil import resolve_name
from typing import Any, Self
from uuid import UUID

from prefect import Flow
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.runner._starter_engine import EngineCommandStarter
from prefect.states import Cancelled

from flows.console import say
from pipelines.numbers import counted

WAITS = "AwaitingConcurrencySlot"  # the name of the state of runs that wait until another one has ended
STILL_RUNNING = "It was due while another run of the same deployment ran or waited."

logging.getLogger("prefect.runner.state_proposer").setLevel(logging.WARNING)  # it logs each run that is not due yet


class OwnRunner(Runner):
    """A runner of deployments whose flows it knows by itself."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._own: dict[UUID, RunnerDeployment] = {}
        self._dropping: set[UUID] = set()

    def add(self, deployment: RunnerDeployment, drop: bool = False) -> None:
        """Register a deployment with Prefect's server, and serve it.

        Args:
            deployment: a deployment of one run at a time.
            drop: whether a run that is due while another one runs is dropped; else it waits.
        """
        deployment.work_pool_name = None  # else one that `prefect deploy` set would remain
        identifier: Any = self.add_deployment(deployment)
        self._own[identifier] = deployment
        if drop:
            self._dropping.add(identifier)

    async def __aenter__(self) -> Self:
        """Start everything, and replace what decides which process is started and whose hooks are called."""
        await super().__aenter__()
        assert self._hook_runner and hasattr(self._hook_runner, "_resolve_flow")
        assert hasattr(self._scheduled_run_poller, "_resolve_starter")
        assert hasattr(self._scheduled_run_poller, "stopping")
        self._hook_runner._resolve_flow = self._flow
        self._scheduled_run_poller._resolve_starter = self._starter
        self._propose = self._state_proposer.propose_pending
        self._state_proposer.propose_pending = self._begin_or_drop  # type: ignore[method-assign]
        return self

    async def _begin_or_drop(self, flow_run: FlowRun) -> bool:
        """Return whether a run may begin. One that the schedule made is dropped if another one runs or waits."""
        if not (flow_run.auto_scheduled and flow_run.deployment_id in self._dropping):
            return await self._propose(flow_run)
        waits = {"state": {"name": {"any_": [WAITS]}}, "deployment_id": {"any_": [flow_run.deployment_id]}}
        others = FlowRunFilter.model_validate(waits)
        if not await self._client.read_flow_runs(flow_run_filter=others, limit=1):
            if await self._propose(flow_run):
                return True
            state = (await self._client.read_flow_run(flow_run.id)).state
            if not state or state.name != WAITS:
                return False
        await self._client.set_flow_run_state(flow_run.id, Cancelled(message=STILL_RUNNING))
        return False

    async def end_runs(self, is_hurried: Callable[[], bool]) -> None:
        """Start no more runs, ask those in flight to save and end, and wait until they have.

        Args:
            is_hurried: returns whether they have to end now, whatever they have saved.
        """
        self._scheduled_run_poller.stopping = True
        asked: set[UUID] = set()
        processes = self._process_manager._process_map
        while alive := {each: handle for each, handle in processes.items() if handle.is_alive()}:
            if new := alive.keys() - asked:
                say(f"Ending {counted(len(alive), 'run')} in flight and saving the work; once more ends all at once.")
            for each, handle in alive.items():
                with suppress(ProcessLookupError):
                    if is_hurried():
                        handle.hard_kill()
                    elif each in new:
                        handle.graceful_kill()
            asked |= new
            await asyncio.sleep(0.2)

    def _starter(self, flow_run: FlowRun) -> EngineCommandStarter:
        deployment = self._deployment(flow_run)
        command = [sys.executable, "-m", "flows.schedules.served_run", deployment.name, str(deployment.entrypoint)]
        return EngineCommandStarter(
            command=shlex.join(command),
            deployment_name=deployment.name,
            control_channel=self._control_channel,
            isolate_process_group=True,  # else Ctrl-C would reach the run, and then `end_runs` as a second signal
        )

    async def _flow(self, flow_run: FlowRun) -> Flow[..., Any]:
        flow: Flow[..., Any] = resolve_name(str(self._deployment(flow_run).entrypoint))
        return flow

    def _deployment(self, flow_run: FlowRun) -> RunnerDeployment:
        if flow_run.deployment_id not in self._own:
            raise RuntimeError(f"Flow run {flow_run.id} belongs to no deployment that is served here.")
        return self._own[flow_run.deployment_id]
