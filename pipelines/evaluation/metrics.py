"""The definition of a metric, which its value, its interval and its comparison between two models share.

A metric is a function of sums over items. A mean is a sum over a count, F1 is a ratio of sums of hits and errors, and
chrF is a function of sums of matching n-grams. A resample of the items then only weights rows before they are summed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]


Values = Sequence[Any] | NDArray[Any]
"""N values, one an item."""


@dataclass(frozen=True)
class Measure:
    """A metric of N items.

    Attributes:
        rows: (N, K) quantities of each item, or a function from weights (R, N) of the items to sums (R, K).
        of_sums: (..., K) sums over items to (...) values of the metric.
        scale: a growing function from the metric of the sums to the value that is shown.
        exact: the value, if the rows do not give it to the last digit.
        each: (N,) the metric of each item alone, NaN where it has none.
    """

    rows: Rows | Callable[[Rows], Rows]
    of_sums: Callable[[Rows], Rows]
    scale: Callable[[float], float] = float
    exact: float = math.nan
    each: Rows | None = None

    @property
    def value(self) -> float:
        """The metric of all items."""
        if callable(self.rows) or not math.isnan(self.exact):
            return self.exact
        return self.scale(float(self.of_sums(self.rows.sum(0))))


@dataclass(frozen=True)
class Metric:
    """The definition of a metric.

    Attributes:
        measure: the metric of items from their columns, which is None if it has no meaning for them.
        columns: the names of the columns.
        title: its name for people, if its key in the table does not give it.
        lower_is_better: whether a lower value is better.
        right_or_wrong: whether each item is right or wrong, and the metric is the share of right ones.
        per_token: whether its values depend on the tokenizer.
    """

    measure: Callable[..., Measure | None] = lambda: None
    columns: tuple[str, ...] = ()
    title: str = ""
    lower_is_better: bool = False
    right_or_wrong: bool = False
    per_token: bool = False


def measures(metrics: Mapping[str, Metric], items: Mapping[str, Any]) -> dict[str, Measure]:
    """Return the metrics whose columns the items have, and which have a meaning for them, by name."""
    wanted = {name: each for name, each in metrics.items() if set(each.columns) <= set(items)}
    found = {name: each.measure(*map(items.get, each.columns)) for name, each in wanted.items()}
    return {name: measure for name, measure in found.items() if measure}


def columns(*values: Values) -> Rows:
    """Return (N, K) rows of K quantities, (N,) each."""
    return np.stack(values, 1).astype(np.float64)


def ratio_of(part: Values, whole: Values) -> Measure:
    """Measure one sum over another. Both quantities are (N,); 0 over nothing is 0."""
    rows = columns(part, whole)
    return Measure(rows, lambda sums: share(sums[..., 0], sums[..., 1]), each=share(*rows.T))


def mean_of(values: Values) -> Measure:
    """Measure the mean of the values (N,). NaN means that an item has none and does not count."""
    each = np.array(values, float)
    known = ~np.isnan(each)
    return replace(ratio_of(np.where(known, each, 0), known), each=each)


def share(part: NDArray[Any], whole: NDArray[Any]) -> Rows:
    """Return part / whole, and 0 where the whole is 0."""
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
