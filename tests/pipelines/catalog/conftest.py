"""What the tests of the catalog share: small datasets, a tracked run, and one catalog that has all of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt.config import Config
from pipelines.catalog.catalog import connect
from pipelines.store.dataset import Dataset
from pipelines.store.manifest import SourceFile
from pipelines.store.step import StepContext, StepType
from pipelines.store.store import Store
from pipelines.tokens.samples import SAMPLE, SampleConfig
from pipelines.tokens.tokenizer import Tokenizer
from pipelines.tokens.tokenizers import named_tokenizer

TEXTS = [
    "Jesus wept.",
    "Rejoice evermore.",
    "Pray without ceasing, as one who wept and did not know it until the long night was over.",
    "naïve café 東京 🦙",
    "Pray without ceasing, as one who wept and did not know it until the dawn.",
]


class FreeConfig(Config):
    context: int = 4
    stride: int = 4
    split: str = "validation"
    note: str = ""
    batch_size: int = 2
    accumulation: int = 1
    seed: int = 0


def publish_dataset(
    store: Store,
    kind: str,
    name: str,
    write: Callable[[Path], Any],
    inputs: dict[str, Dataset] | None = None,
    sources: tuple[SourceFile, ...] = (),
    statistics: dict[str, Any] | None = None,
    **config: Any,
) -> Dataset:
    def run(out: Path, scratch: Path) -> dict[str, Any]:
        write(out)
        return statistics or {}

    step_type = StepType(f"make-{kind}", kind, 1, FreeConfig, run, sources=(lambda _: sources) if sources else None)
    return store.build(step_type.using(name, FreeConfig(**config), inputs), run, built_by={"mlflow_run_id": "r1"})


def publish_corpus(store: Store, name: str = "scripture", texts: list[str] = TEXTS, **config: Any) -> Dataset:
    def write(out: Path) -> None:
        rows = [
            {
                "doc_id": f"d{i}",
                "source": "kjv",
                "location": str(i),
                "split": "validation" if i in (0, 4) else "train",
                "text": text,
                "n_bytes": len(text.encode()),
                "metadata": json.dumps({"book": "John" if i == 0 else "Other"}),
            }
            for i, text in enumerate(texts)
        ]
        pq.write_table(pa.Table.from_pylist(rows), out / "documents.parquet")
        rejected = [{"doc_id": "dx", "source": "kjv", "location": "9", "reason": "empty", "text": ""}]
        pq.write_table(pa.Table.from_pylist(rejected), out / "rejected.parquet")

    return publish_dataset(
        store, "corpus", name, write, sources=(SourceFile(name="kjv.jsonl", bytes=3, sha256="ab" * 32),), **config
    )


def publish_tokens(
    store: Store, made_from: Dataset, name: str = "scripture", tokenizer: Tokenizer | None = None, **config: Any
) -> Dataset:
    tokenizer = tokenizer or named_tokenizer("gpt2")

    def write(out: Path) -> None:
        documents = pq.read_table(made_from.path / "documents.parquet").to_pylist()
        for shard, split in enumerate(["train", "validation"]):
            rows = [row for row in documents if row["split"] == split]
            ids, lengths = tokenizer.encode_documents(pa.array([row["text"] for row in rows], pa.string()))
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            batch = pa.record_batch(
                {
                    "doc_id": pa.array([row["doc_id"] for row in rows], pa.string()),
                    "split": pa.array([split] * len(rows), pa.string()),
                    "n_tokens": pa.array(lengths, pa.int64()),
                    "tokens": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids.astype(tokenizer.dtype))),
                }
            )
            with pa.ipc.new_file(out / f"tokens-{shard:05d}.arrow", batch.schema) as writer:
                writer.write_batch(batch)
        tokenizer.save(out)

    return publish_dataset(store, "tokens", name, write, {"corpus": made_from}, **config)


def publish_samples(store: Store, made_from: Dataset, context: int = 4) -> Dataset:
    step = SAMPLE.using(made_from.manifest.name, SampleConfig(context=context), {"tokens": made_from})
    return store.build(
        step, lambda out, scratch: SAMPLE.run({"tokens": made_from}, step.config, out, StepContext(scratch))
    )


def publish_language_model(store: Store, made_from: Dataset, name: str) -> Dataset:
    """Publish a model that read some samples, and its losses of the held-out documents."""
    tokens = store.open(made_from.manifest.inputs["tokens"])
    inputs = {"tokens": tokens, "samples": made_from}
    model = publish_dataset(store, "model", name, lambda out: None, inputs, statistics={"steps": 5})
    losses = [{"item": f"d{i}", "tokens": 20, "bytes": 60, "words": 15, "model_loss": 30.0 + i} for i in (0, 4)]
    corpus = store.open(tokens.manifest.inputs["corpus"])
    publish_evaluation(store, model, "language", pa.Table.from_pylist(losses).to_pydict(), corpus=corpus)
    return model


def publish_evaluation(
    store: Store, model: Dataset, task: str, predictions: dict[str, list[Any]], **inputs: Dataset
) -> Dataset:
    def write(out: Path) -> None:
        rows = [
            {"system": "model", "metric": "loss", "value": 1.5},
            {"system": "unigram", "metric": "loss", "value": 6.0},
        ]
        pq.write_table(pa.Table.from_pylist(rows), out / "metrics.parquet")
        pq.write_table(pa.table(predictions), out / "predictions.parquet")

    inputs["model"] = model
    return publish_dataset(store, "evaluation", model.manifest.name, write, inputs, statistics={"task": task})


def write_mlflow_database(home: Path) -> None:
    """Write the tables of MLflow's database that the catalog reads."""
    (home / "mlruns").mkdir()
    with sqlite3.connect(home / "mlruns" / "mlflow.db") as database:
        database.executescript(
            """
            CREATE TABLE experiments (experiment_id INTEGER, name TEXT);
            CREATE TABLE runs (run_uuid TEXT, name TEXT, experiment_id INTEGER, status TEXT, start_time BIGINT,
                end_time BIGINT, lifecycle_stage TEXT, artifact_uri TEXT);
            CREATE TABLE tags (run_uuid TEXT, key TEXT, value TEXT);
            CREATE TABLE params (run_uuid TEXT, key TEXT, value TEXT);
            CREATE TABLE metrics (run_uuid TEXT, key TEXT, step BIGINT, value DOUBLE, timestamp BIGINT, is_nan BOOLEAN);
            CREATE TABLE latest_metrics (run_uuid TEXT, key TEXT, step BIGINT, value DOUBLE, timestamp BIGINT);
            CREATE TABLE model_versions (name TEXT, version INTEGER, creation_time BIGINT, current_stage TEXT);
            CREATE TABLE model_version_tags (name TEXT, version INTEGER, key TEXT, value TEXT);
            CREATE TABLE registered_model_aliases (name TEXT, version INTEGER, alias TEXT);
            CREATE TABLE registered_model_tags (name TEXT, key TEXT, value TEXT);
            INSERT INTO experiments VALUES (1, 'quickstart');
            INSERT INTO runs VALUES ('r1', 'pretrain', 1, 'FINISHED', 1000, 3000, 'active', 'x'),
                ('r0', 'dropped', 1, 'FINISHED', 1, 2, 'deleted', 'x');
            INSERT INTO tags VALUES ('r1', 'mlflow.parentRunId', 'r9'), ('r1', 'kind', 'model'),
                ('r1', 'tokenmill.kind', 'model'), ('r1', 'tokenmill.step', 'pretrain');
            INSERT INTO params VALUES ('r1', 'layers', '4');
            INSERT INTO metrics VALUES ('r1', 'val/loss', 0, 9.5, 1000, 0), ('r1', 'val/loss', 10, 3.5, 2000, 0),
                ('r1', 'val/oops', 0, 0, 1000, 1);
            INSERT INTO latest_metrics VALUES ('r1', 'val/loss', 10, 3.5, 2000), ('r1', 'val/oops', 0, 0, 1000);
            """
        )


