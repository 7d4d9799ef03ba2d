"""Numbers as a person reads them."""

from __future__ import annotations


def short(number: float) -> str:
    """A number in three digits or so: 12.3k, 4.56M, 0.0025."""
    for limit, divisor, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(number) >= limit:
            return f"{number / divisor:,.3g}{suffix}"
    return f"{number:,.0f}" if abs(number) >= 100 or number == int(number) else f"{number:.3g}"
