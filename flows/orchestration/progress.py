"""Progress on the terminal: a bar with rate and time left for each step, and warnings."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import TYPE_CHECKING, TextIO, cast

from rich.file_proxy import FileProxy
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flows.console import console, say, warn
from flows.terminal import VisibleStream
from pipelines.corpus.sources import hashing_watched
from pipelines.numbers import short, size
from pipelines.store.dataset import Dataset
from pipelines.store.step import Listener
from pipelines.visible import one_line

if TYPE_CHECKING:
    from flows.tracking.step_run import StepRun

SOON = 2.0  # seconds of hashing after which a bar appears
QUIET_SECONDS = 30.0  # between two lines on progress where no bar can be drawn, such as in a log


class StepListener(Listener):
    """Draws a step's progress and passes its curves and texts to MLflow."""

    def __init__(self, bar: Progress, task: TaskID, run: StepRun) -> None:
        self.bar, self.task, self.run = bar, task, run
        self.last_line = time.monotonic()
        self.state: tuple[float, float, str, str] = (0, 0, "", "")

    def advance(self) -> None:
        """Advance the bar by one unit."""
        done, total, unit, note = self.state
        self.progress(done + 1, total, unit, note)

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        """Move the bar, and print a line now and then where there is none."""
        self.state = (done, total, unit, note)
        task = self.bar.tasks[self.bar.task_ids.index(self.task)]
        rate = f"{short(task.speed)} {unit}/s" if task.speed else unit
        self.bar.update(self.task, completed=done, total=total, rate=rate, note=one_line(note))
        if not console.is_terminal and time.monotonic() - self.last_line > QUIET_SECONDS:
            self.last_line = time.monotonic()
            say(f"{task.description}: {short(done)} of {short(total)} {unit}{', ' if note else ''}{note}")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log values of curves to MLflow."""
        self.run.metrics(step, values)

    def text(self, path: str, text: str) -> None:
        """Log a text to MLflow."""
        self.run.text(path, text)

    def flush(self) -> None:
        """Deliver everything to MLflow, or to a file if MLflow does not answer."""
        self.run.flush()

    def warn(self, sentence: str) -> None:
        """Print a warning."""
        warn(sentence)


@contextmanager
def step_bar(title: str) -> Iterator[tuple[Progress, TaskID]]:
    """Yield a progress bar that disappears when the step ends. What others print meanwhile appears above it."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]}", style="cyan", markup=False),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
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
        yield bar, bar.add_task(one_line(title), total=None, rate="", note="")


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
                bar.update(task, completed=n_bytes, rate=f"{size(n_bytes / (now - started))}/s", note=size(n_bytes))
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


def warn_of_other_code(dataset: Dataset) -> None:
    """Warn that a reused dataset was built by other code of the same version."""
    warn(f"{dataset} was built by other code of the same version; --rebuild builds it again.")
