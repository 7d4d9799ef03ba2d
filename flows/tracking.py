"""MLflow: the index over manifests that people look at.

One experiment per pipeline, one parent run per flow run, one child run per step that was built. All calls go
through `MlflowClient` with a run id: MLflow's active run belongs to a thread, and Prefect has several.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import mlflow
import pyarrow.parquet as pq
from filelock import Timeout
from mlflow.entities import Dataset as MlflowDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from flows.home import Home
from flows.models import crown
from flows.progress import warn
from flows.stack import ensure_mlflow_database, pages
from flows.summary import Outcome, run_note, step_note
from gpt.config import Config
from pipelines.catalog.registry import CHALLENGER, CHAMPION
from pipelines.config import RunConfig
from pipelines.datasets import columns
from pipelines.report.charts import standalone
from pipelines.report.figures import kinds
from pipelines.report.figures.part import slug
from pipelines.store.dataset import Dataset
from pipelines.store.files import write_synced
from pipelines.store.lineage import origins
from pipelines.store.step import Step, Stopped

BATCH_SECONDS = 5.0  # a call costs 6 to 9 ms on SQLite, so values wait for company
PATIENCE_SECONDS = 10.0  # so long a checkpoint waits for MLflow to take what was told before
ENDED = "tokenmill.ended"  # the tag that says why a run did not end well
SENDER = "tells MLflow"
LOST = "Its process died, or could not tell MLflow how it ended; the next run noticed."
MAX_PARAM, MAX_TAG = 6000, 8000  # MLflow cuts off what is longer


class Tracker:
    """Writes one flow run, and the runs of its steps, into MLflow."""

    def __init__(self, home: Home, experiment: str) -> None:
        mlflow.set_tracking_uri(home.mlflow_uri)
        ensure_mlflow_database(home.mlflow_uri, home.artifacts)
        self.client = MlflowClient(home.mlflow_uri)
        self.home = home
        self.experiment_id = self._experiment(experiment)
        self.parent: str | None = None

    def _experiment(self, name: str) -> str:
        if found := self.client.get_experiment_by_name(name):
            return str(found.experiment_id)
        # A server decides for itself where artifacts lie.
        root = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT") or self.home.artifacts.as_uri()
        location = None if self.home.mlflow_uri.startswith("http") else f"{root.rstrip('/')}/{name}"
        tags = {"mlflow.experimentKind": "custom_model_development"}  # which of its two faces MLflow's UI shows
        try:
            return str(self.client.create_experiment(name, artifact_location=location, tags=tags))
        except MlflowException as error:  # another process was first
            if error.error_code == "RESOURCE_ALREADY_EXISTS" and (found := self.client.get_experiment_by_name(name)):
                return str(found.experiment_id)
            raise

    @contextmanager
    def flow_run(self, config: RunConfig, tags: Mapping[str, str]) -> Iterator[str]:
        """A parent run around a flow; ends as FINISHED, FAILED or, when asked to stop, KILLED."""
        tags = {"tokenmill.kind": "flow", "tokenmill.home": self.home.label, **tags}
        with self.home.starting:  # or who looks for dead runs would find one that does not hold its lock yet
            self._end_dead_runs()
            run = self.client.create_run(self.experiment_id, run_name=config.name, tags=tags)
            self.parent = run.info.run_id
            lock = self.home.store.lock(self.parent)
            lock.acquire()
        try:
            self._log_params(self.parent, config)
            yield self.parent
            self._delete_doubles()
            self.client.set_terminated(self.parent, "FINISHED")
        except BaseException as error:
            end_run(self.client, self.parent, *ending(error))
            raise
        finally:
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)

    def open_step(self, step: Step, tags: Mapping[str, str]) -> StepRun:
        """The child run of a step that is about to be built; `finish_step` or `StepRun.end` closes it.

        A step that a kill interrupted goes on in the run it had, so that its curves are whole.
        """
        identity = {
            "tokenmill.kind": step.type.kind,
            "tokenmill.step": step.type.name,
            "tokenmill.dataset": step.name,
            "tokenmill.fingerprint": step.fingerprint,
            "tokenmill.home": self.home.label,
            "tokenmill.inputs": json.dumps({role: str(ref) for role, ref in step.inputs.items()}),
            **({MLFLOW_PARENT_RUN_ID: self.parent} if self.parent else {}),
            **tags,
        }
        unfinished = self.client.search_runs(
            [self.experiment_id],
            f"tags.`tokenmill.fingerprint` = '{step.fingerprint}' and attributes.status != 'FINISHED' "
            f"and tags.`tokenmill.home` = '{self.home.label}'",
            max_results=1,
        )
        if unfinished:
            run_id = unfinished[0].info.run_id
            self.client.update_run(run_id, status="RUNNING")
            self.client.log_batch(run_id, tags=_run_tags(identity))
            if ENDED in unfinished[0].data.tags:
                self.client.delete_tag(run_id, ENDED)
        else:
            tags = {tag.key: tag.value for tag in _run_tags(identity)}
            run = self.client.create_run(self.experiment_id, run_name=f"{step.type.name} {step.name}", tags=tags)
            run_id = run.info.run_id
        self._log_params(run_id, step.config)
        return StepRun(self.client, run_id, self.home.unsent)

    def finish_step(
        self, run_id: str, dataset: Dataset, inputs: Mapping[str, Dataset], left_behind: bool = False
    ) -> None:
        """Record what a step made: statistics as metrics, inputs and output as datasets, the manifest, the model.

        It is done once, and for an experiment by one process at a time: who waited for a step finds it published before
        its builder has told MLflow, which fails where two tell it of the same dataset for the first time.

        Args:
            left_behind: the builder may have died, with curves that it could not send and a run that ended badly.
        """
        with self.home.store.lock(f"experiment-{self.experiment_id}"):
            if not self._is_incomplete(run_id, dataset):
                return
            if left_behind:
                StepRun(self.client, run_id, self.home.unsent).deliver()
            self._record(run_id, dataset, inputs)
            if left_behind and ENDED in self.client.get_run(run_id).data.tags:  # it came to a good end after all
                self.client.delete_tag(run_id, ENDED)

    def reuse_step(self, dataset: Dataset, inputs: Mapping[str, Dataset]) -> None:
        """Point from the parent run at the run that once built a step's result.

        A kill may have come after the result was published and before MLflow knew: then this makes up for it.
        """
        run_id = dataset.manifest.built.get("mlflow_run_id")
        if run_id and self._is_incomplete(run_id, dataset):
            self.finish_step(run_id, dataset, inputs, left_behind=True)
        if self.parent:
            key = f"tokenmill.reused.{dataset.ref.kind}.{dataset.ref.name}"
            self.client.set_tag(self.parent, key, run_id or "built outside MLflow")

    def register_model(self, dataset: Dataset, run_id: str) -> str:
        """Log a published model as an MLflow model, register it and give it the alias `champion` if there is none.

        Returns:
            `name/version` in the registry.
        """
        from flows.serving import log_model

        name = dataset.ref.name
        # Who waited for the step finds it published, perhaps before its builder has registered it.
        with self.home.store.lock(f"registry-{name}"):
            if not any(model.name == name for model in self.client.search_registered_models(f"name = '{name}'")):
                self.client.create_registered_model(name)
            known = self._registered_version(name, run_id)
            if known is None:
                info = log_model(dataset, run_id)
                tags = lineage_tags(dataset, self.home.store.list())
                made = self.client.create_model_version(name, info.model_uri, run_id, tags=tags, model_id=info.model_id)
                known = str(made.version)
                listed = json.dumps([{"name": name, "version": known}])  # as the page of the logged model wants it
                self.client.set_logged_model_tags(info.model_id, {MLFLOW_MODEL_VERSIONS: listed})
            aliases = self.client.get_registered_model(name).aliases
            if CHAMPION not in aliases:
                crown(self.client, name, known, "The first model of its name.")
            elif str(aliases[CHAMPION]) != known:
                self.client.set_registered_model_alias(name, CHALLENGER, known)
            return f"{name}/{known}"

    def summarise(self, name: str, outcomes: Sequence[Outcome], report: Path) -> dict[str, str]:
        """Give the parent run its report, a description, and the results of every evaluation.

        So whole runs can be compared. The pretrained model's metrics keep their names; those of others stand behind
        the model's name.

        Returns:
            Where a browser finds the report and the run's pages, by what is there.
        """
        assert self.parent
        datasets = [outcome.dataset for outcome in outcomes]
        now = int(time.time() * 1000)
        values = {
            key if dataset.ref.name == name else f"{dataset.ref.name}/{key}": float(value)
            for dataset in datasets
            if dataset.ref.kind == "evaluation"
            for key, value in dataset.manifest.statistics.items()
            if "/" in key and _is_number(value)
        }
        self.client.log_batch(self.parent, metrics=[Metric(_name(key), value, now, 0) for key, value in values.items()])
        self.client.log_artifact(self.parent, str(report))
        links = self.links()
        self.client.set_tag(self.parent, MLFLOW_RUN_NOTE, run_note(outcomes, links)[:MAX_TAG])
        return links

    def links(self) -> dict[str, str]:
        """Pages about the flow run: the report in MLflow, and Prefect's page if it runs under Prefect."""
        page = pages(self.home.path)
        assert self.parent
        run = self.client.get_run(self.parent)
        links = {
            "report": f"{page['mlflow']}/#/experiments/{self.experiment_id}/runs/{self.parent}/artifacts/report.html"
        }
        if flow_run := run.data.tags.get("prefect.flow_run_id"):
            links["Prefect's page on this run"] = f"{page['prefect']}/runs/flow-run/{flow_run}"
        return links

    def _record(self, run_id: str, dataset: Dataset, inputs: Mapping[str, Dataset]) -> None:
        statistics = dataset.manifest.statistics
        now = int(time.time() * 1000)
        metrics = [Metric(_name(key), float(value), now, 0) for key, value in statistics.items() if _is_number(value)]
        words = {f"tokenmill.{key}": value for key, value in statistics.items() if isinstance(value, str)}
        self.client.log_batch(run_id, metrics=metrics, tags=_run_tags({**words, "tokenmill.path": dataset.address}))
        entries = [*inputs.items(), ("output", dataset)]
        self.client.log_inputs(run_id, datasets=[_dataset_input(role, one) for role, one in entries])
        self.client.log_dict(run_id, json.loads(dataset.manifest.model_dump_json()), "manifest.json")
        self.client.set_tag(run_id, MLFLOW_RUN_NOTE, step_note(dataset, dataset.manifest.built["seconds"])[:MAX_TAG])
        self._log_figures(run_id, dataset, inputs)
        if dataset.ref.kind == "model":
            self.register_model(dataset, run_id)
        if dataset.ref.kind == "evaluation":
            self._log_mistakes(run_id, dataset)
        self.client.set_terminated(run_id, "FINISHED")

    def _log_figures(self, run_id: str, dataset: Dataset, inputs: Mapping[str, Dataset]) -> None:
        """The figures of a report as artifacts of the run that made the dataset."""
        for part in kinds.parts(dataset, inputs, warn=lambda sentence: None):
            if part.svg:
                self.client.log_text(run_id, standalone(part.svg), f"plots/{slug(part.title)}.svg")

    def _log_mistakes(self, run_id: str, dataset: Dataset) -> None:
        """A classifier's mistakes as a table to read. One that is there stays: MLflow would append to it."""
        there = {file.path for file in self.client.list_artifacts(run_id)}
        if "mistakes.parquet" in dataset.manifest.files and "mistakes.json" not in there:
            table = pq.read_table(dataset.file("mistakes.parquet")).to_pandas()
            self.client.log_table(run_id, table, "mistakes.json")

    def _log_params(self, run_id: str, config: Config) -> None:
        params = [Param(_name(key), value[:MAX_PARAM]) for key, value in flatten(config.model_dump(mode="json"))]
        for at in range(0, len(params), 100):  # MLflow takes a hundred at a time
            self.client.log_batch(run_id, params=params[at : at + 100])

    def _is_incomplete(self, run_id: str, dataset: Dataset) -> bool:
        """Whether a run of this experiment has not all that `finish_step` gives it."""
        runs = self.client.search_runs([self.experiment_id], f"attributes.run_id = '{run_id}'")
        if not runs:
            return False  # built by another experiment's run, or in another MLflow
        unregistered = dataset.ref.kind == "model" and not self._is_registered(dataset.ref.name, run_id)
        return runs[0].info.status != "FINISHED" or unregistered

    def _registered_version(self, name: str, run_id: str) -> str | None:
        versions = self.client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        return str(versions[0].version) if versions else None

    def _is_registered(self, name: str, run_id: str) -> bool:
        """Whether a model has its version, and its name a champion."""
        return bool(
            self._registered_version(name, run_id) and CHAMPION in self.client.get_registered_model(name).aliases
        )

    def _end_dead_runs(self) -> None:
        """Mark as killed the runs whose process is gone. A live one holds the lock of its flow run.

        Locks reach as far as a home, so where several machines track their runs in one place, each looks to its own.
        """
        running = f"attributes.status = 'RUNNING' and tags.`tokenmill.home` = '{self.home.label}'"
        for run in self.client.search_runs([self.experiment_id], running):
            lock = self.home.store.lock(run.data.tags.get(MLFLOW_PARENT_RUN_ID) or run.info.run_id)
            with suppress(Timeout), lock.acquire(timeout=0):
                if self.client.get_run(run.info.run_id).info.status == "RUNNING":  # it may have ended just now
                    end_run(self.client, run.info.run_id, "KILLED", LOST)
                Path(lock.lock_file).unlink(missing_ok=True)

    def _delete_doubles(self) -> None:
        """Delete child runs that nobody works on: MLflow's client asks again when an answer takes too long, and the
        server may have heard it both times.
        """
        doubles = f"attributes.status = 'RUNNING' and tags.`{MLFLOW_PARENT_RUN_ID}` = '{self.parent}'"
        for run in self.client.search_runs([self.experiment_id], doubles):
            self.client.delete_run(run.info.run_id)


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


