"""Readers of published datasets: what a step gets as input, with types instead of paths."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import safe_open

from pipelines.store.dataset import Dataset
from pipelines.tokenizers import FILE, Tokenizer, load_tokenizer


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


@dataclass(frozen=True)
class Tokens:
    """Shards of token ids, memory-mapped."""

    dataset: Dataset

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.tokenizer_file)

    @property
    def tokenizer_file(self) -> Path:
        return self.dataset.file(FILE)

    @cached_property
    def shards(self) -> list[pa.RecordBatch]:
        """Every shard as a record batch (doc_id, split, n_tokens, tokens), by number; nothing is read until used."""
        names = sorted(name for name in self.dataset.manifest.files if name.endswith(".arrow"))
        return [pa.ipc.open_file(pa.memory_map(str(self.dataset.file(name)))).get_batch(0) for name in names]

    def split(self, shard: int) -> str:
        """The split that all documents of a shard belong to."""
        return str(self.shards[shard]["split"][0])

    def flat(self, shard: int) -> NDArray[np.unsignedinteger]:
        """A shard's ids, one document behind the other, as a view of the mapped file."""
        return self.shards[shard]["tokens"].values.to_numpy(zero_copy_only=True)

    def offsets(self, shard: int) -> NDArray[np.int64]:
        """Where in a shard's ids each document begins, and behind the last one, where it ends."""
        return self.shards[shard]["tokens"].offsets.to_numpy(zero_copy_only=True)

    def streams(self, split: str) -> list[NDArray[np.unsignedinteger]]:
        """The ids of a split, a view for each shard."""
        return [self.flat(shard) for shard in range(len(self.shards)) if self.split(shard) == split]


@dataclass(frozen=True)
class Samples:
    """Windows into a tokens dataset: where each begins."""

    dataset: Dataset

    @property
    def context(self) -> int:
        """Tokens in a window; its targets are one token further."""
        return int(self.dataset.manifest.config["context"])

    @cached_property
    def batches(self) -> list[pa.RecordBatch]:
        """Record batches (sample_id, split, shard, start, doc_id), memory-mapped; each of one split and one shard."""
        file = pa.ipc.open_file(pa.memory_map(str(self.dataset.file("samples.arrow"))))
        return [file.get_batch(i) for i in range(file.num_record_batches)]

    @property
    def packed(self) -> bool:
        """Whether windows are made of pieces of documents."""
        return self.dataset.manifest.config["boundaries"] == "document"

    def of(self, split: str) -> list[tuple[int, pa.RecordBatch]]:
        """The windows of a split: pairs of a shard and record batches of windows into it."""
        found = [batch for batch in self.batches if batch["split"][0].as_py() == split]
        return [(batch["shard"][0].as_py(), batch) for batch in found]
