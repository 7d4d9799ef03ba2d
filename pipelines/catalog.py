"""Every published dataset and every tracked run as a DuckDB view.

    from pipelines.catalog import connect
    connect("data").sql("select split, sum(n_tokens) from tokens group by split")

The catalog lies in memory and the data stays where it is: a view reads a dataset's files when it is queried, token
shards through a memory map. Nothing can be written through it, and no other file can be read.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import os
import re
import secrets
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from pipelines import lineage, runs
from pipelines.errors import InputError
from pipelines.sql_functions import MACROS, Functions
from pipelines.store import Dataset, Manifest, Store

# A view over the datasets of one kind


@dataclass(frozen=True)
class View:
    """What a view shows: the rows of some files of every dataset of some kinds.

    files: which of a dataset's files, as a pattern; none, if the rows are made from the tokenizer.
    columns: name and DuckDB type of each; datasets may have more, and where one lacks some they are null.
    facts: those columns that are the same for all rows of a dataset, computed from its manifest.
    """

    kinds: tuple[str, ...]
    files: str
    columns: Mapping[str, str]
    comment: str
    facts: Mapping[str, Callable[[Manifest], str | int | None]] = field(default_factory=dict)


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
        },
        comment="Labelled texts and instructions with their responses, for fine-tuning.",
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
        },
        comment="Every model's metrics beside those of its baselines.",
        facts={"model": _input("model"), "split": _config("split")},
    ),
    "predictions": View(
        kinds=("evaluation",),
        files="predictions.parquet",
        columns={"model": "VARCHAR", "item": "VARCHAR"},
        comment="What each system said to each held-out item.",
        facts={"model": _input("model")},
    ),
}

# The text is looked up only by queries that ask for it.
TOKENS_FLAT = """
    SELECT dataset, doc_id, split, position, token_id, _token_text(token_id::UINTEGER, dataset) AS text
    FROM (SELECT dataset, doc_id, split, unnest(range(len(tokens))) AS position, unnest(tokens) AS token_id FROM tokens)
