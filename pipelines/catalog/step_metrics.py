"""The table `metrics`: each result of each step once, with the model that it is about.

MLflow has a result twice: a step's run has it, and the run of the whole flow carries a copy, for people to compare.
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa

from pipelines.catalog import runs
from pipelines.catalog.columns import arrow_schema
from pipelines.catalog.registry import registered

COLUMNS = (
    "model VARCHAR, version BIGINT, task VARCHAR, run VARCHAR, run_id VARCHAR, logged_at TIMESTAMPTZ, latest BOOLEAN, "
    "stage VARCHAR, metric VARCHAR, step BIGINT, value DOUBLE"
)
COMMENT = "Every value of every metric of every step; `stage` is the first part of a metric's name, such as `val`."
OF_FLOW = "system/"  # the metrics that no step's run has


class Subject(NamedTuple):
    """What the metrics of a run are about."""

    is_flow: bool
    task: str | None
    model: str | None
    fingerprint: str


def read(tracking_uri: str) -> pa.Table:
    """Return the metrics of every step's run, and of runs that are not tokenmill's.

    Raises:
        InputError: MLflow's runs or its registry cannot be read.
    """
    table = runs.read("metrics", tracking_uri)
    tracked = runs.read("runs", tracking_uri).select(["run_id", "tags"]).to_pylist()
    subjects = {run["run_id"]: _subject(json.loads(run["tags"] or "{}")) for run in tracked}
    versions = {each.fingerprint[:12]: each.version for each in registered(tracking_uri) if each.fingerprint}
    of_rows = [subjects[run_id] for run_id in table["run_id"].to_pylist()]
    metrics = table["metric"].to_pylist()
    added = {
        "model": [each.model for each in of_rows],
        "version": [versions.get(each.fingerprint) for each in of_rows],
        "task": [each.task for each in of_rows],
        "stage": [metric.partition("/")[0] if "/" in metric else None for metric in metrics],
    }
    schema = arrow_schema(COLUMNS)
    columns = [
        pa.array(added[field.name], field.type) if field.name in added else table[field.name] for field in schema
    ]
    once = [not s.is_flow or m.startswith(OF_FLOW) for s, m in zip(of_rows, metrics, strict=True)]
    return pa.table(columns, schema=schema).filter(pa.array(once, pa.bool_()))


TASK_OF = {"pretrain": "language", "finetune-classifier": "classification", "finetune-assistant": "instruction"}
"""By step: MLflow has the task of a model when its training is done."""


def _subject(tags: Mapping[str, str]) -> Subject:
    kind, step = tags.get("tokenmill.kind"), tags.get("tokenmill.step", "")
    inputs = json.loads(tags.get("tokenmill.inputs") or "{}")
    name: str | None = None
    fingerprint = ""
    if kind == "model":
        name, fingerprint = tags.get("tokenmill.dataset"), tags.get("tokenmill.fingerprint", "")[:12]
    elif kind == "evaluation" and "model" in inputs:
        name, _, fingerprint = inputs["model"].removeprefix("model/").partition("@")
    return Subject(kind == "flow", tags.get("tokenmill.task") or TASK_OF.get(step), name, fingerprint)
