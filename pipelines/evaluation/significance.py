"""Measures of items with bootstrap intervals, and paired tests of two models on the same items.

A measure is a function of sums over items. A mean is a sum over a count, F1 is a ratio of sums of hits and errors, and
chrF is a function of sums of matching n-grams. A resample of the items then only weights rows before they are summed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]


OfSums = Callable[[Rows], Rows]
"""(..., K) sums of K quantities over items to (...) values of a metric."""


RESAMPLES = 10_000


LEVEL = 0.95


@dataclass(frozen=True)
class Measure:
    """A metric of N items, as a function of sums over the items.

    Attributes:
        rows: (N, K) quantities of each item. None gives `of_sums` the weights (R, N) of the items themselves.
        of_sums: the metric of the sums of the rows.
        scale: a growing function from the metric of the sums to the value that is shown.
        exact: the value, if the rows do not give it to the last digit.
        each: (N,) the metric of each item alone, NaN where it has none.
    """

    rows: Rows | None
    of_sums: OfSums
    scale: Callable[[float], float] | None = None
    exact: float = math.nan
    each: Rows | None = None

    @property
    def value(self) -> float:
        """The metric of all items."""
        if self.rows is None or not math.isnan(self.exact):
            return self.exact
        value = float(self.of_sums(self.rows.sum(0)))
        return self.scale(value) if self.scale else value


def columns(*values: Sequence[float] | NDArray[Any]) -> Rows:
    """Return (N, K) rows of K quantities, (N,) each."""
    return np.stack(values, 1).astype(np.float64)


def ratio_of(part: Sequence[float] | NDArray[Any], whole: Sequence[float] | NDArray[Any]) -> Measure:
    """Measure one sum over another. Both quantities are (N,); 0 over nothing is 0."""
    rows = columns(part, whole)
    return Measure(rows, lambda sums: share(sums[..., 0], sums[..., 1]), each=share(*rows.T))


def mean_of(values: Sequence[float] | NDArray[Any]) -> Measure:
    """Measure the mean of the values (N,). NaN means that an item has none and does not count."""
    each = np.array(values, float)
    known = ~np.isnan(each)
    return replace(ratio_of(np.where(known, each, 0), known), each=each)


def share(part: Rows, whole: Rows) -> Rows:
    """Return part / whole, and 0 where the whole is 0."""
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


# Intervals


@dataclass(frozen=True)
class Interval:
    """A value and its range in 95% of resamples of the items (percentile bootstrap, Efron 1979)."""

    value: float
    low: float
    high: float


def intervals(measures: Mapping[str, Measure], most: int = RESAMPLES) -> dict[str, Interval]:
    """Return the value of each measure of the same items, with its interval.

    Args:
        measures: by name. At least one has rows.
        most: number of resamples; fewer are drawn of very many items.
    """
    n = next(len(measure.rows) for measure in measures.values() if measure.rows is not None)
    drawn = [resampled(measures, weights) for weights in resamples(n, most=most)]
    found = {}
    for name, measure in measures.items():
        scale = measure.scale or float
        low, high = ends(np.concatenate([each[name] for each in drawn]))
        found[name] = Interval(measure.value, scale(low), scale(high))
    return found


def resampled(measures: Mapping[str, Measure], weights: Rows) -> dict[str, Rows]:
    """Return the values (R,) of each measure in R resamples, before `scale`.

    Args:
        measures: by name. Those that share their rows are summed once.
        weights: (R, N) how often each item is drawn.
    """
    rows = {id(measure.rows): measure.rows for measure in measures.values()}
    sums = {key: weights if each is None else weights @ each for key, each in rows.items()}
    return {name: measure.of_sums(sums[id(measure.rows)]) for name, measure in measures.items()}


def resamples(n: int, seed: int = 0, most: int = RESAMPLES) -> Iterator[Rows]:
    """Yield how often each of n items is drawn, (R, N), for all resamples in portions."""
    rng = np.random.default_rng(seed)
    left = int(np.clip(2e8 / n, 1000, most))
    while left:
        some = min(left, max(1, int(1e6 / n)))
        drawn = rng.integers(0, n, (some, n)) + n * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * n).reshape(some, n).astype(np.float64)
        left -= some


def ends(drawn: Rows) -> tuple[float, float]:
    """Return the ends of the interval of resampled values (R,). NaN marks resamples without a value."""
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


# Paired tests


@dataclass(frozen=True)
class Paired:
    """A metric of two systems on the same items, and second minus first with its two-sided p-value."""

    first: Interval
    second: Interval
    difference: Interval
    p: float


def paired_bootstrap(first: Mapping[str, Measure], second: Mapping[str, Measure], seed: int = 0) -> dict[str, Paired]:
    """Run the paired bootstrap test (Koehn 2004): both systems are summed over the same resampled items.

    p is twice the share of resamples in which the difference has the other sign or none.

    Args:
        first, second: measures of the same items by name. Names that only one has are left out.
        seed: seed of the resamples.
    """
    n = next(len(measure.rows) for measure in first.values() if measure.rows is not None)
    drawn = [(resampled(first, weights), resampled(second, weights)) for weights in resamples(n, seed)]
    found = {}
    for name, measure in first.items():
        if name not in second:
            continue
        a, b = (_scaled(measure, np.concatenate([pair[i][name] for pair in drawn])) for i in (0, 1))
        difference = b - a
        tail = min(int((difference <= 0).sum()), int((difference >= 0).sum()))
        values = measure.value, second[name].value
        found[name] = Paired(
            Interval(values[0], *ends(a)),
            Interval(values[1], *ends(b)),
            Interval(values[1] - values[0], *ends(difference)),
            min(1.0, 2 * (tail + 1) / (len(difference) + 1)),
        )
    return found


def _scaled(measure: Measure, values: Rows) -> Rows:
    return np.array([measure.scale(value) for value in values.tolist()]) if measure.scale else values


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the exact two-sided p-value of McNemar's test (1947).

    The test asks whether the items that only one system gets right are split evenly between the systems.

    Args:
        first, second: (N,) whether each system got each item right.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if not only_first + only_second:
        return 1.0
    from scipy.stats import binomtest  # takes half a second, and most callers need no test

    return float(binomtest(only_first, only_first + only_second).pvalue)
