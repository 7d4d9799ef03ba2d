"""Every published dataset and every tracked run as a DuckDB view.

    from pipelines.catalog import connect
    connect("data").sql("select split, sum(n_tokens) from tokens group by split")

The catalog lies in memory and the data stays where it is: a view reads a dataset's files when it is queried, token
shards through a memory map. Nothing can be written through it, and no other file can be read.
"""

from __future__ import annotations

import difflib
import re
import secrets
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipelines.catalog import runs, tables
from pipelines.catalog.functions import MACROS, Functions
from pipelines.catalog.views import TOKENS_FLAT, TOKENS_FLAT_COMMENT, VIEWS, MadeWhenRead, View, rows_of
from pipelines.errors import InputError
from pipelines.store import lineage
from pipelines.store.dataset import Dataset
from pipelines.store.store import Store


def connect(
    store: Store | Path | str,
    mlflow_uri: str | None = None,
    datasets: Sequence[str] = (),
    *,
    memory_limit: str = "50%",
    external_access: bool = False,
) -> duckdb.DuckDBPyConnection:
    """Open the catalog of a store. Another thread needs a connection of its own: a cursor would not see the data.

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


# What help and completion are made of. Names that begin with an underscore, or name one version, are left out.
ABOUT = """
    CREATE VIEW _views AS
        SELECT view_name AS name, comment FROM duckdb_views()
        WHERE NOT internal AND view_name NOT LIKE '\\_%' ESCAPE '\\' AND view_name NOT LIKE '%/%' ORDER BY view_oid;
    CREATE VIEW _functions AS
        SELECT function_name AS name, name || '(' || array_to_string(parameters, ', ') || ')' AS signature, comment
        FROM duckdb_functions() WHERE NOT internal AND comment IS NOT NULL ORDER BY name;
