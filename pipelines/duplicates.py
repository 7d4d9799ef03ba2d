"""Duplicates: documents that are the same text, found out of core by DuckDB, of which the first one stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

MEMORY = "256MB"

# Of each text the place of the first document stays, a part's number in the high bits.
EXACT = """
    WITH placed AS (SELECT doc_id, part, file_row_number AS row FROM ids JOIN parts USING (filename)),
    firsts AS (
        SELECT doc_id, min((part::BIGINT << 40) + row) AS first FROM placed GROUP BY doc_id HAVING count(*) > 1
    )
    SELECT part, row, 'exact duplicate' AS reason, doc_id AS kept, 1.0::DOUBLE AS similarity
    FROM placed JOIN firsts USING (doc_id)
    WHERE (part::BIGINT << 40) + row > first
    ORDER BY part, row
"""


def connect(scratch: Path) -> duckdb.DuckDBPyConnection:
    """A DuckDB that spills to a folder before it takes much memory, and whose results do not depend on threads."""
    database = duckdb.connect()
    database.execute(f"SET memory_limit = '{MEMORY}'; SET temp_directory = '{scratch / 'spill'}'; SET threads = 2")
    return database


def find_exact(files: Sequence[Path], scratch: Path) -> Path:
    """Find documents of equal id; writes a table (part, row, reason, kept, similarity) of those to drop.

    Args:
        files: Parquet files with a column `doc_id`, in the order in which the first of equal documents is kept.
        scratch: where the table and whatever does not fit into memory is written.
    """
    target = scratch / "duplicates.parquet"
    database = connect(scratch)
    database.execute("CREATE TEMP TABLE parts (part INTEGER, filename VARCHAR)")
    database.executemany("INSERT INTO parts VALUES (?, ?)", [[number, str(path)] for number, path in enumerate(files)])
    database.read_parquet([str(path) for path in files], filename=True, file_row_number=True).create_view("ids")
    database.sql(EXACT).write_parquet(str(target), row_group_size=20_000)
    return target


def rows_to_drop(duplicates: Path, part: int) -> dict[int, dict[str, Any]]:
    """Row number -> what the table says of it, for one part."""
    table = pq.read_table(duplicates, filters=[("part", "==", part)])
    return {row.pop("row"): row for row in table.drop_columns(["part"]).to_pylist()}
