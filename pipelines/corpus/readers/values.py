"""Arrow's values as Python objects, also those that Python has no object for, such as a date before year 1."""

from typing import Any

import pyarrow as pa

# What pyarrow raises where Python has no such value.
OUTSIDE = (ValueError, OverflowError, TypeError, pa.ArrowException)


def to_python(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return the rows of a batch. A value outside Python's types is the text that Arrow has for it."""
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except OUTSIDE:
        columns = [_values(column) for column in batch.columns]
        rows = [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]
    return rows


def _values(column: pa.Array) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except OUTSIDE:
        values = [_value(scalar) for scalar in column]
    return values


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except OUTSIDE:
        if isinstance(scalar, pa.StructScalar):
            return {name: _value(field) for name, field in scalar.items()}
        if isinstance(scalar, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar):  # a map is a list too
            return [_value(each) for each in scalar.values]
    try:
        return scalar.cast(pa.string()).as_py()
    except OUTSIDE:
        return str(scalar)