"""


class Catalog:
    """What the views of one connection show."""

    def __init__(self, store: Store, mlflow_uri: str | None = None, pins: Sequence[str] = ()) -> None:
        self.store = store
        self.mlflow_uri = mlflow_uri or runs.tracking_uri(store.root)
        self.all = store.list()
        self.shown = _shown(store, self.all, pins)

    def connect(self, memory_limit: str = "50%", external_access: bool = False) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(":memory:")
        Functions(self).register(connection)
        for name, view in VIEWS.items():
            self._create_view(connection, name, view)
        self._create_version_view(connection)
        connection.execute(f"CREATE VIEW tokens_flat AS {TOKENS_FLAT}")
        connection.execute(f"COMMENT ON VIEW tokens_flat IS {literal(TOKENS_FLAT_COMMENT)}")
        for name, schema, make, comment in self._tables():
            connection.register(name, MadeWhenRead(schema, make))
            connection.execute(f"COMMENT ON VIEW {name} IS {literal(comment)}")
        for signature, (body, comment, example) in MACROS.items():
            connection.execute(f"CREATE MACRO {signature} AS {body}")
            kind = "MACRO TABLE" if body.startswith("TABLE") else "MACRO"
            described = literal(f"{comment} For example: {example};")
            connection.execute(f"COMMENT ON {kind} {signature.partition('(')[0]} IS {described}")
        connection.execute(ABOUT)
        _settle(connection, memory_limit, external_access)
        return connection

    def tokenizer(self, name: str = "") -> Any:
        """The tokenizer of a token dataset, by the name that the views show or any other reference."""
        from pipelines.tokens.tokenizers import load_tokenizer  # not needed by most queries

        return load_tokenizer(self.dataset("tokens", name).path)

    def dataset(self, kind: str, name: str = "") -> Dataset:
        shown = self.shown.get(kind, {})
        if not name and not shown:
            raise InputError(
                f"No {kind} dataset is published yet in {self.store.address}; run the step that makes one."
            )
        return next(reversed(shown.values())) if not name else shown.get(name) or self.store.open(name, kind)

    def _create_view(self, connection: duckdb.DuckDBPyConnection, name: str, view: View) -> None:
        branches = [view.empty_query]
        shown = {str(dataset.ref): label for kind in view.kinds for label, dataset in self.shown.get(kind, {}).items()}
        for dataset in self.all:
            if dataset.manifest.kind not in view.kinds or (rows := rows_of(dataset, view)) is None:
                continue
            version = f"{name}/{dataset.manifest.name}@{dataset.manifest.fingerprint[:12]}"
            connection.register(version, rows)
            if label := shown.get(str(dataset.ref)):
                constants = {column: fact(dataset.manifest) for column, fact in view.facts.items()}
                facts = "".join(f", {literal(value)} AS {quoted(column)}" for column, value in constants.items())
                parsed = " REPLACE (metadata::JSON AS metadata)" if "metadata" in rows.schema.names else ""
                named = f"{literal(label)} AS dataset"
                branches.append(f"SELECT {named}, *{parsed}{facts} FROM {quoted(version)}")  # noqa: S608
        connection.execute(f"CREATE VIEW {name} AS {' UNION ALL BY NAME '.join(branches)}")
        connection.execute(f"COMMENT ON VIEW {name} IS {literal(view.comment)}")

    def _create_version_view(self, connection: duckdb.DuckDBPyConnection) -> None:
        """The tokens of all versions, each by its `ref`, for the functions that compare them."""
        refs = [dataset.ref for dataset in self.all if dataset.manifest.kind == "tokens"]
        branches = [
            f"SELECT {literal(str(ref))} AS ref, doc_id, split, n_tokens, tokens FROM {quoted(str(ref))}"  # noqa: S608
            for ref in refs
        ]
        empty = f"SELECT NULL::VARCHAR AS ref, * FROM ({VIEWS['tokens'].empty_query})"  # noqa: S608
        connection.execute(f"CREATE VIEW _token_versions AS {' UNION ALL BY NAME '.join(branches or [empty])}")

    def _tables(self) -> list[tuple[str, pa.Schema, Callable[[], pa.Table], str]]:
        """The views that are not of one kind of dataset: name, columns, how the rows are made, what they are."""
        store, uri = self.store, self.mlflow_uri
        return [
            (
                "datasets",
                tables.DATASETS,
                partial(tables.datasets, store),
                "Every version of every dataset and model.",
            ),
            ("manifests", tables.MANIFESTS, partial(tables.manifests, store), "The manifest of every version."),
            ("steps", tables.STEPS, partial(tables.steps, store), "What was run to build each version."),
            ("lineage", tables.LINEAGE, partial(tables.lineage_table, store), "What went into what, near and far."),
            (
                "shards",
                tables.SHARDS,
                partial(tables.shards, self.shown.get("tokens", {})),
                "The files of the token datasets.",
            ),
            ("runs", runs.RUNS, partial(runs.read, "runs", uri), "MLflow's runs."),
            ("params", runs.PARAMS, partial(runs.read, "params", uri), "The parameters of every run."),
            ("metrics", runs.METRICS, partial(runs.read, "metrics", uri), "Every value of every metric of every run."),
        ]


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


# Safety


def _settle(connection: duckdb.DuckDBPyConnection, memory_limit: str, external_access: bool) -> None:
    """Take from the connection what a query has no business with, for good."""
    spill = Path(tempfile.gettempdir()) / f"tokenmill-sql-{secrets.token_hex(8)}"  # made and removed by DuckDB
    settings: dict[str, str | bool] = {
        "memory_limit": memory_limit,
        "temp_directory": str(spill),
        "python_enable_replacements": False,  # `from x` does not mean the Python variable x
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    if not external_access:
        settings |= {"enable_external_access": False, "lock_configuration": True}
    for name, value in settings.items():
        connection.execute(f"SET {name} = {literal(value)}")


def explain_error(error: duckdb.Error, connection: duckdb.DuckDBPyConnection | None = None) -> str:
    """What was wrong with a query, as one sentence."""
    message = str(error).partition("\n")[0]
    message = re.sub(r"^[A-Za-z ]+ (Error|Exception): ", "", message)
    message = re.sub(
        r"^(Python exception occurred while executing the UDF|exporting a stream .* failed): ", "", message
    )
    message = message.removeprefix("InputError: ")
    if "disabled by configuration" in message or "disabled through configuration" in message:
        what = re.search(r'"([^"]+)"', message)
        return (
            f"The catalog reads published datasets and nothing else, so {what[1] if what else 'an extension'} is out "
            "of reach; to keep a result, write it with --format."
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return "The query needs more memory than it may use; ask for fewer columns or rows, or aggregate first."
    if "configuration has been locked" in message:
        return "The catalog's settings are locked, so that a query cannot open what they close."
    if isinstance(error, duckdb.CatalogException) and (
        unknown := re.search(r"with name (\S+) does not exist", message)
    ):
        names = "SELECT name FROM _views UNION SELECT name FROM _functions"
        known = [name for (name,) in connection.execute(names).fetchall()] if connection else []
        near = difflib.get_close_matches(unknown[1], known, 1)
        return f"There is no {unknown[1]!r}" + (
            f"; did you mean {near[0]!r}?" if near else "; `show tables` lists the views."
        )
    if line := re.search(r"^LINE (\d+):", str(error), re.MULTILINE):
        message = f"{message.rstrip('.!')}, in line {line[1]}"
    return message if message.endswith((".", "?", "!")) else message + "."


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(value: str | int | bool | None) -> str:
    if value is None or isinstance(value, bool):
        return str(value).upper() if value is not None else "NULL"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