def lineage_tags(dataset: Dataset, datasets: Sequence[Dataset]) -> dict[str, str]:
    """Where a model came from, as tags of its version: fingerprints and digests of what made it, near and far."""
    manifest = dataset.manifest
    inputs = {role: {"dataset": str(ref), "digest": ref.digest} for role, ref in manifest.inputs.items()}
    ancestors = [node for node in origins(dataset, datasets).nodes() if node.name != str(dataset.ref)]
    named = {kind: [node.name for node in ancestors if node.kind == kind] for kind in ("corpus", "model", "source")}
    tags = {
        "fingerprint": manifest.fingerprint,
        "digest": manifest.digest,
        "step": f"{manifest.step} v{manifest.step_version}",
        "inputs": json.dumps(inputs),
        "corpus": ", ".join(named["corpus"]),
        "parents": ", ".join(named["model"]),
        "sources": ", ".join(named["source"])[:MAX_TAG],
        "tokenizer": manifest.files["tokenizer.json"].sha256,
        "revision": str(manifest.built.get("revision", "")),
    }
    return {f"tokenmill.{key}": value for key, value in tags.items() if value}


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted key, text) pairs, as MLflow's params want them."""
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            pairs += flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)))
    return pairs


def _is_metric(told: Metric | Words) -> TypeGuard[Metric]:
    return isinstance(told, Metric)


