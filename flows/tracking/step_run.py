"""A child run in MLflow while its step works."""

from __future__ import annotations

import json
import logging
import math
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, TypeGuard

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient

from flows.console import warn
from pipelines.store.files import write_synced
from pipelines.store.step import Stopped

BATCH_SECONDS = 5.0  # a call costs 6 to 9 ms on SQLite, so values wait for company


PATIENCE_SECONDS = 10.0  # so long a checkpoint waits for MLflow to take what was told before


ENDED = "tokenmill.ended"  # the tag that says why a run did not end well


SENDER = "tells MLflow"


class StepRun:
    """A child run while its step works. A thread of its own sends curves and texts, so that no step waits for MLflow.

    What MLflow does not take waits here, and from the next checkpoint on in a file too: should this process end before
    MLflow is back, the run that goes on with the step sends it.
    """

    def __init__(self, client: MlflowClient, run_id: str, unsent: Path) -> None:
        self.client, self.run_id = client, run_id
        self.file = unsent / f"{run_id}.jsonl"
        self._waiting: list[Metric | Words] = self._read_file()
        self._sender: threading.Thread | None = None
        self._problem: Exception | None = None
        self._asked = time.monotonic()
        told = [*self.client.get_metric_history(run_id, "train/loss"), *self._waiting]
        self._told_until = max((each.step for each in told if isinstance(each, Metric)), default=-1)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log values at an optimizer step. Steps replayed after a kill are not logged twice."""
        if step <= self._told_until and "train/loss" in values:
            return
        now = int(time.time() * 1000)
        self._waiting += [Metric(key, float(value), now, step) for key, value in values.items() if math.isfinite(value)]
        if time.monotonic() - self._asked > BATCH_SECONDS:
            self._send()

    def text(self, path: str, text: str) -> None:
        self._waiting.append(Words(path, text))
        self._send()

    def flush(self) -> bool:
        """Make what was told so far outlive this process; returns whether MLflow has all of it by now."""
        until = time.monotonic() + (0.1 if self._problem else PATIENCE_SECONDS)
        while self._waiting and time.monotonic() < until:
            sender = self._send()
            sender.join(max(0.0, until - time.monotonic()))
            if self._problem:
                break
        if self._waiting:
            self._problem = self._problem or TimeoutError()
            self._write_file()
        else:
            self.file.unlink(missing_ok=True)
        return not self._waiting

    def deliver(self) -> None:
        """Send all that waits, however long that takes.

        Raises:
            MlflowException: MLflow did not answer for too long; what is left is in the file.
        """
        if self._sender:
            self._sender.join()
        if self._waiting:
            self._write_file()
            self._problem = None
            self._send().join()
        if self._problem:
            raise self._problem
        self.file.unlink(missing_ok=True)

    def end(self, status: str, why: str) -> None:
        """Close the run of a step that came to nothing."""
        if self.flush():
            end_run(self.client, self.run_id, status, why)

    def _send(self) -> threading.Thread:
        """The thread that sends what waits, started if none is at it."""
        self._asked = time.monotonic()
        if not self._sender or not self._sender.is_alive():
            # As a daemon, so that a hanging call holds up no exit.
            self._sender = threading.Thread(target=self._send_waiting, name=SENDER, daemon=True)
            self._sender.start()
        return self._sender

    def _send_waiting(self) -> None:
        # Only this thread takes from the list, and the others only append; MLflow passes over what it has already.
        try:
            while waiting := self._waiting[:1000]:
                first = waiting[0]
                if isinstance(first, Words):
                    self.client.log_text(self.run_id, first.text, first.path)
                    sent = 1
                else:
                    batch = [each for each in takewhile(_is_metric, waiting) if _is_metric(each)]
                    try:
                        self.client.log_batch(self.run_id, metrics=batch)
                    except RestException:  # a server that hung is still about the same values, sent and given up on
                        self.client.log_batch(self.run_id, metrics=batch)
                    sent = len(batch)
                del self._waiting[:sent]
                self._problem = None
        except Exception as error:
            self._problem = error

    def _read_file(self) -> list[Metric | Words]:
        try:
            rows = [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]
        except FileNotFoundError:
            return []
        return [Words(**row) if "text" in row else Metric(**row) for row in rows]

    def _write_file(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"key": each.key, "value": each.value, "timestamp": each.timestamp, "step": each.step}
            if isinstance(each, Metric)
            else each._asdict()
            for each in list(self._waiting)
        ]
        write_synced(self.file, "".join(json.dumps(row) + "\n" for row in rows).encode())


class Words(NamedTuple):
    """A text that is to become a file of a run."""

    path: str
    text: str


def ending(error: BaseException) -> tuple[str, str]:
    """The status of a run that an error ended, and why it ended."""
    stopped = isinstance(error, KeyboardInterrupt | Stopped)
    return "KILLED" if stopped else "FAILED", str(error) or type(error).__name__


def end_run(client: MlflowClient, run_id: str, status: str, why: str) -> None:
    """Close a run that did not end well; if MLflow does not answer now, the next run in this home sees to it."""
    with suppress(MlflowException):
        client.set_tag(run_id, ENDED, why[:500])
        client.set_terminated(run_id, status)


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Say in a sentence that MLflow cannot be reached, where its client would tell of pools and retries."""
    log, waiting = logging.getLogger("urllib3.connectionpool"), _Waiting(logging.WARNING)
    log.addHandler(waiting)
    try:
        yield
    except MlflowException as error:
        if not str(error).startswith("API request to http"):
            raise
        where = re.sub(r"//[^/@]*@", "//", uri)
        raise TrackingError(
            f"MLflow at {where} does not answer. What was built is kept; when MLflow is back, run again: "
            "that goes on from here and tells MLflow what it has missed."
        ) from error
    finally:
        log.removeHandler(waiting)


class _Waiting(logging.Handler):
    """Tells a person that the run waits for MLflow, of which only a log of retries knows."""

    said = -math.inf

    def emit(self, record: logging.LogRecord) -> None:
        waits = "/mlflow/" in record.getMessage() and record.threadName != SENDER
        if waits and time.monotonic() - self.said > 120:
            self.said = time.monotonic()
            warn("MLflow does not answer; waiting for it.")


class TrackingError(Exception):
    """MLflow did not answer for too long."""


def _is_metric(told: Metric | Words) -> TypeGuard[Metric]:
    return isinstance(told, Metric)
