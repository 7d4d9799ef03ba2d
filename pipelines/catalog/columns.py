"""Columns of the catalog's tables: written as in CREATE TABLE, read as Arrow's schema."""

import pyarrow as pa

from pipelines.store.kinds import parse_columns

TYPES = {
    "BIGINT": pa.int64(),
    "BIGINT[]": pa.list_(pa.int64()),
    "BLOB": pa.binary(),
    "BOOLEAN": pa.bool_(),
    "BOOLEAN[]": pa.list_(pa.bool_()),
    "DOUBLE": pa.float64(),
    "INTEGER": pa.int32(),
    "INTEGER[]": pa.list_(pa.int32()),
    "JSON": pa.json_(pa.string()),
    "TIMESTAMPTZ": pa.timestamp("ms", tz="UTC"),
    "UINTEGER": pa.uint32(),
    "USMALLINT[]": pa.list_(pa.uint16()),
    "VARCHAR": pa.string(),
    "VARCHAR[]": pa.list_(pa.string()),
}


def arrow_schema(columns: str) -> pa.Schema:
    """Return the schema of columns such as `run_id VARCHAR, step BIGINT`."""
    return pa.schema([(name, TYPES[type]) for name, type in parse_columns(columns).items()])
