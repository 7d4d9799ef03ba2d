"""`tokenmill serve`: flows that run on a schedule and that Prefect's UI can start, as `configs/schedules.toml` says."""

from __future__ import annotations

import asyncio
import difflib
import importlib.metadata
import signal
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from zoneinfo import ZoneInfo

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError, field_validator, model_validator

from flows.console import say
from flows.servers.prefect_server import prefect_server
from flows.servers.stack import Stack, pages
from gpt.config import Config
from pipelines.config import explain, load_config
from pipelines.errors import InputError
from pipelines.store.manifest import NAME

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner

Flows = Mapping[str, "Flow[..., Any]"]


ENDING = 10.0  # seconds to end in good order, which takes a server that answers


class Schedule(Config):
    """One deployment: a flow, its parameters and when it runs. With no time given, only people start it."""

    flow: str = Field(description="The flow: run, evaluate, housekeeping, or another of `tokenmill`'s.")
    config: str | None = Field(
        default=None, description="The TOML file of the run, if the flow takes one; a path from the schedules' file."
    )
    set: tuple[str, ...] = Field(default=(), description="Changes to that file, `section.key=value` each.")
    parameters: dict[str, Any] = Field(default={}, description="The flow's other parameters.")
    cron: str | None = Field(default=None, description="When, as a cron expression: `0 3 * * *` is every night at 3.")
    interval: timedelta | None = Field(
        default=None, gt=timedelta(0), description="How often: seconds, or an ISO 8601 duration such as `PT6H`."
    )
    rrule: str | None = Field(default=None, description="When, as an iCalendar rule: `FREQ=WEEKLY;BYDAY=MO;BYHOUR=3`.")
    timezone: str = Field(default="UTC", description="The time zone that the times are in, such as `Europe/Vienna`.")
    collision: Literal["cancel_new", "enqueue"] = Field(
        default="cancel_new",
        description="What becomes of a run that is due while the last one goes on: dropped, or run after it.",
    )
    description: str | None = Field(default=None, description="What people read about it in Prefect's UI.")

    @model_validator(mode="after")
    def _check_one_time(self) -> Self:
        given = [name for name in ("cron", "interval", "rrule") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; keep one of them")
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
    """Serve the deployments of a file until this process is told to end (SIGINT, SIGTERM); told again, it ends at once.

    Args:
        path: the schedules, in TOML.
        home: the home folder, whose Prefect server is used.
        flows: flows by name; by default tokenmill's.

    Raises:
        InputError: the file is wrong, or there is no lasting Prefect server, or another process serves already.
    """
    if not Stack(home).status()[0].running:
        raise InputError("Schedules need a Prefect server that stays: `tokenmill up` first, or set PREFECT_API_URL.")
    lock = FileLock(Path(home) / ".tokenmill" / "serve.lock")
    with prefect_server(home):
        from prefect.runner import Runner

        deployments = make_deployments(load_schedules(path), Path(path), flows)
        try:
            with lock.acquire(timeout=0):
                _give_up_orphans(deployments)
                # Asks often and takes a run when it is due: taken earlier, it would hold the one place there is.
                runner = Runner(query_seconds=2, prefetch_seconds=0)
                for deployment in deployments:
                    runner.add_deployment(deployment)
                names = ", ".join(each.name for each in deployments)
                say(f"Serving {names}; {pages(home)['prefect']}/deployments starts them too. Ctrl-C ends it.")
                asyncio.run(_run_until_told_to_end(runner))
        except Timeout:
            raise InputError(f"Another `tokenmill serve` runs for {home}; end that one first.") from None


async def _run_until_told_to_end(runner: Runner) -> None:
    """Told to end, the runner pauses its schedules and kills its runs; after `ENDING` seconds without the first.

    `prefect.serve` would wait for the server to pause them, for minutes if that hangs. And at SIGTERM it would raise
    SystemExit in whatever it is doing, which pauses nothing if a run is going on.
    """
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(runner.start())

    def end() -> None:
        running.cancel()
        loop.call_later(ENDING, running.cancel)  # gives up what the first one began

    await asyncio.sleep(0)  # the runner sets its own handler of SIGTERM as it starts
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    with suppress(asyncio.CancelledError):
        await running


def load_schedules(path: Path | str) -> dict[str, Schedule]:
    """Read schedules from TOML, a table each, by name.

    Raises:
        InputError: the file is not there, is not TOML, or a schedule in it is wrong.
    """
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"There is no file of schedules {path}; the shipped one is configs/schedules.toml.") from None
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
    """Prefect deployments of schedules, each limited to one run at a time.

    Raises:
        InputError: a flow, a config, a parameter or a time is wrong.
    """
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import EntrypointType, RunnerDeployment

    flows = tokenmill_flows() if flows is None else flows
    deployments = []
    for name, schedule in schedules.items():
        flow, parameters = _call(name, schedule, path, flows)
        try:
            deployments.append(
                RunnerDeployment.from_flow(
                    flow,
                    name,
                    parameters=parameters,
                    schedules=_when(schedule),
                    description=schedule.description or flow.description,
                    tags=["tokenmill"],
                    paused=False,
                    concurrency_limit=ConcurrencyLimitConfig(
                        limit=1, collision_strategy=ConcurrencyLimitStrategy[schedule.collision.upper()]
                    ),
                    entrypoint_type=EntrypointType.MODULE_PATH,
                )
            )
        except ValueError as error:  # croniter's and dateutil's, through pydantic
            what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise InputError(f"{path}: [{name}] {what}.") from None
    return deployments


