"""The columns that MLflow shows for each kind of dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from flows.tracking.entities import columns
from gpt.config import Config
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepType
from pipelines.store.store import Store

TABLE = pa.table({"n": pa.array([1], pa.int64()), "text": pa.array(["x"]), "learnt": pa.array([True])})


def publish(folder: Path, kind: str, file: str) -> Dataset:
    def run(out: Path, scratch: Path) -> dict[str, Any]:
        (out / file).parent.mkdir(exist_ok=True)
        if file.endswith(".parquet"):
            pq.write_table(TABLE, out / file)
        elif file.endswith(".arrow"):
            with pa.ipc.new_file(out / file, TABLE.schema) as writer:
                writer.write_table(TABLE)
        else:
            save_file({"weight": np.zeros((2, 3), np.float32)}, out / file)
        return {}

    return Store(folder).build(StepType("make", kind, 1, Config, run).using("x", Config()), run)


@pytest.mark.parametrize(
    "kind, file",
    [
        ("corpus", "documents/00000.parquet"),
        ("examples", "examples.parquet"),
        ("lessons", "lessons.arrow"),
        ("tokens", "tokens-00000.arrow"),
        ("samples", "samples-00000.arrow"),
        ("evaluation", "predictions.parquet"),
    ],
)
def test_dataset_has_the_columns_of_its_rows(tmp_path: Path, kind: str, file: str) -> None:
    assert columns(publish(tmp_path, kind, file)) == [("n", "long"), ("text", "string"), ("learnt", "boolean")]


def test_model_has_its_tensors(tmp_path: Path) -> None:
    assert columns(publish(tmp_path, "model", "model.safetensors")) == [("weight", "F32 [2, 3]")]
