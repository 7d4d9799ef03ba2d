"""The MLflow run of a step while the step works."""

import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from flows.tracking.notes import ended_note
from flows.tracking.outages import SENDER
from flows.tracking.system_metrics import measure
from pipelines.addresses import without_secrets
from pipelines.store.files import write_synced
from pipelines.store.paths import inside
from pipelines.store.step import Stopped
from pipelines.visible import visible

BATCH_SECONDS = 5.0  # seconds between two sends: a call costs 6 to 9 ms on SQLite, so values are sent together


PATIENCE_SECONDS = 10.0  # seconds that a checkpoint waits for MLflow to receive the earlier values


ENDED = "tokenmill.ended"  # the tag that says why a run did not end well


class StepRun:
    """The MLflow run of a step. A thread sends curves and texts, so that no step waits for MLflow.

    Entries that MLflow has not received wait here, and from the next checkpoint on also in a file. If this process
    ends before MLflow is back, the next run of the step sends them. MLflow's own asynchronous logging would lose them.

    Args:
        client: MLflow's client.
        run_id: the run's id in MLflow.
        unsent: the folder of entries that MLflow has not received.
        parent: the run whose curves have this run's curves too.
        prefix: what the names of the curves begin with there.
    """

    def __init__(
        self, client: MlflowClient, run_id: str, unsent: Path, parent: "StepRun | None" = None, prefix: str = ""
    ) -> None:
        self.client, self.run_id, self.parent, self.prefix = client, run_id, parent, prefix
        self._end_measuring: Callable[[], None] = lambda: None
        self._sending = threading.Lock()
        self.file = inside(unsent, f"{run_id}.jsonl")
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        self._waiting: list[dict[str, Any]] = [json.loads(line) for line in lines]  # a metric, or a text and its path
        self._sender: threading.Thread | None = None
        self._problem: Exception | None = None
        self._sent_at = time.monotonic()
        logged = [metric.step for metric in self.client.get_metric_history(run_id, "train/loss")]
        self._logged_until = max([*logged, *(entry["step"] for entry in self._waiting if "step" in entry)], default=-1)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log values at an optimizer step. Steps that are repeated after a kill are logged once."""
        if step <= self._logged_until and "train/loss" in values:
            return
        now = int(time.time() * 1000)
        self._add(step, values, now)
        if self.parent:
            self.parent._add(step, {f"{self.prefix}{key}": value for key, value in values.items()}, now)

    def _add(self, step: int, values: Mapping[str, float], now: int) -> None:
        self._waiting += [
            {"key": key, "value": float(value), "timestamp": now, "step": step}
            for key, value in values.items()
            if math.isfinite(value)
        ]
        if time.monotonic() - self._sent_at > BATCH_SECONDS:
            self._send()

    def measure(self, since: float) -> None:
        """Log the machine's load from now until the run ends.

        Args:
            since: when the run started, in seconds since 1970.
        """
        self._end_measuring = measure(lambda second, load: self._add(second, load, int(time.time() * 1000)), since)

    def text(self, path: str, text: str) -> None:
        """Log a text as a file of the run."""
        self._waiting.append({"path": path, "text": text})
        self._send()

    def flush(self) -> bool:
        """Make the entries so far outlive this process; return whether MLflow has received all of them."""
        until = time.monotonic() + (0.1 if self._problem else PATIENCE_SECONDS)
        while self._waiting and time.monotonic() < until:
            self._send().join(max(0.0, until - time.monotonic()))
            if self._problem:
                break
        if self._waiting:
            self._problem = self._problem or TimeoutError()
            self._write_file()
        else:
            self.file.unlink(missing_ok=True)
        return not self._waiting

    def deliver(self) -> None:
        """Send all entries, however long that takes.

        Raises:
            Exception: MLflow did not receive them; the file has the entries that are left.
        """
        self._end_measuring()
        if self._sender:
            self._sender.join()
        if self._waiting:
            self._write_file()
            self._problem = None
            self._send_waiting()
        if self._problem:
            raise self._problem
        self.file.unlink(missing_ok=True)

    def end(self, error: BaseException, note: str = "") -> None:
        """Close the run of a step that failed or was stopped; its description has the reason, then the note."""
        self._end_measuring()
        if self.flush():
            end_run(self.client, self.run_id, error, note)

    def _send(self) -> threading.Thread:
        """Return the thread that sends, started if none runs."""
        self._sent_at = time.monotonic()
        if not self._sender or not self._sender.is_alive():
            # A daemon, so that a hanging call does not keep the process from ending.
            self._sender = threading.Thread(target=self._send_waiting, name=SENDER, daemon=True)
            self._sender.start()
        return self._sender

    def _send_waiting(self) -> None:
        # One thread at a time removes entries, the others append. MLflow ignores values that it has already.
        with self._sending:
            self._send_in_turn()

    def _send_in_turn(self) -> None:
        try:
            while waiting := self._waiting[:1000]:
                if "text" in waiting[0]:
                    self.client.log_text(self.run_id, waiting[0]["text"], waiting[0]["path"])
                    sent = 1
                else:
                    batch = [Metric(**entry) for entry in takewhile(lambda entry: "text" not in entry, waiting)]
                    try:
                        self.client.log_batch(self.run_id, metrics=batch)
                    except RestException:  # a server that hung may still store the same values, from a call given up
                        self.client.log_batch(self.run_id, metrics=batch)
                    sent = len(batch)
                del self._waiting[:sent]
                self._problem = None
        except Exception as error:
            self._problem = error

    def _write_file(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_synced(self.file, "".join(json.dumps(entry) + "\n" for entry in list(self._waiting)).encode())


def end_run(client: MlflowClient, run_id: str, error: BaseException, note: str = "") -> None:
    """Close a run that an error ended: as killed if it was stopped, else as failed, with the reason.

    If MLflow does not answer now, the next run in this home closes it.

    Args:
        client: MLflow's client.
        run_id: the run.
        error: what ended it.
        note: the rest of its description, after the reason.
    """
    stopped = isinstance(error, KeyboardInterrupt | Stopped)
    reason = visible(without_secrets(str(error)) or type(error).__name__)
    with suppress(MlflowException):
        client.set_tag(run_id, ENDED, reason[:500])
        client.set_tag(run_id, MLFLOW_RUN_NOTE, ended_note(reason, note, stopped))
        client.set_terminated(run_id, "KILLED" if stopped else "FAILED")
