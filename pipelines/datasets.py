"""Readers of published datasets: what a step gets as input, with types instead of paths."""

from __future__ import annotations

import fnmatch

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open

from pipelines.store.dataset import Dataset


def columns(dataset: Dataset) -> list[tuple[str, str]]:
    """Name and type, as MLflow calls it, of the columns of a dataset's rows, or of the tensors of a model."""
    files = sorted(dataset.manifest.files)
    for pattern in ("documents/*.parquet", "examples.parquet", "predictions.parquet", "*.arrow", "*.safetensors"):
        if found := fnmatch.filter(files, pattern):
            path = dataset.file(found[0])
            if path.suffix == ".safetensors":
                with safe_open(path, "numpy") as tensors:
                    slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - not a mapping
                return [(name, f"{each.get_dtype()} {each.get_shape()}") for name, each in slices.items()]
            schema = (
                pq.read_schema(path) if path.suffix == ".parquet" else pa.ipc.open_file(pa.memory_map(str(path))).schema
            )
            return [(field.name, MLFLOW_TYPES.get(str(field.type), str(field.type))) for field in schema]
    return []


MLFLOW_TYPES = {"int64": "long", "int32": "integer", "bool": "boolean", "large_string": "string"}