"""

TOKENS_FLAT_COMMENT = "One row a token: its position in its document, counted from 0, and its text."

_TIME, JSON = pa.timestamp("ms", tz="UTC"), pa.json_(pa.string())
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
        ("statistics", JSON),
        ("config", JSON),
        ("run_id", pa.string()),
        ("ref", pa.string()),
        ("fingerprint", pa.string()),
        ("digest", pa.string()),
        ("path", pa.string()),
    ]
)
MANIFESTS = pa.schema([("ref", pa.string()), ("manifest", JSON)])
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
        ("built", JSON),
    ]
)
LINEAGE = pa.schema(
    [(field.name, pa.int64() if field.type == "int" else pa.string()) for field in fields(lineage.Edge)]
)
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


def connect(
    store: Store | Path | str,
    mlflow_uri: str | None = None,
    datasets: Sequence[str] = (),
    *,
    memory_limit: str = "50%",
    external_access: bool = False,
) -> duckdb.DuckDBPyConnection:
    """Open the catalog of a store.

    A view shows the newest version of each dataset, with the dataset's name in its first column. Every version, new
    or old, is also a view of its own, named like `"tokens/scripture@0123456789ab"`.

    Args:
        store: the store, or its folder.
        mlflow_uri: where runs are tracked; by default `MLFLOW_TRACKING_URI`, else the database beside the store.
        datasets: pins, such as `tokens@0123`: the views of that kind then show the pinned ones and no others, and
            unless they are pinned too, so do the views of what they were made from.
        memory_limit: as DuckDB writes it; a query that needs more goes to the temporary folder.
        external_access: let queries read and write other files, and change settings.

    Raises:
        InputError: a pin fits no dataset, or fits several.
    """
    return Catalog(store if isinstance(store, Store) else Store(store), mlflow_uri, datasets).connect(
        memory_limit, external_access
    )


class Catalog:
    """What the views of one connection show."""

    def __init__(self, store: Store, mlflow_uri: str | None = None, pins: Sequence[str] = ()) -> None:
        self.store = store
        self.mlflow_uri = (
            mlflow_uri
            or os.environ.get("MLFLOW_TRACKING_URI")
            or f"sqlite:///{(store.root.absolute().parent / 'mlruns' / 'mlflow.db')}"
        )
        self.all = store.list()
        self.shown = _shown(store, self.all, pins)

    def connect(self, memory_limit: str = "50%", external_access: bool = False) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(":memory:")
        Functions(self).register(connection)
        for name, view in VIEWS.items():
            self._create_view(connection, name, view)
        connection.execute(f"CREATE VIEW tokens_flat AS {TOKENS_FLAT}")
        connection.execute(f"COMMENT ON VIEW tokens_flat IS {_literal(TOKENS_FLAT_COMMENT)}")
        for name, schema, make, comment in self._tables():
            connection.register(name, MadeWhenRead(schema, make))
            connection.execute(f"COMMENT ON VIEW {name} IS {_literal(comment)}")
        for signature, (body, comment, example) in MACROS.items():
            connection.execute(f"CREATE MACRO {signature} AS {body}")
            kind = "MACRO TABLE" if body.startswith("TABLE") else "MACRO"
            described = _literal(f"{comment} For example: {example};")
            connection.execute(f"COMMENT ON {kind} {signature.partition('(')[0]} IS {described}")
        _settle(connection, memory_limit, external_access)
        return connection

    def tokenizer(self, name: str = "") -> Any:
        """The tokenizer of a token dataset, by the name that the views show or any other reference."""
        from pipelines.tokenizers import load_tokenizer  # not needed by most queries

        return load_tokenizer(self.dataset("tokens", name).path)

    def dataset(self, kind: str, name: str = "") -> Dataset:
        shown = self.shown.get(kind, {})
        if not name and not shown:
            raise InputError(f"No {kind} dataset is published yet in {self.store.root}; run the step that makes one.")
        return next(reversed(shown.values())) if not name else shown.get(name) or self.store.open(name, kind)

    def _create_view(self, connection: duckdb.DuckDBPyConnection, name: str, view: View) -> None:
        columns = {"dataset": "VARCHAR", **view.columns}
        empty = ", ".join(f"NULL::{kind} AS {_quoted(column)}" for column, kind in columns.items())
        branches = [f"SELECT {empty} WHERE false"]
        shown = {
            str(dataset.ref): label for kind in view.kinds for label, dataset in self.shown.get(kind, {}).items()
        }
        for dataset in self.all:
            if dataset.manifest.kind not in view.kinds or (rows := _rows(dataset, view)) is None:
                continue
            version = f"{name}/{dataset.manifest.name}@{dataset.manifest.fingerprint[:12]}"
            connection.register(version, rows)
            if label := shown.get(str(dataset.ref)):
                constants = {column: fact(dataset.manifest) for column, fact in view.facts.items()}
                facts = "".join(f", {_literal(value)} AS {_quoted(column)}" for column, value in constants.items())
                parsed = " REPLACE (metadata::JSON AS metadata)" if "metadata" in rows.schema.names else ""
                branches.append(f"SELECT {_literal(label)} AS dataset, *{parsed}{facts} FROM {_quoted(version)}")
        connection.execute(f"CREATE VIEW {name} AS {' UNION ALL BY NAME '.join(branches)}")
        connection.execute(f"COMMENT ON VIEW {name} IS {_literal(view.comment)}")

    def _tables(self) -> list[tuple[str, pa.Schema, Callable[[], pa.Table], str]]:
        tracked = {
            "runs": "MLflow's runs.",
            "params": "The parameters of every run.",
            "metrics": "Every value of every metric; `latest` marks the last.",
        }
        return [
            ("datasets", DATASETS, self._datasets, "Every version of every dataset and model."),
            ("manifests", MANIFESTS, self._manifests, "The manifest of every version, as it is on disk."),
            ("steps", STEPS, self._steps, "What was run to build each version."),
            ("lineage", LINEAGE, self._lineage, "What went into what, near and far."),
            ("shards", SHARDS, self._shards, "The files of the token datasets."),
            *(
                (name, schema, partial(runs.read, name, self.mlflow_uri), tracked[name])
                for name, schema in runs.TABLES.items()
            ),
        ]

    def _datasets(self) -> pa.Table:
        datasets = self.store.list()
        newest = {(dataset.manifest.kind, dataset.manifest.name): dataset.ref for dataset in datasets}
        return _table(
            DATASETS,
            (
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
                    "path": str(dataset.path),
                }
                for dataset in datasets
                for m in [dataset.manifest]
            ),
        )

    def _manifests(self) -> pa.Table:
        return _table(
            MANIFESTS,
            ({"ref": str(each.ref), "manifest": each.manifest.model_dump_json()} for each in self.store.list()),
        )

    def _steps(self) -> pa.Table:
        return _table(
            STEPS,
            (
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
                for m in (dataset.manifest for dataset in self.store.list())
            ),
        )

    def _lineage(self) -> pa.Table:
        return _table(
            LINEAGE, (dict(zip(LINEAGE.names, astuple(edge), strict=True)) for edge in lineage.edges(self.store.list()))
        )

    def _shards(self) -> pa.Table:
        return _table(
            SHARDS,
            (
                {
                    "dataset": label,
                    "shard": shard,
                    "split": batch["split"][0].as_py() if batch.num_rows else None,
                    "documents": batch.num_rows,
                    "tokens": len(batch["tokens"].flatten()),
                    "bytes": dataset.manifest.files[name].bytes,
                    "file": str(dataset.path / name),
                }
                for label, dataset in self.shown.get("tokens", {}).items()
                for shard, name in enumerate(_files(dataset, VIEWS["tokens"].files))
                for batch in _batches(dataset.path / name)
            ),
        )


def _shown(store: Store, datasets: Sequence[Dataset], pins: Sequence[str]) -> dict[str, dict[str, Dataset]]:
    """Datasets by kind and by the name that the views give them: the pinned ones, else the newest of each name."""
    pinned: dict[str, dict[str, Dataset]] = defaultdict(dict)
    for pin in pins:
        dataset = store.open(pin)
        pinned[dataset.manifest.kind][str(dataset.ref)] = dataset
    by_ref = {str(dataset.ref): dataset for dataset in datasets}
    implied: dict[str, dict[str, Dataset]] = defaultdict(dict)
    made = {output for each in pinned.values() for output in each}
    for edge in lineage.edges(datasets) if pins else ():
        if edge.output in made and edge.input_kind not in pinned and edge.input in by_ref:
            implied[edge.input_kind][edge.input] = by_ref[edge.input]
    chosen = {kind: list(each.values()) for kind, each in (implied | pinned).items()}
    newest: dict[str, dict[str, Dataset]] = defaultdict(dict)
    for dataset in datasets:
        if dataset.manifest.kind not in chosen:
            newest[dataset.manifest.kind].pop(dataset.manifest.name, None)
            newest[dataset.manifest.kind][dataset.manifest.name] = dataset
    return {**newest, **{kind: _labelled(each) for kind, each in chosen.items()}}


def _labelled(datasets: Sequence[Dataset]) -> dict[str, Dataset]:
    """Datasets by name, or by name and version where several have the same name."""
    names = [dataset.manifest.name for dataset in datasets]
    return {
        name if names.count(name) == 1 else f"{name}@{dataset.manifest.fingerprint[:12]}": dataset
        for name, dataset in zip(names, datasets, strict=True)
    }


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


def _rows(dataset: Dataset, view: View) -> ds.Dataset | None:
    """A dataset's rows for a view; None if it has no such files."""
    if not view.files:
        return MadeWhenRead(VOCABULARY, partial(_vocabulary, dataset))
    paths = [dataset.path / name for name in _files(dataset, view.files)]
    if not paths:
        return None
    if paths[0].suffix == ".parquet":
        schema = ds.dataset(paths[0], format="parquet").schema
        return MadeWhenRead(schema, lambda: ds.dataset(paths, schema=schema, format="parquet"))
    schema = _map(paths[0]).schema
    if view is VIEWS["tokens"]:
        return MadeWhenRead(schema.append(SHARD).append(START), partial(_token_batches, paths))
    return MadeWhenRead(schema, lambda: [batch for path in paths for batch in _batches(path)])


