"""Numbers as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def short(number: float) -> str:
    """Format a number with about three digits: 12.3k, 4.56M, 0.0025."""
    for limit, divisor, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(number) >= limit:
            return f"{number / divisor:,.3g}{suffix}"
    return f"{number:,.0f}" if abs(number) >= 100 or number == int(number) else f"{number:.3g}"


def counts(statistics: Mapping[str, Any], most: int = 6) -> str:
    """Format the first few statistics that have no `/` in their names as one phrase."""
    plain = [(k, v) for k, v in statistics.items() if isinstance(v, int | float) and "/" not in k][:most]
    return ", ".join(f"{short(value)} {key.replace('_', ' ')}" for key, value in plain)
