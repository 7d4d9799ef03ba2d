"""The store itself as tables: its datasets, their manifests, the steps that built them, their lineage and shards."""

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines.catalog.columns import arrow_schema
from pipelines.catalog.selection import Selection
from pipelines.store import lineage
from pipelines.store.kinds import TOKENS
from pipelines.tokens.mapped import map_batches


class StoreTable(NamedTuple):
    """A table about the store: its columns, what it shows, and the function that makes its rows."""

    columns: str
    comment: str
    rows: Callable[[Selection], list[dict[str, Any]]]


def read(table: str, selection: Selection) -> pa.Table:
    """Return one of `TABLES` as it is now."""
    return pa.Table.from_pylist(TABLES[table].rows(selection), arrow_schema(TABLES[table].columns))


def _datasets(selection: Selection) -> list[dict[str, Any]]:
    found = selection.store.list()
    newest = {(dataset.manifest.kind, dataset.manifest.name): dataset.ref for dataset in found}
    return [
        {
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
        for dataset in found
        for m in [dataset.manifest]
    ]


def _steps(selection: Selection) -> list[dict[str, Any]]:
    return [
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
        for m in (dataset.manifest for dataset in selection.store.list())
    ]


def _shards(selection: Selection) -> list[dict[str, Any]]:
    return [
        {
            "dataset": label,
            "shard": shard,
            "split": batch["split"][0].as_py() if batch.num_rows else None,
            "documents": batch.num_rows,
            "tokens": len(batch["tokens"].flatten()),
            "bytes": dataset.manifest.files[path.name].bytes,
            "file": str(path),
        }
        for label, dataset in selection.datasets_in(TOKENS)
        for shard, path in enumerate(dataset.files(TOKENS.files))
        for batch in map_batches(dataset, path.name)
    ]


TABLES = {
    "datasets": StoreTable(
        "kind VARCHAR, name VARCHAR, version VARCHAR, newest BOOLEAN, published_at TIMESTAMPTZ, step VARCHAR, "
        "seconds DOUBLE, files BIGINT, bytes BIGINT, statistics JSON, config JSON, run_id VARCHAR, ref VARCHAR, "
        "fingerprint VARCHAR, digest VARCHAR, path VARCHAR",
        "Every version of every dataset and model.",
        _datasets,
    ),
    "manifests": StoreTable(
        "ref VARCHAR, manifest JSON",
        "The manifest of every version.",
        lambda selection: [
            {"ref": str(d.ref), "manifest": d.manifest.model_dump_json()} for d in selection.store.list()
        ],
    ),
    "steps": StoreTable(
        "step VARCHAR, step_version BIGINT, output VARCHAR, inputs VARCHAR[], finished_at TIMESTAMPTZ, "
        "seconds DOUBLE, run_id VARCHAR, code VARCHAR, built JSON",
        "What was run to build each version.",
        _steps,
    ),
    "lineage": StoreTable(
        "output VARCHAR, output_kind VARCHAR, input VARCHAR, input_kind VARCHAR, role VARCHAR, distance BIGINT, "
        "digest VARCHAR",
        "What went into what, near and far.",
        lambda selection: [asdict(edge) for edge in lineage.edges(selection.store.list())],
    ),
    "shards": StoreTable(
        "dataset VARCHAR, shard INTEGER, split VARCHAR, documents BIGINT, tokens BIGINT, bytes BIGINT, file VARCHAR",
        "The files of the token datasets.",
        _shards,
    ),
}
