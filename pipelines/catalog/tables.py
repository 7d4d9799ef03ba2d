"""The store itself as tables: its datasets, their manifests, the steps that built them, their lineage and shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

import pyarrow as pa

from pipelines.catalog.views import VIEWS, batches, files_of
from pipelines.store import lineage
from pipelines.store.dataset import Dataset
from pipelines.store.store import Store

_TIME, _JSON = pa.timestamp("ms", tz="UTC"), pa.json_(pa.string())


DATASETS = pa.schema(
    [
        ("kind", pa.string()),
        ("name", pa.string()),
        ("version", pa.string()),
        ("newest", pa.bool_()),
        ("published_at", _TIME),
        ("step", pa.string()),
        ("seconds", pa.float64()),
        ("files", pa.int64()),
        ("bytes", pa.int64()),
        ("statistics", _JSON),
        ("config", _JSON),
        ("run_id", pa.string()),
        ("ref", pa.string()),
        ("fingerprint", pa.string()),
        ("digest", pa.string()),
        ("path", pa.string()),
    ]
)


MANIFESTS = pa.schema([("ref", pa.string()), ("manifest", _JSON)])


STEPS = pa.schema(
    [
        ("step", pa.string()),
        ("step_version", pa.int64()),
        ("output", pa.string()),
        ("inputs", pa.list_(pa.string())),
        ("finished_at", _TIME),
        ("seconds", pa.float64()),
        ("run_id", pa.string()),
        ("code", pa.string()),
        ("built", _JSON),
    ]
)


LINEAGE = pa.schema([(each.name, pa.int64() if each.type == "int" else pa.string()) for each in fields(lineage.Edge)])


SHARDS = pa.schema(
    [
        ("dataset", pa.string()),
        ("shard", pa.int32()),
        ("split", pa.string()),
        ("documents", pa.int64()),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),
        ("file", pa.string()),
    ]
)


def datasets(store: Store) -> pa.Table:
    """Every version of every dataset and model."""
    found = store.list()
    newest = {(dataset.manifest.kind, dataset.manifest.name): dataset.ref for dataset in found}

    def row(dataset: Dataset) -> dict[str, Any]:
        m = dataset.manifest
        return {
            "kind": m.kind,
            "name": m.name,
            "version": m.fingerprint[:12],
            "newest": newest[m.kind, m.name] == m.ref,
            "published_at": datetime.fromisoformat(m.built["at"]),
            "step": m.step,
            "seconds": m.built.get("seconds"),
            "files": len(m.files),
            "bytes": m.bytes,
            "statistics": json.dumps(m.statistics),
            "config": json.dumps(m.config),
            "run_id": m.built.get("mlflow_run_id"),
            "ref": str(m.ref),
            "fingerprint": m.fingerprint,
            "digest": m.digest,
            "path": dataset.address,
        }

    return pa.Table.from_pylist([row(dataset) for dataset in found], DATASETS)


def manifests(store: Store) -> pa.Table:
    """The manifest of every version, as it is on disk."""
    rows = [{"ref": str(each.ref), "manifest": each.manifest.model_dump_json()} for each in store.list()]
    return pa.Table.from_pylist(rows, MANIFESTS)


def steps(store: Store) -> pa.Table:
    """What was run to build each version."""
    rows = [
        {
            "step": m.step,
            "step_version": m.step_version,
            "output": str(m.ref),
            "inputs": [str(ref) for ref in m.inputs.values()],
            "finished_at": datetime.fromisoformat(m.built["at"]),
            "seconds": m.built.get("seconds"),
            "run_id": m.built.get("mlflow_run_id"),
            "code": m.code,
            "built": json.dumps(m.built),
        }
        for m in (dataset.manifest for dataset in store.list())
    ]
    return pa.Table.from_pylist(rows, STEPS)


def lineage_table(store: Store) -> pa.Table:
    """What went into what, near and far."""
    return pa.Table.from_pylist([asdict(edge) for edge in lineage.edges(store.list())], LINEAGE)


def shards(tokens: Mapping[str, Dataset]) -> pa.Table:
    """The shards of token datasets, by the name that the catalog shows."""
    rows = [
        {
            "dataset": label,
            "shard": shard,
            "split": batch["split"][0].as_py() if batch.num_rows else None,
            "documents": batch.num_rows,
            "tokens": len(batch["tokens"].flatten()),
            "bytes": dataset.manifest.files[name].bytes,
            "file": str(dataset.path / name),
        }
        for label, dataset in tokens.items()
        for shard, name in enumerate(files_of(dataset, VIEWS["tokens"].files))
        for batch in batches(dataset.path / name)
    ]
    return pa.Table.from_pylist(rows, SHARDS)
