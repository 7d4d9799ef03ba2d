"""Carries out one step: as a Prefect task, tracked in MLflow, its result published in the store or found there."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run
from prefect.states import Cancelled

from flows.console import say
from flows.orchestration.artifacts import publish_artifacts
from flows.orchestration.progress import StepReport, step_bar, warn_of_other_code
from flows.orchestration.task_runners import map_tasks
from flows.outcome import Outcome, headline
from flows.tracking.step_run import StepRun
from flows.tracking.tracker import Tracker
from gpt.config import Config
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.step import Step, StepContext, StepType, Stopped
from pipelines.store.store import Store


class Conductor:
    """Carries out steps one after another, and remembers what came of each."""

    def __init__(self, store: Store, tracker: Tracker, rebuild: bool, should_stop: Callable[[], bool]) -> None:
        self.store, self.tracker, self.rebuild, self.should_stop = store, tracker, rebuild, should_stop
        self.done: list[Outcome] = []

    def perform(self, type: StepType, name: str, config: Config, inputs: Mapping[str, Dataset]) -> Dataset:
        """The step's published result, built now if need be. What is published needs no task."""
        if self.should_stop():
            raise Stopped(f"stopped before {type.name} {name}")
        if not self.rebuild and (dataset := self._published(type, name, config, inputs)):
            return dataset

        # Sources outside this machine may fail for a moment; a step on published inputs fails the same way twice.
        @task(
            name=type.name,
            task_run_name=f"{type.name} {name}",
            tags=["tokenmill", type.kind, name],
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=2 if type.sources else 0,
            retry_delay_seconds=[2, 20],
            retry_condition_fn=lambda task, run, state: _is_passing(state.result(raise_on_failure=False)),
        )
        def perform() -> str | State[None]:
            try:
                outcome = self._perform(type, name, config, inputs)
            except Stopped as stopped:
                return Cancelled(message=str(stopped))
            if not outcome.reused:
                publish_artifacts(outcome)
            return str(outcome.dataset)

        done = perform()
        if isinstance(done, State):
            raise Stopped(done.message)
        return self.done[-1].dataset

    def _published(self, type: StepType, name: str, config: Config, inputs: Mapping[str, Dataset]) -> Dataset | None:
        started = time.perf_counter()
        try:
            step = type.using(name, config, {role: dataset.ref for role, dataset in inputs.items()})
            dataset = self.store.find(step)
        except Exception:
            return None  # the task comes to the same end, where it is seen and may be tried again
        if dataset:
            self._reuse(step, dataset, inputs, started)
        return dataset

    def _reuse(self, step: Step, dataset: Dataset, inputs: Mapping[str, Dataset], started: float) -> Outcome:
        if self.store.changed_code(step, dataset):
            warn_of_other_code(dataset)
        self.tracker.reuse_step(dataset, inputs)
        say(f"{step.type.name:<19}  reused  {headline(dataset)}")
        outcome = Outcome(step.type.name, dataset, time.perf_counter() - started, reused=True)
        self.done.append(outcome)
        return outcome

    def _perform(self, type: StepType, name: str, config: Config, inputs: Mapping[str, Dataset]) -> Outcome:
        started = time.perf_counter()
        step = type.using(name, config, {role: dataset.ref for role, dataset in inputs.items()})
        tracked: StepRun | None = None
        built_by: dict[str, Any] = {"revision": code_revision()}

        # The MLflow run is opened under the step's lock: no two processes write into one, none is left open.
        def run(out: Path, scratch: Path) -> dict[str, Any]:
            nonlocal tracked
            tags = {"prefect.task_run_id": str(task_run.id), "tokenmill.revision": code_revision()}
            tracked = self.tracker.open_step(step, tags)
            built_by["mlflow_run_id"] = tracked.run_id
            others = [each for each in self.store.list(type.kind) if each.ref.name == name and not self.rebuild]
            previous = others[-1] if others else None
            if previous:
                built_by["previous"] = str(previous)
            with step_bar(f"{type.name} {name}") as (bar, bar_task):
                report = StepReport(bar, bar_task, tracked)

                def when_done() -> None:
                    report.advance()
                    if self.should_stop():
                        raise Stopped(f"stopped within {type.name} {name}; what is done of it is kept")

                map_ = partial(map_tasks, when_done=when_done)
                work = StepContext(scratch, report, map_, self.should_stop, previous, step.sources)
                began = time.perf_counter()
                statistics = type.run(inputs, config, out, work)
                built_by["seconds"] = round(time.perf_counter() - began, 3)  # its own, without what is about it
                return statistics

        try:
            dataset = self.store.build(
                step,
                run,
                built_by=built_by,
                rebuild=self.rebuild,
                on_wait=lambda: say(f"another process is building {step}; waiting for it"),
            )
        except BaseException as error:
            if tracked:
                tracked.end(error)
            raise
        if not tracked:  # another process has built it meanwhile
            return self._reuse(step, dataset, inputs, started)
        tracked.deliver()
        self.tracker.finish_step(tracked.run_id, dataset, inputs)
        outcome = Outcome(type.name, dataset, time.perf_counter() - started, reused=False)
        say(f"{type.name:<19} {outcome.seconds:5.1f} s  {headline(dataset)}")
        self.done.append(outcome)
        return outcome


@cache
def code_revision() -> str:
    """The git commit of the code, with `+changes` if the tree is not clean; empty outside a checkout."""

    def git(*arguments: str) -> str:
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
        return done.stdout.strip()

    revision = git("rev-parse", "HEAD")
    return revision + ("+changes" if revision and git("status", "--porcelain", "--untracked-files=no") else "")


def _is_passing(error: Any) -> bool:
    return isinstance(error, OSError) and not isinstance(error, InputError | FileNotFoundError | PermissionError)
