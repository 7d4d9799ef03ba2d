"""The conductor: carries out one step as a Prefect task, logs it to MLflow and publishes its result in the store."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from prefect import State
from prefect.runtime import task_run
from prefect.states import Cancelled

from flows.console import say
from flows.orchestration.artifacts import publish_artifacts
from flows.orchestration.progress import StepListener, hashing_bar, say_outcome, step_bar, warn_of_other_code
from flows.orchestration.progress_artifact import ProgressArtifact
from flows.orchestration.task_runners import map_tasks, uncached_task
from flows.outcome import Outcome, headline
from flows.tracking.source import code_revision
from flows.tracking.step_run import StepRun
from flows.tracking.tracker import Tracker
from pipelines.addresses import clean_errors
from pipelines.chain import Resolved, result_in
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.step import Step, StepContext, Stopped
from pipelines.store.store import Store


@dataclass
class Conductor:
    """Carries out steps one after another, and keeps the outcome of each.

    resolved: results that were looked up before; they are reused without another look.
    """

    store: Store
    tracker: Tracker
    rebuild: bool
    should_stop: Callable[[], bool]
    resolved: Resolved = ()
    done: list[Outcome] = field(default_factory=list)

    def perform(self, step: Step) -> Dataset:
        """Return the step's published result, built now if necessary. A published result needs no Prefect task.

        Raises:
            Stopped: somebody asked the run to end.
        """
        title, type = step.title, step.type
        if self.should_stop():
            raise Stopped(f"stopped before {title}")
        started = time.perf_counter()
        if not self.rebuild and (dataset := result_in(self.resolved, step) or self._find(step)):
            return self._reuse(step, dataset, started)

        # Sources outside this machine may fail for a moment; a step on published inputs fails the same way twice.
        @uncached_task(
            name=type.name,
            task_run_name=title,
            tags=["tokenmill", type.kind, step.name],
            retries=2 if type.sources else 0,
            retry_delay_seconds=[2, 20],
            retry_condition_fn=_may_pass,
        )
        def perform() -> str | State[None]:
            try:
                with clean_errors():
                    dataset = self._perform(step)
            except Stopped as stopped:
                return Cancelled(message=str(stopped))
            if not self.done[-1].reused:
                publish_artifacts(self.done[-1])
            return str(dataset)

        done = perform()
        if isinstance(done, State):
            raise Stopped(done.message)
        return self.done[-1].dataset

    def _find(self, step: Step) -> Dataset | None:
        with suppress(Exception), hashing_bar():  # the task meets the same error, where it is shown and may be retried
            return self.store.find(step)
        return None

    def _reuse(self, step: Step, dataset: Dataset, started: float) -> Dataset:
        if self.store.changed_code(step, dataset):
            warn_of_other_code(dataset)
        self.tracker.reuse_step(step, dataset)
        return self._end(Outcome(step.type.name, dataset, time.perf_counter() - started, reused=True))

    def _end(self, outcome: Outcome) -> Dataset:
        say_outcome(outcome)
        self.done.append(outcome)
        return outcome.dataset

    def _perform(self, step: Step) -> Dataset:
        started = time.perf_counter()
        tracked: StepRun | None = None
        artifact = ProgressArtifact(step.title)
        built_by: dict[str, Any] = {"revision": code_revision()}

        # The MLflow run is opened under the step's lock: no two processes write into one, none is left open.
        def run(out: Path, scratch: Path) -> dict[str, Any]:
            nonlocal tracked
            tags = {"prefect.task_run_id": str(task_run.id), "tokenmill.revision": code_revision()}
            tracked = self.tracker.open_step(step, tags)
            built_by["mlflow_run_id"] = tracked.run_id
            if previous := self._previous(step):
                built_by["previous"] = str(previous)
            with step_bar(step.title) as (bar, bar_task):
                work = self._context(step, scratch, StepListener(bar, bar_task, tracked, artifact), previous)
                began = time.perf_counter()
                statistics = step.type.run(step.inputs, step.config, out, work)
                built_by["seconds"] = round(time.perf_counter() - began, 3)  # without publishing and tracking
                if step.type.kind == "model":
                    from gpt.machine import device_name  # the step has imported torch, which takes seconds

                    built_by["device"] = device_name()
                return statistics

        def on_wait() -> None:
            say(f"another process is building {step}; waiting for it")

        try:
            dataset = self.store.build(
                step, run, built_by=built_by, rebuild=self.rebuild, on_wait=on_wait, should_stop=self.should_stop
            )
        except BaseException as error:
            if tracked:
                tracked.end(error)
            raise
        if not tracked:  # another process has built it meanwhile
            return self._reuse(step, dataset, started)
        tracked.deliver()
        self.tracker.finish_step(tracked.run_id, dataset, step.inputs)
        outcome = Outcome(step.type.name, dataset, time.perf_counter() - started, reused=False)
        artifact.finish(headline(dataset))
        return self._end(outcome)

    def _previous(self, step: Step) -> Dataset | None:
        """Return the newest version of what the step makes, from which it may take what has not changed."""
        others = [each for each in self.store.list(step.type.kind) if each.ref.name == step.name]
        return others[-1] if others and not self.rebuild else None

    def _context(self, step: Step, scratch: Path, listener: StepListener, previous: Dataset | None) -> StepContext:
        """Return what a step works with. Where it maps over parts, it can be stopped after each."""

        def when_done() -> None:
            listener.advance()
            if self.should_stop():
                raise Stopped(f"stopped within {step.title}; what is done of it is kept")

        map_ = partial(map_tasks, when_done=when_done)
        return StepContext(scratch, listener, map_, self.should_stop, previous, step.sources)


def _may_pass(task: Any, run: Any, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, OSError) and not isinstance(error, InputError | FileNotFoundError | PermissionError)