@pytest.fixture(scope="session")
def publish() -> Callable[..., Dataset]:
    """publish(store, kind, name, write, inputs, statistics=..., key=config value) publishes any dataset."""
    return publish_dataset


@pytest.fixture(scope="session")
def corpus() -> Callable[..., Dataset]:
    """corpus(store, name, texts, key=config value) publishes a corpus."""
    return publish_corpus


@pytest.fixture(scope="session")
def tokens() -> Callable[..., Dataset]:
    """tokens(store, corpus, name, tokenizer) publishes the tokens of a corpus."""
    return publish_tokens


@pytest.fixture(scope="session")
def samples() -> Callable[..., Dataset]:
    """samples(store, tokens, context) publishes the samples of tokens."""
    return publish_samples


@pytest.fixture(scope="session")
def language_model() -> Callable[..., Dataset]:
    """language_model(store, samples, name) publishes a model and its evaluation."""
    return publish_language_model


@pytest.fixture(scope="session")
def track() -> Callable[[Path], None]:
    """track(home) writes a database with one live run of MLflow."""
    return write_mlflow_database


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a dataset of nearly every kind and a tracked run."""
    home = tmp_path_factory.mktemp("home")
    store = Store(home / "data")
    made = publish_tokens(store, publish_corpus(store))
    publish_language_model(store, publish_samples(store, made), "small")

    def write_examples(out: Path) -> None:
        labelled = [{"example_id": f"e{i}", "split": "train", "text": "x", "label": "ham"} for i in range(2)]
        pq.write_table(pa.Table.from_pylist(labelled), out / "examples.parquet")

    publish_dataset(store, "examples", "spam", write_examples)
    publish_evaluation(
        store,
        publish_dataset(store, "model", "sorter", lambda out: None),
        "classification",
        {"item": ["e0"], "truth": ["ham"], "model_label": ["ham"]},
    )
    write_mlflow_database(home)
    return home


@pytest.fixture(scope="session")
def catalog(home: Path) -> duckdb.DuckDBPyConnection:
    """The catalog of that home."""
    return connect(home / "data")