def _name(key: str) -> str:
    """A key, which may hold a label of the user's, as MLflow takes it for the name of a metric or parameter."""
    plain = re.sub(r"[^\w/. :-]", "_", key)
    return "/".join(part if part.strip(".") else "_" for part in plain.split("/"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _run_tags(values: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(key, value[:MAX_TAG]) for key, value in values.items()]


ROWS = {
    "corpus": "documents",
    "tokens": "documents",
    "samples": "samples",
    "examples": "examples",
    "lessons": "lessons",
}
ELEMENTS = {"corpus": "bytes", "tokens": "tokens", "lessons": "tokens", "model": "parameters"}


def _dataset_input(role: str, dataset: Dataset) -> DatasetInput:
    manifest = dataset.manifest
    numbers = {key: value for key, value in manifest.statistics.items() if _is_number(value)}
    sizes = {"num_rows": ROWS.get(manifest.kind), "num_elements": ELEMENTS.get(manifest.kind)}
    profile = (
        {name: numbers[key] for name, key in sizes.items() if key in numbers} | {"bytes": manifest.bytes} | numbers
    )
    entity = MlflowDataset(
        name=f"{manifest.kind}/{manifest.name}",
        digest=manifest.digest[:36],  # MLflow's limit; its own digests miss changed rows
        source_type="local",
        source=json.dumps({"uri": dataset.address}),
        schema=json.dumps({"mlflow_colspec": [{"name": n, "type": t, "required": True} for n, t in columns(dataset)]}),
        profile=json.dumps(profile),
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", role)])