def _files(dataset: Dataset, pattern: str) -> list[str]:
    return sorted(fnmatch.filter(dataset.manifest.files, pattern))


def _map(path: Path) -> pa.RecordBatchFileReader:
    return pa.ipc.open_file(pa.memory_map(str(path)))


def _batches(path: Path) -> list[pa.RecordBatch]:
    """The record batches of an Arrow file, in mapped memory."""
    reader = _map(path)
    return [reader.get_batch(i) for i in range(reader.num_record_batches)]


SHARD, START = pa.field("shard", pa.int32()), pa.field("start", pa.int64())


def _token_batches(paths: Sequence[Path], rows: int = 4096) -> list[pa.RecordBatch]:
    """Token shards with each document's place, in slices, so that DuckDB's threads share them."""
    placed = []
    for shard, path in enumerate(paths):
        for batch in _batches(path):  # there is one
            batch = batch.append_column(SHARD, pa.repeat(pa.scalar(shard, pa.int32()), batch.num_rows))
            placed.append(batch.append_column(START, batch["tokens"].offsets[:-1].cast(pa.int64())))
    return [batch.slice(at, rows) for batch in placed for at in range(0, batch.num_rows, rows)]


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
    from pipelines.tokenizers import load_tokenizer

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


def _table(schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema)


