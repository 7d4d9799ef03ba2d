"""Numbers as a person reads them."""

from collections.abc import Mapping
from typing import Any


def short(number: float) -> str:
    """Return a number in about three digits: 12.3k, 4.56M, 0.0025."""
    for limit, divisor, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(number) >= limit:
            return f"{number / divisor:,.3g}{suffix}"
    return f"{number:,.0f}" if abs(number) >= 100 or number == int(number) else f"{number:.3g}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 dataset, 1,200 datasets."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def size(n_bytes: float) -> str:
    """Return a number of bytes with a unit: 512 B, 12.3 KB, 4.6 MB."""
    for divisor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if n_bytes >= divisor:
            return f"{n_bytes / divisor:.1f} {unit}"
    return f"{n_bytes:.0f} B"


def duration(seconds: float) -> str:
    """Return a time with a unit: 95 s, 12 min, 3.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def p_value(p: float) -> str:
    """Return a p-value with its letter: p = 0.012, p < 0.001."""
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def counts(statistics: Mapping[str, Any], most: int = 6) -> str:
    """Format the first few statistics that have no `/` in their names as one phrase."""
    plain = [(k, v) for k, v in statistics.items() if isinstance(v, int | float) and "/" not in k][:most]
    return ", ".join(
        f"{short(value)} {_singular(key) if value == 1 else key}".replace("_", " ") for key, value in plain
    )


def _singular(key: str) -> str:
    """Return the name of a statistic for the number 1: document_train for documents_train."""
    noun, underscore, rest = key.partition("_")
    return f"{noun if noun.endswith('ss') else noun.removesuffix('s')}{underscore}{rest}"
