"""The value of a cell of a table as the text or the label that it means."""

import math
from datetime import date, time
from decimal import Decimal
from typing import Any

from pipelines.corpus.documents import normalise

MAX_LABEL = 10_000  # characters; a longer label is a text

EDGES = "\ufeff\u200b\u200c\u200d\u2060"  # signs without width, which are no white space


def is_missing(value: Any) -> bool:
    """Return whether a value is null, or NaN, as which pandas writes null."""
    return value is None or (isinstance(value, float | Decimal) and math.isnan(value))


def text_of(value: Any, name: str) -> str:
    """Return a value as text: numbers and dates as they are written, null and NaN as an empty text.

    Args:
        value: the value.
        name: its column.

    Raises:
        ValueError: the value is not a single one.
    """
    if is_missing(value):
        return ""
    if isinstance(value, bool):
        return str(value).lower()  # as JSON and YAML write it
    if not isinstance(value, str | int | float | Decimal | date | time):
        raise ValueError(f"column {name!r} holds {type(value).__name__}, not text")
    return normalise(str(value))


def label_of(value: Any, name: str) -> str:
    """Return a value as a label: 1 and 1.0 are one label, and signs without width around it are left out.

    Raises:
        ValueError: the value is not a single one, or it is as long as a text.
    """
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        value = int(value)
    label = text_of(value, name)
    while label != (inner := label.strip(EDGES).strip()):
        label = inner
    if len(label) > MAX_LABEL:
        raise ValueError(f"column {name!r} holds a label of {len(label):,} characters; there may be {MAX_LABEL:,}")
    return label
