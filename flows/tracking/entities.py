"""Datasets, parameters, metrics, tags and names in the form that MLflow accepts."""

import fnmatch
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.dataset as ds
from mlflow.entities import Dataset as MlflowDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from safetensors import safe_open

from flows.tracking.names import MAX_TAG, mlflow_names, params_of
from pipelines.store.dataset import Dataset
from pipelines.store.kinds import kind_of
from pipelines.store.lineage import origins


def lineage_tags(dataset: Dataset, datasets: Sequence[Dataset]) -> dict[str, str]:
    """Return the origin of a model as tags of its version: fingerprints and digests of all that it was made from."""
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


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number that fits a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER


def run_metrics(values: Mapping[str, Any]) -> list[Metric]:
    """Return the numbers among the values as metrics of a run that has no steps."""
    now, numbers = int(time.time() * 1000), {key: value for key, value in values.items() if is_number(value)}
    return [Metric(name, float(numbers[key]), now, 0) for key, name in mlflow_names(numbers).items()]


def run_params(config: Mapping[str, str]) -> list[Param]:
    """Return a flat config as parameters of a run."""
    return [Param(name, value) for name, value in params_of(config).items()]


def run_tags(values: Mapping[str, str]) -> list[RunTag]:
    """Return tags of a run."""
    return [RunTag(key[:MAX_KEY], value[:MAX_TAG]) for key, value in values.items()]


def dataset_input(role: str, dataset: Dataset) -> DatasetInput:
    """Return a dataset as an input of a run, with its columns and statistics."""
    manifest = dataset.manifest
    numbers = {key: value for key, value in manifest.statistics.items() if is_number(value)}
    kind = kind_of(manifest.kind)
    sizes = {"num_rows": kind.rows, "num_elements": kind.elements}
    profile = {name: numbers[key] for name, key in sizes.items() if key in numbers}
    schema = json.dumps({"mlflow_colspec": [{"name": n, "type": t, "required": True} for n, t in columns(dataset)]})
    entity = MlflowDataset(
        name=f"{manifest.kind}/{manifest.name}",
        digest=manifest.digest[:36],  # MLflow's limit; its own digests miss changed rows
        source_type="local",
        source=json.dumps({"uri": dataset.address}),
        schema=schema if len(schema) <= MAX_SCHEMA else None,
        profile=json.dumps({**profile, "bytes": manifest.bytes, **numbers}),
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", role)])


def columns(dataset: Dataset) -> list[tuple[str, str]]:
    """Return name and type, as MLflow calls it, of the columns of a dataset's rows or of the tensors of a model."""
    found = sorted(fnmatch.filter(dataset.manifest.files, kind_of(dataset.manifest.kind).columns_from))
    if not found:
        return []
    path = dataset.file(found[0])
    if path.suffix == ".safetensors":
        with safe_open(path, "numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - not a mapping
        return [(name, f"{each.get_dtype()} {each.get_shape()}") for name, each in slices.items()]
    schema = ds.dataset(path, format=path.suffix[1:]).schema
    return [(field.name, MLFLOW_TYPES.get(str(field.type), str(field.type))) for field in schema]


MAX_NUMBER = math.nextafter(math.inf, 0)
MAX_KEY, MAX_SCHEMA = 250, 1_048_575
"""The longest key of a tag and the longest list of columns that MLflow takes."""


MLFLOW_TYPES = {"int64": "long", "int32": "integer", "bool": "boolean", "large_string": "string"}
