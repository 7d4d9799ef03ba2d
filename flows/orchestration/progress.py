"""Progress of a step on the terminal, in Prefect and in MLflow: how far it is, how well, and how long it will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from logging import INFO
from threading import Lock
from typing import TYPE_CHECKING, TextIO, cast

from rich.file_proxy import FileProxy
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from flows.console import console, log, say, warn
from flows.outcome import Outcome, headline
from flows.terminal import VisibleStream
from pipelines.corpus.sources import hashing_watched
from pipelines.numbers import short, size
from pipelines.store.dataset import Dataset
from pipelines.store.step import Listener
from pipelines.visible import one_line

if TYPE_CHECKING:
    from flows.orchestration.progress_artifact import ProgressArtifact
    from flows.tracking.step_run import StepRun

SOON = 2.0  # seconds of hashing after which a bar appears
QUIET_SECONDS = 30.0  # between two lines on progress where no bar can be drawn, such as in a log


class StepListener(Listener):
    """Shows a step's progress on the terminal and in Prefect, and passes its curves and texts to MLflow."""

    def __init__(self, bar: Progress, task: TaskID, run: StepRun, artifact: ProgressArtifact) -> None:
        self.bar, self.task, self.run, self.artifact = bar, task, run, artifact
        self.title = self._shown.description
        self.last_line = time.monotonic()
        self.state: tuple[float, float, str, str] = (0, 0, "", "")

    @property
    def _shown(self) -> Task:
        return self.bar.tasks[self.bar.task_ids.index(self.task)]

    def advance(self) -> None:
        """Advance the bar by one unit."""
        done, total, unit, note = self.state
        self.progress(done + 1, total, unit, note)

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        """Move the bar, and print a line now and then where there is none."""
        self.state = (done, total, unit, note)
        self.bar.update(self.task, completed=done, total=total, note=one_line(self._note(unit, note)))
        text = f"{short(done)} of {short(total)} {unit}{', ' if note else ''}{note}"
        self.artifact.show(done / total if total else 0, text)
        if time.monotonic() - self.last_line > QUIET_SECONDS:
            self.last_line = time.monotonic()
            line = f"{self.title}: {text}"
            if console.is_terminal:
                log(INFO, line)
            else:
                say(line)

    def _note(self, unit: str, note: str) -> str:
        speed = self._shown.speed
        rate = f"{short(speed)} {unit}/s" if speed and unit != "steps" else ""  # steps have a note about tokens
        return ", ".join(part for part in (note, rate) if part)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Send values of curves to MLflow, and those of an evaluation to Prefect's log."""
        self.run.metrics(step, values)
        if shown := [f"{name} {value:.4g}" for name, value in values.items() if name.startswith("val/")]:
            log(INFO, f"{self.title}: step {step:,}, {', '.join(shown)}")

    def text(self, path: str, text: str) -> None:
        """Log a text to MLflow."""
        self.run.text(path, text)

    def flush(self) -> None:
        """Deliver everything to MLflow, or to a file if MLflow does not answer."""
        self.run.flush()

    def warn(self, sentence: str) -> None:
        """Print a warning."""
        warn(sentence)


class _Note(ProgressColumn):
    """How a step is doing, cut where the terminal ends."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["note"], "dim", no_wrap=True, overflow="ellipsis")


class _TimeLeft(ProgressColumn):
    """The time that a step still takes, such as `0:05 left`."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        if left is None or task.finished:
            return Text("")
        minutes, seconds = divmod(int(left), 60)
        hours, rest = divmod(minutes, 60)
        return Text(f"{hours}:{rest:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left", "cyan")


WIDE = 100  # columns of a terminal on which a bar leaves room for the rest


@contextmanager
def step_bar(title: str) -> Iterator[tuple[Progress, TaskID]]:
    """Yield a progress bar that disappears when the step ends. What others print meanwhile appears above it."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        *([BarColumn(bar_width=24)] if console.width >= WIDE else []),
        TextColumn("{task.percentage:>3.0f}%", table_column=Column(no_wrap=True)),
        _Note(table_column=Column()),  # the only one that a narrow terminal cuts
        _TimeLeft(table_column=Column(no_wrap=True)),
    )
    bar = Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=False,  # rich would obey the control characters in what it redirects
        redirect_stderr=False,
    )
    with _above_bar(), bar:
        yield bar, bar.add_task(one_line(title), total=None, note="")


@contextmanager
def hashing_bar() -> Iterator[None]:
    """Show that source files are hashed, if it takes longer than a moment."""
    n_bytes, started, last_line, lock = 0, time.monotonic(), time.monotonic(), Lock()
    shown: tuple[Progress, TaskID] | None = None

    def watch(more: int) -> None:
        nonlocal n_bytes, last_line, shown
        with lock:
            n_bytes += more
            now = time.monotonic()
            if not shown and now - started > SOON:
                shown = stack.enter_context(step_bar("hash sources"))
            if shown:
                bar, task = shown
                bar.update(task, note=f"{size(n_bytes)}, {size(n_bytes / (now - started))}/s")
            if not console.is_terminal and now - last_line > QUIET_SECONDS:
                last_line = now
                say(f"hash sources: {size(n_bytes)}, {size(n_bytes / (now - started))}/s")

    with ExitStack() as stack, hashing_watched(watch):
        yield


@contextmanager
def _above_bar() -> Iterator[None]:
    """Print what goes to the terminal above a bar, with its control characters visible."""
    streams = sys.stdout, sys.stderr
    if console.is_terminal:
        bare = (getattr(stream, "rich_proxied_file", stream) for stream in streams)
        sys.stdout, sys.stderr = (cast(TextIO, VisibleStream(cast(TextIO, FileProxy(console, each)))) for each in bare)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def say_outcome(outcome: Outcome) -> None:
    """Print a line about a step that was carried out. The closing table repeats what a narrow terminal cuts off."""
    name = f"{outcome.step} {outcome.dataset.ref.name}"
    if outcome.summary:
        say(f"{outcome.took:>8}  {name}  {outcome.summary}")
    else:
        say(f"{outcome.took:>8}  {name}  {headline(outcome.dataset)}", fit=True)


def warn_of_other_code(dataset: Dataset) -> None:
    """Warn that a reused dataset was built by other code of the same version."""
    warn(f"{dataset} was built by other code of the same version; --rebuild builds it again.")
