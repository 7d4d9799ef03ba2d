"""What the views of the catalog show: which files of which kind of dataset, with which columns.

Token shards are read through a memory map, Parquet files a few row groups ahead, both only when a query asks.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipelines.corpus.documents import DOCUMENTS
from pipelines.store.dataset import Dataset
from pipelines.store.manifest import Manifest


@dataclass(frozen=True)
class View:
    """What a view shows: the rows of some files of every dataset of some kinds.

    files: which of a dataset's files, as a pattern; none, if the rows are made from the tokenizer.
    columns: name and DuckDB type of each; datasets may have more, and where one lacks some they are null.
    schema: of the files, where some lack columns that others have; by default, the first file's.
    facts: those columns that are the same for all rows of a dataset, computed from its manifest.
    """

    kinds: tuple[str, ...]
    files: str
    columns: Mapping[str, str]
    comment: str
    schema: pa.Schema | None = None
    facts: Mapping[str, Callable[[Manifest], str | int | None]] = field(default_factory=dict)

    @property
    def empty_query(self) -> str:
        """No rows, but all columns: what the view is before anything is published."""
        columns = {"dataset": "VARCHAR", **self.columns}
        return "SELECT " + ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in columns.items()) + " WHERE false"


def _config(*keys: str) -> Callable[[Manifest], Any]:
    """The first of some entries of the config that is set."""
    return lambda manifest: next((value for key in keys if (value := manifest.config.get(key)) is not None), None)


def _input(role: str) -> Callable[[Manifest], Any]:
    """The name of an input."""
    return lambda manifest: manifest.inputs[role].name if role in manifest.inputs else None


VIEWS = {
    "documents": View(
        kinds=("corpus",),
        files="documents*",
        columns={
            "doc_id": "VARCHAR",
            "source": "VARCHAR",
            "location": "VARCHAR",
            "split": "VARCHAR",
            "text": "VARCHAR",
            "n_bytes": "BIGINT",
            "metadata": "JSON",
        },
        comment="The documents of every corpus.",
        schema=DOCUMENTS,
    ),
    "rejected": View(
        kinds=("corpus", "examples"),
        files="rejected*",
        columns={
            "doc_id": "VARCHAR",
            "source": "VARCHAR",
            "location": "VARCHAR",
            "reason": "VARCHAR",
            "kept": "VARCHAR",
            "similarity": "DOUBLE",
            "text": "VARCHAR",
            "kind": "VARCHAR",
        },
        comment="What was left out of a corpus or of examples, and why; of a duplicate, which one was `kept`.",
        facts={"kind": lambda manifest: manifest.kind},
    ),
    "examples": View(
        kinds=("examples",),
        files="examples*",
        columns={
            "example_id": "VARCHAR",
            "source": "VARCHAR",
            "location": "VARCHAR",
            "split": "VARCHAR",
            "text": "VARCHAR",
            "label": "VARCHAR",
            "instruction": "VARCHAR",
            "input": "VARCHAR",
            "response": "VARCHAR",
            "history": "VARCHAR[]",
            "system": "VARCHAR",
        },
        comment="Labelled texts and instructions with their responses, for fine-tuning.",
    ),
    "lessons": View(
        kinds=("lessons",),
        files="*.arrow",
        columns={
            "example_id": "VARCHAR",
            "split": "VARCHAR",
            "label": "VARCHAR",
            "tokens": "USMALLINT[]",
            "learnt": "BOOLEAN[]",
        },
        comment="Fine-tuning examples as token ids; of a conversation, which of them are `learnt`.",
    ),
    "tokens": View(
        kinds=("tokens",),
        files="*.arrow",
        columns={
            "doc_id": "VARCHAR",
            "split": "VARCHAR",
            "n_tokens": "BIGINT",
            "tokens": "USMALLINT[]",
            "shard": "INTEGER",
            "start": "BIGINT",
        },
        comment="The token ids of every document; `start` is where the document begins in its shard.",
    ),
    "vocabulary": View(
        kinds=("tokens",),
        files="",
        columns={
            "token_id": "UINTEGER",
            "text": "VARCHAR",
            "bytes": "BLOB",
            "n_bytes": "INTEGER",
            "special": "BOOLEAN",
        },
        comment="What each token id stands for.",
    ),
    "samples": View(
        kinds=("samples",),
        files="*.arrow",
        columns={
            "sample_id": "BIGINT",
            "split": "VARCHAR",
            "shard": "INTEGER",
            "start": "BIGINT",
            "doc_id": "VARCHAR",
            "context": "INTEGER",
            "tokens": "VARCHAR",
        },
        comment="The windows that training sees: `context` tokens of a shard of the `tokens` dataset, from `start` on.",
        facts={"context": _config("context"), "tokens": _input("tokens")},
    ),
    "evaluations": View(
        kinds=("evaluation",),
        files="metrics.parquet",
        columns={
            "model": "VARCHAR",
            "split": "VARCHAR",
            "system": "VARCHAR",
            "metric": "VARCHAR",
            "value": "DOUBLE",
            "low": "DOUBLE",
            "high": "DOUBLE",
        },
        comment="Every model's metrics beside those of its baselines, with 95% intervals from `low` to `high`.",
        facts={"model": _input("model"), "split": _config("split")},
    ),
    "predictions": View(
        kinds=("evaluation",),
        files="predictions.parquet",
        columns={
            "model": "VARCHAR",
            "item": "VARCHAR",
            "truth": "VARCHAR",
            "model_label": "VARCHAR",
            "model_answer": "VARCHAR",
            "model_loss": "DOUBLE",
        },
        comment="What each system said to each held-out item.",
        facts={"model": _input("model")},
    ),
    "recitals": View(
        kinds=("evaluation",),
        files="memorisation.parquet",
        columns={
            "model": "VARCHAR",
            "split": "VARCHAR",
            "doc_id": "VARCHAR",
            "prefix": "VARCHAR",
            "text": "VARCHAR",
            "written": "VARCHAR",
            "run": "BIGINT",
        },
        comment="What a model wrote after the beginning of a text, and how many tokens of it are the text's.",
        facts={"model": _input("model")},
    ),
    "mistakes": View(
        kinds=("evaluation",),
        files="mistakes.parquet",
        columns={
            "model": "VARCHAR",
            "item": "VARCHAR",
            "text": "VARCHAR",
            "truth": "VARCHAR",
            "predicted": "VARCHAR",
            "probability": "DOUBLE",
        },
        comment="Held-out texts of which a classifier was most confidently wrong.",
        facts={"model": _input("model")},
    ),
    "curves": View(
        kinds=("evaluation",),
        files="curves.parquet",
        columns={
            "model": "VARCHAR",
            "system": "VARCHAR",
            "label": "VARCHAR",
            "curve": "VARCHAR",
            "x": "DOUBLE",
            "y": "DOUBLE",
            "threshold": "DOUBLE",
        },
        comment="Points of the curves of classifiers: roc, precision_recall and calibration.",
        facts={"model": _input("model")},
    ),
}


# The text is looked up only by queries that ask for it.
TOKENS_FLAT = """
    SELECT dataset, doc_id, split, position, token_id, _token_text(token_id::UINTEGER, dataset) AS text
    FROM (SELECT dataset, doc_id, split, unnest(range(len(tokens))) AS position, unnest(tokens) AS token_id FROM tokens)
