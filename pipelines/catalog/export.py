"""The catalog as a plain DuckDB file, for tools that know DuckDB and no Python: its command line, DBeaver, Metabase.

Texts stay where they are: `documents`, `rejected` and `examples` are views over the published Parquet files, by their
absolute paths, or copies of them if asked for. Token shards are Arrow files, which DuckDB alone does not read; they are
there as counts and lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb

from pipelines.catalog.catalog import Catalog, literal, quoted
from pipelines.catalog.views import VIEWS, View, files_of
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.files import whole_file
from pipelines.store.store import Store

STORAGE_VERSION = "v1.0.0"  # what DuckDB drivers of the last years read


TEXTS = ("documents", "rejected", "examples")


TABLES = {
    **{
        name: f"SELECT * FROM {name}"  # noqa: S608
        for name in ("datasets", "steps", "lineage", "shards", "runs", "params", "metrics")
    },
    **{name: f"SELECT * FROM {name}" for name in ("evaluations", "predictions", "vocabulary", "samples")},  # noqa: S608
    "document_tokens": "SELECT dataset, doc_id, split, n_tokens, shard, start FROM tokens",
    "token_counts": """
        SELECT dataset, split, token_id, text, n
        FROM (SELECT dataset, split, token_id, count(*) AS n FROM tokens_flat GROUP BY ALL)
        JOIN vocabulary USING (dataset, token_id) ORDER BY dataset, split, n DESC""",
}


def export_catalog(
    store: Store, target: Path, mlflow_uri: str | None = None, datasets: Sequence[str] = (), copy_texts: bool = False
) -> dict[str, int]:
    """Write the catalog as a DuckDB file; one that is there already is replaced in one instant.

    Args:
        target: the file to write.
        datasets: versions to pin, as in `connect`.
        copy_texts: put the texts into the file, so that it can go elsewhere, rather than views of where they lie.

    Returns:
        Rows of each table and view.

    Raises:
        InputError: it cannot be written there.
    """
    catalog = Catalog(store, mlflow_uri, datasets)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as unfinished, catalog.connect(external_access=True) as connection:
            connection.execute(
                f"ATTACH {literal(str(unfinished))} AS file (STORAGE_VERSION {literal(STORAGE_VERSION)})"
            )
            for name, query in TABLES.items():
                connection.execute(f"CREATE TABLE file.{name} AS {query}")
            for name in TEXTS:
                if copy_texts:
                    connection.execute(f"CREATE TABLE file.{name} AS SELECT * FROM main.{name}")  # noqa: S608
                else:
                    connection.execute(f"CREATE VIEW file.{name} AS {_over_parquet(catalog, VIEWS[name])}")
            rows = {name: _count(connection, f"file.{name}") for name in (*TABLES, *TEXTS)}
            connection.execute("DETACH file")
        return rows
    except (OSError, duckdb.IOException) as error:
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise InputError(f"{target} cannot be written ({why}); name another file.") from None


def _over_parquet(catalog: Catalog, view: View) -> str:
    """A view's query on the Parquet files themselves."""

    def read(label: str, dataset: Dataset) -> str:
        paths = [str((dataset.path / name).absolute()) for name in files_of(dataset, view.files)]
        facts = "".join(f", {literal(fact(dataset.manifest))} AS {quoted(name)}" for name, fact in view.facts.items())
        files = f"[{', '.join(literal(path) for path in paths)}]"
        return f"SELECT {literal(label)} AS dataset, *{facts} FROM read_parquet({files}, union_by_name = true)"  # noqa: S608

    branches = [view.empty_query] + [
        read(label, dataset)
        for kind in view.kinds
        for label, dataset in catalog.shown.get(kind, {}).items()
        if files_of(dataset, view.files)
    ]
    return " UNION ALL BY NAME ".join(branches)


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])  # noqa: S608
