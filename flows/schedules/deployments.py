"""Scheduled deployments: flows of `configs/schedules.toml` that run at their times or from Prefect's UI.

`tokenmill schedule` serves them. `python -m flows.schedules` writes them as `prefect.yaml`, for Prefect's work pools.
"""

from __future__ import annotations

import asyncio
import signal
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, Self
from zoneinfo import ZoneInfo

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError, field_validator, model_validator

from flows.console import say, warn
from flows.orchestration.signals import end_on_second_signal
from flows.servers.health import LOOPBACK
from flows.servers.prefect_server import prefect_server
from flows.servers.processes import find_started
from flows.servers.stack import Stack, pages
from gpt.config import Config
from pipelines.config import SHIPPED, explain, load_config
from pipelines.errors import InputError, did_you_mean
from pipelines.store.manifest import NAME

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun
    from prefect.deployments.runner import RunnerDeployment

    from flows.schedules.runner import OwnRunner

Flows = Mapping[str, "Flow[..., Any]"]

ONE_AT_A_TIME = {"limit": 1, "collision_strategy": "ENQUEUE"}
"""Prefect's limit of a deployment. It cannot tell people's runs from scheduled ones, which `OwnRunner` drops."""

SECONDS_TO_END = 10.0
"""Seconds in which a served runner may end cleanly, for which Prefect's server has to answer."""


class Schedule(Config):
    """A deployment: a flow, its parameters and its times. Without times, only people start it."""

    flow: str
    """The flow: run, evaluate, housekeeping, or another of `tokenmill`'s."""
    config: str | None = None
    """The run's TOML file, if the flow takes one; relative to this file."""
    set: tuple[str, ...] = ()
    """Changes to that file, `section.key=value` each."""
    parameters: dict[str, Any] = {}
    """The flow's other parameters."""
    cron: str | None = None
    """The times, as a cron expression: `0 3 * * *` is every night at 3."""
    interval: timedelta | None = Field(None, gt=timedelta(0))
    """The time between runs: seconds, or an ISO 8601 duration such as `PT6H`."""
    rrule: str | None = None
    """The times, as an iCalendar rule: `FREQ=WEEKLY;BYDAY=MO;BYHOUR=3`."""
    timezone: str = "UTC"
    """The time zone of the times, such as `Europe/Vienna`."""
    collision: Literal["cancel_new", "enqueue"] = "cancel_new"
    """A run that is due while another one runs is dropped, or runs after it. A run that a person starts waits."""
    description: str | None = None
    """The text in Prefect's UI."""

    @property
    def times(self) -> dict[str, Any]:
        """The given one of cron, interval and rrule, by its name."""
        return self.model_dump(include={"cron", "interval", "rrule"}, exclude_none=True)

    @model_validator(mode="after")
    def _check_one_time(self) -> Self:
        if len(self.times) > 1:
            raise ValueError(f"{' and '.join(self.times)} are given; keep one of them")
        if self.set and self.config is None:
            raise ValueError("set changes a config, and no config is given")
        return self

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (KeyError, ValueError, OSError):
            raise ValueError("no such time zone; names are like Europe/Vienna or UTC") from None
        return timezone


def serve(path: Path | str, home: Path | str, flows: Flows | None = None) -> None:
    """Serve the deployments of a file until SIGINT or SIGTERM. A second signal ends it at once.

    Args:
        path: the schedules, in TOML.
        home: the home folder, whose Prefect server is used.
        flows: flows by name; by default tokenmill's.

    Raises:
        InputError: the file is wrong, or there is no lasting Prefect server, or another process serves already.
    """
    stack = Stack(home)
    own, _ = stack.servers
    if not stack.status()[0].running:
        raise InputError("Schedules need a Prefect server that stays: `tokenmill up` first, or set PREFECT_API_URL.")
    with prefect_server(home) as url:
        from flows.schedules.runner import OwnRunner

        schedules = load_schedules(path)
        deployments = make_deployments(schedules, Path(path), flows)
        started = find_started(own)
        if not started or url.replace("localhost", LOOPBACK) != f"{started.url}/api":
            for deployment in deployments:  # another home may serve schedules of the same names there
                deployment.name = f"{deployment.name}-{own.secret.id[:6]}"
        try:
            with FileLock(Path(home) / ".tokenmill" / "serve.lock", timeout=0):
                end_on_second_signal()
                _give_up_orphans(deployments)
                # Polls often and takes a run when it is due. A run that is taken earlier occupies the only slot.
                runner = OwnRunner(query_seconds=2, prefetch_seconds=0)
                for deployment, schedule in zip(deployments, schedules.values(), strict=True):
                    runner.add(deployment, schedule.collision == "cancel_new")
                names = ", ".join(each.name for each in deployments)
                say(f"Serving {names} of {path}; {pages(home)['prefect']}/deployments starts them too. Ctrl-C ends it.")
                asyncio.run(_run_until_signal(runner))
        except Timeout:
            raise InputError(f"Another `tokenmill schedule` runs for {home}; end that one first.") from None


