"""MLflow: the index over manifests that people look at.

One experiment per pipeline, one parent run per flow run, one child run per step that was built. All calls go
through `MlflowClient` with a run id: MLflow's active run belongs to a thread, and Prefect has several.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import pyarrow.parquet as pq
from filelock import Timeout
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from flows.home import Home
from flows.outcome import Outcome
from flows.servers.mlflow_database import ensure_mlflow_database
from flows.servers.stack import pages
from flows.tracking.entities import (
    MAX_PARAM,
    MAX_TAG,
    dataset_input,
    flatten,
    is_number,
    lineage_tags,
    mlflow_name,
    run_tags,
)
from flows.tracking.notes import run_note, step_note
from flows.tracking.registry import crown
from flows.tracking.step_run import ENDED, StepRun, end_run, ending
from gpt.config import Config
from pipelines.catalog.registry import CHALLENGER, CHAMPION
from pipelines.config import RunConfig
from pipelines.report.charts import standalone
from pipelines.report.figures import kinds
from pipelines.report.figures.part import slug
from pipelines.store.dataset import Dataset
from pipelines.store.step import Step

LOST = "Its process died, or could not tell MLflow how it ended; the next run noticed."


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
            self.client.log_batch(run_id, tags=run_tags(identity))
            if ENDED in unfinished[0].data.tags:
                self.client.delete_tag(run_id, ENDED)
        else:
            tags = {tag.key: tag.value for tag in run_tags(identity)}
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
        from flows.tracking.logged_model import log_model

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
            if "/" in key and is_number(value)
        }
        self.client.log_batch(
            self.parent, metrics=[Metric(mlflow_name(key), value, now, 0) for key, value in values.items()]
        )
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
        metrics = [
            Metric(mlflow_name(key), float(value), now, 0) for key, value in statistics.items() if is_number(value)
        ]
        words = {f"tokenmill.{key}": value for key, value in statistics.items() if isinstance(value, str)}
        self.client.log_batch(run_id, metrics=metrics, tags=run_tags({**words, "tokenmill.path": dataset.address}))
        entries = [*inputs.items(), ("output", dataset)]
        self.client.log_inputs(run_id, datasets=[dataset_input(role, one) for role, one in entries])
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
        params = [Param(mlflow_name(key), value[:MAX_PARAM]) for key, value in flatten(config.model_dump(mode="json"))]
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
