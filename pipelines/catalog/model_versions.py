"""The table `models`: every version of every model, with its aliases, the decision about it and its metrics."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa

from pipelines.catalog.columns import arrow_schema
from pipelines.catalog.registry import DECIDED, DECISION, WHY, ModelVersion, registered
from pipelines.catalog.selection import Selection
from pipelines.store.dataset import Dataset
from pipelines.store.manifest import Ref

COLUMNS = (
    "model VARCHAR, version BIGINT, aliases VARCHAR[], decision VARCHAR, decided_at TIMESTAMPTZ, why VARCHAR, "
    "published_at TIMESTAMPTZ, task VARCHAR, parameters BIGINT, metrics JSON, ref VARCHAR, run_id VARCHAR"
)
COMMENT = "Every version of every model, with the decision about it and the metrics of its newest evaluation."


def read(selection: Selection, tracking_uri: str) -> pa.Table:
    """Return the registered versions, and the published models that no registry names, whose version is null.

    Raises:
        InputError: the registry cannot be read.
    """
    return pa.Table.from_pylist(list(_rows(selection, registered(tracking_uri))), arrow_schema(COLUMNS))


def _rows(selection: Selection, versions: list[ModelVersion]) -> Iterator[dict[str, Any]]:
    datasets = selection.store.list()
    models = {each.ref.fingerprint: each for each in datasets if each.ref.kind == "model"}
    metrics = {
        each.manifest.inputs["model"]: _metrics(each)
        for each in datasets
        if _judges_a_model(each) and not is_on_new_data(each)
    }
    for version in versions:
        tags = version.tags
        yield {
            "model": version.name,
            "version": version.version,
            "aliases": list(version.aliases),
            "decision": tags.get(DECISION),
            "decided_at": datetime.fromisoformat(tags[DECIDED]) if DECIDED in tags else None,
            "why": tags.get(WHY),
            **_published(models.get(version.fingerprint or ""), metrics),
        }
    known = {version.fingerprint for version in versions}
    for model in models.values():
        if model.ref.fingerprint not in known:
            yield {"model": model.ref.name, **_published(model, metrics)}


def _published(model: Dataset | None, metrics: Mapping[Ref, str]) -> dict[str, Any]:
    if model is None:
        return {}
    manifest = model.manifest
    return {
        "published_at": datetime.fromisoformat(manifest.built["at"]),
        "task": manifest.statistics.get("task"),
        "parameters": manifest.statistics.get("parameters"),
        "metrics": metrics.get(model.ref),
        "ref": str(model.ref),
        "run_id": manifest.built.get("mlflow_run_id"),
    }


def _judges_a_model(dataset: Dataset) -> bool:
    return dataset.ref.kind == "evaluation" and "model" in dataset.manifest.inputs


def is_on_new_data(evaluation: Dataset) -> bool:
    """Return whether an evaluation is on data that somebody brought later, and not on held-out data of a run."""
    return evaluation.ref.name.startswith(on_new_data(evaluation.manifest.inputs["model"].name))


def on_new_data(model: str) -> str:
    """Return the beginning of the names of a model's evaluations on new data."""
    return f"{model[:40]}-on-"


def _metrics(evaluation: Dataset) -> str:
    return json.dumps({name: value for name, value in evaluation.manifest.statistics.items() if "/" in name})
