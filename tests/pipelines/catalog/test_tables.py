"""The store itself as tables."""

from __future__ import annotations

from typing import Any

import duckdb


def rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query).fetchall()


def test_lineage_reaches_source_files(catalog: duckdb.DuckDBPyConnection) -> None:
    query = (
        "SELECT input_kind, distance, role FROM lineage WHERE output_kind = 'evaluation' AND output LIKE '%/small@%'"
    )
    assert sorted(rows(catalog, query), key=lambda row: row[1:]) == [
        ("corpus", 1, "corpus"),
        ("model", 1, "model"),
        ("samples", 2, "samples"),
        ("source", 2, "source"),
        ("tokens", 2, "tokens"),
    ]


def test_datasets_and_manifests_agree(catalog: duckdb.DuckDBPyConnection) -> None:
    assert rows(
        catalog, "SELECT count(*) FROM datasets JOIN manifests USING (ref) WHERE manifest->>'digest' = digest"
    ) == [(8,)]
    assert rows(catalog, "SELECT inputs[1] LIKE 'corpus/scripture@%' FROM steps WHERE step = 'make-tokens'") == [
        (True,)
    ]