# Safety


def _settle(connection: duckdb.DuckDBPyConnection, memory_limit: str, external_access: bool) -> None:
    """Take from the connection what a query has no business with, for good."""
    spill = Path(tempfile.gettempdir()) / f"tokenmill-sql-{secrets.token_hex(8)}"  # made and removed by DuckDB
    settings = {
        "memory_limit": memory_limit,
        "temp_directory": str(spill),
        "python_enable_replacements": False,  # `from x` does not mean the Python variable x
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "enable_external_access": external_access,
        "lock_configuration": not external_access,
    }
    for name, value in settings.items():
        connection.execute(f"SET {name} = {_literal(value)}")


def explain_error(error: duckdb.Error, connection: duckdb.DuckDBPyConnection | None = None) -> str:
    """What was wrong with a query, as one sentence."""
    message = str(error).partition("\n")[0]
    message = re.sub(r"^[A-Za-z ]+ (Error|Exception): ", "", message)
    message = re.sub(r"^Python exception occurred while executing the UDF: (InputError: )?", "", message)
    if "disabled by configuration" in message or "disabled through configuration" in message:
        what = re.search(r'"([^"]+)"', message)
        return (
            f"The catalog reads published datasets and nothing else, so {what[1] if what else 'an extension'} is out "
            "of reach; to keep a result, write it with --format."
        )
    if "configuration has been locked" in message:
        return "The catalog's settings are locked, so that a query cannot open what they close."
    if isinstance(error, duckdb.CatalogException) and (unknown := re.search(r"with name (\S+) does not exist", message)):
        known = [name for name, _ in _named(connection)] if connection else []
        near = difflib.get_close_matches(unknown[1], known, 1)
        return f"There is no {unknown[1]!r}" + (f"; did you mean {near[0]!r}?" if near else "; `show tables` lists the views.")
    return message if message.endswith((".", "?", "!")) else message + "."


def _named(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, str]]:
    return connection.execute(
        "SELECT view_name, 'view' FROM duckdb_views() WHERE NOT internal AND view_name NOT LIKE '%/%' UNION ALL "
        "SELECT DISTINCT function_name, 'function' FROM duckdb_functions() WHERE NOT internal"
    ).fetchall()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: str | int | bool | None) -> str:
    if value is None or isinstance(value, bool):
        return str(value).upper() if value is not None else "NULL"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
