"""Corpora, token datasets and everything else that is published, through DuckDB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import InputError
from tokenmill.names import Name, find, open_home

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

    from pipelines.store.dataset import Dataset
    from pipelines.store.kinds import View
    from pipelines.store.manifest import Manifest


def catalog(*, datasets: Sequence[str] = (), home: str | Path | None = None) -> DuckDBPyConnection:
    """Open the catalog of a home: a DuckDB connection that reads published data and nothing else.

    Args:
        datasets: pins, such as `tokens@0123`, as `tokenmill sql --dataset` takes them.
        home: the home folder.
    """
    from pipelines.catalog import connect

    place = open_home(home)
    return connect(place.store, place.mlflow_uri, datasets)


def sql(query: str, *, datasets: Sequence[str] = (), home: str | Path | None = None) -> DuckDBPyRelation:
    """Return the answer to a query on the catalog: a relation, with `.df()`, `.to_arrow_table()`, `.fetchall()`.

    Args:
        query: one statement that reads.
        datasets: pins, as for `catalog`.
        home: the home folder.

    Raises:
        InputError: the query is wrong, or it writes.
    """
    import duckdb

    from flows.commands.answer import READ_ONLY
    from pipelines.catalog.catalog import explain_error

    connection = catalog(datasets=datasets, home=home)
    try:
        statements = connection.extract_statements(query)
        if len(statements) != 1 or statements[0].type.name not in READ_ONLY:
            raise InputError("`sql` takes one statement that reads, such as: select kind, name, version from datasets.")
        return connection.sql(statements[0])
    except duckdb.Error as error:
        raise InputError(explain_error(error, connection)) from None


def corpus(name: Name, *, home: str | Path | None = None) -> DuckDBPyRelation:
    """Return the documents of a corpus as a relation: doc_id, source, location, split, text, n_bytes and more.

    Args:
        name: `NAME`, `NAME@FINGERPRINT`, or a folder.
        home: the home folder.
    """
    from pipelines.store.kinds import DOCUMENTS

    return _rows(find(name, home, "corpus"), DOCUMENTS)


def tokens(name: Name, *, home: str | Path | None = None) -> DuckDBPyRelation:
    """Return the documents of a token dataset as a relation: doc_id, split, n_tokens, tokens, shard, start.

    Args:
        name: `NAME`, `NAME@FINGERPRINT`, or a folder.
        home: the home folder.
    """
    from pipelines.store.kinds import TOKENS

    return _rows(find(name, home, "tokens"), TOKENS)


def _rows(dataset: Dataset, view: View) -> DuckDBPyRelation:
    import duckdb

    from pipelines.catalog.views import rows_of

    return duckdb.connect().from_arrow(rows_of(dataset, view))


def manifest(name: Name, *, home: str | Path | None = None) -> Manifest:
    """Return the manifest of a dataset or model: its config, inputs, files and statistics.

    Args:
        name: `NAME`, `KIND/NAME`, a fingerprint or its first digits, or a folder.
        home: the home folder.
    """
    return find(name, home).manifest