async def _run_until_signal(runner: OwnRunner) -> None:
    """Run until a signal. Runs in flight then save and end, and the runner pauses its schedules.

    At a second signal they are killed. `prefect.serve` would wait for the server to pause the schedules, for minutes if
    the server hangs. At SIGTERM it would raise SystemExit wherever it is, which pauses nothing during a run.
    """
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(runner.start())
    signalled: list[int] = []

    async def end() -> None:
        try:
            if runner.started:
                await runner.end_runs(lambda: len(signalled) > 1)
        finally:
            running.cancel()
        loop.call_later(SECONDS_TO_END, running.cancel)  # cancels the clean-up that the first cancel started

    def handle(number: int, frame: FrameType | None) -> None:
        signalled.append(number)
        if len(signalled) == 1:
            loop.call_soon_threadsafe(lambda: ending.append(loop.create_task(end())))

    ending: list[asyncio.Task[None]] = []
    await asyncio.sleep(0)  # the runner sets its own handler of SIGTERM as it starts
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)  # the loop's own handlers would take the signals from the watchdog
    with suppress(asyncio.CancelledError):
        await running


def load_schedules(path: Path | str) -> dict[str, Schedule]:
    """Read schedules by name from TOML, one table each.

    Raises:
        InputError: the file does not exist, is not TOML, or a schedule in it is wrong.
    """
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        shipped = SHIPPED / "schedules.toml"
        raise InputError(f"There is no file of schedules {path}; the shipped one is {shipped}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}.") from None
    if not tables:
        raise InputError(f"{path} holds no schedule; each is a table with at least a `flow`.")
    return {name: _schedule(name, table, path) for name, table in tables.items()}


def _schedule(name: str, table: Any, path: Path | str) -> Schedule:
    if not NAME.fullmatch(name):
        raise InputError(f"{path}: {name!r} cannot name a schedule; use lower-case letters, digits, '.', '_' and '-'.")
    if not isinstance(table, dict):
        raise InputError(f"{path}: {name!r} stands outside of any schedule; each is a table, as in [{name}].")
    try:
        return Schedule.model_validate(table)
    except ValidationError as error:
        raise InputError(f"{path}: [{name}] {explain(error, Schedule)}") from None


def make_deployments(
    schedules: Mapping[str, Schedule], path: Path, flows: Flows | None = None
) -> list[RunnerDeployment]:
    """Make Prefect deployments of schedules. Each is limited to one run at a time.

    Raises:
        InputError: a flow, a config, a parameter or a time is wrong.
    """
    flows = tokenmill_flows() if flows is None else flows
    return [_deployment(name, schedule, path, flows) for name, schedule in schedules.items()]


def tokenmill_flows() -> Flows:
    """Return every flow that can be scheduled, by name."""
    from flows.flows import FLOWS
    from flows.orchestration.housekeeping import housekeeping

    return {**FLOWS, housekeeping.name: housekeeping}


def _deployment(name: str, schedule: Schedule, path: Path, flows: Flows) -> RunnerDeployment:
    from prefect._internal.versioning import VersionType
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.deployments.runner import EntrypointType, RunnerDeployment
    from prefect.schedules import Schedule as Times

    flow, parameters = _call(name, schedule, path, flows)
    try:
        return RunnerDeployment.from_flow(
            flow,
            name,
            parameters=parameters,
            schedules=[Times(**schedule.times, timezone=schedule.timezone)] if schedule.times else [],
            description=schedule.description or flow.description,
            tags=["tokenmill"],
            paused=False,
            concurrency_limit=ConcurrencyLimitConfig.model_validate(ONE_AT_A_TIME),
            entrypoint_type=EntrypointType.MODULE_PATH,
            version_type=VersionType.SIMPLE,  # by default that of the git repository in the current folder
        )
    except ValueError as error:  # of croniter and dateutil, through pydantic
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise InputError(f"{path}: [{name}] {what}.") from None