"""


TOKENS_FLAT_COMMENT = "One row a token: its position in its document, counted from 0, and its text."


# Rows


class MadeWhenRead(ds.InMemoryDataset):
    """A table of which only the columns are known until a query reads it; DuckDB asks for a scanner each time."""

    def __init__(self, schema: pa.Schema, make: Callable[[], pa.Table | ds.Dataset | Sequence[pa.RecordBatch]]) -> None:
        super().__init__([], schema=schema)
        self._make = make

    def scanner(self, **wanted: Any) -> ds.Scanner:
        made = self._make()
        made = made if isinstance(made, ds.Dataset) else ds.InMemoryDataset(made, schema=self.schema)
        return made.scanner(**wanted, batch_readahead=4, fragment_readahead=2)


def rows_of(dataset: Dataset, view: View) -> ds.Dataset | None:
    """A dataset's rows for a view; None if it has no such files."""
    if not view.files:
        return MadeWhenRead(VOCABULARY, partial(_vocabulary, dataset))
    names = files_of(dataset, view.files)
    if not names:
        return None
    # The columns are asked for at once, the files when a query reads them: they may lie in a bucket.
    if names[0].endswith(".parquet"):
        schema = view.schema
        if schema is None:
            with dataset.open(names[0]) as file:
                schema = pq.read_schema(file)
        return MadeWhenRead(
            schema, lambda: ds.dataset([dataset.path / name for name in names], schema=schema, format="parquet")
        )
    with dataset.open(names[0]) as file:
        schema = pa.ipc.open_file(file).schema
    if view is VIEWS["tokens"]:
        return MadeWhenRead(
            schema.append(SHARD).append(START), lambda: token_batches([dataset.path / name for name in names])
        )
    return MadeWhenRead(schema, lambda: [batch for name in names for batch in batches(dataset.path / name)])


def files_of(dataset: Dataset, pattern: str) -> list[str]:
    return sorted(fnmatch.filter(dataset.manifest.files, pattern))


def batches(path: Path) -> list[pa.RecordBatch]:
    """The record batches of an Arrow file, in mapped memory."""
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    return [reader.get_batch(i) for i in range(reader.num_record_batches)]


SLICE = 4096  # documents


SHARD, START = pa.field("shard", pa.int32()), pa.field("start", pa.int64())


def token_batches(paths: Sequence[Path]) -> list[pa.RecordBatch]:
    """Token shards with each document's place, in slices, so that DuckDB's threads share them."""
    placed = []
    for shard, path in enumerate(paths):
        for batch in batches(path):  # there is one
            batch = batch.append_column(SHARD, pa.repeat(pa.scalar(shard, pa.int32()), batch.num_rows))
            placed.append(batch.append_column(START, batch["tokens"].offsets[:-1].cast(pa.int64())))
    return [batch.slice(at, SLICE) for batch in placed for at in range(0, batch.num_rows, SLICE)]


VOCABULARY = pa.schema(
    [
        ("token_id", pa.uint32()),
        ("text", pa.string()),
        ("bytes", pa.binary()),
        ("n_bytes", pa.int32()),
        ("special", pa.bool_()),
    ]
)


def _vocabulary(dataset: Dataset) -> pa.Table:
    from pipelines.tokens.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(dataset.path)
    special = set(tokenizer.special.values())
    tokens = tokenizer.token_bytes
    return pa.table(
        [
            range(len(tokens)),
            [token.decode("utf-8", "replace") for token in tokens],
            tokens,
            [len(token) for token in tokens],
            [i in special for i in range(len(tokens))],
        ],
        schema=VOCABULARY,
    )
