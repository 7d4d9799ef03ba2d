"""Tracks flow runs and steps in MLflow: the index over manifests that people look at.

There is one experiment for a pipeline, one parent run for a flow run, and one child run for a step that was built. All
calls go through `MlflowClient` with a run id, because MLflow's active run belongs to a thread and Prefect has several.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.parquet as pq
from filelock import Timeout
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from flows.console import warn
from flows.home import Home
from flows.label import NO_LABEL, Label
from flows.outcome import new_outcomes
from flows.servers.mlflow_database import ensure_mlflow_database
from flows.servers.stack import pages
from flows.tracking.earlier import Distinction, distinguish
from flows.tracking.entities import dataset_input, run_metrics, run_params, run_tags
from flows.tracking.names import MAX_TAG
from flows.tracking.notes import about_run, run_note, step_note
from flows.tracking.refusals import going_without, is_refusal
from flows.tracking.registry import register_model, registered_version
from flows.tracking.source import source_tags
from flows.tracking.step_run import ENDED, StepRun, end_run
from flows.tracking.view import VIEW, save_view
from pipelines.addresses import without_secrets
from pipelines.changes import change_lines, flat
from pipelines.config import RunConfig
from pipelines.report.charts import standalone
from pipelines.report.figures import kinds
from pipelines.report.figures.part import slug
from pipelines.store.dataset import Dataset
from pipelines.store.step import Step, Stopped


class Tracker:
    """Writes one flow run, and the runs of its steps, into MLflow.

    Args:
        home: the home whose runs these are.
        experiment: the experiment's name, which is created if there is none.
    """

    def __init__(self, home: Home, experiment: str) -> None:
        mlflow.set_tracking_uri(home.mlflow_uri)
        ensure_mlflow_database(home.mlflow_uri, home.artifacts)
        self.client = MlflowClient(home.mlflow_uri)
        self.home, self.pages = home, pages(home.path)
        self.experiment_id = self._experiment(experiment)
        self.parent = ""
        self.parent_run: StepRun | None = None
        self.pipeline, self.about, self.prefect_run = experiment, "", ""
        self.distinction = Distinction()
        self.done = new_outcomes()
        self.source = source_tags("tokenmill")
        self._copied: set[str] = set()
        self.is_ours = f"tags.`tokenmill.home` = '{home.label}'"  # a filter of runs

    def _experiment(self, name: str) -> str:
        if found := self.client.get_experiment_by_name(name):
            if found.lifecycle_stage == "deleted":
                self.client.restore_experiment(found.experiment_id)
                warn(f"MLflow's experiment {name} was deleted; it is restored, because this run belongs to it.")
            return str(found.experiment_id)
        # A server decides where it stores artifacts.
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
    def flow_run(self, config: RunConfig, tags: Mapping[str, str], label: Label = NO_LABEL) -> Iterator[str]:
        """Open the parent run of a flow; it ends as FINISHED, as FAILED or, if the flow was stopped, as KILLED."""
        self.distinction = distinguish(self.home, config, label)
        before = self.distinction.before
        self.about = about_run(
            label, (before.name, self._address(before.run_id)) if before else None, self.distinction.changed
        )
        self.prefect_run = tags.get("prefect.flow_run_id", "")
        self.source |= {key: value for key, value in tags.items() if key.startswith("mlflow.source.")}
        with self.home.starting:  # or another process would take the run, not locked yet, for one of a dead process
            self._end_dead_runs()
            own = {**self._tags(label), **tags}
            run = self.client.create_run(self.experiment_id, run_name=self.distinction.title, tags=own)
            self.parent = run.info.run_id
            lock = self.home.store.lock(self.parent)
            lock.acquire()
        self.parent_run = StepRun(self.client, self.parent, self.home.unsent)
        try:
            self.client.set_tag(self.parent, MLFLOW_RUN_NOTE, self._note())
            self._log_config(run, config, label)
            self.parent_run.measure(run.info.start_time / 1000)
            yield self.parent
            self.parent_run.deliver()
            self._delete_doubles()
            self.client.set_terminated(self.parent, "FINISHED")
        except BaseException as error:
            self.parent_run.end(error, self._note())
            raise
        finally:
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)

    def _tags(self, label: Label) -> dict[str, str]:
        """Return the tags of the flow's run, besides those of its caller."""
        texts = {"set": ", ".join(label.overrides), "differs": "; ".join(change_lines(self.distinction.changed))}
        return {
            **label.tags_by_key,
            "tokenmill.kind": "flow",
            "tokenmill.home": self.home.label,
            **{f"tokenmill.{key}": without_secrets(text)[:MAX_TAG] for key, text in texts.items() if text},
            **self.source,
        }

    def _log_config(self, run: Run, config: RunConfig, label: Label) -> None:
        """Log the config of the flow's run, and show what changed in the columns of the experiment."""
        if isinstance(config, RunConfig):
            # The names of pretraining's parameters are also those of its own run, so that both can be compared.
            self._log_params(run, {**flat(config.pretrain), **flat(config)})
            save_view(self.client, self.experiment_id, config, [*self.distinction.changed, *label.set_keys])
        else:  # an evaluation on new data
            self._log_params(run, flat(config))

    def _note(self, links: Mapping[str, str] = {}) -> str:
        """Return the description of the flow's run as far as it has come."""
        return run_note(self.about, self.done, {**links, **self._links()})[:MAX_TAG]

    def _links(self) -> dict[str, str]:
        """Return addresses of pages about the flow's run, by title."""
        runs = f"{self.pages['mlflow']}/#/experiments/{self.experiment_id}/runs?viewStateShareKey={VIEW}"
        links = {"all runs with what differs": runs}
        if self.prefect_run:
            links["Prefect's page on this run"] = f"{self.pages['prefect']}/runs/flow-run/{self.prefect_run}"
        return links

    def _address(self, run_id: str) -> str:
        """Return the address of a run's page."""
        return f"{self.pages['mlflow']}/#/experiments/{self.experiment_id}/runs/{run_id}"

    def open_step(self, step: Step, tags: Mapping[str, str]) -> StepRun:
        """Open the child run of a step that is about to be built; `finish_step` or `StepRun.end` closes it.

        A step that was interrupted continues in its earlier run, so its curves are complete.
        """
        run = self._open(step, tags)
        prefix = self._prefix(step.name)
        if step.type.kind == "model":
            self._copy_curves(run.info.run_id, prefix)  # of an interrupted attempt
        step_run = StepRun(self.client, run.info.run_id, self.home.unsent, self.parent_run, prefix)
        step_run.measure(run.info.start_time / 1000)
        return step_run

    def _open(self, step: Step, tags: Mapping[str, str]) -> Run:
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
        interrupted = f"{self._of(step)} and attributes.status != 'FINISHED'"
        if runs := self.client.search_runs([self.experiment_id], interrupted, max_results=1):
            run = runs[0]
            self.client.update_run(run.info.run_id, status="RUNNING")
            self._log(run.info.run_id, tags=run_tags(identity))
            for tag in run.data.tags.keys() & {ENDED, MLFLOW_RUN_NOTE}:  # why the interrupted attempt ended
                self.client.delete_tag(run.info.run_id, tag)
        else:
            name = " · ".join(filter(None, [step.title, self.distinction.what]))
            run = self.client.create_run(self.experiment_id, run_name=name, tags=identity | self.source)
        self._log_params(run, flat(step.config))
        return run

    def _prefix(self, model: str) -> str:
        """Return what the names of a model's metrics begin with in the flow's run: the pretrained one's are bare."""
        return "" if model == self.pipeline else f"{model}/"

    def finish_step(self, run_id: str, dataset: Dataset, inputs: Mapping[str, Dataset]) -> None:
        """Log the result of a step: statistics as metrics, inputs and output as datasets, the manifest, the model.

        It is logged once, by one process of an experiment at a time. A process that waited for a step finds the result
        published before the builder has logged it, and MLflow fails if two processes log a new dataset at once.

        Args:
            run_id: the run that built the result.
            dataset: the result.
            inputs: the step's inputs by role.
        """
        with self.home.store.lock(f"experiment-{self.experiment_id}"):
            if self._is_incomplete(run_id, dataset):
                StepRun(self.client, run_id, self.home.unsent).deliver()  # what a builder that died has not sent
                self._log_result(run_id, dataset, inputs)
                if ENDED in self.client.get_run(run_id).data.tags:  # it ended well after all
                    self.client.delete_tag(run_id, ENDED)
        self._copy(run_id, dataset)

    def reuse_step(self, step: Step, dataset: Dataset) -> None:
        """Link the parent run to the run that built a step's result.

        If the builder died after it published the result, what it has not logged is logged now. If MLflow does not
        know the run, because it or the whole database was deleted or is another one, what the manifest says is logged.
        """
        run_id = dataset.manifest.built.get("mlflow_run_id")
        if run_id:
            run_id = self._known_run(run_id, step)
            if self._is_incomplete(run_id, dataset):
                self.finish_step(run_id, dataset, step.inputs)
        self._copy(run_id, dataset)
        if self.parent:
            key = f"tokenmill.reused.{dataset.ref.kind}.{dataset.ref.name}"
            self.client.set_tag(self.parent, key, run_id or "built outside MLflow")

    def _known_run(self, run_id: str, step: Step) -> str:
        """Return the run that built a step, or one in its place if MLflow has it no longer."""
        with self.home.store.lock(f"experiment-{self.experiment_id}"):
            try:
                if self.client.get_run(run_id).info.lifecycle_stage == "active":
                    return run_id
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            if runs := self.client.search_runs([self.experiment_id], self._of(step), max_results=1):
                return str(runs[0].info.run_id)
            return str(self._open(step, {}).info.run_id)

    def _of(self, step: Step) -> str:
        """Return a filter of the runs of a step in this home."""
        return f"tags.`tokenmill.fingerprint` = '{step.fingerprint}' and {self.is_ours}"

    def _copy(self, run_id: str | None, dataset: Dataset) -> None:
        """Log a model's or an evaluation's numbers, and a model's curves, to the flow's run too, which people compare.

        The pretrained model's keep their names. The names of the others' start with the model's name.
        """
        if not self.parent or dataset.ref.kind not in ("model", "evaluation") or str(dataset) in self._copied:
            return
        self._copied.add(str(dataset))
        is_model, prefix = dataset.ref.kind == "model", self._prefix(dataset.ref.name)
        numbers = dataset.manifest.statistics.items()
        # Only the evaluation's own run has intervals: the list of compared metrics stays short.
        values = {f"{prefix}{key}": n for key, n in numbers if is_model or ("/" in key and "-interval/" not in key)}
        self._log(self.parent, metrics=run_metrics(values))
        if is_model and run_id:
            self._copy_curves(run_id, prefix)

    def _copy_curves(self, run_id: str, prefix: str) -> None:
        """Log what the curves of a training have and those of the flow's run lack."""
        if not self.parent_run:
            return
        self.parent_run.flush()
        missing: list[Metric] = []
        for key in self.client.get_run(run_id).data.metrics:
            if key.startswith(("train/", "val/")):
                logged = self.client.get_metric_history(self.parent, f"{prefix}{key}")
                has = {(point.step, point.timestamp) for point in logged}
                points = self.client.get_metric_history(run_id, key)
                new = [point for point in points if (point.step, point.timestamp) not in has]
                missing += [Metric(f"{prefix}{key}", point.value, point.timestamp, point.step) for point in new]
        for at in range(0, len(missing), 1000):  # MLflow takes a thousand at a time
            self._log(self.parent, metrics=missing[at : at + 1000])

    def summarise(self, report: Path) -> str:
        """Log the report and a description to the parent run; return the address of the report."""
        self.client.log_artifact(self.parent, str(report))
        address = f"{self._address(self.parent)}/artifacts/report.html"
        self.client.set_tag(self.parent, MLFLOW_RUN_NOTE, self._note({"report": address}))
        self._name_for_version()
        return address

    def _name_for_version(self) -> None:
        """Rename a run that differs in nothing from the run before for the version of the model that it has trained."""
        for outcome in self.done if self.distinction.before and not self.distinction.what else ():
            ref, run_id = outcome.dataset.ref, outcome.dataset.manifest.built.get("mlflow_run_id", "")
            is_ours = (ref.kind, ref.name) == ("model", self.pipeline) and not outcome.reused and not outcome.summary
            if is_ours and (version := registered_version(self.client, ref.name, run_id)):
                self.client.update_run(self.parent, name=f"{ref.name}/{version}")

    def _log_result(self, run_id: str, dataset: Dataset, inputs: Mapping[str, Dataset]) -> None:
        manifest = dataset.manifest
        texts = {f"tokenmill.{key}": value for key, value in manifest.statistics.items() if isinstance(value, str)}
        tags = run_tags({**texts, "tokenmill.path": dataset.address})
        self._log(run_id, metrics=run_metrics(manifest.statistics), tags=tags)
        datasets = {**inputs, "output": dataset}
        with going_without(f"the list of {dataset}'s inputs in MLflow"):
            self.client.log_inputs(run_id, datasets=[dataset_input(role, each) for role, each in datasets.items()])
        self.client.log_dict(run_id, json.loads(manifest.model_dump_json()), "manifest.json")
        self.client.set_tag(run_id, MLFLOW_RUN_NOTE, step_note(dataset, manifest.built["seconds"])[:MAX_TAG])
        for part in kinds.parts(dataset, inputs, warn=lambda sentence: None):
            if part.svg:
                self.client.log_text(run_id, standalone(part.svg), f"plots/{slug(part.title)}.svg")
        if manifest.kind == "model":
            register_model(self.client, self.home, dataset, run_id)
        if manifest.kind == "evaluation":
            self._log_mistakes(run_id, dataset)
        self.client.set_terminated(run_id, "FINISHED")

    def _log_mistakes(self, run_id: str, dataset: Dataset) -> None:
        """Log a classifier's mistakes as a table, unless there is one: MLflow would append to it."""
        logged = {file.path for file in self.client.list_artifacts(run_id)}
        if "mistakes.parquet" in dataset.manifest.files and "mistakes.json" not in logged:
            table = pq.read_table(dataset.file("mistakes.parquet")).to_pandas()
            self.client.log_table(run_id, table, "mistakes.json")

    def _log_params(self, run: Run, config: Mapping[str, str]) -> None:
        """Log a flat config.

        MLflow changes no parameter of a run, so a tag holds what an earlier attempt logged otherwise. This is a place,
        such as the path of a source: an attempt at the same step differs in nothing else.
        """
        logged, params = run.data.params, run_params(config)
        new = [each for each in params if each.key not in logged]
        for at in range(0, len(new), 100):  # MLflow takes a hundred at a time
            self._log(run.info.run_id, params=new[at : at + 100])
        differs = [each for each in params if logged.get(each.key, each.value) != each.value]
        if changed := {f"tokenmill.changed.{each.key}": each.value for each in differs}:
            self._log(run.info.run_id, tags=run_tags(changed))

    def _log(
        self, run_id: str, *, metrics: Sequence[Metric] = (), params: Sequence[Param] = (), tags: Sequence[RunTag] = ()
    ) -> None:
        """Log metrics, parameters and tags; leave out those that MLflow refuses, with a word about each."""
        try:
            self.client.log_batch(run_id, metrics, params, tags)
        except MlflowException as error:
            if not is_refusal(error):
                raise
            refused: dict[str, Sequence[Any]] = {"metrics": metrics, "params": params, "tags": tags}
            for kind, values in refused.items():
                for value in values:
                    alone: Any = {kind: [value]}
                    with going_without(f"{value.key!r} in MLflow"):
                        self.client.log_batch(run_id, **alone)

    def _is_incomplete(self, run_id: str, dataset: Dataset) -> bool:
        """Return whether a run of this experiment lacks something that `finish_step` logs."""
        runs = self.client.search_runs([self.experiment_id], f"attributes.run_id = '{run_id}'")
        if not runs:
            return False  # built by another experiment's run
        finished = runs[0].info.status == "FINISHED"
        if not finished or dataset.ref.kind != "model":
            return not finished
        return registered_version(self.client, dataset.ref.name, run_id) is None

    def _end_dead_runs(self) -> None:
        """Mark runs as killed whose process has died. A living process holds the lock of its flow run.

        Locks belong to a home. Where several machines track their runs in one MLflow, each checks its own runs.
        """
        lost = Stopped("Its process died, or could not tell MLflow how it ended; the next run noticed.")
        running = f"attributes.status = 'RUNNING' and {self.is_ours}"
        for run in self.client.search_runs([self.experiment_id], running):
            lock = self.home.store.lock(run.data.tags.get(MLFLOW_PARENT_RUN_ID) or run.info.run_id)
            with suppress(Timeout), lock.acquire(timeout=0):
                if self.client.get_run(run.info.run_id).info.status == "RUNNING":  # it may have ended just now
                    if MLFLOW_PARENT_RUN_ID not in run.data.tags:  # a step's run is delivered when the step continues
                        StepRun(self.client, run.info.run_id, self.home.unsent).deliver()
                    end_run(self.client, run.info.run_id, lost, run.data.tags.get(MLFLOW_RUN_NOTE, ""))
                Path(lock.lock_file).unlink(missing_ok=True)

    def _delete_doubles(self) -> None:
        """Delete child runs that no step uses.

        MLflow's client repeats a request whose answer takes too long, and the server may have carried out both.
        """
        doubles = f"attributes.status = 'RUNNING' and tags.`{MLFLOW_PARENT_RUN_ID}` = '{self.parent}'"
        for run in self.client.search_runs([self.experiment_id], doubles):
            self.client.delete_run(run.info.run_id)