def _call(name: str, schedule: Schedule, path: Path, flows: Flows) -> tuple[Flow[..., Any], dict[str, Any]]:
    """Return the flow of a schedule and its parameters."""
    if schedule.flow not in flows:
        hint = did_you_mean(schedule.flow, flows, f"there are {', '.join(sorted(flows))}.")
        raise InputError(f"{path}: [{name}] no flow is called {schedule.flow!r}; {hint}")
    flow = flows[schedule.flow]
    parameters = dict(schedule.parameters)
    if schedule.config is not None:
        config = load_config(path.parent / schedule.config, schedule.set, path.parent, warn)
        parameters["config"] = config.model_dump(mode="json", exclude_unset=True)
        if schedule.set:
            label = parameters.get("label", {})
            parameters["label"] = {"overrides": list(schedule.set), **label} if isinstance(label, dict) else label
    known = flow.parameters.properties
    if unknown := sorted(parameters.keys() - known.keys()):
        raise InputError(f"{path}: [{name}] {schedule.flow} takes no {unknown[0]!r}; it takes {', '.join(known)}.")
    if missing := sorted(set(flow.parameters.required or []) - parameters.keys()):
        raise InputError(f"{path}: [{name}] {schedule.flow} needs {missing[0]!r}.")
    return flow, parameters


def _give_up_orphans(deployments: list[RunnerDeployment]) -> None:
    """End the runs that a killed or absent `tokenmill schedule` left in Prefect's database.

    Runs that died with it would count against the limit of one. Runs that were due in its absence would accumulate, so
    only the latest of each deployment stays.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Cancelled, Crashed

    not_ended = {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING"]}}
    due = FlowRunFilter.model_validate({"state": not_ended, "expected_start_time": {"before_": datetime.now(UTC)}})
    order = FlowRunSort.EXPECTED_START_TIME_DESC
    runs: list[FlowRun] = []
    kept = set()
    with get_client(sync_client=True) as client:
        known = []
        for each in deployments:
            with suppress(ObjectNotFound):
                known.append(client.read_deployment_by_name(each.full_name).id)
        ours = DeploymentFilter.model_validate({"id": {"any_": known}})
        while page := client.read_flow_runs(deployment_filter=ours, flow_run_filter=due, sort=order, offset=len(runs)):
            runs += page
        for run in runs:
            assert run.state
            if not run.state.is_scheduled():
                client.set_flow_run_state(run.id, Crashed(message="The process that served it was killed."))
            elif run.auto_scheduled and run.deployment_id in kept:
                why = "Due while nothing served it; a later run was too."
                client.set_flow_run_state(run.id, Cancelled(message=why))
            elif run.auto_scheduled:
                kept.add(run.deployment_id)


# For people with work pools

HEADER = """\
# The deployments of `tokenmill schedule` for work pools. `python -m flows.schedules` writes this file from
# configs/schedules.toml. If you have workers: TOKENMILL_WORK_POOL=my-pool prefect deploy --all
"""


def prefect_yaml(schedules: Mapping[str, Schedule], path: Path) -> str:
    """Return the deployments as the `prefect.yaml` that `prefect deploy --all` reads."""
    import yaml

    deployments = []
    for deployment in make_deployments(schedules, path):
        schedule = schedules[deployment.name]
        times = schedule.times
        if schedule.interval is not None:
            times["interval"] = schedule.interval.total_seconds()
        entry: dict[str, Any] = {
            "name": deployment.name,
            "description": deployment.description,
            "tags": deployment.tags,
            "entrypoint": deployment.entrypoint,
            "parameters": deployment.parameters,
            "schedules": [{**times, "timezone": schedule.timezone}] if times else [],
            "concurrency_limit": dict(ONE_AT_A_TIME),
            "work_pool": {"name": "{{ $TOKENMILL_WORK_POOL }}"},
        }
        deployments.append({key: value for key, value in entry.items() if value})
    content = {"name": "tokenmill", "prefect-version": version("prefect"), "deployments": deployments}
    return HEADER + yaml.safe_dump(content, sort_keys=False, width=110, allow_unicode=True)