def tokenmill_flows() -> Flows:
    """Every flow that can be scheduled, by name."""
    from flows.flows import FLOWS
    from flows.orchestration.housekeeping import housekeeping

    return {**FLOWS, housekeeping.name: housekeeping}


def _call(name: str, schedule: Schedule, path: Path, flows: Flows) -> tuple[Flow[..., Any], dict[str, Any]]:
    if schedule.flow not in flows:
        near = difflib.get_close_matches(schedule.flow, flows, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(flows))}."
        raise InputError(f"{path}: [{name}] no flow is called {schedule.flow!r}; {hint}")
    flow = flows[schedule.flow]
    parameters = dict(schedule.parameters)
    if schedule.config is not None:
        config = load_config(path.parent / schedule.config, schedule.set)
        parameters["config"] = config.model_dump(mode="json", exclude_unset=True)
    known = flow.parameters.properties
    if unknown := sorted(parameters.keys() - known.keys()):
        raise InputError(f"{path}: [{name}] {schedule.flow} takes no {unknown[0]!r}; it takes {', '.join(known)}.")
    if missing := sorted(set(flow.parameters.required or []) - parameters.keys()):
        raise InputError(f"{path}: [{name}] {schedule.flow} needs {missing[0]!r}.")
    return flow, parameters


def _when(schedule: Schedule) -> list[Any]:
    from prefect.schedules import Cron, Interval, RRule

    if schedule.cron is not None:
        return [Cron(schedule.cron, timezone=schedule.timezone)]
    if schedule.interval is not None:
        return [Interval(schedule.interval, timezone=schedule.timezone)]
    if schedule.rrule is not None:
        return [RRule(schedule.rrule, timezone=schedule.timezone)]
    return []


def _give_up_orphans(deployments: list[RunnerDeployment]) -> None:
    """Tell Prefect of runs that died with their `serve`, which would count against the limit of one, and of those that
    were due while nothing served: the newest of each deployment makes up for the others, or they would pile up.
    """
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled, Crashed

    made_up_for = set()
    with get_client(sync_client=True) as client:
        for run in list(_due(client, deployments)):
            assert run.state
            if not run.state.is_scheduled():
                client.set_flow_run_state(run.id, Crashed(message="The process that served it was killed."))
            elif run.auto_scheduled and run.deployment_id in made_up_for:
                client.set_flow_run_state(
                    run.id, Cancelled(message="Due while nothing served it; a later run was too.")
                )
            elif run.auto_scheduled:
                made_up_for.add(run.deployment_id)


def _due(client: SyncPrefectClient, deployments: list[RunnerDeployment]) -> Iterator[FlowRun]:
    """Runs of deployments that should have begun by now and have not ended, the latest first."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    names = filters.DeploymentFilterName(any_=[each.name for each in deployments])
    not_ended = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    due = filters.FlowRunFilter(
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=not_ended)),
        expected_start_time=filters.FlowRunFilterExpectedStartTime(before_=datetime.now(UTC)),
    )
    offset = 0  # Prefect hands out some at a time
    while page := client.read_flow_runs(
        deployment_filter=filters.DeploymentFilter(name=names),
        flow_run_filter=due,
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        offset=offset,
    ):
        offset += len(page)
        yield from page


# For people who have workers


def prefect_yaml(schedules: Mapping[str, Schedule], path: Path) -> str:
    """The same deployments for work pools, as the `prefect.yaml` that `prefect deploy --all` reads."""
    import yaml

    deployments = []
    for deployment in make_deployments(schedules, path):
        schedule = schedules[deployment.name]
        entry: dict[str, Any] = {
            "name": deployment.name,
            "description": deployment.description,
            "tags": deployment.tags,
            "entrypoint": deployment.entrypoint,
            "parameters": deployment.parameters,
            "schedules": [_when_in_yaml(schedule)] if _when(schedule) else [],
            "concurrency_limit": {"limit": 1, "collision_strategy": schedule.collision.upper()},
            "work_pool": {"name": "{{ $TOKENMILL_WORK_POOL }}"},
        }
        deployments.append({key: value for key, value in entry.items() if value})
    content = {
        "name": "tokenmill",
        "prefect-version": importlib.metadata.version("prefect"),
        "deployments": deployments,
    }
    return HEADER + yaml.safe_dump(content, sort_keys=False, width=110, allow_unicode=True)


HEADER = """\
# Deployments of configs/schedules.toml for work pools, written by `python -m flows.schedules`. For people with workers:
#   TOKENMILL_WORK_POOL=my-pool prefect deploy --all
"""


def _when_in_yaml(schedule: Schedule) -> dict[str, Any]:
    when = {"cron": schedule.cron, "rrule": schedule.rrule}
    if schedule.interval is not None:
        when["interval"] = schedule.interval.total_seconds()  # type: ignore[assignment]
    return {key: value for key, value in when.items() if value is not None} | {"timezone": schedule.timezone}


if __name__ == "__main__":
    source = Path("configs/schedules.toml")
    Path("prefect.yaml").write_text(prefect_yaml(load_schedules(source), source), encoding="utf-8")
